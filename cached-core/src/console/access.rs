//! Checks whether a client may see the console, the web page that shows a cache's figures. Also
//! checks whether a client may invalidate an entry there.

// Without the feature `memcached`, keys have no digest by which a client could name an entry. The
// console then invalidates nothing, and checks no token.
#![cfg_attr(not(feature = "memcached"), allow(dead_code))]

use std::fmt;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, OriginalUri, Request};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};

use super::Refusal;
use crate::telemetry::write_line;

/// The header that carries the token. A script of another site cannot send this header: the browser
/// would first ask the console for permission (CORS), and the console never permits it.
const TOKEN_HEADER: &str = "x-cache-token";
/// The shortest allowed token, in bytes. A random token of this length cannot be guessed.
const SHORTEST_TOKEN: usize = 16;
/// Most proxies add one of these headers, or a header whose name begins with one of the
/// [`PROXY_PREFIXES`]. The console never trusts the contents of these headers. It refuses every
/// request that has one of them, even from this machine, unless the program calls `allow_remote`. A
/// proxy on this machine is not recognised if it adds none of these headers.
const PROXY_HEADERS: [&str; 12] = [
    "cf-connecting-ip",
    "cf-ray",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-real-ip",
    "x-appengine-user-ip",
    "x-proxyuser-ip",
];
/// Proxies also add headers whose names begin with one of these prefixes.
const PROXY_PREFIXES: [&str; 4] = ["x-forwarded-", "x-original-forwarded-", "x-envoy-", "x-azure-"];

/// The access rules of one console.
#[derive(Default)]
pub(super) struct AccessRules {
    token: Option<InvalidationToken>,
    allows_remote: bool,
    hosts: Vec<String>,
}

impl AccessRules {
    pub(super) fn set_token(&mut self, token: String) {
        self.token = match InvalidationToken::new(&token) {
            Ok(token) => Some(token),
            Err(why) => {
                write_line!(
                    error,
                    "nothing can be invalidated in the cache's console, because its token {why}; \
                     use a random token of at least {SHORTEST_TOKEN} letters and digits"
                );
                None
            }
        };
    }

    pub(super) fn allow_remote(&mut self) {
        self.allows_remote = true;
    }

    /// Allows requests for this host. Ignores a scheme, a port and a path around the host's name.
    pub(super) fn add_host(&mut self, name: &str) {
        let without_scheme = name.split_once("://").map_or(name, |(_, rest)| rest);
        let authority = without_scheme.split('/').next().unwrap_or_default();
        match authority.parse::<Authority>() {
            Ok(authority) => self.hosts.push(authority.host().to_owned()),
            Err(_) => write_line!(
                error,
                "the cache's console does not answer for the host {name:?}, which is not a host \
                 name; write for example `Console::new(cache).host(\"ops.shop.example\")`"
            ),
        }
    }

    /// Returns true if the console has a valid token, so that clients can invalidate entries.
    pub(super) fn offers_invalidation(&self) -> bool {
        self.token.is_some()
    }

    /// Checks that the client may see the console.
    ///
    /// # Errors
    /// Returns a refusal if the client may not see it.
    pub(super) fn check(&self, request: &Request) -> Result<(), Refusal> {
        if !self.allows_remote {
            check_peer(request)?;
        }
        let host = host(request).ok_or_else(|| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "the request must name its host in one valid header `Host`",
            )
        })?;
        self.check_host(&host)?;
        self.check_origin(request, &host)
    }

    /// Checks that no page of another site sent the request. A link to the console's page is
    /// allowed: the browser then opens the page itself, and the other site cannot read it.
    fn check_origin(&self, request: &Request, host: &Authority) -> Result<(), Refusal> {
        let headers = request.headers();
        let is_foreign_site = headers.get("sec-fetch-site").is_some_and(|site| {
            // A browser that follows a link sends the mode `navigate`.
            let is_link = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate")
                && request.uri().path() == "/";
            !is_link && site != "same-origin" && site != "none"
        });
        let is_foreign_origin = headers
            .get_all(header::ORIGIN)
            .iter()
            .any(|origin| !self.is_own_origin(origin.to_str().unwrap_or_default(), host));
        match is_foreign_site || is_foreign_origin {
            true => Err(forbidden("the request comes from a page of another site")),
            false => Ok(()),
        }
    }

    /// Returns true if this origin (scheme, host and port of a page) belongs to the program itself.
    fn is_own_origin(&self, origin: &str, host: &Authority) -> bool {
        let origin = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let Some(Ok(origin)) = origin.map(str::parse::<Authority>) else { return false };
        // If remote clients are allowed, a proxy might have replaced the request's host by the
        // address to which it forwards. An origin with a host that the program has named is then
        // accepted too.
        let is_named_host = self.allows_remote && self.is_named(origin.host());
        is_named_host || origin.as_str().eq_ignore_ascii_case(host.as_str())
    }

    fn check_host(&self, host: &Authority) -> Result<(), Refusal> {
        let name = host.host();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        let is_known = address.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.is_named(name);
        if is_known {
            return Ok(());
        }
        Err(forbidden(format!(
            "the console does not answer for the host `{name}`; use an IP address or `localhost`, or write `Console::new(cache).host({name:?})`"
        )))
    }

    /// Returns true if the program has named this host with [`add_host`](Self::add_host).
    fn is_named(&self, name: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Checks that the request may invalidate an entry.
    ///
    /// # Errors
    /// Returns a refusal if the console has no valid token, or if the request does not carry this
    /// token.
    pub(super) fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else {
            return Err(forbidden(
                "nothing can be invalidated here, because the program sets no valid token; write `Console::new(cache).token(…)` with a random token of at least 16 bytes",
            ));
        };
        match headers.get(TOKEN_HEADER) {
            None => Err(forbidden("the header `x-cache-token` is missing")),
            Some(given) if token.is(given.as_bytes()) => Ok(()),
            Some(_) => Err(forbidden("the token is wrong")),
        }
    }
}

impl fmt::Debug for AccessRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessRules")
            .field("has_token", &self.token.is_some())
            .field("allows_remote", &self.allows_remote)
            .field("hosts", &self.hosts)
            .finish()
    }
}

fn forbidden(line: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, line)
}

/// Checks that the request comes from this machine, and not through a proxy.
fn check_peer(request: &Request) -> Result<(), Refusal> {
    let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() else {
        return Err(forbidden(
            "the console answers only clients on this machine, and the program does not say where a request comes from; \
             serve `app.into_make_service_with_connect_info::<SocketAddr>()`, or write `Console::new(cache).allow_remote()`",
        ));
    };
    if !peer.ip().to_canonical().is_loopback() {
        return Err(forbidden(
            "the console answers only clients on this machine; to open it to others, write `Console::new(cache).allow_remote()`",
        ));
    }
    if request.headers().keys().any(|name| is_of_proxy(name.as_str())) {
        return Err(forbidden(
            "the request came through a proxy, so its client may be on another machine; open the console without the proxy, or write `Console::new(cache).allow_remote()`",
        ));
    }
    Ok(())
}

/// Returns true if proxies add a header with this name, which must be in lower case.
fn is_of_proxy(name: &str) -> bool {
    PROXY_HEADERS.contains(&name) || PROXY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns the host that the request addresses: the `Host` header, or the authority of the URI in
/// HTTP/2.
fn host(request: &Request) -> Option<Authority> {
    let mut headers = request.headers().get_all(header::HOST).iter();
    if let Some(host) = headers.next() {
        return match headers.next() {
            None => host.to_str().ok()?.parse().ok(),
            Some(_) => None,
        };
    }
    let original = request.extensions().get::<OriginalUri>().map(|OriginalUri(uri)| uri);
    original.unwrap_or(request.uri()).authority().cloned()
}

/// The secret that allows a client to invalidate entries.
struct InvalidationToken(String);

impl InvalidationToken {
    /// Removes line ends after the token, because a token that was read from a file often has one.
    /// Returns an error if the token is too easy to guess, or if some clients could not send it.
    fn new(token: &str) -> Result<InvalidationToken, &'static str> {
        let token = token.trim_end_matches(['\r', '\n']);
        if token.len() < SHORTEST_TOKEN {
            return Err("is too short");
        }
        // A header can carry other characters too, but browsers and shells do not send all of these
        // unchanged.
        match token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(InvalidationToken(token.to_owned())),
            false => Err("has a space or a character outside of ASCII"),
        }
    }

    /// Returns true if `given` is the token. The comparison takes a time that depends only on the
    /// length of `given`, so its duration does not reveal how much of a guess was right.
    fn is(&self, given: &[u8]) -> bool {
        let token = self.0.as_bytes();
        let mut difference = u8::from(token.len() != given.len());
        for (place, byte) in given.iter().enumerate() {
            // Without `black_box`, the compiled loop might stop at the first difference.
            difference = black_box(difference | (byte ^ token[place % token.len()]));
        }
        difference == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    const SECRET: &str = "a-token-of-enough-bytes";

    /// Returns a request from this machine with these headers. The default host is
    /// `127.0.0.1:8080`.
    fn request(headers: &[(&str, &str)]) -> Request {
        request_from("127.0.0.1", headers)
    }

    fn request_from(peer: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().uri("/");
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "127.0.0.1:8080");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).expect("the headers are valid");
        let peer = SocketAddr::new(peer.parse().expect("an IP address"), 50_000);
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    }

    fn refusal(access: &AccessRules, request: &Request) -> String {
        access.check(request).err().map(|refusal| refusal.line.into_owned()).unwrap_or_default()
    }

    #[test]
    fn only_clients_on_this_machine_may_look() {
        let mut access = AccessRules::default();
        for peer in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(refusal(&access, &request_from(peer, &[])), "", "{peer} is this machine");
        }
        for peer in ["192.168.1.7", "10.0.0.1", "fe80::1", "::ffff:8.8.8.8", "0.0.0.0"] {
            let line = refusal(&access, &request_from(peer, &[]));
            assert!(line.contains("only clients on this machine"), "{peer}: {line}");
        }
        access.allow_remote();
        assert_eq!(refusal(&access, &request_from("192.168.1.7", &[])), "");
    }

    #[test]
    fn a_missing_client_address_is_explained() {
        let mut unknown = request(&[]);
        unknown.extensions_mut().clear();
        let line = refusal(&AccessRules::default(), &unknown);
        assert!(line.contains("into_make_service_with_connect_info::<SocketAddr>()"), "{line}");
    }

    #[test]
    fn a_proxy_header_never_grants_access() {
        let access = AccessRules::default();
        for name in [
            "x-forwarded-for",
            "X-Forwarded-Proto",
            "x-forwarded-client-cert",
            "x-envoy-external-address",
            "x-envoy-expected-rq-timeout-ms",
            "forwarded",
            "via",
            "x-real-ip",
            "x-client-ip",
            "true-client-ip",
            "cf-connecting-ip",
            "X-ProxyUser-Ip",
        ] {
            let claimed = [(name, "127.0.0.1")];
            assert!(refusal(&access, &request_from("8.8.8.8", &claimed)).contains("only clients"));
            assert!(refusal(&access, &request(&claimed)).contains("through a proxy"), "{name}");
        }
    }

    #[test]
    fn unknown_host_names_are_refused() {
        let mut access = AccessRules::default();
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert!(
                refusal(&access, &request(&[("host", host)])).contains("does not answer for"),
                "{host}"
            );
        }
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8080", "192.168.1.7"] {
            assert_eq!(refusal(&access, &request(&[("host", host)])), "", "{host}");
        }
        access.add_host("ops.shop.test");
        assert_eq!(refusal(&access, &request(&[("host", "ops.shop.test:8080")])), "");
    }

    #[test]
    fn a_repeated_header_is_checked_as_well() {
        let access = AccessRules::default();
        for hosts in [["127.0.0.1", "evil.example"], ["evil.example", "127.0.0.1"]] {
            let line = refusal(&access, &request(&hosts.map(|host| ("host", host))));
            assert!(line.contains("one valid header `Host`"), "{line}");
        }
        let own = "http://127.0.0.1:8080";
        for origins in [[own, "http://evil.example"], ["http://evil.example", own]] {
            let line = refusal(&access, &request(&origins.map(|origin| ("origin", origin))));
            assert!(line.contains("another site"), "{line}");
        }
    }

    #[test]
    fn a_host_may_be_named_by_its_address() {
        for name in ["ops.shop.test", "https://ops.shop.test/", "ops.shop.test:8080"] {
            let mut access = AccessRules::default();
            access.add_host(name);
            let line = refusal(&access, &request(&[("host", "ops.shop.test:9090")]));
            assert_eq!(line, "", "{name}");
        }
        let mut access = AccessRules::default();
        for name in ["", "two words", "https://"] {
            access.add_host(name);
        }
        assert!(refusal(&access, &request(&[("host", "two")])).contains("does not answer for"));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let access = AccessRules::default();
        let foreign = "another site";
        for origin in ["http://evil.example", "null", "http://127.0.0.1:9999", "file://"] {
            assert!(
                refusal(&access, &request(&[("origin", origin)])).contains(foreign),
                "{origin}"
            );
        }
        assert_eq!(refusal(&access, &request(&[("origin", "http://127.0.0.1:8080")])), "");
        for site in ["cross-site", "same-site"] {
            assert!(refusal(&access, &request(&[("sec-fetch-site", site)])).contains(foreign));
            let link = [("sec-fetch-site", site), ("sec-fetch-mode", "navigate")];
            assert_eq!(refusal(&access, &request(&link)), "", "a link to the console works");
            let mut figures = request(&link);
            *figures.uri_mut() = "/api/ledger".parse().expect("a path");
            assert!(refusal(&access, &figures).contains(foreign), "a link to the figures");
        }
        assert_eq!(refusal(&access, &request(&[("sec-fetch-site", "same-origin")])), "");
    }

    /// A proxy may replace the `Host` by the address to which it forwards the request.
    #[test]
    fn a_named_host_is_an_own_origin_if_remote_clients_are_allowed() {
        let mut access = AccessRules::default();
        access.add_host("ops.shop.test");
        let from = |origin| request(&[("origin", origin)]);
        assert!(refusal(&access, &from("https://ops.shop.test")).contains("another site"));
        access.allow_remote();
        for origin in
            ["https://ops.shop.test", "http://OPS.shop.test:8443", "http://127.0.0.1:8080"]
        {
            assert_eq!(refusal(&access, &from(origin)), "", "{origin}");
        }
        for origin in [
            "https://evil.example",
            "https://ops.shop.test.evil.example",
            "https://ops.shop.test@evil.example",
            "http://127.0.0.1:9999",
            "null",
        ] {
            assert!(refusal(&access, &from(origin)).contains("another site"), "{origin}");
        }
    }

    #[test]
    fn only_the_exact_token_is_accepted() {
        let mut access = AccessRules::default();
        access.set_token(SECRET.to_owned());
        let line = |given: Option<&str>| {
            let headers: Vec<_> = given.map(|given| (TOKEN_HEADER, given)).into_iter().collect();
            let checked = access.check_token(request(&headers).headers());
            checked.err().map(|refusal| refusal.line.into_owned()).unwrap_or_default()
        };
        assert_eq!(line(Some(SECRET)), "");
        assert!(line(None).contains("is missing"));
        let twice = SECRET.repeat(2);
        let near = SECRET.to_uppercase();
        for wrong in ["", "a", &SECRET[1..], &SECRET[..SECRET.len() - 1], &twice, &near] {
            assert_eq!(line(Some(wrong)), "the token is wrong", "{wrong}");
        }
    }

    #[test]
    fn a_line_end_is_not_part_of_the_token() {
        let mut access = AccessRules::default();
        access.set_token(format!("{SECRET}\r\n"));
        let headers = [(TOKEN_HEADER, SECRET)];
        assert!(access.check_token(request(&headers).headers()).is_ok());
    }

    #[test]
    fn an_unusable_token_allows_nothing() {
        let unusable =
            ["", "secret", "fifteen-bytes--", "fifteen-bytes--\n", "with a space in it-"];
        for token in unusable {
            let mut access = AccessRules::default();
            access.set_token(token.to_owned());
            assert!(!access.offers_invalidation(), "{token}");
            let headers = [(TOKEN_HEADER, token.trim_end())];
            let refused = access.check_token(request(&headers).headers());
            assert!(refused.is_err_and(|refusal| refusal.line.contains("sets no valid token")));
        }
    }

    #[test]
    fn debug_does_not_show_the_token() {
        let mut access = AccessRules::default();
        access.set_token(SECRET.to_owned());
        assert!(!format!("{access:?}").contains(SECRET));
    }
}
