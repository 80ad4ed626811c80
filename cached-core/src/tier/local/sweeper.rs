//! A thread that frees what no call frees: entries that have expired, and values that were put aside
//! and that no call came to drop. It sleeps while there is nothing of either.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::aside::drop_all_aside;
use super::{Local, lock};

/// Between two rounds, so that each finds more than a few entries.
const PAUSE: Duration = Duration::from_secs(1);
/// And so many times what a round takes: that is a fiftieth of a processor at most.
const AT_MOST: u32 = 50;

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
    locals: Vec<Weak<Local>>,
}

static SWEEPER: Sweeper = Sweeper {
    state: Mutex::new(State { thread: None, locals: Vec::new() }),
    is_aside: AtomicBool::new(false),
};

/// Has the entries of this tier swept, from now on.
pub(super) fn watch(local: &Arc<Local>) {
    let mut state = lock(&SWEEPER.state);
    state.locals.retain(|local| local.strong_count() > 0);
    state.locals.push(Arc::downgrade(local));
}

/// An entry expires sooner than any that was there.
pub(super) fn wake() {
    // Where another has it, that is mostly the sweeper, which is awake. In a process that was forked it
    // may be nobody who is left.
    let Ok(mut state) = SWEEPER.state.try_lock() else { return };
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
    loop {
        wait();
        thread::sleep(PAUSE);
        SWEEPER.is_aside.store(false, Ordering::Relaxed);
        calmly(drop_all_aside);
        let began = Instant::now();
        locals().iter().for_each(|local| local.sweep());
        let took = began.elapsed();
        calmly(drop_all_aside);
        thread::sleep(took * AT_MOST);
    }
}

/// A value may panic when it is dropped: that ends its own way alone.
fn calmly(run: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(run));
}

fn locals() -> Vec<Arc<Local>> {
    lock(&SWEEPER.state).locals.iter().filter_map(Weak::upgrade).collect()
}

/// Until an entry has expired, or a value was put aside.
fn wait() {
    loop {
        let next = locals().iter().filter_map(|local| local.next_sweep()).min();
        if SWEEPER.is_aside.load(Ordering::Relaxed) || next.is_some_and(|next| next.is_zero()) {
            return;
        }
        thread::park_timeout(next.unwrap_or(LONGEST).min(LONGEST));
    }
}
