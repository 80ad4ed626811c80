//! One memcached server: its client, its deadline, its health. The only module that names the
//! memcache crate, whose client is marked experimental.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use memcache::exp::{
    AsyncMetaClient, Delete, Error, Get, GetResult, GetStatus, LeaseState, Meta, MutationStatus,
    Set, Ttl,
};
use tokio::runtime::{Handle, Id};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::{Condition, Found, Item, LeaseTerms, RemoteError};
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
    /// One for each of the last runtimes that asked, made on first use and again after a failure:
    /// a client resolves its name but once.
    clients: Mutex<Vec<(Id, AsyncMetaClient)>>,
    read_slots: Semaphore,
    write_slots: Semaphore,
    health: Health,
}

impl Server {
    pub(super) fn new(address: &str, timeout: Duration) -> Server {
        Server {
            address: address.to_owned(),
            seed: address.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            }),
            timeout,
            clients: Mutex::default(),
            read_slots: Semaphore::new(CONNECTIONS - WRITE_CONNECTIONS),
            write_slots: Semaphore::new(WRITE_CONNECTIONS),
            health: Health::default(),
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
        key: &str,
        lease: Option<LeaseTerms>,
    ) -> Result<Found, RemoteError> {
        let sent = Instant::now();
        let mut get = Get::new(key).meta(Meta::NONE.ttl().cas());
        if let Some(lease) = lease {
            get.lease_ttl = Some(lease.seconds);
            get.refresh_before = (lease.replace_before > 0).then_some(lease.replace_before);
        }
        let read = self.exchange(Errand::Read, async |client| client.run(get).await).await?;
        Ok(found(read, sent, lease.is_some()))
    }

    pub(super) async fn read_many(
        &self,
        keys: &[Arc<str>],
    ) -> Result<Vec<Option<Item>>, RemoteError> {
        let sent = Instant::now();
        let gets: Vec<_> =
            keys.iter().map(|key| Get::new(key.as_bytes()).meta(Meta::NONE.ttl().cas())).collect();
        let read = self
            .exchange(Errand::Read, async |client| {
                client.run_many(gets).await?.into_iter().collect::<Result<Vec<_>, _>>()
            })
            .await?;
        Ok(read
            .into_iter()
            .map(|read| match found(read, sent, false) {
                Found::Item(item) => Some(item),
                Found::Lease(_) | Found::Busy(_) | Found::Nothing => None,
            })
            .collect())
    }

    pub(super) async fn write(
        &self,
        key: &str,
        frame: &[u8],
        seconds: u32,
        condition: Condition,
        errand: Errand,
    ) -> Result<bool, RemoteError> {
        let set = Set::new(key, frame).ttl(Ttl::secs(seconds));
        let set = match condition {
            Condition::Absent => set.add(),
            Condition::Unchanged(cas) => set.compare_cas(cas),
            Condition::Always => set,
        };
        let written = self.exchange(errand, async |client| client.run(set).await).await?;
        Ok(written.status == MutationStatus::Applied)
    }

    pub(super) async fn delete(
        &self,
        key: &str,
        unchanged: Option<u64>,
        errand: Errand,
    ) -> Result<(), RemoteError> {
        let mut delete = Delete::new(key);
        delete.compare_cas = unchanged;
        self.exchange(errand, async |client| client.run(delete).await).await?;
        Ok(())
    }

    /// Lets the next reader win the right to replace an item that nobody has changed: marking it
    /// stale takes back that it was won. The item keeps its lifetime.
    pub(super) async fn let_others_win(&self, key: &str, cas: u64) -> Result<(), RemoteError> {
        let mark = Delete::new(key).compare_cas(cas).invalidate();
        self.exchange(Errand::Background, async |client| client.run(mark).await).await?;
        Ok(())
    }

    /// One exchange under one deadline, which covers waiting for a connection, resolving and
    /// dialling too.
    async fn exchange<T>(
        &self,
        errand: Errand,
        run: impl AsyncFnOnce(AsyncMetaClient) -> Result<T, Error>,
    ) -> Result<T, RemoteError> {
        let failed =
            |why: &dyn Display| RemoteError(format!("memcached at {}: {why}", self.address));
        let Ok(runtime) = Handle::try_current() else {
            return Err(failed(&"there is no tokio runtime here"));
        };
        let admission = match self.health.admits() {
            // What is not told to a server now, it gets wrong when it is back.
            Admission::Refused if errand != Errand::Change => return Err(failed(&"it is ejected")),
            admission => admission,
        };
        let (slots, patience) = match errand {
            Errand::Read | Errand::Change => (&self.read_slots, self.timeout),
            Errand::Background => (&self.write_slots, LONGEST_WRITE.saturating_sub(self.timeout)),
        };
        let arrived = Instant::now();
        let Ok(Ok(_slot)) = timeout_at((arrived + patience).into(), slots.acquire()).await else {
            // This process is what is slow; the server may be well.
            return Err(failed(&"no connection was free in time"));
        };
        let began = Instant::now();
        let deadline = match errand {
            Errand::Read | Errand::Change => arrived + self.timeout,
            Errand::Background => began + self.timeout,
        };
        let exchange = async { run(self.client(&runtime).await?).await };
        let error = match timeout_at(deadline.into(), exchange).await {
            Ok(Ok(answer)) => {
                self.health.succeeded(&self.address);
                return Ok(answer);
            }
            // The server is well; it is this command that it did not take.
            Ok(Err(error @ (Error::Server(_) | Error::Rejected(_) | Error::Usage(_)))) => {
                self.health.succeeded(&self.address);
                return Err(failed(&error));
            }
            Ok(Err(error)) => failed(&error),
            Err(_) => failed(&format_args!("no answer within {:?}", self.timeout)),
        };
        self.clients().retain(|(of, _)| *of != runtime.id());
        // A caller that spent its time on waiting for a connection cannot blame the server.
        if deadline.saturating_duration_since(began) >= self.timeout / 2 {
            self.health.failed(admission, &error);
        }
        Err(error)
    }

    fn clients(&self) -> MutexGuard<'_, Vec<(Id, AsyncMetaClient)>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client of a runtime: a connection works only while the runtime that opened it is driven.
    async fn client(&self, runtime: &Handle) -> Result<AsyncMetaClient, Error> {
        let of_runtime = |(of, _): &&(Id, AsyncMetaClient)| *of == runtime.id();
        let made = self.clients().iter().find(of_runtime).map(|(_, client)| client.clone());
        if let Some(client) = made {
            return Ok(client);
        }
        let client = AsyncMetaClient::builder()
            .max_idle(CONNECTIONS)
            // The deadline around the exchange is the one that counts.
            .connect_timeout(Some(self.timeout))
            .io_timeout(Some(self.timeout))
            .connect_async(self.address.as_str())
            .await?;
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

/// What a read says; `leased` where it asked for the right to fill.
fn found(read: GetResult, sent: Instant, leased: bool) -> Found {
    match (read.lease_state, read.value, read.item.cas) {
        (lease_state, Some(frame), Some(cas))
            if read.status == GetStatus::Hit && !frame.is_empty() =>
        {
            // The server counts whole seconds, rounded up: the item may be gone a second earlier.
            let gone = match read.item.ttl {
                Some(left) if left >= 0 => {
                    sent + Duration::from_secs((left as u64).saturating_sub(1))
                }
                _ => sent + super::LONGEST_TTL,
            };
            let won = lease_state == LeaseState::Granted;
            Found::Item(Item { frame, cas, gone, won })
        }
        (LeaseState::Granted, _, Some(cas)) => Found::Lease(cas),
        // To a lease read the server says what is a placeholder: this is an entry, and a bad one.
        (LeaseState::None, Some(frame), Some(cas)) if leased => {
            Found::Item(Item { frame, cas, gone: sent, won: false })
        }
        // Else an empty item is somebody's placeholder.
        (LeaseState::Busy, _, cas) | (_, Some(_), cas) => Found::Busy(cas),
        _ => Found::Nothing,
    }
}

/// Whether a server is worth asking. *In rotation* → ([`FAILURES`] in a row) → *ejected*: nobody
/// asks, but one caller after each pause, which grows → (an answer) → *in rotation*.
#[derive(Default)]
struct Health {
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
    fn admits(&self) -> Admission {
        if self.failures.load(Ordering::Acquire) < FAILURES {
            return Admission::Granted;
        }
        let now = EPOCH.elapsed().as_millis() as u64;
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
        let now = EPOCH.elapsed().as_millis() as u64;
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
            .map(|a| Server::new(a, Duration::ZERO).score(digest));
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
