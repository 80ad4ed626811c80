//! Decides whether a server is used, and recovers a server that has failed.
//!
//! A background task contacts the server repeatedly, until it answers. Then the task takes three
//! steps:
//!
//! - It settles the *fence*: it finds the CAS number (version number) below which the server's
//!   items might be stale.
//! - It delivers the *hints*, which are the keys that the server has failed to remove: it tells the
//!   server to remove them now.
//! - It puts the server back *in rotation*: callers use the server again.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{Priority, Server};
use crate::event::Event;
use crate::tier::remote::memcached::command::{Command, CommandError, Reply};
use crate::tier::remote::memcached::item::{ReadReply, WriteCondition};
use crate::tier::remote::memcached::queue::MAX_BATCH_COMMANDS;
use crate::tier::remote::{RemoteError, RemoteErrorKind};

/// The key of the item that recovery writes. No entry of a cache has such a key.
const RECOVERY_KEY: &str = "cached-core.mark";
const RECOVERY_TTL_SECONDS: u32 = 60;
/// If an attempt is overdue by more than this time plus the server's timeout, the recovery task
/// counts as *lost*: its runtime has probably ended or no longer runs.
const LOST_TASK_AFTER: Duration = Duration::from_secs(1);

impl Server {
    pub(in crate::tier::remote::memcached) fn in_rotation(&self) -> bool {
        self.endpoint.health.in_rotation()
    }

    /// Returns true if the server is in rotation and has no hint for the key. Starts a new recovery
    /// task if the last one is lost.
    #[inline]
    pub(in crate::tier::remote::memcached) fn serves(&self, key: &str) -> bool {
        let (in_rotation, has_no_hints) = (self.in_rotation(), self.hints.is_empty());
        if in_rotation && has_no_hints {
            return true;
        }
        let overdue_after = LOST_TASK_AFTER + self.endpoint.timeout();
        if self.endpoint.health.claim_overdue_attempt(overdue_after) {
            self.recover_in_background();
        }
        in_rotation && !self.hints.contains(key)
    }

    /// Returns true if the server is in rotation and has neither hints nor a pending fence.
    pub(super) fn is_recovered(&self) -> bool {
        self.in_rotation() && self.hints.is_empty() && !self.fence.is_pending()
    }

    pub(super) fn on_ejection(&self, error: &CommandError) {
        self.failing_writes.clear();
        self.recover_in_background();
        // The event comes last, because an observer of the event can block.
        let error = self.error(error.kind, &error.why);
        self.events.emit(&Event::ServerEjected { address: self.address(), error: &error });
    }

    /// Returns the error that says why the server does not [serve](Self::serves) a key.
    pub(in crate::tier::remote::memcached) fn not_served_error(&self) -> RemoteError {
        let (kind, why) = match (self.endpoint.health.is_unusable(), self.in_rotation()) {
            (true, _) => {
                (RemoteErrorKind::Unusable, "it is ejected because it refuses every command")
            }
            (false, false) => {
                let why = match self.endpoint.health.has_failed() {
                    true => "it is ejected after several failures in a row",
                    false => "it is not used until it is known which of its items may be stale",
                };
                (RemoteErrorKind::Unreachable, why)
            }
            (false, true) => (
                RemoteErrorKind::Unreachable,
                "it has not confirmed an invalidation of the key yet",
            ),
        };
        self.error(kind, &why).without_command()
    }

    /// Starts a task that recovers the server, if the caller has a usable runtime. If not, a later
    /// caller of [`serves`](Self::serves) finds the attempt overdue and starts the task.
    pub(super) fn recover_in_background(&self) {
        if let (Ok(runtime), Ok(_)) =
            (Handle::try_current(), self.any_pipeline(Priority::Background))
        {
            runtime.spawn(recover(Weak::clone(&self.weak_self)));
        }
    }

    /// Starts a task that makes one recovery attempt. The caller must have claimed the attempt. A
    /// failure is not recorded, because the server stays in rotation.
    pub(super) fn attempt_in_background(&self) {
        if let (Ok(runtime), Some(server)) = (Handle::try_current(), self.weak_self.upgrade()) {
            runtime.spawn(async move {
                if let Err(error) = server.attempt_recovery().await {
                    server.events.emit(&Event::RecoveryFailed { error: &error });
                }
            });
        }
    }

    /// Makes a recovery attempt at once if the attempt is due and the server is a test's in-memory
    /// server. A test that has moved the clock then sees the effect in its next call.
    #[cfg(feature = "testing")]
    pub(in crate::tier::remote::memcached) async fn recover_if_in_memory(&self) {
        if self.endpoint.is_in_memory()
            && !self.is_recovered()
            && self.endpoint.health.claim_attempt()
            && self.attempt_recovery().await.is_err()
        {
            self.endpoint.health.record_failed_attempt();
        }
    }

    /// Settles the fence, delivers all hints, and puts the server back in rotation.
    ///
    /// # Errors
    /// The server does not answer, refuses a command, or does not keep the item that it was given.
    async fn attempt_recovery(&self) -> Result<(), RemoteError> {
        let before = self.fence.snapshot();
        let written_cas = self.write_recovery_item().await?;
        self.fence.settle(before, written_cas);
        self.deliver_hints().await?;
        let reinstate = || self.fence.if_settled(|| self.endpoint.health.reinstate());
        if self.hints.if_empty(reinstate).flatten() == Some(true) {
            self.events.emit(&Event::ServerBack { address: self.address() });
        }
        Ok(())
    }

    /// Writes an item, and returns its CAS number. The items that the server had before have lower
    /// numbers.
    async fn write_recovery_item(&self) -> Result<u64, RemoteError> {
        let pipeline = self.any_pipeline(Priority::Background)?;
        let key: Arc<str> = RECOVERY_KEY.into();
        let write = Command::Write {
            key: Arc::clone(&key),
            frame: [1][..].into(),
            seconds: RECOVERY_TTL_SECONDS,
            condition: WriteCondition::Always,
        };
        let now = Instant::now();
        self.applied(pipeline.run(write, now, now + self.endpoint.timeout()).await)?;
        let read = Command::Read { key, lease: None };
        let now = Instant::now();
        match pipeline.run(read, now, now + self.endpoint.timeout()).await {
            Ok(Reply::Read(ReadReply::Item(item))) => Ok(item.cas.number),
            Ok(_) => Err(self.error(RemoteErrorKind::Refused, &"it does not keep what it stores")),
            other => Err(self.error_of(other)),
        }
    }

    async fn deliver_hints(&self) -> Result<(), RemoteError> {
        loop {
            let hints = self.hints.up_to(MAX_BATCH_COMMANDS);
            if hints.is_empty() {
                return Ok(());
            }
            let deletes = hints
                .iter()
                .map(|(key, _)| Command::Delete { key: Arc::clone(key), only_if: None });
            let deadline = Instant::now() + self.endpoint.timeout();
            let pipeline = self.any_pipeline(Priority::Background)?;
            for result in pipeline.run_many(deletes.collect(), deadline).await {
                self.applied(result)?;
            }
            self.hints.remove_delivered(&hints);
        }
    }
}

/// Makes each recovery attempt when it is due, until the server has recovered or is dropped.
async fn recover(server: Weak<Server>) {
    loop {
        let due_in = match server.upgrade() {
            Some(server) if !server.is_recovered() => server.endpoint.health.next_attempt_in(),
            _ => return,
        };
        tokio::time::sleep(due_in).await;
        let Some(server) = server.upgrade() else { return };
        if !server.is_recovered()
            && server.endpoint.health.claim_attempt()
            && let Err(error) = server.attempt_recovery().await
        {
            server.endpoint.health.record_failed_attempt();
            server.events.emit(&Event::RecoveryFailed { error: &error });
        }
    }
}
