//! A background thread that frees memory in an idle process: it removes expired entries and runs
//! deferred drops. It serves all caches of the process, and sleeps while there is nothing to do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::LocalTier;
use super::deferred_drops::run_all_deferred_drops;
use super::entry::ClockConverter;
use crate::clock::{Clock, CoarseInstant};
use crate::sync::lock;

/// The pause before each round, so that a round finds more than a few entries.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// The pause after a round is this many times as long as the round, so that the thread uses a fiftieth of
/// a processor at most.
const PAUSE_FACTOR: u32 = 50;
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long the thread sleeps while nothing is scheduled.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// How often a caller tries to lock the sweeper's state in order to wake the thread.
const MAX_LOCK_ATTEMPTS: usize = 100;

struct Sweeper {
    state: Mutex<SweeperState>,
    /// Set when a drop is deferred, cleared when a round begins.
    has_deferred_drops: AtomicBool,
}

struct SweeperState {
    /// The thread, and the id of its process: a forked process has to start a thread of its own.
    thread: Option<(Thread, u32)>,
    tiers: Vec<(Weak<LocalTier>, Arc<SweepSchedule>)>,
}

/// The time of a tier's next sweep. It is a struct of its own, so that the sweeper can read it without
/// keeping the tier alive.
pub(super) struct SweepSchedule {
    /// The time at which the first entry can be removed, or an earlier one, as [`CoarseInstant`] ticks.
    next_sweep: AtomicU64,
    converter: ClockConverter,
    clock: Clock,
}

impl SweepSchedule {
    pub(super) fn new(clock: Clock) -> Arc<SweepSchedule> {
        let next_sweep = AtomicU64::new(CoarseInstant::NEVER.to_ticks());
        Arc::new(SweepSchedule { next_sweep, converter: ClockConverter::new(&clock), clock })
    }

    pub(super) fn converter(&self) -> &ClockConverter {
        &self.converter
    }

    /// Returns the time of the precise clock.
    pub(super) fn now(&self) -> CoarseInstant {
        self.converter.to_coarse(self.clock.now())
    }

    /// Schedules a sweep at `time`, unless there is an earlier one.
    pub(super) fn add(&self, time: CoarseInstant) {
        let time = time.to_ticks();
        if time < self.next_sweep.load(Ordering::Relaxed)
            && time < self.next_sweep.fetch_min(time, Ordering::Relaxed)
        {
            wake();
        }
    }

    fn next_sweep(&self) -> CoarseInstant {
        CoarseInstant::from_ticks(self.next_sweep.load(Ordering::Relaxed))
    }

    /// Returns the time until the next sweep, or `None` if none is scheduled.
    fn time_left(&self) -> Option<Duration> {
        let next = self.next_sweep();
        (next < CoarseInstant::NEVER).then(|| next.since(self.now()))
    }

    /// Returns true if a sweep is due, and then removes it from the schedule.
    pub(super) fn take_due(&self, now: CoarseInstant) -> bool {
        let is_due = self.next_sweep() <= now;
        if is_due {
            self.next_sweep.store(CoarseInstant::NEVER.to_ticks(), Ordering::Relaxed);
            // An insertion that the sweep does not see in the index schedules its own sweep after this.
            fence(Ordering::SeqCst);
        }
        is_due
    }
}

static SWEEPER: Sweeper = Sweeper {
    state: Mutex::new(SweeperState { thread: None, tiers: Vec::new() }),
    has_deferred_drops: AtomicBool::new(false),
};

/// Has the sweeper sweep this tier from now on.
pub(super) fn register(local: &Arc<LocalTier>, schedule: &Arc<SweepSchedule>) {
    let mut state = lock(&SWEEPER.state);
    state.tiers.retain(|(local, _)| local.strong_count() > 0);
    state.tiers.push((Arc::downgrade(local), Arc::clone(schedule)));
}

/// Wakes the thread, or starts it.
fn wake() {
    // Others hold the lock for a moment only. But in a forked process its holder may not exist.
    let mut attempts = (0..MAX_LOCK_ATTEMPTS)
        .map(|_| SWEEPER.state.try_lock().inspect_err(|_| thread::yield_now()));
    let Some(mut state) = attempts.find_map(Result::ok) else { return };
    let process = std::process::id();
    match &state.thread {
        Some((thread, started_by)) if *started_by == process => thread.unpark(),
        _ => {
            // If no thread can be started, expired entries stay until they are evicted.
            let started = thread::Builder::new().name("cached-sweeper".to_owned()).spawn(run);
            state.thread = started.ok().map(|started| (started.thread().clone(), process));
        }
    }
}

/// Wakes the thread because a drop was deferred. Usually the call that deferred it runs it first.
pub(super) fn wake_for_drops() {
    let flag = &SWEEPER.has_deferred_drops;
    if !flag.load(Ordering::Relaxed) && !flag.swap(true, Ordering::Relaxed) {
        wake();
    }
}

fn run() {
    let mut has_more = false;
    loop {
        wait_for_work();
        thread::sleep(if has_more { Duration::ZERO } else { MIN_PAUSE });
        SWEEPER.has_deferred_drops.store(false, Ordering::Relaxed);
        ignore_panics(run_all_deferred_drops);
        let started = Instant::now();
        has_more = false;
        for (local, _) in tiers() {
            ignore_panics(|| has_more |= local.upgrade().is_some_and(|local| local.sweep()));
        }
        let took = started.elapsed();
        ignore_panics(run_all_deferred_drops);
        // Many expired entries must not wait for minutes.
        thread::sleep(if has_more { took } else { took * PAUSE_FACTOR }.min(MAX_PAUSE));
    }
}

/// Values may panic when they are dropped.
fn ignore_panics(run: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(run));
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
