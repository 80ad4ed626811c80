use std::sync::Mutex;

use super::*;

static DECLARATION: Declaration =
    Declaration::new("event_test", "event::tests::fetched", file!(), line!(), 1, || "");

/// An observer that records the `Debug` output of each event.
#[derive(Default)]
struct EventRecorder(Mutex<Vec<String>>);

impl Observer for EventRecorder {
    fn event(&self, event: &Event<'_>) {
        self.0.lock().expect("no thread panics while it holds the lock").push(format!("{event:?}"));
    }
}

fn dispatcher(observers: impl IntoIterator<Item = Arc<dyn Observer>>) -> EventDispatcher {
    let mut list = ObserverList::default();
    observers.into_iter().for_each(|observer| list.push(observer));
    EventDispatcher::new(&list)
}

#[test]
fn every_observer_receives_an_event() {
    let recorders = [(); 2].map(|()| Arc::new(EventRecorder::default()));
    let events = dispatcher(recorders.iter().map(|recorder| Arc::clone(recorder) as _));
    let reason = BypassReason::NotRegistered;
    events.clone().emit(&Event::Bypassed { declaration: &DECLARATION, reason });
    for recorder in recorders {
        let shown = recorder.0.lock().expect("no thread panics while it holds the lock");
        assert!(shown.len() == 1 && shown[0].contains("event_test"), "{shown:?}");
    }
}

#[test]
fn an_event_shows_no_identifier() {
    let key = [&[7; 8], &b"secret"[..]].concat();
    let shown = format!("{:?}", Event::LocalMiss { entry: EventSubject::of(&key) });
    assert!(shown.starts_with("LocalMiss") && !shown.contains("secret"), "{shown}");
    assert!(!shown.contains("115, 101, 99"), "{shown}");
}

#[test]
fn miss_causes_are_not_remembered_without_a_logger() {
    // No unit test installs a logger.
    assert!(!crate::telemetry::accepts_miss_lines());
    let (events, key) = (dispatcher([]), [7; 8]);
    let entry = EventSubject::of(&key);
    events.emit(&Event::Evicted { entry, reason: EvictionReason::Size });
    assert!(events.last_miss_cause(&entry).is_none());
}

#[test]
fn a_report_is_one_line_without_an_identifier() {
    let before = MissCause::NotCached(UncachedReason::AbsentValue);
    let mut report = MissReport::new(
        RequestLookupResult::Absent,
        LocalLookupResult::Expired(Duration::from_secs(5)),
        Some((before, Duration::from_millis(3_210))),
    );
    report.remote = vec![RemoteFinding::OtherBuild, RemoteFinding::LeaseWon];
    report.fetched = Some((Duration::from_millis(12), FetchOutcome::Value));
    assert_eq!(
        report.to_string(),
        "request tier: absent; local tier: expired (its ttl was 5s); memcached: a value of another \
         build's type, then absent, lease won; fetch: a value in 12.0ms; 3.2s before: the value was not \
         cached because it is `None` and `none_ttl` is not declared"
    );
}
