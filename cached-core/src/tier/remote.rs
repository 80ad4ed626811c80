//! The remote tier: memcached. Which server a key lives on, the lease, the fill, the deadline.
//!
//! Nothing here fails a call. A server that errs or is late costs at most the deadline, and, once
//! it has done so a few times, nothing.

mod client;
#[cfg(feature = "testing")]
pub(crate) mod memory;
mod server;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::config::Config;
use crate::key::Key;
use client::Command;
use server::{Errand, Server};

/// memcached takes a longer relative lifetime for a date.
pub(crate) const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// More writes than this under way are dropped, and counted.
const PENDING_LIMIT: usize = 4096;

pub(crate) struct Remote {
    servers: Vec<Arc<Server>>,
    pending: Arc<Pending>,
}

/// A key on its server.
#[derive(Clone)]
pub(crate) struct RemoteKey {
    server: Arc<Server>,
    key: Arc<str>,
    /// What changes to it are for.
    errand: Errand,
}

/// What a read found.
#[derive(Debug)]
pub(crate) enum Found {
    Item(Item),
    /// Nothing, and the caller has the right to fill it: the CAS of the lease.
    Lease(u64),
    /// Nothing yet: another caller has the right to fill it, under this CAS.
    Busy(Option<u64>),
    /// Nothing, on a read that asked for no lease.
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) frame: Vec<u8>,
    pub(crate) cas: u64,
    /// When the server lets go of it, at the earliest.
    pub(crate) gone: Instant,
    /// Whether the caller has won the right to replace it, as it is about to go.
    pub(crate) won: bool,
}

/// What a read asks for beside the value.
#[derive(Debug, Clone, Copy)]
struct LeaseTerms {
    /// How long the right to fill lasts.
    seconds: u32,
    /// An item with less than this left may be replaced by one caller; 0 for none.
    replace_before: u32,
}

/// How a write is conditioned.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Condition {
    /// Only where nothing is.
    Absent,
    /// Only where nothing has happened since the read that gave this CAS.
    Unchanged(u64),
    Always,
}

/// Why an exchange with memcached came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteError(pub(crate) String);

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Remote {
    /// `None` where no server is configured.
    pub(crate) fn new(config: &Config) -> Option<Remote> {
        let servers = config.servers.iter().map(|address| Arc::new(Server::new(address, config)));
        let servers: Vec<_> = servers.collect();
        (!servers.is_empty()).then(|| Remote { servers, pending: Arc::default() })
    }

    /// Where `key` lives: the server with the highest score (rendezvous hashing, Thaler and
    /// Ravishankar 1998), so that a server that leaves moves only its own keys.
    pub(crate) fn locate(&self, key: &Key) -> Option<RemoteKey> {
        let server = self.servers.iter().max_by_key(|server| server.score(key.digest()))?;
        Some(RemoteKey {
            server: Arc::clone(server),
            key: key.to_string().into(),
            errand: Errand::Change,
        })
    }

    /// Reads several keys, all servers at once and each in one round trip. Answers in order; a
    /// key whose server failed is not found.
    pub(crate) async fn read_many(
        &self,
        keys: &[RemoteKey],
    ) -> Vec<Result<Option<Item>, RemoteError>> {
        let mut groups: Vec<(Arc<Server>, Vec<usize>)> = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            match groups.iter_mut().find(|(server, _)| Arc::ptr_eq(server, &key.server)) {
                Some((_, group)) => group.push(index),
                None => groups.push((Arc::clone(&key.server), vec![index])),
            }
        }
        if Handle::try_current().is_err() {
            return keys.iter().map(|_| Ok(None)).collect();
        }
        let mut exchanges = tokio::task::JoinSet::new();
        for (server, group) in groups {
            let group_keys: Vec<_> =
                group.iter().map(|&index| Arc::clone(&keys[index].key)).collect();
            exchanges.spawn(async move { (group, server.read_many(&group_keys).await) });
        }
        let lost = || RemoteError("the exchange was lost".into());
        let mut answers: Vec<_> = keys.iter().map(|_| Err(lost())).collect();
        while let Some(exchange) = exchanges.join_next().await {
            let Ok((group, read)) = exchange else {
                continue;
            };
            match read {
                Ok(items) => {
                    group
                        .into_iter()
                        .zip(items)
                        .for_each(|(index, item)| answers[index] = Ok(item));
                }
                Err(error) => {
                    group.into_iter().for_each(|index| answers[index] = Err(error.clone()))
                }
            }
        }
        answers
    }

    /// Runs a write off the caller's path. Without a runtime, and with too many under way, it is
    /// dropped; `false` says so.
    pub(crate) fn in_background(&self, write: impl Future<Output = ()> + Send + 'static) -> bool {
        let few = self.pending.count.load(Ordering::Relaxed) < PENDING_LIMIT;
        few && self.in_background_always(write)
    }

    fn in_background_always(&self, write: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(runtime) = Handle::try_current() else { return false };
        let pending = PendingGuard::new(&self.pending);
        runtime.spawn(async move {
            write.await;
            drop(pending);
        });
        true
    }

    /// Waits until no write is under way; not for one whose runtime is not driven.
    pub(crate) async fn flush(&self) {
        // Without a runtime here there is no clock to wait by.
        if Handle::try_current().is_ok() {
            let _ = tokio::time::timeout(server::LONGEST_WRITE, self.flushed()).await;
        }
    }

    async fn flushed(&self) {
        loop {
            let done = self.pending.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if self.pending.count.load(Ordering::Acquire) == 0 {
                return;
            }
            done.await;
        }
    }
}

impl RemoteKey {
    /// For writes that nobody waits for.
    pub(crate) fn in_background(mut self) -> RemoteKey {
        self.errand = Errand::Background;
        self
    }

    pub(crate) async fn read(&self) -> Result<Found, RemoteError> {
        self.server.read(&self.key, None).await
    }

    /// Reads, or wins the right to fill, in one round trip; the right to replace an item too, in
    /// the last `kept` of its life. The lease lasts whole seconds.
    pub(crate) async fn read_or_lease(
        &self,
        lease: Duration,
        kept: Duration,
    ) -> Result<Found, RemoteError> {
        let replace_before = match whole_seconds(kept) {
            0 => 0,
            // As the caller counts: an item may be gone a second before the server says so.
            kept => kept.saturating_add(2),
        };
        let lease = LeaseTerms { seconds: whole_seconds(lease).max(1), replace_before };
        self.server.read(&self.key, Some(lease)).await
    }

    /// Stores a frame for `ttl`, and `kept` after that; `Ok(false)` where the condition did not
    /// hold, and where the ttl is under a second.
    pub(crate) async fn write(
        &self,
        frame: Vec<u8>,
        ttl: Duration,
        kept: Duration,
        condition: Condition,
    ) -> Result<bool, RemoteError> {
        // memcached would read no seconds as "for ever".
        if whole_seconds(ttl) == 0 {
            return Ok(false);
        }
        let whole = |duration: Duration| Duration::from_secs(duration.as_secs());
        let seconds = whole_seconds(whole(ttl).saturating_add(whole(kept)).min(LONGEST_TTL));
        let key = Arc::clone(&self.key);
        let write = Command::Write { key, frame: frame.into(), seconds, condition };
        self.server.change(write, self.errand).await
    }

    pub(crate) async fn delete(&self, unchanged: Option<u64>) -> Result<(), RemoteError> {
        let delete = Command::Delete { key: Arc::clone(&self.key), unchanged };
        self.server.change(delete, self.errand).await.map(drop)
    }

    async fn let_others_win(&self, cas: u64) -> Result<(), RemoteError> {
        let mark = Command::LetOthersWin { key: Arc::clone(&self.key), cas };
        self.server.change(mark, self.errand).await.map(drop)
    }
}

/// Rounded down: an item may live shorter than its ttl, never longer.
pub(crate) fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// A won lease. Dropped unused, it is given back in the background, so that nobody waits for it.
pub(crate) struct Lease {
    remote: Arc<Remote>,
    key: RemoteKey,
    cas: u64,
    is_used: bool,
    /// Whether there is an item, which the lease lets its holder replace.
    of_item: bool,
}

impl Lease {
    /// To fill what is missing.
    pub(crate) fn new(remote: &Arc<Remote>, key: RemoteKey, cas: u64) -> Lease {
        Lease { remote: Arc::clone(remote), key, cas, is_used: false, of_item: false }
    }

    /// To replace an item.
    pub(crate) fn of_item(remote: &Arc<Remote>, key: RemoteKey, item: &Item) -> Lease {
        let mut lease = Lease::new(remote, key, item.cas);
        lease.of_item = true;
        lease
    }

    /// The CAS to fill under.
    pub(crate) fn cas(&self) -> u64 {
        self.cas
    }

    /// The fill is done: there is nothing to give back.
    pub(crate) fn used(mut self) {
        self.is_used = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        let (cas, of_item) = (self.cas, self.of_item);
        let key = self.key.clone().in_background();
        // Also where many writes are under way: there are no more leases than fetches.
        self.remote.in_background_always(async move {
            // Best effort: the lease runs out by itself, and an item goes.
            let _ = match of_item {
                false => key.delete(Some(cas)).await,
                true => key.let_others_win(cas).await,
            };
        });
    }
}

/// The writes under way.
#[derive(Default)]
struct Pending {
    count: AtomicUsize,
    done: Notify,
}

struct PendingGuard(Arc<Pending>);

impl PendingGuard {
    fn new(pending: &Arc<Pending>) -> PendingGuard {
        pending.count.fetch_add(1, Ordering::AcqRel);
        PendingGuard(Arc::clone(pending))
    }
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.done.notify_waiters();
        }
    }
}
