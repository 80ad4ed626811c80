//! Tests two functions with the same cache name. Neither is cached, and the audit of the ledger
//! (the list of all annotated functions) reports both.
//!
//! The test has a process of its own. The ledger lists all functions of a process, so the audits of
//! other tests would report the shared name too.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicUsize, Ordering};

use cached_core::{Cache, Finding, InstallError, coordinator_cached};

static FETCHES: AtomicUsize = AtomicUsize::new(0);

mod orders {
    use super::*;

    #[coordinator_cached(name = "shared", version = number, entry = order_entry)]
    pub(crate) async fn order(number: u32) -> Result<String, std::io::Error> {
        FETCHES.fetch_add(1, Ordering::SeqCst);
        Ok(format!("order {number}"))
    }
}

mod payments {
    use super::*;

    #[coordinator_cached(name = "shared", version = number)]
    pub(crate) async fn payment(number: u32) -> Result<String, std::io::Error> {
        FETCHES.fetch_add(1, Ordering::SeqCst);
        Ok(format!("payment {number}"))
    }
}

#[coordinator_cached(name = "of_its_own", version = number)]
async fn of_its_own(number: u32) -> Result<String, std::io::Error> {
    FETCHES.fetch_add(1, Ordering::SeqCst);
    Ok(format!("own {number}"))
}

#[tokio::test]
async fn functions_with_a_shared_name_bypass_the_cache() {
    for call in 1..=3 {
        assert_eq!(orders::order(7).await.expect("the call succeeds"), "order 7");
        assert_eq!(payments::payment(7).await.expect("the call succeeds"), "payment 7");
        assert_eq!(FETCHES.load(Ordering::SeqCst), call * 2);
    }
    assert!(!orders::order_entry(7).add("nothing".into()).await);
    assert!(!orders::order_entry(7).get().await.is_found());

    let findings = cached_core::ledger().audit();
    let [finding @ Finding::SharedName { name: "shared", places }] = &findings[..] else {
        panic!("{findings:?}");
    };
    let line = finding.to_string();
    for (function, module) in [("order", "orders"), ("payment", "payments")] {
        assert!(line.contains(&format!("shared_name::{module}::{function}")), "{line}");
    }
    assert!(places.iter().all(|(_, place)| place.contains("shared_name.rs:")), "{line}");

    // An `install` that fails installs nothing. Calls then use the *embedded cache*, which every
    // process has.
    for _ in 0..2 {
        let cache = Cache::builder().build().await.expect("the settings are valid");
        let error = cache.install().expect_err("the name is shared");
        assert_eq!(error, InstallError::SharedNames(findings.clone()));
        assert_eq!(error.to_string(), line);
        of_its_own(7).await.expect("the call succeeds");
        assert_eq!(cache.stats().total(), Default::default());
    }

    // A function with a unique name is cached.
    assert_eq!(FETCHES.load(Ordering::SeqCst), 7);
    assert_eq!(
        Cache::current().stats().get("of_its_own").expect("the function was called").local_hits,
        1
    );
}
