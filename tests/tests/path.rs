//! The path of a call, with the local tier alone.
#![allow(missing_docs)]

use std::cell::Cell;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use cached_core::{Cache, RequestScope, Tier, coordinator_cached};
use cached_tests::{Down, Upstream, poll_once};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum State {
    Processing,
    Paid,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    number: String,
    state: String,
    fetched: usize,
}

type Answer<T> = Result<T, Down>;

#[coordinator_cached(name = "payment", version = state, skip(upstream), entry = payment_entry)]
async fn payment(upstream: &Upstream, number: &str, state: State) -> Result<Payment, Down> {
    let fetched = upstream.answer().await?;
    Ok(Payment { number: number.to_owned(), state: format!("{state:?}"), fetched })
}

#[coordinator_cached(name = "aliased", version = number, skip(upstream))]
async fn aliased(upstream: &Upstream, number: u32) -> Answer<u32> {
    upstream.answer().await?;
    Ok(number)
}

#[coordinator_cached(name = "optional", version = number, skip(upstream))]
async fn optional(upstream: &Upstream, number: u32) -> Option<u32> {
    upstream.answer().await.is_ok().then_some(number)
}

#[coordinator_cached(name = "optional_answer", version = number, skip(upstream))]
async fn optional_answer(upstream: &Upstream, number: u32) -> Answer<Option<u32>> {
    Ok(upstream.answer().await.is_ok().then_some(number))
}

#[coordinator_cached(
    name = "profile",
    overwrite(reason = "a profile has no version of its own"),
    skip(upstream),
    entry = profile_entry
)]
async fn profile(upstream: &Upstream, user: u32) -> Result<String, Down> {
    Ok(format!("user {user}, fetch {}", upstream.answer().await?))
}

async fn local() -> Cache {
    Cache::builder().build().await.expect("the defaults fit")
}

#[tokio::test]
async fn same_arguments_are_fetched_once_and_another_state_is_another_entry() {
    let upstream = Upstream::default();
    local()
        .await
        .scope(async {
            let first = payment(&upstream, "7", State::Processing).await;
            assert_eq!(payment(&upstream, "7", State::Processing).await, first);
            assert_eq!(upstream.fetches(), 1);
            let paid = payment(&upstream, "7", State::Paid).await.expect("fetched");
            assert_eq!(paid.state, "Paid");
            assert_eq!(upstream.fetches(), 2);
            // Both live.
            assert_eq!(payment(&upstream, "7", State::Processing).await, first);
            assert_eq!(payment(&upstream, "7", State::Paid).await.as_ref(), Ok(&paid));
            assert_eq!(payment(&upstream, "8", State::Paid).await.expect("fetched").number, "8");
            assert_eq!(upstream.fetches(), 3);
        })
        .await;
}

#[tokio::test]
async fn errors_and_nones_are_not_cached_also_through_an_alias() {
    let failing = Upstream::default();
    failing.fail();
    local()
        .await
        .scope(async {
            for call in 1..=3 {
                assert_eq!(payment(&failing, "7", State::Paid).await, Err(Down));
                assert_eq!(aliased(&failing, 7).await, Err(Down));
                assert_eq!(optional(&failing, 7).await, None);
                assert_eq!(optional_answer(&failing, 7).await, Ok(None));
                assert_eq!(failing.fetches(), call * 4);
            }
            let well = Upstream::default();
            for _ in 0..3 {
                assert_eq!(aliased(&well, 7).await, Ok(7));
                assert_eq!(optional(&well, 7).await, Some(7));
                assert_eq!(optional_answer(&well, 7).await, Ok(Some(7)));
            }
            assert_eq!(well.fetches(), 3);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_of_one_cold_key_fetch_once() {
    let cache = local().await;
    let upstream = Upstream::default().taking(50);
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { payment(&upstream, "7", State::Paid).await }))
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no call panics").expect("fetched").fetched, 1);
    }
    assert_eq!(upstream.fetches(), 1);
    let stats = cache.stats().get("payment").expect("it was called");
    assert_eq!((stats.fetches, stats.waits + stats.local_hits), (1, 999));
}

#[tokio::test]
async fn an_error_reaches_every_follower_at_once() {
    let cache = local().await;
    let upstream = Upstream::default().taking(300);
    upstream.fail();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { payment(&upstream, "7", State::Paid).await }))
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no call panics"), Err(Down));
    }
    assert_eq!(upstream.fetches(), 1);
}

#[derive(Debug)]
pub struct NotClone;

#[coordinator_cached(name = "unshared", version = number, skip(upstream))]
async fn unshared(upstream: &Upstream, number: u32) -> Result<u32, NotClone> {
    upstream.answer().await.map_err(|Down| NotClone)?;
    Ok(number)
}

#[tokio::test]
async fn followers_of_an_error_that_cannot_be_shared_fetch_for_themselves() {
    let cache = local().await;
    let upstream = Upstream::default().taking(20);
    upstream.fail();
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { unshared(&upstream, 7).await }))
        })
        .collect();
    for call in calls {
        assert!(call.await.expect("no call panics").is_err());
    }
    assert_eq!(upstream.fetches(), 5);
}

#[coordinator_cached(name = "stepwise", version = number, skip(upstream))]
async fn stepwise(upstream: &Upstream, number: u32) -> Result<u32, Down> {
    upstream.answer().await?;
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    Ok(number)
}

#[tokio::test]
async fn a_leader_that_is_cancelled_at_any_await_hands_over() {
    for polls in 1..=4 {
        let cache = local().await;
        let upstream = Upstream::default();
        let followers: Vec<_> = cache
            .scope(async {
                let mut leader = Box::pin(stepwise(&upstream, 7));
                for _ in 0..polls {
                    let polled = poll_once(leader.as_mut()).await;
                    assert!(polled.is_none());
                }
                let followers = (0..20)
                    .map(|_| {
                        let upstream = upstream.clone();
                        tokio::spawn(cache.scope(async move { stepwise(&upstream, 7).await }))
                    })
                    .collect();
                tokio::task::yield_now().await;
                drop(leader);
                followers
            })
            .await;
        let began = Instant::now();
        for follower in followers {
            assert_eq!(follower.await.expect("no call panics"), Ok(7));
        }
        assert!(began.elapsed() < Duration::from_millis(800), "handed over at once, polls {polls}");
        assert!(upstream.fetches() <= 2, "{} fetches after {polls} polls", upstream.fetches());
    }
}

#[coordinator_cached(name = "panics_once", version = number, skip(upstream))]
async fn panics_once(upstream: &Upstream, number: u32) -> Result<u32, Down> {
    assert!(upstream.answer().await != Ok(1), "the first fetch panics");
    Ok(number)
}

#[tokio::test]
async fn a_leader_that_panics_hands_over_and_its_key_is_well_afterwards() {
    let cache = local().await;
    let upstream = Upstream::default().taking(20);
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { panics_once(&upstream, 7).await }))
        })
        .collect();
    let mut panicked = 0;
    for call in calls {
        match call.await {
            Ok(answer) => assert_eq!(answer, Ok(7)),
            Err(error) if error.is_panic() => panicked += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((panicked, upstream.fetches()), (1, 2));
    assert_eq!(cache.scope(panics_once(&upstream, 7)).await, Ok(7));
    assert_eq!(upstream.fetches(), 2);
}

#[tokio::test]
async fn a_leader_held_unpolled_in_its_followers_task_is_relieved_within_about_a_second() {
    let upstream = Upstream::default().taking(20);
    local()
        .await
        .scope(async {
            let mut held = pin!(payment(&upstream, "7", State::Paid));
            assert!(poll_once(held.as_mut()).await.is_none());
            let began = Instant::now();
            let answer = payment(&upstream, "7", State::Paid).await.expect("fetched");
            assert!(began.elapsed() < Duration::from_millis(2000), "{:?}", began.elapsed());
            assert_eq!(answer.fetched, 2);
            // The one that was held goes on to its own end, and what stands in the cache stays.
            assert_eq!(held.await.expect("fetched").number, "7");
            assert_eq!(payment(&upstream, "7", State::Paid).await, Ok(answer));
            assert_eq!(upstream.fetches(), 2);
        })
        .await;
}

#[tokio::test]
async fn a_slow_fetch_stays_one_fetch() {
    let cache = local().await;
    let upstream = Upstream::default().taking(3000);
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { payment(&upstream, "7", State::Paid).await }))
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no call panics").expect("fetched").fetched, 1);
    }
    assert_eq!(upstream.fetches(), 1);
}

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

#[coordinator_cached(name = "recursive", version = number)]
async fn recursive(number: u32) -> Result<usize, Down> {
    let depth = DEPTH.get();
    if depth == 2 {
        return Ok(depth);
    }
    DEPTH.set(depth + 1);
    Box::pin(recursive(number)).await
}

#[tokio::test]
async fn a_function_that_awaits_itself_on_the_same_key_does_not_deadlock() {
    let cache = local().await;
    let answer = tokio::time::timeout(Duration::from_secs(5), cache.scope(recursive(7))).await;
    assert_eq!(answer.expect("it ends"), Ok(2));
}

#[tokio::test]
async fn an_entry_can_be_looked_at_added_and_invalidated() {
    let upstream = Upstream::default();
    local()
        .await
        .scope(async {
            let entry = payment_entry("7", State::Paid);
            assert!(!entry.get().await.is_found());
            let cash = Payment { number: "7".into(), state: "cash".into(), fetched: 0 };
            assert!(entry.add(cash.clone()).await);
            assert!(!entry.add(Payment { fetched: 9, ..cash.clone() }).await, "the first is kept");
            assert_eq!(payment(&upstream, "7", State::Paid).await, Ok(cash.clone()));
            let found = entry.get().await;
            assert_eq!(found.tier(), Some(Tier::Local));
            assert_eq!(found.into_option(), Some(cash));
            entry.invalidate().await.expect("no memcached to tell");
            assert!(!entry.get().await.is_found());
            assert_eq!(payment(&upstream, "7", State::Paid).await.expect("fetched").fetched, 1);
            let key = entry.key().to_string();
            assert_eq!(key, format!("payment:{}", entry.key().digest()));
            assert_eq!(key.len(), "payment:".len() + 64);
        })
        .await;
}

#[tokio::test]
async fn overwrite_replaces_and_a_fetch_under_way_does_not_undo_it() {
    let upstream = Upstream::default().taking(300);
    local()
        .await
        .scope(async {
            let fetch = profile(&upstream, 7);
            let write = async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                profile_entry(7).overwrite("new".into()).await.expect("no memcached to tell");
            };
            let (fetched, ()) = tokio::join!(fetch, write);
            assert_eq!(fetched.as_deref(), Ok("user 7, fetch 1"));
            assert_eq!(profile(&upstream, 7).await.as_deref(), Ok("new"));
        })
        .await;
}

#[tokio::test]
async fn an_invalidation_during_a_fetch_wins_and_later_callers_fetch_anew() {
    let upstream = Upstream::default().taking(300);
    local()
        .await
        .scope(async {
            let fetch = payment(&upstream, "7", State::Paid);
            let invalidate = async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                payment_entry("7", State::Paid).invalidate().await.expect("no memcached to tell");
                payment(&upstream, "7", State::Paid).await.expect("fetched").fetched
            };
            let (overtaken, later) = tokio::join!(fetch, invalidate);
            assert_eq!((overtaken.expect("fetched").fetched, later), (1, 2));
            assert_eq!(payment(&upstream, "7", State::Paid).await.expect("cached").fetched, 2);
        })
        .await;
}

#[coordinator_cached(name = "short", version = number, ttl = "1s", skip(upstream))]
async fn short(upstream: &Upstream, number: u32) -> Result<usize, Down> {
    let _ = number;
    upstream.answer().await
}

#[tokio::test]
async fn an_entry_expires() {
    let upstream = Upstream::default();
    local()
        .await
        .scope(async {
            assert_eq!(short(&upstream, 7).await, Ok(1));
            assert_eq!(short(&upstream, 7).await, Ok(1));
            tokio::time::sleep(Duration::from_millis(1100)).await;
            assert_eq!(short(&upstream, 7).await, Ok(2));
        })
        .await;
}

#[tokio::test]
async fn within_a_request_a_key_has_one_answer() {
    let upstream = Upstream::default();
    let cache = local().await;
    cache
        .scope(async {
            RequestScope::new()
                .run(async {
                    let first = profile(&upstream, 7).await;
                    // Another request replaces the entry; this one keeps its answer.
                    let other =
                        RequestScope::new().force_miss(true).run(profile(&upstream, 7)).await;
                    assert_ne!(first, other);
                    assert_eq!(profile(&upstream, 7).await, first);
                })
                .await;
            assert_eq!(
                profile(&upstream, 7).await.as_deref(),
                Ok("user 7, fetch 2"),
                "it was replaced"
            );
            RequestScope::new()
                .force_miss(true)
                .run(async {
                    let first = payment(&upstream, "7", State::Paid).await;
                    assert_eq!(
                        payment(&upstream, "7", State::Paid).await,
                        first,
                        "request hits still win"
                    );
                    let again = RequestScope::new()
                        .force_miss(true)
                        .run(payment(&upstream, "7", State::Paid))
                        .await;
                    assert_ne!(again, first);
                })
                .await;
            let kept = payment(&upstream, "7", State::Paid).await.expect("cached").fetched;
            assert_eq!(kept, 3, "a write-once entry is left as it is");
        })
        .await;
    assert!(cache.stats().get("payment").expect("called").request_hits > 0);
}

#[tokio::test]
async fn a_disabled_cache_fetches_every_time() {
    let upstream = Upstream::default();
    Cache::disabled()
        .scope(async {
            for call in 1..=3 {
                assert_eq!(
                    payment(&upstream, "7", State::Paid).await.expect("fetched").fetched,
                    call
                );
            }
            assert!(!payment_entry("7", State::Paid).get().await.is_found());
            assert!(
                !payment_entry("7", State::Paid)
                    .add(Payment { number: "7".into(), state: "Paid".into(), fetched: 0 })
                    .await
            );
            payment_entry("7", State::Paid).invalidate().await.expect("nothing to do");
        })
        .await;
}

#[test]
fn without_a_runtime_the_local_tier_answers() {
    let upstream = Upstream::default();
    let call = || {
        let mut call = pin!(profile(&upstream, 12345));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match call.as_mut().poll(&mut context) {
            std::task::Poll::Ready(answer) => answer,
            std::task::Poll::Pending => panic!("nothing to wait for"),
        }
    };
    assert_eq!(call(), call());
    assert_eq!(upstream.fetches(), 1);
}

#[tokio::test]
async fn the_ledger_lists_every_declaration_with_its_reason() {
    let ledger = cached_core::ledger();
    let profile = ledger.iter().find(|d| d.name() == "profile").expect("listed");
    assert_eq!(profile.overwrite_reason(), Some("a profile has no version of its own"));
    assert!(profile.place().contains("path.rs:"), "{}", profile.place());
    assert!(ledger.to_string().contains("a profile has no version of its own"));
    assert!(ledger.iter().any(|d| d.name() == "payment" && d.overwrite_reason().is_none()));
    assert!(ledger.audit().is_empty(), "{:?}", ledger.audit());
}

struct Client<T> {
    tag: T,
}

impl<T: Send + Sync> Client<T> {
    #[coordinator_cached(name = "client_fetch", version = number, skip(self, upstream))]
    async fn fetch(&self, upstream: &Upstream, number: u32) -> Result<(usize, u32), Down> {
        let _ = &self.tag;
        Ok((upstream.answer().await?, number))
    }
}

#[coordinator_cached(name = "const_generic", version = number, skip(upstream))]
async fn sized<const N: usize>(upstream: &Upstream, number: u32) -> Result<(usize, u32), Down> {
    upstream.answer().await?;
    Ok((N, number))
}

#[coordinator_cached(name = "type_generic", version = number, skip(upstream))]
async fn named<T>(upstream: &Upstream, number: u32) -> Result<(String, u32), Down> {
    upstream.answer().await?;
    Ok((std::any::type_name::<T>().to_owned(), number))
}

#[tokio::test]
async fn type_and_const_arguments_are_part_of_the_key() {
    let upstream = Upstream::default();
    local()
        .await
        .scope(async {
            let a = Client { tag: 1u8 }.fetch(&upstream, 7).await;
            assert_eq!(Client { tag: 2u8 }.fetch(&upstream, 7).await, a);
            assert_ne!(Client { tag: "b" }.fetch(&upstream, 7).await, a);
            assert_eq!(sized::<1>(&upstream, 7).await, Ok((1, 7)));
            assert_eq!(sized::<2>(&upstream, 7).await, Ok((2, 7)));
            assert_eq!(named::<u8>(&upstream, 7).await, Ok(("u8".into(), 7)));
            assert_eq!(named::<u16>(&upstream, 7).await, Ok(("u16".into(), 7)));
        })
        .await;
}

/// Keys that differ in their type arguments alone have one hash: within a request they must be told
/// apart by what they are.
#[tokio::test]
async fn type_arguments_tell_answers_of_a_request_apart() {
    let upstream = Upstream::default();
    let cache = local().await;
    let ask = async |expected: usize| {
        for _ in 0..2 {
            assert_eq!(named::<u8>(&upstream, 7).await, Ok(("u8".into(), 7)));
            assert_eq!(named::<u16>(&upstream, 7).await, Ok(("u16".into(), 7)));
        }
        assert_eq!(upstream.fetches(), expected);
    };
    cache.scope(RequestScope::new().run(ask(2))).await;
    cache.scope(RequestScope::new().run(ask(2))).await;
    cache.scope(RequestScope::new().force_miss(true).run(ask(4))).await;
}

/// A key whose `Serialize` fails once, and goes well from then on.
struct FailsOnce(AtomicBool);

impl Serialize for FailsOnce {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.swap(true, Ordering::Relaxed) {
            false => Err(serde::ser::Error::custom("not now")),
            true => serializer.serialize_u8(1),
        }
    }
}

#[coordinator_cached(name = "secret", version = key)]
async fn secret(key: FailsOnce) -> Answer<String> {
    Ok("secret".into())
}

#[coordinator_cached(name = "price", version = key)]
async fn price(key: FailsOnce) -> Answer<String> {
    Ok("price".into())
}

#[tokio::test]
async fn a_key_that_is_written_only_at_times_is_no_other_functions_key() {
    let key = || FailsOnce(AtomicBool::new(false));
    let asked = async {
        assert_eq!(secret(key()).await, Ok("secret".into()));
        assert_eq!(price(key()).await, Ok("price".into()));
    };
    local().await.scope(RequestScope::new().run(asked)).await;
}

/// A key whose `Serialize` expects that nothing fails.
struct Rows(Vec<Vec<u8>>);

impl Serialize for Rows {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(None)?;
        self.0.iter().for_each(|row| rows.serialize_element(row).expect("it is written"));
        rows.end()
    }
}

#[coordinator_cached(name = "rows", version = rows)]
async fn count_of(rows: Rows) -> Answer<usize> {
    Ok(rows.0.len())
}

#[tokio::test]
async fn a_key_that_is_another_is_no_error_to_its_serialize() {
    let asked = async {
        for rows in [vec![vec![1, 2], vec![3]], vec![vec![1], vec![2, 3], vec![]], vec![vec![1]]] {
            let count = rows.len();
            assert_eq!(count_of(Rows(rows)).await, Ok(count));
        }
    };
    local().await.scope(RequestScope::new().run(asked)).await;
}

/// A key that must not be written.
struct Unwritten;

impl Serialize for Unwritten {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("the key is written")
    }
}

#[coordinator_cached(name = "unwritten", version = key)]
async fn unwritten(key: Unwritten) -> Answer<u8> {
    Ok(1)
}

#[tokio::test]
async fn a_cache_that_is_off_writes_no_key() {
    assert_eq!(Cache::disabled().scope(unwritten(Unwritten)).await, Ok(1));
}

/// Signals that a call has looked, and waits until it may go on; run between its look at the local
/// tier and its joining the flight.
struct Gate {
    looked: std::sync::mpsc::Sender<()>,
    go_on: std::sync::mpsc::Receiver<()>,
}

fn between(gate: Option<&Gate>) -> Duration {
    if let Some(gate) = gate {
        gate.looked.send(()).expect("somebody waits");
        gate.go_on.recv().expect("somebody lets it go on");
    }
    Duration::from_secs(60)
}

#[coordinator_cached(name = "gated", version = number, ttl = between(gate), skip(upstream, gate))]
async fn gated(upstream: &Upstream, number: u32, gate: Option<&Gate>) -> Result<usize, Down> {
    upstream.answer().await
}

#[tokio::test]
async fn a_caller_that_looked_before_a_fetch_ended_and_joins_after_it_does_not_fetch_again() {
    let cache = local().await;
    let upstream = Upstream::default();
    let (looked, has_looked) = std::sync::mpsc::channel();
    let (lets_go_on, go_on) = std::sync::mpsc::channel();
    let late = std::thread::spawn({
        let (cache, upstream) = (cache.clone(), upstream.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let gate = Gate { looked, go_on };
            let call = cache.scope(async { gated(&upstream, 7, Some(&gate)).await });
            runtime.expect("a runtime").block_on(call)
        }
    });
    has_looked.recv().expect("it looks");
    assert_eq!(cache.scope(gated(&upstream, 7, None)).await, Ok(1));
    lets_go_on.send(()).expect("it waits");
    assert_eq!(late.join().expect("no panic"), Ok(1));
    assert_eq!(upstream.fetches(), 1);
}

/// An error that is neither `Send` nor `Clone`, in a future that is `Send`.
#[coordinator_cached(name = "unsendable", version = number, skip(upstream))]
async fn unsendable(upstream: &Upstream, number: u32) -> Result<u32, Box<dyn std::error::Error>> {
    upstream.answer().await.map_err(|Down| "down")?;
    Ok(number)
}

#[tokio::test]
async fn the_future_is_send_whenever_the_bodys_is() {
    fn is_send<T: Send>(future: T) -> T {
        future
    }
    let upstream = Upstream::default();
    let call = is_send(unsendable(&upstream, 7));
    assert_eq!(local().await.scope(call).await.ok(), Some(7));
    drop(is_send(payment(&upstream, "7", State::Paid)));
}

#[coordinator_cached(name = "unnamed_type", version = id, skip(upstream))]
async fn unnamed_type(
    upstream: &Upstream,
    id: impl Serialize + Copy + Send + Sync,
) -> Result<String, Down> {
    upstream.answer().await?;
    Ok(std::any::type_name_of_val(&id).to_owned())
}

#[tokio::test]
async fn the_type_behind_an_impl_trait_is_part_of_the_key() {
    let upstream = Upstream::default();
    local()
        .await
        .scope(async {
            assert_eq!(unnamed_type(&upstream, 1u8).await.as_deref(), Ok("u8"));
            assert_eq!(unnamed_type(&upstream, 1u64).await.as_deref(), Ok("u64"));
            assert_eq!(unnamed_type(&upstream, 1u8).await.as_deref(), Ok("u8"));
        })
        .await;
    assert_eq!(upstream.fetches(), 2);
}

trait Named {
    fn name(&self) -> String;

    #[coordinator_cached(name = "default_method", version = number, skip(self))]
    async fn fetch(&self, number: u32) -> Result<String, Down>
    where
        Self: Sync,
    {
        Ok(format!("{} {number}", self.name()))
    }
}

struct Left;
struct Right;

impl Named for Left {
    fn name(&self) -> String {
        "left".into()
    }
}

impl Named for Right {
    fn name(&self) -> String {
        "right".into()
    }
}

#[tokio::test]
async fn a_default_method_has_its_self_type_in_the_key() {
    local()
        .await
        .scope(async {
            assert_eq!(Left.fetch(1).await.as_deref(), Ok("left 1"));
            assert_eq!(Right.fetch(1).await.as_deref(), Ok("right 1"));
        })
        .await;
}

#[tokio::test]
async fn a_request_keeps_the_answers_of_caches_apart_that_are_gone() {
    let upstream = Upstream::default();
    RequestScope::new()
        .run(async {
            for count in 1..=50 {
                let cache = local().await;
                let answer = cache.scope(payment(&upstream, "7", State::Paid)).await;
                assert_eq!(answer.expect("fetched").fetched, count);
                drop(cache);
            }
        })
        .await;
}

/// As a key and as a value it enters another cache and a request of its own wherever its code is run.
#[derive(PartialEq, Debug, Deserialize)]
struct Enters;

impl Enters {
    fn enter() {
        static OTHER: OnceLock<Cache> = OnceLock::new();
        let other = OTHER.get_or_init(|| at_once(Cache::builder().build()).expect("it fits"));
        let call = RequestScope::new().run(count_of(Rows(vec![])));
        assert_eq!(at_once(other.scope(call)), Ok(0));
        ENTERED.set(ENTERED.get() + 1);
    }
}

/// Of what waits for nobody.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("it waits"),
    }
}

thread_local! {
    static ENTERED: Cell<usize> = const { Cell::new(0) };
}

impl Serialize for Enters {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Enters::enter();
        serializer.serialize_unit_struct("Enters")
    }
}

impl Clone for Enters {
    fn clone(&self) -> Enters {
        Enters::enter();
        Enters
    }
}

impl Drop for Enters {
    fn drop(&mut self) {
        Enters::enter();
    }
}

#[coordinator_cached(name = "enters", version = key, skip(upstream))]
async fn enters(upstream: &Upstream, key: &Enters, number: u32) -> Answer<(Enters, u32)> {
    upstream.answer().await?;
    Ok((Enters, number))
}

#[tokio::test]
async fn a_key_and_a_value_may_enter_a_cache_and_a_request_wherever_they_are_used() {
    let upstream = Upstream::default();
    // So few fit in that most are dropped again.
    let cache = Cache::builder().local_capacity(4 << 10).build().await.expect("it fits");
    let ask = async || {
        for number in [1, 1, 2, 1, 2, 1].into_iter().chain(3..400) {
            let answer = enters(&upstream, &Enters, number).await.expect("fetched");
            assert_eq!(answer.1, number);
        }
    };
    cache.scope(ask()).await;
    cache.scope(RequestScope::new().run(ask())).await;
    RequestScope::new().run(cache.scope(ask())).await;
    assert!(upstream.fetches() >= 800, "most were fetched again: {}", upstream.fetches());
    assert!(ENTERED.get() > 5_000, "{}", ENTERED.get());
}

#[tokio::test]
async fn a_request_has_one_answer_also_after_an_error_that_cannot_be_shared() {
    let upstream = Upstream::default().taking(20);
    upstream.fail();
    let well = Upstream::default().taking(20);
    local()
        .await
        .scope(RequestScope::new().run(async {
            let (failed, fetched) = tokio::join!(unshared(&upstream, 7), unshared(&well, 7));
            assert!(failed.is_err());
            assert_eq!(fetched.ok(), Some(7));
            assert_eq!(unshared(&well, 7).await.ok(), Some(7));
            assert_eq!(well.fetches(), 1, "what the follower fetched for itself is kept");
        }))
        .await;
}

#[coordinator_cached(name = "busy", version = number, skip(upstream))]
async fn busy(upstream: &Upstream, number: u32) -> Result<u32, Down> {
    let waker =
        std::future::poll_fn(|context| std::task::Poll::Ready(context.waker().clone())).await;
    upstream.answer().await?;
    // Woken by another thread while it computes.
    std::thread::spawn(move || waker.wake());
    std::thread::sleep(Duration::from_millis(1500));
    tokio::task::yield_now().await;
    Ok(number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_computes_is_not_relieved() {
    let cache = local().await;
    let upstream = Upstream::default();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(cache.scope(async move { busy(&upstream, 7).await }))
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no call panics"), Ok(7));
    }
    assert_eq!(upstream.fetches(), 1);
}
