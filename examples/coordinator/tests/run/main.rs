//! Runs the program `coordinator` as a user does, and checks its output.

mod agreement;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Returns a command that runs the program, with or without CACHE_URL.
fn coordinator(arguments: &[&str], cache_url: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command.args(arguments).env_remove("CACHE_URL").stdin(Stdio::null());
    if let Some(url) = cache_url {
        command.env("CACHE_URL", url);
    }
    command
}

fn run(arguments: &[&str], cache_url: Option<&str>) -> Output {
    coordinator(arguments, cache_url).output().expect("the program starts")
}

/// A process that is killed when the value is dropped.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a memcached. Returns the process and its CACHE_URL.
fn memcached() -> (KillOnDrop, String) {
    for _ in 0..5 {
        let port = free_port();
        if let Some(server) = memcached_on(port) {
            return (server, format!("memcache://127.0.0.1:{port}"));
        }
    }
    panic!("memcached did not start");
}

/// Starts a memcached on a port. Returns `None` if it does not start.
fn memcached_on(port: u16) -> Option<KillOnDrop> {
    let child = Command::new("memcached")
        .args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("memcached is installed (scripts/test installs it)");
    let mut server = KillOnDrop(child);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Some(server);
        }
        // memcached ends if another process has taken the port.
        if matches!(server.0.try_wait(), Ok(Some(_))) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Returns the table's line that begins with `name`.
fn row<'a>(table: &'a str, name: &str) -> &'a str {
    let found = table.lines().find(|line| line.trim_start().starts_with(name));
    found.unwrap_or_else(|| panic!("the table has no row `{name}`:\n{table}"))
}

/// Returns one of the numbers in a row. `place` is 0 for the first number.
fn count(row: &str, place: usize) -> u64 {
    let word = row
        .split_whitespace()
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .nth(place);
    word.and_then(|word| word.replace(',', "").parse().ok())
        .unwrap_or_else(|| panic!("the row has no count {place}: {row}"))
}

/// A test must hold this lock while the program plays its load. Two loads at a time could exceed
/// the time limit.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn played(cache_url: Option<&str>) -> String {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let started = Instant::now();
    let output = run(&[], cache_url);
    let (table, progress) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{table}{progress}", output.status);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert!(progress.contains("with the cache: "), "{progress}");
    let calls = row(&table, "upstream calls");
    let (without, with) = (count(calls, 0), count(calls, 1));
    assert!(without >= 10 * with, "the cache saves nine of ten calls: {calls}");
    table.into_owned()
}

#[test]
fn the_cache_saves_nine_of_ten_calls() {
    let table = played(Some("local:"));
    assert!(count(row(&table, "request tier"), 0) > 0, "{table}");
    assert!(count(row(&table, "local tier"), 0) > 0, "{table}");
    assert_eq!(count(row(&table, "memcached"), 0), 0, "{table}");
}

#[test]
fn without_memcached_the_broker_uses_its_memory() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // With an empty `PATH`, the program finds no memcached that it could start.
    let output = coordinator(&[], None).env("PATH", "").output().expect("the program starts");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}");
    assert_eq!(count(row(&table, "memcached"), 0), 0, "{table}");
    assert!(table.contains("in the memory of the broker") && !table.contains("killed"), "{table}");
}

#[test]
fn the_table_shows_an_outage_of_memcached() {
    let table = played(None);
    let (_, outage) =
        table.split_once("memcached was killed after ").expect("memcached was killed");
    assert!(outage.contains("started again"), "{table}");
    let counts = |name: &str| {
        let row = row(outage, name);
        [0, 1, 2].map(|place| count(row, place))
    };
    let requests = counts("customer requests");
    assert!(requests.iter().all(|part| *part > 100), "each part has requests: {table}");
    // The counts are read a moment before memcached is killed or started, so they can be off by a
    // few.
    let shared = counts("shared by memcached");
    assert!(
        shared[0] > 0 && shared[1] <= shared[0] / 4 + 8,
        "a killed server shares nothing: {table}"
    );
    let failed = counts("exchanges that failed");
    assert!(failed[1] > 0, "the brokers noticed that memcached was gone: {table}");
    assert_eq!(counts("calls that failed"), [0, 0, 0], "{table}");
}

#[test]
fn two_brokers_share_through_memcached() {
    let (_server, url) = memcached();
    let mut fetches = Vec::new();
    // During the second run, memcached still has the entries of the first run. They must not save
    // the second run any calls.
    for _ in 0..2 {
        let table = played(Some(&url));
        assert!(count(row(&table, "memcached"), 0) > 0, "{table}");
        fetches.push(count(row(&table, "a fetch of its own"), 0));
    }
    assert!(
        fetches[1] * 10 > fetches[0] * 9,
        "the second run uses no entries of the first: {fetches:?}"
    );
}

#[test]
fn a_killed_memcached_costs_no_answer() {
    let (server, url) = memcached();
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = coordinator(&[], Some(&url));
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let progress = BufReader::new(child.stderr.take().expect("standard error is piped"));
    let mut server = Some(server);
    // The program plays its load twice, without and with the cache, and prints four lines each
    // time. The sixth line is therefore the middle of the load with the cache.
    let lines = progress.lines().map(|line| line.expect("progress is text"));
    // Other lines are skipped: a broker on a busy machine might report that memcached timed out.
    for (place, line) in lines.filter(|line| line.ends_with(" requests")).enumerate() {
        if place == 5 {
            assert!(line.starts_with("with the cache: "), "{line}");
            drop(server.take());
        }
    }
    let output = child.wait_with_output().expect("the program ends");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && server.is_none(), "{table}");
    assert!(table.contains("Every answer of both runs was checked."), "{table}");
}

/// Checks that the program has printed one line that contains `expected`, and has ended with exit
/// code 2.
#[track_caller]
fn assert_one_line(output: &Output, expected: &str) {
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    assert!(line.starts_with("error: ") && line.contains(expected), "{line}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_wrong_argument_prints_one_line() {
    assert_one_line(&run(&["--sessions"], None), "--sessions");
    assert_one_line(&run(&["server"], None), "server");
    assert_one_line(&run(&["serve", "--port", "70000"], None), "70000");
    assert_one_line(&run(&["serve", "--port"], None), "--port");
    assert_one_line(&run(&["serve", "--upstream", "ftp://127.0.0.1"], None), "http://");
    assert_one_line(&run(&[], Some("redis://127.0.0.1:6379")), "redis");
    assert_one_line(&run(&["serve"], Some("memcache://127.0.0.1:port")), "port");
    let output = coordinator(&["serve", "--port", "0"], None)
        .env("CACHE_CONSOLE_TOKEN", "short")
        .output()
        .expect("the program runs");
    assert_one_line(&output, "CACHE_CONSOLE_TOKEN");

    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
    let port = taken.local_addr().expect("a bound socket has an address").port().to_string();
    assert_one_line(
        &run(&["serve", "--port", &port], None),
        &format!("port {port} of 127.0.0.1 is in use"),
    );
}

#[test]
fn help_names_every_option() {
    let help = run(&["--help"], None);
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout);
    for word in ["serve", "ledger", "CACHE_URL", "memcache://", "Exit codes"] {
        assert!(text.contains(word), "the help names {word}: {text}");
    }
    let text = String::from_utf8_lossy(&run(&["serve", "--help"], None).stdout).into_owned();
    for word in ["--port", "--upstream", "CACHE_URL"] {
        assert!(text.contains(word), "the help names {word}: {text}");
    }
}

#[test]
fn the_ledger_is_printed_in_three_formats() {
    let printed = |arguments: &[&str]| {
        let output = run(arguments, None);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("the output is text")
    };
    const REASON: &str = "users edit their profile during checkout, and it carries no version";
    let table = printed(&["ledger"]);
    assert!(row(&table, "profile").ends_with(REASON), "{table}");

    let json = printed(&["ledger", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("the output is JSON");
    let names: Vec<&str> = json
        .as_array()
        .expect("the ledger is an array")
        .iter()
        .filter_map(|declaration| declaration["name"].as_str())
        .collect();
    assert_eq!(names, ["course", "order", "payment", "profile"]);
    assert_eq!(json[3]["overwrite_reason"], REASON);
    assert_eq!(json[2]["version"], "state");

    let markdown = printed(&["ledger", "--markdown"]);
    let reviewed = std::fs::read_to_string("CACHE-LEDGER.md").expect("the ledger is checked in");
    assert_eq!(markdown, reviewed);
    assert_one_line(&run(&["ledger", "--json", "--markdown"], None), "--markdown");
}

#[test]
fn the_guide_shows_this_packages_clippy_toml() {
    let guide = std::fs::read_to_string("../../docs/guide/ledger.md").expect("the guide is there");
    let clippy = std::fs::read_to_string("clippy.toml").expect("the file is there");
    assert!(guide.contains(&format!("```toml\n{clippy}```\n")), "the guide has the same file");
}

/// A running `serve` process, and the URLs that it printed.
struct ServeProcess {
    process: KillOnDrop,
    broker: String,
    upstream: String,
}

fn serve(arguments: &[&str], cache_url: Option<&str>) -> ServeProcess {
    let mut command = coordinator(&[&["serve"], arguments].concat(), cache_url);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut output = BufReader::new(child.stdout.take().expect("standard output is piped"));
    let (mut line, mut both) = (String::new(), String::new());
    for _ in 0..2 {
        output.read_line(&mut line).expect("the program prints where it listens");
        both.push_str(line.trim_end());
        both.push(' ');
        line.clear();
    }
    let mut urls =
        both.split([' ', ';']).filter(|word| word.starts_with("http://")).map(str::to_string);
    let (Some(broker), Some(upstream)) = (urls.next(), urls.next()) else {
        panic!("the output has no URLs: {both}")
    };
    child.stdout = Some(output.into_inner());
    ServeProcess { process: KillOnDrop(child), broker, upstream }
}

impl ServeProcess {
    async fn get(&self, path: &str) -> String {
        self.answer(reqwest::Method::GET, path, "").await
    }

    async fn answer(&self, method: reqwest::Method, path: &str, body: &str) -> String {
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client without TLS can be built");
        let request =
            client.request(method, format!("{}{path}", self.broker)).body(body.to_string());
        let answer = request.send().await.expect("the broker answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.text().await.expect("the answer is text")
    }
}

#[tokio::test]
async fn two_processes_share_entries_through_memcached() {
    let (_server, url) = memcached();
    let first = serve(&[], Some(&url));
    let second = serve(&["--upstream", &first.upstream], Some(&url));

    let fetched = first.get("/payments/17?state=paid").await;
    assert!(fetched.contains("\"paid\""), "{fetched}");
    // The first process answers before it writes to memcached, so the test tries several times. The
    // route `known` never fetches, so the second process can find the payment only in memcached.
    let mut found = String::new();
    for _ in 0..100 {
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client without TLS can be built");
        let answer = client.get(format!("{}/payments/17/known", second.broker)).send().await;
        let answer = answer.expect("the broker answers");
        if answer.status().is_success() {
            found = answer.text().await.expect("the answer is text");
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(found, fetched);

    // One process overwrites an entry, and the other process reads it.
    second.answer(reqwest::Method::PUT, "/users/ada/email", "ada@example.org").await;
    assert!(first.get("/users/ada").await.contains("ada@example.org"));
    assert!(second.get("/stats").await.contains("payment"));
    let ledger = second.get("/ledger").await;
    assert!(ledger.contains("users edit their profile during checkout"), "{ledger}");
}

/// Starts a server that plays the upstream services and counts their calls. A user named `lost`
/// does not exist. Returns the server's URL and the counter.
async fn counting_upstream() -> (String, Arc<AtomicU64>) {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let answer = move |path: axum::extract::Path<Vec<String>>| {
        let calls = Arc::clone(&counted);
        async move {
            calls.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let name = path.0.last().cloned().unwrap_or_default();
            if name == "lost" {
                return Err(axum::http::StatusCode::NOT_FOUND);
            }
            let texts = ["id", "name", "email", "slug", "title", "description"];
            let texts = texts.map(|field| format!("\"{field}\":\"{name}\"")).join(",");
            let json = [("content-type", "application/json")];
            Ok((json, format!("{{{texts},\"price_cents\":1}}")))
        }
    };
    let routes = axum::Router::new()
        .route("/users/{id}", axum::routing::get(answer.clone()))
        .route("/courses/{edition}/{slug}", axum::routing::get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("a bound listener has an address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (format!("http://{address}"), calls)
}

/// Returns the number that stands before one of `words` in the `detail` of a `Cache-Status` header.
/// Returns 0 if neither word is there.
fn detailed(status: &str, words: [&str; 2]) -> u64 {
    let (_, detail) = status.split_once("detail=\"").expect("the broker shows the detail");
    let detail = detail.trim_end_matches('"').split([':', ',']);
    let mut parts = detail.filter_map(|part| part.trim().split_once(' '));
    let found = parts.find(|(_, what)| words.contains(what));
    found.map_or(0, |(count, _)| count.parse().expect("a count is a number"))
}

/// Two brokers are under load while their memcached is killed. The header `Cache-Status` of each
/// response says how the broker's cached calls were answered. The misses of all responses must add
/// up to the number of calls that the upstream counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cache_status_agrees_with_what_the_upstream_counted() {
    let (upstream, calls) = counting_upstream().await;
    let (memcached, url) = memcached();
    let brokers = [0, 1].map(|_| serve(&["--upstream", &upstream], Some(&url)));
    let http =
        reqwest::Client::builder().no_proxy().build().expect("a client without TLS can be built");
    let mut memcached = Some(memcached);
    let mut statuses = Vec::new();
    for phase in 0..3 {
        if phase == 1 {
            memcached = None;
        }
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..12 {
            let (http, broker) = (http.clone(), brokers[client % 2].broker.clone());
            clients.spawn(async move {
                let mut statuses = Vec::new();
                for step in 0..20 {
                    let course = (client + step) % 10 + phase * 5;
                    let path = match step {
                        7 => "users/lost".to_owned(),
                        _ => format!("courses/course-{course}?user=u{}", step % 4),
                    };
                    let mut request = http.get(format!("{broker}/{path}"));
                    if step == 11 {
                        request = request.header("cache-control", "no-cache");
                    }
                    let answer = request.send().await.expect("the broker answers");
                    let status = &answer.headers()["cache-status"];
                    statuses.push(status.to_str().expect("the header is text").to_owned());
                }
                statuses
            });
        }
        statuses.extend(clients.join_all().await.concat());
    }
    drop(memcached);
    assert_eq!(statuses.len(), 3 * 12 * 20);
    let sum = |words| statuses.iter().map(|status| detailed(status, words)).sum::<u64>();
    let calls = calls.load(Ordering::SeqCst);
    assert_eq!(sum(["miss", "misses"]), calls, "{statuses:#?}");
    for status in &statuses {
        let fetched = detailed(status, ["miss", "misses"]);
        let waited = detailed(status, ["waited", "waited"]);
        let is_hit = status.starts_with("broker; hit");
        assert_eq!(is_hit, fetched + waited == 0, "{status}");
        assert_eq!(status.contains("; collapsed;"), !is_hit && fetched == 0, "{status}");
    }
    for words in [["request hit", "request hits"], ["stale", "stale"], ["bypassed", "bypassed"]] {
        assert_eq!(sum(words), 0, "no page asks for one thing twice: {words:?}");
    }
    for words in [["local hit", "local hits"], ["remote hit", "remote hits"], ["waited", "waited"]]
    {
        assert!(sum(words) > 0, "each kind of answer was played: {words:?}");
    }
    assert!(statuses.iter().any(|status| status.starts_with("broker; fwd=request; ")));
}

#[tokio::test]
async fn the_health_names_a_lost_memcached() {
    let (server, url) = memcached();
    let address = url.trim_start_matches("memcache://");
    let port: u16 = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let served = serve(&[], Some(&url));
    served.get("/courses/rust-basics?user=ada").await;
    assert_eq!(served.get("/health").await, "the broker is up; its cache is up\n");

    drop(server);
    let out = format!("memcached at {address} is out of rotation");
    let mut health = String::new();
    for user in 0..200 {
        // `get` checks that each answer is a success.
        served.get(&format!("/courses/rust-basics?user=user{user}")).await;
        health = served.get("/health").await;
        if health.contains("degraded") {
            break;
        }
    }
    assert!(health.starts_with("the broker is up;") && health.contains(&out), "{health}");

    let _server = memcached_on(port).expect("the port is free");
    let started = Instant::now();
    while health.contains("degraded") && started.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        health = served.get("/health").await;
    }
    assert_eq!(health, "the broker is up; its cache is up\n");
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_ends_the_service() {
    let mut served = serve(&[], None);
    served.get("/courses/rust-basics?user=ada").await;
    let sent = Command::new("kill").args(["-INT", &served.process.0.id().to_string()]).status();
    assert!(sent.expect("kill is installed").success());
    let status = served.process.0.wait().expect("the process can be waited for");
    assert!(status.success(), "{status}");
    let mut rest = String::new();
    served
        .process
        .0
        .stdout
        .take()
        .expect("the stream is piped")
        .read_to_string(&mut rest)
        .expect("the output is text");
    assert!(rest.contains("The broker has ended"), "{rest}");
}

/// Sends a request without a body, and returns the whole answer.
fn http_get(url: &str) -> String {
    let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap_or_default();
    let mut stream = TcpStream::connect(host).expect("the broker listens");
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the broker reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer is text");
    answer
}

#[test]
fn serve_plays_a_load_that_the_console_shows() {
    let mut broker = serve(&["--load", "--seconds", "4"], None);
    assert!(http_get(&format!("{}/_cache", broker.broker)).contains("<title>Cache</title>"));
    let report = format!("{}/_cache/api/caches", broker.broker);
    let started = Instant::now();
    while !http_get(&report).contains("\"name\":\"payment\",\"time_saved\":0.") {
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "payments are saved: {}",
            http_get(&report)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = broker.process.0.wait().expect("the broker ends by itself");
    assert!(status.success());
    assert!(started.elapsed() < Duration::from_secs(15), "the broker ends after the given seconds");
}
