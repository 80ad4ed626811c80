//! The route of a key: the servers it is read from and written to, and the name it has there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::cas::Cas;
use super::command::Command;
use super::item::{BusyLease, LeaseRequest, RawItem, ReadReply, WriteCondition};
use super::marker::LeaseMarker;
use super::server::{KeyRemoval, Priority, Server};
use super::timer::run_until;
use super::{GUTTER_TTL, LONGEST_TTL, whole_seconds};
use crate::key::Digest;
use crate::tier::remote::{RemoteError, RemoteErrorKind, WriteOutcome};

/// The lease of a killed process has ended after this time.
const ORPHAN_ENDS_AFTER: Duration = Duration::from_millis(3200);

/// A key and its two servers.
///
/// A key has two *slots* on a server. The second slot holds this build's entry if the first holds
/// one that only another build can read, as during a rollout.
#[derive(Clone)]
pub(super) struct Route {
    digest: Digest,
    home: Arc<Server>,
    home_key: Arc<str>,
    /// `None` if there is only one server.
    gutter: Option<Arc<Server>>,
    /// True if commands go to the gutter server.
    in_gutter: bool,
    in_second_slot: bool,
    /// The key on the server that commands go to.
    pub(super) key: Arc<str>,
    /// The longest time that one lookup takes, over all of its reads.
    timeout: Duration,
    lookup_deadline: Option<Instant>,
    /// True if the next read continues the lookup of the last one.
    continues_lookup: bool,
    priority: Priority,
}

fn second_slot(key: &str) -> Arc<str> {
    format!("{key}:2").into()
}

/// A gutter server has a key under another name. So a server never takes what it holds for another
/// server for its own.
fn gutter_key(home_key: &str) -> Arc<str> {
    format!("{home_key}:gutter").into()
}

impl Route {
    /// Starts at the home server or, if that is out of reach, at the gutter server.
    pub(super) fn new(
        digest: Digest,
        home: Arc<Server>,
        gutter: Option<Arc<Server>>,
        home_key: Arc<str>,
        timeout: Duration,
    ) -> Route {
        let key = Arc::clone(&home_key);
        let mut route = Route {
            digest,
            home,
            home_key,
            gutter,
            in_gutter: false,
            in_second_slot: false,
            key,
            timeout,
            lookup_deadline: None,
            continues_lookup: false,
            priority: Priority::Foreground,
        };
        if !route.home.serves(&route.home_key) {
            route.enter_gutter();
        }
        route
    }

    /// Gives writes the time that background writes have.
    pub(super) fn in_background(mut self) -> Route {
        self.move_to_background();
        self
    }

    pub(super) fn move_to_background(&mut self) {
        self.priority = Priority::Background;
    }

    pub(super) fn is_in_gutter(&self) -> bool {
        self.in_gutter
    }

    pub(super) fn is_in_second_slot(&self) -> bool {
        self.in_second_slot
    }

    /// Returns the server that commands go to.
    pub(super) fn server(&self) -> &Arc<Server> {
        match &self.gutter {
            Some(gutter) if self.in_gutter => gutter,
            _ => &self.home,
        }
    }

    /// Sends commands to the gutter server from now on, if that is in reach.
    fn enter_gutter(&mut self) {
        let Some(gutter) = &self.gutter else { return };
        let key = gutter_key(&self.home_key);
        if gutter.serves(&key) {
            (self.key, self.in_gutter) = (key, true);
        }
    }

    /// Turns to the gutter server after the home server failed. Returns true if the lookup has time
    /// left to read there.
    pub(super) fn turn_to_gutter(&mut self, error: &RemoteError) -> bool {
        let is_out_of_reach =
            matches!(error.kind(), RemoteErrorKind::Unreachable | RemoteErrorKind::Unusable);
        let has_time = self.lookup_deadline.is_some_and(|deadline| Instant::now() < deadline);
        if !is_out_of_reach || !has_time || self.in_gutter {
            return false;
        }
        self.enter_gutter();
        self.continues_lookup = self.in_gutter;
        self.in_gutter
    }

    /// Turns to the second slot, because the first holds another build's entry.
    pub(super) fn turn_to_second_slot(&mut self) {
        self.in_second_slot = true;
        self.home_key = second_slot(&self.home_key);
        self.key = match self.in_gutter {
            true => gutter_key(&self.home_key),
            false => Arc::clone(&self.home_key),
        };
        self.continues_lookup = true;
    }

    /// Returns the terms of a lease whose placeholder lasts for `length`, and of a refresh claim in
    /// the last `refresh_before_removal` of an item's life.
    pub(super) fn lease_request(
        &self,
        length: Duration,
        refresh_before_removal: Duration,
    ) -> LeaseRequest {
        // A gutter server keeps nothing long enough to refresh it.
        let (length, refresh_before_removal) = match self.in_gutter {
            true => (length.min(GUTTER_TTL), Duration::ZERO),
            false => (length, refresh_before_removal),
        };
        let claim_below_seconds = match whole_seconds(refresh_before_removal) {
            0 => 0,
            // The item may be removed a second earlier than the server says.
            seconds => seconds.saturating_add(2).min(whole_seconds(LONGEST_TTL)),
        };
        LeaseRequest { seconds: whole_seconds(length).max(1), claim_below_seconds }
    }

    /// Reads the key in one exchange. With terms the read may win a lease or a refresh claim.
    pub(super) async fn read(
        &mut self,
        terms: Option<LeaseRequest>,
    ) -> Result<ReadReply, RemoteError> {
        #[cfg(feature = "testing")]
        self.go_home_if_in_memory().await;
        let now = Instant::now();
        let deadline = match std::mem::take(&mut self.continues_lookup) {
            true => self.lookup_deadline,
            false => {
                self.lookup_deadline = Some(now + self.timeout);
                None
            }
        };
        let read = self.server().read(&self.key, terms, now);
        let found = match deadline {
            // Boxed because it is rare, so that the future of a read stays small.
            Some(deadline) => {
                let timed_out = || {
                    RemoteError::new(
                        RemoteErrorKind::Unreachable,
                        "no time was left for a second read",
                    )
                };
                Box::pin(run_until(deadline, read)).await.unwrap_or_else(|| Err(timed_out()))
            }
            None => read.await,
        };
        Ok(match found? {
            ReadReply::Item(item) => ReadReply::Item(self.check_fence(item)),
            found => found,
        })
    }

    /// Lets a test that has moved the clock find a recovered server in use.
    #[cfg(feature = "testing")]
    async fn go_home_if_in_memory(&mut self) {
        if self.in_gutter && !self.home.in_rotation() {
            self.home.recover_if_in_memory().await;
            if self.home.serves(&self.home_key) {
                (self.key, self.in_gutter) = (Arc::clone(&self.home_key), false);
            }
        }
    }

    /// Empties an item that its server's fence rejects. Nobody can read it then, so any caller may
    /// replace it.
    pub(super) fn check_fence(&self, mut item: RawItem) -> RawItem {
        if !self.server().is_above_fence(self.digest, item.cas.number) {
            self.server().recheck_fence();
            item.frame.clear();
        }
        item
    }

    /// Reads without asking for a lease, outside of any lookup.
    pub(super) async fn peek(&self) -> Result<ReadReply, RemoteError> {
        self.server().read(&self.key, None, Instant::now()).await
    }

    /// Stores a frame for `ttl`, and for `keep_expired` beyond that.
    pub(super) async fn write(
        &self,
        frame: Vec<u8>,
        ttl: Duration,
        keep_expired: Duration,
        condition: WriteCondition,
    ) -> Result<WriteOutcome, RemoteError> {
        let (ttl, keep_expired) = match self.in_gutter {
            true => (ttl.min(GUTTER_TTL), Duration::ZERO),
            false => (ttl, keep_expired),
        };
        // memcached would keep an item of 0 seconds for ever.
        if whole_seconds(ttl) == 0 {
            return Ok(WriteOutcome::NotStored);
        }
        let seconds = whole_seconds(ttl)
            .saturating_add(whole_seconds(keep_expired))
            .min(whole_seconds(LONGEST_TTL));
        let key = Arc::clone(&self.key);
        let write = Command::Write { key, frame: frame.into(), seconds, condition };
        let deadline = Instant::now() + self.timeout;
        let is_stored = self.server().change(write, self.priority).await?;
        if let WriteCondition::Always = condition {
            self.remove_other_copies(deadline).await?;
        }
        Ok(match (is_stored, self.in_gutter) {
            (true, false) => WriteOutcome::Stored,
            (true, true) => WriteOutcome::StoredBriefly,
            (false, _) => WriteOutcome::NotStored,
        })
    }

    /// Removes another build's entry, and the entry on the other server.
    async fn remove_other_copies(&self, deadline: Instant) -> Result<(), RemoteError> {
        let second = second_slot(&self.home_key);
        let second = if self.in_gutter { gutter_key(&second) } else { second };
        remove_by(deadline, KeyRemoval::new(self.server(), vec![second])).await?;
        match self.in_gutter {
            true => remove_by(deadline, self.removal_at_home()).await?,
            false => self.remove_in_gutter(self.removal_in_gutter(), deadline).await,
        }
        Ok(())
    }

    /// Renews a lease that has this CAS. Returns its new CAS, or `None` if the lease is lost.
    pub(super) async fn renew(
        &self,
        marker: LeaseMarker,
        seconds: u32,
        cas: Cas,
    ) -> Result<Option<Cas>, RemoteError> {
        self.server().renew(&self.key, marker, seconds, cas).await
    }

    /// Returns true if it is worth waiting for another caller's lease on this server.
    pub(super) fn allows_waiting(&self) -> bool {
        self.server().wait_breaker.allows_waiting()
    }

    /// Records that a lease on this server has ended, or that its holder lives.
    pub(super) fn record_lease_end(&self) {
        self.server().wait_breaker.record_end();
    }

    /// Finds out in the background whether a lease ends that was waited for in vain.
    pub(super) fn check_lease_end(&self, cas: Cas) {
        let (Ok(runtime), Some(probe)) = (Handle::try_current(), self.server().begin_lease_probe())
        else {
            return;
        };
        let route = self.clone();
        runtime.spawn(async move {
            tokio::time::sleep(ORPHAN_ENDS_AFTER).await;
            let is_same = |busy: BusyLease| busy.cas == Some(cas) && busy.marker.is_none();
            let breaker = &route.server().wait_breaker;
            match route.peek().await {
                Ok(ReadReply::Busy(busy)) if is_same(busy) => breaker.record_endless(),
                Ok(_) => breaker.record_end(),
                Err(_) => {}
            }
            drop(probe);
        });
    }

    /// Removes the item if it still has this CAS.
    pub(super) async fn remove_unchanged(&self, cas: Cas) -> Result<(), RemoteError> {
        let delete = Command::Delete { key: Arc::clone(&self.key), unchanged: Some(cas) };
        self.server().change(delete, self.priority).await.map(drop)
    }

    /// Lets the next reader claim the refresh of the item that has this CAS.
    pub(super) async fn give_back_claim(&self, cas: Cas) -> Result<(), RemoteError> {
        let give_back = Command::ReleaseRefresh { key: Arc::clone(&self.key), cas };
        self.server().change(give_back, self.priority).await.map(drop)
    }

    /// Removes the entry wherever a process could find it: in both slots, at home and in the gutter.
    /// The gutter is always told, because another process may be reading there already.
    ///
    /// A server that cannot be told now is told later, also if this future is dropped. Until then
    /// this process does not read the key from that server. `started` is when the change began that
    /// this removal is part of, if it is part of one.
    ///
    /// # Errors
    /// The home server could not be told, and may serve the entry to other processes. A gutter
    /// server that could not be told is no error: it drops the entry within seconds.
    pub(super) async fn remove(&self, started: Option<Instant>) -> Result<(), RemoteError> {
        let deadline = started.unwrap_or_else(Instant::now) + self.timeout;
        let in_gutter = self.removal_in_gutter();
        let at_home = self.removal_at_home();
        let removed = match started {
            // The exchange's own timeout is this deadline.
            None => at_home.send(deadline).await,
            Some(_) => remove_by(deadline, at_home).await,
        };
        self.remove_in_gutter(in_gutter, deadline).await;
        removed
    }

    fn slots(&self) -> [Arc<str>; 2] {
        [Arc::clone(&self.home_key), second_slot(&self.home_key)]
    }

    fn removal_at_home(&self) -> KeyRemoval<'_> {
        KeyRemoval::new(&self.home, self.slots().into())
    }

    fn removal_in_gutter(&self) -> Option<KeyRemoval<'_>> {
        let gutter = self.gutter.as_ref()?;
        Some(KeyRemoval::new(gutter, self.slots().map(|slot| gutter_key(&slot)).into()))
    }

    async fn remove_in_gutter(&self, removal: Option<KeyRemoval<'_>>, deadline: Instant) {
        if let Some(removal) = removal {
            // On failure the server keeps a hint of it.
            let _ = remove_by(deadline, removal).await;
        }
    }
}

/// Tells a server what to remove, until the deadline. An exchange that has begun by then goes on in
/// the background.
async fn remove_by(deadline: Instant, removal: KeyRemoval<'_>) -> Result<(), RemoteError> {
    let timed_out = || {
        RemoteError::new(RemoteErrorKind::Unreachable, "no time was left to tell the key's server")
    };
    run_until(deadline, removal.send(deadline)).await.unwrap_or_else(|| Err(timed_out()))
}
