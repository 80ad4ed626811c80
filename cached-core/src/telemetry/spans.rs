//! Creates the spans `cache.fetch` and `cache.remote`, and chooses for each log line between the
//! crates `tracing` and `log`.
//!
//! A *fetch* is one run of the annotated function, and an *exchange* is one round trip to
//! memcached. A fetch has a span, and so has an exchange that a caller waits for. The span is
//! entered for each poll, and never held across an await. If
//! no subscriber wants the spans, each fetch and each exchange costs one more comparison.

use std::sync::atomic::{AtomicBool, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::NoSubscriber;
use tracing::{Span, dispatcher, field};

#[cfg(feature = "memcached")]
use super::exchange::{ExchangeSubject, error_type, host_and_port, name_and_digest};
use crate::declaration::Declaration;
use crate::event::{EventSubject, MISS_TARGET};
#[cfg(feature = "memcached")]
use crate::tier::remote::RemoteErrorKind;

/// The target of the span around each fetch. A subscriber's filter can name it.
const FETCH_TARGET: &str = "cached_core::fetch";
/// The target of the span around each exchange with memcached.
#[cfg(feature = "memcached")]
const REMOTE_TARGET: &str = "cached_core::remote";

/// Returns true if some subscriber accepts the level of the spans.
///
/// Without a subscriber, the macros of `tracing` may write each span to the crate `log`. This check
/// prevents these lines, because the program's log must not depend on the feature `tracing`.
#[inline]
fn accepts_spans() -> bool {
    LevelFilter::current() >= LevelFilter::INFO
}

/// Returns true if this thread's subscriber accepts the lines that say why a call missed. Without a
/// subscriber, returns true if the crate `log` accepts these lines.
#[inline]
pub(crate) fn accepts_miss_lines() -> bool {
    tracing::enabled!(target: MISS_TARGET, tracing::Level::DEBUG)
        || (log::log_enabled!(target: MISS_TARGET, log::Level::Debug) && uses_log_crate())
}

/// Returns true if debug lines are accepted. The events of an entry are then remembered, because a
/// later line about a miss might mention them.
#[inline]
pub(crate) fn accepts_debug() -> bool {
    LevelFilter::current() >= LevelFilter::DEBUG || log::max_level() >= log::LevelFilter::Debug
}

/// Returns true if lines go to the crate `log`, because this thread has no `tracing` subscriber.
pub(crate) fn uses_log_crate() -> bool {
    dispatcher::get_default(|subscriber| subscriber.is::<NoSubscriber>())
}

/// Writes a line to the subscriber of this thread or, without a subscriber, to the crate `log`.
///
/// A line never goes to both. With the crate `tracing-log`, the subscriber would otherwise receive
/// each line twice.
macro_rules! write_line {
    ($level:ident, server = $address:expr, $($message:tt)+) => {
        match $crate::telemetry::uses_log_crate() {
            true => log::$level!($($message)+),
            false => tracing::$level!(server.address = $address, $($message)+),
        }
    };
    ($level:ident, target = $target:expr, $($message:tt)+) => {
        match $crate::telemetry::uses_log_crate() {
            true => log::$level!(target: $target, $($message)+),
            false => tracing::$level!(target: $target, $($message)+),
        }
    };
    ($level:ident, $($message:tt)+) => {
        match $crate::telemetry::uses_log_crate() {
            true => log::$level!($($message)+),
            false => tracing::$level!($($message)+),
        }
    };
}
pub(crate) use write_line;

/// The span `cache.fetch` around one run of an annotated function.
///
/// If the span is dropped before [`end`](Self::end), its outcome is `cancelled`, or `panicked` if
/// the function has panicked. The state is boxed to keep the future of a call small: most spans are
/// turned off, and these futures are moved often.
pub(crate) struct FetchSpan(Option<Box<FetchSpanState>>);

struct FetchSpanState {
    span: Span,
    /// True during a poll of the function. Stays true if the poll panics.
    is_in_poll: AtomicBool,
}

/// Creates the span of a fetch. With `parent`, the span is not a child of the current span.
macro_rules! fetch_span {
    ($name:expr, $reason:literal $(, parent: $parent:expr)?) => {
        tracing::info_span!(
            target: FETCH_TARGET,
            $(parent: $parent,)?
            "cache.fetch",
            otel.kind = "internal",
            otel.status_code = field::Empty,
            cache.name = $name,
            cache.key.digest = field::Empty,
            cache.fetch.reason = $reason,
            cache.outcome = field::Empty,
            "error.type" = field::Empty,
        )
    };
}

impl FetchSpan {
    pub(crate) const NONE: FetchSpan = FetchSpan(None);

    /// Starts the span of a call that fetches, as a child of the caller's span.
    #[inline]
    pub(crate) fn of_miss(entry: EventSubject<'_>) -> FetchSpan {
        FetchSpan::started(|| with_digest(fetch_span!(entry.name(), "miss"), entry))
    }

    /// Starts the span of a refresh in the background. The span follows from the caller's span, and
    /// is the root of its own trace. The caller does not wait for the refresh, so the caller's span
    /// might end first.
    pub(crate) fn of_refresh(entry: EventSubject<'_>) -> FetchSpan {
        FetchSpan::started(|| {
            let span = fetch_span!(entry.name(), "refresh", parent: None);
            span.follows_from(Span::current());
            with_digest(span, entry)
        })
    }

    /// Starts the span of a call that runs the function without the cache.
    pub(crate) fn of_bypass(declaration: &'static Declaration) -> FetchSpan {
        FetchSpan::started(|| fetch_span!(declaration.name(), "bypass"))
    }

    #[inline]
    fn started(span: impl FnOnce() -> Span) -> FetchSpan {
        match accepts_spans() {
            true => FetchSpan::start(span),
            false => FetchSpan::NONE,
        }
    }

    #[cold]
    fn start(span: impl FnOnce() -> Span) -> FetchSpan {
        let span = span();
        let state = |span| Box::new(FetchSpanState { span, is_in_poll: AtomicBool::new(false) });
        FetchSpan((!span.is_disabled()).then(|| state(span)))
    }

    /// Runs one poll of the function in the span.
    #[inline]
    pub(crate) fn in_scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(state) => {
                state.is_in_poll.store(true, Ordering::Relaxed);
                let output = state.span.in_scope(poll);
                state.is_in_poll.store(false, Ordering::Relaxed);
                output
            }
            None => poll(),
        }
    }

    /// Ends the span with this outcome.
    #[inline]
    pub(crate) fn end(&mut self, outcome: &'static str) {
        if let Some(state) = self.0.take() {
            state.span.record("cache.outcome", outcome);
        }
    }

    /// Ends the span of a function that returned an error. The type of the error is not known here,
    /// so `error.type` gets the value that OpenTelemetry prescribes for unknown types.
    pub(crate) fn end_with_error(&mut self) {
        if let Some(state) = &self.0 {
            state.span.record("error.type", "_OTHER");
            state.span.record("otel.status_code", "ERROR");
        }
        self.end("error");
    }
}

impl Drop for FetchSpan {
    #[inline]
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            // `std::thread::panicking` would be wrong here: it is also true if other code of the
            // task has panicked.
            let has_panicked = state.is_in_poll.load(Ordering::Relaxed);
            self.end(if has_panicked { "panicked" } else { "cancelled" });
        }
    }
}

/// Adds the digest of the key, if the span is turned on. Without the feature `memcached` there is
/// no digest.
fn with_digest(span: Span, entry: EventSubject<'_>) -> Span {
    #[cfg(feature = "memcached")]
    if !span.is_disabled() {
        span.record("cache.key.digest", field::display(entry.digest()));
    }
    #[cfg(not(feature = "memcached"))]
    let _ = entry;
    span
}

/// The span `cache.remote` around an exchange that a caller waits for.
///
/// If the span is dropped before its end, its outcome is `cancelled`.
#[cfg(feature = "memcached")]
pub(super) struct ExchangeSpan(Span);

/// A future that is polled within a span.
#[cfg(feature = "memcached")]
pub(super) type InSpan<F> = tracing::instrument::Instrumented<F>;

#[cfg(feature = "memcached")]
impl ExchangeSpan {
    pub(super) const NONE: ExchangeSpan = ExchangeSpan(Span::none());

    /// Starts the span, as a child of the caller's span.
    #[inline]
    pub(super) fn start(subject: ExchangeSubject<'_>) -> ExchangeSpan {
        match accepts_spans() {
            true => ExchangeSpan::create(subject),
            false => ExchangeSpan::NONE,
        }
    }

    #[cold]
    fn create(subject: ExchangeSubject<'_>) -> ExchangeSpan {
        let ExchangeSubject { address, operation, key, commands } = subject;
        let (host, port) = host_and_port(address);
        let span = tracing::info_span!(
            target: REMOTE_TARGET,
            "cache.remote",
            otel.kind = "client",
            otel.status_code = field::Empty,
            db.system.name = "memcached",
            db.operation.name = operation,
            db.operation.batch.size = field::Empty,
            server.address = host,
            server.port = port,
            cache.name = field::Empty,
            cache.key.digest = field::Empty,
            cache.outcome = field::Empty,
            "error.type" = field::Empty,
        );
        if commands > 1 {
            span.record("db.operation.batch.size", commands);
        }
        if let Some((name, digest)) = key.and_then(name_and_digest) {
            span.record("cache.name", name);
            span.record("cache.key.digest", digest);
        }
        ExchangeSpan(span)
    }

    #[inline]
    pub(super) fn polled<F: Future>(&self, exchange: F) -> InSpan<F> {
        tracing::Instrument::instrument(exchange, self.0.clone())
    }

    #[inline]
    pub(super) fn end(&mut self, result: Result<&'static str, RemoteErrorKind>) {
        let span = std::mem::replace(&mut self.0, Span::none());
        if span.is_disabled() {
            return;
        }
        match result {
            Ok(outcome) => span.record("cache.outcome", outcome),
            Err(kind) => {
                span.record("error.type", error_type(kind));
                span.record("otel.status_code", "ERROR");
                span.record("cache.outcome", "error")
            }
        };
    }
}

#[cfg(feature = "memcached")]
impl Drop for ExchangeSpan {
    #[inline]
    fn drop(&mut self) {
        if !self.0.is_disabled() {
            self.0.record("cache.outcome", "cancelled");
        }
    }
}

/// Returns a future that is polled within the span that is current now, even if another task polls
/// the future.
#[cfg(feature = "memcached")]
pub(crate) fn in_current_span<F: Future>(future: F) -> InSpan<F> {
    tracing::Instrument::in_current_span(future)
}
