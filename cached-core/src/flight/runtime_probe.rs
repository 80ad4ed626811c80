//! Probes, which find out whether a tokio runtime is *undriven*. An undriven runtime runs no tasks.
//!
//! A `current_thread` runtime runs tasks only during `block_on`, and no runtime runs tasks while
//! all its threads are blocked. Timers and sockets of an undriven runtime wake no task. A probe is
//! a spawned task that only sets a flag. A driven runtime runs the probe soon.
//!
//! If several calls miss the same key, one of them, the *leader*, finds or fetches the value for
//! all (see [`flight`](super)). The [`watchdog`](super::watchdog) is a thread that checks the
//! leaders, and uses probes to do so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;

/// A runtime that has not run its probe after this many rounds of the watchdog (0.9 s) counts as
/// undriven. The watchdog counts rounds, not time: a suspended process makes no rounds, so a
/// suspension does not make its runtimes look undriven.
const MAX_ROUNDS: u32 = 9;

/// The watchdog's probes, at most one for each runtime. If a leader was neither woken nor polled
/// for a while, the watchdog probes the leader's runtime.
#[derive(Default)]
pub(super) struct RuntimeProbes(Vec<RuntimeProbe>);

struct RuntimeProbe {
    runtime: Handle,
    /// Set by the spawned task.
    has_run: Arc<AtomicBool>,
    /// The number of rounds since the probe was spawned.
    rounds: u32,
    /// True if [`RuntimeProbes::probe_finds_undriven`] was called for the runtime in this round.
    is_in_use: bool,
}

impl RuntimeProbe {
    fn new(runtime: Handle) -> RuntimeProbe {
        let has_run = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&has_run);
        runtime.spawn(async move { flag.store(true, Ordering::Release) });
        RuntimeProbe { runtime, has_run, rounds: 0, is_in_use: true }
    }
}

impl RuntimeProbes {
    /// Returns true if a probe has found the runtime undriven. The first call for a runtime spawns
    /// the probe, and the method returns false until [`MAX_ROUNDS`] more rounds have ended.
    pub(super) fn probe_finds_undriven(&mut self, runtime: &Handle) -> bool {
        let existing = self.0.iter_mut().find(|probe| probe.runtime.id() == runtime.id());
        let Some(probe) = existing else {
            self.0.push(RuntimeProbe::new(runtime.clone()));
            return false;
        };
        probe.is_in_use = true;
        if probe.rounds < MAX_ROUNDS {
            return false;
        }
        let is_driven = probe.has_run.load(Ordering::Acquire);
        if is_driven {
            // The runtime was driven when it ran the probe. A new probe tells whether the runtime
            // is still driven.
            *probe = RuntimeProbe::new(runtime.clone());
        }
        !is_driven
    }

    /// Ends a round. Removes the probes of the runtimes for which
    /// [`probe_finds_undriven`](Self::probe_finds_undriven) was not called in this round.
    pub(super) fn end_round(&mut self) {
        self.0.retain_mut(|probe| {
            probe.rounds += 1;
            std::mem::take(&mut probe.is_in_use)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_an_undriven_runtime_is_found_undriven() {
        let undriven =
            tokio::runtime::Builder::new_current_thread().build().expect("the runtime starts");
        let driven = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let driven = driven.expect("the runtime starts");
        let mut probes = RuntimeProbes::default();
        for round in 0..3 * MAX_ROUNDS {
            assert_eq!(
                probes.probe_finds_undriven(undriven.handle()),
                round >= MAX_ROUNDS,
                "round {round}"
            );
            assert!(!probes.probe_finds_undriven(driven.handle()), "round {round}");
            probes.end_round();
            std::thread::sleep(Duration::from_millis(20));
        }
        // `block_on` drives the runtime, which then runs the spawned probe.
        undriven.block_on(tokio::task::yield_now());
        assert!(!probes.probe_finds_undriven(undriven.handle()));
        probes.end_round();
        probes.end_round();
        assert!(probes.0.is_empty(), "the probe of an unused runtime is removed");
    }
}
