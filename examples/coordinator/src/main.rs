//! A broker service whose upstream calls are cached, and a load that shows what the cache is worth.
//!
//! `broker.rs` is the file to read first: it has the annotated calls.

mod broker;
mod load;
mod model;
mod report;
mod upstream;

use broker::{Broker, Checkouts, Client};
use cached_core::Cache;
use clap::{Parser, Subcommand};
use load::Load;
use report::Table;
use std::fmt;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use upstream::Upstream;

/// A broker of calls to payment, order and user services, with cached-core between it and them.
///
/// Without a command it plays a fixed load of checkout sessions twice, without the cache and with
/// it, prints a table that compares the two, and ends by itself within a minute.
#[derive(Parser)]
#[command(name = "coordinator", version, max_term_width = 100, after_help = ENVIRONMENT)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Keep the broker up on 127.0.0.1, to try with curl, until Ctrl-C
    #[command(after_help = ENVIRONMENT)]
    Serve {
        /// The port to listen on; 0 takes a free one
        #[arg(long, value_name = "PORT", default_value_t = 0)]
        port: u16,
        /// The upstream services to call, as another `serve` printed them; without it, own ones are
        /// started
        #[arg(long, value_name = "URL")]
        upstream: Option<String>,
    },
}

const ENVIRONMENT: &str = "\
Environment:
  CACHE_URL  where entries are kept:
    local:                      in this process (the default)
    memcache://127.0.0.1:11211  in memcached too, shared by all processes that name it; commas
                                separate servers; ?namespace=shop&timeout=50ms sets the prefix of
                                the keys and the bound on an exchange
    off                         nowhere: every call fetches

Exit codes: 0 all went well, 1 a run failed, 2 a mistake in an argument, a port or CACHE_URL.";

/// Why the program ends early: the exit code and the one line to print.
struct Failure(u8, String);

/// A mistake in what the user gave.
fn mistake(message: String) -> Failure {
    Failure(2, message)
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            // What was asked for: --help or --version. A reader that went away early is no failure.
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
        Some(Command::Serve { port, upstream }) => serve(port, upstream).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, message)) => {
            eprintln!("error: {message}");
            ExitCode::from(code)
        }
    }
}

/// Prints to standard output. A reader that went away early (`| head`) is no failure.
fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// The part of a message before its first empty line, on one line.
fn first_paragraph(message: &str) -> String {
    let lines = message.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

async fn cache_from_env() -> Result<Cache, Failure> {
    Cache::from_env().await.map_err(|error| mistake(error.to_string()))
}

/// What CACHE_URL says, or what stands for it.
fn cache_url() -> String {
    std::env::var("CACHE_URL")
        .ok()
        .filter(|url| !url.is_empty())
        .unwrap_or_else(|| "local:".to_string())
}

/// Plays the load without and with the cache.
async fn play() -> Result<(), Failure> {
    let url = cache_url();
    let memcached = url.starts_with("memcache:");
    // Two brokers show what memcached is for: what one has fetched, the other finds.
    let brokers = if memcached { 2 } else { 1 };
    let mut caches = Vec::new();
    for _ in 0..brokers {
        caches.push(cache_from_env().await?);
    }
    let disabled = vec![Cache::disabled(); brokers];
    let run =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
    let load = Load::new(run ^ u64::from(std::process::id()) << 44);

    say(format_args!(
        "The load: {} checkouts, {} requests. A customer looks at a few courses (most at the\n\
         popular ones) and orders one; the browser then asks for the status page some {} times,\n\
         until the payment is through.\n",
        load.sessions(),
        load.requests(),
        load.polls(),
    ));
    let without =
        load.play("without the cache", &disabled).await.map_err(|message| Failure(1, message))?;
    let with = load.play("with the cache", &caches).await.map_err(|message| Failure(1, message))?;
    say(Table { without: &without, with: &with, memcached });
    say("Every answer of both runs was checked. Writes (an order, a new address) are upstream");
    say("calls too, and are never cached.");
    match (url.as_str(), memcached) {
        ("off", _) => say("CACHE_URL is off, so the second run had no cache either."),
        (_, true) if !with.used_memcached() => say(format_args!(
            "Nothing came from {url}, so two brokers kept entries for themselves alone."
        )),
        (_, true) => say(format_args!(
            "Two brokers shared their entries through {url}; each customer went\n\
             from one to the other half-way. Identifiers were new to this run, so the entries of\n\
             an earlier one were of no help."
        )),
        (_, false) => say("Entries were kept in the broker's memory; \
             CACHE_URL=memcache://127.0.0.1:11211 adds memcached."),
    }
    Ok(())
}

/// Keeps one broker up until it is told to end.
async fn serve(port: u16, upstream: Option<String>) -> Result<(), Failure> {
    let cache = cache_from_env().await?;
    cache.install().map_err(|error| Failure(1, error.to_string()))?;
    // Kept until the end: the server ends with the value.
    let (_own, upstream) = match upstream {
        Some(url) => (None, url),
        None => {
            let own = Upstream::start().await;
            let own = own.map_err(|error| {
                Failure(1, format!("cannot start the upstream server: {error}"))
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
    let address = listener.local_addr().map_err(|error| Failure(1, error.to_string()))?.to_string();
    let cache_url = cache_url();
    say(format_args!(
        "The broker listens on http://{address}\n\
         (upstream services: {upstream}; cache: {cache_url}).\n\
         Try (with -i, the line server-timing says how long the broker took):\n\n\
         {}\nCtrl-C ends it.",
        Broker::routes(&address)
    ));
    let broker =
        Broker { cache: cache.clone(), client, catalogue: 1, checkouts: Checkouts::default() };
    let (told, mut end) = tokio::sync::watch::channel(());
    let server = axum::serve(listener, broker.router()).with_graceful_shutdown(async move {
        told_to_end().await;
        // Nobody listens any more only when the server has ended already.
        let _ = told.send(());
    });
    let grace = async {
        let _ = end.changed().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    };
    tokio::select! {
        served = async { server.await } => served.map_err(|error| Failure(1, error.to_string()))?,
        // A connection that stays open does not keep the broker up for ever.
        () = grace => {}
    }
    cache.flush().await;
    say("The broker has ended; all entries are written.");
    Ok(())
}

/// Returns when the user or the system asks the program to end.
async fn told_to_end() {
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
