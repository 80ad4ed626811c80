//! Tests that the closures given as `cache_if` and `ttl_with` can use the parameters of the
//! annotated function. These closures are called *rules* here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cached_core::coordinator_cached;
use cached_core::testing::TestCache;
use serde::Serialize;

use crate::functions::{Payment, PaymentState};

#[derive(Default, Clone)]
struct Bank {
    region: String,
    /// Maps the number of a payment to the payment's method, for example `card`.
    methods: HashMap<String, String>,
}

static FETCHES: AtomicUsize = AtomicUsize::new(0);

/// Counts a fetch, and returns a payment in this state.
fn fetch_payment(number: &str, state: PaymentState) -> Payment {
    let fetched = FETCHES.fetch_add(1, Ordering::SeqCst);
    Payment { number: number.to_owned(), state: format!("{state:?}"), fetched }
}

#[coordinator_cached(
    name = "rule_of_a_version",
    version = state,
    skip(actual),
    cache_if = |payment| payment.state == format!("{state:?}"),
    entry = payment_entry
)]
async fn payment(
    number: &str,
    state: PaymentState,
    actual: PaymentState,
) -> Result<Payment, String> {
    Ok(fetch_payment(number, actual))
}

#[tokio::test]
async fn a_value_contradicting_its_version_is_not_cached() {
    let test = TestCache::local();
    let call = async |actual| {
        test.run(payment("1", PaymentState::Paid, actual)).await.expect("the call succeeds")
    };
    let early = call(PaymentState::Processing).await;
    assert_eq!(early.state, "Processing", "the call gets what was fetched");
    let paid = call(PaymentState::Paid).await;
    assert_eq!(paid.state, "Paid", "the unpaid payment is not kept as the paid one");
    assert_eq!(call(PaymentState::Processing).await, paid, "the paid payment is kept");
}

#[tokio::test]
async fn an_added_value_contradicting_its_version_is_refused() {
    let test = TestCache::local();
    test.run(async {
        let entry = || payment_entry("2", PaymentState::Paid);
        assert!(!entry().add(fetch_payment("2", PaymentState::Processing)).await);
        assert!(!entry().get().await.is_found());
        assert!(entry().clone().add(fetch_payment("2", PaymentState::Paid)).await);
        assert!(entry().get().await.is_found());
    })
    .await;
}

/// A parameter type that borrows, and that is `Clone` but not `Copy`.
#[derive(Clone, Serialize)]
struct Limit<'a>(&'a str);

/// The body consumes both parameters before the rules run.
#[coordinator_cached(
    name = "rule_of_owned_parameters",
    version = (prefix, limit),
    cache_if = |text| text.starts_with(&prefix) && text.len() <= limit.0.len(),
    ttl_with = |text| Duration::from_secs((text.len() + prefix.len()) as u64)
)]
async fn owned(prefix: String, limit: Limit<'_>) -> Result<String, String> {
    let fetch = FETCHES.fetch_add(1, Ordering::SeqCst);
    let Limit(_taken) = limit;
    Ok(prefix + &format!("{fetch:04}"))
}

#[tokio::test]
async fn a_rule_sees_parameters_that_the_body_takes() {
    let test = TestCache::local();
    let call = async |limit: &str| {
        test.run(owned("ab".to_owned(), Limit(limit))).await.expect("the call succeeds")
    };
    assert_eq!(call("123456").await, call("123456").await);
    assert_ne!(call("12345").await, call("12345").await, "the text is longer than the limit");
    let first = call("123456").await;
    test.advance(Duration::from_secs(7));
    assert_eq!(call("123456").await, first, "the text has 6 letters, and the prefix 2");
    test.advance(Duration::from_secs(2));
    assert_ne!(call("123456").await, first);
}

impl Bank {
    /// In `ttl_with`, the closure names the fetched payment `state`. This name shadows the
    /// parameter `state`.
    #[coordinator_cached(
        name = "rule_of_a_method",
        identifier = (self.region, number),
        version = state,
        cache_if = |payment| self.methods.contains_key(number) && matches!(payment, Payment { state: known, .. } if *known == format!("{state:?}")),
        ttl_with = |state| Duration::from_secs(state.number.len() as u64),
        entry = method_entry
    )]
    async fn payment(&self, number: &str, state: PaymentState) -> Result<Payment, String> {
        Ok(fetch_payment(number, state))
    }

    #[coordinator_cached(
        name = "rule_of_a_receiver",
        identifier = (self.region, region),
        overwrite(reason = "the bank changes its regions at any time"),
        cache_if = |known| *known == self.region || known == region,
        entry = region_entry
    )]
    async fn moved_to(self, region: &'static str) -> Result<String, String> {
        FETCHES.fetch_add(1, Ordering::SeqCst);
        Ok(region.to_owned())
    }
}

#[tokio::test]
async fn a_rule_of_a_method_mentions_its_receiver() {
    let bank = Bank { region: "eu".into(), methods: [("1".into(), "card".into())].into() };
    let test = TestCache::local();
    let call = async |number| {
        test.run(bank.payment(number, PaymentState::Paid)).await.expect("the call succeeds").fetched
    };
    assert_eq!(call("1").await, call("1").await);
    assert_ne!(call("2").await, call("2").await, "the receiver does not know the method");
    test.run(async {
        // The entry owns copies of the values that its rule mentions, so the entry outlives `bank`
        // and `number`.
        let entry = {
            let (bank, number) = (bank.clone(), "1".to_owned());
            bank.method_entry(&number, PaymentState::Processing)
        };
        assert!(!entry.add(fetch_payment("1", PaymentState::Paid)).await);
        assert!(entry.add(fetch_payment("1", PaymentState::Processing)).await);
        let entry = bank.method_entry("2", PaymentState::Processing);
        assert!(!entry.add(fetch_payment("2", PaymentState::Processing)).await);

        assert_eq!(bank.clone().moved_to("us").await.as_deref(), Ok("us"));
        let entry = bank.clone().region_entry("us");
        assert_eq!(entry.get().await.into_option().as_deref(), Some("us"));
        entry.overwrite("eu".to_owned()).await.expect("there is no memcached");
        assert_eq!(entry.get().await.into_option().as_deref(), Some("eu"));
        entry.overwrite("asia".to_owned()).await.expect("there is no memcached");
        assert!(!entry.get().await.is_found(), "a refused value removes the entry");
    })
    .await;
}

/// A generic function with an `impl Trait` parameter and a parameter that is a pattern.
#[coordinator_cached(
    name = "rule_of_generic_parameters",
    version = (low, high),
    identifier = key,
    skip(limit),
    cache_if = |sum| { let low = u64::from(low); *sum >= low && *sum <= u64::from(high) + key.clone().into() + limit.clone().into() },
    entry = sum_entry
)]
async fn sum<K: Into<u64> + Serialize + Clone + Send + Sync + 'static>(
    key: K,
    (low, high): (u32, u32),
    limit: impl Into<u64> + Clone + Send + Sync + 'static,
) -> Result<u64, String> {
    FETCHES.fetch_add(1, Ordering::SeqCst);
    Ok(u64::from(low) + u64::from(high) + key.into())
}

#[tokio::test]
async fn a_rule_mentions_parameters_of_every_kind() {
    let test = TestCache::local();
    test.run(async {
        assert_eq!(sum(1_u32, (2, 3), 9_u8).await, Ok(6));
        assert!(sum_entry(1_u32, (2, 3), 9_u8).get().await.is_found());
        assert_eq!(sum(1_u32, (20, 3), 9_u8).await, Ok(24));
        assert!(!sum_entry(1_u32, (20, 3), 9_u8).get().await.is_found());
        assert!(!sum_entry(1_u32, (20, 3), 9_u8).add(19).await);
    })
    .await;
}

#[async_trait]
trait Payments: Send + Sync {
    async fn under_async_trait(&self, number: &str, state: PaymentState)
    -> Result<Payment, String>;
    #[allow(clippy::manual_async_fn)]
    fn desugared(
        &self,
        state: PaymentState,
    ) -> impl Future<Output = Result<Payment, String>> + Send
    where
        Self: Sized;
}

#[async_trait]
impl Payments for Bank {
    #[coordinator_cached(
        name = "rule_under_async_trait",
        identifier = (self.region, number),
        version = state,
        cache_if = |payment| self.methods.contains_key(&payment.number) && payment.number == number
    )]
    async fn under_async_trait(
        &self,
        number: &str,
        state: PaymentState,
    ) -> Result<Payment, String> {
        Ok(fetch_payment(number, state))
    }

    #[coordinator_cached(
        name = "rule_of_a_desugared_method",
        identifier = self.region,
        version = state,
        cache_if = |payment| self.methods.contains_key(&payment.number)
    )]
    #[allow(clippy::manual_async_fn)]
    fn desugared(
        &self,
        state: PaymentState,
    ) -> impl Future<Output = Result<Payment, String>> + Send {
        async move { Ok(fetch_payment(&self.region, state)) }
    }
}

#[tokio::test]
async fn a_rule_of_a_trait_method_mentions_parameters() {
    let bank = Bank { region: "1".into(), methods: [("1".into(), "card".into())].into() };
    let test = TestCache::local();
    let call = async |number| {
        test.run(bank.under_async_trait(number, PaymentState::Paid))
            .await
            .expect("the call succeeds")
            .fetched
    };
    assert_eq!(call("1").await, call("1").await);
    assert_ne!(call("2").await, call("2").await);
    let call = async |bank: &Bank| {
        test.run(bank.desugared(PaymentState::Paid)).await.expect("the call succeeds").fetched
    };
    assert_eq!(call(&bank).await, call(&bank).await);
    let other = Bank { region: "2".into(), ..bank };
    assert_ne!(call(&other).await, call(&other).await);
}

/// A hit does not clone the parameters that a rule mentions.
#[tokio::test]
async fn a_hit_clones_no_parameter() {
    static CLONES: AtomicUsize = AtomicUsize::new(0);
    #[derive(Serialize)]
    struct CountedEdition(u32);
    impl Clone for CountedEdition {
        fn clone(&self) -> CountedEdition {
            CLONES.fetch_add(1, Ordering::SeqCst);
            CountedEdition(self.0)
        }
    }
    #[coordinator_cached(
        name = "rule_of_a_hit",
        version = edition,
        cache_if = |value| *value == edition.0
    )]
    async fn course(edition: CountedEdition) -> Result<u32, String> {
        Ok(edition.0)
    }
    let test = TestCache::local();
    assert_eq!(test.run(course(CountedEdition(1))).await, Ok(1));
    let clones = CLONES.load(Ordering::SeqCst);
    assert!(clones > 0, "the body takes the parameter, so the rule has a clone");
    assert_eq!(test.run(course(CountedEdition(1))).await, Ok(1));
    assert_eq!(CLONES.load(Ordering::SeqCst), clones);
}

#[coordinator_cached(
    name = "rule_that_panics",
    version = seconds_left,
    ttl_with = |_payment| Duration::from_secs_f64(seconds_left),
    entry = expiring_entry
)]
async fn expiring(seconds_left: f64) -> Result<Payment, String> {
    Ok(fetch_payment("1", PaymentState::Paid))
}

#[tokio::test]
async fn a_rule_that_panics_fails_no_call() {
    let test = TestCache::local();
    let call = async |seconds_left| {
        test.run(expiring(seconds_left)).await.expect("the call succeeds").fetched
    };
    assert_eq!(call(1.0).await, call(1.0).await);
    assert_ne!(call(-1.0).await, call(-1.0).await, "a value without a ttl is not cached");
    let added = test
        .run(async { expiring_entry(-1.0).add(fetch_payment("1", PaymentState::Paid)).await })
        .await;
    assert!(!added, "a value without a ttl is not added");
}
