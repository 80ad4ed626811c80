//! The commands that a memcached server receives, and the replies that it sends, as Rust values.
//!
//! This module uses these words:
//!
//! - A *frame* is an encoded cache entry.
//! - A *CAS* is the number that a server gives to each version of an item.
//! - A *lease* is the right of one caller to fetch and store a missing value. While the lease
//!   lasts, the server has an item under the key: at first an empty *placeholder*, and after a
//!   renewal a *marker* ([`LeaseMarker`]).
//! - A *refresh claim* is the right of one caller to replace an item that is about to expire.
//! - An *incarnation* is one run of a server's process ([`Incarnation`]).

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cas::{Cas, Incarnation};
use super::item::{BusyLease, LONGEST_TTL, LeaseRequest, RawItem, ReadReply, WriteCondition};
use super::marker::LeaseMarker;
use crate::tier::remote::RemoteErrorKind;

/// A command for one key. The command owns its key and frame, so it can be queued, and can outlive
/// the caller that issued it.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// Reads the item. A read with a `lease` request can win the lease or the refresh claim.
    Read { key: Arc<str>, lease: Option<LeaseRequest> },
    /// Stores a frame if the condition holds.
    Write { key: Arc<str>, frame: Arc<[u8]>, seconds: u32, condition: WriteCondition },
    /// Renews a lease: replaces its placeholder or marker with a new marker, if the item still has
    /// this CAS. The reply contains the CAS of the new marker.
    Renew { key: Arc<str>, marker: Arc<[u8]>, seconds: u32, cas: Cas },
    /// Removes the item. With `only_if`, the server removes the item only if the item still has
    /// that CAS.
    Delete { key: Arc<str>, only_if: Option<Cas> },
    /// Gives back the refresh claim of an item, if the item still has this CAS. The server marks
    /// the item as stale, so the next read wins the claim. The item's time to live does not change.
    ReleaseRefresh { key: Arc<str>, cas: Cas },
}

/// A server's reply to one command.
#[derive(Debug)]
pub(super) enum Reply {
    /// The reply to a read.
    Read(ReadReply),
    /// The reply to [`Command::Write`], [`Command::Delete`] or [`Command::ReleaseRefresh`]: true if
    /// the command took effect.
    Applied(bool),
    /// The reply to a renewal: the new CAS of the lease, or `None` if the lease was lost.
    Renewed(Option<Cas>),
}

/// The reason why a command has no [`Reply`]: the server refused the command, or no valid reply
/// arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandError {
    pub(super) kind: RemoteErrorKind,
    pub(super) why: String,
}

const NO_ANSWER_IN_TIME: &str = "no answer in time";

/// The reply to a command, or the reason why there is no reply.
pub(super) type CommandResult = Result<Reply, CommandError>;

impl CommandError {
    fn new(kind: RemoteErrorKind, why: impl Display) -> CommandError {
        CommandError { kind, why: why.to_string() }
    }

    /// Returns an error of the kind [`RemoteErrorKind::Unreachable`]: the server did not answer, or
    /// its answer breaks the protocol.
    pub(super) fn unreachable(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::Unreachable, why)
    }

    /// Returns the error for a server that works but refused this command.
    pub(super) fn refused(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::Refused, why)
    }

    /// Returns the error for an item that is larger than the server allows.
    pub(super) fn too_large(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::TooLarge, why)
    }

    /// Returns the error for a server that answers but that this library cannot use.
    pub(super) fn unusable(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::Unusable, why)
    }

    /// Returns true if the server answers, but this library cannot use the server.
    pub(super) fn is_unusable(&self) -> bool {
        self.kind == RemoteErrorKind::Unusable
    }

    pub(super) fn timed_out() -> CommandError {
        CommandError::unreachable(NO_ANSWER_IN_TIME)
    }

    /// Returns true if the server did not answer in time.
    pub(super) fn is_timeout(&self) -> bool {
        self.why == NO_ANSWER_IN_TIME
    }

    pub(super) fn out_of_step() -> CommandError {
        CommandError::unreachable("an answer to another command")
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

    /// Returns the name of the command in spans and metrics.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Command::Read { .. } => "get",
            Command::Write { .. } | Command::Renew { .. } => "set",
            // A claim is given back with memcached's delete command. Its options make memcached
            // mark the item as stale instead of removing the item.
            Command::Delete { .. } | Command::ReleaseRefresh { .. } => "delete",
        }
    }

    /// Returns the CAS that the item must have for the command to take effect.
    fn required_cas(&self) -> Option<Cas> {
        match *self {
            Command::Write { condition: WriteCondition::Unchanged(cas), .. }
            | Command::Renew { cas, .. }
            | Command::Delete { only_if: Some(cas), .. }
            | Command::ReleaseRefresh { cas, .. } => Some(cas),
            _ => None,
        }
    }

    /// Returns true if the command requires a CAS from another incarnation of the server. Such a
    /// command must have no effect, even if an item of the current incarnation has the same CAS
    /// number.
    pub(super) fn has_foreign_cas(&self, incarnation: Incarnation) -> bool {
        self.required_cas().is_some_and(|cas| !cas.is_of(incarnation))
    }

    /// Returns the length of the frame or marker in the command, or 0 if the command contains
    /// neither.
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

    /// Returns true if the command removes an item unconditionally.
    pub(super) fn is_removal(&self) -> bool {
        matches!(self, Command::Delete { only_if: None, .. })
    }

    /// Returns true if the command removes or replaces an item without a condition.
    pub(super) fn is_unconditional_change(&self) -> bool {
        let overwrites = matches!(self, Command::Write { condition: WriteCondition::Always, .. });
        overwrites || self.is_removal()
    }

    /// Returns true if the command may be sent twice, even if the server restarts in between. If
    /// the first copy of a read wins a lease, the second copy finds the lease taken. The lease is
    /// then not used, and expires after a few seconds.
    pub(super) fn is_repeatable(&self) -> bool {
        self.is_read() || self.is_removal()
    }

    /// Returns a command that gives back what this command has won: a lease or a refresh claim.
    /// Returns `None` if this command has won neither. `result` must be this command's result.
    pub(super) fn give_back_command(&self, result: &CommandResult) -> Option<Command> {
        let key = || Arc::clone(self.key());
        match result {
            Ok(Reply::Read(ReadReply::Lease(cas))) => {
                Some(Command::Delete { key: key(), only_if: Some(*cas) })
            }
            Ok(Reply::Read(ReadReply::Item(RawItem { is_claimed: true, cas, .. }))) => {
                Some(Command::ReleaseRefresh { key: key(), cas: *cas })
            }
            _ => None,
        }
    }
}

/// The fields of a reply in memcached's meta protocol, as the server sent them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReplyFields {
    pub(super) frame: Option<Vec<u8>>,
    pub(super) cas: Option<u64>,
    /// The remaining ttl of the item; `None` if the item never expires.
    pub(super) ttl_seconds: Option<u64>,
    /// Flag `W`: this read won the lease or the refresh claim.
    pub(super) has_won: bool,
    /// Flag `Z`: an earlier read won the lease or the refresh claim.
    pub(super) was_won_before: bool,
    /// Flag `X`: the item is marked as stale, because a refresh claim was given back.
    pub(super) is_stale: bool,
}

impl ReplyFields {
    /// Interprets the fields as the reply to a read with this `lease` request. `sent` is when the
    /// read was sent, and `incarnation` is the incarnation of the server that replied. The item's
    /// remaining ttl counts from `sent`.
    pub(super) fn interpret(
        self,
        lease: Option<LeaseRequest>,
        sent: Instant,
        incarnation: Incarnation,
    ) -> ReadReply {
        let ReplyFields { frame, cas, ttl_seconds, has_won, was_won_before, is_stale } = self;
        let cas = cas.map(|number| Cas { number, incarnation });
        let expires =
            ttl_seconds.map(|seconds| sent + Duration::from_secs(seconds).min(LONGEST_TTL));
        // A marker means that another caller holds the lease. The flags are ignored, because the
        // renewal that stored the marker has reset them.
        if let (Some(marker), Some(cas)) = (frame.as_deref().and_then(LeaseMarker::decode), cas) {
            return ReadReply::Busy(BusyLease { cas: Some(cas), marker: Some(marker), expires });
        }
        match (frame, cas) {
            (Some(frame), Some(cas)) if !frame.is_empty() => {
                // The server rounds the remaining ttl up to whole seconds. The item might expire
                // almost a second before the time in the reply.
                let time_left = match ttl_seconds {
                    Some(seconds) => Duration::from_secs(seconds.saturating_sub(1)),
                    None => LONGEST_TTL,
                };
                let removed_by = expires.unwrap_or(sent + LONGEST_TTL);
                ReadReply::Item(RawItem {
                    is_claimed: has_won,
                    was_given_back: is_stale,
                    removable_from: sent + time_left.min(LONGEST_TTL),
                    ..RawItem::new(frame, cas, removed_by)
                })
            }
            (_, Some(cas)) if has_won => ReadReply::Lease(cas),
            // If a read has a `lease` request, the reply for a placeholder has flag `W` or `Z`. An
            // empty item without either flag is a corrupt entry.
            (Some(frame), Some(cas)) if !was_won_before && lease.is_some() => {
                ReadReply::Item(RawItem::new(frame, cas, sent))
            }
            // All empty items that remain here are placeholders of other callers. A reply without a
            // CAS breaks the protocol, and its item is treated as a placeholder.
            (frame, cas) if was_won_before || frame.is_some() => {
                ReadReply::Busy(BusyLease { cas, marker: None, expires })
            }
            _ => ReadReply::Nothing,
        }
    }
}
