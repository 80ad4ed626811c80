//! The items of a server that are not believed: they are from before a time in which this process may have
//! changed them without telling the server.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::{Server, score};
use crate::event::Event;
use crate::key::Digest;
use crate::sync::lock;

/// The keys whose items are not believed if they are older than the server's mark.
#[derive(Default)]
pub(super) struct Doubts {
    /// True if these are all keys.
    all: bool,
    /// The servers, by their seeds, that had these keys while they were there.
    of: Vec<u64>,
}

impl Server {
    /// Believes nothing of what the server has by now; where `gone` is given, only nothing of that server's
    /// keys. The server is out of rotation until what it has can be told from what it will have.
    pub(in crate::tier::remote::memcached) fn fence(&self, gone: Option<&Server>) {
        {
            let mut doubts = self.doubts();
            match gone {
                Some(gone) if doubts.of.contains(&gone.seed) => {}
                Some(gone) => doubts.of.push(gone.seed),
                None => doubts.all = true,
            }
            self.debts.distrust();
        }
        self.events.emit(&Event::ServerFenced { address: &self.address });
        self.health.eject();
        self.mend_in_background();
    }

    /// Returns true if an item of the key may be what this process stored last.
    pub(in crate::tier::remote::memcached) fn is_above_fence(
        &self,
        digest: Digest,
        cas_number: u64,
    ) -> bool {
        if cas_number >= self.marked.load(Ordering::Acquire) {
            return true;
        }
        let own = self.score(digest);
        let doubts = self.doubts();
        !doubts.all && !doubts.of.iter().any(|&seed| score(seed, digest) > own)
    }

    /// Finds out whether an item that is not believed is from before the mark, or from after a restart that
    /// nobody noticed.
    pub(in crate::tier::remote::memcached) fn recheck_fence(&self) {
        if self.is_well() && self.health.begins_attempt() {
            self.attempt_in_background();
        }
    }

    pub(super) fn doubts(&self) -> MutexGuard<'_, Doubts> {
        lock(&self.doubts)
    }
}
