//! Observers of events, and the guard that protects calls from slow and panicking observers.

use std::any::type_name;
use std::cell::Cell;
use std::fmt;
use std::num::NonZero;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::Event;
use crate::clock::CoarseInstant;
use crate::stats::ObserverStats;
use crate::telemetry::write_line;
use crate::unwind::catch_panic;

/// If one call of an observer has been running for longer than this, the observer counts as stuck.
/// After the call, the observer is paused.
const MAX_CALL: Duration = Duration::from_millis(100);
/// The time that each core adds to an observer's budget. If the observer's calls take longer in
/// total than the budget within one [`BUDGET_PERIOD`], the observer is paused. Threads call an
/// observer at the same time, so with a fixed budget a quick observer would be paused on a large
/// machine.
const BUDGET_PER_CORE: Duration = Duration::from_millis(100);
const BUDGET_PERIOD: Duration = Duration::from_secs(1);
/// How long a paused observer receives no events.
const PAUSE: Duration = Duration::from_secs(10);

/// A receiver of the events of a cache.
///
/// Pass an observer to [`CacheBuilder::observer`](crate::CacheBuilder::observer). The
/// [module](crate::event) has two examples.
///
/// The method [`event`](Self::event) runs on the thread that reports the event. For most events
/// this is the thread that polls the call, so the observer can read the call's task-locals.
/// Background writes, refreshes and the removal of expired entries report their events on other
/// threads. An observer receives the events of one thread in order; events of several threads may
/// overlap.
///
/// # An observer harms only itself
/// - **A slow observer is paused.** One call of an observer may take 100 ms. All its calls within a
///   second may take 100 ms for each core that the program may use. If they take longer, the
///   observer receives no events for ten seconds, and the log has one warning. If one call of the
///   observer has been running for more than 100 ms, other threads skip the observer until the call
///   returns.
/// - **A panicking observer is called again.** The panic is caught, and the call that reported the
///   event goes on. The log has one warning for each observer. (A program that is built with
///   `panic = "abort"` ends.)
/// - **An observer that causes events does not receive them.** It may call an annotated function or
///   change an entry. The events that it causes on the same thread go only to the other observers.
///   An annotated function that an observer calls runs without the cache, unless the request tier
///   or the local tier has the value.
///
/// The method [`event`](Self::event) must not wait, for example for a fetch. Hand long work to
/// another thread. The call that reports an event waits until the method returns. Other calls that
/// wait for the same fetch wait as well. If the method never returns, its thread is lost. If this
/// is the thread `cached-sweeper`, no cache of the process frees expired values in the background
/// any more.
///
/// [`Stats::observers`](crate::Stats::observers) counts the events that an observer has received
/// and missed. If an annotated function panics, the thread reports the end of the call while it
/// unwinds. An observer can therefore be called on a thread that is panicking.
///
/// An observer that owns a clone of its cache keeps the cache alive forever. Give the observer only
/// the data that it needs, or a `Weak` of a struct that owns the cache.
pub trait Observer: Send + Sync {
    /// Receives an event.
    fn event(&self, event: &Event<'_>);

    /// Returns the observer's name, which appears in the log and in
    /// [`Stats::observers`](crate::Stats::observers). The default is the name of the observer's
    /// type.
    ///
    /// [`CacheBuilder::observer`](crate::CacheBuilder::observer) calls this method once and keeps
    /// the name. A panic of this method reaches the caller of the builder.
    fn name(&self) -> &str {
        type_name::<Self>()
    }
}

/// An observer with its name. `Observer::name` is called only once, because the program implements
/// it: it can be slow, and can return another name later.
#[derive(Clone)]
struct NamedObserver {
    name: Arc<str>,
    observer: Arc<dyn Observer>,
}

impl NamedObserver {
    fn new(observer: Arc<dyn Observer>) -> NamedObserver {
        NamedObserver { name: observer.name().into(), observer }
    }
}

/// The observers that were passed to a builder.
#[derive(Clone, Default)]
pub(crate) struct ObserverList(Vec<NamedObserver>);

impl ObserverList {
    pub(crate) fn push(&mut self, observer: Arc<dyn Observer>) {
        self.0.push(NamedObserver::new(observer));
    }

    pub(super) fn guards(&self) -> Arc<[ObserverGuard]> {
        let cores = available_parallelism().map_or(1, NonZero::get);
        let budget = BUDGET_PER_CORE.saturating_mul(u32::try_from(cores).unwrap_or(u32::MAX));
        self.0.iter().map(|named| ObserverGuard::new(named.clone(), budget)).collect()
    }
}

impl fmt::Debug for ObserverList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|named| &named.name)).finish()
    }
}

/// Calls one observer of one cache, catches its panics, and pauses it if it is slow.
///
/// The fields store a point in time as milliseconds of the coarse clock, or 0 if there is none.
pub(super) struct ObserverGuard {
    named: NamedObserver,
    /// The longest time that the calls of all threads may take within one [`BUDGET_PERIOD`].
    budget: Duration,
    /// When the watched call began. Only one call at a time is watched, from its beginning to its
    /// end. Most calls are short, so when a call that gets stuck begins, usually no other call is
    /// watched.
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
    fn new(named: NamedObserver, budget: Duration) -> ObserverGuard {
        ObserverGuard {
            named,
            budget,
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
            name: self.named.name.to_string(),
            received: self.received.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
        }
    }

    /// Calls the observer, unless the observer caused the event itself, is paused or is stuck.
    pub(super) fn deliver(&self, event: &Event<'_>) {
        let Some(_delivery) = DeliveryMark::enter(self) else { return };
        let now = CoarseInstant::now().millis().max(1);
        if now < self.paused_until.load(Ordering::Relaxed) || self.is_stuck(now) {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let is_watched = self
            .watched_since
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        let began = Instant::now();
        let result = catch_panic(|| self.named.observer.event(event));
        let took = began.elapsed();
        if is_watched {
            self.watched_since.store(0, Ordering::Relaxed);
        }
        self.received.fetch_add(1, Ordering::Relaxed);
        self.spend(took);
        if result.is_none() && self.panics.fetch_add(1, Ordering::Relaxed) == 0 {
            let name = &self.named.name;
            write_line!(
                warn,
                "the observer `{name}` has panicked; its later panics are only counted"
            );
        }
    }

    /// Returns true if the watched call has been running for longer than [`MAX_CALL`].
    fn is_stuck(&self, now: u64) -> bool {
        let since = self.watched_since.load(Ordering::Relaxed);
        let is_stuck = since != 0 && now.saturating_sub(since) > millis(MAX_CALL);
        if is_stuck {
            self.warn_of_pause();
        }
        is_stuck
    }

    /// Adds the duration of a call to the used time. Pauses the observer if its budget is spent, or
    /// if the call has taken too long.
    fn spend(&self, took: Duration) {
        let now = CoarseInstant::now().millis();
        let began = self.period_began.load(Ordering::Relaxed);
        // Two threads can start a new period at the same time. The used time is then a little too
        // low, which is harmless.
        if now.saturating_sub(began) >= millis(BUDGET_PERIOD) {
            self.period_began.store(now, Ordering::Relaxed);
            self.used_nanos.store(0, Ordering::Relaxed);
        }
        let nanos_taken = nanos(took);
        let before = self.used_nanos.fetch_add(nanos_taken, Ordering::Relaxed);
        if took > MAX_CALL || before.saturating_add(nanos_taken) > nanos(self.budget) {
            self.used_nanos.store(0, Ordering::Relaxed);
            self.paused_until.store(now + millis(PAUSE), Ordering::Relaxed);
            self.warn_of_pause();
        }
    }

    fn warn_of_pause(&self) {
        if !self.has_warned_of_pause.swap(true, Ordering::Relaxed) {
            write_line!(
                warn,
                "the observer `{}` takes more than {MAX_CALL:?} in one call, or more than {:?} \
                 within {BUDGET_PERIOD:?} on all threads, so it receives no events for {PAUSE:?}; \
                 `Stats::observers` counts what it misses, now and whenever this happens again",
                self.named.name,
                self.budget
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

/// How deeply calls of observers may be nested on one thread: one observer causes an event, which
/// is delivered to a second observer, and so on. Events at a greater depth are not delivered.
const MAX_NESTED: usize = 4;

thread_local! {
    /// The addresses of the observers that this thread is calling, followed by zeros. The array
    /// needs no destructor, so every cache miss can read it at almost no cost.
    static DELIVERIES: Cell<[usize; MAX_NESTED]> = const { Cell::new([0; MAX_NESTED]) };
}

/// Returns true if this thread is calling an observer.
#[inline]
pub(crate) fn is_in_observer() -> bool {
    DELIVERIES.get()[0] != 0
}

/// Marks that this thread is calling an observer. `Drop` removes the mark.
struct DeliveryMark {
    depth: usize,
}

impl DeliveryMark {
    /// Returns `None` if this thread is already calling the observer, or if the calls are nested
    /// too deeply.
    fn enter(guard: &ObserverGuard) -> Option<DeliveryMark> {
        // The observer is compared, not its guard: one observer can be registered twice, or with
        // two caches.
        let address = Arc::as_ptr(&guard.named.observer).addr();
        let mut deliveries = DELIVERIES.get();
        if deliveries.contains(&address) {
            return None;
        }
        let depth = deliveries.iter().position(|address| *address == 0)?;
        deliveries[depth] = address;
        DELIVERIES.set(deliveries);
        Some(DeliveryMark { depth })
    }
}

impl Drop for DeliveryMark {
    fn drop(&mut self) {
        let mut deliveries = DELIVERIES.get();
        deliveries[self.depth] = 0;
        DELIVERIES.set(deliveries);
    }
}

#[cfg(test)]
mod tests;
