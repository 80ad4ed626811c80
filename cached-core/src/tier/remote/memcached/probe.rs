//! Finds out what a server is before anything is written to it.
//!
//! The server is asked for its version, and then to renew a lease that does not exist. It says that
//! there is none. An older one does not understand the question in one way or another, and takes the
//! two bytes of its value for a command that does nothing. What a server does is believed and not what
//! it says of its version: a proxy says anything.
//!
//! Its statistics say which process it is and when that was started, and so tell whether memcached was
//! started anew between two connections. They may be empty or refused.
//!
//! ```text
//! version                            VERSION 1.6.18
//! ms cached-core.probe 2 C1 T1 c     NF c0      not a CLIENT_ERROR (before 1.6.10), an ERROR
//! mn                                            (before 1.5.16) or NF c1 (before 1.6.13)
//! stats                              STAT pid 7, STAT uptime 60, STAT time 1700000000, …, END
//! mn                                 MN
//! ```

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::cas::Incarnation;
use super::command::CommandError;

const QUESTION: &[u8] = b"version\r\nms cached-core.probe 2 C1 T1 c\r\nmn\r\nstats\r\nmn\r\n";

/// The size of a first read: memcached 1.6.18 answers with 2,230 bytes.
const USUAL_ANSWER: usize = 4096;
/// The longest answer that is looked at.
const LONGEST_ANSWER: usize = 64 << 10;

/// Asks the server what it is. Returns which of its incarnations it is.
///
/// # Errors
/// The failure says whether the server is lost or cannot be used.
pub(super) async fn probe(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<Incarnation, CommandError> {
    stream.write_all(QUESTION).await.map_err(CommandError::lost)?;
    let mut answer = Vec::with_capacity(USUAL_ANSWER);
    loop {
        let count = stream.read_buf(&mut answer).await.map_err(CommandError::lost)?;
        if let Some(verdict) = judge(&answer) {
            return verdict;
        }
        if count == 0 || answer.len() > LONGEST_ANSWER {
            return Err(CommandError::lost("it closed the connection, or its answer has no end"));
        }
    }
}

/// Judges the server by its answer; `None` if there is not enough of it.
fn judge(answer: &[u8]) -> Option<Result<Incarnation, CommandError>> {
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
    let mut statistics = Statistics::default();
    let end = lines.find(|line| !statistics.takes(line))?;
    let is_end = end == b"END" || is_error(end);
    // Where `MN` comes first it took the value for a command.
    if !is_end {
        return Some(Err(too_old(version, end)));
    }
    Some(match lines.next()? {
        b"MN" => Ok(statistics.incarnation()),
        other => Err(too_old(version, other)),
    })
}

fn is_error(line: &[u8]) -> bool {
    [&b"ERROR"[..], b"CLIENT_ERROR", b"SERVER_ERROR"].iter().any(|error| line.starts_with(error))
}

/// What a server says of its process, as far as it does.
#[derive(Default)]
struct Statistics {
    process: Option<u64>,
    /// In seconds, by the server's own clock.
    now: Option<u64>,
    uptime: Option<u64>,
}

impl Statistics {
    /// Takes a line as one of the statistics; returns false if it is none.
    fn takes(&mut self, line: &[u8]) -> bool {
        let Some(statistic) = line.strip_prefix(b"STAT ") else { return false };
        let mut words = statistic.split(|&byte| byte == b' ');
        let number = match words.next() {
            Some(b"pid") => &mut self.process,
            Some(b"time") => &mut self.now,
            Some(b"uptime") => &mut self.uptime,
            _ => return true,
        };
        let digits = words.next().and_then(|digits| std::str::from_utf8(digits).ok());
        *number = digits.and_then(|digits| digits.parse().ok());
        true
    }

    fn incarnation(&self) -> Incarnation {
        match (self.process, self.now, self.uptime) {
            (Some(process), Some(now), Some(uptime)) => {
                Incarnation::new(process, now.saturating_sub(uptime))
            }
            _ => Incarnation::UNKNOWN,
        }
    }
}

fn refusal(line: &[u8]) -> CommandError {
    CommandError::unusable(format_args!("it refuses every command (`{}`)", shown(line)))
}

fn too_old(version: &[u8], line: &[u8]) -> CommandError {
    let version = match version.strip_prefix(b"VERSION ") {
        Some(version) => format!("memcached {}", shown(version)),
        None => "a server that does not tell its version".to_owned(),
    };
    CommandError::unusable(format_args!(
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
    use crate::tier::remote::memcached::RemoteErrorKind;

    #[test]
    fn a_server_is_judged_by_what_it_answers() {
        let good: [&[u8]; 5] = [
            b"VERSION 1.6.18\r\nNF c0\r\nSTAT pid 7\r\nSTAT uptime 2\r\nEND\r\nMN\r\n",
            b"VERSION 1.5.22\r\nNF\r\nEND\r\nMN\r\n",
            b"ERROR\r\nNF c0\r\nERROR\r\nMN\r\n",
            b"VERSION 1.6.18\r\nEX c0\r\nSTAT version 1.6.18\r\nEND\r\nMN\r\n",
            b"VERSION 1.6.18\r\nNF c0\r\nSERVER_ERROR no statistics\r\nMN\r\n",
        ];
        for answer in good {
            assert_eq!(judge(answer), Some(Ok(Incarnation::UNKNOWN)), "{}", shown(answer));
            for end in 0..answer.len() {
                assert_eq!(judge(&answer[..end]), None, "{}", shown(&answer[..end]));
            }
        }
        let bad: [&[u8]; 8] = [
            b"VERSION 1.4.34\r\nERROR\r\nERROR\r\nERROR\r\n",
            b"VERSION 1.5.22\r\nCLIENT_ERROR bad command line format\r\nMN\r\nMN\r\n",
            b"VERSION 1.6.6\r\nCLIENT_ERROR invalid flag\r\nEN\r\nEN\r\n",
            b"VERSION 1.6.12\r\nNF c1\r\nMN\r\n",
            b"VERSION 1.6.18\r\nNF c0\r\nEND\r\nERROR\r\n",
            b"VERSION 1.6.18\r\nNF c0\r\nMN\r\nEND\r\n",
            b"CLIENT_ERROR unauthenticated\r\n",
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        ];
        for answer in bad {
            match judge(answer) {
                Some(Err(failure)) => assert_eq!(failure.kind, RemoteErrorKind::Unusable),
                other => panic!("{other:?} of {}", shown(answer)),
            }
        }
    }

    #[test]
    fn a_server_that_was_started_anew_is_another() {
        let incarnation = |process: u64, uptime: u64, now: u64| {
            let (begin, end) = ("VERSION 1.6.18\r\nNF c0\r\n", "STAT threads 4\r\nEND\r\nMN\r\n");
            let process =
                format!("STAT pid {process}\r\nSTAT uptime {uptime}\r\nSTAT time {now}\r\n");
            let answer = format!("{begin}{process}{end}");
            judge(answer.as_bytes()).expect("it is whole").expect("it is fit")
        };
        let first = incarnation(7, 2, 1_700_000_000);
        assert_eq!(incarnation(7, 100, 1_700_000_098), first);
        assert_ne!(first, Incarnation::UNKNOWN);
        assert_ne!(incarnation(8, 2, 1_700_000_000), first, "another process");
        assert_ne!(incarnation(7, 2, 1_700_000_001), first, "a later one, as in a container");
    }
}
