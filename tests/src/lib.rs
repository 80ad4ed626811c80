//! Helpers for the integration tests. They start memcached servers, count the fetches of an
//! upstream, and collect the log lines, the spans and the metrics of the library.
//!
//! In all tests, the message of an assertion or an `expect` says what is true when the test passes.
//! The message of a `panic!` says what went wrong.

mod fake_memcached;
mod logs;
mod prometheus;
mod redirectable_proxy;
mod spans;
mod upstream;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::Poll;
use std::time::{Duration, Instant};

pub use fake_memcached::{FakeMemcached, ServerKind};
pub use logs::{collect_logs, collect_misses, logged};
pub use prometheus::{Sample, Scrape};
pub use redirectable_proxy::RedirectableProxy;
pub use spans::{CollectedEvent, CollectedSpan, Fields, SpanCollector};
pub use upstream::{Upstream, UpstreamDown};

/// A memcached process on a free loopback port. Dropping the value kills the process.
#[derive(Debug)]
pub struct Memcached {
    child: Child,
    port: u16,
}

impl Memcached {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// Panics if memcached is not installed or does not start, because a test that needs memcached
    /// must not be skipped.
    #[must_use]
    pub fn start() -> Memcached {
        Memcached::start_with(&[], "MN")
    }

    /// Starts a server that asks for a password and refuses every command without it.
    ///
    /// # Panics
    /// Panics like [`start`](Self::start).
    #[must_use]
    pub fn start_with_password() -> Memcached {
        let file = std::env::temp_dir().join(format!("cached-tests.{}", std::process::id()));
        std::fs::write(&file, "user:password\n").expect("the file can be written");
        Memcached::start_with(&["-Y", &file.to_string_lossy()], "CLIENT_ERROR")
    }

    /// Starts a server that has little memory and never evicts an item, and fills its memory with
    /// items. The server then refuses further items of about `bytes` bytes. It still grants leases
    /// (the right to fetch a missing value), because a lease needs only a small placeholder.
    ///
    /// # Panics
    /// Panics like [`start`](Self::start).
    #[must_use]
    pub fn start_full(bytes: usize) -> Memcached {
        // The command line already has an `-m`. memcached uses the last one, which is this limit.
        let memcached = Memcached::start_with(&["-m", "2", "-M"], "MN");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, memcached.port));
        let stream = TcpStream::connect(address).expect("memcached answers");
        let mut answers = BufReader::new(stream.try_clone().expect("the socket can be cloned"));
        for size in [700_000, bytes * 3 / 4, bytes * 7 / 8, bytes, bytes * 9 / 8, bytes * 5 / 4] {
            for number in 0.. {
                let value = "x".repeat(size);
                let write = format!("set filler{size}.{number} 0 0 {size}\r\n{value}\r\n");
                (&stream).write_all(write.as_bytes()).expect("memcached answers");
                let mut answer = String::new();
                answers.read_line(&mut answer).expect("memcached answers");
                if answer.trim_end() != "STORED" {
                    break;
                }
            }
        }
        memcached
    }

    /// Starts a server and waits until its answer to `mn` begins with `answer`.
    fn start_with(options: &[&str], answer: &str) -> Memcached {
        // Another process may take the free port before memcached does. Then another port is tried.
        for _ in 0..20 {
            if let Some(memcached) = Memcached::start_on_with(free_port(), options, answer) {
                return memcached;
            }
        }
        panic!("memcached did not start on any of 20 ports");
    }

    /// Starts a server on `port`. Returns `None` if the server does not start.
    ///
    /// # Panics
    /// Panics if memcached is not installed.
    #[must_use]
    pub fn start_on(port: u16) -> Option<Memcached> {
        Memcached::start_on_with(port, &[], "MN")
    }

    fn start_on_with(port: u16, options: &[&str], answer: &str) -> Option<Memcached> {
        let mut command = Command::new("memcached");
        command
            .args(["-l", "127.0.0.1", "-U", "0", "-t", "2", "-m", "64", "-p"])
            .arg(port.to_string());
        // memcached ignores `-u` unless it runs as root.
        command.args(["-u", "nobody"]).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("memcached does not start; scripts/test installs it: {error}")
        });
        let mut memcached = Memcached { child, port };
        let give_up = Instant::now() + Duration::from_secs(10);
        while Instant::now() < give_up {
            if memcached.child.try_wait().expect("the child can be waited for").is_some() {
                return None;
            }
            if memcached.try_command("mn").is_some_and(|line| line.starts_with(answer)) {
                return Some(memcached);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Returns the address as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the port that the server listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends one line of the protocol and returns the first line of the answer.
    ///
    /// # Panics
    /// Panics if the server does not answer.
    #[must_use]
    pub fn command(&self, line: &str) -> String {
        self.try_command(line).expect("memcached answers")
    }

    fn try_command(&self, line: &str) -> Option<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(format!("{line}\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        Some(answer.trim_end().to_owned())
    }

    /// Returns a number from the server's `stats`.
    ///
    /// # Panics
    /// Panics if the server does not answer or does not list the number.
    #[must_use]
    pub fn stat(&self, name: &str) -> u64 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect(address).expect("memcached answers");
        stream.write_all(b"stats\r\nquit\r\n").expect("memcached answers");
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let prefix = format!("STAT {name} ");
        let number = lines.into_iter().find_map(|l| l.strip_prefix(&prefix)?.parse().ok());
        number.expect("the server lists the number")
    }

    /// Returns the remaining time to live of an item in seconds, or `None` if there is no item.
    #[must_use]
    pub fn remaining_ttl(&self, key: &str) -> Option<i64> {
        let answer = self.command(&format!("mg {key} t"));
        // If the item is stale, flags follow the time in the answer.
        answer.strip_prefix("HD t")?.split(' ').next()?.parse().ok()
    }

    /// Stores a text under a key. The command goes to the server directly, not through the library.
    ///
    /// # Panics
    /// Panics if the server does not store the text.
    pub fn store(&self, key: &str, value: &str) {
        let answer = self.command(&format!("ms {key} {}\r\n{value}", value.len()));
        assert_eq!(answer, "HD");
    }

    /// Suspends the process with `SIGSTOP`. Its connections stay open.
    ///
    /// # Panics
    /// Panics if the process is not suspended within ten seconds.
    pub fn suspend(&self) {
        self.signal("-STOP");
        // On a busy machine, the threads of the process go on for a moment after the signal.
        let give_up = Instant::now() + Duration::from_secs(10);
        while !self.is_suspended() {
            assert!(Instant::now() < give_up, "memcached is suspended within ten seconds");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_suspended(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let is_suspended = |thread: std::fs::DirEntry| {
            std::fs::read_to_string(thread.path().join("stat"))
                .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|s| s.starts_with(" T")))
        };
        threads.is_ok_and(|mut threads| threads.all(|thread| thread.is_ok_and(is_suspended)))
    }

    /// Continues a suspended process with `SIGCONT`.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Kills the process with `SIGKILL`.
    pub fn kill(&mut self) {
        // The process may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill is installed").success());
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns a loopback port that no process listens on.
///
/// # Panics
/// Panics if no port is free.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// Polls a future once, and returns the output if the future is ready. Otherwise the test can hold
/// or drop the future.
pub async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
