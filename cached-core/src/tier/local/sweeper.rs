//! A thread that frees what no call frees: entries that have expired, and values that were put aside
//! and that no call came to drop. It sleeps while there is nothing of either.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::aside::run_all_deferred_drops;
use super::entry::Since;
use super::{LocalTier, lock};
use crate::clock::{Clock, CoarseInstant};

/// Between two rounds, so that each finds more than a few entries.
const PAUSE: Duration = Duration::from_secs(1);
/// And so many times what a round takes: that is a fiftieth of a processor at most.
const AT_MOST: u32 = 50;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often it is tried to wake the sweeper.
const TRIES: usize = 100;
/// However long nothing is to be done.
const LONGEST: Duration = Duration::from_secs(60);

struct Sweeper {
    state: Mutex<State>,
    /// A value was put aside since the last round.
    is_aside: AtomicBool,
}

struct State {
    /// The thread, and its process: one that was forked begins a thread of its own.
    thread: Option<(Thread, u32)>,
    locals: Vec<(Weak<LocalTier>, Arc<Due>)>,
}

/// When a tier is to be swept. Apart from the tier, which a thread that looks at this does not keep alive.
pub(super) struct Due {
    /// When the first entry is of no use any more, or sooner; a [`CoarseInstant`].
    first_gone: AtomicU64,
    since: Since,
    clock: Clock,
}

impl Due {
    pub(super) fn new(clock: Clock) -> Arc<Due> {
        let first_gone = AtomicU64::new(CoarseInstant::NEVER.number());
        Arc::new(Due { first_gone, since: Since::new(&clock), clock })
    }

    pub(super) fn since(&self) -> &Since {
        &self.since
    }

    /// The time by the precise clock.
    pub(super) fn now(&self) -> CoarseInstant {
        self.since.time(self.clock.now())
    }

    /// An entry is of no use any more at this time.
    pub(super) fn at(&self, gone: CoarseInstant) {
        let gone = gone.number();
        if gone < self.first_gone.load(Ordering::Relaxed)
            && gone < self.first_gone.fetch_min(gone, Ordering::Relaxed)
        {
            wake();
        }
    }

    /// How long there is nothing to sweep yet; `None` where no entry will ever be of no use.
    fn left(&self) -> Option<Duration> {
        let gone = CoarseInstant::of_number(self.first_gone.load(Ordering::Relaxed));
        (gone < CoarseInstant::NEVER).then(|| gone.since(self.now()))
    }

    /// Returns true if there is something to sweep, and counts as swept then.
    pub(super) fn is_over(&self, now: CoarseInstant) -> bool {
        let is_over = CoarseInstant::of_number(self.first_gone.load(Ordering::Relaxed)) <= now;
        if is_over {
            self.first_gone.store(CoarseInstant::NEVER.number(), Ordering::Relaxed);
            // Whoever puts an entry in that is not found after this says when it is gone after it.
            fence(Ordering::SeqCst);
        }
        is_over
    }
}

static SWEEPER: Sweeper = Sweeper {
    state: Mutex::new(State { thread: None, locals: Vec::new() }),
    is_aside: AtomicBool::new(false),
};

/// Has the entries of this tier swept, from now on.
pub(super) fn watch(local: &Arc<LocalTier>, due: &Arc<Due>) {
    let mut state = lock(&SWEEPER.state);
    state.locals.retain(|(local, _)| local.strong_count() > 0);
    state.locals.push((Arc::downgrade(local), Arc::clone(due)));
}

/// There is something to do sooner than there was.
fn wake() {
    // Others have it for a moment. In a process that was forked it may be nobody who is left.
    let mut tries =
        (0..TRIES).map(|_| SWEEPER.state.try_lock().inspect_err(|_| thread::yield_now()));
    let Some(mut state) = tries.find_map(Result::ok) else { return };
    let here = std::process::id();
    match &state.thread {
        Some((thread, process)) if *process == here => thread.unpark(),
        _ => {
            // Without a thread what has expired goes when room is made.
            let began = thread::Builder::new().name("cached-sweeper".to_owned()).spawn(sweep);
            state.thread = began.ok().map(|began| (began.thread().clone(), here));
        }
    }
}

/// A value was put aside. Mostly the call that did that drops it in a moment.
pub(super) fn wake_for_aside() {
    if !SWEEPER.is_aside.load(Ordering::Relaxed) && !SWEEPER.is_aside.swap(true, Ordering::Relaxed)
    {
        wake();
    }
}

fn sweep() {
    let mut is_more = false;
    loop {
        wait();
        thread::sleep(if is_more { Duration::ZERO } else { PAUSE });
        SWEEPER.is_aside.store(false, Ordering::Relaxed);
        calmly(run_all_deferred_drops);
        let began = Instant::now();
        is_more = false;
        for (local, _) in locals() {
            calmly(|| is_more |= local.upgrade().is_some_and(|local| local.sweep()));
        }
        let took = began.elapsed();
        calmly(run_all_deferred_drops);
        // What has expired is not to wait for minutes where it is much.
        thread::sleep(if is_more { took } else { took * AT_MOST }.min(LONGEST_PAUSE));
    }
}

/// A value may panic when it is dropped: that ends its own way alone.
fn calmly(run: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(run));
}

fn locals() -> Vec<(Weak<LocalTier>, Arc<Due>)> {
    lock(&SWEEPER.state).locals.clone()
}

/// Until an entry has expired, or a value was put aside.
fn wait() {
    loop {
        let alive = locals().into_iter().filter(|(local, _)| local.strong_count() > 0);
        let next = alive.filter_map(|(_, due)| due.left()).min();
        if SWEEPER.is_aside.load(Ordering::Relaxed) || next.is_some_and(|next| next.is_zero()) {
            return;
        }
        thread::park_timeout(next.unwrap_or(LONGEST).min(LONGEST));
    }
}
