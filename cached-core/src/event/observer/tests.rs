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

fn guard_with_budget(budget: Duration, act: impl Fn() + Send + Sync + 'static) -> ObserverGuard {
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
        // If the panic prints a backtrace, the call can be so slow that the observer is paused.
        // This ends such a pause.
        observer.paused_until.store(0, Ordering::Relaxed);
    }
    assert_eq!(counts(&observer), (3, 0, 3));
}

/// A value that delivers an event when it is dropped.
struct DeliverOnDrop<'a>(&'a ObserverGuard);

impl Drop for DeliverOnDrop<'_> {
    fn drop(&mut self) {
        self.0.deliver(&EVENT);
    }
}

#[test]
fn events_of_an_unwinding_thread_are_delivered() {
    for (observer, panics) in [(guard(|| {}), 0), (guard(|| panic!("in the observer")), 1)] {
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = DeliverOnDrop(&observer);
            panic!("in the function");
        }));
        assert!(unwound.is_err(), "the function panics");
        assert_eq!(counts(&observer), (1, 0, panics), "the observer has received the event");
    }
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
    // The swap ends the pause. `left` is the time that the pause would still have lasted.
    let paused_until = observer.paused_until.swap(1, Ordering::Relaxed);
    let left = Duration::from_millis(paused_until - CoarseInstant::now().millis());
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
    // No single call is too long, and together the calls use exactly the budget.
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
    // Each observer receives the test's event, and the event that the other observer emits.
    let received: Vec<u64> = events.observer_stats().iter().map(|its| its.received).collect();
    assert_eq!(received, [2, 2]);
    assert!(events.observer_stats().iter().all(|its| its.missed == 0 && its.panics == 0));
    assert!(!is_in_observer());
}

#[test]
fn an_observer_registered_twice_does_not_receive_what_it_causes() {
    let events = Arc::new(OnceLock::<EventDispatcher>::new());
    let emitting = Arc::clone(&events);
    let observer: Arc<dyn Observer> = Arc::new(CallingObserver(move || {
        emitting.get().expect("the list is complete").emit(&EVENT);
    }));
    let mut list = ObserverList::default();
    list.push(Arc::clone(&observer));
    list.push(observer);
    let events = events.get_or_init(|| EventDispatcher::new(&list));
    events.emit(&EVENT);
    let received: Vec<u64> = events.observer_stats().iter().map(|its| its.received).collect();
    assert_eq!(received, [1, 1]);
}

#[test]
fn an_observer_is_named_by_its_type() {
    assert!(guard(|| ()).stats().name.contains("CallingObserver<"));
}
