//! The sweeper: a background thread that frees the memory of expired entries, also in an idle
//! process. One thread serves all caches of the process.
//!
//! The thread works in *rounds*, and sleeps while there is nothing to do. In a round, the thread
//! *sweeps* the local tier of each cache: it removes the tier's expired entries. The thread also
//! runs all *deferred drops*: the drops of removed values that could not run at once, for example
//! because a lock was held. See [`deferred_drops`](super::deferred_drops).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::LocalTier;
use super::deferred_drops::run_all_deferred_drops;
use super::entry::ClockConverter;
use crate::clock::{Clock, CoarseInstant};
use crate::sync::lock;
use crate::unwind::catch_panic;

/// The pause before a round, so that one round finds many expired entries. If the last round left
/// expired entries, there is no such pause.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// After a round that has removed all expired entries, the thread pauses for this many times the
/// length of the round, up to [`MAX_PAUSE`]. The thread thus uses about a fiftieth of a processor,
/// unless a round takes more than 0.1 s.
const PAUSE_FACTOR: u32 = 50;
/// The longest pause after a round.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The longest time that the thread sleeps before it looks for work again.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// How many times [`wake`] tries to lock the sweeper's state.
const MAX_LOCK_ATTEMPTS: usize = 100;

/// The data that callers share with the sweeper's thread.
struct Sweeper {
    state: Mutex<SweeperState>,
    /// Set when a drop is deferred, and cleared when a round begins.
    has_deferred_drops: AtomicBool,
}

/// The sweeper's thread, and the tiers that it sweeps.
struct SweeperState {
    thread: Option<SweeperThread>,
    tiers: Vec<(Weak<LocalTier>, Arc<SweepSchedule>)>,
}

/// The thread of one process. A forked child has to start its own thread.
struct SweeperThread {
    /// The id of the process that started the thread.
    process: u32,
    /// `None` until the thread runs. The thread looks for work as soon as it runs, so nothing has
    /// to wake it before.
    handle: Option<Thread>,
}

/// The time of a tier's next sweep, and the tier's clock. The sweeper and the tier share this
/// struct, so the sweeper can read the time without keeping the tier alive.
pub(super) struct SweepSchedule {
    /// The time of the next sweep, in ticks of [`CoarseInstant`]. Before this time, the tier has no
    /// expired entry to remove.
    next_sweep: AtomicU64,
    /// True if the tier's capacity is exceeded, so that the next round must evict entries.
    needs_eviction: AtomicBool,
    converter: ClockConverter,
    clock: Clock,
}

impl SweepSchedule {
    pub(super) fn new(clock: Clock) -> Arc<SweepSchedule> {
        let next_sweep = AtomicU64::new(CoarseInstant::NEVER.to_ticks());
        Arc::new(SweepSchedule {
            next_sweep,
            needs_eviction: AtomicBool::new(false),
            converter: ClockConverter::new(&clock),
            clock,
        })
    }

    pub(super) fn converter(&self) -> &ClockConverter {
        &self.converter
    }

    /// Reads the precise clock, and converts the time to a [`CoarseInstant`].
    pub(super) fn now(&self) -> CoarseInstant {
        self.converter.to_coarse(self.clock.now())
    }

    /// Schedules a sweep at `time`. Does nothing if an earlier sweep is scheduled.
    pub(super) fn add(&self, time: CoarseInstant) {
        let time = time.to_ticks();
        if time < self.next_sweep.load(Ordering::Relaxed)
            && time < self.next_sweep.fetch_min(time, Ordering::Relaxed)
        {
            wake();
        }
    }

    /// Makes the next round evict entries, because the tier's capacity is exceeded.
    pub(super) fn add_eviction(&self) {
        if !self.needs_eviction.load(Ordering::Relaxed)
            && !self.needs_eviction.swap(true, Ordering::Relaxed)
        {
            wake();
        }
    }

    /// Returns true if the tier must evict entries, and resets `needs_eviction`.
    pub(super) fn take_eviction(&self) -> bool {
        self.needs_eviction.swap(false, Ordering::Relaxed)
    }

    fn next_sweep(&self) -> CoarseInstant {
        CoarseInstant::from_ticks(self.next_sweep.load(Ordering::Relaxed))
    }

    /// Returns the time until the tier needs a round, or `None` if nothing is scheduled.
    fn time_left(&self) -> Option<Duration> {
        if self.needs_eviction.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        let next = self.next_sweep();
        (next < CoarseInstant::NEVER).then(|| next.since(self.now()))
    }

    /// Returns true if a sweep is due, and removes a due sweep from the schedule.
    pub(super) fn take_due(&self, now: CoarseInstant) -> bool {
        let is_due = self.next_sweep() <= now;
        if is_due {
            self.next_sweep.store(CoarseInstant::NEVER.to_ticks(), Ordering::Relaxed);
            // The sweep can miss an entry that is just being inserted. Because of this fence, the
            // insertion of such an entry schedules another sweep after the store above.
            fence(Ordering::SeqCst);
        }
        is_due
    }
}

static SWEEPER: Sweeper = Sweeper {
    state: Mutex::new(SweeperState { thread: None, tiers: Vec::new() }),
    has_deferred_drops: AtomicBool::new(false),
};

/// Adds a tier to the sweeper's list.
pub(super) fn register(local: &Arc<LocalTier>, schedule: &Arc<SweepSchedule>) {
    let mut state = lock(&SWEEPER.state);
    state.tiers.retain(|(local, _)| local.strong_count() > 0);
    state.tiers.push((Arc::downgrade(local), Arc::clone(schedule)));
}

/// Wakes the sweeper's thread, or starts the thread if this process has none.
fn wake() {
    SWEEPER.wake_or_start(|| thread::Builder::new().name("cached-sweeper".to_owned()).spawn(run));
}

impl Sweeper {
    /// Wakes the thread, or calls `spawn` if this process has no thread.
    ///
    /// Spawning a thread takes long, so the lock is released before. If the process forked while a
    /// thread held the lock, the lock would stay locked in the child. The child would then wait
    /// forever when it registers a tier.
    fn wake_or_start<T>(&self, spawn: impl FnOnce() -> std::io::Result<T>) {
        // In a forked child, the thread that held the lock may not exist, so this code must not
        // wait for the lock. A few attempts suffice, because threads hold the lock only briefly.
        let mut attempts = (0..MAX_LOCK_ATTEMPTS)
            .map(|_| self.state.try_lock().inspect_err(|_| thread::yield_now()));
        let Some(mut state) = attempts.find_map(Result::ok) else { return };
        let process = std::process::id();
        if let Some(thread) = state.thread.as_ref().filter(|thread| thread.process == process) {
            thread.handle.iter().for_each(Thread::unpark);
            return;
        }
        state.thread = Some(SweeperThread { process, handle: None });
        drop(state);
        if spawn().is_err() {
            // Without a thread, expired entries stay until the policy evicts them, or until a later
            // call starts a thread.
            lock(&self.state).thread = None;
        }
    }
}

/// Wakes the thread because a drop was deferred. Usually the call that deferred the drop runs it
/// before the thread does.
pub(super) fn wake_for_drops() {
    let flag = &SWEEPER.has_deferred_drops;
    if !flag.load(Ordering::Relaxed) && !flag.swap(true, Ordering::Relaxed) {
        wake();
    }
}

fn run() {
    let thread = SweeperThread { process: std::process::id(), handle: Some(thread::current()) };
    lock(&SWEEPER.state).thread = Some(thread);
    let mut has_more = false;
    loop {
        wait_for_work();
        thread::sleep(if has_more { Duration::ZERO } else { MIN_PAUSE });
        SWEEPER.has_deferred_drops.store(false, Ordering::Relaxed);
        run_all_deferred_drops();
        let started = Instant::now();
        has_more = false;
        for (local, _) in tiers() {
            // A sweep can run the `Drop` of a value. If the `Drop` panics, this thread must go on.
            let _ = catch_panic(|| {
                has_more |= local.upgrade().is_some_and(|local| local.sweep());
            });
        }
        let took = started.elapsed();
        run_all_deferred_drops();
        // A sweep removes a limited number of entries. If expired entries remain (`has_more`), the
        // next round begins after a shorter pause.
        thread::sleep(if has_more { took } else { took * PAUSE_FACTOR }.min(MAX_PAUSE));
    }
}

fn tiers() -> Vec<(Weak<LocalTier>, Arc<SweepSchedule>)> {
    lock(&SWEEPER.state).tiers.clone()
}

/// Waits until a sweep is due or a drop is deferred.
fn wait_for_work() {
    loop {
        let live = tiers().into_iter().filter(|(local, _)| local.strong_count() > 0);
        let next = live.filter_map(|(_, schedule)| schedule.time_left()).min();
        if SWEEPER.has_deferred_drops.load(Ordering::Relaxed)
            || next.is_some_and(|next| next.is_zero())
        {
            return;
        }
        thread::park_timeout(next.unwrap_or(MAX_SLEEP).min(MAX_SLEEP));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_is_spawned_without_the_lock() {
        let sweeper = Sweeper {
            state: Mutex::new(SweeperState { thread: None, tiers: Vec::new() }),
            has_deferred_drops: AtomicBool::new(false),
        };
        let has_thread = || lock(&sweeper.state).thread.is_some();
        sweeper.wake_or_start(|| -> std::io::Result<()> {
            assert!(sweeper.state.try_lock().is_ok(), "the lock is free while the thread starts");
            Err(std::io::ErrorKind::OutOfMemory.into())
        });
        assert!(!has_thread(), "a failed start does not count as a thread");
        sweeper.wake_or_start(|| {
            // While a thread is about to start, no second thread is started.
            sweeper.wake_or_start(|| -> std::io::Result<()> {
                unreachable!("the thread is starting")
            });
            Ok(())
        });
        assert!(has_thread());
    }
}
