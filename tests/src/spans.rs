//! A `tracing` layer that collects the spans and the events of one test.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, Interest};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// The fields of a span or an event, as text.
pub type Fields = BTreeMap<&'static str, String>;

/// A span that the collector has received.
#[derive(Debug, Clone, Default)]
pub struct CollectedSpan {
    id: u64,
    /// The name of the span.
    pub name: &'static str,
    /// The fields that were recorded when the span was created or later.
    pub fields: Fields,
    /// The id of the parent span.
    parent: Option<u64>,
    /// The names of the spans that this span follows from.
    pub follows_from: Vec<&'static str>,
    /// How often the span was entered.
    pub entered: usize,
    /// True once the span has ended.
    pub is_closed: bool,
}

/// An event that the collector has received.
#[derive(Debug, Clone)]
pub struct CollectedEvent {
    /// The level of the event.
    pub level: Level,
    /// The fields of the event. The text of the event is in the field `message`.
    pub fields: Fields,
}

/// A `tracing` layer that stores the spans and events of a test in the order in which they began.
#[derive(Debug, Clone, Default)]
pub struct SpanCollector {
    seen: Arc<Mutex<CollectedRecords>>,
}

#[derive(Debug, Default)]
struct CollectedRecords {
    spans: Vec<CollectedSpan>,
    events: Vec<CollectedEvent>,
}

/// Subscribers that keep other threads from disabling spans that a test collects.
///
/// `tracing` asks the subscribers once whether they want a span of a given place in the code. If
/// there is only one subscriber, `tracing` asks that of the thread which reaches the place first.
/// If this thread has none, no thread gets the span. With two subscribers, `tracing` asks all.
static IDLE_SUBSCRIBERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [Dispatch::new(IdleSubscriber), Dispatch::new(IdleSubscriber)]);

/// A subscriber that receives nothing, but makes `tracing` ask for each span anew.
struct IdleSubscriber;

impl Subscriber for IdleSubscriber {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::OFF)
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl SpanCollector {
    /// Collects the spans and events of this thread until the guard is dropped.
    #[must_use]
    pub fn install() -> (SpanCollector, DefaultGuard) {
        LazyLock::force(&IDLE_SUBSCRIBERS);
        let collector = SpanCollector::default();
        let subscriber = tracing_subscriber::registry().with(collector.clone());
        (collector, tracing::subscriber::set_default(subscriber))
    }

    /// Returns the spans with this name.
    #[must_use]
    pub fn spans(&self, name: &str) -> Vec<CollectedSpan> {
        self.seen().spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    /// Returns the span with this name.
    ///
    /// # Panics
    /// If there is not exactly one such span.
    #[must_use]
    pub fn span(&self, name: &str) -> CollectedSpan {
        let mut spans = self.spans(name);
        assert_eq!(spans.len(), 1, "there is one span `{name}`: {:?}", self.seen().spans);
        spans.remove(0)
    }

    /// Returns the name of a span's parent.
    #[must_use]
    pub fn parent(&self, span: &CollectedSpan) -> Option<&'static str> {
        self.seen().spans.iter().find(|other| Some(other.id) == span.parent).map(|span| span.name)
    }

    /// Returns the events whose message contains `text`.
    #[must_use]
    pub fn events(&self, text: &str) -> Vec<CollectedEvent> {
        let has_text = |event: &&CollectedEvent| {
            event.fields.get("message").is_some_and(|message| message.contains(text))
        };
        self.seen().events.iter().filter(has_text).cloned().collect()
    }

    /// Forgets all spans and events.
    pub fn clear(&self) {
        *self.seen() = CollectedRecords::default();
    }

    fn seen(&self) -> MutexGuard<'_, CollectedRecords> {
        self.seen.lock().expect("no thread panics while it holds the lock")
    }

    fn change(&self, id: &Id, change: impl FnOnce(&mut CollectedSpan)) {
        // `tracing` reuses the ids of closed spans, so only the newest span with this id is meant.
        let id = id.into_u64();
        if let Some(span) = self.seen().spans.iter_mut().rfind(|span| span.id == id) {
            change(span);
        }
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for SpanCollector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let parent = context.span(id).and_then(|span| Some(span.parent()?.id().into_u64()));
        let name = attributes.metadata().name();
        let mut span = CollectedSpan { id: id.into_u64(), name, parent, ..Default::default() };
        attributes.record(&mut FieldVisitor(&mut span.fields));
        self.seen().spans.push(span);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, _: Context<'_, S>) {
        self.change(id, |span| record.record(&mut FieldVisitor(&mut span.fields)));
    }

    fn on_follows_from(&self, id: &Id, followed: &Id, context: Context<'_, S>) {
        let name = context.span(followed).map(|span| span.name());
        self.change(id, |span| span.follows_from.extend(name));
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut FieldVisitor(&mut fields));
        self.seen().events.push(CollectedEvent { level: *event.metadata().level(), fields });
    }

    fn on_enter(&self, id: &Id, _: Context<'_, S>) {
        self.change(id, |span| span.entered += 1);
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.change(&id, |span| span.is_closed = true);
    }
}

struct FieldVisitor<'f>(&'f mut Fields);

impl Visit for FieldVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_a_subscriber_disables_no_span() {
        let (spans, _guard) = SpanCollector::install();
        let make_span = || drop(tracing::info_span!("made_twice"));
        std::thread::spawn(make_span).join().expect("the thread does not panic");
        make_span();
        assert_eq!(spans.spans("made_twice").len(), 1, "the span of this thread");
    }
}
