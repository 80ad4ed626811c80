//! Repeats one operation, so that callgrind can count its instructions:
//! `cached-instructions OPERATION COUNT [SERVER]`.
//!
//! The file `counts` has the instruction counts of the first four operations:
//!
//! - `hit` calls the cached function with one key.
//! - `hit-10000` calls it with 10,000 keys in random order.
//! - `miss` calls it with a new key each time.
//! - `remote` calls a function whose values are only in memcached.
//! - `request` and `scope` are hits within a `RequestScope` and within `Cache::scope`.
//! - `recorded` records the outcome of each hit with `with_outcomes`. `recorded-request`,
//!   `recorded-miss` and `recorded-remote` do this for hits within a request, for misses, and for
//!   reads from memcached.
//! - `with-outcome` returns the outcome of each hit with `with_outcome`.
//! - `look` reads an entry from memcached with `CacheEntry::get`.
//! - `bare` reads the same memcached item with the memcached client alone.
//!
//! The features `tracing` and `metrics` turn on the library's features of the same names. If the
//! environment variable `RECEIVE` is not empty, a tracing subscriber receives the spans, and a
//! Prometheus recorder receives the metrics.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use cached_core::{Cache, RequestScope, Tier, coordinator_cached, with_outcome, with_outcomes};
use memcache::exp::AsyncMetaClient;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Paid,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    number: String,
    state: State,
    cents: u64,
}

#[derive(Debug, Clone)]
pub struct FetchError;

async fn upstream(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    Ok(Arc::new(Payment { number: number.to_owned(), state, cents: 1999 }))
}

#[coordinator_cached(name = "payment", version = state)]
async fn payment(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    upstream(number, state).await
}

/// A function without a local tier, so each call reads from memcached.
#[coordinator_cached(
    name = "remote_payment",
    version = state,
    local = false,
    entry = remote_payment_entry
)]
async fn remote_payment(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    upstream(number, state).await
}

/// Installs a tracing subscriber and a Prometheus recorder, if their features are on.
fn install_receivers() {
    #[cfg(feature = "tracing")]
    tracing_subscriber::util::SubscriberInitExt::init(tracing_subscriber::registry());
    #[cfg(feature = "metrics")]
    metrics_exporter_prometheus::PrometheusBuilder::new()
        .install_recorder()
        .expect("the process has no other recorder");
}

fn main() {
    if std::env::var_os("RECEIVE").is_some_and(|receive| !receive.is_empty()) {
        install_receivers();
    }
    let arguments: Vec<String> = std::env::args().collect();
    let [_, operation, count, servers @ ..] = &arguments[..] else {
        panic!(
            "cached-instructions hit|hit-10000|request|scope|recorded|recorded-request|\
             with-outcome|recorded-miss|recorded-remote|miss|remote|look|bare COUNT [SERVER]"
        );
    };
    let count: usize = count.parse().expect("the text is a number");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the runtime starts");
    runtime.block_on(async {
        // Under callgrind, and on a busy machine, a lookup can take longer than the default timeout.
        let builder = Cache::builder().memcached(servers).remote_timeout(Duration::from_secs(2));
        let cache = builder.build().await.expect("the settings are valid");
        cache.install().expect("no cache is installed");
        match &operation[..] {
            "hit" => {
                for _ in 0..count {
                    let _ = black_box(payment(black_box("payment-000007"), State::Paid).await);
                }
            }
            "hit-10000" => {
                let numbers: Vec<String> =
                    (0..10_000).map(|number| format!("payment-{number:06}")).collect();
                for number in &numbers {
                    let _ = payment(number, State::Paid).await;
                }
                let mut random = 0x9e37_79b9_7f4a_7c15_u64;
                for _ in 0..count {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let number = &numbers[(random % 10_000) as usize];
                    let _ = black_box(payment(black_box(number), State::Paid).await);
                }
                let stats = cache.stats().get("payment").expect("the function was called");
                assert_eq!(stats.fetches, 10_000, "every call is a hit");
            }
            "request" | "scope" | "recorded" | "recorded-request" => {
                let calls = async {
                    for _ in 0..count {
                        let _ = black_box(payment(black_box("payment-000007"), State::Paid).await);
                    }
                };
                match &operation[..] {
                    "request" => RequestScope::new().run(calls).await,
                    "recorded" => drop(with_outcomes(calls).await),
                    "recorded-request" => {
                        drop(RequestScope::new().run(with_outcomes(calls)).await);
                    }
                    _ => cache.scope(calls).await,
                }
            }
            "with-outcome" => {
                for _ in 0..count {
                    let call = payment(black_box("payment-000007"), State::Paid);
                    let _ = black_box(with_outcome(call).await);
                }
            }
            "recorded-miss" => {
                let calls = async {
                    for number in 0..count {
                        let number = format!("payment-{number:06}");
                        let _ = black_box(payment(&number, State::Paid).await);
                    }
                };
                drop(with_outcomes(calls).await);
            }
            "miss" => {
                // All keys have the same length.
                for number in 0..count {
                    let _ = black_box(payment(&format!("payment-{number:06}"), State::Paid).await);
                }
            }
            "recorded-remote" => {
                let _ = remote_payment("payment-000007", State::Paid).await;
                cache.flush().await;
                let calls = async {
                    for _ in 0..count {
                        let call = remote_payment(black_box("payment-000007"), State::Paid);
                        let _ = black_box(call.await);
                    }
                };
                let (_, outcomes) = with_outcomes(calls).await;
                assert_eq!(outcomes.hits(Tier::Remote), count as u64, "{outcomes}");
            }
            "remote" => {
                let _ = remote_payment("payment-000007", State::Paid).await;
                cache.flush().await;
                for _ in 0..count {
                    let _ =
                        black_box(remote_payment(black_box("payment-000007"), State::Paid).await);
                }
                let stats = cache.stats().get("remote_payment").expect("the function was called");
                assert!(stats.remote_hits >= count as u64, "{stats:?}");
            }
            "bare" => {
                let _ = remote_payment("payment-000007", State::Paid).await;
                cache.flush().await;
                let key = remote_payment_entry("payment-000007", State::Paid).key().to_string();
                let client = AsyncMetaClient::connect(&*servers[0]).await.expect("memcached runs");
                for _ in 0..count {
                    let got = client.get(black_box(&key)).send().await.expect("memcached answers");
                    assert!(black_box(got.value).is_some());
                }
            }
            "look" => {
                let _ = remote_payment("payment-000007", State::Paid).await;
                cache.flush().await;
                for _ in 0..count {
                    let entry = remote_payment_entry(black_box("payment-000007"), State::Paid);
                    assert!(black_box(entry.get().await).is_found());
                }
            }
            _ => panic!(
                "`{operation}` is not an operation: use hit, hit-10000, request, scope, miss, remote, look or bare"
            ),
        }
    });
}
