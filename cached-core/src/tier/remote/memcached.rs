//! The remote tier: memcached. Which server a key lives on, the lease, the fill, the deadline.
//!
//! Nothing here fails a call. A server that errs or is late costs at most the deadline, and, once
//! it has done so a few times, nothing.

mod background;
mod cas;
mod client;
mod command;
mod connection;
mod dial;
mod direct;
mod health;
mod hints;
mod join;
mod lease;
mod marker;
#[cfg(feature = "testing")]
pub(crate) mod memory;
mod orphaned_writes;
mod pipeline;
mod pipelines;
mod probe;
mod protocol;
mod queue;
mod refresh_claims;
mod renewals;
mod route;
mod server;
mod timer;
mod wait_breaker;
mod wire;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::config::Config;
use crate::event::Events;
use crate::key::Key;
pub(crate) use background::BackgroundWrite;
use background::BackgroundWrites;
pub(crate) use cas::Cas;
pub(crate) use lease::Lease;
pub(crate) use marker::LeaseMarker;
use refresh_claims::RefreshClaims;
pub(crate) use renewals::LeaseRequest;
use renewals::Renewals;
pub(crate) use route::RemoteKey;
use server::Server;

/// memcached takes a longer relative lifetime for a date.
pub(crate) const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long the *gutter* keeps what it holds for a server that is out of reach: the next server in
/// a key's order, under a key of its own, and never the one after that, so that an invalidation has
/// two servers to reach and no more. Long enough to spare the upstream, short enough for what other
/// processes invalidate meanwhile.
const GUTTER_TTL: Duration = Duration::from_secs(10);

pub(crate) struct Remote {
    servers: RwLock<Servers>,
    /// The addresses of those that were taken out.
    former: Mutex<HashSet<String>>,
    config: Config,
    events: Events,
    background: Arc<BackgroundWrites>,
    renewals: Arc<Renewals>,
    refresh_claims: RefreshClaims,
}

type Servers = Arc<[Arc<Server>]>;

/// What a read found.
#[derive(Debug)]
pub(crate) enum Found {
    Item(Item),
    /// Nothing, and the caller has the right to fill it: the CAS of the lease.
    Lease(Cas),
    /// Nothing yet: another caller has the right to fill it.
    Busy(BusyLease),
    /// Nothing, on a read that asked for no lease.
    Nothing,
}

/// Another caller's lease, as a read shows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BusyLease {
    /// The CAS of its placeholder or marker.
    pub(crate) cas: Option<Cas>,
    /// The holder's own word on the fetch, once it has renewed the lease.
    pub(crate) marker: Option<LeaseMarker>,
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) frame: Vec<u8>,
    pub(crate) cas: Cas,
    /// When the server lets go of it, at the earliest.
    pub(crate) gone: Instant,
    /// Whether the caller has won the right to replace it, as it is about to go.
    pub(crate) won: bool,
    /// Whether somebody had won that before, and has given it back.
    pub(crate) given_back: bool,
    /// Whether it stands in for what is out of reach, and is not kept beyond its lifetime.
    pub(crate) in_gutter: bool,
}

impl Item {
    fn new(frame: Vec<u8>, cas: Cas, gone: Instant) -> Item {
        Item { frame, cas, gone, won: false, given_back: false, in_gutter: false }
    }
}

/// What a read asks for beside the value.
#[derive(Debug, Clone, Copy)]
struct LeaseTerms {
    /// How long the right to fill lasts.
    seconds: u32,
    /// An item with less than this left may be replaced by one caller; 0 for none.
    claim_below_seconds: u32,
}

/// How a write is conditioned.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Condition {
    /// Only where nothing is.
    Absent,
    /// Only where nothing has happened since the read that gave this CAS.
    Unchanged(Cas),
    Always,
}

/// Why an exchange with memcached came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteError {
    pub(crate) why: String,
    kind: RemoteErrorKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RemoteErrorKind {
    /// The server did not answer, or is ejected since it did not.
    Lost,
    /// The server answers and refuses everything, or is ejected since it does: it asks for a
    /// password, is too old, or is not a memcached.
    Unusable,
    /// The server is well, and did not take this command.
    Refused,
    /// The server is well, and takes no item of this size.
    TooLarge,
    /// The server was not asked.
    NotAsked,
}

impl RemoteError {
    fn lost(why: impl Into<String>) -> RemoteError {
        RemoteError { why: why.into(), kind: RemoteErrorKind::Lost }
    }

    /// Returns true if the server takes no item of this size, whatever is done.
    pub(crate) fn is_too_large(&self) -> bool {
        self.kind == RemoteErrorKind::TooLarge
    }

    /// Returns true if the server answers and refuses what it is asked. A read that is refused says that
    /// nothing can be shared through this server.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.kind, RemoteErrorKind::Unusable | RemoteErrorKind::Refused)
    }

    /// Returns true if another server is to stand in for this one.
    fn is_out_of_reach(&self) -> bool {
        matches!(self.kind, RemoteErrorKind::Lost | RemoteErrorKind::Unusable)
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Remote {
    /// `None` where no server is configured.
    pub(crate) fn new(config: &Config, events: &Events) -> Option<Remote> {
        let timeout = timeout_of_one(config, config.servers.len());
        let servers: Servers = config
            .servers
            .iter()
            .map(|address| Server::new(address, config, events, timeout, false))
            .collect();
        (!servers.is_empty()).then(|| Remote {
            servers: RwLock::new(servers),
            former: Mutex::default(),
            config: config.clone(),
            events: events.clone(),
            background: Arc::default(),
            renewals: Arc::default(),
            refresh_claims: RefreshClaims::default(),
        })
    }

    /// Takes other servers from now on. Those that stay keep their connections and their state.
    pub(crate) fn set_servers(&self, addresses: &[String]) {
        let mut servers = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = timeout_of_one(&self.config, addresses.len());
        let kept = |address: &String| servers.iter().find(|server| server.address == *address);
        let next: Servers = addresses
            .iter()
            .map(|address| match kept(address) {
                Some(server) => {
                    server.set_timeout(timeout);
                    Arc::clone(server)
                }
                None => {
                    let server = Server::new(address, &self.config, &self.events, timeout, true);
                    // What changed since it was here it was not told.
                    if former.contains(address) {
                        server.fence(None);
                    }
                    server
                }
            })
            .collect();
        for gone in servers.iter().filter(|server| !addresses.contains(&server.address)) {
            former.insert(gone.address.clone());
            gone.retire();
            // What its keys' former servers have of them is from before it came.
            if gone.was_added {
                next.iter().for_each(|server| server.fence(Some(gone)));
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
        let (mut home, mut gutter): (Option<(u64, &Arc<Server>)>, _) = (None, None);
        for server in servers.iter() {
            let scored = (server.score(digest), server);
            if home.is_none_or(|(best, _)| scored.0 > best) {
                gutter = home.replace(scored);
            } else if gutter.is_none_or(|(next, _)| scored.0 > next) {
                gutter = Some(scored);
            }
        }
        let gutter = gutter.map(|(_, server)| Arc::clone(server));
        let home_key = key.text();
        let timeout = self.config.remote_timeout;
        Some(RemoteKey::new(digest, Arc::clone(home?.1), gutter, home_key, timeout))
    }

    /// Reads several keys, all servers at once and each in one round trip. Answers in order; a
    /// key whose server failed is not found.
    pub(crate) async fn read_many(
        &self,
        keys: &[RemoteKey],
    ) -> Vec<Result<Option<Item>, RemoteError>> {
        let mut groups: Vec<(Arc<Server>, Vec<usize>)> = Vec::new();
        // What a server was not told yet it is not asked for.
        let served = |(_, key): &(usize, &RemoteKey)| key.server().serves(&key.key);
        for (index, key) in keys.iter().enumerate().filter(served) {
            match groups.iter_mut().find(|(server, _)| Arc::ptr_eq(server, key.server())) {
                Some((_, group)) => group.push(index),
                None => groups.push((Arc::clone(key.server()), vec![index])),
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
        let lost = || RemoteError::lost("its server was not asked, or the exchange was lost");
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
    pub(crate) fn is_lost(&self, key: &RemoteKey, cas: Cas, lease: Duration) -> bool {
        self.refresh_claims.is_lost(&key.key, cas, lease)
    }

    /// Counts a lease as asked for, and says how long it is to last before its holder renews it.
    pub(crate) fn request_lease(&self) -> (LeaseRequest, Duration) {
        let request = LeaseRequest::new(&self.renewals);
        let lease = self.config.lease.unwrap_or_else(|| request.first_lease());
        (request, lease)
    }

    /// Runs a fill of about so many bytes off the caller's path. Returns false, and drops it, if too
    /// much waits to be written.
    pub(crate) fn in_background(&self, bytes: usize, write: BackgroundWrite) -> bool {
        self.background.fill(bytes, write)
    }

    /// Waits until no write is under way; not for one whose runtime is not driven.
    pub(crate) async fn flush(&self) {
        // Without a runtime here there is no clock to wait by.
        let Ok(runtime) = Handle::try_current() else { return };
        let done = self.background.done();
        if pipelines::is_without_drivers(&runtime) {
            done.await;
        } else {
            timer::run_until(Instant::now() + server::BACKGROUND_TIMEOUT, done).await;
        }
    }
}

/// How long one exchange may take: a lookup whose server hangs has time left for the gutter, which
/// answers in a fraction of what is long for a server.
fn timeout_of_one(config: &Config, servers: usize) -> Duration {
    match servers {
        1 => config.remote_timeout,
        _ => config.remote_timeout * 3 / 4,
    }
}

/// Rounded down: an item may live shorter than its ttl, never longer.
pub(crate) fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
