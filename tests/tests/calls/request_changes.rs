//! Tests which value a call in a request returns after the entry was changed. Either the request
//! itself or other code makes the change.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cached_core::{Cache, RequestScope, coordinator_cached, with_outcomes};
use cached_tests::{Memcached, Upstream, UpstreamDown};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use tokio::sync::Mutex;
use tokio::task::yield_now;

use crate::functions::local_cache;

#[coordinator_cached(
    name = "changed_profile",
    overwrite(reason = "a profile has no version of its own"),
    skip(upstream),
    entry = profile_entry
)]
async fn profile(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    let _ = user;
    upstream.fetch().await
}

#[coordinator_cached(
    name = "changed_remote_profile",
    overwrite(reason = "a profile has no version of its own"),
    skip(upstream),
    entry = remote_profile_entry,
    local = false
)]
async fn remote_profile(upstream: &Upstream, user: u32) -> Result<usize, UpstreamDown> {
    let _ = user;
    upstream.fetch().await
}

/// Runs two futures concurrently, and polls `first` before `second`. `first` must take longer, which
/// puts all of `second` between the start and the end of `first`.
async fn join_in_order<A, B>(
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B) {
    tokio::join!(biased; first, second)
}

#[tokio::test]
async fn a_request_drops_fetches_before_its_change() {
    for force_miss in [false, true] {
        let upstream = Upstream::default().taking_millis(20);
        let request = RequestScope::new().force_miss(force_miss).run(async {
            let change_and_call = async {
                profile_entry(7).invalidate().await.expect("no server can fail");
                profile(&upstream, 7).await
            };
            let (first, second) = join_in_order(profile(&upstream, 7), change_and_call).await;
            assert_eq!((first, second), (Ok(1), Ok(2)));
            assert_eq!(profile(&upstream, 7).await, Ok(2));
            assert_eq!(upstream.fetches(), 2);
        });
        local_cache().await.scope(request).await;
    }
}

#[tokio::test]
async fn a_request_drops_shared_fetches_before_its_change() {
    let upstream = Upstream::default().taking_millis(20);
    let cache = local_cache().await;
    let request = RequestScope::new().run(async {
        let change = async { profile_entry(7).invalidate().await };
        let (first, changed) = join_in_order(profile(&upstream, 7), change).await;
        assert_eq!((first, changed), (Ok(1), Ok(())));
        assert_eq!(profile(&upstream, 7).await, Ok(2));
    });
    let (leaders_answer, ()) = cache.scope(join_in_order(profile(&upstream, 7), request)).await;
    assert_eq!(leaders_answer, Ok(1));
    assert_eq!(cache.stats().get("changed_profile").expect("the function was called").waits, 1);
}

#[tokio::test]
async fn unrelated_changes_keep_a_requests_answer() {
    let upstream = Upstream::default().taking_millis(20);
    let request = RequestScope::new().run(async {
        let change = async { profile_entry(8).overwrite(0).await };
        let (first, changed) = join_in_order(profile(&upstream, 7), change).await;
        assert_eq!((first, changed), (Ok(1), Ok(())));
        let change = RequestScope::new().run(async { profile_entry(7).invalidate().await });
        assert_eq!(change.await, Ok(()), "another request changes the entry");
        assert_eq!(profile(&upstream, 7).await, Ok(1));
    });
    local_cache().await.scope(request).await;
}

#[tokio::test]
async fn a_request_sees_its_own_overwrite() {
    let upstream = Upstream::default();
    let request = RequestScope::new().run(async {
        assert_eq!(remote_profile(&upstream, 7).await, Ok(1));
        assert_eq!(remote_profile_entry(7).overwrite(70).await, Ok(()));
        assert_eq!(remote_profile(&upstream, 7).await, Ok(70));
        assert!(!remote_profile_entry(7).add(71).await);
        assert_eq!(remote_profile(&upstream, 7).await, Ok(70));
    });
    local_cache().await.scope(request).await;
}

/// A step of a task. Tasks run concurrently.
#[derive(Debug, Clone, Copy)]
enum Step {
    Call,
    Invalidate,
    Overwrite,
    Yield,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        [Step::Call, Step::Invalidate, Step::Overwrite, Step::Yield].map(|step| Just(step).boxed());
    let [call, invalidate, overwrite, pause] = step;
    vec(prop_oneof![4 => call, 1 => invalidate, 1 => overwrite, 4 => pause], 0..12)
}

/// A price that only rises.
#[derive(Debug, Default)]
struct RisingPrice {
    now: AtomicU64,
    /// The lowest price that a call in the request may return.
    floor_in_request: AtomicU64,
    /// The lowest price that a call outside the request may return.
    floor_outside: AtomicU64,
    fetches: AtomicU64,
    /// Held during a change. If two changes were concurrent, the test would not know which of them
    /// the cache applied last.
    change_lock: Mutex<()>,
}

impl RisingPrice {
    /// Fetches the price, and then yields. The number of yields differs from fetch to fetch.
    async fn fetch(&self) -> u64 {
        let price = self.now.load(Ordering::SeqCst);
        let fetch = self.fetches.fetch_add(1, Ordering::SeqCst);
        for _ in 0..fetch * 5 % 8 {
            yield_now().await;
        }
        price
    }
}

#[coordinator_cached(
    name = "changed_price",
    overwrite(reason = "a price has no version"),
    skip(price),
    entry = price_entry
)]
async fn price_of(price: &RisingPrice, item: u8) -> Result<u64, UpstreamDown> {
    let _ = item;
    Ok(price.fetch().await)
}

#[coordinator_cached(
    name = "changed_remote_price",
    overwrite(reason = "a price has no version"),
    skip(price),
    entry = remote_price_entry,
    local = false
)]
async fn remote_price_of(price: &RisingPrice, item: u8) -> Result<u64, UpstreamDown> {
    let _ = item;
    Ok(price.fetch().await)
}

async fn run_steps(price: &RisingPrice, steps: Vec<Step>, is_local: bool, in_request: bool) {
    let entry = || if is_local { price_entry(7) } else { remote_price_entry(7) };
    for step in steps {
        match step {
            Step::Yield => yield_now().await,
            Step::Call => {
                let floor = if in_request { &price.floor_in_request } else { &price.floor_outside };
                let floor = floor.load(Ordering::SeqCst);
                let seen = match is_local {
                    true => price_of(price, 7).await,
                    false => remote_price_of(price, 7).await,
                };
                assert!(
                    seen.clone().is_ok_and(|seen| seen >= floor),
                    "the price is at least {floor}: {seen:?}"
                );
            }
            Step::Invalidate | Step::Overwrite => {
                let _guard = price.change_lock.lock().await;
                let new = price.now.fetch_add(1, Ordering::SeqCst) + 1;
                let changed = match step {
                    Step::Overwrite => entry().overwrite(new).await,
                    _ => entry().invalidate().await,
                };
                assert_eq!(changed, Ok(()));
                price.floor_outside.store(new, Ordering::SeqCst);
                if in_request {
                    price.floor_in_request.store(new, Ordering::SeqCst);
                }
            }
        }
    }
}

/// Runs three tasks in a request and one task outside the request, all concurrently. One of the
/// tasks in the request records its calls. Each annotated function contains an inlined lookup. This
/// lookup does not see the request's values while the recording task is polled.
async fn run_all(cache: Cache, steps: [Vec<Step>; 4], is_local: bool, force_miss: bool) {
    let price = Arc::new(RisingPrice::default());
    let [a, b, c, outside] = steps;
    let request = {
        let price = Arc::clone(&price);
        async move {
            let run = |steps| run_steps(&price, steps, is_local, true);
            let calls = c.iter().filter(|step| matches!(step, Step::Call)).count() as u64;
            let ((), (), ((), outcomes)) = tokio::join!(run(a), run(b), with_outcomes(run(c)));
            assert_eq!(outcomes.calls(), calls, "each call of the recorded task is recorded");
        }
    };
    let request = RequestScope::new().force_miss(force_miss).run(request);
    let outside = async move { run_steps(&price, outside, is_local, false).await };
    tokio::join!(cache.scope(request), cache.scope(outside));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn calls_see_earlier_changes_of_their_request(
        steps in [steps(), steps(), steps(), steps()],
        is_local in any::<bool>(),
        force_miss in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("the runtime starts");
        runtime.block_on(async { run_all(local_cache().await, steps, is_local, force_miss).await });
    }
}

/// Repeats the test above with a cache that has a memcached tier. All cases share one server.
#[test]
fn calls_see_earlier_changes_through_memcached() {
    let memcached = Memcached::start();
    let (server, number) = (memcached.address(), AtomicU64::new(0));
    proptest!(ProptestConfig::with_cases(300), |(
        steps in [steps(), steps(), steps(), steps()],
        is_local in any::<bool>(),
        force_miss in any::<bool>(),
    )| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("the runtime starts").block_on(async {
            let number = number.fetch_add(1, Ordering::SeqCst);
            let cache = Cache::builder().memcached([&server]).namespace(format!("case-{number}"));
            run_all(cache.build().await.expect("the settings are valid"), steps, is_local, force_miss).await;
        });
    });
}
