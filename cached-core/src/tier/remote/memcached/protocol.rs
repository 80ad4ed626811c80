//! memcached's text protocol: encodes commands as bytes, and parses the lines of replies. This
//! module does no I/O.
//!
//! Only this module uses the memcache crate. The crate marks its parser of error lines as
//! experimental, so no other module may depend on it.
//!
//! Reads, deletes and renewals of leases are *meta* commands: `mg`, `md` and `ms`. Writes are
//! `set`, `add` and `cas`, because every memcached reads the bytes after these three commands as a
//! value, even if the server refuses the command. In contrast, a server that does not understand
//! `ms` reads the value as further commands.

use std::time::Instant;

use memcache::exp::{Error, MetaResponse};

use super::cas::Cas;
use super::cas::Incarnation;
use super::command::{Command, CommandError, Reply, ReplyFields};
use super::item::WriteCondition;

/// The largest item size that memcached can be configured for.
pub(super) const MAX_FRAME_BYTES: usize = 1 << 30;

/// The first line of a reply, parsed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReplyLine {
    status: ReplyStatus,
    /// The length of the frame (encoded entry) that follows the line, if there is one.
    pub(super) frame_length: Option<usize>,
    fields: ReplyFields,
}

/// The meaning of the first word in a reply line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplyStatus {
    /// `VA` or `HD`: a meta command took effect.
    Done,
    /// `STORED`: a write took effect.
    Stored,
    /// `EN`: the key has no item.
    Miss,
    /// `NS`, `EX`, `NF`, `NOT_STORED`, `EXISTS` or `NOT_FOUND`: the command had no effect, because
    /// its condition did not hold.
    NotDone,
    /// `MN`: the reply to `mn`, a command that does nothing.
    NoOp,
}

/// An error that the server sent in place of a reply, or a line that is not a reply.
pub(super) struct ErrorLine {
    pub(super) error: CommandError,
    /// True if the server has read the whole command with its value. The next line is then the
    /// reply to the next command.
    pub(super) is_in_sync: bool,
}

impl From<CommandError> for ErrorLine {
    fn from(error: CommandError) -> ErrorLine {
        ErrorLine { error, is_in_sync: false }
    }
}

impl ErrorLine {
    fn parse(line: &[u8]) -> ErrorLine {
        match MetaResponse::parse_header(line) {
            Ok(_) => CommandError::out_of_step().into(),
            Err(Error::Server(why)) => {
                let error = match why.contains("too large") {
                    true => CommandError::too_large(why),
                    false => CommandError::refused(why),
                };
                ErrorLine { error, is_in_sync: true }
            }
            // The server did not understand the command, and might read the command's value as
            // further commands.
            Err(Error::Rejected(why)) => CommandError::refused(why).into(),
            Err(error) => CommandError::unreachable(error).into(),
        }
    }
}

impl ReplyLine {
    /// Parses a line. `line` must not include the line feed.
    pub(super) fn parse(line: &[u8]) -> Result<ReplyLine, ErrorLine> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        let (status, has_frame) = match words.next() {
            Some(b"VA") => (ReplyStatus::Done, true),
            Some(b"HD") => (ReplyStatus::Done, false),
            Some(b"EN") => (ReplyStatus::Miss, false),
            Some(b"STORED") => (ReplyStatus::Stored, false),
            Some(b"MN") => (ReplyStatus::NoOp, false),
            Some(b"EX" | b"NF" | b"NS" | b"EXISTS" | b"NOT_FOUND" | b"NOT_STORED") => {
                (ReplyStatus::NotDone, false)
            }
            _ => return Err(ErrorLine::parse(line)),
        };
        let malformed = || CommandError::unreachable("a malformed answer");
        let frame_length = match has_frame {
            true => {
                let length = words.next().and_then(parse_number);
                let length = length.and_then(|length| usize::try_from(length).ok());
                Some(length.filter(|&length| length <= MAX_FRAME_BYTES).ok_or_else(malformed)?)
            }
            false => None,
        };
        let mut fields = ReplyFields::default();
        for word in words {
            match word {
                [b'c', cas @ ..] => fields.cas = Some(parse_number(cas).ok_or_else(malformed)?),
                b"t-1" => fields.ttl_seconds = None,
                [b't', ttl @ ..] => {
                    fields.ttl_seconds = Some(parse_number(ttl).ok_or_else(malformed)?)
                }
                b"W" => fields.has_won = true,
                b"Z" => fields.was_won_before = true,
                b"X" => fields.is_stale = true,
                _ => {}
            }
        }
        Ok(ReplyLine { status, frame_length, fields })
    }

    /// Interprets this line and the bytes that follow the line as the reply to `command`. A ttl in
    /// the reply counts from `sent`.
    ///
    /// # Errors
    /// The line and the bytes are not a reply to `command`.
    pub(super) fn into_reply(
        self,
        following: &[u8],
        command: &Command,
        sent: Instant,
        incarnation: Incarnation,
    ) -> Result<Reply, CommandError> {
        let ReplyLine { mut status, frame_length, mut fields } = self;
        if status == ReplyStatus::NoOp && command.has_foreign_cas(incarnation) {
            status = ReplyStatus::NotDone;
        }
        let frame = match (frame_length, following) {
            (None, []) => None,
            (Some(length), whole) if whole.get(length..) == Some(b"\r\n") => Some(&whole[..length]),
            _ => {
                return Err(CommandError::unreachable(
                    "an answer whose length is not the announced one",
                ));
            }
        };
        match (command, status, frame) {
            (&Command::Read { lease, .. }, ReplyStatus::Done, Some(frame)) => {
                fields.frame = Some(frame.to_vec());
                Ok(Reply::Read(fields.interpret(lease, sent, incarnation)))
            }
            (&Command::Read { lease, .. }, ReplyStatus::Miss, None) => {
                Ok(Reply::Read(fields.interpret(lease, sent, incarnation)))
            }
            (Command::Write { .. }, ReplyStatus::Stored, None) => Ok(Reply::Applied(true)),
            (Command::Write { .. }, ReplyStatus::NotDone, None) => Ok(Reply::Applied(false)),
            (Command::Renew { .. }, ReplyStatus::Done | ReplyStatus::NotDone, None) => {
                let number = fields.cas.filter(|_| status == ReplyStatus::Done);
                Ok(Reply::Renewed(number.map(|number| Cas { number, incarnation })))
            }
            (
                Command::Delete { .. } | Command::ReleaseRefresh { .. },
                ReplyStatus::Done | ReplyStatus::NotDone,
                None,
            ) => Ok(Reply::Applied(status == ReplyStatus::Done)),
            _ => Err(CommandError::out_of_step()),
        }
    }
}

/// Appends the bytes of a command to `into`. The command's key must be valid in memcached's
/// protocol.
///
/// A CAS (the version number of an item) is valid for one incarnation, which is one run of the
/// server's process. A command that requires a CAS from another incarnation must have no effect.
/// This function replaces it with `mn`, which does nothing. So the server still sends one reply per
/// command.
pub(super) fn write_command(command: &Command, incarnation: Incarnation, into: &mut Vec<u8>) {
    if command.has_foreign_cas(incarnation) {
        return into.extend_from_slice(b"mn\r\n");
    }
    let name = match command {
        Command::Read { .. } => "mg ",
        Command::Write { condition: WriteCondition::Absent, .. } => "add ",
        Command::Write { condition: WriteCondition::Unchanged(_), .. } => "cas ",
        Command::Write { condition: WriteCondition::Always, .. } => "set ",
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
            // The client flags are always 0.
            write_number(into, b" 0 ", *seconds);
            write_number(into, b" ", frame.len() as u64);
            if let WriteCondition::Unchanged(cas) = condition {
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
        Command::Delete { only_if: Some(cas), .. } => write_number(into, b" C", cas.number),
        Command::Delete { only_if: None, .. } => {}
        Command::ReleaseRefresh { cas, .. } => write_number(into, b" I C", cas.number),
    }
    into.extend_from_slice(b"\r\n");
}

/// Appends a prefix and a decimal number. `write!` takes ten times as long.
fn write_number(into: &mut Vec<u8>, prefix: &[u8], number: impl Into<u64>) {
    let (mut digits, mut start, mut rest) = ([0; 20], 20, number.into());
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    into.extend_from_slice(prefix);
    into.extend_from_slice(&digits[start..]);
}

/// Parses a decimal number. `str::parse` takes ten times as long.
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
    fn numbers_are_decimal() {
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
    fn writes_use_the_commands_add_cas_and_set() {
        let conditions =
            [WriteCondition::Absent, WriteCondition::Unchanged(7.into()), WriteCondition::Always];
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
    fn a_cas_is_sent_only_to_its_incarnation() {
        let [mine, other] = [8, 9].map(|started| Incarnation::new(1, started));
        let cas = Cas { number: 7, incarnation: mine };
        let (key, sent): (Arc<str>, _) = ("key".into(), Instant::now());
        let commands = [
            Command::Write {
                key: Arc::clone(&key),
                frame: b"a"[..].into(),
                seconds: 60,
                condition: WriteCondition::Unchanged(cas),
            },
            Command::Renew { key: Arc::clone(&key), marker: b"a"[..].into(), seconds: 3, cas },
            Command::Delete { key: Arc::clone(&key), only_if: Some(cas) },
            Command::ReleaseRefresh { key: Arc::clone(&key), cas },
        ];
        for command in commands {
            let written = |incarnation| {
                let mut written = Vec::new();
                write_command(&command, incarnation, &mut written);
                String::from_utf8(written).expect("the command is text")
            };
            assert!(written(mine).contains('7'), "{command:?}");
            assert_eq!(written(other), "mn\r\n", "{command:?}");
            let reply = |incarnation| {
                let line = ReplyLine::parse(b"MN\r").ok().expect("`MN` is a reply line");
                line.into_reply(b"", &command, sent, incarnation)
            };
            assert!(reply(mine).is_err(), "{command:?}");
            let done = match reply(other).expect("`MN` answers the command") {
                Reply::Applied(applied) => applied,
                Reply::Renewed(renewed) => renewed.is_some(),
                Reply::Read(_) => true,
            };
            assert!(!done, "{command:?}");
        }
        // Commands without a CAS are sent to every incarnation.
        for command in [
            Command::Delete { key: Arc::clone(&key), only_if: None },
            Command::Read { key, lease: None },
        ] {
            let mut written = Vec::new();
            write_command(&command, other, &mut written);
            assert!(written.starts_with(b"m") && !written.starts_with(b"mn"));
        }
    }
}
