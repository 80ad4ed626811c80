//! Telemetry: spans and events for the crate `tracing`, and histograms for the crate `metrics`.
//!
//! The feature `tracing` turns on the spans and events, and the feature `metrics` the histograms.
//! While a feature is off, a stand-in module defines the same names, so most callers need no `cfg`.
//! A hit in the request tier or the local tier calls nothing here.
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
pub(crate) use spans::uses_log_crate;
pub(crate) use spans::{FetchSpan, accepts_debug, accepts_miss_lines, write_line};

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Adds to `found` each line in the folder's Rust files that calls a macro of the crate `log`.
    fn direct_log_lines(folder: &Path, found: &mut Vec<String>) {
        for entry in folder.read_dir().expect("the folder is readable") {
            let path = entry.expect("the folder is readable").path();
            if path.is_dir() {
                direct_log_lines(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("the file is readable");
                let levels = ["error", "warn", "info", "debug", "trace"];
                let is_direct = |line: &&str| {
                    levels.iter().any(|level| line.contains(&format!("log::{level}!")))
                };
                let lines = text.lines().filter(is_direct);
                found.extend(lines.map(|line| format!("{}: {line}", path.display())));
            }
        }
    }

    #[test]
    fn every_log_line_can_go_to_tracing() {
        let mut found = Vec::new();
        direct_log_lines(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert!(found.is_empty(), "`write_line!` must write these lines: {found:#?}");
    }
}
