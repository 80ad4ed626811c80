//! The commands that a memcached server is sent, and its answers, apart from how they travel.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cas::Incarnation;
use super::marker::LeaseMarker;
use super::{BusyLease, Cas, Condition, Found, FoundItem, LeaseTerms, RemoteErrorKind};

/// One command. It owns what it carries, so that it can travel with others and outlive its caller.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// Reads, and with terms wins the right to fill or to replace.
    Read { key: Arc<str>, lease: Option<LeaseTerms> },
    /// Stores for so many seconds.
    Write { key: Arc<str>, frame: Arc<[u8]>, seconds: u32, condition: Condition },
    /// Replaces the placeholder or marker of a lease that this process holds by `marker`, for so
    /// many seconds, if it still has this CAS. The answer carries the marker's CAS.
    Renew { key: Arc<str>, marker: Arc<[u8]>, seconds: u32, cas: Cas },
    /// Removes the item. With a CAS it removes only an item that nobody has changed since.
    Delete { key: Arc<str>, unchanged: Option<Cas> },
    /// Lets the next reader win the right to replace an item that nobody has changed: marking it
    /// stale takes back that it was won. The item keeps its time to live.
    ReleaseRefresh { key: Arc<str>, cas: Cas },
}

/// A server's answer to one command.
#[derive(Debug)]
pub(super) enum Reply {
    Found(Found),
    /// True if a write or a delete took effect.
    Applied(bool),
    /// The CAS of a renewed lease; `None` if the lease was lost.
    Renewed(Option<Cas>),
}

/// Why a command was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandError {
    pub(super) kind: RemoteErrorKind,
    pub(super) why: String,
}

/// A command's reply, or why there is none.
pub(super) type CommandResult = Result<Reply, CommandError>;

impl CommandError {
    fn new(kind: RemoteErrorKind, why: impl Display) -> CommandError {
        CommandError { kind, why: why.to_string() }
    }

    /// The server did not answer, or not in its protocol.
    pub(super) fn lost(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::Lost, why)
    }

    /// The server answered that it does not take this command.
    pub(super) fn refused(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::Refused, why)
    }

    /// The server takes no item of this size.
    pub(super) fn too_large(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::TooLarge, why)
    }

    /// The server answers, but it is not one that this library can use.
    pub(super) fn unusable(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::Unusable, why)
    }

    /// Returns true if the server answers and no command can be used.
    pub(super) fn is_unusable(&self) -> bool {
        self.kind == RemoteErrorKind::Unusable
    }

    pub(super) fn timed_out() -> CommandError {
        CommandError::lost("no answer in time")
    }

    pub(super) fn out_of_step() -> CommandError {
        CommandError::lost("an answer to another command")
    }
}

impl Command {
    pub(super) fn key(&self) -> &Arc<str> {
        match self {
            Command::Read { key, .. }
            | Command::Write { key, .. }
            | Command::Renew { key, .. }
            | Command::Delete { key, .. }
            | Command::ReleaseRefresh { key, .. } => key,
        }
    }

    /// The CAS that its item must have.
    fn condition(&self) -> Option<Cas> {
        match *self {
            Command::Write { condition: Condition::Unchanged(cas), .. }
            | Command::Renew { cas, .. }
            | Command::Delete { unchanged: Some(cas), .. }
            | Command::ReleaseRefresh { cas, .. } => Some(cas),
            _ => None,
        }
    }

    /// Returns true if the command is under a CAS that another incarnation of the server has given. There
    /// is no such item on this one, whatever item has the same number.
    pub(super) fn has_foreign_cas(&self, incarnation: Incarnation) -> bool {
        self.condition().is_some_and(|cas| !cas.is_of(incarnation))
    }

    /// The bytes of the frame that it carries.
    pub(super) fn frame_bytes(&self) -> usize {
        match self {
            Command::Write { frame, .. } => frame.len(),
            Command::Renew { marker, .. } => marker.len(),
            _ => 0,
        }
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self, Command::Read { .. })
    }

    /// Returns true if the command removes an entry, whoever has changed it.
    pub(super) fn is_removal(&self) -> bool {
        matches!(self, Command::Delete { unchanged: None, .. })
    }

    /// Returns true if a server may carry the command out twice, also one that was started anew
    /// meanwhile, to which a CAS of before means nothing. A lease that is won twice is another caller's
    /// the second time, and ends soon.
    pub(super) fn is_repeatable(&self) -> bool {
        self.is_read() || self.is_removal()
    }

    /// The command that gives back what `answer` has won for a caller who is gone.
    pub(super) fn give_back(&self, answer: &CommandResult) -> Option<Command> {
        let key = || Arc::clone(self.key());
        match answer {
            Ok(Reply::Found(Found::Lease(cas))) => {
                Some(Command::Delete { key: key(), unchanged: Some(*cas) })
            }
            Ok(Reply::Found(Found::Item(FoundItem { is_claimed: true, cas, .. }))) => {
                Some(Command::ReleaseRefresh { key: key(), cas: *cas })
            }
            _ => None,
        }
    }
}

/// A server's answer to a read, as it stands in its protocol.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReadAnswer {
    pub(super) frame: Option<Vec<u8>>,
    pub(super) cas: Option<u64>,
    /// In seconds; `None` if the item stays for good.
    pub(super) ttl: Option<u64>,
    /// True if this reader has won a right, to fill or to replace.
    pub(super) won: bool,
    /// True if another reader has won it.
    pub(super) busy: bool,
    /// True if the reader that had won it has given it back.
    pub(super) given_back: bool,
}

impl ReadAnswer {
    /// Says what the answer means to the read that asked with `lease`. The server's count of seconds
    /// begins at `sent`, and its CAS numbers are those of `incarnation`.
    pub(super) fn found(
        self,
        lease: Option<LeaseTerms>,
        sent: Instant,
        incarnation: Incarnation,
    ) -> Found {
        let ReadAnswer { frame, cas, ttl, won, busy, given_back } = self;
        let cas = cas.map(|number| Cas { number, of: incarnation });
        // A marker means that its holder fetches, whatever the server says of the right to fill: the
        // renewal took the server's own record of who won it away.
        if let (Some(marker), Some(cas)) = (frame.as_deref().and_then(LeaseMarker::decode), cas) {
            return Found::Busy(BusyLease { cas: Some(cas), marker: Some(marker) });
        }
        match (frame, cas) {
            (Some(frame), Some(cas)) if !frame.is_empty() => {
                // The server counts whole seconds, rounded up: the item may be gone a second
                // earlier.
                let left = match ttl {
                    Some(left) => Duration::from_secs(left.saturating_sub(1)),
                    None => super::LONGEST_TTL,
                };
                let removed_at = sent + left.min(super::LONGEST_TTL);
                Found::Item(FoundItem {
                    is_claimed: won,
                    was_given_back: given_back,
                    ..FoundItem::new(frame, cas, removed_at)
                })
            }
            (_, Some(cas)) if won => Found::Lease(cas),
            // The server tells a read with lease terms which item is a placeholder. This one is an
            // entry, and a bad one.
            (Some(frame), Some(cas)) if !busy && lease.is_some() => {
                Found::Item(FoundItem::new(frame, cas, sent))
            }
            // Any other empty item is somebody's placeholder.
            (frame, cas) if busy || frame.is_some() => Found::Busy(BusyLease { cas, marker: None }),
            _ => Found::Nothing,
        }
    }
}
