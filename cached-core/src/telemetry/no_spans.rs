//! Replaces the span types of the crate `tracing` while the feature `tracing` is off. These types
//! do nothing, and take no space.

#[cfg(feature = "memcached")]
use super::exchange::ExchangeSubject;
use crate::declaration::Declaration;
use crate::event::{EventSubject, MISS_TARGET};
#[cfg(feature = "memcached")]
use crate::tier::remote::RemoteErrorKind;

#[inline]
pub(crate) fn accepts_miss_lines() -> bool {
    log::log_enabled!(target: MISS_TARGET, log::Level::Debug)
}

#[inline]
pub(crate) fn accepts_debug() -> bool {
    log::max_level() >= log::LevelFilter::Debug
}

/// Writes a log line through the crate `log`. Ignores the field `server`, because only `tracing`
/// records fields.
macro_rules! write_line {
    ($level:ident, server = $address:expr, $($message:tt)+) => {{
        let _ = $address;
        log::$level!($($message)+)
    }};
    ($level:ident, target = $target:expr, $($message:tt)+) => {
        log::$level!(target: $target, $($message)+)
    };
    ($level:ident, $($message:tt)+) => {
        log::$level!($($message)+)
    };
}
pub(crate) use write_line;

pub(crate) struct FetchSpan;

impl FetchSpan {
    pub(crate) const NONE: FetchSpan = FetchSpan;

    #[inline]
    pub(crate) fn of_miss(_: EventSubject<'_>) -> FetchSpan {
        FetchSpan
    }

    pub(crate) fn of_refresh(_: EventSubject<'_>) -> FetchSpan {
        FetchSpan
    }

    pub(crate) fn of_bypass(_: &'static Declaration) -> FetchSpan {
        FetchSpan
    }

    #[inline]
    pub(crate) fn in_scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        poll()
    }

    #[inline]
    pub(crate) fn end(&mut self, _: &'static str) {}

    pub(crate) fn end_with_error(&mut self) {}
}

#[cfg(feature = "memcached")]
pub(super) struct ExchangeSpan;

#[cfg(feature = "memcached")]
pub(super) type InSpan<F> = F;

#[cfg(feature = "memcached")]
impl ExchangeSpan {
    pub(super) const NONE: ExchangeSpan = ExchangeSpan;

    #[inline]
    pub(super) fn start(_: ExchangeSubject<'_>) -> ExchangeSpan {
        ExchangeSpan
    }

    #[inline]
    pub(super) fn polled<F: Future>(&self, exchange: F) -> InSpan<F> {
        exchange
    }

    #[inline]
    pub(super) fn end(&mut self, _: Result<&'static str, RemoteErrorKind>) {}
}

#[cfg(feature = "memcached")]
pub(crate) fn in_current_span<F: Future>(future: F) -> InSpan<F> {
    future
}
