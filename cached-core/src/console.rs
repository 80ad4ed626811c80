//! A web page that shows a cache at work, as a router that a program mounts beside its own routes.
//!
//! The page shows each annotated function's hit rate, the calls and the time that the cache saves,
//! the tiers, the memcached servers, the ledger, and what the tiers have of one entry. All figures
//! are those of this process. The guide's chapter [console](crate::guide::console) shows the page.
//!
//! ```
//! use std::net::SocketAddr;
//! use axum::Router;
//! use cached_core::{Cache, console};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let cache = Cache::from_env().await?;
//! let app = Router::new().nest_service("/_cache", console::router(cache));
//! // The console asks which client a request comes from, so the server must tell it.
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
//! [`token`](Console::token). A proxy on this machine is a client on this machine, so the proxy must
//! not forward the console. A request that says that it came through a proxy is refused.
//!
//! No answer contains a cached value or an argument of a call.

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
use access::Access;
use history::History;

/// The page. Each `{base}` stands for the path from the page's address to the console's other files.
const PAGE: &str = include_str!("console/page.html");
const STYLE: &str = include_str!("console/console.css");
const SCRIPT: &str = include_str!("console/console.js");
const ICON: &str = include_str!("console/icon.svg");

/// The browser loads nothing but the console's own files, and no other page may frame the console.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Returns a router with the console of `cache`, for clients on this machine, without invalidation.
///
/// This is the short form of [`Console::new`] and [`Console::router`], which see.
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
    access: Access,
}

impl Console {
    /// Creates a console of this cache, for clients on this machine, without invalidation.
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
        Console { cache, access: Access::default() }
    }

    /// Offers the invalidation of single entries to whoever knows `token`.
    ///
    /// The token must have at least 16 bytes and must be random, because the console does not limit
    /// how often a client may guess. A shorter token is refused with a line in the log, and nothing
    /// can be invalidated. The page asks for the token and sends it in the header `x-cache-token`.
    /// The token is never part of a URL, and no log line contains it.
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

    /// Lets clients on other machines see the console.
    ///
    /// The console then no longer asks where a request comes from. It has no users and no password:
    /// put a layer of your own around the router, or mount the router on a listener that only
    /// operators reach. If a browser addresses the program by a name, call [`host`](Self::host) too.
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

    /// Adds a name under which browsers address the program, without a port.
    ///
    /// Without this method, the console answers only requests whose `Host` is an IP address or
    /// `localhost`. Otherwise, a page on the internet could point its own name at this machine and
    /// read the console from an operator's browser (DNS rebinding).
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
        self.access.add_host(name.into());
        self
    }

    /// Returns the router. Mount it with `nest_service`, which also serves the path with a slash at
    /// the end, or with `nest`, `merge` or on its own.
    ///
    /// From now until the router is dropped, a thread notes the counters every two seconds, for the
    /// plots of the last five minutes.
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

/// Everything that the routes share.
struct ConsoleState {
    cache: Cache,
    access: Access,
    /// A number by which the page recognizes that the program has started again.
    instance: String,
    started: Instant,
    history: Mutex<History>,
    /// Lets one search through the local tier run at a time, so that searches take one core at most.
    #[cfg(feature = "memcached")]
    searches: Arc<tokio::sync::Semaphore>,
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
            searches: Arc::new(tokio::sync::Semaphore::new(1)),
        }
    }

    /// Returns the milliseconds since the console was built.
    fn age_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

type Shared = State<Arc<ConsoleState>>;

/// A request that is not answered: a status, and one line that says what to do.
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

/// Refuses whoever may not see the console, and adds the headers that all answers have.
async fn guard(State(state): Shared, request: Request, next: Next) -> Response {
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

/// Answers with JSON. Serializing a `Value` cannot fail.
fn answer(value: &Value) -> Response {
    file("application/json", value.to_string())
}

/// Serves the page. Its links are relative, so the page works under any path. For the address
/// `/_cache`, the links begin with `_cache/`; for `/_cache/`, they begin with nothing.
async fn page(OriginalUri(address): OriginalUri) -> Response {
    let base = match address.path().rsplit('/').next() {
        None | Some("") => String::new(),
        Some(last) => format!("{}/", escape(last)),
    };
    file("text/html; charset=utf-8", PAGE.replace("{base}", &base))
}

/// Escapes a text for an attribute of the page.
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

async fn caches(State(state): Shared) -> Response {
    answer(&figures::report(&state))
}

async fn past(State(state): Shared) -> Response {
    let samples = crate::sync::lock(&state.history).report();
    let (instance, names) = (json!(state.instance), json!(figures::names(&state.cache)));
    file(
        "application/json",
        format!("{{\"instance\":{instance},\"names\":{names},\"samples\":{samples}}}"),
    )
}

async fn servers(State(state): Shared) -> Response {
    answer(&json!({ "servers": figures::servers(&state.cache) }))
}

async fn reviewed_ledger() -> Response {
    let ledger = ledger();
    let findings: Value = ledger.audit().iter().map(ToString::to_string).collect();
    // The ledger is JSON already.
    let declarations = ledger.to_json();
    file("application/json", format!("{{\"declarations\":{declarations},\"findings\":{findings}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_an_address_becomes_markup() {
        assert_eq!(escape("_cache"), "_cache");
        assert_eq!(escape("\"><script>"), "&quot;&gt;&lt;script&gt;");
        assert_eq!(escape("javascript:alert(1)"), "javascript%3Aalert(1)");
    }

    #[test]
    fn the_page_has_no_inline_script_or_style() {
        assert!(
            !PAGE.contains("<style") && !PAGE.contains(" style="),
            "CSP refuses a style in the page"
        );
        for (place, _) in PAGE.match_indices("<script") {
            assert!(PAGE[place..].starts_with("<script type=\"module\" src="), "CSP refuses it");
        }
        for text in [PAGE, STYLE, SCRIPT] {
            let foreign = text.match_indices("http").map(|(place, _)| &text[place..]);
            let mut foreign = foreign.filter(|text| !text.starts_with("http://www.w3.org/"));
            assert_eq!(foreign.next(), None, "the console loads nothing from elsewhere");
        }
    }
}
