//! A web page that shows how a cache performs. A program mounts the page's router beside its own
//! routes.
//!
//! The page shows the hit rate of each annotated function, and how many calls and how much time the
//! cache saves. It also shows the local tier, the memcached servers, and the *ledger*, the list of
//! all annotated functions and their settings. It can search for one entry. All figures describe
//! this process only. The guide's chapter [console](crate::guide::console) shows the page.
//!
//! ```
//! use std::net::SocketAddr;
//! use axum::Router;
//! use cached_core::{Cache, console};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let cache = Cache::from_env().await?;
//! let app = Router::new().nest_service("/_cache", console::router(cache));
//! // The console checks the address of the client, so the server must pass the address on.
//! let app = app.into_make_service_with_connect_info::<SocketAddr>();
//! # drop(app);
//! // axum::serve(listener, app).await
//! # Ok::<(), cached_core::ConfigError>(())
//! # }).unwrap();
//! ```
//!
//! # Who may see it
//! Only clients on this machine may see the page, unless the program calls
//! [`allow_remote`](Console::allow_remote). Nobody can change anything, unless the program sets a
//! [`token`](Console::token). A proxy on this machine counts as a client on this machine, so a
//! proxy must not forward requests to the console. Without `allow_remote`, the console refuses a
//! request with a header that proxies add, such as `X-Forwarded-For`.
//!
//! No response of the console contains a cached value or an argument of a call.

mod access;
#[cfg(feature = "memcached")]
mod entries;
mod figures;
mod history;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{OriginalUri, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::declaration::ledger;
use access::AccessRules;
#[cfg(feature = "memcached")]
use entries::SearchQueue;
use history::CounterHistory;

/// The page. Each `{base}` is replaced by the relative path from the page to the console's other
/// files.
const PAGE: &str = include_str!("console/page.html");
const STYLE: &str = include_str!("console/console.css");
const SCRIPT: &str = include_str!("console/console.js");
const ICON: &str = include_str!("console/icon.svg");

/// Lets the browser load only the console's own files, and forbids other pages to embed the
/// console.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// How many lookups of an entry may wait while another lookup searches the local tier.
#[cfg(feature = "memcached")]
const MAX_WAITING_LOOKUPS: usize = 4;

/// Returns a router with a console for `cache`. Only clients on this machine may use it, and they
/// cannot invalidate entries.
///
/// This is the short form of `Console::new(cache).router()`; see [`Console::router`].
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = cached_core::Cache::from_env().await?;
/// let app: axum::Router =
///     axum::Router::new().nest_service("/_cache", cached_core::console::router(cache));
/// # drop(app);
/// # Ok::<(), cached_core::ConfigError>(())
/// # }).unwrap();
/// ```
pub fn router(cache: Cache) -> Router {
    Console::new(cache).router()
}

/// The settings of a console. The [module](self) shows how to mount the console.
///
/// `Debug` does not show the token.
#[must_use = "a console does nothing until its router is mounted"]
pub struct Console {
    cache: Cache,
    access: AccessRules,
}

impl Console {
    /// Creates a console for a cache. Only clients on this machine may use it, and they cannot
    /// invalidate entries.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = cached_core::Cache::from_env().await?;
    /// let console = cached_core::console::Console::new(cache);
    /// # drop(console);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn new(cache: Cache) -> Console {
        Console { cache, access: AccessRules::default() }
    }

    /// Lets clients that know `token` invalidate single entries.
    ///
    /// The token must be random and must have at least 16 bytes, because the console does not limit
    /// how often a client may guess. It must consist of visible ASCII characters. Trailing line
    /// ends are removed, so the token can come straight from a file. If the token is too short or
    /// has other characters, the console writes an error to the log, and
    /// [nothing can be invalidated](Self::offers_invalidation). The page asks its user for the
    /// token, and sends the token in the header `x-cache-token`. Neither a URL nor a log line ever
    /// contains the token.
    ///
    /// ```
    /// # use cached_core::{Cache, console::Console};
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let mut console = Console::new(Cache::from_env().await?);
    /// if let Ok(token) = std::env::var("CACHE_CONSOLE_TOKEN") {
    ///     console = console.token(token);
    /// }
    /// # drop(console);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn token(mut self, token: impl Into<String>) -> Console {
        self.access.set_token(token.into());
        self
    }

    /// Returns true if a usable [`token`](Self::token) is set, so that clients can invalidate
    /// entries. A program can call this method at its start, and exit if the token was refused.
    ///
    /// ```
    /// # use cached_core::{Cache, console::Console};
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let console = Console::new(Cache::from_env().await?).token("short");
    /// assert!(!console.offers_invalidation());
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn offers_invalidation(&self) -> bool {
        self.access.offers_invalidation()
    }

    /// Lets clients on other machines see the console.
    ///
    /// The console then does not check where a request comes from, and it has no login of its own.
    /// So put a layer around the router that checks the client, or serve the router on a port that
    /// only operators can reach. If browsers reach the program under a host name, call
    /// [`host`](Self::host) too.
    ///
    /// ```
    /// # use cached_core::{Cache, console::Console};
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let console = Console::new(Cache::from_env().await?).allow_remote().host("ops.shop.internal");
    /// # drop(console);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn allow_remote(mut self) -> Console {
        self.access.allow_remote();
        self
    }

    /// Adds a host name under which browsers reach the program. A scheme, a port and a path around
    /// the name are ignored. If there is no valid name, the log gets an error, and nothing is added.
    ///
    /// By default, the console answers only requests whose `Host` is an IP address or `localhost`.
    /// This prevents DNS rebinding: the owner of a web page could point the page's host name at
    /// this machine, and then read the console from an operator's browser.
    ///
    /// ```
    /// # use cached_core::{Cache, console::Console};
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let console = Console::new(Cache::from_env().await?).host("shop.test");
    /// # drop(console);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn host(mut self, name: impl Into<String>) -> Console {
        self.access.add_host(&name.into());
        self
    }

    /// Returns the router. Mount it with `nest_service`, which also serves the path with a slash at
    /// the end. It can also be mounted with `nest`, or be served on its own.
    ///
    /// The method starts a thread that records the counters every two seconds, for the page's plots
    /// of the last five minutes. The thread ends after the router is dropped.
    ///
    /// ```
    /// # use cached_core::{Cache, console::Console};
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let router: axum::Router = Console::new(Cache::from_env().await?).router();
    /// # drop(router);
    /// # Ok::<(), cached_core::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn router(self) -> Router {
        let state = Arc::new(ConsoleState::new(self));
        history::keep_in_background(&state);
        let router = Router::new()
            .route("/", get(page))
            .route("/console.css", get(async || file("text/css; charset=utf-8", STYLE)))
            .route("/console.js", get(async || file("text/javascript; charset=utf-8", SCRIPT)))
            .route("/icon.svg", get(async || file("image/svg+xml", ICON)))
            .route("/api/caches", get(caches))
            .route("/api/history", get(past))
            .route("/api/servers", get(servers))
            .route("/api/ledger", get(reviewed_ledger));
        #[cfg(feature = "memcached")]
        let router =
            router.route("/api/entries/{key}", get(entries::show).delete(entries::invalidate));
        router
            .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "the console has no such page"))
            .method_not_allowed_fallback(async || {
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this page does not have that method")
            })
            .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
            .with_state(state)
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("cache", &self.cache)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// The state that all routes share.
struct ConsoleState {
    cache: Cache,
    access: AccessRules,
    /// A text that differs between consoles. If the text changes, the page knows that the program
    /// was restarted.
    instance: String,
    started: Instant,
    history: Mutex<CounterHistory>,
    #[cfg(feature = "memcached")]
    searches: SearchQueue,
    /// The queue for the searches that invalidations make. It is separate from the queue for
    /// lookups, so lookups do not delay an invalidation.
    #[cfg(feature = "memcached")]
    invalidation_searches: SearchQueue,
}

impl ConsoleState {
    fn new(console: Console) -> ConsoleState {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ConsoleState {
            instance: format!("{:x}-{:x}", since_epoch.as_nanos(), console.cache.id()),
            cache: console.cache,
            access: console.access,
            started: Instant::now(),
            history: Mutex::default(),
            #[cfg(feature = "memcached")]
            searches: SearchQueue::with_places(1 + MAX_WAITING_LOOKUPS),
            #[cfg(feature = "memcached")]
            invalidation_searches: SearchQueue::unbounded(),
        }
    }

    /// Returns the milliseconds since the console was built.
    fn age_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

type SharedState = State<Arc<ConsoleState>>;

/// The response to a request that is refused: a status, and one line that says what to do.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    line: Cow<'static, str>,
}

impl Refusal {
    fn new(status: StatusCode, line: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status, line: line.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, format!("{}\n", self.line)).into_response()
    }
}

/// Refuses requests from clients that may not see the console. Adds the security headers to every
/// response.
async fn guard(State(state): SharedState, request: Request, next: Next) -> Response {
    let mut response = match state.access.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn file(kind: &'static str, text: impl Into<Cow<'static, str>>) -> Response {
    ([(header::CONTENT_TYPE, kind)], text.into()).into_response()
}

/// Returns a response with JSON.
fn json_response(value: &Value) -> Response {
    file("application/json", value.to_string())
}

/// Serves the page. The links of the page are relative, so it works under any path. At the address
/// `/_cache`, the links begin with `_cache/`. At `/_cache/`, they have no prefix.
async fn page(OriginalUri(address): OriginalUri) -> Response {
    let base = match address.path().rsplit('/').next() {
        None | Some("") => String::new(),
        Some(last) => format!("{}/", escape(last)),
    };
    file("text/html; charset=utf-8", PAGE.replace("{base}", &base))
}

/// Escapes a text for an HTML attribute that contains a relative URL.
fn escape(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        // A browser would read the part before a colon as the scheme of a URL.
        ':' => "%3A".to_owned(),
        c => c.to_string(),
    });
    escaped.collect()
}

async fn caches(State(state): SharedState) -> Response {
    json_response(&figures::report(&state))
}

async fn past(State(state): SharedState) -> Response {
    let samples = crate::sync::lock(&state.history).report();
    let (instance, names) = (json!(state.instance), json!(figures::names(&state.cache)));
    file(
        "application/json",
        format!("{{\"instance\":{instance},\"names\":{names},\"samples\":{samples}}}"),
    )
}

async fn servers(State(state): SharedState) -> Response {
    json_response(&json!({ "servers": figures::servers(&state.cache) }))
}

async fn reviewed_ledger() -> Response {
    let ledger = ledger();
    let findings: Value = ledger.audit().iter().map(ToString::to_string).collect();
    // `to_json` returns JSON text, so the response is put together as text.
    let declarations = ledger.to_json();
    file("application/json", format!("{{\"declarations\":{declarations},\"findings\":{findings}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_becomes_markup() {
        assert_eq!(escape("_cache"), "_cache");
        assert_eq!(escape("\"><script>"), "&quot;&gt;&lt;script&gt;");
        assert_eq!(escape("javascript:alert(1)"), "javascript%3Aalert(1)");
    }

    #[test]
    fn the_page_has_no_inline_script_or_style() {
        assert!(
            !PAGE.contains("<style") && !PAGE.contains(" style="),
            "the content security policy refuses inline styles"
        );
        for (place, _) in PAGE.match_indices("<script") {
            assert!(
                PAGE[place..].starts_with("<script type=\"module\" src="),
                "the content security policy refuses inline scripts"
            );
        }
        for text in [PAGE, STYLE, SCRIPT] {
            let foreign = text.match_indices("http").map(|(place, _)| &text[place..]);
            let mut foreign = foreign.filter(|text| !text.starts_with("http://www.w3.org/"));
            assert_eq!(foreign.next(), None, "the page loads nothing from other servers");
        }
    }
}
