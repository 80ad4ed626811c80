//! Tests the server on each new connection, before the connection is used.
//!
//! The probe asks for the version, and then tries to renew a lease (a caller's right to fetch a
//! missing value) that does not exist. A usable server replies that the lease does not exist. A
//! server that is too old does not understand the renewal. Such a server reads the two bytes of the
//! renewal's value, `mn`, as a command that does nothing, and replies `MN`. The probe relies on
//! this behaviour instead of the version text, because a proxy may make up that text.
//!
//! The server's statistics contain its process id, its clock and its uptime. From these numbers the
//! cache learns whether memcached was restarted between two connections. A server may refuse to
//! send statistics, or send none.
//!
//! ```text
//! command                            reply of a usable server
//! version                            VERSION 1.6.18
//! ms cached-core.probe 2 C1 T1 c     NF c0
//! mn                                 (none, because these bytes are the value)
//! stats                              STAT pid 7, STAT uptime 60, STAT time 1700000000, …, END
//! mn                                 MN
//! ```
//!
//! An older server replies to the renewal with `ERROR` (before 1.5.16), `CLIENT_ERROR` (1.5.16 to
//! 1.6.9) or `NF c1` (1.6.10 to 1.6.12).

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::cas::Incarnation;
use super::command::CommandError;

const REQUEST: &[u8] = b"version\r\nms cached-core.probe 2 C1 T1 c\r\nmn\r\nstats\r\nmn\r\n";

/// The initial capacity of the reply's buffer: memcached 1.6.18 sends 2,230 bytes.
const USUAL_REPLY_BYTES: usize = 4096;
/// The probe fails if the reply is longer than this.
const MAX_REPLY_BYTES: usize = 64 << 10;

/// A server's process, as described by the server's statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerProcess {
    /// Identifies one run of the server. It is [`Incarnation::UNKNOWN`] if the server does not send
    /// the statistics.
    pub(super) incarnation: Incarnation,
    /// How long the process has been running, in whole seconds.
    pub(super) uptime: Option<Duration>,
}

/// Tests the server, and returns the process that the server's statistics describe.
///
/// # Errors
/// The server does not answer, or this library cannot use the server.
pub(super) async fn probe(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<ServerProcess, CommandError> {
    stream.write_all(REQUEST).await.map_err(CommandError::unreachable)?;
    let mut reply = Vec::with_capacity(USUAL_REPLY_BYTES);
    loop {
        let count = stream.read_buf(&mut reply).await.map_err(CommandError::unreachable)?;
        if let Some(result) = judge(&reply) {
            return result;
        }
        if count == 0 {
            return Err(CommandError::unreachable(
                "it closed the connection before it had answered",
            ));
        }
        if reply.len() > MAX_REPLY_BYTES {
            return Err(CommandError::unreachable("an answer that never ends"));
        }
    }
}

/// Judges a reply: returns the server's process, or the reason why this library cannot use the
/// server. Returns `None` if the reply is incomplete.
fn judge(reply: &[u8]) -> Option<Result<ServerProcess, CommandError>> {
    let mut lines = reply.split_inclusive(|&byte| byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\n")?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    });
    let version = lines.next()?;
    // A server that requires authentication refuses the first command, and may not answer the other
    // commands.
    if version.starts_with(b"CLIENT_ERROR") || version.starts_with(b"SERVER_ERROR") {
        return Some(Err(refusal(version)));
    }
    let renewal = lines.next()?;
    let mut words = renewal.split(|&byte| byte == b' ');
    let is_understood = matches!(words.next(), Some(b"NF" | b"EX" | b"NS" | b"HD"));
    // A memcached before 1.6.13 replies `c1`, the CAS number in the renewal. The conditional
    // deletes of such a server do not work.
    if !is_understood || words.any(|word| word == b"c1") {
        return Some(Err(too_old(version, renewal)));
    }
    let mut statistics = ProcessStatistics::default();
    let end = lines.find(|line| !statistics.add(line))?;
    let is_end = end == b"END" || is_error(end);
    // `MN` here means that the server read the renewal's value as a command.
    if !is_end {
        return Some(Err(too_old(version, end)));
    }
    Some(match lines.next()? {
        b"MN" => Ok(statistics.process()),
        other => Err(too_old(version, other)),
    })
}

fn is_error(line: &[u8]) -> bool {
    [&b"ERROR"[..], b"CLIENT_ERROR", b"SERVER_ERROR"].iter().any(|error| line.starts_with(error))
}

/// The statistics that together identify one run of the server's process.
#[derive(Default)]
struct ProcessStatistics {
    process: Option<u64>,
    /// The server's clock, in seconds.
    now: Option<u64>,
    uptime_seconds: Option<u64>,
}

impl ProcessStatistics {
    /// Reads one line of the reply. Returns false if the line is not a statistic.
    fn add(&mut self, line: &[u8]) -> bool {
        let Some(statistic) = line.strip_prefix(b"STAT ") else { return false };
        let mut words = statistic.split(|&byte| byte == b' ');
        let number = match words.next() {
            Some(b"pid") => &mut self.process,
            Some(b"time") => &mut self.now,
            Some(b"uptime") => &mut self.uptime_seconds,
            _ => return true,
        };
        let digits = words.next().and_then(|digits| std::str::from_utf8(digits).ok());
        *number = digits.and_then(|digits| digits.parse().ok());
        true
    }

    fn process(&self) -> ServerProcess {
        let incarnation = match (self.process, self.now, self.uptime_seconds) {
            (Some(process), Some(now), Some(uptime)) => {
                Incarnation::new(process, now.saturating_sub(uptime))
            }
            _ => Incarnation::UNKNOWN,
        };
        ServerProcess { incarnation, uptime: self.uptime_seconds.map(Duration::from_secs) }
    }
}

fn refusal(line: &[u8]) -> CommandError {
    CommandError::unusable(format_args!("it refuses every command (`{}`)", loggable(line)))
}

fn too_old(version: &[u8], line: &[u8]) -> CommandError {
    let version = match version.strip_prefix(b"VERSION ") {
        Some(version) => format!("memcached {}", loggable(version)),
        None => "a server that hides its version".to_owned(),
    };
    CommandError::unusable(format_args!(
        "it is {version} and does not understand this library's commands (`{}`); use memcached 1.6.13 or later",
        loggable(line)
    ))
}

/// Returns the beginning of a line, without control characters, for a log.
fn loggable(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(&line[..line.len().min(80)]);
    line.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::remote::RemoteErrorKind;

    #[test]
    fn a_server_is_judged_by_its_replies() {
        let good: [&[u8]; 5] = [
            b"VERSION 1.6.18\r\nNF c0\r\nSTAT pid 7\r\nSTAT uptime 2\r\nEND\r\nMN\r\n",
            b"VERSION 1.5.22\r\nNF\r\nEND\r\nMN\r\n",
            b"ERROR\r\nNF c0\r\nERROR\r\nMN\r\n",
            b"VERSION 1.6.18\r\nEX c0\r\nSTAT version 1.6.18\r\nEND\r\nMN\r\n",
            b"VERSION 1.6.18\r\nNF c0\r\nSERVER_ERROR no statistics\r\nMN\r\n",
        ];
        for answer in good {
            let process =
                judge(answer).expect("the reply is complete").expect("the server is usable");
            assert_eq!(process.incarnation, Incarnation::UNKNOWN, "{}", loggable(answer));
            for end in 0..answer.len() {
                assert_eq!(judge(&answer[..end]), None, "{}", loggable(&answer[..end]));
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
                other => panic!("{other:?} for {}", loggable(answer)),
            }
        }
    }

    #[test]
    fn a_restarted_server_has_another_incarnation() {
        let incarnation = |process: u64, uptime: u64, now: u64| {
            let (begin, end) = ("VERSION 1.6.18\r\nNF c0\r\n", "STAT threads 4\r\nEND\r\nMN\r\n");
            let process =
                format!("STAT pid {process}\r\nSTAT uptime {uptime}\r\nSTAT time {now}\r\n");
            let answer = format!("{begin}{process}{end}");
            let judged = judge(answer.as_bytes()).expect("the reply is complete");
            judged.expect("the server is usable").incarnation
        };
        let first = incarnation(7, 2, 1_700_000_000);
        assert_eq!(incarnation(7, 100, 1_700_000_098), first);
        assert_ne!(first, Incarnation::UNKNOWN);
        assert_ne!(
            incarnation(8, 2, 1_700_000_000),
            first,
            "another process is another incarnation"
        );
        assert_ne!(
            incarnation(7, 2, 1_700_000_001),
            first,
            "a later start with the same process id is another incarnation"
        );
    }
}
