//! The route of a key: the servers that hold the key's items, and the key's names on these servers.
//!
//! Every key has a *home server*. If there are several servers, the key also has a *gutter server*,
//! which keeps the key's items for a few seconds while the home server is unreachable.
//!
//! A key's *name* on a server is the memcached key under which the server stores the key's item.
//! The fields `home_key` and `key` of a [`KeyRoute`] are such names.
//!
//! A key has two *slots* on a server, under two names. During a rollout, the first slot may hold an
//! entry that only another build of the program can decode. The second slot then holds this build's
//! entry.
//!
//! A *lookup* is a sequence of reads that share one timeout. The reads can go to both servers and
//! both slots.
//!
//! A *lease* is the right to fetch a missing value. On the server, a lease is an empty
//! *placeholder* item or, after a renewal, a *marker* item. A *CAS* is the number that a server
//! gives to each version of an item.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::cas::Cas;
use super::command::Command;
use super::item::{
    BusyLease, LONGEST_TTL, LeaseRequest, RawItem, ReadReply, WriteCondition, whole_seconds,
};
use super::marker::LeaseMarker;
use super::server::{KeyRemoval, Priority, Server};
use super::timer::run_until;
use crate::key::Digest;
use crate::tier::remote::{RemoteError, RemoteErrorKind, WriteOutcome};

/// The longest ttl of an item on a gutter server. The limit is long enough to avoid most fetches
/// while the home server is out of reach. The limit is short enough that a stale value, whose
/// removal did not reach the gutter server, soon expires.
const GUTTER_TTL: Duration = Duration::from_secs(10);

/// The servers and names of one key. A route sends the commands for the key, and knows which server
/// and slot the next command uses.
#[derive(Clone)]
pub(super) struct KeyRoute {
    digest: Digest,
    home: Arc<Server>,
    /// The key's name on the home server, in the current slot.
    home_key: Arc<str>,
    /// `None` if there is only one server.
    gutter: Option<Arc<Server>>,
    /// True if commands go to the gutter server.
    in_gutter: bool,
    in_second_slot: bool,
    /// The key's name on the server that commands go to.
    pub(super) key: Arc<str>,
    /// The timeout of one lookup (all its reads together), or of one removal.
    timeout: Duration,
    lookup_deadline: Option<Instant>,
    /// True if the next read belongs to the same lookup as the previous read.
    continues_lookup: bool,
    priority: Priority,
}

/// Returns the name of the key's second slot.
fn second_slot(key: &str) -> Arc<str> {
    format!("{key}:2").into()
}

/// Returns the key's name on the gutter server. The name differs from the name on the home server.
/// Otherwise, a gutter server that became the key's home server would mix up the items.
fn gutter_key(home_key: &str) -> Arc<str> {
    format!("{home_key}:gutter").into()
}

impl KeyRoute {
    /// Creates a route that uses the home server or, if the home server is unreachable, the gutter
    /// server.
    pub(super) fn new(
        digest: Digest,
        home: Arc<Server>,
        gutter: Option<Arc<Server>>,
        home_key: Arc<str>,
        timeout: Duration,
    ) -> KeyRoute {
        let key = Arc::clone(&home_key);
        let mut route = KeyRoute {
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
            route.use_gutter_if_reachable();
        }
        route
    }

    /// Moves some of the route's commands to the background, which has its own priority and a
    /// longer timeout. These commands are [`write`](Self::write),
    /// [`remove_unchanged`](Self::remove_unchanged) and [`give_back_claim`](Self::give_back_claim).
    /// Reads, renewals and [`remove`](Self::remove) stay in the foreground.
    pub(super) fn in_background(mut self) -> KeyRoute {
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

    /// Directs later commands to the gutter server, if there is one and it is reachable.
    fn use_gutter_if_reachable(&mut self) {
        let Some(gutter) = &self.gutter else { return };
        let key = gutter_key(&self.home_key);
        if gutter.serves(&key) {
            (self.key, self.in_gutter) = (key, true);
        }
    }

    /// Switches to the gutter server if `error` means that the home server is unreachable, and if
    /// the lookup has time left. Returns true if the route has switched.
    pub(super) fn try_gutter(&mut self, error: &RemoteError) -> bool {
        let is_out_of_reach =
            matches!(error.kind(), RemoteErrorKind::Unreachable | RemoteErrorKind::Unusable);
        let has_time = self.lookup_deadline.is_some_and(|deadline| Instant::now() < deadline);
        if !is_out_of_reach || !has_time || self.in_gutter {
            return false;
        }
        self.use_gutter_if_reachable();
        self.continues_lookup = self.in_gutter;
        self.in_gutter
    }

    /// Switches to the second slot, because the first slot holds another build's entry. The route
    /// must be in the first slot.
    pub(super) fn use_second_slot(&mut self) {
        debug_assert!(!self.in_second_slot, "a key has two slots");
        self.in_second_slot = true;
        self.home_key = second_slot(&self.home_key);
        self.key = match self.in_gutter {
            true => gutter_key(&self.home_key),
            false => Arc::clone(&self.home_key),
        };
        self.continues_lookup = true;
    }

    /// Returns the lease request that a read sends. If the key is missing, the read asks for a
    /// lease, whose placeholder lasts for `length`. If the item has at most
    /// `refresh_before_removal` left, the read asks for the *refresh claim*: the right to refetch
    /// the value early.
    pub(super) fn lease_request(
        &self,
        length: Duration,
        refresh_before_removal: Duration,
    ) -> LeaseRequest {
        // A gutter server keeps items too briefly for a refresh.
        let (length, refresh_before_removal) = match self.in_gutter {
            true => (length.min(GUTTER_TTL), Duration::ZERO),
            false => (length, refresh_before_removal),
        };
        let claim_below_seconds = match whole_seconds(refresh_before_removal) {
            0 => 0,
            // memcached grants the claim if the remaining time, rounded up to whole seconds, is
            // less than this number.
            seconds => seconds.saturating_add(1).min(whole_seconds(LONGEST_TTL)),
        };
        LeaseRequest { seconds: whole_seconds(length).max(1), claim_below_seconds }
    }

    /// Reads the key in one exchange. With a lease request, the read also asks for a lease or a
    /// refresh claim.
    pub(super) async fn read(
        &mut self,
        lease: Option<LeaseRequest>,
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
        let read = self.server().read(&self.key, lease, now, true);
        let found = match deadline {
            // The box keeps the future of a read small. A second read is rare.
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
            ReadReply::Item(item) => ReadReply::Item(self.empty_if_fenced(item)),
            found => found,
        })
    }

    /// Moves the route back from the gutter server to the home server if the home server is an
    /// in-memory server that can recover now. A test that moves the clock expects this recovery in
    /// its next call.
    #[cfg(feature = "testing")]
    async fn go_home_if_in_memory(&mut self) {
        if self.in_gutter && !self.home.in_rotation() {
            self.home.recover_if_in_memory().await;
            if self.home.serves(&self.home_key) {
                (self.key, self.in_gutter) = (Arc::clone(&self.home_key), false);
            }
        }
    }

    /// Empties the frame (the stored bytes) of an item that might be stale. An item might be stale
    /// if its CAS number is below the server's *fence*: the server has missed a removal, and the
    /// item can be older than that removal. Readers treat an empty frame as corrupt, and any caller
    /// may replace a corrupt item. A background task then checks whether the fence is still needed.
    pub(super) fn empty_if_fenced(&self, mut item: RawItem) -> RawItem {
        if !self.server().is_trusted(self.digest, item.cas.number) {
            self.server().recheck_fence();
            item.frame.clear();
        }
        item
    }

    /// Reads the key without asking for a lease. The read is not part of a lookup, and no caller
    /// waits for it.
    pub(super) async fn peek(&self) -> Result<ReadReply, RemoteError> {
        self.server().read(&self.key, None, Instant::now(), false).await
    }

    /// Stores a frame if the condition holds. The home server keeps the frame for `ttl` plus
    /// `keep_expired`, up to [`LONGEST_TTL`]. A gutter server keeps it only for `ttl`, up to
    /// [`GUTTER_TTL`].
    ///
    /// A write with [`WriteCondition::Always`] also removes the key's other copies. For such a
    /// write, the route must be in the first slot.
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
        // memcached would never remove an item with a ttl of 0.
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

    /// Records whether the home server has stored a fill (the write of a fetched value). Does
    /// nothing if the fill went to the gutter server.
    pub(super) fn record_fill(&self, written: &Result<WriteOutcome, RemoteError>) {
        match written {
            _ if self.in_gutter => {}
            Ok(WriteOutcome::Stored) => self.home.record_stored(&self.home_key),
            Ok(_) => {}
            Err(error) => self.home.record_failed_write(&self.home_key, error),
        }
    }

    /// Returns true if the home server answers, but stores no values of this key's function.
    pub(super) fn stores_nothing(&self) -> bool {
        !self.in_gutter && self.home.stores_nothing(&self.home_key)
    }

    /// Removes the key's entries, except the first slot on the server that commands go to. These
    /// entries are the second slot on that server, and both slots on the key's other server. The
    /// route must be in the first slot.
    async fn remove_other_copies(&self, deadline: Instant) -> Result<(), RemoteError> {
        debug_assert!(!self.in_second_slot, "the name of a second slot has no second slot");
        let second = second_slot(&self.home_key);
        let second = if self.in_gutter { gutter_key(&second) } else { second };
        remove_by(deadline, KeyRemoval::new(self.server(), vec![second])).await?;
        match self.in_gutter {
            true => remove_by(deadline, self.removal_at_home()).await?,
            false => self.remove_in_gutter(self.removal_in_gutter(), deadline).await,
        }
        Ok(())
    }

    /// Renews a lease: replaces the placeholder or marker that has this CAS with `marker`, which
    /// lasts for `seconds`. Returns the CAS of the new marker, or `None` if the lease is lost.
    pub(super) async fn renew(
        &self,
        marker: LeaseMarker,
        seconds: u32,
        cas: Cas,
    ) -> Result<Option<Cas>, RemoteError> {
        self.server().renew(&self.key, marker, seconds, cas).await
    }

    /// Returns false if recent leases of this server did not end, so that waiting for another
    /// caller's lease is useless.
    pub(super) fn allows_waiting(&self) -> bool {
        self.server().wait_breaker.allows_waiting()
    }

    /// Records that a lease on this server has ended, or that its holder is alive.
    pub(super) fn record_lease_progress(&self) {
        self.server().wait_breaker.record_end();
    }

    /// Starts a task that reads the lease again after `pause`. The task tells the server's wait
    /// breaker whether the placeholder with this CAS is still there. (The breaker stops waits on a
    /// server whose leases do not end.)
    ///
    /// The caller must have given up waiting for the lease. `pause` must be longer than a
    /// placeholder lasts.
    pub(super) fn check_lease_end(&self, cas: Cas, pause: Duration) {
        let (Ok(runtime), Some(probe)) =
            (Handle::try_current(), self.server().reserve_lease_probe())
        else {
            return;
        };
        let route = self.clone();
        runtime.spawn(async move {
            tokio::time::sleep(pause).await;
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
        let delete = Command::Delete { key: Arc::clone(&self.key), only_if: Some(cas) };
        self.server().change(delete, self.priority).await.map(drop)
    }

    /// Gives back the refresh claim of the item that has this CAS, so that the next read can win
    /// the claim.
    pub(super) async fn give_back_claim(&self, cas: Cas) -> Result<(), RemoteError> {
        let give_back = Command::ReleaseRefresh { key: Arc::clone(&self.key), cas };
        self.server().change(give_back, self.priority).await.map(drop)
    }

    /// Removes the key's entries from both slots of the home server and of the gutter server. The
    /// gutter server is always included, because another process may already read the key there.
    ///
    /// If a server does not confirm the removal, or this future is dropped first, the removal is
    /// repeated later. Until the server has confirmed the removal, this process does not read the
    /// key from the server. If the removal is part of a larger change, `started` is the time at
    /// which the change began. The route must be in the first slot.
    ///
    /// # Errors
    /// The home server did not confirm the removal, and may serve the entry to other processes. A
    /// failure of the gutter server is not an error, because the entry on the gutter server expires
    /// within seconds.
    pub(super) async fn remove(&self, started: Option<Instant>) -> Result<(), RemoteError> {
        let deadline = started.unwrap_or_else(Instant::now) + self.timeout;
        let in_gutter = self.removal_in_gutter();
        let at_home = self.removal_at_home();
        let removed = match started {
            // `send` already ends at the deadline.
            None => at_home.send(deadline).await,
            Some(_) => remove_by(deadline, at_home).await,
        };
        self.remove_in_gutter(in_gutter, deadline).await;
        removed
    }

    /// Returns the names of both slots on the home server. The route must be in the first slot.
    fn slots(&self) -> [Arc<str>; 2] {
        debug_assert!(!self.in_second_slot, "the name of a second slot has no second slot");
        [Arc::clone(&self.home_key), second_slot(&self.home_key)]
    }

    /// Returns the removal of both slots from the home server. The route must be in the first slot.
    fn removal_at_home(&self) -> KeyRemoval<'_> {
        KeyRemoval::new(&self.home, self.slots().into())
    }

    /// Returns the removal of both slots from the gutter server, if there is one. The route must be
    /// in the first slot.
    fn removal_in_gutter(&self) -> Option<KeyRemoval<'_>> {
        let gutter = self.gutter.as_ref()?;
        Some(KeyRemoval::new(gutter, self.slots().map(|slot| gutter_key(&slot)).into()))
    }

    async fn remove_in_gutter(&self, removal: Option<KeyRemoval<'_>>, deadline: Instant) {
        if let Some(removal) = removal {
            // If the removal fails, the server's `hints` keep the keys, and the removal is repeated
            // later.
            let _ = remove_by(deadline, removal).await;
        }
    }
}

/// Sends a removal to a server, and waits for the confirmation until the deadline. An exchange that
/// is under way at the deadline continues in the background.
async fn remove_by(deadline: Instant, removal: KeyRemoval<'_>) -> Result<(), RemoteError> {
    let timed_out = || {
        RemoteError::new(
            RemoteErrorKind::Unreachable,
            "the key's server did not confirm the removal in time",
        )
    };
    run_until(deadline, removal.send(deadline)).await.unwrap_or_else(|| Err(timed_out()))
}
