//! The remote tier: memcached. Which server a key lives on, the lease, the fill, the deadline.
//!
//! Nothing here fails a call. A server that errs or is late costs at most the deadline, and, once
//! it has done so a few times, nothing.

mod client;
mod connection;
mod debts;
mod health;
mod lane;
mod lease;
#[cfg(feature = "testing")]
pub(crate) mod memory;
mod pending;
mod server;
mod winners;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::config::Config;
use crate::key::{Digest, Key};
use client::Command;
pub(crate) use lease::Lease;
use pending::Pending;
use server::{Errand, Server};
use winners::Winners;

/// memcached takes a longer relative lifetime for a date.
pub(crate) const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long the *gutter* keeps what it holds for a server that is out of reach: the next server in
/// a key's order, under a key of its own. Long enough to spare the upstream, short enough for what
/// other processes invalidate meanwhile.
const GUTTER_TTL: Duration = Duration::from_secs(10);

pub(crate) struct Remote {
    servers: RwLock<Servers>,
    /// The addresses of those that were taken out.
    former: Mutex<HashSet<String>>,
    config: Config,
    pending: Arc<Pending>,
    winners: Winners,
}

type Servers = Arc<[Arc<Server>]>;

/// A key on its server.
#[derive(Clone)]
pub(crate) struct RemoteKey {
    servers: Servers,
    digest: Digest,
    /// The key at home.
    home: Arc<str>,
    server: Arc<Server>,
    /// The key on `server`.
    key: Arc<str>,
    /// Whether `server` stands in for the key's own.
    in_gutter: bool,
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
    /// Whether it stands in for what is out of reach, and is not kept beyond its lifetime.
    pub(crate) in_gutter: bool,
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

impl RemoteError {
    /// Whether the server takes no item of this size, whatever is done.
    pub(crate) fn is_too_large(&self) -> bool {
        self.0.contains("too large")
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Remote {
    /// `None` where no server is configured.
    pub(crate) fn new(config: &Config) -> Option<Remote> {
        let servers: Servers =
            config.servers.iter().map(|address| Server::new(address, config)).collect();
        (!servers.is_empty()).then(|| Remote {
            servers: RwLock::new(servers),
            former: Mutex::default(),
            config: config.clone(),
            pending: Arc::default(),
            winners: Winners::default(),
        })
    }

    /// Takes other servers from now on. Those that stay keep their connections and their state.
    pub(crate) fn set_servers(&self, addresses: &[String]) {
        let mut servers = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = |address: &String| servers.iter().find(|server| server.address == *address);
        let next: Servers = addresses
            .iter()
            .map(|address| match kept(address) {
                Some(server) => Arc::clone(server),
                None => {
                    let server = Server::added(address, &self.config);
                    // What changed since it was here it was not told.
                    if former.contains(address) {
                        server.distrust(None);
                    }
                    server
                }
            })
            .collect();
        for gone in servers.iter().filter(|server| !addresses.contains(&server.address)) {
            former.insert(gone.address.clone());
            // What its keys' former servers have of them is from before it came.
            if gone.was_added {
                next.iter().for_each(|server| server.distrust(Some(gone)));
            }
        }
        *servers = next;
    }

    /// Whether one of the servers is at the address.
    #[cfg(feature = "testing")]
    pub(crate) fn has(&self, address: &str) -> bool {
        self.servers().iter().any(|server| server.address == address)
    }

    fn servers(&self) -> Servers {
        Arc::clone(&self.servers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where `key` lives: the server with the highest score (rendezvous hashing, Thaler and
    /// Ravishankar 1998), so that a server that leaves moves only its own keys; the next in order
    /// while that one is out of reach.
    pub(crate) fn locate(&self, key: &Key) -> Option<RemoteKey> {
        let (servers, digest) = (self.servers(), key.digest());
        let best = |server: &&Arc<Server>| server.score(digest);
        let first = servers.iter().max_by_key(best)?;
        let home = key.text();
        let mut located = RemoteKey {
            digest,
            server: Arc::clone(first),
            key: Arc::clone(&home),
            home,
            in_gutter: false,
            errand: Errand::Call,
            servers: Arc::clone(&servers),
        };
        if !first.serves(&located.home) && servers.len() > 1 {
            let key = located.gutter_key();
            let others = servers.iter().filter(|server| !Arc::ptr_eq(server, first));
            if let Some(next) = others.filter(|server| server.serves(&key)).max_by_key(best) {
                located.server = Arc::clone(next);
                located.key = key;
                located.in_gutter = true;
            }
        }
        Some(located)
    }

    /// Reads several keys, all servers at once and each in one round trip. Answers in order; a
    /// key whose server failed is not found.
    pub(crate) async fn read_many(
        &self,
        keys: &[RemoteKey],
    ) -> Vec<Result<Option<Item>, RemoteError>> {
        let mut groups: Vec<(Arc<Server>, Vec<usize>)> = Vec::new();
        // What a server was not told yet it is not asked for.
        let served = |(_, key): &(usize, &RemoteKey)| key.server.serves(&key.key);
        for (index, key) in keys.iter().enumerate().filter(served) {
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
        let lost = || RemoteError("its server was not asked, or the exchange was lost".into());
        let mut answers: Vec<_> = keys.iter().map(|_| Err(lost())).collect();
        while let Some(exchange) = exchanges.join_next().await {
            let Ok((group, read)) = exchange else {
                continue;
            };
            match read {
                Ok(items) => {
                    group.into_iter().zip(items).for_each(|(index, item)| {
                        answers[index] = Ok(item.map(|item| keys[index].judge(item)))
                    });
                }
                Err(error) => {
                    group.into_iter().for_each(|index| answers[index] = Err(error.clone()))
                }
            }
        }
        answers
    }

    /// Whether who won the right to replace an item, a lease's length ago, will not do it.
    pub(crate) fn is_lost(&self, key: &RemoteKey, cas: u64, lease: Duration) -> bool {
        self.winners.is_lost(&key.key, cas, lease)
    }

    /// Runs a write of about so many bytes off the caller's path. Without a runtime, and with too
    /// much under way, it is dropped; `false` says so.
    pub(crate) fn in_background(
        &self,
        bytes: usize,
        write: impl Future<Output = ()> + Send + 'static,
    ) -> bool {
        self.pending.has_room(bytes) && self.pending.run(bytes, write)
    }

    /// Waits until no write is under way; not for one whose runtime is not driven.
    pub(crate) async fn flush(&self) {
        // Without a runtime here there is no clock to wait by.
        if Handle::try_current().is_ok() {
            let _ = tokio::time::timeout(server::LONGEST_WRITE, self.pending.done()).await;
        }
    }
}

impl RemoteKey {
    /// For writes that nobody waits for.
    pub(crate) fn in_background(mut self) -> RemoteKey {
        self.errand = Errand::Background;
        self
    }

    /// Whether another server stands in for the key's own.
    pub(crate) fn is_in_gutter(&self) -> bool {
        self.in_gutter
    }

    pub(crate) async fn read(&self) -> Result<Found, RemoteError> {
        self.read_under(None).await
    }

    /// Reads, or wins the right to fill, in one round trip; the right to replace an item too, in
    /// the last `kept` of its life. The lease lasts whole seconds.
    pub(crate) async fn read_or_lease(
        &self,
        lease: Duration,
        kept: Duration,
    ) -> Result<Found, RemoteError> {
        let (lease, kept) = match self.in_gutter {
            true => (lease.min(GUTTER_TTL), Duration::ZERO),
            false => (lease, kept),
        };
        let replace_before = match whole_seconds(kept) {
            0 => 0,
            // As the caller counts: an item may be gone a second before the server says so.
            kept => kept.saturating_add(2),
        };
        let lease = LeaseTerms { seconds: whole_seconds(lease).max(1), replace_before };
        self.read_under(Some(lease)).await
    }

    async fn read_under(&self, lease: Option<LeaseTerms>) -> Result<Found, RemoteError> {
        Ok(match self.server.read(&self.key, lease).await? {
            Found::Item(item) => Found::Item(self.judge(item)),
            found => found,
        })
    }

    fn judge(&self, mut item: Item) -> Item {
        item.in_gutter = self.in_gutter;
        if !self.in_gutter && !self.server.is_believed(self.digest, item.cas) {
            // Nobody can read it, and so anybody may replace it.
            item.frame.clear();
        }
        item
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
        let (ttl, kept) = match self.in_gutter {
            true => (ttl.min(GUTTER_TTL), Duration::ZERO),
            false => (ttl, kept),
        };
        // memcached would read no seconds as "for ever".
        if whole_seconds(ttl) == 0 {
            return Ok(false);
        }
        let whole = |duration: Duration| Duration::from_secs(duration.as_secs());
        let seconds = whole_seconds(whole(ttl).saturating_add(whole(kept)).min(LONGEST_TTL));
        let key = Arc::clone(&self.key);
        let write = Command::Write { key, frame: frame.into(), seconds, condition };
        let written = self.server.change(write, self.errand).await?;
        if let Condition::Always = condition {
            self.forget_but_on(Some(&self.server)).await?;
        }
        Ok(written)
    }

    /// Gives a lease back: what is there is removed if nobody has changed it.
    async fn give_back(&self, cas: u64) -> Result<(), RemoteError> {
        let delete = Command::Delete { key: Arc::clone(&self.key), unchanged: Some(cas) };
        self.server.change(delete, self.errand).await.map(drop)
    }

    async fn let_others_win(&self, cas: u64) -> Result<(), RemoteError> {
        let mark = Command::LetOthersWin { key: Arc::clone(&self.key), cas };
        self.server.change(mark, self.errand).await.map(drop)
    }

    /// Removes the entry wherever this process could find it. A server that cannot be told now is
    /// told before this process asks it for the key again.
    ///
    /// # Errors
    /// Where the key's own server could not be told, or all that stand in for it: to others they
    /// may serve what they have meanwhile.
    pub(crate) async fn forget(&self) -> Result<(), RemoteError> {
        self.forget_but_on(None).await
    }

    /// The same, but for the server that was just written to.
    async fn forget_but_on(&self, written: Option<&Arc<Server>>) -> Result<(), RemoteError> {
        let deadline = Instant::now() + self.server.timeout;
        let mut order: Vec<&Arc<Server>> = self.servers.iter().collect();
        order.sort_by_key(|server| std::cmp::Reverse(server.score(self.digest)));
        let mut forgotten = Ok(());
        let mut key = Arc::clone(&self.home);
        // The next in order too, always: for another process it may stand in already.
        let mut is_last = false;
        for server in order {
            let told = match written {
                Some(written) if Arc::ptr_eq(written, server) => Ok(()),
                _ => server.forget(&key, deadline).await,
            };
            let is_told = told.is_ok() && server.health.is_settled();
            if !is_last {
                forgotten = forgotten.and(told);
            }
            if is_last && is_told {
                break;
            }
            is_last = is_last || is_told;
            key = self.gutter_key();
        }
        forgotten
    }

    /// Of its own, so that what a server has as the key's own and what it has in another's place
    /// are never taken for each other.
    fn gutter_key(&self) -> Arc<str> {
        format!("{}:gutter", self.home).into()
    }
}

/// Rounded down: an item may live shorter than its ttl, never longer.
pub(crate) fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
