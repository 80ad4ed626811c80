//! The console is the cache's web page. These tests check its answers over HTTP.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use cached_browser_tests::{ConsoleServer, TOKEN};
use cached_core::console::{self, Console};
use cached_core::{Cache, coordinator_cached};
use cached_tests::Memcached;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::sync::Notify;

use crate::shop::{
    FETCHES, SECRET_IDENTIFIER, cache_on, called_while_off, console_router, local_cache,
    make_calls, payment, payment_entry,
};

fn client() -> Client {
    Client::builder().no_proxy().build().expect("a client without TLS can always be built")
}

async fn get(url: String) -> Response {
    client().get(url).send().await.expect("the server answers")
}

async fn json(url: String) -> Value {
    let answer = get(url).await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.expect("the answer is JSON")
}

async fn invalidate(url: String, token: Option<&str>) -> (StatusCode, String) {
    let request = client().delete(url);
    let request =
        token.into_iter().fold(request, |request, token| request.header("x-cache-token", token));
    let answer = request.send().await.expect("the server answers");
    (answer.status(), answer.text().await.expect("the answer is text"))
}

const FILES: [&str; 8] = [
    "",
    "console.css",
    "console.js",
    "icon.svg",
    "api/caches",
    "api/history",
    "api/servers",
    "api/ledger",
];

#[tokio::test]
async fn every_answer_has_protective_headers() {
    let server = ConsoleServer::serve(console_router(&local_cache().await)).await;
    for file in FILES.into_iter().chain(["nothing", "api/entries/nothing"]) {
        let answer = get(server.url(&format!("/_cache/{file}"))).await;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("x-content-type-options"), Some("nosniff"), "{file}");
        assert_eq!(header("cache-control"), Some("no-store"), "{file}");
        let policy = header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none';"), "{file}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{file}");
        assert_eq!(header("access-control-allow-origin"), None, "{file}");
    }
    assert_eq!(get(server.url("/_cache/nothing")).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_console_works_under_any_path() {
    let cache = local_cache().await;
    let router = || console::router(cache.clone());
    let mounts: [(Router, &[&str]); 4] = [
        (Router::new().nest_service("/_cache", router()), &["/_cache", "/_cache/"]),
        (Router::new().nest("/_cache", router()), &["/_cache"]),
        (
            Router::new().nest("/ops", Router::new().nest_service("/c&d", router())),
            &["/ops/c&d", "/ops/c&d/"],
        ),
        (router(), &["/"]),
    ];
    for (routes, pages) in mounts {
        let server = ConsoleServer::serve(routes).await;
        for page in pages {
            let url = reqwest::Url::parse(&server.url(page)).expect("the text is a URL");
            let text = get(url.to_string()).await.text().await.expect("the page is text");
            let links: Vec<_> =
                text.split("=\"").filter_map(|rest| rest.split('"').next()).collect();
            let links =
                links.iter().filter(|link| link.contains("console.") || link.ends_with(".svg"));
            let links: Vec<String> = links.map(|link| link.replace("&amp;", "&")).collect();
            assert_eq!(links.len(), 4, "{page}: {links:?}");
            for link in links {
                let file = url.join(&link).expect("the link is relative");
                assert_eq!(get(file.to_string()).await.status(), StatusCode::OK, "{page}: {link}");
            }
        }
    }
}

#[tokio::test]
async fn a_missing_client_address_is_explained() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url =
        format!("http://{}/_cache", listener.local_addr().expect("the listener has an address"));
    let routes = console_router(&local_cache().await);
    let _server = tokio::spawn(async move { axum::serve(listener, routes).await });
    let answer = get(url).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let line = answer.text().await.expect("the answer is text");
    assert!(
        line.contains("into_make_service_with_connect_info") && line.lines().count() == 1,
        "{line}"
    );
}

#[tokio::test]
async fn a_foreign_host_or_page_is_refused() {
    let server = ConsoleServer::serve(console_router(&local_cache().await)).await;
    let foreign = [
        ("host", "evil.example"),
        ("origin", "http://evil.example"),
        ("sec-fetch-site", "cross-site"),
        ("x-forwarded-for", "127.0.0.1"),
    ];
    for (name, value) in foreign {
        let request = client().get(server.url("/_cache/api/caches")).header(name, value);
        let answer = request.send().await.expect("the server answers");
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{name}: {value}");
    }
}

#[tokio::test]
async fn another_site_may_link_to_the_page_alone() {
    let cache = local_cache().await;
    for routes in
        [console_router(&cache), Router::new().nest("/_cache", console::router(cache.clone()))]
    {
        let server = ConsoleServer::serve(routes).await;
        for (path, expected) in [
            ("/_cache", StatusCode::OK),
            ("/_cache/api/caches", StatusCode::FORBIDDEN),
            ("/_cache/api/ledger", StatusCode::FORBIDDEN),
        ] {
            let link = client().get(server.url(path)).header("sec-fetch-site", "cross-site");
            let link = link.header("sec-fetch-mode", "navigate");
            let answer = link.send().await.expect("the server answers");
            assert_eq!(answer.status(), expected, "{path}");
        }
    }
}

#[tokio::test]
async fn the_figures_equal_the_counters() {
    let cache = local_cache().await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    make_calls(&cache, 50).await;
    let report = json(server.url("/_cache/api/caches")).await;
    let stats = cache.stats();
    for (name, counts) in stats.iter() {
        let caches = report["caches"].as_array().expect("the field is a list");
        let row = caches.iter().find(|row| row["name"] == name).expect("each function is listed");
        assert_eq!(row["counters"]["local_hits"], counts.local_hits, "{name}");
        assert_eq!(row["counters"]["fetches"], counts.fetches, "{name}");
    }
    let total = &report["total"];
    assert_eq!((&total["calls"], &total["calls_saved"]), (&150.into(), &(150 - 7 - 3 - 2).into()));
    let rate = total["hit_rate"].as_f64().expect("there were calls");
    assert!((rate - 138.0 / 150.0).abs() < 1e-9, "{rate}");
    assert_eq!(report["local"]["entries"], 12);
    let history = json(server.url("/_cache/api/history")).await;
    assert_eq!(history["instance"], report["instance"]);
}

#[tokio::test]
async fn a_page_opened_later_shows_the_past() {
    let cache = local_cache().await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    make_calls(&cache, 10).await;
    let mut last = Value::Null;
    for _ in 0..200 {
        last = json(server.url("/_cache/api/history")).await;
        if last["samples"]
            .as_array()
            .is_some_and(|samples| samples.iter().any(|s| s["rows"] != Value::Array(vec![])))
        {
            let names = last["names"].as_array().expect("the field is a list");
            let place =
                names.iter().position(|name| name == "payment").expect("the function is listed");
            let rows = last["samples"]
                .as_array()
                .and_then(|s| s.last())
                .expect("there is a sample")["rows"]
                .clone();
            let row =
                rows.as_array().expect("the field is a list").iter().find(|row| row[0] == place);
            assert_eq!(row.expect("the function was called")[3], 10, "{rows}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no sample within ten seconds: {last}");
}

#[tokio::test]
async fn each_tier_finds_an_entry_by_key() {
    let memcached = Memcached::start();
    let cache = cache_on(&[memcached.address()]).await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    let (number, state) = (format!("{SECRET_IDENTIFIER}-found"), "paid");
    cache.scope(payment(&number, state)).await.expect("the fetch succeeds");
    cache.flush().await;
    let key = cache.scope(async { payment_entry(&number, state).key() }).await;
    let url = |key: &str| server.url(&format!("/_cache/api/entries/{key}"));

    let found = json(url(&key.to_string())).await;
    assert_eq!(found["key"], key.to_string());
    assert_eq!(found["local"]["type"], "alloc::string::String");
    assert_eq!(found["local"]["expired"], false);
    assert!(found["local"]["size"].as_u64().is_some_and(|size| size > 500), "{found}");
    assert_eq!(
        (&found["remote"]["outcome"], &found["remote"]["server"]),
        (&"found".into(), &memcached.address().into())
    );
    for tier in ["local", "remote"] {
        let left = found[tier]["time_left"].as_f64().unwrap_or_default();
        assert!((1_790.0..=1_800.0).contains(&left), "half an hour is left: {found}");
    }
    // The console finds a local entry by the digest, which is a part of the key. To ask memcached,
    // the console needs the whole key.
    assert_eq!(json(url(&key.digest().to_string())).await["name"], "payment");
    cache.clear().await;
    let elsewhere = json(url(&key.to_string())).await;
    assert_eq!(
        (&elsewhere["local"], &elsewhere["remote"]["outcome"]),
        (&Value::Null, &"found".into())
    );
    assert_eq!(json(url(&key.digest().to_string())).await["remote"]["outcome"], "unknown");
    // A lookup in the console is not a call, so nothing was counted.
    assert_eq!(cache.stats().get("payment").expect("the function is declared").hits(), 0);

    for (wrong, expected) in [
        ("payment", "64 hexadecimal digits"),
        (&key.to_string().replace("payment", "paymint"), "payment"),
        (&key.to_string().replace("shop", "shoq"), "begin with"),
    ] {
        let answer = get(url(wrong)).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{wrong}");
        let line = answer.text().await.expect("the answer is text");
        assert!(line.contains(expected), "{line}");
    }
}

#[tokio::test]
async fn no_answer_has_a_value_or_an_identifier() {
    let memcached = Memcached::start();
    let cache = cache_on(&[memcached.address()]).await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    let number = format!("{SECRET_IDENTIFIER}-hidden");
    let value = cache.scope(payment(&number, "paid")).await.expect("the fetch succeeds");
    cache.flush().await;
    let key = cache.scope(async { payment_entry(&number, "paid").key() }).await;
    let entry = format!("api/entries/{key}");
    for file in FILES.into_iter().chain([entry.as_str()]) {
        let text = get(server.url(&format!("/_cache/{file}")))
            .await
            .text()
            .await
            .expect("the answer is text");
        assert!(!text.contains(SECRET_IDENTIFIER) && !text.contains(&value), "{file}");
        assert!(!text.contains(TOKEN), "{file}");
    }
}

#[tokio::test]
async fn the_token_alone_removes_an_entry() {
    let memcached = Memcached::start();
    let cache = cache_on(&[memcached.address()]).await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    let number = format!("{SECRET_IDENTIFIER}-removed");
    let call = || cache.scope(payment(&number, "paid"));
    call().await.expect("the fetch succeeds");
    cache.flush().await;
    let entry = cache.scope(async { payment_entry(&number, "paid") }).await;
    let url = server.url(&format!("/_cache/api/entries/{}", entry.key()));

    for (token, said) in
        [(None, "is missing"), (Some("wrong"), "is wrong"), (Some(&TOKEN[1..]), "is wrong")]
    {
        let (status, line) = invalidate(url.clone(), token).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert!(line.contains(said), "{line}");
    }
    let cross = client()
        .delete(url.clone())
        .header("x-cache-token", TOKEN)
        .header("origin", "http://evil.example");
    assert_eq!(cross.send().await.expect("the server answers").status(), StatusCode::FORBIDDEN);
    assert!(entry.get().await.is_found(), "the entry stays without the token");

    let (status, text) = invalidate(url.clone(), Some(TOKEN)).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let removed = &serde_json::from_str::<Value>(&text).expect("the answer is JSON")["entry"];
    assert_eq!(
        (&removed["local"], &removed["remote"]["outcome"]),
        (&Value::Null, &"missing".into())
    );
    assert!(!entry.get().await.is_found());
    assert_eq!(cache.stats().get("payment").expect("the function is declared").invalidations, 1);

    // If only memcached has the entry, the console removes it by its key.
    call().await.expect("the fetch succeeds");
    cache.flush().await;
    cache.clear().await;
    let (status, _) = invalidate(url, Some(TOKEN)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!entry.get().await.is_found());
}

#[tokio::test]
async fn without_a_token_nothing_can_be_removed() {
    let cache = local_cache().await;
    let server = ConsoleServer::serve(console::router(cache.clone())).await;
    let digest = "0".repeat(64);
    let (status, line) =
        invalidate(server.url(&format!("/api/entries/payment:{digest}")), Some(TOKEN)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(line.contains("sets no valid token"), "{line}");
    assert_eq!(json(server.url("/api/caches")).await["may_invalidate"], false);
}

/// The signals of the function `gated`: its fetch has begun, and its fetch may go on.
#[derive(Clone, Default)]
struct FetchSignals {
    begun: Arc<Notify>,
    goes_on: Arc<Notify>,
}

#[coordinator_cached(name = "gated", version = edition, skip(gate), entry = gated_entry)]
async fn gated(edition: u32, gate: FetchSignals) -> Result<u64, std::io::Error> {
    let fetched = FETCHES.fetch_add(1, Ordering::SeqCst);
    gate.begun.notify_one();
    gate.goes_on.notified().await;
    Ok(fetched)
}

/// While the first fetch runs, no tier has the entry. If the console invalidates the entry
/// meanwhile, that fetch must not store its value, which might be old.
#[tokio::test]
async fn an_overtaken_fetch_stores_nothing() {
    for servers in [vec![], vec![Memcached::start()]] {
        let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
        let cache =
            if addresses.is_empty() { local_cache().await } else { cache_on(&addresses).await };
        let server = ConsoleServer::serve(console_router(&cache)).await;
        let gate = FetchSignals::default();
        let old = tokio::spawn({
            let (cache, gate) = (cache.clone(), gate.clone());
            async move { cache.scope(gated(1, gate)).await }
        });
        gate.begun.notified().await;
        let key = cache.scope(async { gated_entry(1).key() }).await;
        let (status, text) =
            invalidate(server.url(&format!("/_cache/api/entries/{key}")), Some(TOKEN)).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        gate.goes_on.notify_one();
        let old = old.await.expect("the task ends").expect("the fetch succeeds");
        cache.flush().await;
        gate.goes_on.notify_one();
        let new = cache.scope(gated(1, gate.clone())).await.expect("the fetch succeeds");
        assert_ne!(new, old, "with {} servers", addresses.len());
    }
}

/// If this process has the entry, the console invalidates only that entry's key. Fetches of other
/// keys go on, and store their values.
#[tokio::test]
async fn fetches_of_other_keys_outlive_an_invalidation() {
    for servers in [vec![], vec![Memcached::start()]] {
        let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
        let cache =
            if addresses.is_empty() { local_cache().await } else { cache_on(&addresses).await };
        let server = ConsoleServer::serve(console_router(&cache)).await;
        let call = |edition: u32, gate: &FetchSignals| {
            let (cache, gate) = (cache.clone(), gate.clone());
            tokio::spawn(async move { cache.scope(gated(edition, gate)).await.expect("no error") })
        };
        let open_gate = || {
            let gate = FetchSignals::default();
            gate.goes_on.notify_one();
            gate
        };
        call(2, &open_gate()).await.expect("the task ends");
        cache.flush().await;
        let slow = FetchSignals::default();
        let first = call(3, &slow);
        slow.begun.notified().await;
        let key = cache.scope(async { gated_entry(2).key() }).await;
        let (status, text) =
            invalidate(server.url(&format!("/_cache/api/entries/{key}")), Some(TOKEN)).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let mut second = call(3, &open_gate());
        let early = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
        assert!(early.is_err(), "a second fetch began, with {} servers", addresses.len());
        slow.goes_on.notify_one();
        let first = first.await.expect("the task ends");
        assert_eq!(second.await.expect("the task ends"), first);
        assert_eq!(call(3, &open_gate()).await.expect("the task ends"), first, "it is stored");
        let stats = cache.stats();
        let stats = stats.get("gated").expect("the function is declared");
        assert_eq!(stats.local_hits, 1, "the local tier has the value");
    }
}

#[tokio::test]
async fn a_cache_that_is_off_says_so() {
    let cache = Cache::disabled();
    let server = ConsoleServer::serve(
        Router::new().nest_service("/_cache", Console::new(cache.clone()).router()),
    )
    .await;
    cache.scope(called_while_off(1)).await;
    let report = json(server.url("/_cache/api/caches")).await;
    assert_eq!(report["enabled"], false);
    assert_eq!(json(server.url("/_cache/api/servers")).await["servers"], Value::Array(vec![]));
}
