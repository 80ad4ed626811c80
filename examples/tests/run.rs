//! Runs the example programs and checks their output.

use std::process::Command;

fn printed(program: &str) -> String {
    let output = Command::new(program).env_remove("CACHE_URL").output();
    let output = output.expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}{errors}");
    text
}

#[test]
fn first_fetches_once_for_each_state() {
    let text = printed(env!("CARGO_BIN_EXE_first"));
    let millis = text.lines().map(|line| {
        let took = line.trim_end_matches(" ms").rsplit(' ').next();
        took.and_then(|took| took.parse::<f64>().ok())
    });
    let millis: Vec<f64> = millis.map(|took| took.expect(&text)).collect();
    assert_eq!(millis.len(), 4, "{text}");
    let fetched: Vec<bool> = millis.iter().map(|took| *took >= 200.0).collect();
    assert_eq!(fetched, [true, false, true, false], "{text}");
}

#[test]
fn request_scope_gives_one_answer() {
    let text = printed(env!("CARGO_BIN_EXE_request_scope"));
    let expected = "without a request scope: the header says 4900, the footer 5400\n\
                    in a request scope:      the header says 4900, the footer 4900\n\
                    in the next request:     the header says 5400, the footer 5400\n";
    assert_eq!(text, expected);
}

#[test]
fn overwrite_reason_is_in_the_ledger() {
    let text = printed(env!("CARGO_BIN_EXE_overwrite_reason"));
    assert_eq!(text.matches("(fetching profile 7)").count(), 1, "{text}");
    assert_eq!(text.matches("(fetching order 17").count(), 1, "{text}");
    assert!(text.contains("ada@example.org"), "{text}");
    assert!(text.contains("a second answer is added: false"), "{text}");
    assert!(
        text.contains("users edit their profile, and the user service gives it no version"),
        "{text}"
    );
}
