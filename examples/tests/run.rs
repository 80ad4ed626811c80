//! Runs the example programs and checks their output.

use std::process::Command;

use cached_tests::Memcached;

fn printed(program: &str) -> String {
    printed_with(program, "local:")
}

fn printed_with(program: &str, cache_url: &str) -> String {
    let output = Command::new(program).env("CACHE_URL", cache_url).output();
    let output = output.expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}{errors}");
    text
}

#[test]
fn first_fetches_once_for_each_state() {
    let text = printed(env!("CARGO_BIN_EXE_first"));
    let millis = text.lines().map(|line| {
        let took = line.trim_end_matches(" ms").rsplit(' ').next();
        took.and_then(|took| took.parse::<f64>().ok())
    });
    let millis: Vec<f64> = millis.map(|took| took.expect(&text)).collect();
    assert_eq!(millis.len(), 4, "{text}");
    let fetched: Vec<bool> = millis.iter().map(|took| *took >= 200.0).collect();
    assert_eq!(fetched, [true, false, true, false], "{text}");
}

#[test]
fn request_scope_gives_one_answer() {
    let text = printed(env!("CARGO_BIN_EXE_request_scope"));
    let expected = "without a request scope: the header says 4900, the footer 5400\n\
                    in a request scope:      the header says 4900, the footer 4900\n\
                    in the next request:     the header says 5400, the footer 5400\n";
    assert_eq!(text, expected);
}

#[test]
fn overwrite_reason_is_in_the_ledger() {
    let text = printed(env!("CARGO_BIN_EXE_overwrite_reason"));
    assert_eq!(text.matches("(fetching profile 7)").count(), 1, "{text}");
    assert_eq!(text.matches("(fetching order 17").count(), 1, "{text}");
    assert!(text.contains("ada@example.org"), "{text}");
    assert!(text.contains("a second answer is added: false"), "{text}");
    assert!(
        text.contains("users edit their profile, and the user service gives it no version"),
        "{text}"
    );
}

#[test]
fn traces_shows_each_fetch_and_exchange() {
    let memcached = Memcached::start();
    let url = format!("memcache://{}", memcached.address());
    let text = printed_with(env!("CARGO_BIN_EXE_traces"), &url);
    let lines: Vec<_> = text.lines().collect();
    let digest = |line: &str| {
        let (_, digest) = line.split_once("cache.key.digest=").expect("the span has a digest");
        digest.split(' ').next().expect("the digest is not empty").to_owned()
    };
    let digest = digest(lines[1]);
    assert_eq!(digest.len(), 64, "{text}");
    let read = |outcome| {
        format!(
            "  cache.remote (client) db.system.name=memcached db.operation.name=get \
             server.address=127.0.0.1 cache.name=course cache.key.digest={digest} \
             cache.outcome={outcome}"
        )
    };
    let fetch = format!(
        "  cache.fetch (internal) cache.name=course cache.fetch.reason=miss \
         cache.key.digest={digest} cache.outcome=value"
    );
    assert_eq!(
        lines,
        [
            "request (server) number=1",
            &read("lease_won"),
            &fetch,
            "    GET (client) ",
            "request (server) number=2",
            &read("hit"),
            "request (server) number=3",
        ]
    );
}
