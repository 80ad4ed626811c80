//! A memcached server in memory, for tests of programs that use this crate. Its items expire
//! according to a clock that the test moves. The test can make the server fail, stall or lie.
//!
//! A property test compares the replies of this server with those of a real memcached.
//!
//! A *lease* is one reader's right to fill a missing item, and a *refresh claim* is one reader's
//! right to fetch a stored value again. [`command`](super::command) describes both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::cas::Cas;
use super::cas::Incarnation;
use super::command::{Command, CommandError, CommandResult, Reply};
use super::item::{BusyLease, LeaseRequest, RawItem, ReadReply, WriteCondition};
use super::marker::LeaseMarker;
use crate::clock::Clock;
use crate::sync::lock;

/// The largest item that a memcached stores by default.
const ITEM_LIMIT: usize = 1 << 20;

/// One server in memory.
#[derive(Debug, Default)]
pub(crate) struct InMemoryServer {
    clock: Clock,
    state: Mutex<InMemoryState>,
}

#[derive(Debug, Default)]
struct InMemoryState {
    behaviour: ServerBehaviour,
    /// The map is ordered, so that a lying server gives the same wrong replies in each test run.
    items: BTreeMap<Arc<str>, StoredItem>,
    last_cas: u64,
    /// The number of restarts of the server.
    restarts: u64,
    /// The number of commands that the server has received.
    commands: u64,
    /// The number of lies that the server has told.
    lies: usize,
}

/// The servers of one test, by address. Clones share the same servers.
#[derive(Debug, Clone, Default)]
pub(crate) struct InMemoryServers {
    clock: Clock,
    servers: Arc<Mutex<BTreeMap<String, Arc<InMemoryServer>>>>,
}

impl InMemoryServers {
    pub(crate) fn new(clock: Clock) -> InMemoryServers {
        InMemoryServers { clock, servers: Arc::default() }
    }

    /// Returns the server at an address. The first call for an address creates the server.
    pub(crate) fn at(&self, address: &str) -> Arc<InMemoryServer> {
        let mut servers = lock(&self.servers);
        let new = || Arc::new(InMemoryServer::new(self.clock.clone()));
        Arc::clone(servers.entry(address.to_owned()).or_insert_with(new))
    }
}

/// The way in which an in-memory server treats commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ServerBehaviour {
    #[default]
    Honest,
    /// Refuses every connection.
    Down,
    /// Accepts commands and never replies.
    Stalled,
    /// Replies to reads with wrong items, and confirms writes without storing them.
    Lying,
}

/// An item on the server. Its frame is the encoded entry. An item with an empty frame is a
/// placeholder, which shows that a reader holds the lease.
#[derive(Debug)]
struct StoredItem {
    frame: Vec<u8>,
    cas: Cas,
    expires: Instant,
    /// True if a reader holds the lease or the refresh claim.
    is_claimed: bool,
    /// True if a reader has given back the refresh claim. The next read then wins the claim.
    is_stale: bool,
}

impl InMemoryServer {
    pub(crate) fn new(clock: Clock) -> InMemoryServer {
        InMemoryServer { clock, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, InMemoryState> {
        lock(&self.state)
    }

    pub(crate) fn set_behaviour(&self, behaviour: ServerBehaviour) {
        self.lock().behaviour = behaviour;
    }

    /// Removes all items, and counts the CAS numbers (version numbers of items) from the start
    /// again. A restart of memcached does the same.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        state.items.clear();
        (state.last_cas, state.restarts) = (0, state.restarts + 1);
    }

    /// Returns how many commands the server has received.
    pub(crate) fn commands(&self) -> u64 {
        self.lock().commands
    }

    /// Returns true if the server has a value under `key`.
    pub(crate) fn holds(&self, key: &str) -> bool {
        let now = self.clock.now();
        self.lock().items.get(key).is_some_and(|item| item.expires > now && !item.frame.is_empty())
    }

    /// Runs the commands, and returns the results in order.
    pub(super) async fn run(&self, commands: Vec<Command>) -> Vec<CommandResult> {
        let behaviour = self.lock().behaviour;
        match behaviour {
            ServerBehaviour::Down => commands
                .iter()
                .map(|_| Err(CommandError::unreachable("connection refused")))
                .collect(),
            ServerBehaviour::Stalled => std::future::pending().await,
            ServerBehaviour::Honest | ServerBehaviour::Lying => {
                let (now, mut state) = (self.clock.now(), self.lock());
                commands.into_iter().map(|command| state.reply_to(command, now)).collect()
            }
        }
    }
}

impl InMemoryState {
    fn reply_to(&mut self, command: Command, now: Instant) -> CommandResult {
        self.commands += 1;
        if self.items.get(command.key()).is_some_and(|item| item.expires <= now) {
            self.items.remove(command.key());
        }
        if self.behaviour == ServerBehaviour::Lying {
            return Ok(self.lie(&command, now));
        }
        match command {
            Command::Read { key, lease } => Ok(Reply::Read(self.read(key, lease, now))),
            Command::Write { key, frame, .. } if frame.len() > ITEM_LIMIT => {
                // memcached also removes the old item, because that item is out of date.
                self.items.remove(&key);
                Err(CommandError::too_large("object too large for cache"))
            }
            Command::Write { key, frame, seconds, condition } => {
                let stored = self.items.get(&key);
                let applies = match condition {
                    WriteCondition::Always => true,
                    WriteCondition::Absent => stored.is_none(),
                    WriteCondition::Unchanged(cas) => stored.is_some_and(|item| item.cas == cas),
                };
                if applies {
                    self.store(key, frame.to_vec(), seconds, now);
                }
                Ok(Reply::Applied(applies))
            }
            Command::Renew { key, marker, seconds, cas } => {
                let applies = self.is_unchanged(&key, Some(cas));
                Ok(Reply::Renewed(applies.then(|| self.store(key, marker.to_vec(), seconds, now))))
            }
            Command::Delete { key, only_if } => {
                let applies = self.is_unchanged(&key, only_if);
                if applies {
                    self.items.remove(&key);
                }
                Ok(Reply::Applied(applies))
            }
            Command::ReleaseRefresh { key, cas } => {
                let applies = self.is_unchanged(&key, Some(cas));
                let next = self.next_cas();
                if let Some(item) = self.items.get_mut(&key).filter(|_| applies) {
                    (item.cas, item.is_claimed, item.is_stale) = (next, false, true);
                }
                Ok(Reply::Applied(applies))
            }
        }
    }

    fn next_cas(&mut self) -> Cas {
        self.last_cas += 1;
        Cas { number: self.last_cas, incarnation: self.incarnation() }
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation::new(0, self.restarts)
    }

    /// Returns a CAS that no item has. A lying server uses it in its wrong replies.
    fn no_cas(&self) -> Cas {
        Cas { number: u64::MAX, incarnation: self.incarnation() }
    }

    /// Returns true if the key has an item. If a CAS is `required`, the item must have this CAS.
    fn is_unchanged(&self, key: &str, required: Option<Cas>) -> bool {
        self.items.get(key).is_some_and(|item| required.is_none_or(|cas| item.cas == cas))
    }

    fn store(&mut self, key: Arc<str>, frame: Vec<u8>, seconds: u32, now: Instant) -> Cas {
        let expires = now + Duration::from_secs(seconds.into());
        let cas = self.next_cas();
        self.items
            .insert(key, StoredItem { frame, cas, expires, is_claimed: false, is_stale: false });
        cas
    }

    fn read(&mut self, key: Arc<str>, lease: Option<LeaseRequest>, now: Instant) -> ReadReply {
        let Some(item) = self.items.get_mut(&key) else {
            let Some(lease) = lease else { return ReadReply::Nothing };
            let cas = self.store(Arc::clone(&key), Vec::new(), lease.seconds, now);
            self.items.entry(key).and_modify(|placeholder| placeholder.is_claimed = true);
            return ReadReply::Lease(cas);
        };
        let left = item.expires.saturating_duration_since(now);
        let claim_below_seconds = lease.map_or(0, |lease| lease.claim_below_seconds);
        // memcached rounds the remaining time up to whole seconds. The item is due if the rounded
        // time is below the limit.
        let is_due = item.is_stale
            || left + Duration::from_secs(1) <= Duration::from_secs(claim_below_seconds.into());
        let wins = is_due && !item.is_claimed;
        item.is_claimed |= wins;
        let busy = |marker| BusyLease { cas: Some(item.cas), marker, expires: Some(item.expires) };
        if let Some(marker) = LeaseMarker::decode(&item.frame) {
            return ReadReply::Busy(busy(Some(marker)));
        }
        match item.frame.is_empty() {
            true if wins => ReadReply::Lease(item.cas),
            true => ReadReply::Busy(busy(None)),
            false => {
                let StoredItem { cas, expires, is_stale, .. } = *item;
                let item = RawItem::new(item.frame.clone(), cas, expires);
                ReadReply::Item(RawItem { is_claimed: wins, was_given_back: is_stale, ..item })
            }
        }
    }

    /// Returns a wrong reply. Successive reads return in turn: a lease that does not exist, another
    /// key's item, a truncated item, a garbled item, and no item. Every other command is confirmed
    /// and has no effect.
    fn lie(&mut self, command: &Command, now: Instant) -> Reply {
        let Command::Read { key, .. } = command else { return Reply::Applied(true) };
        self.lies += 1;
        let is_value = |(_, item): &(&Arc<str>, &StoredItem)| !item.frame.is_empty();
        let mut others = self.items.iter().filter(|(other, _)| *other != key).filter(is_value);
        let own = self.items.get(key).map(|item| item.frame.clone()).unwrap_or_default();
        let frame = match self.lies % 5 {
            0 => return Reply::Read(ReadReply::Nothing),
            1 => return Reply::Read(ReadReply::Lease(self.no_cas())),
            2 => others.next().map_or_else(|| b"no entry of yours".to_vec(), |o| o.1.frame.clone()),
            3 => own[..own.len() / 2].to_vec(),
            _ => own.iter().map(|byte| byte ^ 1).collect(),
        };
        let removable_from = now + Duration::from_secs(60);
        Reply::Read(ReadReply::Item(RawItem::new(frame, self.no_cas(), removable_from)))
    }
}

#[cfg(test)]
mod tests;
