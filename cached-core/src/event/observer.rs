//! Observers of events, and the guard that keeps an observer from harming the calls of the program.

use std::any::type_name;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Event;
use crate::clock::CoarseInstant;
use crate::stats::ObserverStats;

/// An observer is paused if its calls take longer than this in total, within one
/// [`BUDGET_PERIOD`]. A call that is still running after this time counts as stuck.
const BUDGET: Duration = Duration::from_millis(100);
const BUDGET_PERIOD: Duration = Duration::from_secs(1);
/// How long a paused observer receives no events.
const PAUSE: Duration = Duration::from_secs(10);

/// A receiver of the events of a cache.
///
/// Pass an observer to [`CacheBuilder::observer`](crate::CacheBuilder::observer). The
/// [module](crate::event) has two examples.
///
/// The method [`event`](Self::event) runs on the thread that reports the event. For most events this
/// is the thread that polls the call, so task-locals of the call are there. Background writes,
/// refreshes and the sweep of expired entries report their events on other threads. The order of
/// events is the order in which one thread reports them.
///
/// # An observer harms only itself
/// - **It is slow.** The calls of an observer may take 100 ms in total within a second, on all
///   threads together. After that the observer receives no events for ten seconds. The log has one
///   warning. While a call of the observer has been running for more than 100 ms, other threads do
///   not call the observer.
/// - **It panics.** The panic is caught, and the call that reported the event goes on. The log has
///   one warning for each observer. (A program that is built with `panic = "abort"` ends.)
/// - **It causes events itself**, because it calls an annotated function or changes an entry. It does
///   not receive events that its own thread reports until its call has returned, and other observers
///   do. An annotated function that an observer calls runs without the cache, unless the memory of
///   this process has the value. Use the method only for work that does not wait: a fetch takes as
///   long as the upstream takes.
///
/// [`Stats::observers`](crate::Stats::observers) counts the events that an observer has received and
/// missed. A thread that is unwinding from a panic delivers no events.
///
/// An observer that owns a clone of its cache keeps the cache alive for ever. Let it own what it
/// needs of the cache, or set the cache later and as a weak reference of the program's own.
pub trait Observer: Send + Sync {
    /// Receives an event.
    fn event(&self, event: &Event<'_>);

    /// Returns the name by which the log and [`Stats::observers`](crate::Stats::observers) call the
    /// observer. The default is the name of the observer's type.
    fn name(&self) -> &str {
        type_name::<Self>()
    }
}

/// The observers that a builder was given.
#[derive(Clone, Default)]
pub(crate) struct ObserverList(Vec<Arc<dyn Observer>>);

impl ObserverList {
    pub(crate) fn push(&mut self, observer: Arc<dyn Observer>) {
        self.0.push(observer);
    }

    pub(super) fn guards(&self) -> Arc<[ObserverGuard]> {
        self.0.iter().map(|observer| ObserverGuard::new(Arc::clone(observer))).collect()
    }
}

impl fmt::Debug for ObserverList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|observer| observer.name())).finish()
    }
}

/// Calls one observer of one cache, catches its panics, and pauses it if it is slow.
///
/// Times are milliseconds of the coarse clock, and 0 stands for no time.
pub(super) struct ObserverGuard {
    observer: Arc<dyn Observer>,
    /// When the watched call began. One call at a time is watched; a stuck call is usually the
    /// watched one, because other calls are short.
    watched_since: AtomicU64,
    /// When the current [`BUDGET_PERIOD`] began.
    period_began: AtomicU64,
    /// The nanoseconds that calls have taken in the current period.
    used_nanos: AtomicU64,
    paused_until: AtomicU64,
    has_warned_of_pause: AtomicBool,
    received: AtomicU64,
    missed: AtomicU64,
    panics: AtomicU64,
}

impl ObserverGuard {
    fn new(observer: Arc<dyn Observer>) -> ObserverGuard {
        ObserverGuard {
            observer,
            watched_since: AtomicU64::new(0),
            period_began: AtomicU64::new(0),
            used_nanos: AtomicU64::new(0),
            paused_until: AtomicU64::new(0),
            has_warned_of_pause: AtomicBool::new(false),
            received: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        }
    }

    pub(super) fn stats(&self) -> ObserverStats {
        ObserverStats {
            name: self.observer.name().to_owned(),
            received: self.received.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
        }
    }

    /// Calls the observer, unless the observer has itself caused the event, is paused or is stuck.
    pub(super) fn deliver(&self, event: &Event<'_>) {
        let Some(_delivery) = Delivery::enter(self) else { return };
        let now = CoarseInstant::now().millis().max(1);
        if now < self.paused_until.load(Ordering::Relaxed)
            || self.is_stuck(now)
            || std::thread::panicking()
        {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let is_watched = self
            .watched_since
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| self.observer.event(event)));
        let took = began.elapsed();
        if is_watched {
            self.watched_since.store(0, Ordering::Relaxed);
        }
        self.received.fetch_add(1, Ordering::Relaxed);
        self.spend(took);
        if let Err(panic) = result {
            // The drop of the panic's payload is code of the program, too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
            if self.panics.fetch_add(1, Ordering::Relaxed) == 0 {
                let name = self.observer.name();
                log::warn!("the observer `{name}` has panicked; its later panics are only counted");
            }
        }
    }

    /// Returns true if the watched call has been running for longer than [`BUDGET`].
    fn is_stuck(&self, now: u64) -> bool {
        let since = self.watched_since.load(Ordering::Relaxed);
        let is_stuck = since != 0 && now.saturating_sub(since) > millis(BUDGET);
        if is_stuck {
            self.warn_of_pause();
        }
        is_stuck
    }

    /// Counts the time of a call, and pauses the observer if its budget is spent.
    fn spend(&self, took: Duration) {
        let now = CoarseInstant::now().millis();
        let began = self.period_began.load(Ordering::Relaxed);
        // Two threads may begin a period at once. The budget need not be exact.
        if now.saturating_sub(began) >= millis(BUDGET_PERIOD) {
            self.period_began.store(now, Ordering::Relaxed);
            self.used_nanos.store(0, Ordering::Relaxed);
        }
        let took = nanos(took);
        let used = self.used_nanos.fetch_add(took, Ordering::Relaxed).saturating_add(took);
        if used > nanos(BUDGET) {
            self.used_nanos.store(0, Ordering::Relaxed);
            self.paused_until.store(now + millis(PAUSE), Ordering::Relaxed);
            self.warn_of_pause();
        }
    }

    fn warn_of_pause(&self) {
        if !self.has_warned_of_pause.swap(true, Ordering::Relaxed) {
            log::warn!(
                "the observer `{}` takes more than {BUDGET:?} within {BUDGET_PERIOD:?}, so it \
                 receives no events for {PAUSE:?}; `Stats::observers` counts what it misses, now \
                 and whenever this happens again",
                self.observer.name()
            );
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The most observers whose calls are nested on one thread: the first observer causes an event for
/// the second, and so on. A deeper event is not delivered.
const MAX_NESTED: usize = 4;

thread_local! {
    /// The addresses of the guards whose observers this thread is calling, and zeros after them.
    /// The array needs no destructor, so reading it costs a miss next to nothing.
    static DELIVERIES: Cell<[usize; MAX_NESTED]> = const { Cell::new([0; MAX_NESTED]) };
}

/// Returns true if this thread is calling an observer.
#[inline]
pub(crate) fn is_in_observer() -> bool {
    DELIVERIES.get()[0] != 0
}

/// Marks that this thread is calling an observer, until the mark is dropped.
struct Delivery {
    depth: usize,
}

impl Delivery {
    /// Returns `None` if this thread is calling the observer already.
    fn enter(guard: &ObserverGuard) -> Option<Delivery> {
        let address = std::ptr::from_ref(guard).addr();
        let mut deliveries = DELIVERIES.get();
        if deliveries.contains(&address) {
            return None;
        }
        let depth = deliveries.iter().position(|address| *address == 0)?;
        deliveries[depth] = address;
        DELIVERIES.set(deliveries);
        Some(Delivery { depth })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let mut deliveries = DELIVERIES.get();
        deliveries[self.depth] = 0;
        DELIVERIES.set(deliveries);
    }
}
