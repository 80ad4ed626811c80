//! The fingerprint of the running program: a hash of the file that holds its code.
//!
//! Two processes with the same fingerprint run the same build. Serde buffers some values while it
//! decodes them, for example untagged enums and structs with `flatten`. Processes share such a
//! value only if they run the same build; see
//! [`EncodedView::is_safe_to_read`](crate::encoded::EncodedView::is_safe_to_read).

use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;
use std::thread;

use tokio::sync::oneshot;

use crate::stable_hash::StableHasher;

/// The file is read in pieces of this size.
const PIECE_BYTES: u64 = 256 << 10;

static FINGERPRINT: OnceLock<Option<u64>> = OnceLock::new();

/// Returns the fingerprint, or `None` if it is not known yet or cannot be known.
pub(crate) fn fingerprint() -> Option<u64> {
    FINGERPRINT.get().copied().flatten()
}

/// Starts a thread that computes the fingerprint. The returned future completes when the thread has
/// ended. The caller need not await the future.
pub(crate) fn find_fingerprint() -> impl Future<Output = ()> {
    let (sender, receiver) = oneshot::channel::<()>();
    if FINGERPRINT.get().is_none() {
        let find = move || {
            FINGERPRINT.get_or_init(|| hash_own_file().ok());
            drop(sender);
        };
        let _ = thread::Builder::new().name("cached-program".into()).spawn(find);
    }
    async {
        let _ = receiver.await;
    }
}

/// Hashes the file that holds the program's code, eight bytes at a time.
///
/// The hash only tells builds apart, so it need not be cryptographic. Cryptographic hashes are slow
/// in a build without optimization.
fn hash_own_file() -> io::Result<u64> {
    let mut file = open_own_file()?;
    let mut hash = StableHasher::new(0);
    let mut piece = Vec::new();
    loop {
        piece.clear();
        if file.by_ref().take(PIECE_BYTES).read_to_end(&mut piece)? == 0 {
            return Ok(hash.finish());
        }
        let (words, rest) = piece.as_chunks();
        hash = words.iter().fold(hash, |hash, word| hash.hash(u64::from_le_bytes(*word)));
        hash = hash.bytes(rest);
    }
}

/// Opens the file that holds the code of this crate: the program, or a shared library that a
/// program in another language has loaded.
///
/// Since the process began, a deploy may have put another build under the same file name. So this
/// function returns only a file that `/proc` lists as mapped into the process's memory.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_own_file() -> io::Result<File> {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    let address = open_own_file as fn() -> io::Result<File> as usize;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mapping =
        maps.lines().find_map(|line| MemoryMapping::parse(line).filter(|m| m.contains(address)));
    let MemoryMapping { inode, path, .. } = mapping.ok_or(io::ErrorKind::NotFound)?;
    if std::fs::read_link("/proc/self/exe")? == Path::new(path) {
        // This link still leads to the program's own file after another file has taken its name.
        return File::open("/proc/self/exe");
    }
    let file = File::open(path)?;
    if file.metadata()?.ino() != inode {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(file)
}

/// On other systems, the standard library has no safe way to find the program's own file after
/// another file has taken its name.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open_own_file() -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// One line of `/proc/self/maps`: `start-end permissions offset device inode path`.
#[cfg(any(target_os = "linux", target_os = "android"))]
struct MemoryMapping<'l> {
    start: usize,
    end: usize,
    inode: u64,
    path: &'l str,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl<'l> MemoryMapping<'l> {
    fn parse(line: &'l str) -> Option<MemoryMapping<'l>> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let inode = fields.nth(3)?.parse().ok()?;
        let [start, end] = [start, end].map(|address| usize::from_str_radix(address, 16));
        let path = fields.next()?.trim_start();
        Some(MemoryMapping { start: start.ok()?, end: end.ok()?, inode, path })
    }

    fn contains(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fingerprint_is_known_after_it_was_awaited() {
        find_fingerprint().await;
        assert_eq!(fingerprint().is_some(), cfg!(any(target_os = "linux", target_os = "android")));
        find_fingerprint().await;
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_hashed_file_is_the_running_program() {
        use std::os::unix::fs::MetadataExt;

        let program = std::env::current_exe().expect("the program has a path");
        let expected = program.metadata().expect("the program's file exists");
        let found =
            open_own_file().and_then(|file| file.metadata()).expect("the file can be opened");
        assert_eq!((found.dev(), found.ino()), (expected.dev(), expected.ino()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_memory_mapping_is_parsed() {
        let line =
            "7f1c-7f2d r-xp 0000a000 08:01 1234                       /srv/a program (deleted)";
        let mapping = MemoryMapping::parse(line).expect("the line is a mapping");
        assert_eq!((mapping.inode, mapping.path), (1234, "/srv/a program (deleted)"));
        assert!(mapping.contains(0x7f1c) && !mapping.contains(0x7f2d));
        assert!(
            MemoryMapping::parse("7f1c-7f2d rw-p 00000000 00:00 0 ")
                .is_some_and(|m| m.path.is_empty())
        );
        assert!(MemoryMapping::parse("").is_none());
    }
}
