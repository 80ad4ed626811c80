//! Probes that find out whether a runtime is driven.
//!
//! A `current_thread` runtime runs only during `block_on`, and any runtime stands still while its
//! threads are blocked. Timers and sockets then wake no leader. A probe is a task that does nothing;
//! a runtime that is driven runs it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;

/// A runtime that has not run its probe for this many rounds of the watch (0.9 s) is not driven.
/// Rounds are counted instead of time, because a suspended process makes none.
const MAX_ROUNDS: u32 = 9;

/// One probe for each runtime whose leaders show no sign of life.
#[derive(Default)]
pub(super) struct RuntimeProbes(Vec<RuntimeProbe>);

struct RuntimeProbe {
    runtime: Handle,
    has_run: Arc<AtomicBool>,
    /// The number of rounds since the probe was spawned.
    rounds: u32,
    /// True if this round asked for the runtime.
    is_wanted: bool,
}

impl RuntimeProbe {
    fn new(runtime: Handle) -> RuntimeProbe {
        let has_run = Arc::new(AtomicBool::new(false));
        let runs = Arc::clone(&has_run);
        runtime.spawn(async move { runs.store(true, Ordering::Release) });
        RuntimeProbe { runtime, has_run, rounds: 0, is_wanted: true }
    }
}

impl RuntimeProbes {
    /// Returns true if the runtime is known not to be driven. The first rounds return false.
    pub(super) fn is_undriven(&mut self, runtime: &Handle) -> bool {
        let known = self.0.iter_mut().find(|probe| probe.runtime.id() == runtime.id());
        let Some(probe) = known else {
            self.0.push(RuntimeProbe::new(runtime.clone()));
            return false;
        };
        probe.is_wanted = true;
        if probe.rounds < MAX_ROUNDS {
            return false;
        }
        let is_driven = probe.has_run.load(Ordering::Acquire);
        if is_driven {
            // The runtime was driven when it ran the probe. Another probe tells whether it still is.
            *probe = RuntimeProbe::new(runtime.clone());
        }
        !is_driven
    }

    /// Ends a round. Forgets the runtimes that nobody asked for in it.
    pub(super) fn end_round(&mut self) {
        self.0.retain_mut(|probe| {
            probe.rounds += 1;
            std::mem::take(&mut probe.is_wanted)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_idle_runtime_is_told_from_a_driven_one() {
        let idle = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let driven = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let driven = driven.expect("a runtime");
        let mut probes = RuntimeProbes::default();
        for round in 0..3 * MAX_ROUNDS {
            assert_eq!(probes.is_undriven(idle.handle()), round >= MAX_ROUNDS, "{round}");
            assert!(!probes.is_undriven(driven.handle()), "{round}");
            probes.end_round();
            std::thread::sleep(Duration::from_millis(20));
        }
        // The runtime runs the probe that waited.
        idle.block_on(tokio::task::yield_now());
        assert!(!probes.is_undriven(idle.handle()));
        probes.end_round();
        probes.end_round();
        assert!(probes.0.is_empty(), "a runtime that nobody asks for is forgotten");
    }
}
