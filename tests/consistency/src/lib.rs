//! Checks the promises of `docs/guide/consistency.md`. `model` and `gutter` are state machines that
//! model the library and its servers, and the tests try every order of their steps. `gutter`
//! includes the servers that take the place of a failed server. `replay` repeats the step sequences
//! that break a faulty protocol, with the real library and a real memcached process.
//!
//! These tests have a package of their own because the search is slow unless the package is
//! optimized.
#![cfg(test)]

mod gutter;
mod model;
mod replay;
mod search;

use model::{InjectedFault, Scenario, SystemState};
use search::{SearchResult, search};

const WRITE_ONCE: Scenario = Scenario {
    calls: 3,
    changes: 1,
    failures: 1,
    expiries: 1,
    overwritable: false,
    keeps_stale: false,
    fault: InjectedFault::Nothing,
};
const OVERWRITABLE: Scenario =
    Scenario { calls: 2, changes: 2, expiries: 0, overwritable: true, ..WRITE_ONCE };
const KEPT_FOR_ERRORS: Scenario =
    Scenario { calls: 2, keeps_stale: true, expiries: 2, ..WRITE_ONCE };

fn assert_holds(scenario: Scenario) {
    let SearchResult { states, violation } = search::<SystemState>(&scenario);
    assert!(violation.is_none(), "{states} states: {}", violation.unwrap_or_default());
    println!("{states} states");
    assert!(states > 10_000, "the model has many states: {states}");
}

/// Lets the model break one rule of the library. Returns the steps that lead to a broken promise.
fn counterexample(scenario: Scenario, fault: InjectedFault) -> String {
    let found = search::<SystemState>(&Scenario { fault, ..scenario });
    let trace =
        found.violation.unwrap_or_else(|| panic!("{fault:?}: the search found no violation"));
    println!("{fault:?}:\n{trace}");
    trace
}

#[test]
fn write_once_entries_keep_the_promises() {
    assert_holds(WRITE_ONCE);
}

#[test]
fn overwritable_entries_keep_the_promises() {
    assert_holds(OVERWRITABLE);
}

#[test]
fn entries_kept_for_errors_keep_the_promises() {
    assert_holds(KEPT_FOR_ERRORS);
}

#[test]
fn a_fill_without_cas_is_detected() {
    let trace = counterexample(WRITE_ONCE, InjectedFault::FillWithoutCas);
    assert!(trace.contains("the lease ends") || trace.contains("invalidates"), "{trace}");
}

#[test]
fn a_store_without_fill_token_is_detected() {
    let trace = counterexample(WRITE_ONCE, InjectedFault::StoreWithoutToken);
    assert!(trace.contains("invalidates"), "{trace}");
}

#[test]
fn clearing_the_local_tier_once_is_detected() {
    let trace = counterexample(WRITE_ONCE, InjectedFault::ClearOnce);
    assert!(trace.contains("answers with what memcached had"), "{trace}");
}

#[test]
fn following_an_invalidated_fetch_is_detected() {
    let trace = counterexample(WRITE_ONCE, InjectedFault::KeepFlight);
    assert!(trace.contains("follows"), "{trace}");
}

#[test]
fn a_lease_for_two_callers_is_detected() {
    counterexample(WRITE_ONCE, InjectedFault::LeaseForTwo);
}

#[test]
fn a_placeholder_read_as_value_is_detected() {
    counterexample(WRITE_ONCE, InjectedFault::PlaceholderIsValue);
}

#[test]
fn waiting_forever_is_detected() {
    let trace = counterexample(WRITE_ONCE, InjectedFault::WaitForever);
    assert!(trace.ends_with("a caller waits forever"), "{trace}");
}

#[test]
fn a_cas_that_outlives_its_server_is_detected() {
    let scenario = Scenario { failures: 1, calls: 2, ..WRITE_ONCE };
    let trace = counterexample(scenario, InjectedFault::CasOutlivesServer);
    assert!(trace.contains("comes back empty"), "{trace}");
}

/// This violation is not the library's fault: memcached can execute a write after the client has
/// timed out. `docs/guide/consistency.md` documents this exception.
#[test]
fn late_writes_of_memcached_break_the_promise() {
    let trace = counterexample(OVERWRITABLE, InjectedFault::LateWrites);
    assert!(trace.contains("timed out"), "{trace}");
}
