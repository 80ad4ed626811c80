//! Commands to a memcached server and their replies, independent of how they travel.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cas::Cas;
use super::cas::Incarnation;
use super::item::{BusyLease, LeaseRequest, RawItem, ReadReply, WriteCondition};
use super::marker::LeaseMarker;
use crate::tier::remote::RemoteErrorKind;

/// One command. It owns its key and frame, so that it can travel in a batch and outlive its caller.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// Reads the item. With terms, the read may win the lease or the refresh claim.
    Read { key: Arc<str>, lease: Option<LeaseRequest> },
    /// Stores a frame, if the condition holds.
    Write { key: Arc<str>, frame: Arc<[u8]>, seconds: u32, condition: WriteCondition },
    /// Replaces a lease's placeholder or marker by a new marker, if it still has this CAS. The reply carries the
    /// new marker's CAS.
    Renew { key: Arc<str>, marker: Arc<[u8]>, seconds: u32, cas: Cas },
    /// Removes the item. With a CAS, removes it only if it still has this CAS.
    Delete { key: Arc<str>, unchanged: Option<Cas> },
    /// Gives back the refresh claim of an item that still has this CAS: marks the item stale, so that the next
    /// read wins the claim. The item keeps its time to live.
    ReleaseRefresh { key: Arc<str>, cas: Cas },
}

/// A server's reply to one command.
#[derive(Debug)]
pub(super) enum Reply {
    Read(ReadReply),
    /// True if the write or delete took effect.
    Applied(bool),
    /// The CAS of a renewed lease; `None` if the lease was lost.
    Renewed(Option<Cas>),
}

/// Why a command has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandError {
    pub(super) kind: RemoteErrorKind,
    pub(super) why: String,
}

/// A command's reply, or why it has none.
pub(super) type CommandResult = Result<Reply, CommandError>;

impl CommandError {
    fn new(kind: RemoteErrorKind, why: impl Display) -> CommandError {
        CommandError { kind, why: why.to_string() }
    }

    /// The server did not answer, or did not follow the protocol.
    pub(super) fn lost(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::Unreachable, why)
    }

    /// The server refused this command.
    pub(super) fn refused(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::Refused, why)
    }

    /// The server stores no item of this size.
    pub(super) fn too_large(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::TooLarge, why)
    }

    /// The server answers, but this library cannot use it.
    pub(super) fn unusable(why: impl Display) -> CommandError {
        CommandError::new(RemoteErrorKind::Unusable, why)
    }

    /// Returns true if the server answers, but this library cannot use it.
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

    /// Returns the CAS that the item must have.
    fn required_cas(&self) -> Option<Cas> {
        match *self {
            Command::Write { condition: WriteCondition::Unchanged(cas), .. }
            | Command::Renew { cas, .. }
            | Command::Delete { unchanged: Some(cas), .. }
            | Command::ReleaseRefresh { cas, .. } => Some(cas),
            _ => None,
        }
    }

    /// Returns true if the command requires a CAS of another incarnation of the server. This incarnation has no
    /// such item, even if one of its items has the same number.
    pub(super) fn has_foreign_cas(&self, incarnation: Incarnation) -> bool {
        self.required_cas().is_some_and(|cas| !cas.is_of(incarnation))
    }

    /// Returns the length of the frame or marker that the command carries.
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
        matches!(self, Command::Delete { unchanged: None, .. })
    }

    /// Returns true if the server may carry the command out twice, even with a restart in between. A read that
    /// is repeated may find a lease that its first run won; that lease ends soon.
    pub(super) fn is_repeatable(&self) -> bool {
        self.is_read() || self.is_removal()
    }

    /// Returns the command that gives back the lease or refresh claim that this one won, if it won one.
    pub(super) fn give_back_command(&self, result: &CommandResult) -> Option<Command> {
        let key = || Arc::clone(self.key());
        match result {
            Ok(Reply::Read(ReadReply::Lease(cas))) => {
                Some(Command::Delete { key: key(), unchanged: Some(*cas) })
            }
            Ok(Reply::Read(ReadReply::Item(RawItem { is_claimed: true, cas, .. }))) => {
                Some(Command::ReleaseRefresh { key: key(), cas: *cas })
            }
            _ => None,
        }
    }
}

/// A reply to a read, in the terms of the protocol.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReplyFields {
    pub(super) frame: Option<Vec<u8>>,
    pub(super) cas: Option<u64>,
    /// `None` if the item never expires.
    pub(super) ttl_seconds: Option<u64>,
    /// Flag `W`: this read won the lease or the refresh claim.
    pub(super) won: bool,
    /// Flag `Z`: another read won it before.
    pub(super) was_won_before: bool,
    /// Flag `X`: the item is marked stale, because a refresh claim was given back.
    pub(super) is_stale: bool,
}

impl ReplyFields {
    /// Interprets the response to a read with these lease terms. The server counts seconds from `sent` on. The CAS
    /// belongs to `incarnation`.
    pub(super) fn interpret(
        self,
        lease: Option<LeaseRequest>,
        sent: Instant,
        incarnation: Incarnation,
    ) -> ReadReply {
        let ReplyFields { frame, cas, ttl_seconds, won, was_won_before, is_stale } = self;
        let cas = cas.map(|number| Cas { number, incarnation });
        // A marker means that its holder is fetching, whatever the flags say: the renewal that stored the marker
        // reset the flags.
        if let (Some(marker), Some(cas)) = (frame.as_deref().and_then(LeaseMarker::decode), cas) {
            return ReadReply::Busy(BusyLease { cas: Some(cas), marker: Some(marker) });
        }
        match (frame, cas) {
            (Some(frame), Some(cas)) if !frame.is_empty() => {
                // The server rounds the time left up to whole seconds: the item may expire a second earlier.
                let time_left = match ttl_seconds {
                    Some(seconds) => Duration::from_secs(seconds.saturating_sub(1)),
                    None => super::LONGEST_TTL,
                };
                let removed_at = sent + time_left.min(super::LONGEST_TTL);
                ReadReply::Item(RawItem {
                    is_claimed: won,
                    was_given_back: is_stale,
                    ..RawItem::new(frame, cas, removed_at)
                })
            }
            (_, Some(cas)) if won => ReadReply::Lease(cas),
            // For a read with lease terms the flags mark each placeholder. This empty item has no flag, so it is
            // a corrupt entry.
            (Some(frame), Some(cas)) if !was_won_before && lease.is_some() => {
                ReadReply::Item(RawItem::new(frame, cas, sent))
            }
            // Every other empty item is another caller's placeholder.
            (frame, cas) if was_won_before || frame.is_some() => {
                ReadReply::Busy(BusyLease { cas, marker: None })
            }
            _ => ReadReply::Nothing,
        }
    }
}
