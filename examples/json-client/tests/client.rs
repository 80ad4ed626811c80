//! Tests of the parcel client, as a service that uses the library would write them. The carrier is
//! an HTTP server in the test, and the cache is the library's `TestCache`. One test uses a real
//! memcached.

mod carrier;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use cached_core::testing::TestCache;
use cached_core::{Cache, in_scope};
use cached_tests::Memcached;
use carrier::{ADA, Carrier, DEPOT};
use parcel_client::model::{Price, Recipient, TrackingEvent};
use parcel_client::{CarrierApi, CarrierError, HttpCarrier, ParcelDesk};
use tokio::task::JoinSet;
use uuid::Uuid;

fn client(carrier: &Carrier) -> Result<Arc<dyn CarrierApi>> {
    Ok(Arc::new(HttpCarrier::new(&carrier.base_url, "shop")?))
}

/// Calls each method whose answers are stored in memcached, and returns all answers as text.
async fn read_all(api: &dyn CarrierApi) -> Result<String> {
    let answers = (
        api.parcel("7", 2).await?,
        api.tracking("7").await?,
        api.search("books", 1).await?,
        api.depots("SE", 5).await?,
        api.rates("SE", "NO", 1250).await?,
        api.recipient(ADA).await?,
        api.customs_form("7").await?,
    );
    Ok(format!("{answers:?}"))
}

/// The number of requests that [`read_all`] makes without a cache.
const READS: usize = 7;

#[tokio::test]
async fn another_process_reads_every_answer_from_memcached() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let here = TestCache::new();
    let there = here.another_process();
    let answers = here.run(read_all(&*api)).await?;
    assert_eq!(carrier.requests(), READS);
    assert_eq!(there.run(read_all(&*api)).await?, answers);
    assert_eq!(here.run(read_all(&*api)).await?, answers);
    assert_eq!(carrier.requests(), READS);
    Ok(())
}

#[tokio::test]
async fn two_services_share_a_real_memcached() -> Result<()> {
    let carrier = Carrier::start().await;
    let memcached = Memcached::start();
    let service =
        async || Cache::builder().namespace("shop").memcached([memcached.address()]).build().await;
    let (one, other) = (service().await?, service().await?);
    let (api, same_api) = (client(&carrier)?, client(&carrier)?);

    let answers = one.scope(read_all(&*api)).await?;
    one.flush().await;
    assert_eq!(other.scope(read_all(&*same_api)).await?, answers);
    assert_eq!(carrier.requests(), READS);

    // `other` has a local copy of the tracking, which it might serve for up to 5 s. `third` has
    // no local copy, so it sees the redirection at once.
    one.scope(api.redirect("7", DEPOT)).await?;
    assert_eq!(one.scope(api.tracking("7")).await?.len(), 2);
    one.flush().await;
    let third = service().await?;
    assert_eq!(third.scope(api.tracking("7")).await?.len(), 2);
    assert_eq!(carrier.requests(), READS + 2); // the redirection and one fetch after it
    Ok(())
}

#[tokio::test]
async fn two_carriers_are_not_mixed_up() -> Result<()> {
    let (one, other) = (Carrier::start().await, Carrier::start().await);
    let test = TestCache::new();
    for carrier in [&one, &other] {
        let api = client(carrier)?;
        test.run(read_all(&*api)).await?;
        test.run(api.config()).await?;
    }
    assert_eq!((one.requests(), other.requests()), (READS + 1, READS + 1));
    assert_eq!((one.token_requests(), other.token_requests()), (1, 1));
    Ok(())
}

#[tokio::test]
async fn fifty_callers_ask_a_failing_carrier_once() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    carrier.fail(true);
    let errors = test.run(async {
        let mut calls = JoinSet::new();
        for _ in 0..50 {
            let api = Arc::clone(&api);
            calls.spawn(in_scope(async move { api.customs_form("7").await.err() }));
        }
        calls.join_all().await
    });
    let expected = CarrierError::Status("/parcels/7/customs".into(), 503);
    for error in errors.await {
        let error = error.expect("the carrier is down");
        assert_eq!(error.downcast_ref(), Some(&expected), "{error:#}");
    }
    assert_eq!(carrier.requests(), 1);

    // The error is not cached, so the next call asks again.
    carrier.fail(false);
    test.run(api.customs_form("7")).await?;
    assert_eq!(carrier.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn a_failed_tracking_pauses_for_two_seconds() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    carrier.fail(true);
    for _ in 0..5 {
        test.run(api.tracking("7")).await.expect_err("the carrier is down");
    }
    assert_eq!(carrier.requests(), 1);

    carrier.fail(false);
    test.advance(Duration::from_secs(3));
    assert_eq!(test.run(api.tracking("7")).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn old_rates_are_served_during_an_outage() -> Result<()> {
    let carrier = Carrier::start().await;
    let desk = ParcelDesk::new(client(&carrier)?);
    let test = TestCache::new();
    let rate = test.run(desk.cheapest("SE", "NO", 1250)).await?.expect("there are rates");
    assert_eq!((rate.service.as_str(), rate.price), ("parcel", Price::Cents(700)));

    carrier.fail(true);
    test.advance(Duration::from_secs(20 * 60));
    assert!(test.run(desk.cheapest("SE", "NO", 1250)).await?.is_some());
    assert_eq!(test.stats("carrier_rates").stale_answers, 1);
    assert!(test.run(desk.cheapest("SE", "NO", 1251)).await.is_err());
    Ok(())
}

#[tokio::test]
async fn rates_are_refreshed_before_they_expire() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    test.run(api.rates("SE", "NO", 1250)).await?;

    // The entry lives for 10 minutes. A call in the last two minutes starts the refresh, and does
    // not wait for it.
    test.advance(Duration::from_secs(9 * 60));
    test.run(api.rates("SE", "NO", 1250)).await?;
    let refreshed = async {
        while test.stats("carrier_rates").fills < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refreshed).await?;
    test.advance(Duration::from_secs(5 * 60));
    test.run(api.rates("SE", "NO", 1250)).await?;
    assert_eq!(carrier.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn a_redirection_shows_at_once() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let desk = ParcelDesk::new(Arc::clone(&api));
    let test = TestCache::new();
    assert_eq!(test.run(desk.page("7", 2)).await?.events.len(), 1);
    test.run(api.redirect("7", DEPOT)).await?;
    let page = test.run(desk.page("7", 2)).await?;
    assert!(matches!(page.events[..], [_, TrackingEvent::Redirected { depot: DEPOT, .. }]));
    // These are the requests for the parcel, its events, the redirection, and the events again.
    assert_eq!(carrier.requests(), 4);
    Ok(())
}

#[tokio::test]
async fn a_changed_recipient_is_not_fetched_again() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    let ada = test.run(api.recipient(ADA)).await?.expect("the carrier knows Ada");
    let changed = Recipient { email: Some("ada@example.org".into()), ..ada };
    test.run(api.update_recipient(&changed)).await?;
    assert_eq!(test.run(api.recipient(ADA)).await?, Some(changed));
    assert_eq!(carrier.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn an_unknown_recipient_is_remembered_thirty_seconds() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    for _ in 0..3 {
        assert_eq!(test.run(api.recipient(Uuid::nil())).await?, None);
    }
    assert_eq!(carrier.requests(), 1);
    test.advance(Duration::from_secs(31));
    test.run(api.recipient(Uuid::nil())).await?;
    assert_eq!(carrier.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn a_token_serves_until_expiry_or_revocation() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    test.run(read_all(&*api)).await?;
    assert_eq!(carrier.token_requests(), 1);

    // A token is valid for 300 s. The client stops using it after 290 s.
    test.advance(Duration::from_secs(291));
    test.run(api.tracking("8")).await?;
    assert_eq!(carrier.token_requests(), 2);

    carrier.revoke_tokens();
    test.run(api.tracking("9")).await?;
    assert_eq!(carrier.token_requests(), 3);
    Ok(())
}

#[tokio::test]
async fn fifty_callers_replace_a_revoked_token_once() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    test.run(api.config()).await?;
    carrier.revoke_tokens();
    let calls = async {
        let mut calls = JoinSet::new();
        for number in 0..50 {
            let api = Arc::clone(&api);
            calls.spawn(in_scope(async move { api.tracking(&number.to_string()).await }));
        }
        calls.join_all().await
    };
    for answer in test.run(calls).await {
        answer?;
    }
    assert_eq!(carrier.token_requests(), 2);
    Ok(())
}

#[tokio::test]
async fn queries_that_differ_in_case_are_one_search() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    for query in ["Books", " books", "BOOKS "] {
        test.run(api.search(query, 1)).await?;
    }
    assert_eq!(carrier.requests(), 1);
    test.run(api.search("books", 2)).await?;
    assert_eq!(carrier.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn answers_that_contradict_their_question_are_not_kept() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    carrier.lag(true);
    assert_eq!(test.run(api.parcel("7", 2)).await?.revision, 1);
    carrier.lag(false);
    assert_eq!(test.run(api.parcel("7", 2)).await?.revision, 2);
    assert_eq!(carrier.requests(), 2);

    for _ in 0..2 {
        assert_eq!(test.run(api.depots("XX", 5)).await?.len(), 2);
    }
    assert_eq!(carrier.requests(), 4);
    Ok(())
}

#[tokio::test]
async fn the_configuration_stays_in_its_process() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let here = TestCache::new();
    let there = here.another_process();
    for test in [&here, &there, &here, &there] {
        assert_eq!(test.run(api.config()).await?.max_weight_grams, 30_000);
    }
    assert_eq!(carrier.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn a_broken_memcached_changes_no_answer() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    let answers = test.run(read_all(&*api)).await?;
    test.memcached().fail();
    // Entries with the option `overwrite` stay in the local tier for 5 s. After that, a call reads
    // from memcached.
    test.advance(Duration::from_secs(6));
    assert_eq!(test.run(read_all(&*api)).await?, answers);
    Ok(())
}

#[tokio::test]
async fn the_ledger_has_nine_functions_and_no_findings() -> Result<()> {
    let carrier = Carrier::start().await;
    let api = client(&carrier)?;
    let test = TestCache::new();
    test.run(read_all(&*api)).await?;
    test.run(api.config()).await?;
    let ledger = cached_core::ledger();
    assert_eq!(ledger.iter().count(), 9);
    let findings: Vec<String> = ledger.audit().iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "the audit finds nothing: {findings:#?}");
    Ok(())
}
