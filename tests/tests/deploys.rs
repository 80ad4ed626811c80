//! A rollout: two builds of one program on one memcached, which differ in the types of what they
//! cache. Each change of a type is a function of its own; `src/deploy.rs` lists them. A panic anywhere ends
//! such a process, so the types that panic on another build's data show that they are given none.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::process::Command;

use cached_tests::Memcached;

const OLD: &str = env!("CARGO_BIN_EXE_deploy_old");
const NEW: &str = env!("CARGO_BIN_EXE_deploy_new");

/// Runs a process of a build, which has nothing in its own memory. Returns how each call was
/// answered; every answer is the one that this build's function gives.
fn run(build: &str, memcached: &Memcached) -> BTreeMap<String, String> {
    run_what(build, None, memcached)
}

/// Does something else with each function's entry, and returns how it went.
fn run_what(build: &str, what: Option<&str>, memcached: &Memcached) -> BTreeMap<String, String> {
    let url = format!("memcache://{}?timeout=5s", memcached.address());
    let output = Command::new(build).args(what).env("CACHE_URL", url).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).expect("text");
    let lines = output.lines().map(|line| {
        let [change, how, answer] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        assert_eq!(answer, "right", "{build}: {line}");
        (change.to_owned(), how.to_owned())
    });
    lines.collect()
}

/// Each build reads these from the other.
const UNCHANGED: &[(&str, &str)] = &[("unchanged", "hit"), ("checked", "hit")];

fn each(answers: &BTreeMap<String, String>, expected: &str, but: &[(&str, &str)]) {
    for (change, how) in answers {
        let excepted = but.iter().find(|(name, _)| name == change);
        assert_eq!(how, excepted.map_or(expected, |(_, how)| *how), "{change}: {answers:?}");
    }
}

#[test]
fn two_builds_cache_side_by_side_and_never_read_each_others_values() {
    let memcached = Memcached::start();
    let first = run(OLD, &memcached);
    assert!(first.len() >= 24, "{first:?}");
    each(&first, "fetched", &[]);
    each(&run(NEW, &memcached), "fetched", UNCHANGED);
    for _ in 0..2 {
        each(&run(OLD, &memcached), "hit", &[]);
        each(&run(NEW, &memcached), "hit", &[]);
    }
}

#[test]
fn going_back_to_the_old_build_is_as_safe() {
    let memcached = Memcached::start();
    each(&run(NEW, &memcached), "fetched", &[]);
    each(&run(OLD, &memcached), "fetched", UNCHANGED);
    each(&run(NEW, &memcached), "hit", &[]);
    each(&run(OLD, &memcached), "hit", &[]);
}

#[test]
fn an_invalidation_reaches_both_builds_entries() {
    let memcached = Memcached::start();
    run(OLD, &memcached);
    run(NEW, &memcached);
    each(&run_what(NEW, Some("invalidate"), &memcached), "done", &[]);
    each(&run(OLD, &memcached), "fetched", &[]);
    each(&run(NEW, &memcached), "fetched", UNCHANGED);
    // Now the old build has the first slot.
    each(&run_what(OLD, Some("invalidate"), &memcached), "done", &[]);
    each(&run(NEW, &memcached), "fetched", &[]);
    each(&run(OLD, &memcached), "fetched", UNCHANGED);
}

#[test]
fn an_overwrite_replaces_both_builds_entries() {
    let memcached = Memcached::start();
    run(OLD, &memcached);
    run(NEW, &memcached);
    each(&run_what(NEW, Some("overwrite"), &memcached), "done", &[]);
    each(&run(OLD, &memcached), "fetched", UNCHANGED);
    each(&run(OLD, &memcached), "hit", &[]);
    each(&run(NEW, &memcached), "hit", &[]);
}

#[test]
fn a_look_finds_and_an_add_fills_the_slot_that_a_build_has() {
    let memcached = Memcached::start();
    run(OLD, &memcached);
    each(
        &run_what(NEW, Some("get"), &memcached),
        "no",
        &[("unchanged", "found"), ("checked", "found")],
    );
    each(
        &run_what(NEW, Some("add"), &memcached),
        "added",
        &[("unchanged", "no"), ("checked", "no")],
    );
    each(&run_what(NEW, Some("add"), &memcached), "no", &[]);
    each(&run_what(NEW, Some("get"), &memcached), "found", &[]);
    each(&run_what(OLD, Some("get"), &memcached), "found", &[]);
    each(&run(NEW, &memcached), "hit", &[]);
}

/// The first slot's entry expires before the second's, and the build that has the second takes the
/// first too. The other build then takes the second.
#[test]
fn no_build_keeps_both_slots() {
    let memcached = Memcached::start();
    run(OLD, &memcached);
    run(NEW, &memcached);
    for key in run_what(NEW, Some("key"), &memcached).values() {
        assert_eq!(memcached.command(&format!("md {key}")), "HD");
    }
    each(&run(NEW, &memcached), "fetched", &[]);
    each(&run(OLD, &memcached), "fetched", UNCHANGED);
    for _ in 0..2 {
        each(&run(OLD, &memcached), "hit", &[]);
        each(&run(NEW, &memcached), "hit", &[]);
    }
}
