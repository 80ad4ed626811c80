//! A memcached in memory, for users' tests: it keeps what it is told, counts lifetimes by the
//! clock that the test moves, and fails, stalls or lies when it is asked to.
//!
//! It answers as a memcached does; `tests` holds it against one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cas::Incarnation;
use super::command::{Command, CommandError, CommandResult, Reply};
use super::marker::LeaseMarker;
use super::{BusyLease, Cas, Condition, Found, FoundItem, LeaseTerms};
use crate::clock::Clock;

/// The largest item that a memcached takes unless it is told otherwise.
const ITEM_LIMIT: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct InMemoryServer {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    behaviour: ServerBehaviour,
    // Ordered, so that a lie is the same lie each time.
    items: BTreeMap<Arc<str>, StoredItem>,
    last_cas: u64,
    /// How often it was started anew.
    restarts: u64,
    commands: u64,
    lies: usize,
}

/// The servers of one test, by address. Clones are the same servers.
#[derive(Debug, Clone, Default)]
pub(crate) struct InMemoryServers {
    clock: Clock,
    servers: Arc<Mutex<BTreeMap<String, Arc<InMemoryServer>>>>,
}

impl InMemoryServers {
    pub(crate) fn new(clock: Clock) -> InMemoryServers {
        InMemoryServers { clock, servers: Arc::default() }
    }

    /// The server at the address; there is one at every address.
    pub(crate) fn at(&self, address: &str) -> Arc<InMemoryServer> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(InMemoryServer::new(self.clock.clone()));
        Arc::clone(servers.entry(address.to_owned()).or_insert_with(new))
    }
}

/// How the server treats those who ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ServerBehaviour {
    #[default]
    Honest,
    /// It refuses every connection.
    Down,
    /// It takes commands and never answers.
    Stalled,
    /// It answers reads with what it was not given, and says of writes that they went well.
    Lying,
}

/// An item, or with an empty frame the placeholder of one who has won the right to fill.
#[derive(Debug)]
struct StoredItem {
    frame: Vec<u8>,
    cas: Cas,
    expires: Instant,
    /// Whether somebody has won the right to replace it.
    won: bool,
    /// Whether it waits to be replaced, whatever is left of its life.
    stale: bool,
}

impl InMemoryServer {
    pub(crate) fn new(clock: Clock) -> InMemoryServer {
        InMemoryServer { clock, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_behaviour(&self, behaviour: ServerBehaviour) {
        self.lock().behaviour = behaviour;
    }

    /// Forgets everything, as a restart does.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        state.items.clear();
        (state.last_cas, state.restarts) = (0, state.restarts + 1);
    }

    /// How many commands it has taken.
    pub(crate) fn commands(&self) -> u64 {
        self.lock().commands
    }

    /// Whether there is a value under `key`.
    pub(crate) fn holds(&self, key: &str) -> bool {
        let now = self.clock.now();
        self.lock().items.get(key).is_some_and(|kept| kept.expires > now && !kept.frame.is_empty())
    }

    /// Runs the commands; answers in order.
    pub(super) async fn run(&self, commands: Vec<Command>) -> Vec<CommandResult> {
        let behaviour = self.lock().behaviour;
        match behaviour {
            ServerBehaviour::Down => {
                commands.iter().map(|_| Err(CommandError::lost("connection refused"))).collect()
            }
            ServerBehaviour::Stalled => std::future::pending().await,
            ServerBehaviour::Honest | ServerBehaviour::Lying => {
                let (now, mut state) = (self.clock.now(), self.lock());
                commands.into_iter().map(|command| state.answer(command, now)).collect()
            }
        }
    }
}

impl State {
    fn answer(&mut self, command: Command, now: Instant) -> CommandResult {
        self.commands += 1;
        if self.items.get(command.key()).is_some_and(|kept| kept.expires <= now) {
            self.items.remove(command.key());
        }
        if self.behaviour == ServerBehaviour::Lying {
            return Ok(self.lie(&command, now));
        }
        match command {
            Command::Read { key, lease } => Ok(Reply::Found(self.read(key, lease, now))),
            Command::Write { key, frame, .. } if frame.len() > ITEM_LIMIT => {
                // What is there is let go of, since it is known to be old.
                self.items.remove(&key);
                Err(CommandError::too_large("object too large for cache"))
            }
            Command::Write { key, frame, seconds, condition } => {
                let there = self.items.get(&key);
                let applies = match condition {
                    Condition::Always => true,
                    Condition::Absent => there.is_none(),
                    Condition::Unchanged(cas) => there.is_some_and(|kept| kept.cas == cas),
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
            Command::Delete { key, unchanged } => {
                let applies = self.is_unchanged(&key, unchanged);
                if applies {
                    self.items.remove(&key);
                }
                Ok(Reply::Applied(applies))
            }
            Command::ReleaseRefresh { key, cas } => {
                let applies = self.is_unchanged(&key, Some(cas));
                let next = self.next_cas();
                if let Some(kept) = self.items.get_mut(&key).filter(|_| applies) {
                    (kept.cas, kept.won, kept.stale) = (next, false, true);
                }
                Ok(Reply::Applied(applies))
            }
        }
    }

    fn next_cas(&mut self) -> Cas {
        self.last_cas += 1;
        Cas { number: self.last_cas, of: self.incarnation() }
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation::new(0, self.restarts)
    }

    /// A CAS that no item has.
    fn no_cas(&self) -> Cas {
        Cas { number: u64::MAX, of: self.incarnation() }
    }

    fn is_unchanged(&self, key: &str, since: Option<Cas>) -> bool {
        self.items.get(key).is_some_and(|kept| since.is_none_or(|cas| kept.cas == cas))
    }

    fn store(&mut self, key: Arc<str>, frame: Vec<u8>, seconds: u32, now: Instant) -> Cas {
        let expires = now + Duration::from_secs(seconds.into());
        let cas = self.next_cas();
        self.items.insert(key, StoredItem { frame, cas, expires, won: false, stale: false });
        cas
    }

    fn read(&mut self, key: Arc<str>, lease: Option<LeaseTerms>, now: Instant) -> Found {
        let Some(kept) = self.items.get_mut(&key) else {
            let Some(lease) = lease else { return Found::Nothing };
            let cas = self.store(Arc::clone(&key), Vec::new(), lease.seconds, now);
            self.items.entry(key).and_modify(|placeholder| placeholder.won = true);
            return Found::Lease(cas);
        };
        let left = kept.expires.saturating_duration_since(now);
        let claim_below_seconds = lease.map_or(0, |lease| lease.claim_below_seconds);
        let is_due = kept.stale || left < Duration::from_secs(claim_below_seconds.into());
        let won = is_due && !kept.won;
        kept.won |= won;
        if let Some(marker) = LeaseMarker::decode(&kept.frame) {
            return Found::Busy(BusyLease { cas: Some(kept.cas), marker: Some(marker) });
        }
        match kept.frame.is_empty() {
            true if won => Found::Lease(kept.cas),
            true => Found::Busy(BusyLease { cas: Some(kept.cas), marker: None }),
            false => {
                let StoredItem { cas, expires, stale, .. } = *kept;
                let item = FoundItem::new(kept.frame.clone(), cas, expires);
                Found::Item(FoundItem { is_claimed: won, was_given_back: stale, ..item })
            }
        }
    }

    /// Another key's item, a truncated one, a garbled one, a right that is not theirs, nothing.
    fn lie(&mut self, command: &Command, now: Instant) -> Reply {
        let Command::Read { key, .. } = command else { return Reply::Applied(true) };
        self.lies += 1;
        let values = |(_, kept): &(&Arc<str>, &StoredItem)| !kept.frame.is_empty();
        let mut others = self.items.iter().filter(|(other, _)| *other != key).filter(values);
        let own = self.items.get(key).map(|kept| kept.frame.clone()).unwrap_or_default();
        let frame = match self.lies % 5 {
            0 => return Reply::Found(Found::Nothing),
            1 => return Reply::Found(Found::Lease(self.no_cas())),
            2 => others.next().map_or_else(|| b"no entry of yours".to_vec(), |o| o.1.frame.clone()),
            3 => own[..own.len() / 2].to_vec(),
            _ => own.iter().map(|byte| byte ^ 1).collect(),
        };
        let gone = now + Duration::from_secs(60);
        Reply::Found(Found::Item(FoundItem::new(frame, self.no_cas(), gone)))
    }
}

#[cfg(test)]
mod tests;
