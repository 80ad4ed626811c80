//! A time limit for tests of code that must not hang.

use std::sync::mpsc;
use std::time::Duration;

/// Runs `run` on another thread, and panics unless `run` returns within 30 s.
pub(crate) fn in_time(run: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        run();
        let _ = done.send(());
    });
    let waited = finished.recv_timeout(Duration::from_secs(30));
    assert!(waited.is_ok(), "the code returns within 30 s");
}
