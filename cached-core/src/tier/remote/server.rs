//! One memcached server: its client, its deadline, its health. The only module that names the
//! memcache crate, whose client is marked experimental.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memcache::exp::{
    AsyncMetaClient, Delete, Error, Get, GetResult, GetStatus, LeaseState, Meta, MutationStatus,
    Set, Ttl,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::{Condition, Found, Item, LeaseTerms, RemoteError};
use crate::key::Digest;

/// Connections to one server; further callers wait for one within their deadline.
const CONNECTIONS: usize = 32;
/// A server that fails so often in a row is ejected.
const FAILURES: u32 = 3;
/// An ejected server is tried again after this long, then after twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Server {
    address: String,
    /// The address as a number, for [`Server::score`].
    seed: u64,
    timeout: Duration,
    /// Made on first use and again after a failure: the client resolves its name but once.
    client: Mutex<Option<AsyncMetaClient>>,
    slots: Semaphore,
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
            client: Mutex::new(None),
            slots: Semaphore::new(CONNECTIONS),
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
        let read = self.exchange(async |client| client.run(get).await).await?;
        Ok(found(read, sent))
    }

    pub(super) async fn read_many(
        &self,
        keys: &[Arc<str>],
    ) -> Result<Vec<Option<Item>>, RemoteError> {
        let sent = Instant::now();
        let gets: Vec<_> =
            keys.iter().map(|key| Get::new(key.as_bytes()).meta(Meta::NONE.ttl().cas())).collect();
        let read = self
            .exchange(async |client| {
                client.run_many(gets).await?.into_iter().collect::<Result<Vec<_>, _>>()
            })
            .await?;
        Ok(read
            .into_iter()
            .map(|read| match found(read, sent) {
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
    ) -> Result<bool, RemoteError> {
        let set = Set::new(key, frame).ttl(Ttl::secs(seconds));
        let set = match condition {
            Condition::Absent => set.add(),
            Condition::Unchanged(cas) => set.compare_cas(cas),
            Condition::Always => set,
        };
        let written = self.exchange(async |client| client.run(set).await).await?;
        Ok(written.status == MutationStatus::Applied)
    }

    pub(super) async fn delete(
        &self,
        key: &str,
        unchanged: Option<u64>,
    ) -> Result<(), RemoteError> {
        let mut delete = Delete::new(key);
        delete.compare_cas = unchanged;
        self.exchange(async |client| client.run(delete).await).await?;
        Ok(())
    }

    /// Keeps an item that nobody has changed for `seconds`, and lets the next reader win the
    /// right to replace it: marking it stale takes back that it was won.
    pub(super) async fn let_others_win(
        &self,
        key: &str,
        cas: u64,
        seconds: u32,
    ) -> Result<(), RemoteError> {
        let mark = Delete::new(key).compare_cas(cas).invalidate().stale_for(Ttl::secs(seconds));
        self.exchange(async |client| client.run(mark).await).await?;
        Ok(())
    }

    /// One exchange under one deadline, which covers waiting for a connection, resolving and
    /// dialling too.
    async fn exchange<T>(
        &self,
        run: impl AsyncFnOnce(AsyncMetaClient) -> Result<T, Error>,
    ) -> Result<T, RemoteError> {
        if Handle::try_current().is_err() {
            return Err(RemoteError("there is no tokio runtime here".into()));
        }
        if !self.health.admits() {
            return Err(RemoteError(format!("memcached at {} is ejected", self.address)));
        }
        let deadline = Instant::now() + self.timeout;
        let Ok(Ok(_slot)) = timeout_at(deadline.into(), self.slots.acquire()).await else {
            // This process is what is slow; the server may be well.
            return Err(RemoteError(format!(
                "no free connection to memcached at {}",
                self.address
            )));
        };
        let began = Instant::now();
        let exchange = async { run(self.client().await?).await };
        let error = match timeout_at(deadline.into(), exchange).await {
            Ok(Ok(answer)) => {
                self.health.succeeded(&self.address);
                return Ok(answer);
            }
            // The server is well; it is this command that it did not take.
            Ok(Err(error @ (Error::Server(_) | Error::Rejected(_) | Error::Usage(_)))) => {
                self.health.succeeded(&self.address);
                return Err(RemoteError(format!("memcached at {}: {error}", self.address)));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.timeout),
        };
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // A caller that spent its time on waiting for a connection cannot blame the server.
        if deadline.saturating_duration_since(began) >= self.timeout / 2 {
            self.health.failed(&self.address, &error);
        }
        Err(RemoteError(format!("memcached at {}: {error}", self.address)))
    }

    async fn client(&self) -> Result<AsyncMetaClient, Error> {
        let made = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
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
        // Two that dial at once make two clients; one of them is kept.
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kept.get_or_insert(client).clone())
    }
}

fn found(read: GetResult, sent: Instant) -> Found {
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
        // An empty item is somebody's placeholder, also where the server does not say so.
        (LeaseState::Busy, _, cas) | (_, Some(_), cas) => Found::Busy(cas),
        _ => Found::Nothing,
    }
}

/// Whether a server is worth asking. *In rotation* → ([`FAILURES`] in a row) → *ejected*: nobody
/// asks, but one caller after each pause → (an answer) → *in rotation*.
#[derive(Default)]
struct Health {
    failures: AtomicU32,
    /// When the next caller may ask an ejected server; milliseconds since [`EPOCH`].
    retry_at: AtomicU64,
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Health {
    fn admits(&self) -> bool {
        let failures = self.failures.load(Ordering::Acquire);
        if failures < FAILURES {
            return true;
        }
        let now = EPOCH.elapsed().as_millis() as u64;
        let retry_at = self.retry_at.load(Ordering::Acquire);
        // Whoever moves the time of the next attempt makes this one.
        now >= retry_at
            && self
                .retry_at
                .compare_exchange(
                    retry_at,
                    now + pause(failures),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                )
                .is_ok()
    }

    fn succeeded(&self, address: &str) {
        if self.failures.load(Ordering::Relaxed) != 0
            && self.failures.swap(0, Ordering::AcqRel) >= FAILURES
        {
            log::info!("memcached at {address} answers again and is back in rotation");
        }
    }

    fn failed(&self, address: &str, error: &str) {
        // Saturating, and no further than the pause grows.
        let before = self
            .failures
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |failures| {
                Some((failures + 1).min(FAILURES + 16))
            })
            .unwrap_or(0);
        if before + 1 == FAILURES {
            let retry_at = EPOCH.elapsed().as_millis() as u64 + pause(FAILURES);
            self.retry_at.store(retry_at, Ordering::Release);
            log::warn!(
                "memcached at {address} is ejected after {FAILURES} failures in a row, the last: {error}"
            );
        }
    }
}

/// In milliseconds.
fn pause(failures: u32) -> u64 {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(FAILURES).min(16));
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
        let health = Health::default();
        for _ in 0..FAILURES {
            assert!(health.admits());
            health.failed("test", "down");
        }
        assert!(!health.admits());
        std::thread::sleep(FIRST_PAUSE + Duration::from_millis(20));
        assert!(health.admits());
        assert!(!health.admits(), "the next one waits for the first's answer");
        health.succeeded("test");
        assert!(health.admits());
    }
}
