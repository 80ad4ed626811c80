//! What `docs/guide/consistency.md` promises: looked at in every order in which it can happen, on a
//! model; and the worst orders played to the library on a real memcached.
#![allow(missing_docs)]

mod gutter;
mod model;
mod replay;
mod search;

use model::{Broken, Scope, State};
use search::{Search, search};

const WRITE_ONCE: Scope = Scope {
    calls: 3,
    changes: 1,
    mishaps: 1,
    expiries: 1,
    overwritable: false,
    keeps_stale: false,
    broken: Broken::Nothing,
};
const OVERWRITABLE: Scope =
    Scope { calls: 2, changes: 2, expiries: 0, overwritable: true, ..WRITE_ONCE };
const KEPT_FOR_ERRORS: Scope = Scope { calls: 2, keeps_stale: true, expiries: 2, ..WRITE_ONCE };

fn holds(scope: Scope) {
    let Search { states, violation } = search::<State>(&scope);
    assert!(violation.is_none(), "{states} states: {}", violation.unwrap_or_default());
    println!("{states} states");
    assert!(states > 10_000, "{states} states: the model has hardly moved");
}

/// The trace that is found with one rule broken.
fn counterexample(scope: Scope, broken: Broken) -> String {
    let found = search::<State>(&Scope { broken, ..scope });
    let trace = found.violation.unwrap_or_else(|| panic!("{broken:?}: no trace is found"));
    println!("{broken:?}:\n{trace}");
    trace
}

#[test]
fn write_once_entries_hold_in_every_order() {
    holds(WRITE_ONCE);
}

#[test]
fn overwritable_entries_hold_in_every_order() {
    holds(OVERWRITABLE);
}

#[test]
fn entries_kept_for_errors_hold_in_every_order() {
    holds(KEPT_FOR_ERRORS);
}

#[test]
fn a_fill_without_cas_is_found_out() {
    let trace = counterexample(WRITE_ONCE, Broken::FillWithoutCas);
    assert!(trace.contains("the lease ends") || trace.contains("invalidates"), "{trace}");
}

#[test]
fn a_publication_without_ticket_is_found_out() {
    let trace = counterexample(WRITE_ONCE, Broken::PublishWithoutTicket);
    assert!(trace.contains("invalidates"), "{trace}");
}

#[test]
fn clearing_the_process_only_before_memcached_is_told_is_found_out() {
    let trace = counterexample(WRITE_ONCE, Broken::ForgetOnce);
    assert!(trace.contains("answers with what memcached had"), "{trace}");
}

#[test]
fn following_a_fetch_from_before_an_invalidation_is_found_out() {
    let trace = counterexample(WRITE_ONCE, Broken::KeepFlight);
    assert!(trace.contains("follows"), "{trace}");
}

#[test]
fn a_lease_for_two_is_found_out() {
    counterexample(WRITE_ONCE, Broken::LeaseForTwo);
}

#[test]
fn a_placeholder_taken_for_a_value_is_found_out() {
    counterexample(WRITE_ONCE, Broken::PlaceholderIsValue);
}

#[test]
fn waiting_for_ever_is_found_out() {
    let trace = counterexample(WRITE_ONCE, Broken::WaitForEver);
    assert!(trace.ends_with("somebody waits for ever"), "{trace}");
}

#[test]
fn a_cas_that_outlives_its_server_is_found_out() {
    let scope = Scope { mishaps: 1, calls: 2, ..WRITE_ONCE };
    let trace = counterexample(scope, Broken::CasOutlivesServer);
    assert!(trace.contains("comes back empty"), "{trace}");
}

/// Not a rule of ours: it is how memcached is, and `docs/guide/consistency.md` says so.
#[test]
fn what_memcached_does_not_promise_is_known() {
    let trace = counterexample(OVERWRITABLE, Broken::LateWrites);
    assert!(trace.contains("timed out"), "{trace}");
}
