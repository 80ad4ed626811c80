//! A key on its server, or on the one that stands in for it: what is asked and told there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::command::Command;
use super::server::{HintedRemoval, Priority, Server};
use super::timer::run_until;
use super::{
    BusyLease, Cas, Condition, Found, GUTTER_TTL, Item, LONGEST_TTL, LeaseMarker, LeaseTerms,
    RemoteError, whole_seconds,
};
use crate::key::Digest;

/// When the lease of a process that was killed is over for certain.
const ORPHAN_ENDS_AFTER: Duration = Duration::from_millis(3200);

/// A key, and where it is asked for: on its own server, its *home*, or in the gutter.
#[derive(Clone)]
pub(crate) struct RemoteKey {
    digest: Digest,
    home: Arc<Server>,
    home_key: Arc<str>,
    /// The server that stands in for its home; `None` where there is but one.
    gutter: Option<Arc<Server>>,
    in_gutter: bool,
    in_second_slot: bool,
    /// The key where it is asked for.
    pub(super) key: Arc<str>,
    /// The longest that a lookup takes, at home and in the gutter together.
    timeout: Duration,
    /// When the lookup that was begun at home is to be over.
    deadline: Option<Instant>,
    /// When the read that is next must be over, as part of a lookup that began in the first slot.
    read_deadline: Option<Instant>,
    /// What changes to it are for.
    priority: Priority,
}

/// Returns a key's second slot. An entry stands there while another build's entry, which this build
/// does not read, is at the key itself: two builds of a rollout have an entry each. Both slots are on
/// the key's own server.
fn second_slot(key: &str) -> Arc<str> {
    format!("{key}:2").into()
}

fn gutter_key(home_key: &str) -> Arc<str> {
    format!("{home_key}:gutter").into()
}

impl RemoteKey {
    /// At home, or where that is out of reach in the gutter.
    pub(super) fn new(
        digest: Digest,
        home: Arc<Server>,
        gutter: Option<Arc<Server>>,
        home_key: Arc<str>,
        timeout: Duration,
    ) -> RemoteKey {
        let key = Arc::clone(&home_key);
        let mut located = RemoteKey {
            digest,
            home,
            home_key,
            gutter,
            in_gutter: false,
            in_second_slot: false,
            key,
            timeout,
            deadline: None,
            read_deadline: None,
            priority: Priority::Foreground,
        };
        if !located.home.serves(&located.home_key) {
            located.enter_gutter();
        }
        located
    }

    /// For writes that nobody waits for.
    pub(crate) fn in_background(mut self) -> RemoteKey {
        self.priority = Priority::Background;
        self
    }

    /// Whether another server stands in for the key's own.
    pub(crate) fn is_in_gutter(&self) -> bool {
        self.in_gutter
    }

    /// Where it is asked for.
    pub(super) fn server(&self) -> &Arc<Server> {
        match &self.gutter {
            Some(gutter) if self.in_gutter => gutter,
            _ => &self.home,
        }
    }

    /// Of its own, so that what a server has as the key's own and what it has in another's place
    /// are never taken for each other.
    fn gutter_key(&self) -> Arc<str> {
        gutter_key(&self.home_key)
    }

    /// Asks in the gutter from now on, if that is there.
    fn enter_gutter(&mut self) {
        let Some(gutter) = &self.gutter else { return };
        let key = self.gutter_key();
        if gutter.serves(&key) {
            (self.key, self.in_gutter) = (key, true);
        }
    }

    /// After a lookup that came to nothing, as its server is lost: whether it is to be tried once
    /// more, in the gutter, with the time that is left of it.
    pub(crate) fn turns_to_gutter(&mut self, error: &RemoteError) -> bool {
        let has_time = self.deadline.is_some_and(|deadline| Instant::now() < deadline);
        if !error.is_out_of_reach() || !has_time || self.in_gutter {
            return false;
        }
        self.enter_gutter();
        self.in_gutter
    }

    /// Turns to the second slot after the first was seen to have another build's entry. Returns false
    /// if this is the second slot already.
    pub(crate) fn turns_to_second_slot(&mut self) -> bool {
        if self.in_second_slot {
            return false;
        }
        self.in_second_slot = true;
        self.home_key = second_slot(&self.home_key);
        self.key = match self.in_gutter {
            true => self.gutter_key(),
            false => Arc::clone(&self.home_key),
        };
        self.read_deadline = self.deadline;
        true
    }

    pub(crate) fn read(&mut self) -> impl Future<Output = Result<Found, RemoteError>> {
        self.read_under(None)
    }

    /// Reads, or wins the right to fill, in one round trip; the right to replace an item too, in
    /// the last `kept` of its life. The lease lasts whole seconds.
    pub(crate) fn read_or_lease(
        &mut self,
        lease: Duration,
        kept: Duration,
    ) -> impl Future<Output = Result<Found, RemoteError>> {
        let (lease, kept) = match self.in_gutter {
            true => (lease.min(GUTTER_TTL), Duration::ZERO),
            false => (lease, kept),
        };
        let claim_below_seconds = match whole_seconds(kept) {
            0 => 0,
            // As the caller counts: an item may be gone a second before the server says so.
            kept => kept.saturating_add(2).min(whole_seconds(LONGEST_TTL)),
        };
        let lease = LeaseTerms { seconds: whole_seconds(lease).max(1), claim_below_seconds };
        self.read_under(Some(lease))
    }

    async fn read_under(&mut self, lease: Option<LeaseTerms>) -> Result<Found, RemoteError> {
        #[cfg(feature = "testing")]
        self.go_home_if_in_memory().await;
        let (rest, now) = (self.deadline.take(), Instant::now());
        if !self.in_gutter {
            self.deadline = Some(now + self.timeout);
        }
        let deadline = self.read_deadline.take().or(rest.filter(|_| self.in_gutter));
        let read = self.server().read(&self.key, lease, now);
        let found = match deadline {
            // In a box, as it is rare, so that what holds a read stays small.
            Some(deadline) => Box::pin(run_until(deadline, read))
                .await
                .unwrap_or_else(|| Err(RemoteError::lost("no time was left for a second read"))),
            None => read.await,
        };
        Ok(match found? {
            Found::Item(item) => Found::Item(self.judge(item)),
            found => found,
        })
    }

    /// A test that has moved the clock finds a server that has recovered in use.
    #[cfg(feature = "testing")]
    async fn go_home_if_in_memory(&mut self) {
        if self.in_gutter && !self.home.health.in_rotation() {
            self.home.recover_if_in_memory().await;
            if self.home.serves(&self.home_key) {
                (self.key, self.in_gutter) = (Arc::clone(&self.home_key), false);
            }
        }
    }

    pub(super) fn judge(&self, mut item: Item) -> Item {
        item.in_gutter = self.in_gutter;
        if !self.server().is_above_fence(self.digest, item.cas.number) {
            self.server().recheck_fence();
            // Nobody can read it, and so anybody may replace it.
            item.frame.clear();
        }
        item
    }

    /// Stores a frame for `ttl`, and `kept` after that; `Ok(false)` where the condition did not
    /// hold, and where the ttl is under a second.
    pub(crate) async fn write(
        &self,
        frame: Vec<u8>,
        ttl: Duration,
        kept: Duration,
        condition: Condition,
    ) -> Result<bool, RemoteError> {
        let (ttl, kept) = match self.in_gutter {
            true => (ttl.min(GUTTER_TTL), Duration::ZERO),
            false => (ttl, kept),
        };
        // memcached would read no seconds as "for ever".
        if whole_seconds(ttl) == 0 {
            return Ok(false);
        }
        let whole = |duration: Duration| Duration::from_secs(duration.as_secs());
        let seconds = whole_seconds(whole(ttl).saturating_add(whole(kept)).min(LONGEST_TTL));
        let key = Arc::clone(&self.key);
        let write = Command::Write { key, frame: frame.into(), seconds, condition };
        let deadline = Instant::now() + self.timeout;
        let written = self.server().change(write, self.priority).await?;
        if let Condition::Always = condition {
            // The other build's entry goes too.
            let [_, second] = self.slots_where_asked();
            tell_by(deadline, HintedRemoval::new(self.server(), vec![second])).await?;
            match self.in_gutter {
                true => tell_by(deadline, self.untold_at_home()).await?,
                false => self.tell_gutter(self.untold_in_gutter(), deadline).await,
            }
        }
        Ok(written)
    }

    /// Reads without asking for a right, on the server where the key was asked for.
    pub(super) async fn look(&self) -> Result<Found, RemoteError> {
        self.server().read(&self.key, None, Instant::now()).await
    }

    /// Renews a lease that was won under this CAS for so many seconds; returns the new CAS, or `None`
    /// if it was lost.
    pub(super) async fn renew(
        &self,
        marker: LeaseMarker,
        seconds: u32,
        cas: Cas,
    ) -> Result<Option<Cas>, RemoteError> {
        self.server().renew(&self.key, marker, seconds, cas).await
    }

    /// Whether it is worth waiting for another caller's lease on this server.
    pub(crate) fn leases_end(&self) -> bool {
        self.server().wait_breaker.leases_end()
    }

    /// Takes note that a lease of this server has ended, or that its holder lives.
    pub(crate) fn lease_ends(&self) {
        self.server().wait_breaker.note(true);
    }

    /// Finds out in the background whether a lease that was waited for in vain ends at all.
    pub(crate) fn doubt_lease(&self, cas: Cas) {
        let (Ok(runtime), Some(check)) = (Handle::try_current(), self.server().begin_lease_probe())
        else {
            return;
        };
        let key = self.clone();
        runtime.spawn(async move {
            tokio::time::sleep(ORPHAN_ENDS_AFTER).await;
            // The placeholder that was there, and no marker in its place.
            let is_there = |busy: BusyLease| busy.cas == Some(cas) && busy.marker.is_none();
            if let Ok(found) = key.look().await {
                key.server()
                    .wait_breaker
                    .note(!matches!(found, Found::Busy(busy) if is_there(busy)));
            }
            drop(check);
        });
    }

    /// Gives a lease back: what is there is removed if nobody has changed it.
    pub(super) async fn give_back(&self, cas: Cas) -> Result<(), RemoteError> {
        let delete = Command::Delete { key: Arc::clone(&self.key), unchanged: Some(cas) };
        self.server().change(delete, self.priority).await.map(drop)
    }

    pub(super) async fn let_others_win(&self, cas: Cas) -> Result<(), RemoteError> {
        let mark = Command::ReleaseRefresh { key: Arc::clone(&self.key), cas };
        self.server().change(mark, self.priority).await.map(drop)
    }

    /// Removes the entry wherever a process could find it: in both slots, at home and, always, in the
    /// gutter, where another process may look already. A server that cannot be told now is told before
    /// this process asks it for the key again, also if this is dropped. As part of a change that
    /// `began` before, it ends in time for that.
    ///
    /// # Errors
    /// Its home could not be told: to others it may serve what it has meanwhile. What the gutter may
    /// serve to others is gone in seconds.
    pub(crate) async fn forget(&self, began: Option<Instant>) -> Result<(), RemoteError> {
        let deadline = began.unwrap_or_else(Instant::now) + self.timeout;
        let in_gutter = self.untold_in_gutter();
        let at_home = self.untold_at_home();
        let told = match began {
            // What begins now ends in time by itself.
            None => at_home.send(deadline).await,
            Some(_) => tell_by(deadline, at_home).await,
        };
        self.tell_gutter(in_gutter, deadline).await;
        told
    }

    fn slots(&self) -> [Arc<str>; 2] {
        [Arc::clone(&self.home_key), second_slot(&self.home_key)]
    }

    fn slots_where_asked(&self) -> [Arc<str>; 2] {
        self.slots().map(|slot| if self.in_gutter { gutter_key(&slot) } else { slot })
    }

    fn untold_at_home(&self) -> HintedRemoval<'_> {
        HintedRemoval::new(&self.home, self.slots().into())
    }

    fn untold_in_gutter(&self) -> Option<HintedRemoval<'_>> {
        let gutter = self.gutter.as_ref()?;
        Some(HintedRemoval::new(gutter, self.slots().map(|slot| gutter_key(&slot)).into()))
    }

    async fn tell_gutter(&self, untold: Option<HintedRemoval<'_>>, deadline: Instant) {
        if let Some(untold) = untold {
            // Dropped untold it is owed.
            let _ = tell_by(deadline, untold).await;
        }
    }
}

/// Lets a server be told until the deadline. What was begun by then goes on in the background.
async fn tell_by(deadline: Instant, untold: HintedRemoval<'_>) -> Result<(), RemoteError> {
    run_until(deadline, untold.send(deadline))
        .await
        .unwrap_or_else(|| Err(RemoteError::lost("no time was left to tell a key's server")))
}
