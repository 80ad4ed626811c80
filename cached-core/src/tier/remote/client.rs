//! What is asked of a memcached server, and the client that asks it. The only module that names the
//! memcache crate, whose client is marked experimental.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memcache::exp::{
    AsyncMetaClient, Delete, Error, Get, GetResult, GetStatus, LeaseState, Meta, MutationStatus,
    Op, OpResult, Set, Ttl,
};

use super::{Condition, Found, Item, LeaseTerms};

/// One thing asked of a server. It owns what it holds, so that it can travel with others.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// Reads, and with terms wins the right to fill or to replace.
    Read { key: Arc<str>, lease: Option<LeaseTerms> },
    /// Stores for so many seconds.
    Write { key: Arc<str>, frame: Arc<[u8]>, seconds: u32, condition: Condition },
    /// Removes, with a CAS only what nobody has changed since.
    Delete { key: Arc<str>, unchanged: Option<u64> },
    /// Lets the next reader win the right to replace an item that nobody has changed: marking it
    /// stale takes back that it was won. The item keeps its lifetime.
    LetOthersWin { key: Arc<str>, cas: u64 },
}

/// What a server answers to one command.
#[derive(Debug)]
pub(super) enum Reply {
    Found(Found),
    /// Whether a write or a delete took effect.
    Applied(bool),
}

/// Why a command was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server is well; it is this command that it did not take.
    Refused(String),
    /// The server did not answer, or not in its protocol.
    Lost(String),
}

impl Failure {
    fn of(error: Error) -> Failure {
        match error {
            Error::Server(_) | Error::Rejected(_) | Error::Usage(_) => {
                Failure::Refused(error.to_string())
            }
            error => Failure::lost(error),
        }
    }

    pub(super) fn lost(why: impl Display) -> Failure {
        Failure::Lost(why.to_string())
    }
}

/// The connections to one server, of one runtime: a connection works only while the runtime that
/// opened it is driven.
#[derive(Clone)]
pub(super) enum Client {
    Memcached(AsyncMetaClient),
    /// A test's server, which has no connections.
    #[cfg(feature = "testing")]
    Memory(Arc<super::memory::Memory>),
}

impl Client {
    /// Resolves the name. Connections are opened when they are needed.
    pub(super) async fn connect(
        address: &str,
        connections: usize,
        timeout: Duration,
    ) -> Result<Client, Failure> {
        let client = AsyncMetaClient::builder()
            .max_idle(connections)
            // The deadline around the exchange is the one that counts.
            .connect_timeout(Some(timeout))
            .io_timeout(Some(timeout))
            .connect_async(address)
            .await;
        client.map(Client::Memcached).map_err(Failure::of)
    }

    /// Runs the commands in one round trip; answers in order. `sent` is the time at which what the
    /// server says of lifetimes counts from.
    pub(super) async fn run(
        &self,
        commands: Vec<Command>,
        sent: Instant,
    ) -> Vec<Result<Reply, Failure>> {
        match self {
            Client::Memcached(client) => exchange(client, commands, sent).await,
            #[cfg(feature = "testing")]
            Client::Memory(memory) => memory.run(commands).await,
        }
    }
}

async fn exchange(
    client: &AsyncMetaClient,
    commands: Vec<Command>,
    sent: Instant,
) -> Vec<Result<Reply, Failure>> {
    let leased: Vec<bool> = commands.iter().map(Command::asks_for_a_lease).collect();
    match client.run_batch(commands.iter().map(Command::operation)).await {
        Ok(results) => results
            .into_iter()
            .zip(leased)
            .map(|(result, leased)| reply(result.map_err(Failure::of)?, sent, leased))
            .collect(),
        Err(error) => {
            let failure = Failure::of(error);
            leased.iter().map(|_| Err(failure.clone())).collect()
        }
    }
}

impl Command {
    #[cfg(feature = "testing")]
    pub(super) fn key(&self) -> &Arc<str> {
        match self {
            Command::Read { key, .. }
            | Command::Write { key, .. }
            | Command::Delete { key, .. }
            | Command::LetOthersWin { key, .. } => key,
        }
    }

    fn asks_for_a_lease(&self) -> bool {
        matches!(self, Command::Read { lease: Some(_), .. })
    }

    fn operation(&self) -> Op {
        match self {
            Command::Read { key, lease } => {
                let mut get = Get::new(key.as_bytes()).meta(Meta::NONE.ttl().cas());
                if let Some(lease) = lease {
                    get.lease_ttl = Some(lease.seconds);
                    get.refresh_before = (lease.replace_before > 0).then_some(lease.replace_before);
                }
                get.into()
            }
            Command::Write { key, frame, seconds, condition } => {
                let set = Set::new(key.as_bytes(), frame).ttl(Ttl::secs(*seconds));
                match condition {
                    Condition::Absent => set.add(),
                    Condition::Unchanged(cas) => set.compare_cas(*cas),
                    Condition::Always => set,
                }
                .into()
            }
            Command::Delete { key, unchanged } => {
                let mut delete = Delete::new(key.as_bytes());
                delete.compare_cas = *unchanged;
                delete.into()
            }
            Command::LetOthersWin { key, cas } => {
                Delete::new(key.as_bytes()).compare_cas(*cas).invalidate().into()
            }
        }
    }
}

fn reply(result: OpResult, sent: Instant, leased: bool) -> Result<Reply, Failure> {
    match result {
        OpResult::Get(read) => Ok(Reply::Found(found(read, sent, leased))),
        OpResult::Mutation(mutation) => {
            Ok(Reply::Applied(mutation.status == MutationStatus::Applied))
        }
        _ => Err(Failure::lost("an answer to another command")),
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
