//! A logger that collects the log lines of a test process.

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once};

static LINES: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

/// True if the logger also collects the lines that say why a call missed.
static COLLECTS_MISSES: AtomicBool = AtomicBool::new(false);

struct LogCollector;

impl Log for LogCollector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
            || metadata.target() == "cached_core::miss" && COLLECTS_MISSES.load(Ordering::Relaxed)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = (record.level(), record.args().to_string());
            LINES.lock().expect("no thread panics while it holds the lock").push(line);
        }
    }

    fn flush(&self) {}
}

/// Starts to collect the log lines of this process. A test that reads log lines must call this
/// first.
///
/// # Panics
/// Panics if the process has already set another logger.
pub fn collect_logs() {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&LogCollector).expect("this is the only logger");
        log::set_max_level(LevelFilter::Info);
    });
}

/// Calls [`collect_logs`], and also collects the lines that say why a call missed.
///
/// # Panics
/// Panics if the process has already set another logger.
pub fn collect_misses() {
    collect_logs();
    COLLECTS_MISSES.store(true, Ordering::Relaxed);
    log::set_max_level(LevelFilter::Debug);
}

/// Returns the collected lines that contain `text` and have the level `level` or a more severe one.
///
/// # Panics
/// Panics if a thread has panicked while it logged.
#[must_use]
pub fn logged(level: Level, text: &str) -> Vec<String> {
    let lines = LINES.lock().expect("no thread panics while it holds the lock");
    let matching = lines.iter().filter(|(logged, line)| *logged <= level && line.contains(text));
    matching.map(|(_, line)| line.clone()).collect()
}
