//! The child processes that this program starts: brokers and memcached.
//!
//! Dropping a [`BrokerProcess`] or a [`MemcachedProcess`] kills the process.

use crate::report::AnswerSourceCounters;
use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};

/// A broker that runs as `coordinator serve` in a process of its own.
pub(crate) struct BrokerProcess {
    pub(crate) url: String,
    _child: Child,
    /// The broker can write to its output as long as this end of the pipe is open.
    _output: BufReader<ChildStdout>,
}

impl BrokerProcess {
    /// Starts a broker with this CACHE_URL, and waits until it listens.
    ///
    /// # Errors
    /// Returns the broker's own message if it does not start.
    pub(crate) async fn start(
        cache_url: &str,
        upstream: &str,
        catalogue: u64,
    ) -> Result<BrokerProcess, String> {
        let failed = |error: io::Error| format!("cannot start a broker process: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(["serve", "--end-with-input", "--upstream", upstream]);
        command.args(["--catalogue", &catalogue.to_string()]).env("CACHE_URL", cache_url);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let (Some(output), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("a broker process has no output".to_string());
        };
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line).await.map_err(failed)?;
        let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://")) else {
            let mut message = String::new();
            errors.read_to_string(&mut message).await.map_err(failed)?;
            return Err(format!("a broker process ended: {}", message.trim_end()));
        };
        // The broker's log lines are dropped. The broker counts failed writes to memcached, and a
        // line about each failed write would only break the progress bar.
        tokio::spawn(async move { tokio::io::copy(&mut errors, &mut tokio::io::sink()).await });
        Ok(BrokerProcess { url: url.to_string(), _child: child, _output: output })
    }
}

/// Asks these brokers for their counters, and returns the sums.
///
/// # Errors
/// Returns an error if a broker does not answer.
pub(crate) async fn answers(
    http: &reqwest::Client,
    brokers: &[String],
) -> Result<AnswerSourceCounters, String> {
    let mut sum = AnswerSourceCounters::default();
    for broker in brokers {
        let failed = |error: reqwest::Error| format!("{broker}/counters: {error}");
        let answer = http.get(format!("{broker}/counters")).send().await.map_err(failed)?;
        sum = sum + answer.json().await.map_err(failed)?;
    }
    Ok(sum)
}

/// A memcached process on a loopback port.
pub(crate) struct MemcachedProcess {
    port: u16,
    child: Child,
}

impl MemcachedProcess {
    /// Starts memcached on a free port. Returns `None` if memcached is not installed or does not
    /// start.
    pub(crate) async fn start() -> Option<MemcachedProcess> {
        // Another process might take the free port before memcached does.
        for _ in 0..5 {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?;
            let port = listener.local_addr().ok()?.port();
            drop(listener);
            if let Some(memcached) = MemcachedProcess::start_on(port).await {
                return Some(memcached);
            }
        }
        None
    }

    /// Starts memcached on this port, and waits until it accepts connections.
    pub(crate) async fn start_on(port: u16) -> Option<MemcachedProcess> {
        let mut command = Command::new("memcached");
        command.args(["-l", "127.0.0.1", "-U", "0", "-m", "64", "-p", &port.to_string()]);
        // memcached uses this option only if root starts it.
        command.args(["-u", "nobody"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.kill_on_drop(true).spawn().ok()?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5) && matches!(child.try_wait(), Ok(None)) {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
                return Some(MemcachedProcess { port, child });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// Returns the CACHE_URL of a broker that uses this memcached.
    pub(crate) fn cache_url(&self) -> String {
        format!("memcache://127.0.0.1:{}", self.port)
    }

    /// Kills memcached, as the kernel does when the machine has no memory left. Returns the port.
    pub(crate) async fn kill(mut self) -> u16 {
        // `kill` fails if the process has already ended. This is harmless.
        let _ = self.child.kill().await;
        self.port
    }
}
