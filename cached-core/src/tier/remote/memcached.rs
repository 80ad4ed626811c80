//! The remote store that uses memcached: choice of servers, leases, writes and deadlines.
//!
//! If memcached fails, calls of the annotated functions still succeed. A server that does not
//! answer delays a call by about the cache's `remote_timeout` at most. After a few failures the
//! server is *ejected*: calls send no commands to the server until it has recovered.
//!
//! A key has two *slots*, which are two names in memcached. An entry is usually in the first slot.
//! A *build* is one compiled version of the program. If another build has stored an entry in the
//! first slot and this build cannot decode it, this build uses the second slot.
//!
//! A *lease* is the right to run the annotated function for a missing value. On the server, a new
//! lease is a *placeholder*, an empty item. A *refresh claim* is the right to run the function
//! again before an item expires. A *permit* is the right to write one value to a key, provided that
//! the key has not changed since the permit was given. A server's *fence* is a version number.
//! Items with a lower version may be stale.

mod background;
mod cas;
mod client;
mod command;
mod connection;
mod dial;
mod direct;
mod endpoint;
mod fallback_runtime;
mod health;
mod identity;
mod item;
mod lease;
mod lease_wait;
mod marker;
#[cfg(feature = "testing")]
pub(crate) mod memory;
mod observed_claims;
mod permit;
mod pipeline;
mod pipelines;
mod probe;
mod protocol;
mod queue;
mod renewals;
mod returning_leases;
mod route;
mod run_all;
mod server;
mod timer;
mod wait_breaker;
mod wire;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{
    BackgroundWriteFn, DecodedFrame, IfMissing, Item, LeaseOptions, ReadHandler, ReadOutcome,
    RefreshClaimOutcome, RemoteError, RemoteErrorKind, RemoteStore, TtlLimits, WriteOutcome,
};
use crate::config::Config;
use crate::event::EventDispatcher;
use crate::key::Key;
use crate::stats::ServerStats;
use crate::sync::lock;
use crate::telemetry::in_current_span;
use item::{LONGEST_TTL, RawItem, ReadReply, WriteCondition};
use lease_wait::LeaseWait;
use permit::{MemcachedPermit, SharedPermitState};
use renewals::LeaseCountGuard;
use route::KeyRoute;
use server::Server;

/// The memcached servers of one cache.
///
/// Each key has a *home server*. While the home server is out of reach, a second server, the key's
/// *gutter server*, keeps the key's items for a few seconds, under another name. A key has only one
/// gutter server, so an invalidation needs to reach only two servers.
pub(crate) struct MemcachedStore {
    servers: RwLock<Servers>,
    /// The addresses of servers that were removed from the configuration.
    removed_addresses: Mutex<HashSet<String>>,
    config: Config,
    events: EventDispatcher,
    shared_permit_state: Arc<SharedPermitState>,
}

type Servers = Arc<[Arc<Server>]>;

impl MemcachedStore {
    /// Returns `None` if no server is configured.
    pub(crate) fn new(config: &Config, events: &EventDispatcher) -> Option<MemcachedStore> {
        let timeout = exchange_timeout(config, config.servers.len());
        let servers: Servers = config
            .servers
            .iter()
            .map(|address| Server::new(address, config, events, timeout, false))
            .collect();
        (!servers.is_empty()).then(|| MemcachedStore {
            servers: RwLock::new(servers),
            removed_addresses: Mutex::default(),
            config: config.clone(),
            events: events.clone(),
            shared_permit_state: Arc::default(),
        })
    }

    /// Returns a number that identifies this program, if one is known. Builds of the program have
    /// different numbers.
    #[cfg_attr(not(feature = "testing"), expect(unused_variables))]
    pub(crate) fn program_id(config: &Config) -> Option<u64> {
        // Servers in memory serve only this process. The process id thus identifies the program.
        #[cfg(feature = "testing")]
        if config.in_memory_servers.is_some() {
            return Some(u64::from(std::process::id()));
        }
        crate::program::fingerprint()
    }

    /// Replaces the list of servers. A server on both the old and the new list keeps its
    /// connections and its state.
    pub(crate) fn set_servers(&self, addresses: &[String]) {
        let mut servers = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        let mut removed_addresses = lock(&self.removed_addresses);
        let timeout = exchange_timeout(&self.config, addresses.len());
        let mut fenced = Vec::new();
        let find_kept =
            |address: &String| servers.iter().find(|server| server.address() == address);
        let next: Servers = addresses
            .iter()
            .map(|address| match find_kept(address) {
                Some(server) => {
                    server.set_timeout(timeout);
                    Arc::clone(server)
                }
                None => {
                    let server = Server::new(address, &self.config, &self.events, timeout, true);
                    // While the server was not on the list, it may have missed invalidations.
                    if removed_addresses.contains(address) {
                        server.raise_fence(None);
                        fenced.push(Arc::clone(&server));
                    }
                    server
                }
            })
            .collect();
        for removed in servers
            .iter()
            .filter(|server| !addresses.iter().any(|address| address == server.address()))
        {
            removed_addresses.insert(removed.address().to_owned());
            removed.retire();
            // When the removed server was added, it took over keys from the other servers. These
            // keys now go back to their former servers, which may still hold older items.
            if removed.was_added {
                next.iter().for_each(|server| server.raise_fence(Some(removed)));
                fenced.extend(next.iter().map(Arc::clone));
            }
        }
        *servers = next;
        drop(removed_addresses);
        drop(servers);
        // `report_fence` calls the program's observers. An observer can block, or call into the
        // cache. The locks must be released first.
        fenced.iter().for_each(|server| server.report_fence());
    }

    /// Returns true if one of the servers has this address.
    #[cfg(feature = "testing")]
    pub(crate) fn has_server(&self, address: &str) -> bool {
        self.servers().iter().any(|server| server.address() == address)
    }

    /// Returns the address of the server from which a lookup would now read the key.
    #[cfg(feature = "console")]
    pub(crate) fn server_of(&self, key: &Key) -> Option<String> {
        Some(self.route(key).ok()?.server().address().to_owned())
    }

    fn servers(&self) -> Servers {
        Arc::clone(&self.servers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the key's route: the two servers that score highest for the key. This is rendezvous
    /// hashing (Thaler and Ravishankar 1998): if a server is removed, only its own keys move to
    /// other servers.
    fn route(&self, key: &Key) -> Result<KeyRoute, RemoteError> {
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
        let Some((_, home)) = home else {
            return Err(RemoteError::new(
                RemoteErrorKind::NotAsked,
                "there is no memcached server",
            ));
        };
        let gutter = gutter.map(|(_, server)| Arc::clone(server));
        let timeout = self.config.remote_timeout;
        Ok(KeyRoute::new(digest, Arc::clone(home), gutter, key.text(), timeout))
    }

    /// Decodes an item. Returns `Continue` with the route to the key's second slot if the first
    /// slot holds another build's entry.
    fn decode<H: ReadHandler>(
        &self,
        item: RawItem,
        mut route: KeyRoute,
        handler: &H,
    ) -> ControlFlow<Item<H::Decoded, MemcachedPermit>, KeyRoute> {
        let value = match handler.decode(&item.frame) {
            DecodedFrame::Value(value) => Some(value),
            DecodedFrame::Foreign if !route.is_in_second_slot() => {
                if item.is_claimed {
                    // Dropping the permit gives back the refresh claim of the first slot's item.
                    drop(MemcachedPermit::of_item(&self.shared_permit_state, route.clone(), &item));
                }
                route.use_second_slot();
                return ControlFlow::Continue(route);
            }
            DecodedFrame::Foreign | DecodedFrame::Corrupt => None,
        };
        let claim = match (item.is_claimed, item.was_given_back) {
            (true, false) => RefreshClaimOutcome::Won,
            (true, true) => RefreshClaimOutcome::WonAfterReturn,
            (false, _) => RefreshClaimOutcome::NotWon,
        };
        ControlFlow::Break(Item {
            value,
            removable_from: item.removable_from,
            removed_by: item.removed_by,
            is_kept_expired: !route.is_in_gutter(),
            claim,
            permit: MemcachedPermit::of_item(&self.shared_permit_state, route, &item),
        })
    }

    /// Reads the item of each route. An *exchange* sends commands to one server and receives the
    /// replies. There is one exchange for each server, and all exchanges run at once. Returns the
    /// results in the order of `routes`.
    ///
    /// If a route's server does not serve the key at the moment, the route's result is an error.
    /// Outside a tokio runtime nothing is read, and every result is `Ok(None)`.
    async fn read_routes(
        &self,
        routes: &[(usize, KeyRoute)],
    ) -> Vec<Result<Option<RawItem>, RemoteError>> {
        let lost = || RemoteError::new(RemoteErrorKind::Unreachable, "the exchange was cancelled");
        let mut results: Vec<_> = routes.iter().map(|_| Err(lost())).collect();
        let mut groups: Vec<(Arc<Server>, Vec<usize>)> = Vec::new();
        for (index, (_, route)) in routes.iter().enumerate() {
            if !route.server().serves(&route.key) {
                results[index] = Err(route.server().not_served_error());
                continue;
            }
            match groups.iter_mut().find(|(server, _)| Arc::ptr_eq(server, route.server())) {
                Some((_, group)) => group.push(index),
                None => groups.push((Arc::clone(route.server()), vec![index])),
            }
        }
        if Handle::try_current().is_err() {
            return routes.iter().map(|_| Ok(None)).collect();
        }
        let mut exchanges = tokio::task::JoinSet::new();
        for (server, group) in groups {
            let keys: Vec<_> =
                group.iter().map(|&index| Arc::clone(&routes[index].1.key)).collect();
            let read = async move { (group, server.read_many(&keys).await) };
            exchanges.spawn(in_current_span(read));
        }
        while let Some(exchange) = exchanges.join_next().await {
            let Ok((group, read)) = exchange else {
                continue;
            };
            match read {
                Ok(items) => group.into_iter().zip(items).for_each(|(index, item)| {
                    results[index] = Ok(item.map(|item| routes[index].1.empty_if_fenced(item)));
                }),
                Err(error) => {
                    group.into_iter().for_each(|index| results[index] = Err(error.clone()));
                }
            }
        }
        results
    }

    /// Adds one to the count of leases until the returned guard is dropped. Also returns how long
    /// memcached should keep the lease's placeholder. A read that may win a lease must call this
    /// function first.
    fn count_lease(&self) -> (LeaseCountGuard, Duration) {
        let count = LeaseCountGuard::new(&self.shared_permit_state.renewals);
        let length = self.config.lease.unwrap_or_else(|| count.placeholder_length());
        (count, length)
    }
}

impl RemoteStore for MemcachedStore {
    type Permit = MemcachedPermit;

    const LIMITS: TtlLimits =
        TtlLimits { ttl_granularity: Duration::from_secs(1), longest_ttl: LONGEST_TTL };

    fn read<H: ReadHandler>(
        self: &Arc<Self>,
        key: &Key,
        handler: &H,
        if_missing: IfMissing,
    ) -> impl Future<Output = Result<ReadOutcome<H::Decoded, MemcachedPermit>, RemoteError>> + Send
    {
        let route = self.route(key).inspect_err(|error| handler.read_failed(error));
        // The future of an `async fn` stores its arguments twice. This `async` block does not, so
        // the future of a remote hit stays small.
        async move {
            let mut route = route?;
            if route.is_in_gutter() {
                handler.gutter_asked();
            }
            let lease = match if_missing {
                IfMissing::Lease(options) => Some((options, self.count_lease())),
                IfMissing::Report | IfMissing::PermitWithoutLease => None,
            };
            let mut wait: Option<LeaseWait> = None;
            let mut has_waited_for_return = false;
            loop {
                let request = lease.as_ref().map(|(options, (_, length))| {
                    route.lease_request(*length, options.refresh_before_removal)
                });
                let found = route.read(request).await;
                if wait.is_some() && matches!(found, Ok(ReadReply::Item(_) | ReadReply::Lease(_))) {
                    route.record_lease_progress();
                }
                let busy = match found {
                    Ok(ReadReply::Item(item)) => match self.decode(item, route, handler) {
                        ControlFlow::Break(item) => return Ok(ReadOutcome::Item(item)),
                        ControlFlow::Continue(second_slot) => {
                            route = second_slot;
                            continue;
                        }
                    },
                    Ok(ReadReply::Lease(cas)) => {
                        let Some((LeaseOptions { fetch_time, .. }, (_, length))) = lease else {
                            // The read did not ask for a lease, so this reply is wrong.
                            return Ok(ReadOutcome::Missing);
                        };
                        let expected = fetch_time.unwrap_or_default();
                        let permit = MemcachedPermit::lease(
                            &self.shared_permit_state,
                            route,
                            cas,
                            length,
                            expected,
                        );
                        return Ok(ReadOutcome::Permit(permit));
                    }
                    Ok(ReadReply::Nothing) => {
                        return Ok(match if_missing {
                            IfMissing::PermitWithoutLease => ReadOutcome::Permit(
                                MemcachedPermit::add(&self.shared_permit_state, route, None),
                            ),
                            IfMissing::Report | IfMissing::Lease(_) => ReadOutcome::Missing,
                        });
                    }
                    Ok(ReadReply::Busy(busy)) => busy,
                    Err(error) => {
                        handler.read_failed(&error);
                        if route.try_gutter(&error) {
                            continue;
                        }
                        return match wait {
                            None => Err(error),
                            // The call has waited for another caller's lease, so the server has
                            // replied before. This failure counts as a miss.
                            Some(_) => Ok(ReadOutcome::Missing),
                        };
                    }
                };
                let options = match (if_missing, busy.cas) {
                    (IfMissing::Lease(options), _) => options,
                    (IfMissing::PermitWithoutLease, Some(cas)) => {
                        let permit =
                            MemcachedPermit::add(&self.shared_permit_state, route, Some(cas));
                        return Ok(ReadOutcome::Permit(permit));
                    }
                    (IfMissing::PermitWithoutLease, None) => return Ok(ReadOutcome::Busy),
                    (IfMissing::Report, _) => return Ok(ReadOutcome::Missing),
                };
                if wait.is_none() {
                    // The lease that keeps the key busy may be one that this process is giving
                    // back.
                    if !has_waited_for_return {
                        has_waited_for_return = true;
                        let (returning, limit) =
                            (&self.shared_permit_state.returning, self.config.remote_timeout);
                        // The box keeps the future of a read small.
                        if Box::pin(returning.wait_for(&route.key, limit)).await {
                            continue;
                        }
                    }
                    handler.lease_held_elsewhere();
                }
                if !options.waits {
                    return Ok(ReadOutcome::Busy);
                }
                let wait = wait.get_or_insert_with(|| {
                    LeaseWait::new(&self.config, options.fetch_time, &route)
                });
                match wait.next_pause(&busy) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => {
                        wait.give_up(&route, &busy);
                        return Ok(ReadOutcome::Busy);
                    }
                }
            }
        }
    }

    async fn read_many<H: ReadHandler>(
        self: &Arc<Self>,
        keys: &[(Key, &H)],
    ) -> Vec<Option<Item<H::Decoded, MemcachedPermit>>> {
        let mut items: Vec<_> = keys.iter().map(|_| None).collect();
        let route = |(index, (key, _)): (usize, &(Key, &H))| Some((index, self.route(key).ok()?));
        let mut routes: Vec<_> = keys.iter().enumerate().filter_map(route).collect();
        // A second round reads the second slot of each key whose first slot holds another build's
        // entry.
        while !routes.is_empty() {
            let results = self.read_routes(&routes).await;
            let mut second_slots = Vec::new();
            for ((index, route), result) in routes.into_iter().zip(results) {
                let handler = keys[index].1;
                match result {
                    Ok(Some(item)) => match self.decode(item, route, handler) {
                        ControlFlow::Break(item) => items[index] = Some(item),
                        ControlFlow::Continue(route) => second_slots.push((index, route)),
                    },
                    Ok(None) => {}
                    Err(error) => handler.read_failed(&error),
                }
            }
            routes = second_slots;
        }
        items
    }

    async fn overwrite(
        self: &Arc<Self>,
        key: &Key,
        frame: Vec<u8>,
        ttl: Duration,
        keep_expired: Duration,
    ) -> Result<WriteOutcome, RemoteError> {
        self.route(key)?.write(frame, ttl, keep_expired, WriteCondition::Always).await
    }

    async fn remove(
        self: &Arc<Self>,
        key: &Key,
        started: Option<Instant>,
    ) -> Result<(), RemoteError> {
        self.route(key)?.remove(started).await
    }

    fn run_in_background(&self, bytes: usize, write: BackgroundWriteFn) -> bool {
        self.shared_permit_state.background.queue_fill(bytes, write)
    }

    async fn flush(&self) {
        // Outside of a runtime no timer can bound the wait, so `flush` does not wait.
        let Ok(runtime) = Handle::try_current() else { return };
        let done = self.shared_permit_state.background.wait_until_done();
        if pipelines::is_without_drivers(&runtime) {
            done.await;
        } else {
            timer::run_until(Instant::now() + server::BACKGROUND_TIMEOUT, done).await;
        }
    }

    fn servers(&self) -> Vec<ServerStats> {
        MemcachedStore::servers(self).iter().map(|server| server.stats()).collect()
    }
}

/// Returns the timeout of one exchange. With several servers the timeout is shorter than
/// `remote_timeout`. If the home server hangs, a lookup then has time left to read from the gutter
/// server.
fn exchange_timeout(config: &Config, servers: usize) -> Duration {
    match servers {
        1 => config.remote_timeout,
        _ => config.remote_timeout * 3 / 4,
    }
}
