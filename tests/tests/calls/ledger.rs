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
    // The module `absent_values` declares `no_none` with an option that has no effect, the module
    // `keys` has a `HashSet` in the key of `hidden_set`, and the errors of `unshared` in the module
    // `single_flight` and of `unsendable` in `futures` cannot be shared.
    let findings = ledger.audit();
    let is_expected = |finding: &Finding| {
        let finding = finding.to_string();
        let known = ["`no_none`", "`hidden_set`", "`unshared`", "`unsendable`"];
        known.iter().any(|name| finding.contains(name))
    };
    assert!(findings.iter().all(is_expected), "{findings:?}");
}
