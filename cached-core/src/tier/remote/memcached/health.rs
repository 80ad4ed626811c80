//! Whether a server is worth asking.
//!
//! *In rotation* → ([`FAILURES`] in a row) → *ejected*: nobody asks it; a task in the background
//! makes an attempt after each pause, and the pauses grow → (it answers, and was told what it
//! missed) → *in rotation*.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::RemoteErrorKind;
use super::command::{CommandError, CommandResult};
use crate::clock::Clock;

/// A server that fails so often in a row is ejected.
const FAILURES: u32 = 3;
/// An ejected server is tried again after this long, then after twice as long, up to the longest.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Health {
    clock: Clock,
    /// In a row, up to [`FAILURES`].
    failures: AtomicU32,
    /// True if the last failure was an answer: the server refuses everything.
    refuses: AtomicBool,
    /// Attempts in a row that came to nothing.
    attempts: AtomicU32,
    /// When the next attempt is due; milliseconds since [`EPOCH`], as the next.
    retry_at: AtomicU64,
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Health {
    pub(super) fn new(clock: Clock) -> Health {
        Health { clock, ..Health::default() }
    }

    /// Never 0.
    fn now(&self) -> u64 {
        millis(self.clock.now().saturating_duration_since(*EPOCH)) + 1
    }

    #[inline]
    pub(super) fn in_rotation(&self) -> bool {
        self.failures.load(Ordering::Acquire) < FAILURES
    }

    /// An exchange went well. That alone does not bring an ejected server back.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            let (set, fetched) = (Ordering::AcqRel, Ordering::Acquire);
            let none = |failures| (failures < FAILURES).then_some(0);
            let _ = self.failures.fetch_update(set, fetched, none);
        }
    }

    /// An exchange failed; `true` where it is the one that ejects the server. Those who asked
    /// before the ejection and fail after it add nothing.
    pub(super) fn failed(&self, refuses: bool) -> bool {
        self.refuses.store(refuses, Ordering::Relaxed);
        let (set, fetched) = (Ordering::AcqRel, Ordering::Acquire);
        let one_more = |failures| (failures < FAILURES).then_some(failures + 1);
        // Before the last failure counts: who sees the ejection sees when the attempt is due.
        if self.failures.load(Ordering::Acquire) == FAILURES - 1 {
            self.schedule(0);
        }
        self.failures.fetch_update(set, fetched, one_more) == Ok(FAILURES - 1)
    }

    /// Returns true if the server is ejected, was there when it failed last, and refused what it was
    /// asked.
    pub(super) fn refuses(&self) -> bool {
        !self.in_rotation() && self.refuses.load(Ordering::Relaxed)
    }

    /// Takes the server out; an attempt is due at once.
    pub(super) fn eject(&self) {
        self.refuses.store(false, Ordering::Relaxed);
        self.retry_at.store(self.now(), Ordering::Release);
        self.failures.store(FAILURES, Ordering::Release);
    }

    /// An attempt is due after a first pause, where none is due already.
    pub(super) fn schedule(&self, attempts: u32) {
        self.attempts.store(attempts, Ordering::Release);
        self.retry_at.store(self.now() + pause(attempts), Ordering::Release);
    }

    /// How long until the next attempt is due.
    pub(super) fn due_in(&self) -> Duration {
        Duration::from_millis(self.retry_at.load(Ordering::Acquire).saturating_sub(self.now()))
    }

    /// Whether the next attempt is overdue by more than `by`: whoever was to make it is gone. Says
    /// so to one caller, who is to see to it.
    pub(super) fn is_overdue(&self, by: Duration) -> bool {
        let (now, retry_at) = (self.now(), self.retry_at.load(Ordering::Acquire));
        now > retry_at + millis(by) && self.move_attempt(retry_at, now)
    }

    /// Whether the caller is to make the attempt that is due.
    pub(super) fn begins_attempt(&self) -> bool {
        let (now, retry_at) = (self.now(), self.retry_at.load(Ordering::Acquire));
        let next = now + pause(self.attempts.load(Ordering::Acquire));
        now >= retry_at && self.move_attempt(retry_at, next)
    }

    fn move_attempt(&self, from: u64, to: u64) -> bool {
        self.retry_at.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn attempt_failed(&self) {
        self.schedule(self.attempts.load(Ordering::Acquire).saturating_add(1));
    }

    /// Puts the server back; `true` where it was ejected.
    pub(super) fn reinstate(&self) -> bool {
        self.attempts.store(0, Ordering::Release);
        if self.in_rotation() {
            return false;
        }
        self.failures.swap(0, Ordering::AcqRel) >= FAILURES
    }
}

/// The evidence on the server that the answers of one exchange give.
#[derive(Default)]
pub(super) struct HealthReport {
    /// True if a command was answered.
    answers: bool,
    /// True if a command was refused.
    refuses: bool,
    refused_read: Option<String>,
    lost: Option<String>,
}

impl HealthReport {
    /// Takes one answer into account; `is_read` says what was asked.
    pub(super) fn add(&mut self, is_read: bool, answer: &CommandResult) {
        let Err(CommandError { kind, why }) = answer else {
            self.answers = true;
            return;
        };
        let first = match kind {
            RemoteErrorKind::Lost => &mut self.lost,
            RemoteErrorKind::Unusable => &mut self.refused_read,
            // A write may be too large, or the memory full. No read is.
            _ => {
                self.refuses = true;
                if !is_read {
                    return;
                }
                &mut self.refused_read
            }
        };
        first.get_or_insert_with(|| why.clone());
    }

    pub(super) fn verdict(self) -> Verdict {
        match self {
            // A server that answers a part is slow, or the batch large; it is there.
            HealthReport { answers: true, .. } => Verdict::Answers,
            HealthReport { refused_read: Some(why), .. } => Verdict::Refuses(why),
            HealthReport { lost: Some(why), refuses: false, .. } => Verdict::Lost(why),
            _ => Verdict::Answers,
        }
    }
}

/// The verdict of one exchange on the server; a failure says why.
pub(super) enum Verdict {
    Answers,
    /// It is there, and refuses what no server should.
    Refuses(String),
    Lost(String),
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// In milliseconds.
fn pause(attempts: u32) -> u64 {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.min(16));
    millis(doubled.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ejected_server_is_tried_once_a_pause_and_comes_back() {
        let health = Health::default();
        // More fail at once than it takes: that does not lengthen the pause.
        let ejections = (0..FAILURES + 20).filter(|_| health.failed(false)).count();
        assert_eq!(ejections, 1, "one of them ejects it");
        assert!(!health.in_rotation() && !health.begins_attempt());
        std::thread::sleep(FIRST_PAUSE + Duration::from_millis(20));
        assert!(health.begins_attempt());
        assert!(!health.begins_attempt(), "the next waits for the first's answer");
        health.attempt_failed();
        std::thread::sleep(FIRST_PAUSE + Duration::from_millis(20));
        assert!(!health.begins_attempt(), "the pause has grown");
        health.succeeded();
        assert!(!health.in_rotation(), "a late answer alone does not bring it back");
        assert!(health.reinstate());
        assert!(health.in_rotation());
    }

    #[test]
    fn a_refused_read_counts_against_a_server_and_a_refused_write_does_not() {
        let verdict = |answers: &[(bool, CommandResult)]| {
            let mut report = HealthReport::default();
            answers.iter().for_each(|(is_read, answer)| report.add(*is_read, answer));
            match report.verdict() {
                Verdict::Answers => "answers",
                Verdict::Refuses(_) => "refuses",
                Verdict::Lost(_) => "lost",
            }
        };
        let refused = || Err(CommandError::refused("it does"));
        let lost = || Err(CommandError::lost("it is"));
        let answered = || Ok(super::super::command::Reply::Applied(true));
        assert_eq!(
            verdict(&[(false, Err(CommandError::too_large("it is"))), (true, lost())]),
            "answers"
        );
        assert_eq!(verdict(&[(false, refused())]), "answers");
        assert_eq!(verdict(&[(true, refused())]), "refuses");
        assert_eq!(verdict(&[(false, Err(CommandError::unusable("it is")))]), "refuses");
        assert_eq!(verdict(&[(true, lost()), (true, lost())]), "lost");
        assert_eq!(verdict(&[(true, lost()), (true, answered())]), "answers");
        assert_eq!(verdict(&[(true, refused()), (true, answered())]), "answers");
    }
}
