//! Tests the option `refresh_with`. A background refresh needs it for a method with `&self`: the
//! option makes a copy of the receiver, because the refresh can outlive the caller's receiver.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cached_core::testing::TestCache;
use cached_core::{Cache, coordinator_cached};
use cached_tests::{Upstream, UpstreamDown};

/// A client that counts its clones. The clones share an upstream and the count.
struct Client {
    region: String,
    upstream: Arc<Upstream>,
    clones: Arc<AtomicUsize>,
}

impl Client {
    fn new() -> Client {
        Client { region: "eu".to_owned(), upstream: Arc::default(), clones: Arc::default() }
    }

    fn clones(&self) -> usize {
        self.clones.load(Ordering::SeqCst)
    }
}

impl Clone for Client {
    fn clone(&self) -> Client {
        self.clones.fetch_add(1, Ordering::SeqCst);
        Client {
            region: self.region.clone(),
            upstream: Arc::clone(&self.upstream),
            clones: Arc::clone(&self.clones),
        }
    }
}

trait Prices {
    async fn price(&self, course: &str, days: &[u8]) -> Result<String, UpstreamDown>;
    #[allow(clippy::manual_async_fn)]
    fn total(&self, course: String) -> impl Future<Output = Result<String, UpstreamDown>> + Send;
}

impl Prices for Client {
    #[coordinator_cached(
        name = "price_of_trait",
        identifier = (self.region, course, days),
        overwrite(reason = "the upstream has no versions of a price"),
        ttl = "10m",
        refresh_ahead = "2m",
        refresh_with = self.clone(),
        cache_if = |price| price.starts_with(&self.region) && price.contains(course)
    )]
    async fn price(&self, course: &str, days: &[u8]) -> Result<String, UpstreamDown> {
        /// A type within the function's body. The `self` of its methods is not the `self` of
        /// `price`.
        struct TypeInBody<'a>(&'a [u8]);
        impl TypeInBody<'_> {
            fn days(&self) -> String {
                format!("{:?}", self.0)
            }
        }
        let region = || self.region.clone();
        Ok(format!(
            "{} {course} {} {}",
            region(),
            TypeInBody(days).days(),
            self.upstream.fetch().await?
        ))
    }

    #[coordinator_cached(
        name = "total_of_trait",
        identifier = (self.region, course),
        overwrite(reason = "the upstream has no versions of a total"),
        ttl = "10m",
        refresh_ahead = "2m",
        refresh_with = Arc::new(self.clone())
    )]
    #[allow(clippy::manual_async_fn)]
    fn total(&self, course: String) -> impl Future<Output = Result<String, UpstreamDown>> + Send {
        async move { Ok(format!("{} {course} {}", self.region, self.upstream.fetch().await?)) }
    }
}

#[async_trait]
trait Rates: Send + Sync {
    async fn rate(&self, currency: &str, days: Cow<'static, str>) -> Result<String, UpstreamDown>;
}

#[async_trait]
impl Rates for Client {
    #[coordinator_cached(
        name = "rate_under_async_trait",
        identifier = (self.region, currency, days),
        overwrite(reason = "the upstream has no versions of a rate"),
        ttl = "10m",
        refresh_ahead = "2m",
        refresh_with = self.clone()
    )]
    async fn rate(
        &self,
        mut currency: &str,
        days: Cow<'static, str>,
    ) -> Result<String, UpstreamDown> {
        currency = currency.trim();
        Ok(format!("{} {currency} {days} {}", self.region, self.upstream.fetch().await?))
    }
}

/// Calls a method of a client one minute before the entry expires, and drops the client. Checks
/// that the call returns the cached value, and that a background refresh stores the next value.
macro_rules! assert_refreshed {
    ($test:expr, $client:ident => $call:expr, $expected:literal) => {{
        let (test, keeper): (TestCache, _) = ($test, Client::new());
        let call = async || {
            let $client = keeper.clone();
            test.run(async { $call.await }).await.expect("the upstream is up")
        };
        let expected = |fetch: usize| format!($expected, fetch);
        assert_eq!(call().await, expected(1));
        test.cache().flush().await;
        let clones = keeper.clones();
        assert_eq!(call().await, expected(1), "a hit");
        assert_eq!(keeper.clones(), clones + 1, "a hit makes no copies; the test makes one");
        test.advance(Duration::from_secs(9 * 60));
        assert_eq!(call().await, expected(1), "the refresh runs in the background");
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if keeper.upstream.fetches() == 2 {
                break;
            }
        }
        test.cache().flush().await;
        test.advance(Duration::from_secs(2 * 60));
        assert_eq!(call().await, expected(2), "the refresh stored its value");
        assert_eq!(keeper.upstream.fetches(), 2);
    }};
}

#[tokio::test]
async fn a_method_that_borrows_is_refreshed() {
    for test in [TestCache::local(), TestCache::new()] {
        let course = "rust".to_owned();
        assert_refreshed!(test, client => client.price(&course, &[1, 2]), "eu rust [1, 2] {}");
    }
    for test in [TestCache::local(), TestCache::new()] {
        assert_refreshed!(test, client => client.total("rust".to_owned()), "eu rust {}");
    }
}

#[tokio::test]
async fn a_method_under_async_trait_is_refreshed() {
    for test in [TestCache::local(), TestCache::new()] {
        assert_refreshed!(
            test,
            client => {
                let client: Box<dyn Rates> = Box::new(client);
                async move { client.rate(&String::from(" EUR "), "Monday".into()).await }
            },
            "eu EUR Monday {}"
        );
    }
}

/// While the cache is off, the function runs as written.
#[tokio::test]
async fn a_cache_that_is_off_runs_the_body() {
    let client = Client::new();
    let cache = Cache::disabled();
    assert_eq!(cache.scope(client.price("go", &[])).await.as_deref(), Ok("eu go [] 1"));
    assert_eq!(cache.scope(client.price("go", &[])).await.as_deref(), Ok("eu go [] 2"));
}
