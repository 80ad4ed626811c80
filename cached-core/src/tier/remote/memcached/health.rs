//! Tracks the health of a memcached server: counts its failed exchanges, ejects the server, and
//! schedules recovery attempts. An *exchange* sends the server one or more commands and waits for
//! the replies.
//!
//! A server is *in rotation* until [`MAX_FAILURES`] exchanges in a row have failed, or
//! [`ServerHealth::eject`] is called. Then the server is *ejected*: callers do not use the server,
//! and a background task makes recovery attempts. The pause before an attempt is twice as long as
//! the previous pause, up to [`MAX_PAUSE`]. The server returns to rotation once it has answered and
//! has received every hint. A *hint* is a key that the server must remove, because its value
//! changed while the server could not be reached.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::command::{CommandError, CommandResult};
use crate::clock::Clock;
use crate::tier::remote::RemoteErrorKind;

/// A server is ejected when this many exchanges in a row have failed.
const MAX_FAILURES: u32 = 3;
/// The pause before the first recovery attempt. The pause doubles with each failed attempt.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause before a recovery attempt.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Counts a server's failed exchanges and recovery attempts, and knows when the next attempt is
/// due.
#[derive(Default)]
pub(super) struct ServerHealth {
    clock: Clock,
    /// Failed exchanges in a row, up to [`MAX_FAILURES`].
    failures: AtomicU32,
    /// True if the server answered in the last failed exchange, but the answer showed that this
    /// library cannot use the server.
    is_unusable: AtomicBool,
    /// True if an exchange has failed. [`eject`](Self::eject) resets it when it takes the server
    /// out of rotation.
    has_failed: AtomicBool,
    /// Failed recovery attempts in a row.
    attempts: AtomicU32,
    /// When the next recovery attempt is due, in milliseconds since [`EPOCH`].
    retry_at: AtomicU64,
    /// How many times the server was taken out of rotation.
    ejections: AtomicU64,
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl ServerHealth {
    pub(super) fn new(clock: Clock) -> ServerHealth {
        ServerHealth { clock, ..ServerHealth::default() }
    }

    /// Returns the milliseconds since [`EPOCH`]; at least 1.
    fn now(&self) -> u64 {
        millis(self.clock.now().saturating_duration_since(*EPOCH)) + 1
    }

    #[inline]
    pub(super) fn in_rotation(&self) -> bool {
        self.failures.load(Ordering::Acquire) < MAX_FAILURES
    }

    /// Resets the count of failures. Does nothing if the server is ejected. An ejection ends only
    /// with [`reinstate`](Self::reinstate), because the server must receive its hints first.
    pub(super) fn record_success(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            let (set, fetched) = (Ordering::AcqRel, Ordering::Acquire);
            let reset = |failures| (failures < MAX_FAILURES).then_some(0);
            let _ = self.failures.fetch_update(set, fetched, reset);
        }
    }

    /// Counts a failed exchange. Returns true if this failure ejects the server. `is_unusable` must
    /// be true if the server answered, but this library cannot use the server. Failures of an
    /// ejected server are not counted.
    pub(super) fn record_failure(&self, is_unusable: bool) -> bool {
        self.is_unusable.store(is_unusable, Ordering::Relaxed);
        self.has_failed.store(true, Ordering::Relaxed);
        let (set, fetched) = (Ordering::AcqRel, Ordering::Acquire);
        let one_more = |failures| (failures < MAX_FAILURES).then_some(failures + 1);
        // The first recovery attempt is scheduled before the last failure is counted. So every
        // thread that sees the ejection also sees when the attempt is due.
        if self.failures.load(Ordering::Acquire) == MAX_FAILURES - 1 {
            self.schedule_attempt(0);
        }
        let is_ejected = self.failures.fetch_update(set, fetched, one_more) == Ok(MAX_FAILURES - 1);
        if is_ejected {
            self.ejections.fetch_add(1, Ordering::Relaxed);
        }
        is_ejected
    }

    /// Returns how many times the server was taken out of rotation.
    pub(super) fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Returns true if the server is ejected, and the last failure showed that this library cannot
    /// use the server.
    pub(super) fn is_unusable(&self) -> bool {
        !self.in_rotation() && self.is_unusable.load(Ordering::Relaxed)
    }

    /// Returns true if an exchange has failed. [`eject`](Self::eject) forgets earlier failures when
    /// it takes the server out of rotation.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Ejects the server, and makes a recovery attempt due at once.
    pub(super) fn eject(&self) {
        self.is_unusable.store(false, Ordering::Relaxed);
        if self.in_rotation() {
            self.has_failed.store(false, Ordering::Relaxed);
        }
        self.retry_at.store(self.now(), Ordering::Release);
        if self.failures.swap(MAX_FAILURES, Ordering::AcqRel) < MAX_FAILURES {
            self.ejections.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Schedules the next recovery attempt, with the pause that follows `attempts` failed attempts.
    pub(super) fn schedule_attempt(&self, attempts: u32) {
        self.attempts.store(attempts, Ordering::Release);
        self.retry_at.store(self.now() + pause_millis(attempts), Ordering::Release);
    }

    /// Returns the time until the next recovery attempt is due.
    pub(super) fn next_attempt_in(&self) -> Duration {
        Duration::from_millis(self.retry_at.load(Ordering::Acquire).saturating_sub(self.now()))
    }

    /// Returns true if the next attempt is overdue by more than `by`. The task that should have
    /// made the attempt then counts as lost. Only one caller gets true, and must start a new task.
    pub(super) fn claim_overdue_attempt(&self, by: Duration) -> bool {
        let (now, retry_at) = (self.now(), self.retry_at.load(Ordering::Acquire));
        now > retry_at + millis(by) && self.reschedule(retry_at, now)
    }

    /// Returns true if an attempt is due. Only one caller gets true, and must make the attempt.
    pub(super) fn claim_attempt(&self) -> bool {
        let (now, retry_at) = (self.now(), self.retry_at.load(Ordering::Acquire));
        let next = now + pause_millis(self.attempts.load(Ordering::Acquire));
        now >= retry_at && self.reschedule(retry_at, next)
    }

    fn reschedule(&self, from: u64, to: u64) -> bool {
        self.retry_at.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn record_failed_attempt(&self) {
        self.schedule_attempt(self.attempts.load(Ordering::Acquire).saturating_add(1));
    }

    /// Puts the server back in rotation. Returns true if the server was ejected.
    pub(super) fn reinstate(&self) -> bool {
        self.attempts.store(0, Ordering::Release);
        if self.in_rotation() {
            return false;
        }
        self.failures.swap(0, Ordering::AcqRel) >= MAX_FAILURES
    }
}

/// Collects how the commands of one exchange ended. [`failure`](Self::failure) tells whether the
/// exchange counts as a failure of the server.
#[derive(Default)]
pub(super) struct ExchangeVerdict {
    /// True if a command got a reply.
    has_answers: bool,
    /// True if the server refused a command, which shows that the server can be reached.
    has_refusals: bool,
    /// The reason why a read was refused, or why this library cannot use the server.
    refused_read: Option<String>,
    /// The first reason why a command got no reply.
    unreachable: Option<String>,
    /// True if a command got no reply in time.
    has_timed_out: bool,
}

impl ExchangeVerdict {
    /// Adds the result of one command. `is_read` must be true if the command was a read.
    pub(super) fn add(&mut self, is_read: bool, result: &CommandResult) {
        let Err(CommandError { kind, why }) = result else {
            self.has_answers = true;
            return;
        };
        self.has_timed_out |= result.as_ref().is_err_and(CommandError::is_timeout);
        let first = match kind {
            RemoteErrorKind::Unreachable => &mut self.unreachable,
            RemoteErrorKind::Unusable => &mut self.refused_read,
            // Even a healthy server can refuse a write, because the item is too large or memory is
            // short. A healthy server never refuses a read.
            _ => {
                self.has_refusals = true;
                if !is_read {
                    return;
                }
                &mut self.refused_read
            }
        };
        first.get_or_insert_with(|| why.clone());
    }

    /// Returns true if the server did not answer a command in time.
    pub(super) fn has_timed_out(&self) -> bool {
        self.has_timed_out
    }

    /// Returns the server's failure, or `None` if the exchange does not count as a failure.
    pub(super) fn failure(self) -> Option<CommandError> {
        match self {
            // A server that has answered some commands of a batch works, but is slow.
            ExchangeVerdict { has_answers: true, .. } => None,
            ExchangeVerdict { refused_read: Some(why), .. } => Some(CommandError::unusable(why)),
            ExchangeVerdict { unreachable: Some(why), has_refusals: false, .. } => {
                Some(CommandError::unreachable(why))
            }
            _ => None,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

fn pause_millis(attempts: u32) -> u64 {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.min(16));
    millis(doubled.min(MAX_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::super::command::Reply;
    use super::*;

    #[test]
    fn an_ejection_alone_is_not_a_failure() {
        let health = ServerHealth::default();
        health.eject();
        assert!(!health.in_rotation() && !health.has_failed());
        health.record_failure(false);
        assert!(health.has_failed(), "a failure after the ejection counts");
        health.eject();
        assert!(health.has_failed(), "a second ejection does not reset the failure");
        health.reinstate();
        health.eject();
        assert!(!health.has_failed());
        assert_eq!(health.ejections(), 2, "an ejected server is not ejected again");
    }

    #[test]
    fn an_ejected_server_is_tried_once_per_pause() {
        let health = ServerHealth::default();
        // More exchanges fail than an ejection needs. The additional failures must not lengthen the
        // pause.
        let ejections = (0..MAX_FAILURES + 20).filter(|_| health.record_failure(false)).count();
        assert_eq!(ejections, 1, "the server is ejected once");
        assert_eq!(health.ejections(), 1);
        assert!(!health.in_rotation() && !health.claim_attempt());
        std::thread::sleep(FIRST_PAUSE + Duration::from_millis(20));
        assert!(health.claim_attempt());
        assert!(!health.claim_attempt(), "only one caller makes the attempt");
        health.record_failed_attempt();
        std::thread::sleep(FIRST_PAUSE + Duration::from_millis(20));
        assert!(!health.claim_attempt(), "the second pause is longer than the first");
        health.record_success();
        assert!(!health.in_rotation(), "a late answer does not reinstate the server");
        assert!(health.reinstate());
        assert!(health.in_rotation());
    }

    #[test]
    fn a_refused_write_is_not_a_failure() {
        let failure = |results: &[(bool, CommandResult)]| {
            let mut verdict = ExchangeVerdict::default();
            results.iter().for_each(|(is_read, result)| verdict.add(*is_read, result));
            verdict.failure().map(|failure| failure.kind)
        };
        let refused = || Err(CommandError::refused("no"));
        let lost = || Err(CommandError::unreachable("gone"));
        let answered = || Ok(Reply::Applied(true));
        let too_large = || Err(CommandError::too_large("large"));
        let (is_lost, is_unusable) =
            (Some(RemoteErrorKind::Unreachable), Some(RemoteErrorKind::Unusable));
        assert_eq!(failure(&[(false, too_large()), (true, lost())]), None);
        assert_eq!(failure(&[(false, refused())]), None);
        assert_eq!(failure(&[(true, refused())]), is_unusable);
        assert_eq!(failure(&[(false, Err(CommandError::unusable("old")))]), is_unusable);
        assert_eq!(failure(&[(true, lost()), (true, lost())]), is_lost);
        assert_eq!(failure(&[(true, lost()), (true, answered())]), None);
        assert_eq!(failure(&[(true, refused()), (true, answered())]), None);
    }
}
