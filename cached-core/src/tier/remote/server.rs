//! One memcached server: its clients, its deadline, its health.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::client::{Client, Command, Failure, Reply};
use super::{Found, Item, LeaseTerms, RemoteError};
use crate::clock::Clock;
use crate::config::Config;
use crate::key::Digest;

/// Connections to one server; further callers wait for one within their deadline.
const CONNECTIONS: usize = 32;
/// Of which so many are for writes in the background, which wait longer for one, so that neither
/// keeps the other from the server.
const WRITE_CONNECTIONS: usize = 8;
/// The longest that a write in the background waits and takes.
pub(super) const LONGEST_WRITE: Duration = Duration::from_secs(10);
/// A server that fails so often in a row is ejected.
const FAILURES: u32 = 3;
/// An ejected server is tried again after this long, then after twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The runtimes whose connections are kept.
const RUNTIMES: usize = 8;

/// What an exchange is for, and so how long it may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    /// A call waits for an answer that it can do without.
    Read,
    /// A caller wants to change what the server has, and to know whether that went well.
    Change,
    /// Nobody waits.
    Background,
}

pub(super) struct Server {
    address: String,
    /// The address as a number, for [`Server::score`].
    seed: u64,
    timeout: Duration,
    clock: Clock,
    #[cfg(feature = "testing")]
    network: Option<super::memory::Network>,
    /// One for each of the last runtimes that asked, made on first use and again after a failure:
    /// a client resolves its name but once.
    clients: Mutex<Vec<(Id, Client)>>,
    read_slots: Semaphore,
    write_slots: Semaphore,
    health: Health,
}

impl Server {
    pub(super) fn new(address: &str, config: &Config) -> Server {
        Server {
            address: address.to_owned(),
            seed: address.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            }),
            timeout: config.remote_timeout,
            clock: config.clock.clone(),
            #[cfg(feature = "testing")]
            network: config.network.clone(),
            clients: Mutex::default(),
            read_slots: Semaphore::new(CONNECTIONS - WRITE_CONNECTIONS),
            write_slots: Semaphore::new(WRITE_CONNECTIONS),
            health: Health::new(config.clock.clone()),
        }
    }

    /// How much this server wants the key: the same in every process, on every machine and for
    /// every build. FNV-1a of the address, mixed with the digest by SplitMix64's finalizer.
    pub(super) fn score(&self, digest: Digest) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&digest.as_bytes()[..8]);
        let mut x = self.seed ^ u64::from_be_bytes(word);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(super) async fn read(
        &self,
        key: &Arc<str>,
        lease: Option<LeaseTerms>,
    ) -> Result<Found, RemoteError> {
        let read = Command::Read { key: Arc::clone(key), lease };
        match self.exchange(Errand::Read, vec![read]).await?.pop() {
            Some(Ok(Reply::Found(found))) => Ok(found),
            other => Err(self.unanswered(other)),
        }
    }

    pub(super) async fn read_many(
        &self,
        keys: &[Arc<str>],
    ) -> Result<Vec<Option<Item>>, RemoteError> {
        let reads = keys.iter().map(|key| Command::Read { key: Arc::clone(key), lease: None });
        let replies = self.exchange(Errand::Read, reads.collect()).await?;
        replies
            .into_iter()
            .map(|reply| match reply {
                Ok(Reply::Found(Found::Item(item))) => Ok(Some(item)),
                Ok(Reply::Found(_)) => Ok(None),
                other => Err(self.unanswered(Some(other))),
            })
            .collect()
    }

    /// Runs one command that changes something; returns whether it took effect.
    pub(super) async fn change(
        &self,
        command: Command,
        errand: Errand,
    ) -> Result<bool, RemoteError> {
        match self.exchange(errand, vec![command]).await?.pop() {
            Some(Ok(Reply::Applied(applied))) => Ok(applied),
            other => Err(self.unanswered(other)),
        }
    }

    fn unanswered(&self, reply: Option<Result<Reply, Failure>>) -> RemoteError {
        match reply {
            Some(Err(Failure::Refused(why) | Failure::Lost(why))) => self.failed(&why),
            _ => self.failed(&"an answer to another command"),
        }
    }

    fn failed(&self, why: &dyn Display) -> RemoteError {
        RemoteError(format!("memcached at {}: {why}", self.address))
    }

    /// One exchange under one deadline, which covers waiting for a connection, resolving and
    /// dialling too.
    async fn exchange(
        &self,
        errand: Errand,
        commands: Vec<Command>,
    ) -> Result<Vec<Result<Reply, Failure>>, RemoteError> {
        let Ok(runtime) = Handle::try_current() else {
            return Err(self.failed(&"there is no tokio runtime here"));
        };
        let admission = match self.health.admits() {
            // What is not told to a server now, it gets wrong when it is back.
            Admission::Refused if errand != Errand::Change => {
                return Err(self.failed(&"it is ejected"));
            }
            admission => admission,
        };
        let (slots, patience) = match errand {
            Errand::Read | Errand::Change => (&self.read_slots, self.timeout),
            Errand::Background => (&self.write_slots, LONGEST_WRITE.saturating_sub(self.timeout)),
        };
        let arrived = Instant::now();
        let Ok(Ok(_slot)) = timeout_at((arrived + patience).into(), slots.acquire()).await else {
            // This process is what is slow; the server may be well.
            return Err(self.failed(&"no connection was free in time"));
        };
        let began = Instant::now();
        let deadline = match errand {
            Errand::Read | Errand::Change => arrived + self.timeout,
            Errand::Background => began + self.timeout,
        };
        let exchange = async {
            let client = self.client(&runtime).await?;
            Ok(client.run(commands, self.clock.now()).await)
        };
        let lost = match timeout_at(deadline.into(), exchange).await {
            Ok(Ok(replies)) => match replies.iter().find_map(lost) {
                Some(why) => why,
                None => {
                    self.health.succeeded(&self.address);
                    return Ok(replies);
                }
            },
            Ok(Err(Failure::Refused(why) | Failure::Lost(why))) => why,
            Err(_) => format!("no answer within {:?}", self.timeout),
        };
        let error = self.failed(&lost);
        self.clients().retain(|(of, _)| *of != runtime.id());
        // A caller that spent its time on waiting for a connection cannot blame the server.
        if deadline.saturating_duration_since(began) >= self.timeout / 2 {
            self.health.failed(admission, &error);
        }
        Err(error)
    }

    fn clients(&self) -> MutexGuard<'_, Vec<(Id, Client)>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client of a runtime.
    async fn client(&self, runtime: &Handle) -> Result<Client, Failure> {
        #[cfg(feature = "testing")]
        if let Some(network) = &self.network {
            return Ok(Client::Memory(network.at(&self.address)));
        }
        let of_runtime = |(of, _): &&(Id, Client)| *of == runtime.id();
        let made = self.clients().iter().find(of_runtime).map(|(_, client)| client.clone());
        if let Some(client) = made {
            return Ok(client);
        }
        let client = Client::connect(&self.address, CONNECTIONS, self.timeout).await?;
        let mut clients = self.clients();
        // Two that dial at once make two clients; one of them is kept.
        if let Some((_, kept)) = clients.iter().find(of_runtime) {
            return Ok(kept.clone());
        }
        if clients.len() == RUNTIMES {
            clients.remove(0);
        }
        clients.push((runtime.id(), client.clone()));
        Ok(client)
    }
}

/// Why a command was lost, if it was.
fn lost(reply: &Result<Reply, Failure>) -> Option<String> {
    match reply {
        Err(Failure::Lost(why)) => Some(why.clone()),
        Ok(_) | Err(Failure::Refused(_)) => None,
    }
}

/// Whether a server is worth asking. *In rotation* → ([`FAILURES`] in a row) → *ejected*: nobody
/// asks, but one caller after each pause, which grows → (an answer) → *in rotation*.
#[derive(Default)]
struct Health {
    clock: Clock,
    /// In a row, up to [`FAILURES`].
    failures: AtomicU32,
    /// Attempts in a row that an ejected server did not answer.
    attempts: AtomicU32,
    /// When the next caller may ask an ejected server; milliseconds since [`EPOCH`].
    retry_at: AtomicU64,
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    Granted,
    /// To find out whether an ejected server answers again.
    Attempt,
    Refused,
}

impl Health {
    fn new(clock: Clock) -> Health {
        Health { clock, ..Health::default() }
    }

    fn now(&self) -> u64 {
        self.clock.now().saturating_duration_since(*EPOCH).as_millis() as u64
    }

    fn admits(&self) -> Admission {
        if self.failures.load(Ordering::Acquire) < FAILURES {
            return Admission::Granted;
        }
        let now = self.now();
        let retry_at = self.retry_at.load(Ordering::Acquire);
        let next = now + pause(self.attempts.load(Ordering::Acquire));
        // Whoever moves the time of the next attempt makes this one.
        let (set, fetched) = (Ordering::AcqRel, Ordering::Acquire);
        if now >= retry_at && self.retry_at.compare_exchange(retry_at, next, set, fetched).is_ok() {
            Admission::Attempt
        } else {
            Admission::Refused
        }
    }

    fn succeeded(&self, address: &str) {
        if self.failures.load(Ordering::Relaxed) != 0
            && self.failures.swap(0, Ordering::AcqRel) >= FAILURES
        {
            log::info!("memcached at {address} answers again and is back in rotation");
        }
    }

    fn failed(&self, admission: Admission, error: &RemoteError) {
        let now = self.now();
        if admission == Admission::Attempt {
            let attempts = self.attempts.load(Ordering::Acquire).saturating_add(1);
            self.attempts.store(attempts, Ordering::Release);
            self.retry_at.store(now + pause(attempts), Ordering::Release);
        }
        // Those who asked before the ejection and fail after it add nothing.
        let (set, fetched) = (Ordering::AcqRel, Ordering::Acquire);
        let one_more = |failures| (failures < FAILURES).then_some(failures + 1);
        if self.failures.fetch_update(set, fetched, one_more) == Ok(FAILURES - 1) {
            self.attempts.store(0, Ordering::Release);
            self.retry_at.store(now + pause(0), Ordering::Release);
            log::warn!("{error}; it is ejected after {FAILURES} failures in a row");
        }
    }
}

/// In milliseconds.
fn pause(attempts: u32) -> u64 {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.min(16));
    doubled.min(LONGEST_PAUSE).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_same_for_good() {
        let digest = Digest::of(b"key");
        let scores = ["10.0.0.1:11211", "cache-a:11211"]
            .map(|a| Server::new(a, &Config::default()).score(digest));
        assert_eq!(scores, [16926019881397665348, 1166268213767805196]);
    }

    #[test]
    fn an_ejected_server_is_asked_once_a_pause_and_comes_back() {
        let (health, down) = (Health::default(), RemoteError("down".into()));
        // More fail at once than it takes: that does not lengthen the pause.
        for _ in 0..FAILURES + 20 {
            health.failed(Admission::Granted, &down);
        }
        assert!(health.admits() == Admission::Refused);
        std::thread::sleep(FIRST_PAUSE + Duration::from_millis(20));
        assert!(health.admits() == Admission::Attempt);
        assert!(health.admits() == Admission::Refused, "the next waits for the first's answer");
        health.failed(Admission::Attempt, &down);
        std::thread::sleep(FIRST_PAUSE + Duration::from_millis(20));
        assert!(health.admits() == Admission::Refused, "the pause has grown");
        health.succeeded("test");
        assert!(health.admits() == Admission::Granted);
    }
}
