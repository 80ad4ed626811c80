//! A rollout: two builds of one program share one memcached server. The types of their cached
//! values differ.
//!
//! `src/deploy.rs` has one function for each kind of type change. Some types panic when they decode
//! another build's data, and any panic ends the process. So a run without a panic shows that these
//! types never got such data.
//!
//! Each key has two *slots* in memcached. If one build's entry is in the first slot, a build that
//! cannot decode this entry uses the second slot.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::process::Command;

use cached_tests::Memcached;

const OLD: &str = env!("CARGO_BIN_EXE_deploy_old");
const NEW: &str = env!("CARGO_BIN_EXE_deploy_new");

/// Runs one process that calls each function of this build once. Returns how each call was
/// answered. Checks that each answer is correct for this build.
fn run(build: &str, memcached: &Memcached) -> BTreeMap<String, String> {
    run_action(build, None, memcached)
}

/// Runs one process of this build that performs `action` on the entry of each function, or calls
/// the functions if there is no action. Returns the outcome for each function.
fn run_action(
    build: &str,
    action: Option<&str>,
    memcached: &Memcached,
) -> BTreeMap<String, String> {
    let mut command = Command::new(build);
    command.args(action);
    run_command(command, build, memcached)
}

fn run_command(
    mut command: Command,
    build: &str,
    memcached: &Memcached,
) -> BTreeMap<String, String> {
    let output =
        command.env("MEMCACHED", memcached.address()).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).expect("the output is UTF-8");
    let lines = output.lines().map(|line| {
        let [change, how, answer] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        assert_eq!(answer, "right", "{build}: {line}");
        (change.to_owned(), how.to_owned())
    });
    lines.collect()
}

/// The functions whose types the deploy does not change, so each build reads the other build's
/// values. The types of `checked` and `any_data` panic when they decode another type's data.
const UNCHANGED: &[(&str, &str)] =
    &[("unchanged", "hit"), ("checked", "hit"), ("omitted", "hit"), ("any_data", "hit")];

/// Checks that the outcome for each function is `expected`. `exceptions` lists the functions that
/// must have a different outcome.
fn assert_each(outcomes: &BTreeMap<String, String>, expected: &str, exceptions: &[(&str, &str)]) {
    for (change, outcome) in outcomes {
        let exception = exceptions.iter().find(|(name, _)| name == change);
        let expected = exception.map_or(expected, |(_, expected)| *expected);
        assert_eq!(outcome, expected, "{change}: {outcomes:?}");
    }
}

#[test]
fn two_builds_cache_side_by_side() {
    let memcached = Memcached::start();
    let first = run(OLD, &memcached);
    assert!(first.len() >= 24, "each function prints a line: {first:?}");
    assert_each(&first, "fetched", &[]);
    assert_each(&run(NEW, &memcached), "fetched", UNCHANGED);
    for _ in 0..2 {
        assert_each(&run(OLD, &memcached), "hit", &[]);
        assert_each(&run(NEW, &memcached), "hit", &[]);
    }
}

#[test]
fn a_rollback_is_as_safe_as_a_deploy() {
    let memcached = Memcached::start();
    assert_each(&run(NEW, &memcached), "fetched", &[]);
    assert_each(&run(OLD, &memcached), "fetched", UNCHANGED);
    assert_each(&run(NEW, &memcached), "hit", &[]);
    assert_each(&run(OLD, &memcached), "hit", &[]);
}

#[test]
fn an_invalidation_reaches_both_builds_entries() {
    let memcached = Memcached::start();
    run(OLD, &memcached);
    run(NEW, &memcached);
    assert_each(&run_action(NEW, Some("invalidate"), &memcached), "done", &[]);
    assert_each(&run(OLD, &memcached), "fetched", &[]);
    assert_each(&run(NEW, &memcached), "fetched", UNCHANGED);
    // The old build's entries are in the first slot now.
    assert_each(&run_action(OLD, Some("invalidate"), &memcached), "done", &[]);
    assert_each(&run(NEW, &memcached), "fetched", &[]);
    assert_each(&run(OLD, &memcached), "fetched", UNCHANGED);
}

#[test]
fn an_overwrite_replaces_both_builds_entries() {
    let memcached = Memcached::start();
    run(OLD, &memcached);
    run(NEW, &memcached);
    assert_each(&run_action(NEW, Some("overwrite"), &memcached), "done", &[]);
    assert_each(&run(OLD, &memcached), "fetched", UNCHANGED);
    assert_each(&run(OLD, &memcached), "hit", &[]);
    assert_each(&run(NEW, &memcached), "hit", &[]);
}

#[test]
fn get_and_add_use_the_builds_own_slot() {
    let memcached = Memcached::start();
    run(OLD, &memcached);
    assert_each(
        &run_action(NEW, Some("get"), &memcached),
        "no",
        &UNCHANGED.iter().map(|(name, _)| (*name, "found")).collect::<Vec<_>>(),
    );
    assert_each(
        &run_action(NEW, Some("add"), &memcached),
        "added",
        &UNCHANGED.iter().map(|(name, _)| (*name, "no")).collect::<Vec<_>>(),
    );
    assert_each(&run_action(NEW, Some("add"), &memcached), "no", &[]);
    assert_each(&run_action(NEW, Some("get"), &memcached), "found", &[]);
    assert_each(&run_action(OLD, Some("get"), &memcached), "found", &[]);
    assert_each(&run(NEW, &memcached), "hit", &[]);
}

/// The test removes only the entry in the first slot. The build that used the second slot then uses
/// the first slot, and the other build uses the second.
#[test]
fn no_build_keeps_both_slots() {
    let memcached = Memcached::start();
    run(OLD, &memcached);
    run(NEW, &memcached);
    for key in run_action(NEW, Some("key"), &memcached).values() {
        assert_eq!(memcached.command(&format!("md {key}")), "HD");
    }
    assert_each(&run(NEW, &memcached), "fetched", &[]);
    assert_each(&run(OLD, &memcached), "fetched", UNCHANGED);
    for _ in 0..2 {
        assert_each(&run(OLD, &memcached), "hit", &[]);
        assert_each(&run(NEW, &memcached), "hit", &[]);
    }
}
