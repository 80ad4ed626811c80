use std::sync::{Mutex, Once};

use log::{Level, LevelFilter, Log, Metadata, Record};

static LINES: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

struct LogCollector;

impl Log for LogCollector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = (record.level(), record.args().to_string());
            LINES.lock().expect("no thread panics while it holds the lock").push(line);
        }
    }

    fn flush(&self) {}
}

/// Starts to collect the log lines of this process. Each test that reads them calls this first.
///
/// # Panics
/// When the process has another logger.
pub fn collect_logs() {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&LogCollector).expect("this is the only logger");
        log::set_max_level(LevelFilter::Info);
    });
}

/// Returns the collected lines of this level, and of more severe ones, that contain a text.
///
/// # Panics
/// When a thread has panicked while it logged.
#[must_use]
pub fn logged(level: Level, text: &str) -> Vec<String> {
    let lines = LINES.lock().expect("no thread panics while it holds the lock");
    let matching = lines.iter().filter(|(of, line)| *of <= level && line.contains(text));
    matching.map(|(_, line)| line.clone()).collect()
}
