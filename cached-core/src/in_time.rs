//! For tests of what must not hang.

use std::sync::mpsc;
use std::time::Duration;

/// Runs it on a thread of its own, so that what hangs is a test that fails.
pub(crate) fn in_time(run: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        run();
        let _ = done.send(());
    });
    let waited = is_done.recv_timeout(Duration::from_secs(30));
    assert!(waited.is_ok(), "it hangs, or has panicked");
}
