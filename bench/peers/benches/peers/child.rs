//! Makes each measurement in a child process of its own. In `cached`, a crate that is compared
//! here, each function's store lives until the process ends, so two measurements would share it.
//! Nor may a measurement reuse memory that an earlier one has freed.

use std::process::{Command, Stdio};

use crate::harness::Results;

/// The first command-line argument of a child process. With this argument, the program makes only
/// one measurement, and prints the rows of the result.
pub const CHILD_FLAG: &str = "--measure";

/// Starts this program as a child process that makes one measurement, and returns its results.
/// `of` selects what is measured, for example a library's name or a number of keys.
pub fn run(measurement: &str, of: &str) -> Results {
    let program = std::env::current_exe().expect("the program has a path");
    let child = Command::new(program)
        .args([CHILD_FLAG, measurement, of])
        .stderr(Stdio::inherit())
        .output()
        .expect("the program starts");
    assert!(child.status.success(), "{measurement} of {of} failed");
    Results::parse(&String::from_utf8(child.stdout).expect("the text is UTF-8"))
}
