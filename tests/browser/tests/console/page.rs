//! Tests the console, the web page that shows the state of a cache, in a real browser.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use cached_browser_tests::{Browser, ConsoleServer, Emulation, TOKEN};
use cached_core::console;
use cached_core::{Cache, RequestScope};
use cached_tests::Memcached;
use serde_json::{Value, json};

use crate::shop::{
    SECRET_IDENTIFIER, cache_on, checkout, console_router, local_cache, make_calls, payment,
    payment_entry,
};

const TABULATOR: &str = "\u{e004}";
const RIGHT: &str = "\u{e014}";
const LEFT: &str = "\u{e012}";
const ENTER: &str = "\u{e007}";

/// Opens the console of a program, and waits for its first figures.
async fn open(browser: &Browser, server: &ConsoleServer) {
    browser.open(&server.url("/_cache")).await;
    browser.wait_for("document.body.dataset.state === 'live'").await;
}

/// Checks that no script has failed, and that the browser has blocked nothing because of the page's
/// content security policy.
async fn assert_quiet(browser: &Browser) {
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "the browser complains: {complaints:#?}");
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[tokio::test]
async fn the_figures_move_under_load() {
    let Some(browser) = Browser::start().await else { return };
    let cache = local_cache().await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    open(&browser, &server).await;
    assert!(browser.text("#functions-empty").await.contains("No annotated function was called"));

    make_calls(&cache, 40).await;
    browser.wait_for("document.querySelector('#split-legend').innerText.includes('Memory')").await;
    browser
        .wait_for("document.querySelectorAll('#functions-body tr:not(.detail)').length === 3")
        .await;
    let saved = "[...document.querySelectorAll('.plot .note')][1].textContent";
    let first = cache.stats().total();
    let expected = |calls: u64| format!("{saved} === '{calls} since the start'");
    browser.wait_for(&expected(first.hits() + first.waits)).await;

    make_calls(&cache, 40).await;
    let second = cache.stats().total();
    assert!(second.hits() > first.hits() + 100);
    browser.wait_for(&expected(second.hits() + second.waits)).await;
    // Each plot draws a line once it has two samples.
    browser.wait_for("document.querySelectorAll('.plot path.line').length >= 3").await;

    // A click on a name shows this function alone.
    browser.click("#functions-body .name button:not(.opener)").await;
    browser.wait_for("document.querySelector('#scope').textContent !== 'all functions'").await;
    let name = browser.text("#scope").await;
    let shown = cache.stats().get(&name).expect("the function is declared");
    browser.wait_for(&expected(shown.hits() + shown.waits)).await;
    browser.click("#unscope").await;
    browser.wait_for("document.querySelector('#scope').textContent === 'all functions'").await;

    // The opened row has every counter with its exact number.
    browser.click("#functions-body .opener").await;
    let counters = browser.text("#functions-body tr.detail:not([hidden])").await;
    assert!(counters.contains("Memory hits") && counters.contains("Overwrites"), "{counters}");
    assert_quiet(&browser).await;
}

#[tokio::test]
async fn a_killed_server_turns_red_and_recovers() {
    let Some(browser) = Browser::start().await else { return };
    let (mut killed, other) = (Memcached::start(), Memcached::start());
    let cache = cache_on(&[killed.address(), other.address()]).await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    open(&browser, &server).await;
    // Each call uses a different entry, so that both servers receive commands.
    let load = tokio::spawn({
        let cache = cache.clone();
        async move {
            for turn in 0.. {
                let _ = cache.scope(payment(&format!("{SECRET_IDENTIFIER}-{turn}"), "paid")).await;
            }
        }
    });
    let state = |address: &str| {
        format!(
            "[...document.querySelectorAll('#servers-body tr')].find((row) => row.innerText.includes('{address}'))?.dataset.state"
        )
    };
    browser.wait_for("document.querySelector('#health').textContent === 'All servers up'").await;
    browser.wait_for(&format!("{} === 'up'", state(&killed.address()))).await;

    let (address, port) = (killed.address(), killed.port());
    killed.kill();
    browser.wait_for(&format!("{} === 'ejected'", state(&address))).await;
    browser.wait_for("document.querySelector('#health').dataset.level === 'bad'").await;
    assert_eq!(browser.text("#health").await, "1 server is out");
    assert_eq!(browser.value(&state(&other.address())).await, "up");

    let _restarted = Memcached::start_on(port).expect("the port is still free");
    browser.wait_for(&format!("{} === 'up'", state(&address))).await;
    browser.wait_for("document.querySelector('#health').dataset.level === 'good'").await;
    load.abort();
    assert_quiet(&browser).await;
}

#[tokio::test]
async fn only_the_right_token_removes_an_entry() {
    let Some(browser) = Browser::start().await else { return };
    let memcached = Memcached::start();
    let cache = cache_on(&[memcached.address()]).await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    let number = format!("{SECRET_IDENTIFIER}-page");
    cache.scope(payment(&number, "paid")).await.expect("the fetch succeeds");
    cache.flush().await;
    let entry = cache.scope(async { payment_entry(&number, "paid") }).await;
    open(&browser, &server).await;

    browser.write("#key", &entry.key().to_string()).await;
    browser.click("#search-form button").await;
    browser.wait_for("document.querySelectorAll('#found .result').length === 2").await;
    let found = browser.text("#found").await;
    assert!(found.contains(&memcached.address()) && found.contains("String"), "{found}");
    assert!(!found.contains(SECRET_IDENTIFIER), "{found}");

    browser.write("#token", "a-wrong-token-of-enough-bytes").await;
    browser.click("#invalidate-form button").await;
    browser
        .wait_for("document.querySelector('#found').innerText.includes('The token is wrong')")
        .await;
    assert!(entry.get().await.is_found());
    // The browser logs the failed request, because the server answered it with the status 403.
    let complaints = browser.complaints().await;
    assert!(complaints.len() == 1 && complaints[0].contains("403"), "{complaints:?}");

    browser.write("#token", TOKEN).await;
    browser.click("#invalidate-form button").await;
    browser
        .wait_for("document.querySelector('#found').innerText.includes('was removed from this process and from memcached')")
        .await;
    assert!(!entry.get().await.is_found());
    assert_eq!(browser.value("location.href.includes('token') || document.cookie !== '' || localStorage.length + sessionStorage.length > 0").await, false);
    assert_quiet(&browser).await;
}

#[tokio::test]
async fn without_a_token_the_page_offers_no_invalidation() {
    let Some(browser) = Browser::start().await else { return };
    let cache = local_cache().await;
    let server =
        ConsoleServer::serve(Router::new().nest_service("/_cache", console::router(cache.clone())))
            .await;
    make_calls(&cache, 3).await;
    let key =
        cache.scope(async { payment_entry(&format!("{SECRET_IDENTIFIER}-1"), "paid").key() }).await;
    open(&browser, &server).await;
    browser.write("#key", &key.digest().to_string()).await;
    browser.press(ENTER).await;
    browser.wait_for("document.querySelectorAll('#found .result').length === 2").await;
    assert_eq!(browser.value("document.querySelector('#token')").await, Value::Null);
    browser.write("#key", "nonsense").await;
    browser.press(ENTER).await;
    browser.wait_for("document.querySelector('#found').innerText.includes('not a key')").await;
    browser.complaints().await;
}

#[tokio::test]
async fn the_page_survives_a_restart_of_the_program() {
    let Some(browser) = Browser::start().await else { return };
    let cache = local_cache().await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    let port = server.port();
    make_calls(&cache, 5).await;
    open(&browser, &server).await;
    server.end().await;
    browser.wait_for("document.body.dataset.state === 'lost'").await;
    assert!(browser.text("#trouble").await.contains("tries again by itself"));
    // The program starts again: its counters begin at zero.
    let restarted = local_cache().await;
    let _server = ConsoleServer::serve_on(port, console_router(&restarted))
        .await
        .expect("the port is still free");
    browser.wait_for("document.body.dataset.state === 'live'").await;
    browser.wait_for("document.querySelector('#trouble').hidden").await;
    browser.wait_for("!document.querySelector('#functions-empty').hidden").await;
    browser.complaints().await;
}

#[tokio::test]
async fn a_failed_answer_does_not_hide_the_ledger() {
    let Some(browser) = Browser::start().await else { return };
    let has_failed = Arc::new(AtomicBool::new(false));
    let ledger = async move || match has_failed.swap(true, Ordering::SeqCst) {
        true => ([(header::CONTENT_TYPE, "application/json")], crowded_ledger().to_string())
            .into_response(),
        false => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    let routes = Router::new()
        .route("/_cache/api/ledger", get(ledger))
        .nest_service("/_cache", console::router(local_cache().await));
    let server = ConsoleServer::serve(routes).await;
    open(&browser, &server).await;
    let rows = format!("document.querySelectorAll('#ledger-body tr').length === {FUNCTIONS}");
    browser.wait_for(&rows).await;
    browser.complaints().await;
}

#[tokio::test]
async fn an_invalidation_names_memcached_only_if_the_function_uses_it() {
    let Some(browser) = Browser::start().await else { return };
    let cache = local_cache().await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    let number = format!("{SECRET_IDENTIFIER}-local");
    cache.scope(payment(&number, "paid")).await.expect("the fetch succeeds");
    let key = cache.scope(async { payment_entry(&number, "paid").key() }).await;
    open(&browser, &server).await;
    browser.write("#key", &key.to_string()).await;
    browser.click("#search-form button").await;
    browser.wait_for("document.querySelector('#token') !== null").await;
    let hint = browser.text("#invalidate-form .hint").await;
    assert!(hint.contains("from this process.") && !hint.contains("memcached"), "{hint}");
    browser.write("#token", TOKEN).await;
    browser.click("#invalidate-form button").await;
    browser
        .wait_for(
            "document.querySelector('#found').innerText.includes('was removed from this process.')",
        )
        .await;
    assert_quiet(&browser).await;
}

// -------------------------------------------------------------------------- layout and accessibility

/// Serves a console with made-up figures that fill the page: 200 functions, names of 48 characters,
/// numbers in the billions, and an ejected server.
async fn crowded() -> ConsoleServer {
    let cache = local_cache().await;
    let json = |value: Value| {
        get(async move || ([(header::CONTENT_TYPE, "application/json")], value.to_string()))
    };
    let routes = Router::new()
        .route("/_cache/api/caches", json(crowd()))
        .route("/_cache/api/history", json(crowded_history()))
        .route("/_cache/api/servers", json(crowded_servers()))
        .route("/_cache/api/ledger", json(crowded_ledger()))
        .nest_service("/_cache", console::router(cache));
    ConsoleServer::serve(routes).await
}

const FUNCTIONS: u64 = 200;

fn crowd_name(n: u64) -> String {
    format!("{:-<44}{n:04}", format!("function-number-{n}-"))
}

fn crowd_figures(n: u64) -> Value {
    let calls = 9_876_543_210 / (1 + n * n);
    let hits = calls / 100 * (99 - n % 60);
    json!({
        "name": crowd_name(n), "calls": calls, "calls_saved": hits, "hit_rate": hits as f64 / calls.max(1) as f64,
        "time_saved": hits as f64 * 0.018, "fetch": { "count": calls - hits, "mean": 0.018, "p50": 0.012, "p99": 0.41 },
        "counters": { "request_hits": hits / 10, "local_hits": hits / 10 * 7, "remote_hits": hits / 10 * 2, "waits": 7,
            "fetches": calls - hits, "fetch_errors": n * 1_234_567, "misses": calls - hits, "paused_answers": 0, "bypassed": 0, "stale_answers": 1_000_000_000 },
    })
}

fn crowd() -> Value {
    json!({
        "instance": "made-up", "at": 1_000_000, "enabled": true, "namespace": "shop", "may_invalidate": true, "searches_entries": true,
        "health": { "shared": true, "servers": ["a-long-host-name-of-a-cache-server.shop.internal:11211"] },
        "local": { "entries": 1_234_567_890_u64, "bytes": 66_123_456, "capacity": 67_108_864, "evictions": { "size": 1_234_567_890_u64, "expired": 12_345 } },
        "total": crowd_figures(0), "caches": (0..FUNCTIONS).map(crowd_figures).collect::<Vec<_>>(),
    })
}

/// Returns five minutes of made-up samples. The hit rate rises from sample to sample.
fn crowded_history() -> Value {
    let sample = |moment: u64| {
        let row = |n: u64| {
            let calls = moment * (1_000_000 / (1 + n));
            let share = 60 + moment * 35 / 150;
            json!([n, calls / 100 * share, calls / 100 * share, calls, 0.018])
        };
        json!({ "at": 700_000 + moment * 2_000, "rows": (0..FUNCTIONS).map(row).collect::<Vec<_>>() })
    };
    let names: Vec<String> = (0..FUNCTIONS).map(crowd_name).collect();
    json!({ "instance": "made-up", "names": names, "samples": (0..150).map(sample).collect::<Vec<_>>() })
}

fn crowded_servers() -> Value {
    let server = |address: &str, state: &str| {
        json!({ "address": address, "state": state, "exchanges": 9_876_543_210_u64, "errors": 1_234_567, "timeouts": 12_345,
            "ejections": 7, "durations": { "count": 1, "mean": 0.0004, "p50": 0.00031, "p99": 0.0123 } })
    };
    json!({ "servers": [server("cache-a.shop.internal:11211", "up"), server("a-long-host-name-of-a-cache-server.shop.internal:11211", "ejected")] })
}

fn crowded_ledger() -> Value {
    let declaration = |n: u64| {
        let reason = n.is_multiple_of(3).then_some("users edit their profile during checkout, and the upstream service gives it no version that a key could carry");
        json!({ "name": crowd_name(n), "function": format!("a_service::upstream::clients::payment::provider::Client::fetch_number_{n}"),
            "place": format!("services/checkout/src/upstream/clients/payment/provider.rs:{n}"), "ttl": "1h30m", "version": (!n.is_multiple_of(3)).then_some("(edition, reprint)"), "tiers": ["local", "remote"],
            "options": ["local_ttl = 5s", "stale_if_error = 1h", "refresh_ahead = 2m", "error_ttl = 1s", "cache_if", "weight"], "overwrite_reason": reason })
    };
    json!({ "declarations": (0..FUNCTIONS).map(declaration).collect::<Vec<_>>(),
        "findings": ["`payment`, the function `a_service::payment` (src/payment.rs:7), is cached in this process only: the field `amount` has a type that is not stored"] })
}

const WIDTHS: [(u32, u32); 3] = [(375, 812), (768, 1024), (1280, 900)];

#[tokio::test]
async fn nothing_overflows_and_every_text_has_contrast() {
    let Some(browser) = Browser::start().await else { return };
    let server = crowded().await;
    for (width, height) in WIDTHS {
        for dark in [false, true] {
            browser.emulate(Emulation { width, height, dark }).await;
            open(&browser, &server).await;
            browser.wait_for(&format!("document.querySelectorAll('#functions-body tr:not(.detail)').length === {FUNCTIONS}")).await;
            browser.run("document.querySelector('#functions-body .opener').click()").await;
            browser.write("#key", &"0".repeat(64)).await;
            browser.press(ENTER).await;
            browser.wait_for("document.querySelectorAll('#found .result').length === 2").await;
            let size = browser
                .value(
                    "[document.documentElement.scrollWidth, document.documentElement.clientWidth]",
                )
                .await;
            assert!(number(&size[0]) <= number(&size[1]), "at {width} px: {size}");
            if std::env::var_os("WRITE_SCREENSHOTS").is_some() {
                let name = format!("crowded-{width}-{}.png", if dark { "dark" } else { "light" });
                let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
                std::fs::write(path, browser.screenshot_of_page().await)
                    .expect("the file can be written");
            }
            let cut = browser.run(CUT_TEXTS).await;
            assert_eq!(cut, json!([]), "at {width} px, texts are cut off");
            let faint = browser.run(FAINT_TEXTS).await;
            assert_eq!(
                faint,
                json!([]),
                "at {width} px, dark {dark}: texts with too little contrast"
            );
        }
    }
    assert_quiet(&browser).await;
}

/// Returns the texts that are cut off, because they reach beyond their card or beyond the viewport.
const CUT_TEXTS: &str = "
    const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
    const cut = new Set();
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        if (!node.data.trim() || node.parentElement.closest('.hidden, [hidden], thead, svg')) continue;
        const range = document.createRange();
        range.selectNodeContents(node);
        for (const { left, right, width } of range.getClientRects()) {
            const card = node.parentElement.closest('.card, .findings li')?.getBoundingClientRect() ?? { left: 0, right: innerWidth };
            const pair = node.parentElement.closest('.counters div, .pairs div')?.getBoundingClientRect();
            if (pair && right > pair.right + 0.5) cut.add(node.data.trim().slice(0, 60));
            if (width && (left < card.left - 0.5 || right > card.right + 0.5)) cut.add(node.data.trim().slice(0, 60));
        }
    }
    return [...cut];";

/// Returns the texts whose contrast with their background is less than WCAG AA asks for: 4.5, or 3
/// for large texts.
const FAINT_TEXTS: &str = "
    const parse = (color) => { const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number); return { r, g, b, a }; };
    const over = (top, below) => ({ r: top.r * top.a + below.r * (1 - top.a), g: top.g * top.a + below.g * (1 - top.a), b: top.b * top.a + below.b * (1 - top.a), a: 1 });
    const luminance = ({ r, g, b }) => {
        const [x, y, z] = [r, g, b].map((c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = (element) => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
        return layers.reverse().reduce((below, top) => over(top, below), { r: 255, g: 255, b: 255, a: 1 });
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const faint = new Map();
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const element = node.parentElement;
        if (!node.data.trim() || element.closest('.hidden, .skip, [hidden], script, noscript')) continue;
        const style = getComputedStyle(element);
        const behind = ground(element);
        const color = over(parse(element.closest('svg') ? style.fill : style.color), behind);
        const [light, dark] = [luminance(color), luminance(behind)].sort((a, b) => b - a);
        const ratio = (light + 0.05) / (dark + 0.05);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        if (ratio < (large ? 3 : 4.5)) faint.set(node.data.trim().slice(0, 40), ratio.toFixed(2));
    }
    return [...faint];";

#[tokio::test]
async fn two_hundred_functions_can_be_filtered_and_sorted() {
    let Some(browser) = Browser::start().await else { return };
    let server = crowded().await;
    open(&browser, &server).await;
    let first = "document.querySelector('#functions-body .name button:not(.opener)').textContent";
    assert_eq!(browser.value(first).await, crowd_name(0), "most calls are saved for the first");
    browser.click("#functions-head th:first-child button").await;
    assert_eq!(
        browser
            .value("document.querySelector('#functions-head th').getAttribute('aria-sort')")
            .await,
        "ascending"
    );
    browser.click("#functions-head th:first-child button").await;
    assert_eq!(browser.value(first).await, crowd_name(99), "the names sort downwards");
    browser.write("#filter", "number-123").await;
    browser
        .wait_for("document.querySelectorAll('#functions-body tr:not(.detail)').length === 1")
        .await;
    assert_eq!(browser.text("#functions-count").await, format!("1 of {FUNCTIONS}"));
    browser.write("#filter", "no such name").await;
    browser.wait_for("!document.querySelector('#functions-empty').hidden").await;
    assert_quiet(&browser).await;
}

#[tokio::test]
async fn the_keyboard_reaches_everything() {
    let Some(browser) = Browser::start().await else { return };
    let cache = local_cache().await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    make_calls(&cache, 5).await;
    browser.emulate(Emulation { width: 1280, height: 900, dark: false }).await;
    open(&browser, &server).await;
    browser
        .wait_for("document.querySelectorAll('#functions-body tr:not(.detail)').length === 3")
        .await;
    // A group of radio buttons is one tab stop; arrow keys move within the group.
    let all = browser.run("
        window.reached = new Set();
        const usable = [...document.querySelectorAll('a, button, input, [tabindex=\"0\"]')];
        window.usable = usable.filter((e) => e.checkVisibility() && !(e.type === 'radio' && !e.checked));
        return window.usable.length;").await;
    for _ in 0..number(&all) as usize + 5 {
        browser.press(TABULATOR).await;
        let is_visible = browser.run("
            const focused = document.activeElement;
            window.reached.add(focused);
            const { outlineStyle, outlineWidth } = getComputedStyle(focused.type === 'radio' ? focused.nextElementSibling : focused);
            return focused === document.body || (outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1);").await;
        assert_eq!(is_visible, true, "the focus can be seen");
    }
    let missed =
        "window.usable.filter((e) => !window.reached.has(e)).map((e) => e.outerHTML.slice(0, 90))";
    assert_eq!(browser.value(missed).await, json!([]), "the tabulator reaches each of {all}");
    let unnamed = "window.usable.filter((e) => !(e.innerText || e.getAttribute('aria-label') || e.labels?.length)).map((e) => e.outerHTML)";
    assert_eq!(browser.value(unnamed).await, json!([]), "each has a name");

    // In a plot, the arrow keys move a marker to an earlier or a later sample.
    make_calls(&cache, 5).await;
    browser.wait_for("document.querySelectorAll('.plot path.line').length >= 1").await;
    browser.run("document.querySelector('.plot .canvas').focus()").await;
    browser.press(LEFT).await;
    browser.press(RIGHT).await;
    browser.wait_for("document.querySelector('.plot .note').textContent.startsWith('at ')").await;
    assert_quiet(&browser).await;
}

// --------------------------------------------------------------------------------------- screenshots

/// Writes the guide's pictures if the variable `WRITE_SCREENSHOTS` is set. Without the variable,
/// only checks that screenshots can be taken.
#[tokio::test]
async fn screenshots_of_a_working_cache() {
    let Some(browser) = Browser::start().await else { return };
    let servers = [Memcached::start(), Memcached::start()];
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let cache = cache_on(&addresses).await;
    let server = ConsoleServer::serve(console_router(&cache)).await;
    let is_written = std::env::var_os("WRITE_SCREENSHOTS").is_some();
    let seconds = if is_written { 200 } else { 2 };
    let load = tokio::spawn(lively_load(cache.clone()));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    for (name, emulation) in [
        ("console-light", Emulation { width: 1280, height: 1060, dark: false }),
        ("console-dark", Emulation { width: 1280, height: 1060, dark: true }),
        ("console-narrow", Emulation { width: 375, height: 812, dark: false }),
    ] {
        browser.emulate(emulation).await;
        open(&browser, &server).await;
        browser
            .wait_for("document.querySelectorAll('#functions-body tr:not(.detail)').length >= 2")
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let picture = browser.screenshot().await;
        assert!(
            picture.starts_with(b"\x89PNG") && picture.len() < 150 << 10,
            "{} bytes",
            picture.len()
        );
        if is_written {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/screenshots");
            std::fs::create_dir_all(&folder).expect("the folder can be made");
            std::fs::write(folder.join(format!("{name}.png")), picture)
                .expect("the picture can be written");
        }
    }
    load.abort();
    assert_quiet(&browser).await;
}

/// Imitates the load of a shop. Some keys are popular and others rare, and the request rate rises
/// and falls. The cache is cleared now and then.
async fn lively_load(cache: Cache) {
    for turn in 0_u64.. {
        let wave = 7.0 + 5.0 * (turn as f64 / 900.0).sin();
        tokio::time::sleep(Duration::from_millis(wave as u64)).await;
        let cache = cache.clone();
        tokio::spawn(async move {
            if turn % 6_000 == 4_500 {
                cache.clear().await;
            }
            cache.scope(RequestScope::new().run(checkout(turn))).await;
        });
    }
}
