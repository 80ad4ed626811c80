//! What is asked of a memcached server, and the client that asks it. The only module that names the
//! memcache crate, whose client is marked experimental.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memcache::exp::{
    AsyncMetaClient, Delete, Error, Get, GetResult, LeaseState, Meta, MetaResponse, MutationStatus,
    Op, OpResult, Set, Ttl, ValueState,
};

use super::connection::Connections;
use super::marker::{Marker, RENEWED_SECONDS};
use super::{Busy, Condition, Found, Item, LeaseTerms};

/// One thing asked of a server. It owns what it holds, so that it can travel with others.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// Reads, and with terms wins the right to fill or to replace.
    Read { key: Arc<str>, lease: Option<LeaseTerms> },
    /// Stores for so many seconds.
    Write { key: Arc<str>, frame: Arc<[u8]>, seconds: u32, condition: Condition },
    /// Replaces the placeholder or marker of a lease that this process holds by `marker`, for
    /// [`RENEWED_SECONDS`], if it still has this CAS. The answer carries the marker's CAS.
    Renew { key: Arc<str>, marker: Arc<[u8]>, cas: u64 },
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
    /// The CAS of a renewed lease; `None` if the lease was lost.
    Renewed(Option<u64>),
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
            // What a server says to one command, the client says of it and of those behind it.
            Error::Ambiguous { source, .. } => Failure::of(*source),
            error => Failure::lost(error),
        }
    }

    pub(super) fn lost(why: impl Display) -> Failure {
        Failure::Lost(why.to_string())
    }

    pub(super) fn too_late() -> Failure {
        Failure::lost("no answer in time")
    }

    pub(super) fn other_command() -> Failure {
        Failure::lost("an answer to another command")
    }

    /// What a line means that is no answer to a command.
    pub(super) fn said(line: &[u8]) -> Failure {
        MetaResponse::parse_header(line).map_or_else(Failure::of, |_| Failure::other_command())
    }
}

/// The ways to one server, of one runtime: a connection works only while the runtime that opened it
/// is driven.
pub(super) enum Client {
    Memcached {
        /// For one command.
        one: Connections,
        /// For many, of which those that are answered in time are kept where the rest is not.
        many: AsyncMetaClient,
    },
    /// A test's server, which has no connections.
    #[cfg(feature = "testing")]
    Memory(Arc<super::memory::Memory>),
}

impl Client {
    /// Resolves the name. Connections are opened when they are needed; so many are kept for single
    /// commands, and as many for batches.
    pub(super) async fn connect(
        address: &str,
        connections: usize,
        timeout: Duration,
    ) -> Result<Client, Failure> {
        let one = Connections::to(address, connections).await.map_err(Failure::lost)?;
        let builder = AsyncMetaClient::builder().connect_timeout(Some(timeout));
        let many = builder.io_timeout(Some(timeout)).max_idle(connections).connect_async(address);
        Ok(Client::Memcached { one, many: many.await.map_err(Failure::of)? })
    }

    /// Runs one command, which fails at the deadline. What the server says of lifetimes counts from
    /// `sent`.
    pub(super) async fn run_one(
        &self,
        command: &Command,
        sent: Instant,
        deadline: Instant,
    ) -> Result<Reply, Failure> {
        match self {
            Client::Memcached { one, .. } => one.ask(command, sent, deadline).await,
            #[cfg(feature = "testing")]
            Client::Memory(memory) => {
                let answers = memory.run(vec![command.clone()]);
                let answers = tokio::time::timeout_at(deadline.into(), answers).await;
                let mut answers = answers.map_err(|_| Failure::too_late())?;
                answers.pop().unwrap_or_else(|| Err(Failure::lost("no answer")))
            }
        }
    }

    /// Runs several in one round trip; answers in order.
    pub(super) async fn run(
        &self,
        commands: Vec<Command>,
        sent: Instant,
    ) -> Vec<Result<Reply, Failure>> {
        match self {
            Client::Memcached { many, .. } => exchange(many, commands, sent).await,
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
    match client.run_batch(commands.iter().map(Command::operation)).await {
        Ok(results) => results
            .into_iter()
            .zip(&commands)
            .map(|(result, command)| reply(result.map_err(Failure::of)?, command, sent))
            .collect(),
        Err(error) => {
            let failure = Failure::of(error);
            commands.iter().map(|_| Err(failure.clone())).collect()
        }
    }
}

impl Command {
    pub(super) fn key(&self) -> &Arc<str> {
        match self {
            Command::Read { key, .. }
            | Command::Write { key, .. }
            | Command::Renew { key, .. }
            | Command::Delete { key, .. }
            | Command::LetOthersWin { key, .. } => key,
        }
    }

    /// The key, where the command may win a lease of it.
    pub(super) fn leased_key(&self) -> Option<Arc<str>> {
        self.asks_for_a_lease().then(|| Arc::clone(self.key()))
    }

    /// The bytes of the frame that it carries.
    pub(super) fn frame_bytes(&self) -> usize {
        match self {
            Command::Write { frame, .. } => frame.len(),
            Command::Renew { marker, .. } => marker.len(),
            _ => 0,
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
            Command::Renew { key, marker, cas } => Set::new(key.as_bytes(), marker)
                .ttl(Ttl::secs(RENEWED_SECONDS))
                .compare_cas(*cas)
                .return_cas()
                .into(),
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

fn reply(result: OpResult, command: &Command, sent: Instant) -> Result<Reply, Failure> {
    match result {
        OpResult::Get(read) => Ok(Reply::Found(Read::from(read).found(command, sent))),
        OpResult::Mutation(mutation) => {
            let applied = mutation.status == MutationStatus::Applied;
            Ok(match command {
                Command::Renew { .. } => Reply::Renewed(mutation.cas.filter(|_| applied)),
                _ => Reply::Applied(applied),
            })
        }
        _ => Err(Failure::other_command()),
    }
}

/// What a server says to a read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) frame: Option<Vec<u8>>,
    pub(super) cas: Option<u64>,
    /// In seconds; `None` where the item stays for good.
    pub(super) ttl: Option<u64>,
    /// Whether the reader has won a right, to fill or to replace.
    pub(super) won: bool,
    /// Whether another has.
    pub(super) busy: bool,
    /// Whether who had won it has given it back.
    pub(super) given_back: bool,
}

impl From<GetResult> for Read {
    fn from(read: GetResult) -> Read {
        Read {
            frame: read.value,
            cas: read.item.cas,
            ttl: read.item.ttl.and_then(|ttl| u64::try_from(ttl).ok()),
            won: read.lease_state == LeaseState::Granted,
            busy: read.lease_state == LeaseState::Busy,
            given_back: read.value_state == ValueState::Stale,
        }
    }
}

impl Read {
    pub(super) fn found(self, command: &Command, sent: Instant) -> Found {
        let Read { frame, cas, ttl, won, busy, given_back } = self;
        // A marker means that its holder fetches, whatever the server says of the right to fill: the
        // renewal took the server's own record of who won it away.
        if let (Some(marker), Some(cas)) = (frame.as_deref().and_then(Marker::decode), cas) {
            return Found::Busy(Busy { cas: Some(cas), marker: Some(marker) });
        }
        match (frame, cas) {
            (Some(frame), Some(cas)) if !frame.is_empty() => {
                // The server counts whole seconds, rounded up: the item may be gone a second
                // earlier.
                let left = match ttl {
                    Some(left) => Duration::from_secs(left.saturating_sub(1)),
                    None => super::LONGEST_TTL,
                };
                let gone = sent + left.min(super::LONGEST_TTL);
                Found::Item(Item { gone, won, given_back, ..Item::new(frame, cas, sent) })
            }
            (_, Some(cas)) if won => Found::Lease(cas),
            // To a lease read the server says what is a placeholder: this is an entry, and a bad
            // one.
            (Some(frame), Some(cas)) if !busy && command.asks_for_a_lease() => {
                Found::Item(Item::new(frame, cas, sent))
            }
            // Else an empty item is somebody's placeholder.
            (frame, cas) if busy || frame.is_some() => Found::Busy(Busy { cas, marker: None }),
            _ => Found::Nothing,
        }
    }
}
