//! Makes each measurement in a child process. The functions of the crate `cached` have one store
//! for the whole process, and a measurement must not reuse memory that another one has freed.

use std::process::{Command, Stdio};

use crate::harness::Results;

/// The first argument of a child process, which makes one measurement and prints its rows.
pub const ALONE: &str = "--alone";

/// Makes one measurement in a child process.
pub fn run(measurement: &str, of: &str) -> Results {
    let program = std::env::current_exe().expect("the program has a path");
    let child = Command::new(program)
        .args([ALONE, measurement, of])
        .stderr(Stdio::inherit())
        .output()
        .expect("the program starts");
    assert!(child.status.success(), "{measurement} of {of} failed");
    Results::parse(&String::from_utf8(child.stdout).expect("the text is UTF-8"))
}
