//! Tests ttls of one or two seconds on a real memcached, whose clock ticks once a second.
//!
//! The remaining ttl that memcached reports is a whole number of seconds, and the real remaining
//! time is up to a second shorter. A library must allow for this second. Otherwise a value with a
//! short ttl counts as expired, or as due for a refresh, as soon as it is stored.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use cached_tests::Memcached;

type Fetched = Result<u64, std::io::Error>;

/// Counts one fetch, and returns the number of fetches so far.
fn fetch(fetches: &AtomicU64) -> Fetched {
    Ok(fetches.fetch_add(1, Ordering::Relaxed))
}

/// Declares functions with these options, whose values are cached in memcached only.
macro_rules! functions {
    ($($function:ident($name:literal, $($options:tt)*);)*) => {
        $(
            #[coordinator_cached(
                name = $name,
                overwrite(reason = "a quotation moves all the time"),
                local = false,
                skip(fetches),
                $($options)*
            )]
            async fn $function(fetches: &'static AtomicU64) -> Fetched {
                fetch(fetches)
            }
        )*

        /// Calls each function once. Returns the function's name, and how often it has fetched so
        /// far.
        async fn call_each() -> Vec<(&'static str, u64)> {
            vec![$({
                static FETCHES: AtomicU64 = AtomicU64::new(0);
                $function(&FETCHES).await.expect("the fetch succeeds");
                ($name, FETCHES.load(Ordering::Relaxed))
            }),*]
        }
    };
}

functions! {
    plain("brief_plain", ttl = "1s");
    kept("brief_kept", ttl = "1s", stale_if_error = "5s");
    odd("brief_odd", ttl = "1500ms", stale_if_error = "5500ms");
    kept_for_less("brief_kept_briefly", ttl = "2s", stale_if_error = "1s");
    refreshed("brief_refreshed", ttl = "2s", refresh_ahead = "1s");
    barely_refreshed("brief_barely_refreshed", ttl = "1s", refresh_ahead = "100ms");
    all("brief_all", ttl = "2s", refresh_ahead = "1s", stale_if_error = "5s");
    by_value("brief_by_value", ttl_with = |_| Duration::from_secs(2), refresh_ahead = "1m");
}

#[tokio::test]
async fn a_brief_value_is_fetched_once_a_second() {
    const PERIOD: Duration = Duration::from_millis(3200);
    let memcached = Memcached::start();
    for jitter in [0.0, 0.3] {
        let builder = Cache::builder().memcached([memcached.address()]).jitter(jitter);
        let namespace = format!("jitter-{jitter}");
        let cache = builder.namespace(namespace).build().await.expect("the settings are valid");
        cache
            .scope(async {
                let before = call_each().await;
                let began = Instant::now();
                let mut rounds = 0;
                while began.elapsed() < PERIOD {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    call_each().await;
                    rounds += 1;
                }
                let after = call_each().await;
                assert!(rounds > 50, "the machine is too slow for this test: {rounds} rounds");
                for ((name, before), (_, after)) in before.into_iter().zip(after) {
                    let fetches = after - before;
                    // A value can become due for a fetch at each tick of memcached's clock. It is
                    // not fetched again while a refresh runs. So each of the four ticks in the
                    // period allows one fetch, and one more is allowed for a slow machine.
                    assert!(fetches <= 5, "`{name}` fetched {fetches} times in {PERIOD:?}");
                }
            })
            .await;
    }
}
