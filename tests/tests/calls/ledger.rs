//! The ledger lists the declarations of the whole program.

use cached_core::Finding;

#[tokio::test]
async fn the_ledger_lists_declarations_with_their_reasons() {
    let ledger = cached_core::ledger();
    let profile =
        ledger.iter().find(|d| d.name() == "profile").expect("the ledger lists the function");
    assert_eq!(profile.overwrite_reason(), Some("a profile has no version of its own"));
    assert!(profile.place().contains("functions.rs:"), "{}", profile.place());
    assert!(ledger.to_string().contains("a profile has no version of its own"));
    assert!(ledger.iter().any(|d| d.name() == "payment" && d.overwrite_reason().is_none()));
    // Four functions of this program have findings. `no_none` has an option without effect, and
    // `hidden_set` has a `HashSet` in its key. The errors of `unshared` and `unsendable` cannot be
    // shared.
    let findings = ledger.audit();
    let is_expected = |finding: &Finding| {
        let finding = finding.to_string();
        let known = ["`no_none`", "`hidden_set`", "`unshared`", "`unsendable`"];
        known.iter().any(|name| finding.contains(name))
    };
    assert!(findings.iter().all(is_expected), "{findings:?}");
}
