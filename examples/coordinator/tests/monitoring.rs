//! Checks that the Prometheus queries of the dashboard and of the alert rules name only metrics
//! that the example server prints. The server is the process `coordinator serve`, here called a
//! broker.

use cached_tests::{Memcached, Scrape};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const DASHBOARD: &str = include_str!("../monitoring/dashboard.json");
const ALERTS: &str = include_str!("../monitoring/alerts.yaml");

/// A running `coordinator serve`. Dropping the value kills the process.
struct Broker {
    process: Child,
    url: String,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Broker {
    fn start(cache_url: &str) -> Broker {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command.arg("serve").env("CACHE_URL", cache_url).stdin(Stdio::null());
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut output = BufReader::new(process.stdout.take().expect("the output is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the program prints where it listens");
        process.stdout = Some(output.into_inner());
        let url = line.split_whitespace().find(|word| word.starts_with("http://"));
        Broker { url: url.expect("the line has a URL").to_owned(), process }
    }

    async fn get(&self, path: &str) -> String {
        let client = reqwest::Client::builder().no_proxy().build();
        let client = client.expect("a client without TLS can be built");
        let answer = client.get(format!("{}{path}", self.url)).send().await;
        let answer = answer.expect("the broker answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.text().await.expect("the answer is text")
    }
}

/// Sends requests to a broker and returns the metrics that it prints afterwards. Kills memcached
/// after the first requests.
async fn scrape_after_a_load() -> Scrape {
    let mut memcached = Memcached::start();
    let broker = Broker::start(&format!("memcache://{}", memcached.address()));
    let courses = ["rust-basics", "async-rust", "chess", "drawing", "guitar"];
    for round in 0..2 {
        for course in courses {
            broker.get(&format!("/courses/{course}?user=ada{round}")).await;
            broker.get(&format!("/courses/{course}?user=ada{round}")).await;
        }
        memcached.kill();
    }
    for user in 0..20 {
        broker.get(&format!("/users/{user}")).await;
    }
    Scrape::read(&broker.get("/metrics").await)
}

/// A metric in a query, with the conditions on its labels. A condition is the name of a label, an
/// operator and a value.
#[derive(Debug, PartialEq)]
struct Selector {
    metric: String,
    conditions: Vec<(String, String, String)>,
}

/// The metrics that a Prometheus query names, and the labels by which it groups.
#[derive(Debug, Default, PartialEq)]
struct Query {
    selectors: Vec<Selector>,
    grouped_by: Vec<String>,
}

/// Words of the query language that [`Query::read`] would otherwise take for metrics.
const KEYWORDS: [&str; 6] = ["and", "or", "unless", "offset", "on", "ignoring"];

impl Query {
    /// Reads a query of the kinds that the two files use.
    fn read(text: &str) -> Query {
        let mut query = Query::default();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':' || c == '$';
            if !is_word(first) {
                // A range such as `[5m]` names no metric.
                rest = match first {
                    '[' => rest.split_once(']').expect("a range ends").1,
                    _ => &rest[first.len_utf8()..],
                };
                continue;
            }
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let word = &rest[..end];
            rest = &rest[end..];
            let after = rest.trim_start();
            if word == "by" {
                let (labels, remaining) =
                    after.strip_prefix('(').and_then(|it| it.split_once(')')).expect("by (…)");
                query.grouped_by.extend(labels.split(',').map(|label| label.trim().to_owned()));
                rest = remaining;
            } else if first.is_ascii_digit()
                || KEYWORDS.contains(&word)
                || after.starts_with('(')
                || after.starts_with("by ")
            {
                // A number, a duration, a keyword or a function.
            } else {
                let conditions = match rest.strip_prefix('{') {
                    None => Vec::new(),
                    Some(inner) => {
                        let (inner, remaining) = inner.split_once('}').expect("labels end");
                        rest = remaining;
                        inner.split(',').map(condition).collect()
                    }
                };
                query.selectors.push(Selector { metric: word.to_owned(), conditions });
            }
        }
        query
    }

    /// Panics if the scrape lacks a metric, a label or a value that the query names.
    fn check(&self, text: &str, scrape: &Scrape) {
        assert!(!self.selectors.is_empty(), "the query names a metric: {text}");
        for Selector { metric, conditions } in &self.selectors {
            assert!(scrape.sum(metric, &[]).is_some(), "{metric} is printed: {text}");
            for (label, operator, value) in conditions {
                let has_label = |value: &str| {
                    scrape.samples(metric, &[]).any(|sample| {
                        sample.labels.get(label).is_some_and(|of| value.is_empty() || of == value)
                    })
                };
                let is_variable = value.starts_with('$');
                let values: Vec<&str> = match &operator[..] {
                    "=" => vec![value],
                    "=~" if !is_variable => value.split('|').collect(),
                    _ => vec![""],
                };
                for value in values {
                    assert!(has_label(value), "{metric} has {label}=\"{value}\": {text}");
                }
            }
        }
        for label in &self.grouped_by {
            for Selector { metric, .. } in &self.selectors {
                let has = scrape.samples(metric, &[]).any(|of| of.labels.contains_key(label));
                assert!(has, "{metric} has the label {label}: {text}");
            }
        }
    }
}

fn condition(text: &str) -> (String, String, String) {
    let at = text.find(['=', '!']).expect("a condition has an operator");
    let (label, rest) = text.split_at(at);
    let (operator, value) = rest.split_once('"').expect("a value is quoted");
    let value = value.strip_suffix('"').expect("a value is quoted");
    (label.to_owned(), operator.to_owned(), value.to_owned())
}

#[test]
fn a_query_is_read_as_prometheus_reads_it() {
    let query = Query::read(
        "histogram_quantile(0.9, sum by (le, cache) (rate(a_bucket{x=\"1\",y=~\"b|c\"}[5m] offset 1h))) > 2 * b",
    );
    let condition = |label: &str, operator: &str, value: &str| {
        (label.to_owned(), operator.to_owned(), value.to_owned())
    };
    assert_eq!(query.grouped_by, ["le", "cache"]);
    assert_eq!(
        query.selectors,
        [
            Selector {
                metric: "a_bucket".to_owned(),
                conditions: vec![condition("x", "=", "1"), condition("y", "=~", "b|c")],
            },
            Selector { metric: "b".to_owned(), conditions: vec![] },
        ]
    );
}

#[tokio::test]
async fn each_query_names_what_the_broker_prints() {
    let scrape = scrape_after_a_load().await;
    let dashboard: serde_json::Value =
        serde_json::from_str(DASHBOARD).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("the dashboard has panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let mut queries: Vec<&str> =
        targets.map(|target| target["expr"].as_str().expect("a query is text")).collect();
    assert!(queries.len() >= 14, "{queries:?}");
    let rules: Vec<&str> =
        ALERTS.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert_eq!(rules.len(), ALERTS.matches("- alert: ").count(), "each alert has one line");
    assert!(rules.len() >= 5, "{rules:?}");
    queries.extend(rules);
    for query in queries {
        Query::read(query).check(query, &scrape);
    }
}

#[tokio::test]
async fn metrics_count_each_fetch_of_the_broker() {
    let broker = Broker::start("local:");
    for _ in 0..3 {
        broker.get("/users/ada").await;
        broker.get("/users/bob").await;
    }
    let scrape = Scrape::read(&broker.get("/metrics").await);
    let profile = ("cache", "profile");
    assert_eq!(scrape.sum("cache_fetches_total", &[profile]), Some(2.0));
    assert_eq!(scrape.sum("cache_gets_total", &[profile]), Some(6.0));
    assert_eq!(scrape.sum("cache_gets_total", &[profile, ("result", "hit")]), Some(4.0));
    let fetched = scrape.sum("cache_fetch_duration_seconds_count", &[profile]);
    assert_eq!(fetched, Some(2.0));
}
