//! Calls without a tokio runtime, and caches whose runtime has ended.

use cached_core::{first_found, in_scope};
use cached_tests::{Memcached, Upstream};

use crate::functions::{Payment, new_process_cache, payment, payment_entry};

#[test]
fn without_a_runtime_the_remote_tier_is_skipped() {
    let memcached = Memcached::start();
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let cache = runtime.block_on(new_process_cache(&memcached));
    drop(runtime);
    let upstream = Upstream::default();
    let mut call = std::pin::pin!(cache.scope(payment(&upstream, "7", "paid")));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let fetched = Payment { number: "7".into(), fetched: 1 };
    assert_eq!(call.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(fetched)));
}

#[test]
fn alternating_runtimes_have_their_own_connections() {
    let memcached = Memcached::start();
    let runtime = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("the runtime starts")
    };
    let (a, b) = (runtime(), runtime());
    let cache = a.block_on(new_process_cache(&memcached));
    for number in 0..20 {
        for runtime in [&a, &b] {
            let number = number.to_string();
            let get = cache.scope(async move { payment_entry(&number, "paid").get().await });
            assert!(!runtime.block_on(get).is_found());
        }
    }
    assert_eq!(cache.stats().total().remote_errors, 0);
}

#[test]
fn flush_ends_after_a_lost_runtime() {
    let memcached = Memcached::start();
    let runtime = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("the runtime starts")
    };
    let cache = runtime().block_on(new_process_cache(&memcached));
    let upstream = Upstream::default();
    let answer = runtime().block_on(cache.scope(payment(&upstream, "7", "paid")));
    assert_eq!(answer.expect("the call succeeds").fetched, 1);
    runtime().block_on(cache.flush());
}

/// A runtime can end after memcached has stored a value and before the process has read the reply.
/// The write is then repeated on another runtime, and finds the value that it stored before.
#[test]
fn a_repeated_write_counts_as_stored() {
    let memcached = Memcached::start();
    let runtime = || tokio::runtime::Runtime::new().expect("the runtime starts");
    let (main, upstream) = (runtime(), Upstream::default());
    let cache = main.block_on(new_process_cache(&memcached));
    for round in 0..40 {
        let short = runtime();
        let calls = async {
            let mut calls = tokio::task::JoinSet::new();
            for number in 0..20 {
                let (upstream, number) = (upstream.clone(), format!("{round}-{number}"));
                calls.spawn(in_scope(async move { payment(&upstream, &number, "paid").await }));
            }
            calls.join_all().await
        };
        short.block_on(cache.scope(calls));
        short.shutdown_background();
    }
    main.block_on(cache.flush());
    let stats = cache.stats().total();
    // A few of the 800 writes can fail together with their runtime. If a repeated write did not
    // recognize its own value, about one write in seven would count as dropped.
    assert!(stats.fills_dropped <= 16, "{stats:?}");
}

#[test]
fn first_found_without_a_runtime_finds_nothing() {
    let memcached = Memcached::start();
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    let cache = runtime.block_on(new_process_cache(&memcached));
    drop(runtime);
    let finds_none =
        cache.scope(async { first_found([payment_entry("7", "paid")]).await.is_none() });
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = std::pin::pin!(finds_none).as_mut().poll(&mut context);
    assert_eq!(polled, std::task::Poll::Ready(true));
}
