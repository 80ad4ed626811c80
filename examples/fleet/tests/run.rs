//! Runs the simulation of a small fleet.

use std::process::Command;

#[test]
fn a_small_fleet_keeps_the_promises() {
    let svg = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("fleet.svg");
    let output = Command::new(env!("CARGO_BIN_EXE_fleet-simulation"))
        .args(["--processes", "40", "--servers", "8", "--keys", "300", "--calls", "4000"])
        .arg("--svg")
        .arg(&svg)
        .output()
        .expect("the program runs");
    let (out, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{errors}");
    assert!(out.contains("all processes call with one cold key"), "{out}");
    let svg = std::fs::read_to_string(&svg).expect("the plots are written");
    assert!(svg.starts_with("<svg") && svg.contains("Commands by server"), "{svg}");
}
