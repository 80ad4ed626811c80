//! Tests that the attribute `#[coordinator_cached]` does not change the errors and warnings that
//! the compiler reports for the body of a function.
//!
//! The test compiles each function twice, and compares the messages and the underlined places. The
//! test is a program of its own because it runs cargo.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

/// The test compiles two programs for each case. The first program has this line; the second has a
/// comment in its place.
const ATTRIBUTE: &str =
    "#[cached_core::coordinator_cached(name = \"case\", version = number, skip(client))]";

/// The cases. Each has a name and the source of a program. The program has a mistake, or something
/// that the compiler warns about, in the body of its function `fetch`.
const CASES: [(&str, &str); 14] = [
    (
        "mismatch_at_the_tail",
        "async fn fetch(client: &str, number: u32) -> Result<String, String> {
            let answer = format!(\"{client}{number}\");
            answer
        }
        fn main() { drop(fetch(\"\", 1)); }",
    ),
    (
        "mismatch_in_the_tail",
        "async fn fetch(client: &str, number: u32) -> Result<String, String> {
            let _ = client;
            Ok(number)
        }
        fn main() { drop(fetch(\"\", 1)); }",
    ),
    (
        "early_return_of_a_wrong_type",
        "async fn fetch(client: &str, number: u32) -> Result<String, String> {
            if number == 0 {
                return None;
            }
            Ok(client.to_owned())
        }
        fn main() { drop(fetch(\"\", 1)); }",
    ),
    (
        "question_mark_on_a_wrong_error",
        "async fn fetch(client: &str, number: u32) -> Result<u64, std::num::ParseIntError> {
            let _ = number;
            let text = std::str::from_utf8(client.as_bytes())?;
            text.parse()
        }
        fn main() { drop(fetch(\"\", 1)); }",
    ),
    (
        "await_is_missing",
        "async fn upstream(number: u32) -> Result<String, String> { Ok(number.to_string()) }
        async fn fetch(client: &str, number: u32) -> Result<String, String> {
            let _ = client;
            upstream(number)
        }
        fn main() { drop(fetch(\"\", 1)); }",
    ),
    (
        "use_after_move",
        "async fn fetch(client: String, number: u32) -> Result<String, String> {
            let moved = client;
            Ok(format!(\"{client}{moved}{number}\"))
        }
        fn main() { drop(fetch(String::new(), 1)); }",
    ),
    (
        "borrow_that_does_not_live_long_enough",
        "async fn fetch(client: &str, number: u32) -> Result<String, String> {
            let longest: &str;
            {
                let local = format!(\"{client}{number}\");
                longest = &local;
            }
            Ok(longest.to_owned())
        }
        fn main() { drop(fetch(\"\", 1)); }",
    ),
    (
        "mutable_borrow_of_an_immutable_parameter",
        "async fn fetch(client: String, number: u32) -> Result<String, String> {
            client.push_str(&number.to_string());
            Ok(client)
        }
        fn main() { drop(fetch(String::new(), 1)); }",
    ),
    (
        "not_send_across_an_await",
        "fn spawn(_: impl Send) {}
        async fn fetch(client: &'static str, number: u32) -> Result<String, String> {
            let local = std::rc::Rc::new(number);
            std::future::ready(client).await;
            Ok(local.to_string())
        }
        fn main() { spawn(fetch(\"\", 1)); }",
    ),
    (
        "stray_semicolon",
        "async fn fetch(client: &str, number: u32) -> Result<String, String> {
            Ok::<String, String>(format!(\"{client}{number}\"));
        }
        fn main() { drop(fetch(\"\", 1)); }",
    ),
    (
        "unused_variables",
        "async fn fetch(client: &str, number: u32) -> Result<String, String> {
            let unused = 1;
            let mut never_changed = String::new();
            Ok(number.to_string() + &never_changed)
        }
        fn main() { drop(fetch(\"\", 1)); }",
    ),
    (
        "unreachable_code",
        "async fn fetch(client: &str, number: u32) -> Result<String, String> {
            return Ok(format!(\"{client}{number}\"));
            println!(\"done\");
        }
        fn main() { drop(fetch(\"\", 1)); }",
    ),
    (
        "dead_code",
        "fn helper() {}
        async fn fetch(client: &str, number: u32) -> Result<String, String> {
            fn inner() {}
            Ok(format!(\"{client}{number}\"))
        }
        fn main() {}",
    ),
    (
        "empty_body",
        "async fn fetch(client: &str, number: u32) -> Result<String, String> {}
        fn main() { drop(fetch(\"\", 1)); }",
    ),
];

/// A line of `cargo check --message-format=json`, with the fields that the test compares.
#[derive(Deserialize)]
struct CargoMessage {
    target: Option<CargoTarget>,
    message: Option<Diagnostic>,
}

#[derive(Deserialize)]
struct CargoTarget {
    name: String,
}

#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    message: String,
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    is_primary: bool,
    line_start: usize,
    column_start: usize,
    line_end: usize,
    column_end: usize,
}

#[test]
fn the_attribute_changes_no_error_in_a_body() {
    let messages = compiler_messages(&write_package());
    let mut differences = String::new();
    for (case, _) in CASES {
        let [with, without] =
            ["with", "without"].map(|kind| messages.get(&format!("{case}_{kind}")));
        let without = without.unwrap_or_else(|| panic!("{case}: the compiler reports nothing"));
        if with != Some(without) {
            writeln!(differences, "{case}:\n  without {without:#?}\n  with {with:#?}")
                .expect("a String accepts every write");
        }
    }
    assert!(differences.is_empty(), "the attribute changes no message:\n{differences}");
}

/// Writes a package with two programs for each case, which differ only in the attribute.
fn write_package() -> std::path::PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("body_errors");
    let write = |path: &str, text: &str| {
        let path = package.join(path);
        std::fs::create_dir_all(path.parent().expect("the path has a parent"))
            .expect("the folder can be created");
        std::fs::write(path, text).expect("the file can be written");
    };
    let core = tests.join("../cached-core");
    let manifest = format!(
        "[package]\nname = \"body_errors\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [dependencies]\ncached-core.path = {core:?}\n[workspace]\n"
    );
    write("Cargo.toml", &manifest);
    let lock =
        std::fs::read_to_string(tests.join("../Cargo.lock")).expect("Cargo.lock is checked in");
    write("Cargo.lock", &lock);
    for (case, program) in CASES {
        for (kind, line) in [("with", ATTRIBUTE), ("without", "// no attribute")] {
            let program =
                program.replacen("async fn fetch", &format!("\n{line}\nasync fn fetch"), 1);
            write(&format!("src/bin/{case}_{kind}.rs"), &program);
        }
    }
    package
}

/// Checks the package with cargo. Returns the compiler's messages about each program, with level,
/// text and underlined places.
fn compiler_messages(package: &Path) -> BTreeMap<String, Vec<String>> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
    let output = Command::new(env!("CARGO"))
        .args(["check", "--quiet", "--offline", "--keep-going", "--bins", "--message-format=json"])
        .env("CARGO_TARGET_DIR", target)
        .env_remove("RUSTFLAGS")
        .current_dir(package)
        .output()
        .expect("cargo runs");
    let mut messages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(CargoMessage { target: Some(target), message: Some(message) }) =
            serde_json::from_str(line)
        else {
            continue;
        };
        let Diagnostic { level, message, spans } = message;
        if spans.is_empty() {
            continue;
        }
        let places = spans.iter().filter(|span| span.is_primary).map(|span| {
            let Span { line_start, column_start, line_end, column_end, .. } = span;
            format!("{line_start}:{column_start}-{line_end}:{column_end}")
        });
        let places: Vec<String> = places.collect();
        let text = format!("{level}: {message} at {}", places.join(", "));
        messages.entry(target.name).or_default().push(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!messages.is_empty(), "the compiler reports messages: {errors}");
    messages.values_mut().for_each(|texts| texts.sort());
    messages
}
