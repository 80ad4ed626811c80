//! Checks that `docs/errors.md` shows the messages of the compile-fail cases.
//! `WRITE_ERRORS_PAGE=1 cargo test -p cached-tests --test errors_page` writes the page.
//!
//! The test is a program of its own because it uses nothing of the library, and so builds at once.

use std::fmt::Write;
use std::path::Path;

/// A section of the page, about one mistake in the use of the attribute. The heading is the first
/// line of the compile-fail case.
struct Mistake {
    /// The name of the compile-fail case: the file in `ui`, without its extension.
    case: &'static str,
    /// Why the attribute does not accept the mistake.
    reason: &'static str,
    /// The ways to mend the mistake: when to choose each, and the code to write.
    fixes: &'static [(&'static str, &'static str)],
}

const MISTAKES: [Mistake; 21] = [
    Mistake {
        case: "neither_version_nor_overwrite",
        reason: "If the answer can change, either its key must change with it, or you must say why \
            entries may be replaced.",
        fixes: &[
            (
                "If a parameter changes whenever the answer does, make it the version:",
                "#[coordinator_cached(name = \"payment\", version = state)]",
            ),
            (
                "If there is no such parameter, say why entries must be replaced:",
                "#[coordinator_cached(name = \"profile\", overwrite(reason = \"users edit their profile\"))]",
            ),
        ],
    },
    Mistake {
        case: "overwrite_without_reason",
        reason: "`cached_core::ledger()` lists every function with its reason, for a reviewer to read.",
        fixes: &[(
            "Say why entries must be replaced:",
            "#[coordinator_cached(name = \"profile\", overwrite(reason = \"users edit their profile\"))]",
        )],
    },
    Mistake {
        case: "overwrite_reason_one_word",
        reason: "One or two words rarely explain anything to a reviewer.",
        fixes: &[(
            "Write a sentence:",
            "overwrite(reason = \"the upstream has no versions of a price\")",
        )],
    },
    Mistake {
        case: "overwrite_reason_placeholder",
        reason: "A reason may not begin with a word such as `TODO`, `FIXME` or `TBD`.",
        fixes: &[(
            "Write the real reason:",
            "overwrite(reason = \"the upstream has no versions of a price\")",
        )],
    },
    Mistake {
        case: "version_constant",
        reason: "A version that never changes would not stop old answers from being served.",
        fixes: &[
            ("Name the parameter that changes with the answer:", "version = state"),
            (
                "If there is none, say why entries must be replaced:",
                "overwrite(reason = \"the upstream has no versions of a price\")",
            ),
        ],
    },
    Mistake {
        case: "version_misspelt_parameter",
        reason: "A version must mention a parameter of the function, or `self`.",
        fixes: &[("Correct the name:", "version = state")],
    },
    Mistake {
        case: "parameter_in_neither_key_nor_skip",
        reason: "If a parameter is missing from the key, two different calls share one entry.",
        fixes: &[
            (
                "If the parameter can change the answer, add it to the identifier:",
                "#[coordinator_cached(name = \"payment\", version = state, identifier = (number, region))]",
            ),
            (
                "If it cannot, whatever its value, for example because it is a logger, skip it:",
                "#[coordinator_cached(name = \"payment\", version = state, identifier = number, skip(region))]",
            ),
        ],
    },
    Mistake {
        case: "self_in_neither_key_nor_skip",
        reason: "Two receivers may give different answers, for example if each has a base URL. With \
            `skip(self)`, one would be served what the other fetched.",
        fixes: &[
            (
                "Add the fields that the answer depends on to the identifier:",
                "#[coordinator_cached(name = \"payment\", version = state, identifier = (self.base_url, number))]",
            ),
            (
                "Skip `self` only if every instance gives the same answer:",
                "#[coordinator_cached(name = \"payment\", version = state, skip(self))]",
            ),
        ],
    },
    Mistake {
        case: "skip_misspelt_parameter",
        reason: "`skip` lists parameters of the function, or `self`.",
        fixes: &[("Correct the name:", "skip(client)")],
    },
    Mistake {
        case: "skip_in_key",
        reason: "`skip` says that a parameter does not change the answer. A parameter in the key \
            does.",
        fixes: &[
            (
                "If the parameter changes the answer, remove it from `skip`:",
                "#[coordinator_cached(name = \"payment\", version = state)]",
            ),
            (
                "If it does not, it is not a version; say why entries must be replaced:",
                "#[coordinator_cached(name = \"payment\", overwrite(reason = \"a refund changes the payment\"), skip(state))]",
            ),
        ],
    },
    Mistake {
        case: "option_unknown",
        reason: "The attribute has no option of this name.",
        fixes: &[("Correct the name:", "version = state")],
    },
    Mistake {
        case: "option_repeated",
        reason: "Two values of one option contradict each other.",
        fixes: &[(
            "Keep one of them:",
            "#[coordinator_cached(name = \"payment\", version = state)]",
        )],
    },
    Mistake {
        case: "name_missing",
        reason: "The name is the first part of every key. The ledger (the list of all annotated \
            functions) and the counters show it.",
        fixes: &[(
            "Give the cache a name that is unique in the program:",
            "#[coordinator_cached(name = \"payment\", version = state)]",
        )],
    },
    Mistake {
        case: "name_with_other_letters",
        reason: "The name is part of a memcached key, which cannot contain spaces, for example.",
        fixes: &[(
            "Write lower-case letters, digits, `.`, `_` and `-`:",
            "name = \"payment-data\"",
        )],
    },
    Mistake {
        case: "ttl_without_unit",
        reason: "A duration is a number with a unit: `d`, `h`, `m`, `s` or `ms`.",
        fixes: &[("Add the unit:", "ttl = \"30s\"")],
    },
    Mistake {
        case: "not_async",
        reason: "Only a future can wait for the cache. A function whose body is one `async move { … }` can \
            also be annotated, if it returns `impl Future` or a boxed future: [what can be \
            annotated][start].",
        fixes: &[(
            "Otherwise make the function `async`:",
            "async fn fetch(number: &str, state: u8) -> Result<String, String> { /* … */ }",
        )],
    },
    Mistake {
        case: "value_not_serializable",
        reason: "A cached value is cloned for each hit, and encoded for memcached.",
        fixes: &[(
            "Derive the three traits:",
            "#[derive(Clone, serde::Serialize, serde::Deserialize)]\nstruct Payment { /* … */ }",
        )],
    },
    Mistake {
        case: "value_own_type_without_infallible",
        reason: "Errors are not cached. The attribute knows the error of a `Result`, but it cannot \
            know whether some `Payment` values mean failure.",
        fixes: &[
            (
                "If the function can fail, return a `Result`:",
                "async fn fetch(number: &str, state: u8) -> Result<Payment, FetchError> { /* … */ }",
            ),
            (
                "If every `Payment` may be cached, say so:",
                "#[coordinator_cached(name = \"payment\", version = state, infallible)]",
            ),
        ],
    },
    Mistake {
        case: "identifier_of_what_has_no_encoding",
        reason: "The parts of a key are encoded by their `Serialize`.",
        fixes: &[
            (
                "If the type is yours, derive `Serialize`:",
                "#[derive(serde::Serialize)]\nstruct Request { /* … */ }",
            ),
            (
                "If a part of it identifies the answer, name that part:",
                "#[coordinator_cached(name = \"payment\", version = state, identifier = request.path)]",
            ),
            (
                "If it never changes the answer, skip it. A client with a base URL of its own does change it:",
                "#[coordinator_cached(name = \"payment\", version = state, skip(request))]",
            ),
        ],
    },
    Mistake {
        case: "entry_overwrite_of_write_once",
        reason: "The function declares no reason to overwrite, so `overwrite` does not compile.",
        fixes: &[
            (
                "If the answer has versions, add an entry of the new version instead:",
                "payment_entry(\"1\", 3).add(\"paid\".to_owned()).await;",
            ),
            (
                "If it has none, declare the reason to overwrite:",
                "#[coordinator_cached(name = \"payment\", overwrite(reason = \"a refund changes the payment\"), entry = payment_entry)]",
            ),
        ],
    },
    Mistake {
        case: "entry_in_trait_impl",
        reason: "The companion would stand beside the method, and the trait has no such method.",
        fixes: &[(
            "Annotate an inherent method, and let the method of the trait call it:",
            "impl Client {\n    #[coordinator_cached(name = \"payment\", version = state, skip(self), entry = payment_entry)]\n    \
                async fn fetch_payment(&self, number: &str, state: u8) -> Result<String, String> { /* … */ }\n}",
        )],
    },
];

#[test]
fn errors_page_shows_the_compile_fail_cases() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: String| {
        std::fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let mut page = String::from(
        "# The most likely mistakes\n\n\
         Each section shows the compiler's message and what to write instead. Where a message says *result*,\n\
         it means the function's answer. ([All chapters][guide])\n\n\
         The page is written by `tests/tests/errors_page.rs` from the compile-fail cases in `tests/ui`; do not\n\
         edit it.\n",
    );
    for (number, Mistake { case, reason, fixes }) in (1..).zip(&MISTAKES) {
        let source = read(format!("ui/{case}.rs"));
        let rule = source.lines().next().unwrap_or_default().trim_start_matches("//! ");
        let rule = rule.trim_end_matches('.');
        let message = read(format!("ui/{case}.stderr"));
        // The compiler may add errors that follow from the first one.
        let message = message.split("\n\nerror").next().unwrap_or_default().trim_end();
        write!(page, "\n## {number}. {rule}\n\n```text\n{message}\n```\n\n{reason}\n")
            .expect("a String takes everything");
        for (when, code) in *fixes {
            write!(page, "\n{when}\n\n```rust,ignore\n{code}\n```\n")
                .expect("a String takes everything");
        }
    }
    page.push_str("\n[guide]: ../README.md\n[start]: guide/start.md\n");
    let path = root.join("../docs/errors.md");
    if std::env::var_os("WRITE_ERRORS_PAGE").is_some() {
        std::fs::write(&path, &page).expect("docs can be written");
    }
    let written = std::fs::read_to_string(&path).expect("docs/errors.md exists");
    assert!(written == page, "docs/errors.md is up to date; see the top of this file");
}
