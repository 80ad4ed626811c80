//! Tests `RequestScopeLayer` in axum and hyper servers, over sockets. The layer opens a request
//! scope for each HTTP request and can add the header `Cache-Status` to the response.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use cached_core::testing::TestCache;
use cached_core::tower::{CacheStatus, RequestScopeLayer};
use cached_core::{Cache, coordinator_cached, first_found, in_scope, outcomes};
use cached_tests::{Upstream, UpstreamDown};
use http::Request;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower_layer::Layer;
use tower_service::Service;

use crate::functions::local_cache;

#[coordinator_cached(
    name = "tower_course",
    version = edition,
    ttl = "10m",
    skip(upstream),
    entry = course_entry
)]
async fn course(upstream: &Upstream, id: u32, edition: u32) -> Result<usize, UpstreamDown> {
    let _ = id;
    upstream.fetch().await
}

#[coordinator_cached(
    name = "tower_rate",
    version = day,
    ttl = "10s",
    stale_if_error = "1h",
    error_ttl = "10s",
    skip(upstream)
)]
async fn rate(upstream: &Upstream, day: u32) -> Result<usize, UpstreamDown> {
    upstream.fetch().await
}

/// Sends one request over a connection of its own, and returns the lower-case head of the response
/// and its body.
async fn request(address: SocketAddr, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    let head = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.expect("the server reads");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("the server answers in UTF-8");
    let (head, body) = response.split_once("\r\n\r\n").expect("a response has a head");
    (head.to_lowercase(), body.to_owned())
}

/// Returns the members of all `Cache-Status` header lines, in order.
fn cache_status(head: &str) -> Vec<String> {
    let lines = head.lines().filter_map(|line| line.strip_prefix("cache-status: "));
    lines.flat_map(|line| line.split(", ")).map(str::to_owned).collect()
}

/// Sends a request, and returns the text that follows the cache's name `shop` in the response's
/// `Cache-Status` header. Returns "no header" if there is none.
async fn status_of(address: SocketAddr, path: &str, headers: &str) -> String {
    let (head, _) = request(address, path, headers).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    cache_status(&head).join(", ").strip_prefix("shop; ").unwrap_or("no header").to_owned()
}

/// Serves a router on a free port for as long as the runtime runs.
async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("a bound listener has an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A response body that calls an annotated function when hyper polls the body, which is after the
/// handler has returned. Its only frame contains the value.
struct CallingBody(Option<Pin<Box<dyn Future<Output = usize> + Send>>>);

impl http_body::Body for CallingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let Some(call) = &mut self.0 else { return Poll::Ready(None) };
        let value = ready!(call.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from(format!("value {value}"))))))
    }
}

/// Returns a service with a route for each kind of response.
fn app(upstream: &Upstream) -> Router {
    async fn text(value: Result<usize, UpstreamDown>) -> String {
        value.map_or_else(|_| "down".to_owned(), |value| value.to_string())
    }
    Router::new()
        .route(
            "/course/{id}",
            get(async |State(up): State<Upstream>, Path(id): Path<u32>| {
                text(course(&up, id, 1).await).await
            }),
        )
        .route(
            "/twice/{id}",
            get(async |State(up): State<Upstream>, Path(id): Path<u32>| {
                let first = course(&up, id, 1).await;
                assert_eq!(course(&up, id, 1).await, first);
                text(first).await
            }),
        )
        .route(
            "/both/{one}/{other}",
            get(async |State(up): State<Upstream>, Path((a, b)): Path<(u32, u32)>| {
                let (a, b) = tokio::join!(course(&up, a, 1), course(&up, b, 1));
                text(a.and(b)).await
            }),
        )
        .route("/rate", get(async |State(up): State<Upstream>| text(rate(&up, 1).await).await))
        .route("/nothing", get(async || "no call"))
        .route(
            "/so-far",
            get(async |State(up): State<Upstream>| {
                course(&up, 50, 1).await.expect("the upstream is up");
                outcomes().map_or_else(|| "not recorded".to_owned(), |so_far| so_far.to_string())
            }),
        )
        .route(
            "/known",
            get(async || {
                let known = first_found([course_entry(1, 1)]).await;
                format!("{known:?}")
            }),
        )
        .route(
            "/passed-on",
            get(async |State(up): State<Upstream>| {
                let value = text(course(&up, 90, 1).await).await;
                ([("cache-status", "origin; hit; ttl=9"), ("x-other", "kept")], value)
            }),
        )
        .route(
            "/stream",
            get(async |State(up): State<Upstream>| -> Response {
                course(&up, 70, 1).await.expect("the upstream is up");
                let cache = Cache::current();
                let call = async move { course(&up, 70, 1).await.expect("the upstream is up") };
                let call = Box::pin(cache.scope(call));
                Body::new(CallingBody(Some(call))).into_response()
            }),
        )
        .with_state(upstream.clone())
}

fn no_cache(parts: &http::request::Parts) -> bool {
    parts.headers.get("cache-control").is_some_and(|value| value == "no-cache")
}

#[tokio::test]
async fn axum_sends_the_status_of_each_response() {
    let (upstream, test) = (Upstream::default().taking_millis(5), TestCache::local());
    let layer = RequestScopeLayer::new()
        .cache(test.cache().clone())
        .force_miss_if(no_cache)
        .cache_status("shop");
    let at = serve(app(&upstream).layer(layer)).await;
    assert_eq!(status_of(at, "/course/1", "").await, "fwd=miss; stored; ttl=600");
    let hit = status_of(at, "/course/1", "").await;
    assert!(["hit; ttl=599", "hit; ttl=600"].contains(&&*hit), "{hit}");
    test.advance(Duration::from_secs(60));
    let later = status_of(at, "/course/1", "").await;
    assert!(later.starts_with("hit; ttl=53") || later == "hit; ttl=540", "{later}");

    // The header describes the calls of the request as a whole.
    assert_eq!(status_of(at, "/twice/2", "").await, "fwd=miss; stored; ttl=600");
    let least = status_of(at, "/both/1/3", "").await;
    assert!(least.starts_with("fwd=miss; stored; ttl=53"), "{least}");
    let joined = status_of(at, "/both/4/4", "").await;
    assert!(joined.starts_with("fwd=miss; collapsed=?0; stored; ttl=59"), "{joined}");
    assert_eq!(status_of(at, "/nothing", "").await, "no header");
    assert_eq!(status_of(at, "/known", "").await, "no header");
    let so_far = request(at, "/so-far", "").await.1;
    assert!(so_far.ends_with("1 call: 1 miss"), "a handler can read the outcomes so far: {so_far}");

    // A forced miss fetches again, but does not replace the entry of a function without
    // `overwrite`.
    let fetches = upstream.fetches();
    let forced = status_of(at, "/twice/1", "cache-control: no-cache\r\n").await;
    assert_eq!(forced, "fwd=request; stored=?0");
    assert_eq!(upstream.fetches(), fetches + 1);
    assert!(status_of(at, "/twice/1", "cache-control: max-age=0\r\n").await.starts_with("hit"));

    assert_eq!(status_of(at, "/rate", "").await, "fwd=miss; stored; ttl=10");
    test.advance(Duration::from_secs(11));
    upstream.fail();
    assert_eq!(status_of(at, "/rate", "").await, "fwd=stale; stored=?0; ttl=0");
    assert_eq!(status_of(at, "/rate", "").await, "fwd=stale; ttl=0", "the fetch is paused");

    let off = RequestScopeLayer::new().cache(Cache::disabled()).cache_status("shop");
    upstream.recover();
    let at = serve(app(&upstream).layer(off)).await;
    assert_eq!(status_of(at, "/course/1", "").await, "fwd=bypass");
}

#[tokio::test]
async fn a_status_follows_those_of_earlier_caches() {
    let (upstream, cache) = (Upstream::default(), local_cache().await);
    let inner = RequestScopeLayer::new().cache(cache.clone()).cache_status("the shop");
    let outer = RequestScopeLayer::new().cache(cache).cache_status(String::from("edge:1"));
    let at = serve(app(&upstream).layer(inner).layer(outer)).await;
    let (head, body) = request(at, "/passed-on", "").await;
    let members = ["origin; hit; ttl=9", "\"the shop\"; fwd=miss; stored; ttl=600"];
    let edge = "edge:1; fwd=miss; stored; ttl=600";
    assert_eq!(cache_status(&head), [members[0], members[1], edge]);
    assert!(head.contains("x-other: kept") && body.ends_with('1'), "{head}");
}

#[tokio::test]
async fn key_and_detail_are_optional() {
    let (upstream, cache) = (Upstream::default(), local_cache().await);
    let status = CacheStatus::new("shop").key(true).detail(true);
    let layer = RequestScopeLayer::new().cache(cache.clone()).cache_status(status);
    let at = serve(app(&upstream).layer(layer)).await;
    status_of(at, "/course/1", "").await;
    let status = status_of(at, "/both/1/2", "").await;
    // The header has the key of the call that missed.
    let digest = cache.scope(async { course_entry(2, 1).key().digest() }).await;
    let key = format!("; key=\"tower_course:{digest}\"; ");
    assert!(status.contains(&key), "{status}");
    assert!(status.ends_with("; detail=\"2 calls: 1 local hit, 1 miss\""), "{status}");
}

#[tokio::test]
async fn a_streamed_body_is_outside_of_its_request() {
    let (upstream, cache) = (Upstream::default(), local_cache().await);
    let status = CacheStatus::new("shop").detail(true);
    let layer = RequestScopeLayer::new().cache(cache.clone()).cache_status(status);
    let at = serve(app(&upstream).layer(layer)).await;
    let (head, body) = request(at, "/stream", "").await;
    assert!(head.contains("detail=\"1 call: 1 miss\""), "{head}");
    assert!(body.contains("value 1"), "{body}");
    let stats = cache.stats().get("tower_course").expect("the function was called");
    assert_eq!((stats.local_hits, stats.request_hits), (1, 0));
}

/// A service that is not `Clone`, must be ready before it is called, and may fail.
struct StrictService {
    upstream: Upstream,
    is_ready: bool,
    fails: Arc<AtomicBool>,
    polls: Arc<AtomicUsize>,
}

#[derive(Debug, PartialEq)]
struct StrictError(&'static str);

impl Service<Request<&'static str>> for StrictService {
    type Response = http::Response<usize>;
    type Error = StrictError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, StrictError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StrictError>> {
        // The service is ready at every second poll.
        if self.polls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            return Poll::Pending;
        }
        self.is_ready = true;
        Poll::Ready(if self.fails.load(Ordering::SeqCst) {
            Err(StrictError("busy"))
        } else {
            Ok(())
        })
    }

    fn call(&mut self, request: Request<&'static str>) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "the service is ready when it is called");
        // This service begins its work at once, in a task.
        let upstream = self.upstream.clone();
        let work = tokio::spawn(in_scope(async move { course(&upstream, 1, 1).await }));
        let fails = request.into_body() == "fail";
        Box::pin(async move {
            let value = work.await.expect("no task panics").map_err(|_| StrictError("down"))?;
            if fails { Err(StrictError("failed")) } else { Ok(http::Response::new(value)) }
        })
    }
}

#[tokio::test]
async fn the_layer_respects_the_service_within() {
    let (cache, fails, polls) = (local_cache().await, Arc::default(), Arc::default());
    let strict = StrictService {
        upstream: Upstream::default(),
        is_ready: false,
        fails: Arc::clone(&fails),
        polls: Arc::clone(&polls),
    };
    let layer = RequestScopeLayer::new().cache(cache).cache_status("shop");
    let mut service = layer.layer(strict);
    let mut context = Context::from_waker(std::task::Waker::noop());
    for (body, expected) in [("ok", "shop; fwd=miss; stored; ttl=600"), ("ok", "shop; hit; ttl=")] {
        assert_eq!(service.poll_ready(&mut context), Poll::Pending);
        assert_eq!(service.poll_ready(&mut context), Poll::Ready(Ok(())));
        let response = service.call(Request::new(body)).await.expect("the service answers");
        let status = response.headers()["cache-status"].to_str().expect("the header is text");
        assert!(status.starts_with(expected), "the call's task is in the scope: {status}");
        assert_eq!(*response.body(), 1);
    }
    assert_eq!(polls.load(Ordering::SeqCst), 4, "each poll of the layer polls the service once");
    assert_eq!(service.poll_ready(&mut context), Poll::Pending);
    assert_eq!(service.poll_ready(&mut context), Poll::Ready(Ok(())));
    let failed = service.call(Request::new("fail")).await;
    assert_eq!(failed.map(|_| ()), Err(StrictError("failed")));
    fails.store(true, Ordering::SeqCst);
    assert_eq!(service.poll_ready(&mut context), Poll::Pending);
    assert_eq!(service.poll_ready(&mut context), Poll::Ready(Err(StrictError("busy"))));
}

/// A service that hyper calls directly, without a framework such as axum.
#[derive(Clone)]
struct PlainService(Upstream);

impl Service<Request<hyper::body::Incoming>> for PlainService {
    type Response = http::Response<String>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<hyper::body::Incoming>) -> Self::Future {
        let (upstream, id) = (self.0.clone(), request.uri().path().len() as u32);
        Box::pin(async move {
            let value = course(&upstream, id, 1).await.expect("the upstream is up");
            Ok(http::Response::new(value.to_string()))
        })
    }
}

#[tokio::test]
async fn hyper_sends_the_status_of_each_response() {
    let (upstream, cache) = (Upstream::default(), local_cache().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let at = listener.local_addr().expect("a bound listener has an address");
    let layer = RequestScopeLayer::new()
        .cache(cache.clone())
        .force_miss_if(|parts| parts.method == http::Method::GET && parts.uri.query().is_some())
        .cache_status("shop");
    let service = layer.layer(PlainService(upstream.clone()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    assert_eq!(status_of(at, "/a", "").await, "fwd=miss; stored; ttl=600");
    assert!(
        status_of(at, "/b", "").await.starts_with("hit; ttl="),
        "both paths have the same length"
    );
    assert_eq!(status_of(at, "/c?fresh", "").await, "fwd=request; stored=?0");
    assert_eq!(upstream.fetches(), 2);
}

/// Without the option `cache_status`, the layer writes no header and records nothing, but still
/// opens the scope.
#[tokio::test]
async fn a_layer_without_status_only_opens_a_scope() {
    let (upstream, cache) = (Upstream::default(), local_cache().await);
    let at = serve(app(&upstream).layer(RequestScopeLayer::new().cache(cache.clone()))).await;
    assert_eq!(status_of(at, "/twice/1", "").await, "no header");
    let stats = cache.stats().get("tower_course").expect("the function was called");
    assert_eq!((stats.fetches, stats.request_hits), (1, 1));
    assert!(request(at, "/so-far", "").await.1.ends_with("not recorded"));
}

/// Dropping the future of the layer's response also drops the future of the inner service, which
/// never ends by itself.
#[tokio::test]
async fn a_dropped_response_drops_its_handling() {
    #[derive(Clone)]
    struct EndlessService(Arc<()>);
    impl Service<Request<()>> for EndlessService {
        type Response = http::Response<()>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            let guard = Arc::clone(&self.0);
            Box::pin(async move {
                let _guard = guard;
                std::future::pending().await
            })
        }
    }
    let guard = Arc::new(());
    let mut service =
        RequestScopeLayer::new().cache_status("shop").layer(EndlessService(guard.clone()));
    let mut response = Box::pin(service.call(Request::new(())));
    assert!(cached_tests::poll_once(response.as_mut()).await.is_none());
    drop((response, service));
    assert_eq!(Arc::strong_count(&guard), 1);
}

/// Many clients send requests at once. Each header says whether its request fetched, and all
/// headers together agree with the upstream's count.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn statuses_agree_with_the_upstream_under_load() {
    let (upstream, cache) = (Upstream::default().taking_millis(5), local_cache().await);
    let layer = RequestScopeLayer::new().cache(cache.clone()).cache_status("shop");
    let at = serve(app(&upstream).layer(layer)).await;
    let mut clients = JoinSet::new();
    for client in 0..16 {
        clients.spawn(async move {
            let mut statuses = Vec::new();
            for step in 0..30 {
                // About half of the clients ask for each new course at the same time.
                let id = 100 + step / 2 + (client + step) % 2;
                statuses.push(status_of(at, &format!("/twice/{id}"), "").await);
            }
            statuses
        });
    }
    let statuses = clients.join_all().await.concat();
    let count = |prefix: &str| statuses.iter().filter(|status| status.starts_with(prefix)).count();
    let (fetched, hit) = (count("fwd=miss; stored"), count("hit; ttl="));
    let collapsed = count("fwd=miss; collapsed; ttl=");
    assert_eq!(fetched, upstream.fetches());
    assert_eq!(fetched + hit + collapsed, statuses.len(), "{statuses:?}");
    assert!(fetched > 0 && hit > 0 && collapsed > 0, "{fetched}, {hit}, {collapsed}");
    let stats = cache.stats().get("tower_course").expect("the function was called");
    assert_eq!((stats.local_hits, stats.waits), (hit as u64, collapsed as u64));
}
