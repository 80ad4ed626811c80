use std::sync::Mutex;

use super::*;

static DECLARATION: Declaration =
    Declaration::new("event_test", "event::tests::fetched", file!(), line!(), 1, || "");

/// An observer that records the `Debug` output of each event.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Observer for Recorder {
    fn event(&self, event: &Event<'_>) {
        self.0.lock().expect("no thread panics while it holds the lock").push(format!("{event:?}"));
    }
}

#[test]
fn every_observer_receives_an_event() {
    let recorders = [(); 2].map(|()| Arc::new(Recorder::default()));
    let observers = recorders.iter().map(|recorder| Arc::clone(recorder) as Arc<dyn Observer>);
    let events = EventDispatcher::new(observers.collect());
    let reason = BypassReason::NotCached;
    events.clone().emit(&Event::Bypassed { declaration: &DECLARATION, reason });
    for recorder in recorders {
        let shown = recorder.0.lock().expect("no thread panics while it holds the lock");
        assert!(shown.len() == 1 && shown[0].contains("event_test"), "{shown:?}");
    }
}

#[test]
fn an_event_shows_no_identifier() {
    let key = [&[7; 8], &b"secret"[..]].concat();
    let shown = format!("{:?}", Event::Miss { entry: EventSubject::of(&key) });
    assert!(shown.starts_with("Miss") && !shown.contains("secret"), "{shown}");
    assert!(!shown.contains("115, 101, 99"), "{shown}");
}
