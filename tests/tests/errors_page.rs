//! `docs/errors.md` is made of the compile-fail cases, so that it cannot drift from them. After a
//! change, `WRITE_ERRORS_PAGE=1 cargo test -p cached-tests --test errors_page` writes it anew.

use std::fmt::Write;
use std::path::Path;

/// The case, and what to write instead of the lines that it shows.
const MISTAKES: [(&str, &str); 20] = [
    ("neither_version_nor_overwrite", "#[coordinator_cached(name = \"payment\", version = state)]"),
    (
        "overwrite_without_reason",
        "#[coordinator_cached(name = \"payment\", overwrite(reason = \"users edit their profile and expect to see it\"))]",
    ),
    (
        "overwrite_reason_one_word",
        "overwrite(reason = \"the upstream has no versions of a price\")",
    ),
    (
        "overwrite_reason_placeholder",
        "overwrite(reason = \"the upstream has no versions of a price\")",
    ),
    ("version_constant", "version = state"),
    ("version_misspelt_parameter", "version = state"),
    ("parameter_in_neither_key_nor_skip", "identifier = (number, region), or skip(region)"),
    ("self_in_neither_key_nor_skip", "identifier = (self.base, number), or skip(self)"),
    ("skip_misspelt_parameter", "skip(client)"),
    ("skip_in_key", "name it in the key or in skip, not in both"),
    ("option_unknown", "version = state"),
    ("option_repeated", "give the option once"),
    ("name_missing", "name = \"payment\""),
    ("name_with_other_letters", "name = \"payment-of-order\""),
    ("ttl_without_unit", "ttl = \"30s\""),
    ("not_async", "async fn fetch(…) -> Result<…>"),
    (
        "value_not_serializable",
        "#[derive(Clone, serde::Serialize, serde::Deserialize)] struct Payment",
    ),
    (
        "value_own_type_without_infallible",
        "#[coordinator_cached(name = \"payment\", version = state, infallible)], or return a Result",
    ),
    ("identifier_of_what_has_no_encoding", "#[derive(serde::Serialize)], or skip(…)"),
    (
        "entry_overwrite_of_write_once",
        "#[coordinator_cached(…, overwrite(reason = \"…\"))], or version = … and another entry",
    ),
];

#[test]
fn the_page_of_errors_is_made_of_the_compile_fail_cases() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: String| {
        std::fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let mut page = String::from(
        "# The twenty most likely mistakes\n\n\
         Each with the compiler's message and its cure. Made of the compile-fail cases in\n\
         `tests/ui` by `tests/tests/errors_page.rs`; do not edit it by hand.\n",
    );
    for (number, (case, cure)) in MISTAKES.iter().enumerate() {
        let source = read(format!("ui/{case}.rs"));
        let rule = source.lines().next().unwrap_or_default().trim_start_matches("//! ");
        let message = read(format!("ui/{case}.stderr"));
        let message = message.trim_end();
        write!(
            page,
            "\n## {}. {rule}\n\n```text\n{message}\n```\n\nWrite instead: `{cure}`\n",
            number + 1
        )
        .expect("a String takes everything");
    }
    let path = root.join("../docs/errors.md");
    if std::env::var_os("WRITE_ERRORS_PAGE").is_some() {
        std::fs::write(&path, &page).expect("docs can be written");
    }
    let written = std::fs::read_to_string(&path).expect("docs/errors.md is there");
    assert!(written == page, "docs/errors.md is out of date; see the top of this file");
}
