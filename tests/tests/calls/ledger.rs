//! Tests of the ledger, the list of all cached functions of a program. The ledger can be written as
//! JSON and as Markdown, and compared with a file.

use std::error::Error as _;
use std::path::PathBuf;
use std::process::Command;

use cached_core::{Finding, LedgerDriftKind, coordinator_cached, ledger};

/// An `overwrite` reason with characters that JSON and Markdown must escape.
const HARD_REASON: &str = "a | b, \"c\" \\| d,\n<e>\r\n`f` \u{1}\t\u{2028}ü";

#[coordinator_cached(
    name = "hard_reason",
    overwrite(reason = "a | b, \"c\" \\| d,\n<e>\r\n`f` \u{1}\t\u{2028}ü"),
    version = (edition|1,   reprint . wrapping_add( 1 ) ,),
    ttl = "90s",
    cache_if = |course| course.is_some(),
    remote = false
)]
async fn hard_reason(edition: u8, reprint: u8) -> Option<String> {
    Some(format!("{edition}, {reprint}"))
}

/// Returns the path of a temporary file that no other test uses.
fn temporary_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("cached-tests.{name}.{}.md", std::process::id()))
}

#[tokio::test]
async fn the_ledger_lists_declarations_with_their_reasons() {
    let ledger = cached_core::ledger();
    let profile =
        ledger.iter().find(|d| d.name() == "profile").expect("the ledger lists the function");
    assert_eq!(profile.overwrite_reason(), Some("a profile has no version of its own"));
    assert!(profile.place().contains("functions.rs:"), "{}", profile.place());
    assert!(ledger.to_string().contains("a profile has no version of its own"));
    let lines = ledger.to_string().lines().count();
    assert_eq!(lines, 1 + ledger.iter().count(), "a header, and one line for each declaration");
    assert!(ledger.iter().any(|d| d.name() == "payment" && d.overwrite_reason().is_none()));
    // Four functions of this program have findings. `never_none` has an option without effect, and
    // `hidden_set` has a `HashSet` in its key. The errors of `unshared` and `unsendable` cannot be
    // given to several callers.
    let findings = ledger.audit();
    let is_expected = |finding: &Finding| {
        let finding = finding.to_string();
        let known = ["`never_none`", "`hidden_set`", "`unshared`", "`unsendable`"];
        known.iter().any(|name| finding.contains(name))
    };
    assert!(findings.iter().all(is_expected), "{findings:?}");
}

#[tokio::test]
async fn json_has_the_whole_reason() {
    let _ = hard_reason(1, 2).await;
    let json: serde_json::Value =
        serde_json::from_str(&ledger().to_json()).expect("the text is JSON");
    let all = json.as_array().expect("the ledger is an array");
    let listed: Vec<_> = ledger().iter().map(|declaration| declaration.name()).collect();
    let written: Vec<_> = all.iter().map(|object| object["name"].as_str()).collect();
    assert_eq!(written, listed.into_iter().map(Some).collect::<Vec<_>>());

    let hard = all
        .iter()
        .find(|object| object["name"] == "hard_reason")
        .expect("the ledger lists the function");
    assert_eq!(hard["overwrite_reason"], HARD_REASON);
    assert_eq!(hard["function"], "calls::ledger::hard_reason");
    assert!(hard["place"].as_str().is_some_and(|place| place.contains("ledger.rs:")), "{hard}");
    assert_eq!(hard["version"], "(edition | 1, reprint.wrapping_add(1))");
    assert_eq!(hard["ttl"], "1m30s");
    assert_eq!(hard["tiers"], serde_json::json!(["local"]));
    assert_eq!(hard["options"], serde_json::json!(["cache_if"]));
    let nothing = ledger().of_crates(["shop"]).to_json();
    assert_eq!(nothing.trim(), "[]");
}

/// Splits a line of a table into its cells, as GitHub does: a backslash escapes the next character.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut cell) = (Vec::new(), String::new());
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '|' => cells.push(std::mem::take(&mut cell).trim().to_owned()),
            '\\' => cell.extend([letter].into_iter().chain(letters.next())),
            other => cell.push(other),
        }
    }
    cells
}

#[tokio::test]
async fn each_declaration_is_one_line_of_markdown() {
    let markdown = ledger().to_markdown();
    let table: Vec<_> = markdown.lines().filter(|line| line.starts_with('|')).map(cells).collect();
    // The first cell is the empty text before the first `|`.
    assert!(table.iter().all(|row| row.len() == 8 && row[0].is_empty()), "{markdown}");
    let names: Vec<_> = table.iter().skip(2).map(|row| row[1].clone()).collect();
    assert_eq!(names, ledger().iter().map(|d| d.name()).collect::<Vec<_>>());
    assert!(names.is_sorted(), "{names:?}");

    let hard =
        table.iter().find(|row| row[1] == "hard_reason").expect("the ledger lists the function");
    assert_eq!(
        hard[2..],
        [
            "`calls::ledger::hard_reason`",
            "`(edition \\| 1, reprint.wrapping_add(1))`",
            "a \\| b, \"c\" \\\\\\| d,<br>\\<e><br>`f` \u{1}\t\u{2028}ü",
            "1m30s",
            "local",
            "cache_if"
        ]
    );
    assert!(!markdown.contains(".rs"), "no line depends on the place in a file");
}

/// Runs an ignored test of this module in a process of its own, because environment variables
/// belong to a process. Returns whether the test passed, and what it printed.
fn run_alone(test: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().expect("the program has a path"));
    command.args(["--exact", &format!("ledger::{test}"), "--ignored", "--nocapture"]);
    command.env_remove("UPDATE_LEDGER").envs(variables.iter().copied());
    let output = command.output().expect("the program starts");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let text = text.concat();
    assert!(text.contains("running 1 test"), "{text}");
    (output.status.success(), text)
}

#[test]
fn a_file_that_differs_is_shown_by_lines() {
    let (passed, text) = run_alone("compare_with_files", &[]);
    assert!(passed, "{text}");
}

#[test]
#[ignore = "`a_file_that_differs_is_shown_by_lines` runs it"]
fn compare_with_files() {
    let path = temporary_path("differs");
    let ledger = ledger().of_crates(["calls"]);
    let missing = ledger.check(&path).expect_err("there is no file");
    assert_eq!((missing.kind(), missing.path()), (LedgerDriftKind::Missing, path.as_path()));
    assert!(missing.to_string().contains("UPDATE_LEDGER=1 cargo test"), "{missing}");

    // A file with the line endings of Windows counts as the same ledger.
    let current = ledger.to_markdown();
    for same in [current.clone(), current.replace('\n', "\r\n"), current.trim_end().to_owned()] {
        std::fs::write(&path, same).expect("the temporary folder can be written");
        assert!(ledger.check(&path).is_ok());
    }

    let earlier = current.replace(
        "`calls::functions::profile` |  | a profile has no version of its own |",
        "`calls::functions::profile` |  | there is no version yet |",
    );
    assert_ne!(earlier, current);
    std::fs::write(&path, earlier).expect("the temporary folder can be written");
    let drift = ledger.check(&path).expect_err("the reason differs");
    assert_eq!(drift.kind(), LedgerDriftKind::Differs);
    let (removed, added): (Vec<_>, Vec<_>) = (drift.removed().collect(), drift.added().collect());
    let ([removed], [added]) = (&removed[..], &added[..]) else { panic!("{drift}") };
    assert!(removed.contains("| there is no version yet |"), "{removed}");
    assert!(added.contains("| a profile has no version of its own |"), "{added}");
    let shown = format!("{drift:?}");
    assert!(shown.contains(&format!("\n- {removed}\n+ {added}\n")), "{shown}");

    std::fs::write(&path, [0xff, 0xfe]).expect("the temporary folder can be written");
    let unreadable = ledger.check(&path).expect_err("the file is not UTF-8");
    assert_eq!(unreadable.kind(), LedgerDriftKind::Unreadable);
    // A program that prints an error with its sources shows each of them once.
    let source = unreadable.source().expect("an I/O error is the source").to_string();
    assert_eq!(unreadable.to_string(), format!("`{}` cannot be read", path.display()));
    assert_eq!(format!("{unreadable:?}"), format!("{unreadable}: {source}"));
    std::fs::remove_file(&path).expect("the file is there");
}

#[test]
fn a_ledger_without_functions_is_not_compared() {
    let path = temporary_path("empty");
    let empty = ledger().of_crates(["calls"]).without_module("calls");
    std::fs::write(&path, empty.to_markdown()).expect("the temporary folder can be written");
    let drift = empty.check(&path).expect_err("there is nothing to compare");
    assert_eq!(drift.kind(), LedgerDriftKind::Empty);
    std::fs::remove_file(&path).expect("the file is there");
}

/// Checks the ledger against the file that the environment variable `LEDGER_PATH` names.
#[test]
#[ignore = "`the_file_is_written_only_when_asked` runs it"]
fn check_against_ledger_path() {
    let path = std::env::var_os("LEDGER_PATH").expect("the variable is set");
    ledger().check(path).expect("the file is the ledger");
}

#[test]
fn the_file_is_written_only_when_asked() {
    let path = temporary_path("written");
    let shown = path.to_string_lossy().into_owned();
    let check = |variables: &[(&str, &str)]| {
        run_alone(
            "check_against_ledger_path",
            &[&[("LEDGER_PATH", shown.as_str())], variables].concat(),
        )
    };
    for variables in
        [&[][..], &[("CI", "true")], &[("UPDATE_LEDGER", "0")], &[("UPDATE_LEDGER", "")]]
    {
        let (passed, text) = check(variables);
        assert!(!passed && text.contains("does not exist"), "{variables:?}: {text}");
        assert!(!path.exists(), "{variables:?}");
    }
    // `UPDATE_LEDGER=1` writes the file in continuous integration too.
    assert!(check(&[("CI", "true"), ("UPDATE_LEDGER", "1")]).0);
    let written = std::fs::read_to_string(&path).expect("the file is written");
    assert_eq!(written, ledger().to_markdown());
    assert!(check(&[]).0);

    std::fs::write(&path, written.replace("hard_reason", "other_name"))
        .expect("the file can be written");
    assert!(!check(&[]).0);
    assert!(check(&[("UPDATE_LEDGER", "1")]).0);
    assert_eq!(std::fs::read_to_string(&path).expect("the file is written"), written);
    std::fs::remove_file(&path).expect("the file is there");

    let folder = path.join("CACHE-LEDGER.md");
    let output = check(&[("UPDATE_LEDGER", "1"), ("LEDGER_PATH", &folder.to_string_lossy())]);
    assert!(!output.0 && output.1.contains("cannot be written"), "{}", output.1);
}
