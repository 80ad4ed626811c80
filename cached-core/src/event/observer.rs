//! Observers of events, and the guard that protects calls from slow and panicking observers.

use std::any::type_name;
use std::cell::Cell;
use std::fmt;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::Event;
use crate::clock::CoarseInstant;
use crate::stats::ObserverStats;

/// If one call of an observer has been running for longer than this, the observer counts as stuck.
/// After the call, the observer is paused.
const MAX_CALL: Duration = Duration::from_millis(100);
/// If all calls of an observer within one [`BUDGET_PERIOD`] take longer than this for each core,
/// the observer is paused. Threads call an observer at the same time, so the budget must grow with
/// the cores. Otherwise a quick observer would be paused on a large machine.
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
/// The method must not wait, for example for a fetch. Hand long work to another thread. The call
/// that reports an event waits until the method returns, and so do the calls that wait for the
/// fetch of this call. If the method never returns, its thread is lost. On the thread
/// `cached-sweeper`, this means that no cache of the process frees expired values in the background
/// any more.
///
/// [`Stats::observers`](crate::Stats::observers) counts the events that an observer has received
/// and missed. A thread that is unwinding from a panic delivers no events.
///
/// An observer that owns a clone of its cache keeps the cache alive forever. Give the observer only
/// the data that it needs, or a `Weak` of a struct that owns the cache.
pub trait Observer: Send + Sync {
    /// Receives an event.
    fn event(&self, event: &Event<'_>);

    /// Returns the name by which the log and [`Stats::observers`](crate::Stats::observers) call the
    /// observer. The default is the name of the observer's type.
    ///
    /// [`CacheBuilder::observer`](crate::CacheBuilder::observer) calls this method once and keeps
    /// the name. A panic of this method reaches the caller of the builder.
    fn name(&self) -> &str {
        type_name::<Self>()
    }
}

/// An observer with its name. `Observer::name` is code of the program, so it is called only once.
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
/// Points in time are milliseconds of the coarse clock; 0 stands for `None`.
pub(super) struct ObserverGuard {
    named: NamedObserver,
    /// The longest time that the calls of all threads may take within one [`BUDGET_PERIOD`].
    budget: Duration,
    /// When the watched call began. Only one call at a time is watched. If a call is stuck, it is
    /// usually the watched one, because other calls are short.
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
        let result = catch_unwind(AssertUnwindSafe(|| self.named.observer.event(event)));
        let took = began.elapsed();
        if is_watched {
            self.watched_since.store(0, Ordering::Relaxed);
        }
        self.received.fetch_add(1, Ordering::Relaxed);
        self.spend(took);
        if let Err(panic) = result {
            // Dropping the panic's payload runs code of the program, which may panic too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
            if self.panics.fetch_add(1, Ordering::Relaxed) == 0 {
                let name = &self.named.name;
                log::warn!("the observer `{name}` has panicked; its later panics are only counted");
            }
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
        // Two threads may start a new period at the same time. The budget need not be exact.
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
            log::warn!(
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
    /// The addresses of the guards whose observers this thread is calling, followed by zeros. The
    /// array needs no destructor, so a miss can read it at almost no cost.
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
        let address = std::ptr::from_ref(guard).addr();
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
mod tests {
    use std::sync::mpsc::channel;
    use std::sync::{Mutex, OnceLock};
    use std::thread;

    use super::super::EventDispatcher;
    use super::*;
    use crate::in_time::in_time;

    const EVENT: Event<'_> = Event::Cleared { function: None, entries: 0 };

    /// An observer that calls a function for each event.
    struct CallingObserver<F>(F);

    impl<F: Fn() + Send + Sync> Observer for CallingObserver<F> {
        fn event(&self, _: &Event<'_>) {
            (self.0)();
        }
    }

    fn guard(act: impl Fn() + Send + Sync + 'static) -> ObserverGuard {
        guard_with_budget(BUDGET_PER_CORE, act)
    }

    fn guard_with_budget(
        budget: Duration,
        act: impl Fn() + Send + Sync + 'static,
    ) -> ObserverGuard {
        ObserverGuard::new(NamedObserver::new(Arc::new(CallingObserver(act))), budget)
    }

    /// Returns how many events the observer has received and missed, and how often it has panicked.
    fn counts(guard: &ObserverGuard) -> (u64, u64, u64) {
        let ObserverStats { received, missed, panics, .. } = guard.stats();
        (received, missed, panics)
    }

    /// A panic payload that panics again when it is dropped.
    struct PanickingPayload;

    impl Drop for PanickingPayload {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic!("the payload is dropped");
            }
        }
    }

    #[test]
    fn observer_panics_are_caught_and_counted() {
        let observer = guard(|| std::panic::panic_any(PanickingPayload));
        for _ in 0..3 {
            observer.deliver(&EVENT);
            // A panic that prints a backtrace may take so long that the observer is paused.
            observer.paused_until.store(0, Ordering::Relaxed);
        }
        assert_eq!(counts(&observer), (3, 0, 3));
    }

    #[test]
    fn a_slow_observer_is_paused_for_a_while() {
        let nap = MAX_CALL + Duration::from_millis(20);
        let naps = AtomicU64::new(1);
        let observer = guard_with_budget(10 * nap, move || {
            if naps.swap(0, Ordering::Relaxed) == 1 {
                thread::sleep(nap);
            }
        });
        (0..6).for_each(|_| observer.deliver(&EVENT));
        assert_eq!(counts(&observer), (1, 5, 0));
        // This ends the pause, and tells how long it would have lasted.
        let left = observer.paused_until.swap(1, Ordering::Relaxed);
        let left = Duration::from_millis(left - CoarseInstant::now().millis());
        assert!(left > PAUSE - Duration::from_secs(2) && left <= PAUSE, "{left:?}");
        (0..4).for_each(|_| observer.deliver(&EVENT));
        assert_eq!(counts(&observer), (5, 5, 0));
    }

    #[test]
    fn many_short_calls_spend_the_budget_too() {
        let observer = guard(|| thread::sleep(Duration::from_millis(5)));
        let began = Instant::now();
        while counts(&observer).1 == 0 {
            observer.deliver(&EVENT);
            assert!(began.elapsed() < Duration::from_secs(20), "the observer is paused in time");
        }
        assert!(counts(&observer).0 <= 21, "21 calls of 5 ms spend the budget");
    }

    #[test]
    fn the_budget_grows_with_the_cores() {
        let mut list = ObserverList::default();
        list.push(Arc::new(CallingObserver(|| ())));
        let cores = available_parallelism().expect("the system knows its cores").get() as u64;
        let observer = &list.guards()[0];
        observer.period_began.store(CoarseInstant::now().millis(), Ordering::Relaxed);
        // No call is too long, and the sum is just within the budget.
        (0..cores).for_each(|_| observer.spend(BUDGET_PER_CORE));
        assert_eq!(observer.paused_until.load(Ordering::Relaxed), 0);
        observer.spend(Duration::from_millis(1));
        assert_ne!(observer.paused_until.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_name_is_taken_once() {
        /// An observer that counts the calls of its method `name`.
        #[derive(Default)]
        struct NameCountingObserver(AtomicU64);

        impl Observer for NameCountingObserver {
            fn event(&self, _: &Event<'_>) {
                panic!("the observer panics");
            }

            fn name(&self) -> &str {
                self.0.fetch_add(1, Ordering::Relaxed);
                "counting"
            }
        }

        let observer = Arc::new(NameCountingObserver::default());
        let mut list = ObserverList::default();
        list.push(Arc::clone(&observer) as Arc<dyn Observer>);
        let guards = list.guards();
        guards[0].deliver(&EVENT);
        guards[0].warn_of_pause();
        assert_eq!((guards[0].stats().name.as_str(), guards[0].stats().panics), ("counting", 1));
        assert_eq!(format!("{list:?}"), "[\"counting\"]");
        assert_eq!(observer.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_quick_observer_receives_every_event() {
        let observer = guard(|| ());
        (0..50_000).for_each(|_| observer.deliver(&EVENT));
        assert_eq!(counts(&observer), (50_000, 0, 0));
    }

    #[test]
    fn threads_do_not_wait_for_a_stuck_observer() {
        in_time(|| {
            let (entered, enters) = channel();
            let (release, released) = channel();
            let released = Mutex::new(released);
            let observer = Arc::new(guard(move || {
                entered.send(()).expect("the test waits");
                let _ = released.lock().expect("one thread is in the observer").recv();
            }));
            let stuck = Arc::clone(&observer);
            let stuck = thread::spawn(move || stuck.deliver(&EVENT));
            enters.recv().expect("the observer is called");
            thread::sleep(MAX_CALL + Duration::from_millis(50));
            (0..3).for_each(|_| observer.deliver(&EVENT));
            assert_eq!(counts(&observer), (0, 3, 0));
            release.send(()).expect("the observer waits");
            stuck.join().expect("the call returns");
            assert_eq!(counts(&observer), (1, 3, 0));
        });
    }

    #[test]
    fn an_observer_does_not_receive_what_it_causes() {
        let events = Arc::new(OnceLock::<EventDispatcher>::new());
        let emitting = |events: &Arc<OnceLock<EventDispatcher>>| {
            let events = Arc::clone(events);
            Arc::new(CallingObserver(move || {
                assert!(is_in_observer());
                if let Some(events) = events.get() {
                    events.emit(&EVENT);
                }
            }))
        };
        let mut list = ObserverList::default();
        list.push(emitting(&events));
        list.push(emitting(&events));
        let events = events.get_or_init(|| EventDispatcher::new(&list));
        events.emit(&EVENT);
        // Each observer receives the event, and the event that the other observer emits.
        let received: Vec<u64> = events.observer_stats().iter().map(|its| its.received).collect();
        assert_eq!(received, [2, 2]);
        assert!(events.observer_stats().iter().all(|its| its.missed == 0 && its.panics == 0));
        assert!(!is_in_observer());
    }

    #[test]
    fn an_observer_is_named_by_its_type() {
        assert!(guard(|| ()).stats().name.contains("CallingObserver<"));
    }
}
