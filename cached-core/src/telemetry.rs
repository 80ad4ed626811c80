//! Telemetry: spans and events for the crate `tracing`, and histograms for the crate `metrics`.
//!
//! The features `tracing` and `metrics` turn on one half each. While a feature is off, a stand-in
//! with the same names takes the place of its half, so no other module needs a `cfg`. A hit in the
//! request tier or the local tier calls nothing here.
//!
//! To *fetch* is to run the annotated function. An *exchange* sends commands to one memcached
//! server and receives the results.

#[cfg(feature = "metrics")]
pub(crate) mod durations;
#[cfg(feature = "memcached")]
#[cfg_attr(
    not(feature = "tracing"),
    allow(dead_code, reason = "metrics read a part of it, and spans the rest")
)]
mod exchange;
#[cfg(not(feature = "metrics"))]
mod no_durations;
#[cfg(not(feature = "tracing"))]
mod no_spans;
#[cfg(feature = "tracing")]
mod spans;

pub(crate) use durations::CacheLabels;
#[cfg(feature = "memcached")]
pub(crate) use exchange::{Exchange, ExchangeSubject};
#[cfg(not(feature = "metrics"))]
use no_durations as durations;
#[cfg(not(feature = "tracing"))]
use no_spans as spans;
#[cfg(feature = "memcached")]
pub(crate) use spans::in_current_span;
#[cfg(feature = "tracing")]
pub(crate) use spans::logs;
pub(crate) use spans::{FetchSpan, accepts_debug, accepts_miss_lines, write_line};
