//! Runs `serve --load` with two memcached servers, and kills and restarts one of them. At the end,
//! the counts of every part of the broker must agree with the counts of the upstream services.
//!
//! The load runs for 15 seconds, or for as many as AGREEMENT_SECONDS says.

use std::io::Read;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{ONE_AT_A_TIME, ServeProcess, memcached, memcached_on, serve};

/// Returns the state of a server, as the console's page shows the state.
async fn state_of(broker: &ServeProcess, port: u16) -> String {
    let servers = broker.get("/_cache/api/servers").await;
    let servers: serde_json::Value = serde_json::from_str(&servers).expect("the answer is JSON");
    let list = servers["servers"].as_array().expect("there is a list of servers");
    let is_it = |server: &&serde_json::Value| {
        server["address"].as_str().is_some_and(|address| address.ends_with(&format!(":{port}")))
    };
    let server = list.iter().find(is_it).unwrap_or_else(|| panic!("{port} is not in {servers}"));
    server["state"].as_str().expect("a server has a state").to_owned()
}

async fn wait_for(broker: &ServeProcess, port: u16, state: &str) {
    let began = Instant::now();
    while state_of(broker, port).await != state {
        assert!(began.elapsed() < Duration::from_secs(10), "the server becomes `{state}`");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "the test has a runtime of its own")]
async fn every_part_counts_what_the_upstream_counts() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = std::env::var("AGREEMENT_SECONDS").ok();
    let seconds: u64 =
        seconds.map_or(15, |seconds| seconds.parse().expect("AGREEMENT_SECONDS is a number"));
    let ((killed, first), (_second, second)) = (memcached(), memcached());
    let port = |url: &str| -> u16 {
        url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("the URL has a port")
    };
    let (first, second) = (port(&first), port(&second));
    let url = format!("memcache://127.0.0.1:{first},127.0.0.1:{second}?timeout=200ms");
    let mut broker = serve(&["--load", "--seconds", &seconds.to_string()], Some(&url));
    let began = Instant::now();
    let sleep_until = async |share: f64| {
        let at = Duration::from_secs_f64(seconds as f64 * share);
        tokio::time::sleep(at.saturating_sub(began.elapsed())).await;
    };
    sleep_until(0.3).await;
    assert_eq!(state_of(&broker, first).await, "up");
    drop(killed);
    wait_for(&broker, first, "ejected").await;
    let health = broker.get("/health").await;
    assert!(health.contains(&first.to_string()), "the health names the server: {health}");
    assert_eq!(state_of(&broker, second).await, "up");
    sleep_until(0.55).await;
    let _restarted = memcached_on(first).expect("the port is free");
    wait_for(&broker, first, "up").await;
    assert!(!broker.get("/health").await.contains(&first.to_string()), "the server is back");

    let mut output = broker.process.0.stdout.take().expect("the output is piped");
    let (status, text) = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).expect("the output is text");
        (broker.process.0.wait().expect("the broker ends"), text)
    })
    .await
    .expect("the output can be read");
    println!("{text}");
    assert!(status.success() && text.contains("All agree."), "{status}\n{text}");
    let row = |name: &str| -> Vec<u64> {
        let row = text.lines().find_map(|line| line.strip_prefix(name));
        let row = row.unwrap_or_else(|| panic!("the table has no row `{name}`:\n{text}"));
        row.split_whitespace().filter_map(|count| count.parse().ok()).collect()
    };
    let [fetches] = row("the upstream services")[..] else { panic!("it counts fetches:\n{text}") };
    for name in ["the counters of the cache", "/metrics", "the page /_cache", "the headers"] {
        let [calls, hits, own] = row(name)[..] else { panic!("`{name}` counts three:\n{text}") };
        assert!(own == fetches && hits > fetches && calls > 20 * seconds, "{text}");
    }
}
