//! A fake memcached server. It imitates old versions and faulty servers, which the tests cannot
//! start as real processes. Some of these refuse a command after its first line, and then misread
//! the command's value as further commands. The fake does the same.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// The server that a [`FakeMemcached`] behaves like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// memcached before 1.5.16, which does not have meta commands.
    Memcached1_4,
    /// memcached 1.5.16 to 1.6.9, which expects the length of a value in a flag of `ms`. The
    /// library writes the length without a flag, so the fake refuses every `ms`.
    Memcached1_6_0,
    /// memcached 1.6.10 to 1.6.12, where `md` with a CAS removes nothing.
    Memcached1_6_10,
    /// A server that refuses every command, because the client has not sent a password.
    NeedsPassword,
    /// A server that answers reads but has no memory left for values.
    Full,
    /// A server that grants leases (the right to fetch a missing value), and answers `set`, `add`
    /// and `cas` as if another caller had changed the item.
    IgnoresWrites,
}

/// A fake memcached server on a loopback port. It runs until the test process ends.
#[derive(Debug)]
pub struct FakeMemcached {
    address: String,
    state: Arc<Mutex<ServerState>>,
}

#[derive(Debug, Default)]
struct ServerState {
    items: HashMap<String, (Vec<u8>, u64)>,
    cas: u64,
    lines: Vec<String>,
    connections: usize,
}

impl FakeMemcached {
    /// Starts a server on a free loopback port.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start(kind: ServerKind) -> FakeMemcached {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("the listener has an address").to_string();
        let state = Arc::new(Mutex::new(ServerState::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                lock(&shared).connections += 1;
                std::thread::spawn(move || serve(&stream, kind, &shared));
            }
        });
        FakeMemcached { address, state }
    }

    /// Returns the address as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Returns true if the server has an item under `key`.
    #[must_use]
    pub fn holds(&self, key: &str) -> bool {
        lock(&self.state).items.contains_key(key)
    }

    /// Returns every line that the server read as a command.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        lock(&self.state).lines.clone()
    }

    /// Returns how many connections were opened to the server.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock(&self.state).connections
    }
}

fn lock(state: &Mutex<ServerState>) -> MutexGuard<'_, ServerState> {
    state.lock().expect("no thread panics while it holds the lock")
}

fn serve(stream: &TcpStream, kind: ServerKind, state: &Mutex<ServerState>) -> Option<()> {
    let mut input = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        lock(state).lines.push(line.clone());
        let words: Vec<&str> = line.split(' ').collect();
        let value = match value_length(&words, kind) {
            Some(length) => {
                let mut value = vec![0; length + 2];
                input.read_exact(&mut value).ok()?;
                value.truncate(length);
                value
            }
            None => Vec::new(),
        };
        let answer = lock(state).answer(&words, value, kind);
        (&*stream).write_all(&answer).ok()?;
        (&*stream).write_all(b"\r\n").ok()?;
    }
}

/// Returns the length of the value that follows a command line, or `None` if no value follows.
fn value_length(words: &[&str], kind: ServerKind) -> Option<usize> {
    match (words, kind) {
        (_, ServerKind::NeedsPassword) => None,
        (["set" | "add" | "cas", _, _, _, length, ..], _) => length.parse().ok(),
        (
            ["ms", _, length, ..],
            ServerKind::Memcached1_6_10 | ServerKind::Full | ServerKind::IgnoresWrites,
        ) => length.parse().ok(),
        _ => None,
    }
}

impl ServerState {
    fn answer(&mut self, words: &[&str], value: Vec<u8>, kind: ServerKind) -> Vec<u8> {
        use ServerKind::{
            Full, IgnoresWrites, Memcached1_4, Memcached1_6_0, Memcached1_6_10, NeedsPassword,
        };
        let text = |text: &str| text.as_bytes().to_vec();
        match (words, kind) {
            (_, NeedsPassword) => text("CLIENT_ERROR unauthenticated"),
            (["version"], Memcached1_4) => text("VERSION 1.4.34"),
            (["version"], Memcached1_6_0) => text("VERSION 1.6.6"),
            (["version"], Memcached1_6_10) => text("VERSION 1.6.12"),
            (["version"], Full | IgnoresWrites) => text("VERSION 1.6.18"),
            (["set" | "add" | "cas", ..], IgnoresWrites) => text("EXISTS"),
            (["set" | "add" | "cas", ..], Full) => {
                text("SERVER_ERROR out of memory storing object")
            }
            (["set", key, ..], _) => self.store_if(true, key, value),
            (["add", key, ..], _) => {
                let is_free = !self.items.contains_key(*key);
                self.store_if(is_free, key, value)
            }
            (["cas", key, _, _, _, cas], _) => {
                let is_same = self.cas_of(key).is_some_and(|held| held.to_string() == *cas);
                self.store_if(is_same, key, value)
            }
            (["mg" | "ms" | "md" | "mn", ..], Memcached1_4) => text("ERROR"),
            (["mn"], _) => text("MN"),
            (["mg", key, flags @ ..], _) => self.read(key, flags),
            (["ms", ..], Memcached1_6_0) => text("CLIENT_ERROR invalid flag"),
            (["ms", key, _, flags @ ..], _) => {
                let cas = flags.iter().find_map(|flag| flag.strip_prefix('C'));
                let is_same = cas
                    .is_none_or(|cas| self.cas_of(key).is_some_and(|held| held.to_string() == cas));
                let answer_cas = if kind == Memcached1_6_10 { cas.unwrap_or("0") } else { "0" };
                match is_same {
                    true => {
                        self.store_if(true, key, value);
                        format!("HD c{}", self.cas).into_bytes()
                    }
                    false => format!("NF c{answer_cas}").into_bytes(),
                }
            }
            (["md", key, flags @ ..], _) => {
                let has_cas = flags.iter().any(|flag| flag.starts_with('C'));
                match self.items.contains_key(*key) {
                    false => text("NF"),
                    true if has_cas => text("EX"),
                    true => {
                        self.items.remove(*key);
                        text("HD")
                    }
                }
            }
            _ => text("ERROR"),
        }
    }

    fn cas_of(&self, key: &str) -> Option<u64> {
        self.items.get(key).map(|(_, cas)| *cas)
    }

    fn store_if(&mut self, is_stored: bool, key: &str, value: Vec<u8>) -> Vec<u8> {
        if is_stored {
            self.cas += 1;
            self.items.insert(key.to_owned(), (value, self.cas));
        }
        let answer = if is_stored { "STORED" } else { "NOT_STORED" };
        answer.as_bytes().to_vec()
    }

    fn read(&mut self, key: &str, flags: &[&str]) -> Vec<u8> {
        let asks_for_lease = flags.iter().any(|flag| flag.starts_with('N'));
        let is_new = !self.items.contains_key(key);
        if is_new && !asks_for_lease {
            return b"EN".to_vec();
        }
        if is_new {
            self.store_if(true, key, Vec::new());
        }
        let Some((value, cas)) = self.items.get(key) else { return b"EN".to_vec() };
        let lease_flag = if is_new { " W" } else { "" };
        let mut answer = format!("VA {} c{cas} t60{lease_flag}\r\n", value.len()).into_bytes();
        answer.extend_from_slice(value);
        answer
    }
}
