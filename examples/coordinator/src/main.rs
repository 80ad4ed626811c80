//! An example service that caches its upstream calls, and simulated customers whose load shows what
//! the cache saves.
//!
//! The service is a *coordinator*, also called a broker. For each customer request it calls several
//! other services and combines their answers. The attribute `#[coordinator_cached]` is named after
//! such services.
//!
//! Read `broker.rs` first. It contains the annotated functions.

mod agreement;
mod broker;
mod load;
mod metrics;
mod model;
mod processes;
mod report;
mod upstream;

use agreement::CountsByWitness;
use axum::Router;
use broker::{Broker, Checkouts, Client};
use cached_core::Cache;
use cached_core::console::Console;
use clap::{Parser, Subcommand};
use load::{CheckoutWorkload, ClosingFlag};
use metrics::metrics_router;
use processes::MemcachedProcess;
use report::ComparisonTable;
use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use upstream::Upstream;

/// A coordinator: a broker service that calls payment, order and user services and caches their
/// answers.
///
/// Without a command, the program plays the same checkout sessions twice, first without the cache
/// and then with it. It prints a table that compares the two runs, and ends within a minute.
///
/// Where memcached is installed and CACHE_URL is not set, two broker processes share a memcached,
/// which is killed during the second run and started again.
#[derive(Parser)]
#[command(name = "coordinator", version, max_term_width = 100, after_help = ENVIRONMENT)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker on 127.0.0.1 until Ctrl-C, to try it with curl
    #[command(after_help = ENVIRONMENT)]
    Serve {
        /// The port to listen on; 0 selects a free port
        #[arg(long, value_name = "PORT", default_value_t = 0)]
        port: u16,
        /// The URL of the upstream services, as another `serve` printed it. Without this option the
        /// program starts its own
        #[arg(long, value_name = "URL")]
        upstream: Option<String>,
        /// Play checkout sessions against the broker, so that the page /_cache shows a cache at work
        #[arg(long)]
        load: bool,
        /// End after this many seconds. A broker with a load then compares what its parts have counted
        #[arg(long, value_name = "SECONDS")]
        seconds: Option<u64>,
        /// The current edition of the catalogue
        #[arg(long, default_value_t = 1, hide = true)]
        catalogue: u64,
        /// End with the standard input, which the program that plays the load holds open
        #[arg(long, hide = true)]
        end_with_input: bool,
    },
    /// Print the ledger: every cached function, with its version or its reason to overwrite
    Ledger {
        /// Print JSON in place of a table
        #[arg(long)]
        json: bool,
        /// Print the file that is checked in as CACHE-LEDGER.md
        #[arg(long, conflicts_with = "json")]
        markdown: bool,
    },
}

const ENVIRONMENT: &str = "\
Environment:
  CACHE_URL  where the cache keeps its entries:
    local:                      in the memory of this process (the default of `serve`)
    memcache://127.0.0.1:11211  in memcached too, shared with other processes; commas separate
                                servers; ?namespace=shop&timeout=50ms sets the prefix of the keys
                                and the timeout of memcached
    off                         nowhere; every call fetches
  CACHE_CONSOLE_TOKEN  of `serve`: a random text of 16 bytes or more; whoever knows it may
                       invalidate entries on the page /_cache

Exit codes: 0 success, 1 a run failed, 2 an argument, a port or CACHE_URL is wrong.";

/// An error that ends the program: its exit code, and the line to print.
struct ExitFailure(u8, String);

/// Returns the failure for a wrong argument or setting.
fn mistake(message: String) -> ExitFailure {
    ExitFailure(2, message)
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            // The user asked for --help or --version. A closed output is not a failure.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{}; see --help", first_paragraph(&error.to_string()));
            return ExitCode::from(2);
        }
    };
    let outcome = match arguments.command {
        None => play().await,
        Some(Command::Serve { port, upstream, load, seconds, catalogue, end_with_input }) => {
            if end_with_input {
                end_with_input_in_background();
            }
            serve(port, upstream, load, seconds, catalogue).await
        }
        Some(Command::Ledger { json, markdown }) => {
            print_ledger(json, markdown);
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(ExitFailure(code, message)) => {
            eprintln!("error: {message}");
            ExitCode::from(code)
        }
    }
}

/// Prints to standard output. A closed output, as in `| head`, is not a failure.
fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn print_ledger(json: bool, markdown: bool) {
    let ledger = cached_core::ledger();
    match (json, markdown) {
        (true, _) => say(ledger.to_json().trim_end()),
        (_, true) => say(ledger.to_markdown().trim_end()),
        _ => say(ledger),
    }
}

/// Returns the first paragraph of a message as one line.
fn first_paragraph(message: &str) -> String {
    let lines = message.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

async fn cache_from_env() -> Result<Cache, ExitFailure> {
    Cache::from_env().await.map_err(|error| mistake(error.to_string()))
}

/// Returns the value of CACHE_URL, or the default if it is not set.
fn cache_url() -> String {
    std::env::var("CACHE_URL")
        .ok()
        .filter(|url| !url.is_empty())
        .unwrap_or_else(|| "local:".to_string())
}

/// Plays the load without the cache and with it, and prints a comparison of the two runs.
async fn play() -> Result<(), ExitFailure> {
    // A wrong CACHE_URL is reported before a process is started.
    drop(cache_from_env().await?);
    let own = match std::env::var_os("CACHE_URL").is_some_and(|url| !url.is_empty()) {
        true => None,
        false => MemcachedProcess::start().await,
    };
    let is_own = own.is_some();
    let url = own.as_ref().map_or_else(cache_url, MemcachedProcess::cache_url);
    let memcached = url.starts_with("memcache:");
    // With memcached there are two brokers, so that one broker finds what the other has fetched.
    let brokers = if memcached { 2 } else { 1 };
    let run =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
    let load = CheckoutWorkload::new(run ^ u64::from(std::process::id()) << 44);

    say(format_args!(
        "The load: {} checkouts, {} requests. Each customer looks at a few courses, mostly popular\n\
         ones, and orders one. The browser then requests the status page about {} times, until\n\
         the payment is complete.\n",
        load.sessions(),
        load.requests(),
        load.polls(),
    ));
    let failed = |message| ExitFailure(1, message);
    let without = load.play("without the cache", "off", brokers, None).await.map_err(failed)?;
    let with = load.play("with the cache", &url, brokers, own).await.map_err(failed)?;
    say(ComparisonTable { without: &without, with: &with, memcached });
    if let Some(outage) = with.outage() {
        say(outage);
    }
    say("Every answer of both runs was checked. No request failed, and none was answered wrongly.");
    say("Writes (an order or a new address) are upstream calls too; they are never cached.");
    match (url.as_str(), memcached) {
        ("off", _) => say("CACHE_URL is off, so the second run did not use a cache either."),
        (_, true) if !with.used_memcached() => {
            say(format_args!("No entry came from {url}, so each broker used only its own entries."))
        }
        (_, true) => {
            let memcached = if is_own { "a memcached of their own" } else { &url };
            say(format_args!(
                "Two broker processes shared their entries through {memcached}. Each\n\
                 customer changed from one broker to the other halfway. The identifiers were new in\n\
                 this run, so entries of an earlier run could not help."
            ));
        }
        (_, false) => say("The entries were in the memory of the broker. \
             Set CACHE_URL=memcache://127.0.0.1:11211 to add memcached."),
    }
    Ok(())
}

/// Runs one broker until the user or the system asks it to end.
async fn serve(
    port: u16,
    upstream: Option<String>,
    load: bool,
    seconds: Option<u64>,
    catalogue: u64,
) -> Result<(), ExitFailure> {
    let cache = cache_from_env().await?;
    cache.install().map_err(|error| ExitFailure(1, error.to_string()))?;
    // The upstream server of this program ends when `own_upstream` is dropped.
    let (own_upstream, upstream) = match upstream {
        Some(url) => (None, url),
        None => {
            let own = Upstream::start().await;
            let own = own.map_err(|error| {
                ExitFailure(1, format!("cannot start the upstream server: {error}"))
            })?;
            let url = own.url.clone();
            (Some(own), url)
        }
    };
    let client = Client::new(&upstream)
        .map_err(|error| mistake(format!("--upstream {upstream}: {error}")))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| {
        mistake(match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("port {port} of 127.0.0.1 is in use; choose another with --port")
            }
            _ => format!("cannot listen on port {port} of 127.0.0.1: {error}"),
        })
    })?;
    let address =
        listener.local_addr().map_err(|error| ExitFailure(1, error.to_string()))?.to_string();
    let cache_url = cache_url();
    let console = console(&cache)?;
    let invitation = match load {
        // One count comes from the response headers that the simulated customers read. The requests
        // of anybody else would be missing from that count.
        true => {
            "Customers play checkout sessions. At the end, the counts of all parts are compared;\n\
             they differ if somebody else sends requests meanwhile.\n"
                .to_owned()
        }
        false => format!(
            "Try these commands. With -i, the header cache-status shows how the calls were answered:\n\n{}",
            Broker::routes(&address)
        ),
    };
    say(format_args!(
        "The broker listens on http://{address}\n\
         (upstream services: {upstream}; cache: {cache_url}).\n\
         {invitation}\nThis page shows the cache at work: http://{address}/_cache\nPress Ctrl-C to end it.",
    ));
    let broker =
        Broker { cache: cache.clone(), client, catalogue, checkouts: Checkouts::default() };
    let metrics =
        metrics_router(cache.clone()).map_err(|error| ExitFailure(1, error.to_string()))?;
    let routes = broker.router().nest_service("/_cache", console).merge(metrics);
    // The console answers only clients on this machine, so the server must tell it the address of
    // each client.
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    let closing = ClosingFlag::default();
    let load = load.then(|| {
        tokio::spawn(load::play_until_closed(format!("http://{address}"), closing.clone()))
    });
    let reads = own_upstream.as_ref().map(Upstream::read_counter);
    // The counts are compared once the customers have left.
    let agreement = Arc::new(OnceLock::new());
    let (agreement_out, counted_cache) = (Arc::clone(&agreement), cache.clone());
    let (request_end, mut end_requested) = tokio::sync::watch::channel(());
    let server = axum::serve(listener, service).with_graceful_shutdown(async move {
        tokio::select! {
            () = end_signal() => {}
            () = seconds_over(seconds) => {}
        }
        // The broker ends only after the simulated customers have left.
        closing.set();
        if let Some(load) = load
            && let Ok(headers) = load.await
            && let Some(reads) = reads
        {
            let agreement =
                CountsByWitness::collect(&address, &counted_cache, reads(), &headers).await;
            let _ = agreement_out.set(agreement);
        }
        // If there is no receiver, the server has already ended.
        let _ = request_end.send(());
    });
    let grace = async {
        let _ = end_requested.changed().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    };
    tokio::select! {
        served = async { server.await } => served.map_err(|error| ExitFailure(1, error.to_string()))?,
        // An open connection must not keep the broker running forever.
        () = grace => {}
    }
    cache.flush().await;
    say("The broker has ended, and all entries are written.");
    match agreement.get() {
        None => Ok(()),
        Some(Err(message)) => Err(ExitFailure(1, format!("cannot compare the counts: {message}"))),
        Some(Ok(agreement)) => {
            say(format_args!("\n{agreement}"));
            match agreement.is_unanimous() {
                true => Ok(()),
                false => Err(ExitFailure(1, "the counts differ".to_owned())),
            }
        }
    }
}

/// Returns the page that shows the cache at work. Whoever knows the token in CACHE_CONSOLE_TOKEN
/// may invalidate entries there.
fn console(cache: &Cache) -> Result<Router, ExitFailure> {
    let console = Console::new(cache.clone());
    let Some(token) = std::env::var_os("CACHE_CONSOLE_TOKEN") else { return Ok(console.router()) };
    let console = console.token(token.to_string_lossy());
    match console.offers_invalidation() {
        true => Ok(console.router()),
        false => Err(mistake(
            "CACHE_CONSOLE_TOKEN is not a token; write a random text of 16 letters and digits or \
             more"
                .to_owned(),
        )),
    }
}

/// Waits for this many seconds, or forever if `seconds` is `None`.
async fn seconds_over(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
}

/// Ends the process when the standard input ends. The program that plays the load holds the
/// standard input open. When that program ends, in whatever way, the system closes the input.
fn end_with_input_in_background() {
    // This is a thread and not a task, because a task that reads the standard input would delay the
    // end of the runtime.
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(0);
    });
}

/// Waits until the user or the system asks the program to end.
async fn end_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

#[cfg(test)]
mod tests {
    use cached_core::LedgerDrift;
    use std::process::Command;

    #[test]
    fn the_ledger_is_reviewed() -> Result<(), LedgerDrift> {
        cached_core::ledger().check("CACHE-LEDGER.md")
    }

    #[test]
    fn another_reason_is_shown_as_a_difference() {
        let reviewed =
            std::fs::read_to_string("CACHE-LEDGER.md").expect("the ledger is checked in");
        let another = reviewed.replace("users edit their profile", "users change their address");
        let folder = std::env::temp_dir().join(format!("coordinator.{}", std::process::id()));
        std::fs::create_dir(&folder).expect("the temporary folder can be written");
        std::fs::write(folder.join("CACHE-LEDGER.md"), another).expect("the file can be written");
        // This runs the test above in a folder whose reviewed ledger has a different reason.
        let program = std::env::current_exe().expect("the program has a path");
        let output = Command::new(program)
            .args(["--exact", "tests::the_ledger_is_reviewed", "--nocapture"])
            .env_remove("UPDATE_LEDGER")
            .current_dir(&folder)
            .output()
            .expect("the program starts");
        std::fs::remove_dir_all(&folder).expect("the folder is there");
        assert!(!output.status.success(), "the reasons differ");

        let shown = String::from_utf8_lossy(&output.stderr);
        let difference: Vec<&str> =
            shown.lines().filter(|line| line.starts_with("- ") || line.starts_with("+ ")).collect();
        let [removed, added] = difference[..] else { panic!("two lines differ: {shown}") };
        assert!(removed.starts_with("- | profile |"), "{shown}");
        assert!(removed.contains("users change their address during checkout"), "{shown}");
        assert!(added.starts_with("+ | profile |"), "{shown}");
        assert!(added.contains("users edit their profile during checkout"), "{shown}");
        assert!(shown.contains("UPDATE_LEDGER=1 cargo test"), "{shown}");
    }
}
