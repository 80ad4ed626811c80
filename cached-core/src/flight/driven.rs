//! Finds out whether a runtime is driven.
//!
//! A `current_thread` runtime runs only during `block_on`, and any runtime stands still while its threads
//! are blocked. Then nothing wakes a leader on it: timers and sockets are silent. So the runtime is given
//! a task that does nothing. A runtime that is driven runs it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;

/// A runtime that has not run a task for so many looks of the watch, 0.9 s, is not driven. Looks are
/// counted and not time: a process that was suspended makes none meanwhile.
const MOST_LOOKS: u32 = 9;

/// The runtimes of leaders that show no sign of life. Each is asked once, however many leaders it has.
#[derive(Default)]
pub(super) struct RuntimeProbes(Vec<RuntimeProbe>);

struct RuntimeProbe {
    runtime: Handle,
    has_run: Arc<AtomicBool>,
    /// How many looks ago the runtime was given the task.
    looks: u32,
    /// Whether this look has asked for the runtime.
    is_wanted: bool,
}

impl RuntimeProbe {
    fn new(runtime: Handle) -> RuntimeProbe {
        let has_run = Arc::new(AtomicBool::new(false));
        let runs = Arc::clone(&has_run);
        runtime.spawn(async move { runs.store(true, Ordering::Release) });
        RuntimeProbe { runtime, has_run, looks: 0, is_wanted: true }
    }
}

impl RuntimeProbes {
    /// Returns true if the runtime is known not to be driven. The first look only begins to find out.
    pub(super) fn is_undriven(&mut self, runtime: &Handle) -> bool {
        let known = self.0.iter_mut().find(|probe| probe.runtime.id() == runtime.id());
        let Some(probe) = known else {
            self.0.push(RuntimeProbe::new(runtime.clone()));
            return false;
        };
        probe.is_wanted = true;
        if probe.looks < MOST_LOOKS {
            return false;
        }
        let is_driven = probe.has_run.load(Ordering::Acquire);
        if is_driven {
            // It was; whether it still is, another task tells.
            *probe = RuntimeProbe::new(runtime.clone());
        }
        !is_driven
    }

    /// Ends a look. Forgets the runtimes that nobody asked for in it.
    pub(super) fn end_look(&mut self) {
        self.0.retain_mut(|probe| {
            probe.looks += 1;
            std::mem::take(&mut probe.is_wanted)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_runtime_that_nobody_drives_is_told_from_one_that_is_driven() {
        let idle = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let driven = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let driven = driven.expect("a runtime");
        let mut probes = RuntimeProbes::default();
        for look in 0..3 * MOST_LOOKS {
            assert_eq!(probes.is_undriven(idle.handle()), look >= MOST_LOOKS, "{look}");
            assert!(!probes.is_undriven(driven.handle()), "{look}");
            probes.end_look();
            std::thread::sleep(Duration::from_millis(20));
        }
        // It runs what waited.
        idle.block_on(tokio::task::yield_now());
        assert!(!probes.is_undriven(idle.handle()));
        probes.end_look();
        probes.end_look();
        assert!(probes.0.is_empty(), "nobody asks any more");
    }
}
