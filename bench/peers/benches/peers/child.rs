//! Measurements in processes of their own. The functions that `cached` annotates keep one store for
//! the whole process, and memory that one measurement frees would be used again by the next.

use std::process::{Command, Stdio};

use crate::harness::Results;

/// The first argument of a process that makes one measurement and prints its rows.
pub const ALONE: &str = "--alone";

/// Makes one measurement in a process of its own.
pub fn run(measurement: &str, of: &str) -> Results {
    let program = std::env::current_exe().expect("it runs");
    let child = Command::new(program)
        .args([ALONE, measurement, of])
        .stderr(Stdio::inherit())
        .output()
        .expect("it starts");
    assert!(child.status.success(), "{measurement} of {of} failed");
    Results::parse(&String::from_utf8(child.stdout).expect("UTF-8"))
}
