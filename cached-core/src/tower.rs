//! A layer for tower services, for example in axum or hyper. It runs each HTTP request in a
//! [`RequestScope`], the request's own memory, and can add the header `Cache-Status` to each
//! response.
//!
//! This module needs the feature `tower`. It uses the request and response types of the crate
//! `http`, and works with every server and every type of body.

mod cache_status;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{HeaderName, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::cache::Cache;
use crate::current::FutureInScope;
use crate::outcome::OutcomeRecorder;
use crate::tier::request::RequestScope;
pub use cache_status::CacheStatus;

/// The header in which each cache on the way to the client says how it handled the request
/// (RFC 9211).
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// A predicate that returns true if the calls in a request must fetch anew, even if the cache has
/// an answer. Such a call is a *forced miss*.
type ForceMissPredicate = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// A layer that handles each HTTP request in a [`RequestScope`] of its own.
///
/// The scope ends when the handler has returned the response. A body that is streamed afterwards is
/// produced outside of the scope. If the futures that produce the body should use the same
/// [`Cache`], wrap them in [`Cache::scope`](crate::Cache::scope).
///
/// The layer passes on the inner service's errors unchanged, and forwards `poll_ready` to the inner
/// service. The inner service need not be `Clone`.
///
/// ```
/// # use cached_core::coordinator_cached;
/// use axum::Router;
/// use axum::routing::get;
/// use cached_core::tower::RequestScopeLayer;
///
/// #[coordinator_cached(name = "tower_doc", version = edition)]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("course {id}, edition {edition}"))
/// }
///
/// async fn page() -> String {
///     course(7, 2).await.unwrap_or_default()
/// }
///
/// let layer = RequestScopeLayer::new()
///     .force_miss_if(|request| request.headers.get("cache-control").is_some_and(|v| v == "no-cache"))
///     .cache_status("shop");
/// let app: Router = Router::new().route("/", get(page)).layer(layer);
/// # use tower_service::Service;
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let mut app = app;
/// # let mut get = async || {
/// #     let request = axum::http::Request::new(axum::body::Body::empty());
/// #     let response = app.call(request).await.unwrap();
/// #     response.headers()["cache-status"].to_str().unwrap().to_owned()
/// # };
/// # assert_eq!(get().await, "shop; fwd=miss; stored; ttl=1800");
/// # assert!(get().await.starts_with("shop; hit; ttl=1"));
/// # });
/// ```
#[derive(Clone, Default)]
#[must_use = "a layer does nothing until a service is wrapped in it"]
pub struct RequestScopeLayer {
    cache: Option<Cache>,
    force_miss: Option<ForceMissPredicate>,
    cache_status: Option<Arc<CacheStatus>>,
}

impl RequestScopeLayer {
    /// Returns a layer that forces no misses and writes no header.
    pub fn new() -> RequestScopeLayer {
        RequestScopeLayer::default()
    }

    /// Sets the cache that the requests use, as [`Cache::scope`](crate::Cache::scope) does. By
    /// default, the requests use the current cache.
    pub fn cache(mut self, cache: Cache) -> RequestScopeLayer {
        self.cache = Some(cache);
        self
    }

    /// Sets which requests force misses; see [`RequestScope::force_miss`].
    ///
    /// The predicate is called once for each request, with the method, the URI and the headers.
    /// Each forced miss fetches from an upstream, so a client that can force misses can overload
    /// the upstreams. If strangers can reach the service, the predicate should also check who sent
    /// the request.
    ///
    /// If a service is wrapped in two of these layers, the inner layer opens a `RequestScope` of
    /// its own. Only the inner layer's predicate applies to the calls in that scope.
    pub fn force_miss_if(
        mut self,
        predicate: impl Fn(&Parts) -> bool + Send + Sync + 'static,
    ) -> RequestScopeLayer {
        self.force_miss = Some(Arc::new(predicate));
        self
    }

    /// Adds the header `Cache-Status` to each response whose handler called an annotated function.
    ///
    /// The argument is the name of this cache in the header, such as `"shop"`, or a [`CacheStatus`]
    /// with options. A response may already have the header, for example if the handler passes on
    /// the response of an upstream. The layer then appends this cache to the header, as RFC 9211
    /// requires.
    ///
    /// The header is written when the handler returns the response, so it leaves out calls that are
    /// made later, while a body is streamed.
    ///
    /// With this option, the layer records the outcome of each call, so a hit costs more:
    /// [the guide](crate::guide::requests) has the figures.
    pub fn cache_status(mut self, status: impl Into<CacheStatus>) -> RequestScopeLayer {
        self.cache_status = Some(Arc::new(status.into()));
        self
    }
}

impl fmt::Debug for RequestScopeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestScopeLayer")
            .field("cache", &self.cache)
            .field("cache_status", &self.cache_status)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for RequestScopeLayer {
    type Service = RequestScopeService<S>;

    fn layer(&self, inner: S) -> RequestScopeService<S> {
        RequestScopeService { inner, layer: self.clone() }
    }
}

/// A service that handles each HTTP request in a [`RequestScope`]. [`RequestScopeLayer`] wraps an
/// inner service in it.
#[derive(Debug, Clone)]
pub struct RequestScopeService<S> {
    inner: S,
    layer: RequestScopeLayer,
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for RequestScopeService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
{
    type Response = Response<ResponseBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<RequestBody>) -> ResponseFuture<S::Future> {
        let (parts, body) = request.into_parts();
        let force_miss = self.layer.force_miss.as_ref().is_some_and(|predicate| predicate(&parts));
        let request = Request::from_parts(parts, body);
        let status = self.layer.cache_status.as_ref();
        let status = status.map(|status| (Arc::clone(status), OutcomeRecorder::for_all()));
        let recorders = status.iter().map(|(_, recorder)| Arc::clone(recorder)).collect();
        let scope = RequestScope::new().force_miss(force_miss);
        // The inner service may begin its work in `call`, before its future is polled. So `call`
        // runs in the scope too.
        let call = || self.inner.call(request);
        let response = FutureInScope::new(self.layer.cache.as_ref(), scope, recorders, call);
        ResponseFuture { response, status }
    }
}

/// The future that a [`RequestScopeService`] returns.
///
/// Dropping this future drops the inner service's future within the request's scope.
#[must_use = "a future does nothing unless it is awaited"]
pub struct ResponseFuture<F> {
    response: FutureInScope<F>,
    status: Option<(Arc<CacheStatus>, Arc<OutcomeRecorder>)>,
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, Body, Error> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, Error>>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(Pin::new(&mut self.response).poll(context))?;
        let header = self
            .status
            .as_ref()
            .and_then(|(status, recorder)| status.header(&recorder.all().unwrap_or_default()));
        if let Some(header) = header {
            response.headers_mut().append(CACHE_STATUS, header);
        }
        Poll::Ready(Ok(response))
    }
}
