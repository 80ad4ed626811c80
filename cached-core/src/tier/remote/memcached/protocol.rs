//! memcached's text protocol: commands as bytes, lines of answers as replies. It knows no sockets.
//! The only module that names the memcache crate, whose client is marked experimental.
//!
//! Reads, deletes and renewals are *meta* commands. Writes are not: `set`, `add` and `cas` are known to
//! every memcached there ever was, and every one takes the bytes after them for a value, also where it
//! refuses them. A server that does not know `ms`, or knows another form of it, reads the value as
//! commands.

use std::time::Instant;

use memcache::exp::{Error, MetaResponse};

use super::cas::Incarnation;
use super::command::{Command, CommandError, ReadAnswer, Reply};
use super::{Cas, Condition};

/// The largest item that a memcached can be told to take.
pub(super) const LONGEST_FRAME: usize = 1 << 30;

/// The first line of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AnswerLine {
    code: Code,
    /// The length of the frame that follows.
    pub(super) frame_length: Option<usize>,
    read: ReadAnswer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    /// `VA` and `HD`: a meta command took effect.
    Done,
    /// `STORED`: a write took effect.
    Stored,
    /// `EN`: there is nothing to read.
    Miss,
    /// A condition did not hold.
    NotDone,
    /// `MN`: nothing was asked.
    NothingAsked,
}

/// A line that is not an answer to a command.
pub(super) struct ErrorLine {
    pub(super) failure: CommandError,
    /// True if the server has read the whole command, its value included, and answers the next one.
    pub(super) is_in_step: bool,
}

impl From<CommandError> for ErrorLine {
    fn from(failure: CommandError) -> ErrorLine {
        ErrorLine { failure, is_in_step: false }
    }
}

impl ErrorLine {
    fn parse(line: &[u8]) -> ErrorLine {
        match MetaResponse::parse_header(line) {
            Ok(_) => CommandError::out_of_step().into(),
            Err(Error::Server(why)) => {
                let failure = match why.contains("too large") {
                    true => CommandError::too_large(why),
                    false => CommandError::refused(why),
                };
                ErrorLine { failure, is_in_step: true }
            }
            // A server that did not understand a command may take its value for commands.
            Err(Error::Rejected(why)) => CommandError::refused(why).into(),
            Err(error) => CommandError::lost(error).into(),
        }
    }
}

impl AnswerLine {
    /// Parses a line without its line feed.
    pub(super) fn parse(line: &[u8]) -> Result<AnswerLine, ErrorLine> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        let (code, has_frame) = match words.next() {
            Some(b"VA") => (Code::Done, true),
            Some(b"HD") => (Code::Done, false),
            Some(b"EN") => (Code::Miss, false),
            Some(b"STORED") => (Code::Stored, false),
            Some(b"MN") => (Code::NothingAsked, false),
            Some(b"EX" | b"NF" | b"NS" | b"EXISTS" | b"NOT_FOUND" | b"NOT_STORED") => {
                (Code::NotDone, false)
            }
            _ => return Err(ErrorLine::parse(line)),
        };
        let unreadable = || CommandError::lost("an answer that is not in its protocol");
        let frame_length = match has_frame {
            true => {
                let length = words.next().and_then(parse_number);
                let length = length.and_then(|length| usize::try_from(length).ok());
                Some(length.filter(|&length| length <= LONGEST_FRAME).ok_or_else(unreadable)?)
            }
            false => None,
        };
        let mut read = ReadAnswer::default();
        for word in words {
            match word {
                [b'c', cas @ ..] => read.cas = Some(parse_number(cas).ok_or_else(unreadable)?),
                b"t-1" => read.ttl = None,
                [b't', ttl @ ..] => read.ttl = Some(parse_number(ttl).ok_or_else(unreadable)?),
                b"W" => read.won = true,
                b"Z" => read.busy = true,
                b"X" => read.given_back = true,
                _ => {}
            }
        }
        Ok(AnswerLine { code, frame_length, read })
    }

    /// The reply to `command` that the line means, with what follows it.
    pub(super) fn reply(
        self,
        following: &[u8],
        command: &Command,
        sent: Instant,
        incarnation: Incarnation,
    ) -> Result<Reply, CommandError> {
        let AnswerLine { mut code, frame_length, mut read } = self;
        if code == Code::NothingAsked && command.has_foreign_cas(incarnation) {
            code = Code::NotDone;
        }
        let frame = match (frame_length, following) {
            (None, []) => None,
            (Some(length), whole) if whole.get(length..) == Some(b"\r\n") => Some(&whole[..length]),
            _ => return Err(CommandError::lost("an answer of another length than it says")),
        };
        match (command, code, frame) {
            (&Command::Read { lease, .. }, Code::Done, Some(frame)) => {
                read.frame = Some(frame.to_vec());
                Ok(Reply::Found(read.found(lease, sent, incarnation)))
            }
            (&Command::Read { lease, .. }, Code::Miss, None) => {
                Ok(Reply::Found(read.found(lease, sent, incarnation)))
            }
            (Command::Write { .. }, Code::Stored, None) => Ok(Reply::Applied(true)),
            (Command::Write { .. }, Code::NotDone, None) => Ok(Reply::Applied(false)),
            (Command::Renew { .. }, Code::Done | Code::NotDone, None) => {
                let number = read.cas.filter(|_| code == Code::Done);
                Ok(Reply::Renewed(number.map(|number| Cas { number, of: incarnation })))
            }
            (
                Command::Delete { .. } | Command::ReleaseRefresh { .. },
                Code::Done | Code::NotDone,
                None,
            ) => Ok(Reply::Applied(code == Code::Done)),
            _ => Err(CommandError::out_of_step()),
        }
    }
}

/// Appends a command as it travels to a server of this incarnation. Its key must be of an alphabet and a
/// length that memcached takes as they are. In place of a command under another incarnation's CAS goes
/// one that asks for nothing, so that the answers stay in order.
pub(super) fn write_command(command: &Command, incarnation: Incarnation, into: &mut Vec<u8>) {
    if command.has_foreign_cas(incarnation) {
        return into.extend_from_slice(b"mn\r\n");
    }
    let name = match command {
        Command::Read { .. } => "mg ",
        Command::Write { condition: Condition::Absent, .. } => "add ",
        Command::Write { condition: Condition::Unchanged(_), .. } => "cas ",
        Command::Write { condition: Condition::Always, .. } => "set ",
        Command::Renew { .. } => "ms ",
        Command::Delete { .. } | Command::ReleaseRefresh { .. } => "md ",
    };
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(command.key().as_bytes());
    match command {
        Command::Read { lease, .. } => {
            into.extend_from_slice(b" v c t");
            if let Some(lease) = lease {
                write_number(into, b" N", lease.seconds);
                if lease.claim_below_seconds > 0 {
                    write_number(into, b" R", lease.claim_below_seconds);
                }
            }
        }
        Command::Write { frame, seconds, condition, .. } => {
            // The first number is flags that nobody uses.
            write_number(into, b" 0 ", *seconds);
            write_number(into, b" ", frame.len() as u64);
            if let Condition::Unchanged(cas) = condition {
                write_number(into, b" ", cas.number);
            }
            into.extend_from_slice(b"\r\n");
            into.extend_from_slice(frame);
        }
        Command::Renew { marker, seconds, cas, .. } => {
            write_number(into, b" ", marker.len() as u64);
            write_number(into, b" T", *seconds);
            write_number(into, b" C", cas.number);
            into.extend_from_slice(b" c\r\n");
            into.extend_from_slice(marker);
        }
        Command::Delete { unchanged: Some(cas), .. } => write_number(into, b" C", cas.number),
        Command::Delete { unchanged: None, .. } => {}
        Command::ReleaseRefresh { cas, .. } => write_number(into, b" I C", cas.number),
    }
    into.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal, after its name. A formatter takes ten times as long, as a parser does
/// for [`parse_number`].
fn write_number(into: &mut Vec<u8>, name: &[u8], number: impl Into<u64>) {
    let (mut digits, mut at, mut rest) = ([0; 20], 20, number.into());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    into.extend_from_slice(name);
    into.extend_from_slice(&digits[at..]);
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    let add = |number: u64, digit: &u8| {
        let digit = digit.wrapping_sub(b'0');
        let number = number.checked_mul(10)?.checked_add(digit.into())?;
        (digit < 10).then_some(number)
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn numbers_are_written_and_read_as_decimals() {
        for number in [0, 9, 10, 255, 4_294_967_295, u64::MAX] {
            let mut written = Vec::new();
            write_number(&mut written, b" C", number);
            assert_eq!(written, format!(" C{number}").as_bytes());
            assert_eq!(parse_number(&written[2..]), Some(number));
        }
        for text in ["", "-1", "+1", "1x", ":", "18446744073709551616", "99999999999999999999"] {
            assert_eq!(parse_number(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_value_travels_only_behind_a_command_that_every_memcached_knows() {
        let conditions = [Condition::Absent, Condition::Unchanged(7.into()), Condition::Always];
        let expected: [&[u8]; 3] = [
            b"add key 0 60 3\r\na\r\n\r\n",
            b"cas key 0 60 3 7\r\na\r\n\r\n",
            b"set key 0 60 3\r\na\r\n\r\n",
        ];
        for (condition, expected) in conditions.into_iter().zip(expected) {
            let frame = b"a\r\n"[..].into();
            let mut written = Vec::new();
            let write = Command::Write { key: "key".into(), frame, seconds: 60, condition };
            write_command(&write, Incarnation::UNKNOWN, &mut written);
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn a_cas_is_shown_to_the_incarnation_alone_that_gave_it() {
        let [mine, other] = [8, 9].map(|started| Incarnation::new(1, started));
        let cas = Cas { number: 7, of: mine };
        let (key, sent): (Arc<str>, _) = ("key".into(), Instant::now());
        let commands = [
            Command::Write {
                key: Arc::clone(&key),
                frame: b"a"[..].into(),
                seconds: 60,
                condition: Condition::Unchanged(cas),
            },
            Command::Renew { key: Arc::clone(&key), marker: b"a"[..].into(), seconds: 3, cas },
            Command::Delete { key: Arc::clone(&key), unchanged: Some(cas) },
            Command::ReleaseRefresh { key: Arc::clone(&key), cas },
        ];
        for command in commands {
            let written = |incarnation| {
                let mut written = Vec::new();
                write_command(&command, incarnation, &mut written);
                String::from_utf8(written).expect("text")
            };
            assert!(written(mine).contains('7'), "{command:?}");
            assert_eq!(written(other), "mn\r\n", "{command:?}");
            let reply = |incarnation| {
                let line = AnswerLine::parse(b"MN\r").ok().expect("an answer");
                line.reply(b"", &command, sent, incarnation)
            };
            assert!(reply(mine).is_err(), "{command:?}");
            let done = match reply(other).expect("an answer") {
                Reply::Applied(applied) => applied,
                Reply::Renewed(renewed) => renewed.is_some(),
                Reply::Found(_) => true,
            };
            assert!(!done, "{command:?}");
        }
        // Whoever has changed it, and whatever is there.
        for command in [
            Command::Delete { key: Arc::clone(&key), unchanged: None },
            Command::Read { key, lease: None },
        ] {
            let mut written = Vec::new();
            write_command(&command, other, &mut written);
            assert!(written.starts_with(b"m") && !written.starts_with(b"mn"));
        }
    }
}
