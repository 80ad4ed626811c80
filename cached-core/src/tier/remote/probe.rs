//! Finds out what a server is before anything is written to it.
//!
//! The server is asked for its version, and then to renew a lease that does not exist. It says that
//! there is none. An older one does not understand the question in one way or another, and takes the
//! two bytes of its value for a command that does nothing. What a server does is believed and not what
//! it says of its version: a proxy says anything.
//!
//! ```text
//! version                            VERSION 1.6.18
//! ms cached-core.probe 2 C1 T1 c     NF c0      not a CLIENT_ERROR (before 1.6.10), an ERROR
//! mn                                            (before 1.5.16) or NF c1 (before 1.6.13)
//! mn                                 MN
//! ```

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::command::Failure;

const QUESTION: &[u8] = b"version\r\nms cached-core.probe 2 C1 T1 c\r\nmn\r\nmn\r\n";

/// The longest answer that is looked at.
const LONGEST_ANSWER: usize = 2048;

/// Asks the server what it is.
///
/// # Errors
/// The failure says whether the server is lost or cannot be used.
pub(super) async fn probe(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<(), Failure> {
    stream.write_all(QUESTION).await.map_err(Failure::lost)?;
    let (mut answer, mut filled) = ([0; LONGEST_ANSWER], 0);
    loop {
        match stream.read(&mut answer[filled..]).await.map_err(Failure::lost)? {
            0 => return Err(Failure::lost("it closed the connection, or its answer has no end")),
            count => filled += count,
        }
        if let Some(verdict) = judge(&answer[..filled]) {
            return verdict;
        }
    }
}

/// Judges the server by its answer; `None` if there is not enough of it.
fn judge(answer: &[u8]) -> Option<Result<(), Failure>> {
    let mut lines = answer.split_inclusive(|&byte| byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\n")?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    });
    let version = lines.next()?;
    // A server that wants to know who asks says so to the first command and to no other.
    if version.starts_with(b"CLIENT_ERROR") || version.starts_with(b"SERVER_ERROR") {
        return Some(Err(refusal(version)));
    }
    let renewal = lines.next()?;
    let mut words = renewal.split(|&byte| byte == b' ');
    let is_renewed = matches!(words.next(), Some(b"NF" | b"EX" | b"NS" | b"HD"));
    // Before 1.6.13 a server answers with the CAS of the question, and no delete under a CAS works.
    if !is_renewed || words.any(|word| word == b"c1") {
        return Some(Err(too_old(version, renewal)));
    }
    Some(match lines.next()? {
        b"MN" => Ok(()),
        other => Err(too_old(version, other)),
    })
}

fn refusal(line: &[u8]) -> Failure {
    Failure::unusable(format_args!("it refuses every command (`{}`)", shown(line)))
}

fn too_old(version: &[u8], line: &[u8]) -> Failure {
    let version = match version.strip_prefix(b"VERSION ") {
        Some(version) => format!("memcached {}", shown(version)),
        None => "a server that does not tell its version".to_owned(),
    };
    Failure::unusable(format_args!(
        "it is {version} and does not understand what this library asks (`{}`); use memcached 1.6.13 or later",
        shown(line)
    ))
}

/// A line as it can stand in a log.
fn shown(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(&line[..line.len().min(80)]);
    line.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::remote::ErrorKind;

    #[test]
    fn a_server_is_judged_by_what_it_answers() {
        // The first three are what servers of those versions say.
        let good: [&[u8]; 4] = [
            b"VERSION 1.6.18\r\nNF c0\r\nMN\r\n",
            b"VERSION 1.5.22\r\nNF\r\nMN\r\n",
            b"ERROR\r\nNF c0\r\nMN\r\n",
            b"VERSION 1.6.18\r\nEX c0\r\nMN\r\n",
        ];
        for answer in good {
            assert_eq!(judge(answer), Some(Ok(())), "{}", shown(answer));
            for end in 0..answer.len() {
                assert_eq!(judge(&answer[..end]), None, "{}", shown(&answer[..end]));
            }
        }
        let bad: [&[u8]; 7] = [
            b"VERSION 1.4.34\r\nERROR\r\nERROR\r\nERROR\r\n",
            b"VERSION 1.5.22\r\nCLIENT_ERROR bad command line format\r\nMN\r\nMN\r\n",
            b"VERSION 1.6.6\r\nCLIENT_ERROR invalid flag\r\nEN\r\nEN\r\n",
            b"VERSION 1.6.12\r\nNF c1\r\nMN\r\n",
            b"VERSION 1.6.18\r\nNF c0\r\nERROR\r\n",
            b"CLIENT_ERROR unauthenticated\r\n",
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        ];
        for answer in bad {
            match judge(answer) {
                Some(Err(failure)) => assert_eq!(failure.kind, ErrorKind::Unusable),
                other => panic!("{other:?} of {}", shown(answer)),
            }
        }
    }
}
