//! Keeps the counters of the last five minutes. If the console's page is opened during an incident,
//! the page can show how the incident began.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::ConsoleState;
use super::figures;
use crate::cache::Cache;
use crate::sync::lock;

/// The time between two samples.
const INTERVAL: Duration = Duration::from_secs(2);
/// How many samples are kept: five minutes of samples. With 200 functions they take 1.2 MB.
const KEPT: usize = 150;

/// The samples of the last five minutes.
#[derive(Default)]
pub(super) struct CounterHistory {
    samples: VecDeque<CounterSample>,
}

/// The counters, at one moment, of all functions that were called.
struct CounterSample {
    /// Milliseconds since the console was built.
    at: u64,
    rows: Box<[FunctionSample]>,
}

/// The counters of one function at one moment.
pub(super) struct FunctionSample {
    /// The function's index in the list of names; see [`figures::names`].
    pub(super) place: u32,
    pub(super) hits: u64,
    pub(super) calls_saved: u64,
    pub(super) calls: u64,
    /// The mean duration of a fetch in seconds, or 0 before the first fetch.
    pub(super) mean_fetch: f64,
}

impl CounterHistory {
    fn add(&mut self, at: u64, cache: &Cache) {
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(CounterSample { at, rows: figures::sample(cache) });
    }

    /// Returns the samples as JSON text. A long history has many rows, so each row is an array,
    /// which is shorter than an object with named fields.
    pub(super) fn report(&self) -> String {
        let row = |row: &FunctionSample| {
            let FunctionSample { place, hits, calls_saved, calls, mean_fetch } = row;
            format!("[{place},{hits},{calls_saved},{calls},{mean_fetch}]")
        };
        let sample = |sample: &CounterSample| {
            let rows: Vec<String> = sample.rows.iter().map(row).collect();
            format!("{{\"at\":{},\"rows\":[{}]}}", sample.at, rows.join(","))
        };
        let samples: Vec<String> = self.samples.iter().map(sample).collect();
        format!("[{}]", samples.join(","))
    }
}

/// Starts a thread that adds a sample every [`INTERVAL`] until the console is dropped.
///
/// A task would not do: the program may build its router before it starts a runtime, and the
/// runtime may have no timer.
pub(super) fn keep_in_background(state: &Arc<ConsoleState>) {
    let weak = Arc::downgrade(state);
    let run = move || {
        while let Some(state) = weak.upgrade() {
            lock(&state.history).add(state.age_millis(), &state.cache);
            drop(state);
            thread::sleep(INTERVAL);
        }
    };
    if thread::Builder::new().name("cached-console".to_owned()).spawn(run).is_err() {
        crate::telemetry::write_line!(
            warn,
            "the cache's console keeps no history, because its thread could not be started"
        );
    }
}
