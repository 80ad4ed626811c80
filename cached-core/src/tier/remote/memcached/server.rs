//! One memcached server: the ways to it, whether it is worth asking, and what it has to be told.

mod fence;
mod recovery;
mod removal;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::command::{Command, CommandError, CommandResult, Reply};
use super::health::{Health, Verdict};
use super::hints::Hints;
use super::pipeline::Pipeline;
use super::pipelines::Runtimes;
use super::wait_breaker::{LeaseProbe, LeaseWaitBreaker};
use super::{Cas, Found, FoundItem, LeaseMarker, LeaseTerms, RemoteError, RemoteErrorKind};
use crate::clock::Clock;
use crate::config::Config;
use crate::event::{Event, Events};
use crate::key::Digest;
use fence::Doubts;
pub(super) use removal::HintedRemoval;

/// The longest that a write in the background waits and takes.
pub(super) const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(10);
/// An attempt that is overdue by more has nobody who makes it: its runtime is gone, or not driven.
const OVERDUE: Duration = Duration::from_secs(1);
/// How long the renewal of a lease waits for its turn.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(1);

/// What an exchange is for, and so how long it may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// Somebody waits for the answer.
    Foreground,
    /// Nobody waits.
    Background,
}

pub(super) struct Server {
    me: Weak<Server>,
    pub(super) address: String,
    /// The address as a number, for [`score`].
    seed: u64,
    /// Of one exchange; nanoseconds.
    timeout: AtomicU64,
    pub(super) clock: Clock,
    events: Events,
    #[cfg(feature = "testing")]
    pub(super) network: Option<super::memory::InMemoryServers>,
    pub(super) runtimes: Runtimes,
    pub(super) health: Health,
    pub(super) wait_breaker: Arc<LeaseWaitBreaker>,
    pub(super) was_added: bool,
    /// True if the server is not used any more. Another of these may be at its address since.
    is_gone: AtomicBool,
    debts: Hints,
    /// Items with a lower CAS are from before a time in which this process may have changed them
    /// without telling this server.
    marked: AtomicU64,
    /// The keys of which that is so.
    doubts: Mutex<Doubts>,
}

/// How much a server wants a key: the same in every process, on every machine and for every build.
/// FNV-1a of the address, mixed with the digest by SplitMix64's finalizer.
fn score(seed: u64, digest: Digest) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&digest.as_bytes()[..8]);
    let mut x = seed ^ u64::from_be_bytes(word);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Server {
    /// `timeout` is of one exchange; `was_added` says that it was not there from the start.
    pub(super) fn new(
        address: &str,
        config: &Config,
        events: &Events,
        timeout: Duration,
        was_added: bool,
    ) -> Arc<Server> {
        Arc::new_cyclic(|me| Server {
            was_added,
            me: Weak::clone(me),
            address: address.to_owned(),
            seed: address.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            }),
            timeout: AtomicU64::new(nanos(timeout)),
            clock: config.clock.clone(),
            events: events.clone(),
            #[cfg(feature = "testing")]
            network: config.network.clone(),
            runtimes: Runtimes::default(),
            health: Health::new(config.clock.clone()),
            wait_breaker: Arc::default(),
            is_gone: AtomicBool::new(false),
            debts: Hints::default(),
            marked: AtomicU64::new(0),
            doubts: Mutex::default(),
        })
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout.load(Ordering::Relaxed))
    }

    /// How long one exchange may take depends on whether another server can stand in.
    pub(super) fn set_timeout(&self, timeout: Duration) {
        self.timeout.store(nanos(timeout), Ordering::Relaxed);
    }

    pub(super) fn score(&self, digest: Digest) -> u64 {
        score(self.seed, digest)
    }

    /// Whether it is in rotation, and was told all that concerns the key.
    #[inline]
    pub(super) fn serves(&self, key: &str) -> bool {
        let (in_rotation, owes_nothing) = (self.health.in_rotation(), self.debts.is_empty());
        if in_rotation && owes_nothing {
            return true;
        }
        if self.health.is_overdue(OVERDUE + self.timeout()) {
            self.mend_in_background();
        }
        in_rotation && !self.debts.contains(key)
    }

    pub(super) async fn read(
        &self,
        key: &Arc<str>,
        lease: Option<LeaseTerms>,
        now: Instant,
    ) -> Result<Found, RemoteError> {
        let pipeline = self.pipeline(key, Priority::Foreground).await?;
        let read = Command::Read { key: Arc::clone(key), lease };
        match pipeline.ask(read, now, now + self.timeout()).await {
            Ok(Reply::Found(found)) => Ok(found),
            answer => Err(self.unanswered(answer)),
        }
    }

    pub(super) async fn read_many(
        &self,
        keys: &[Arc<str>],
    ) -> Result<Vec<Option<FoundItem>>, RemoteError> {
        let pipeline = self.pipeline("", Priority::Foreground).await?;
        let reads = keys.iter().map(|key| Command::Read { key: Arc::clone(key), lease: None });
        let answers = pipeline.ask_many(reads.collect(), Instant::now() + self.timeout()).await;
        let item = |answer| match answer {
            Ok(Reply::Found(Found::Item(item))) => Ok(Some(item)),
            Ok(Reply::Found(_)) => Ok(None),
            answer => Err(self.unanswered(answer)),
        };
        answers.into_iter().map(item).collect()
    }

    /// From now on it is told nothing of what changes, and so it is to be given nothing either: a lease
    /// of it would be good yet when it is used again, for a value from before a change.
    pub(super) fn retire(&self) {
        self.is_gone.store(true, Ordering::Release);
    }

    /// Changes something under a condition; returns whether it took effect.
    pub(super) async fn change(
        &self,
        command: Command,
        priority: Priority,
    ) -> Result<bool, RemoteError> {
        if self.is_gone.load(Ordering::Acquire) {
            return Err(self.error(RemoteErrorKind::NotAsked, &"it is not used any more"));
        }
        let pipeline = self.pipeline(command.key(), priority).await?;
        let now = Instant::now();
        self.changed(pipeline.ask(command, now, now + self.patience(priority)).await)
    }

    /// The right to check whether a lease ends, unless enough are being checked.
    pub(super) fn begin_lease_probe(&self) -> Option<LeaseProbe> {
        LeaseWaitBreaker::begin_probe(&self.wait_breaker)
    }

    /// Renews a lease; returns the new CAS, or `None` if the lease was lost.
    pub(super) async fn renew(
        &self,
        key: &Arc<str>,
        marker: LeaseMarker,
        seconds: u32,
        cas: Cas,
    ) -> Result<Option<Cas>, RemoteError> {
        if self.is_gone.load(Ordering::Acquire) {
            return Err(self.error(RemoteErrorKind::NotAsked, &"it is not used any more"));
        }
        let pipeline = self.pipeline(key, Priority::Foreground).await?;
        let marker = marker.encode()[..].into();
        let renew = Command::Renew { key: Arc::clone(key), marker, seconds, cas };
        let now = Instant::now();
        // The lease lasts longer than a call waits, so a renewal may wait longer for its turn.
        let deadline = now + self.timeout().max(RENEWAL_PATIENCE);
        match pipeline.ask(renew, now, deadline).await {
            Ok(Reply::Renewed(renewed)) => Ok(renewed),
            answer => Err(self.unanswered(answer)),
        }
    }

    /// An exchange came to nothing.
    pub(super) fn count_failure(&self, verdict: &Verdict) {
        let (kind, why) = match verdict {
            Verdict::Answers => return,
            Verdict::Refuses(why) => (RemoteErrorKind::Unusable, why),
            Verdict::Lost(why) => (RemoteErrorKind::Lost, why),
        };
        if self.health.failed(kind == RemoteErrorKind::Unusable) {
            let error = self.error(kind, &why);
            self.events.emit(&Event::ServerEjected { address: &self.address, error: &error });
            self.mend_in_background();
        }
    }

    fn patience(&self, priority: Priority) -> Duration {
        match priority {
            Priority::Foreground => self.timeout(),
            Priority::Background => BACKGROUND_TIMEOUT,
        }
    }

    fn changed(&self, answer: CommandResult) -> Result<bool, RemoteError> {
        match answer {
            Ok(Reply::Applied(applied)) => Ok(applied),
            answer => Err(self.unanswered(answer)),
        }
    }

    fn unanswered(&self, answer: CommandResult) -> RemoteError {
        let CommandError { kind, why } = answer.err().unwrap_or_else(CommandError::out_of_step);
        self.error(kind, &why)
    }

    fn error(&self, kind: RemoteErrorKind, why: &dyn Display) -> RemoteError {
        RemoteError::new(kind, format!("memcached at {}: {why}", self.address))
    }

    fn ejected(&self) -> RemoteError {
        match self.health.refuses() {
            true => {
                self.error(RemoteErrorKind::Unusable, &"it is ejected, as it refuses every command")
            }
            false => self
                .error(RemoteErrorKind::Lost, &"it is ejected, or was not told yet what changed"),
        }
    }

    /// The pipeline for an priority that concerns the key, if the server serves it.
    async fn pipeline(&self, key: &str, priority: Priority) -> Result<Arc<Pipeline>, RemoteError> {
        #[cfg(feature = "testing")]
        self.recover_if_in_memory().await;
        if !self.serves(key) {
            return Err(self.ejected());
        }
        self.any_pipeline(priority)
    }

    /// The pipeline of the running runtime, also to a server that is ejected.
    fn any_pipeline(&self, priority: Priority) -> Result<Arc<Pipeline>, RemoteError> {
        let pipeline = self.runtimes.pipeline(&self.me, priority);
        pipeline.map_err(|why| self.error(RemoteErrorKind::NotAsked, &why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_same_for_good() {
        let digest = Digest::of(b"key");
        let timeout = Duration::from_millis(100);
        let scores = ["10.0.0.1:11211", "cache-a:11211"].map(|address| {
            let events = Events::new(Vec::new());
            Server::new(address, &Config::default(), &events, timeout, false).score(digest)
        });
        assert_eq!(scores, [16926019881397665348, 1166268213767805196]);
    }
}
