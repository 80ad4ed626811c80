//! A lease that was won.

use std::sync::Arc;

use super::{Item, Remote, RemoteKey};

/// A won lease. Dropped unused, it is given back in the background, so that nobody waits for it.
pub(crate) struct Lease {
    remote: Arc<Remote>,
    key: RemoteKey,
    cas: u64,
    is_used: bool,
    /// Whether there is an item, which the lease lets its holder replace.
    of_item: bool,
}

impl Lease {
    /// To fill what is missing.
    pub(crate) fn new(remote: &Arc<Remote>, key: RemoteKey, cas: u64) -> Lease {
        Lease { remote: Arc::clone(remote), key, cas, is_used: false, of_item: false }
    }

    /// To replace an item.
    pub(crate) fn of_item(remote: &Arc<Remote>, key: RemoteKey, item: &Item) -> Lease {
        let mut lease = Lease::new(remote, key, item.cas);
        lease.of_item = true;
        lease
    }

    pub(crate) fn key(&self) -> &RemoteKey {
        &self.key
    }

    /// The CAS to fill under.
    pub(crate) fn cas(&self) -> u64 {
        self.cas
    }

    /// Given back so that the item goes too, which else is left for others to replace.
    pub(crate) fn takes_its_item(mut self) {
        self.of_item = false;
    }

    /// The fill is done: there is nothing to give back.
    pub(crate) fn used(mut self) {
        self.is_used = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        let (cas, of_item) = (self.cas, self.of_item);
        let key = self.key.clone().in_background();
        // Also where many writes are under way: there are no more leases than fetches.
        self.remote.pending.run(0, async move {
            // Best effort: the lease runs out by itself, and an item goes.
            let _ = match of_item {
                false => key.give_back(cas).await,
                true => key.let_others_win(cas).await,
            };
        });
    }
}
