//! What is added, overwritten and looked up through entries, where memcached has another say.
#![allow(missing_docs)]

use std::time::Duration;

use cached_core::testing::{TestCache, TestMemcached};
use cached_core::{Cache, coordinator_cached, first_found};
use cached_tests::{Down, Upstream};

#[coordinator_cached(name = "price", version = number, skip(upstream), entry = price_entry)]
async fn price(upstream: &Upstream, number: u32) -> Result<usize, Down> {
    let _ = number;
    upstream.answer().await
}

#[coordinator_cached(
    name = "stock",
    overwrite(reason = "the warehouse counts anew"),
    local_ttl = "20m",
    skip(upstream),
    entry = stock_entry
)]
async fn stock(upstream: &Upstream, number: u32) -> Result<usize, Down> {
    let _ = number;
    upstream.answer().await
}

/// A process over two servers in memory.
fn two_servers() -> TestCache {
    TestCache::with(Cache::builder().memcached(["a:1", "b:1"])).expect("it fits")
}

/// Three failures in a row.
async fn eject(test: &TestCache, upstream: &Upstream) {
    for number in 1000..1020 {
        test.run(price(upstream, number)).await.expect("no call fails");
    }
}

/// A number of `price` and `stock` whose home is the server.
async fn first_at(server: &TestMemcached, test: &TestCache) -> u32 {
    let upstream = Upstream::default();
    let stranger = test.another_process();
    for number in 0..100 {
        let (one, other) = stranger
            .run(async {
                price(&upstream, number).await.expect("fetched");
                stock(&upstream, number).await.expect("fetched");
                (price_entry(number), stock_entry(number))
            })
            .await;
        if server.holds(&one.key()) && server.holds(&other.key()) {
            one.invalidate().await.expect("told");
            other.invalidate().await.expect("told");
            return number;
        }
    }
    panic!("100 numbers, and none is at home there");
}

/// What was added or overwritten in the gutter is gone there after 10 s, and then another process
/// fetches; so it is not kept here for longer.
#[tokio::test]
async fn what_was_added_in_the_gutter_is_not_kept_here_for_its_ttl() {
    let (test, upstream) = (two_servers(), Upstream::default());
    let (other, home) = (test.another_process(), test.memcached_at("a:1"));
    let number = first_at(&home, &test).await;
    home.fail();
    eject(&test, &upstream).await;
    assert!(test.run(async { price_entry(number).add(99).await }).await);
    assert_eq!(test.run(price(&upstream, number)).await, Ok(99));
    home.recover();
    test.advance(Duration::from_secs(60));
    let answer = other.run(price(&upstream, number)).await;
    assert_ne!(answer, Ok(99));
    assert_eq!(test.run(price(&upstream, number)).await, answer);
}

#[tokio::test]
async fn what_was_overwritten_in_the_gutter_is_not_kept_here_for_its_local_ttl() {
    let (test, upstream) = (two_servers(), Upstream::default());
    let (other, home) = (test.another_process(), test.memcached_at("a:1"));
    let number = first_at(&home, &test).await;
    // It is in rotation, and is owed the key.
    home.fail();
    test.run(async { stock_entry(number).invalidate().await }).await.expect_err("not told");
    home.recover();
    test.run(async { stock_entry(number).overwrite(99).await }).await.expect("told");
    assert_eq!(test.run(stock(&upstream, number)).await, Ok(99));
    test.advance(Duration::from_secs(15));
    for process in [&other, &test] {
        assert_ne!(process.run(stock(&upstream, number)).await, Ok(99));
    }
}

#[coordinator_cached(
    name = "price_here",
    version = number,
    remote = false,
    skip(upstream),
    entry = price_here_entry
)]
async fn price_here(upstream: &Upstream, number: u32) -> Result<usize, Down> {
    let _ = number;
    upstream.answer().await
}

#[tokio::test]
async fn an_entry_without_a_remote_tier_hides_no_other_from_first_found() {
    let (test, upstream) = (TestCache::new(), Upstream::default());
    test.run(price(&upstream, 1)).await.expect("fetched");
    for place in 0..3 {
        let other = test.another_process();
        let found = other.run(async {
            let mut entries = vec![price_entry(2), price_entry(1)];
            entries.insert(place, price_here_entry(1));
            first_found(entries).await
        });
        assert_eq!(found.await, Some(1), "the one that is only here is at {place}");
    }
    test.run(price_here(&upstream, 1)).await.expect("fetched");
    let both = async { first_found([price_entry(2), price_here_entry(1)]).await };
    assert_eq!(test.run(both).await, Some(2));
}
