//! One memcached server of the cache.
//!
//! This module sends single commands to the server. A *lease* lets one call fill a missing key
//! while other calls wait. A *refresh claim* lets one caller replace an item before it expires.
//! ([`command`](super::command) defines both.) The submodules do the rest:
//!
//! - [`recovery`] decides whether the server is used, and recovers a server that has failed.
//! - [`removal`] removes keys from the server, and [`hints`] remembers the keys that the server has
//!   yet to remove.
//! - [`failing_writes`] notices that the server stores no values.
//! - [`fence`] knows which of the server's items may be stale.
//! - [`rendezvous`] ranks the servers for a key.

mod failing_writes;
mod fence;
mod hints;
mod recovery;
mod removal;
mod rendezvous;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::cas::Cas;
use super::command::{Command, CommandError, CommandResult, Reply};
use super::endpoint::EndpointState;
use super::identity::ServerIdentity;
use super::item::{LeaseRequest, RawItem, ReadReply};
use super::marker::LeaseMarker;
use super::pipeline::CommandPipeline;
pub(super) use super::pipelines::Priority;
use super::pipelines::ServerPipelines;
use super::wait_breaker::{LeaseWaitBreaker, PendingProbeGuard};
use crate::config::Config;
use crate::event::{Event, EventDispatcher};
use crate::key::Digest;
use crate::stats::{ServerState, ServerStats};
use crate::telemetry::{Exchange, ExchangeSubject};
use crate::tier::remote::{RemoteError, RemoteErrorKind};
use failing_writes::FunctionsWithFailedWrites;
use fence::CasFence;
use hints::RemovalHints;
pub(super) use removal::KeyRemoval;
use rendezvous::RendezvousSeed;

/// The longest time from a background command's start to its result.
pub(super) const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest timeout for the renewal of a lease. The server's timeout applies if it is longer.
/// A renewal that takes longer than the server's timeout is still useful if it arrives before the
/// lease ends.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(1);

/// A memcached server: the pipelines to the server, its health, and the changes that have not
/// reached it.
pub(super) struct Server {
    weak_self: Weak<Server>,
    seed: RendezvousSeed,
    /// True if the server joined after the cache was built.
    pub(super) was_added: bool,
    /// True once the server was removed from the configuration. A newer `Server` may have the same
    /// address.
    is_retired: AtomicBool,
    endpoint: Arc<EndpointState>,
    events: EventDispatcher,
    pipelines: ServerPipelines,
    hints: RemovalHints,
    fence: CasFence,
    failing_writes: FunctionsWithFailedWrites,
    /// Keeps calls from waiting for leases if the leases on this server do not end.
    pub(super) wait_breaker: Arc<LeaseWaitBreaker>,
}

impl Server {
    /// `timeout` bounds one exchange.
    pub(super) fn new(
        address: &str,
        config: &Config,
        events: &EventDispatcher,
        timeout: Duration,
        was_added: bool,
    ) -> Arc<Server> {
        Arc::new_cyclic(|weak_self: &Weak<Server>| {
            let ejected = Weak::clone(weak_self);
            let on_ejection = move |error: &CommandError| {
                if let Some(server) = ejected.upgrade() {
                    server.on_ejection(error);
                }
            };
            let endpoint =
                EndpointState::new(address, config, timeout, identity(weak_self), on_ejection);
            let endpoint = Arc::new(endpoint);
            Server {
                weak_self: Weak::clone(weak_self),
                seed: RendezvousSeed::of(address),
                was_added,
                is_retired: AtomicBool::new(false),
                events: events.clone(),
                pipelines: ServerPipelines::new(&endpoint, events),
                endpoint,
                hints: RemovalHints::default(),
                fence: CasFence::default(),
                failing_writes: FunctionsWithFailedWrites::default(),
                wait_breaker: Arc::default(),
            }
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.endpoint.address
    }

    pub(super) fn stats(&self) -> ServerStats {
        let state = if self.in_rotation() { ServerState::Up } else { ServerState::Ejected };
        let ejections = self.endpoint.health.ejections();
        self.endpoint.exchanges.read(self.address(), state, ejections)
    }

    /// Sets how long one exchange may take. If the cache has several servers, the timeout must
    /// leave time for the gutter server, which stands in for a server that does not answer.
    pub(super) fn set_timeout(&self, timeout: Duration) {
        self.endpoint.set_timeout(timeout);
    }

    /// Returns the server's score for the key. The server with the highest score is the key's home
    /// server.
    pub(super) fn score(&self, digest: Digest) -> u64 {
        self.seed.score(digest)
    }

    /// Makes [`change`](Self::change) and [`renew`](Self::renew) fail from now on. This process no
    /// longer tells the server of invalidations, so an item that is stored now could be stale when
    /// the server is added again.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    /// Reads a key. `is_awaited` is true if a caller waits for the result.
    pub(super) async fn read(
        &self,
        key: &Arc<str>,
        lease: Option<LeaseRequest>,
        now: Instant,
        is_awaited: bool,
    ) -> Result<ReadReply, RemoteError> {
        let pipeline = self.pipeline_for(key, Priority::Foreground).await?;
        let exchange = self.begin_exchange("get", Some(key), 1, is_awaited);
        let read = Command::Read { key: Arc::clone(key), lease };
        let deadline = now + self.endpoint.timeout();
        let found = match exchange.polled(pipeline.run(read, now, deadline)).await {
            Ok(Reply::Read(found)) => Ok(found),
            other => Err(self.error_of(other)),
        };
        exchange.end(&found, ReadReply::outcome);
        found
    }

    /// Reads several keys at once, and returns the items in the order of the keys. The caller must
    /// leave out each key that the server does not serve.
    pub(super) async fn read_many(
        &self,
        keys: &[Arc<str>],
    ) -> Result<Vec<Option<RawItem>>, RemoteError> {
        let pipeline = self.pipeline_for("", Priority::Foreground).await?;
        let exchange = match keys {
            [key] => self.begin_exchange("get", Some(key), 1, true),
            keys => self.begin_exchange("BATCH get", None, keys.len(), true),
        };
        let reads = keys.iter().map(|key| Command::Read { key: Arc::clone(key), lease: None });
        let deadline = Instant::now() + self.endpoint.timeout();
        let results = exchange.polled(pipeline.run_many(reads.collect(), deadline)).await;
        let item = |result| match result {
            Ok(Reply::Read(ReadReply::Item(item))) => Ok(Some(item)),
            Ok(Reply::Read(_)) => Ok(None),
            other => Err(self.error_of(other)),
        };
        let items = results.into_iter().map(item).collect();
        exchange.end(&items, |items: &Vec<Option<RawItem>>| {
            match items.iter().any(Option::is_some) {
                true => "hit",
                false => "miss",
            }
        });
        items
    }

    /// Sends a write, a delete, or a command that gives back a refresh claim. Returns true if the
    /// command took effect.
    pub(super) async fn change(
        &self,
        command: Command,
        priority: Priority,
    ) -> Result<bool, RemoteError> {
        self.check_not_retired()?;
        let pipeline = self.pipeline_for(command.key(), priority).await?;
        let is_awaited = priority == Priority::Foreground;
        let exchange = self.begin_exchange(command.operation(), Some(command.key()), 1, is_awaited);
        let timeout = match priority {
            Priority::Foreground => self.endpoint.timeout(),
            Priority::Background => BACKGROUND_TIMEOUT,
        };
        let now = Instant::now();
        let result = exchange.polled(pipeline.run(command, now, now + timeout)).await;
        let applied = self.applied(result);
        exchange.end(&applied, |applied| if *applied { "applied" } else { "not_applied" });
        applied
    }

    /// Records the start of an exchange with this server; see [`ExchangeSubject`].
    #[inline]
    pub(super) fn begin_exchange(
        &self,
        operation: &'static str,
        key: Option<&str>,
        commands: usize,
        is_awaited: bool,
    ) -> Exchange {
        let subject = ExchangeSubject { address: &self.endpoint.address, operation, key, commands };
        Exchange::start(subject, is_awaited)
    }

    /// Reserves a *probe*, which is a later check whether a lease has ended, and returns the
    /// probe's guard. Returns `None` if enough probes are planned already.
    pub(super) fn reserve_lease_probe(&self) -> Option<PendingProbeGuard> {
        LeaseWaitBreaker::reserve_probe(&self.wait_breaker)
    }

    /// Renews a lease. Returns the lease's new CAS, or `None` if the lease was lost.
    pub(super) async fn renew(
        &self,
        key: &Arc<str>,
        marker: LeaseMarker,
        seconds: u32,
        cas: Cas,
    ) -> Result<Option<Cas>, RemoteError> {
        self.check_not_retired()?;
        let pipeline = self.pipeline_for(key, Priority::Foreground).await?;
        let marker = marker.encode()[..].into();
        let renew = Command::Renew { key: Arc::clone(key), marker, seconds, cas };
        let exchange = self.begin_exchange(renew.operation(), Some(key), 1, false);
        let now = Instant::now();
        let deadline = now + self.endpoint.timeout().max(RENEWAL_TIMEOUT);
        let renewed = match pipeline.run(renew, now, deadline).await {
            Ok(Reply::Renewed(renewed)) => Ok(renewed),
            other => Err(self.error_of(other)),
        };
        exchange.end(&renewed, |_| "applied");
        renewed
    }

    /// Reports that a lease on this server was not renewed.
    pub(super) fn report_failed_renewal(&self, error: &RemoteError) {
        self.events.emit(&Event::LeaseNotRenewed { error });
    }

    fn check_not_retired(&self) -> Result<(), RemoteError> {
        match self.is_retired.load(Ordering::Acquire) {
            true => Err(self.error(RemoteErrorKind::NotAsked, &"it is not used any more")),
            false => Ok(()),
        }
    }

    /// Returns the pipeline for a command on the key, or an error if the server does not serve the
    /// key.
    async fn pipeline_for(
        &self,
        key: &str,
        priority: Priority,
    ) -> Result<Arc<CommandPipeline>, RemoteError> {
        #[cfg(feature = "testing")]
        self.recover_if_in_memory().await;
        if !self.serves(key) {
            return Err(self.not_served_error());
        }
        self.any_pipeline(priority)
    }

    /// Returns the current runtime's pipeline, even if the server is ejected.
    fn any_pipeline(&self, priority: Priority) -> Result<Arc<CommandPipeline>, RemoteError> {
        let pipeline = self.pipelines.get(priority);
        pipeline.map_err(|why| self.error(RemoteErrorKind::NotAsked, &why))
    }

    fn applied(&self, result: CommandResult) -> Result<bool, RemoteError> {
        match result {
            Ok(Reply::Applied(applied)) => Ok(applied),
            other => Err(self.error_of(other)),
        }
    }

    /// Returns the error for a write that the server ignored although its lease was still valid.
    pub(super) fn ignored_write(&self) -> RemoteError {
        self.error(RemoteErrorKind::Refused, &"it did not store a value whose lease it still has")
    }

    fn error_of(&self, result: CommandResult) -> RemoteError {
        let CommandError { kind, why } = result.err().unwrap_or_else(CommandError::out_of_step);
        self.error(kind, &why)
    }

    fn error(&self, kind: RemoteErrorKind, why: &dyn Display) -> RemoteError {
        RemoteError::new(kind, format!("memcached at {}: {why}", self.address()))
    }
}

/// Creates the identity of a server. The identity notices that another memcached process has taken
/// the server's place. If the items of that process may be stale, the identity raises the server's
/// fence, and this process no longer trusts these items.
fn identity(server: &Weak<Server>) -> ServerIdentity {
    let call = |server: &Weak<Server>, method: fn(&Server)| {
        let server = Weak::clone(server);
        move || {
            if let Some(server) = server.upgrade() {
                method(&server);
            }
        }
    };
    ServerIdentity::new(
        call(server, |server| server.fence.raise(None)),
        call(server, Server::eject_replaced),
    )
}
