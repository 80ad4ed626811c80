//! What the index and the policy tell each other: which entries came, which have to go, and which have
//! expired.

use std::sync::atomic::{Ordering, fence};
use std::thread;

use super::LocalTier;
use super::entry::{Entry, EntryId, Known};
use super::index::ReadGuard;
use super::policy::Name;
use crate::clock::CoarseInstant;

/// The policy is told of a hit when one in so many entries was replaced since it was told of that entry
/// last: often enough to see that the entry is in use, long before it is its turn to go. While nothing is
/// stored nothing has to go.
const TOLD_IN_ALL: usize = 2;
/// How often the entries are counted for that.
const COUNTED_AFTER: u32 = 256;

/// So many entries are taken out by one sweep, so that it takes a bounded time and memory,
const SWEPT_AT_ONCE: usize = 1 << 16;
/// and so many while other garbage waits.
const AT_ONCE: usize = 1 << 8;

/// An entry that was put into the index, for the policy.
pub(super) struct Put {
    pub(super) id: EntryId,
    pub(super) weight: u32,
    /// Whether this is the one who has the policy know of it.
    pub(super) is_admitted: bool,
    /// With it half of the room is taken: the policy is to know of all.
    pub(super) fills: bool,
}

impl LocalTier {
    /// Has the policy know of what was put into the index. With nothing locked: moka drops what any program's
    /// own tables of this kind have let go of. Who is overtaken here by another change of the key has that
    /// other's entry taken out before its time, and none is left that moka does not know.
    pub(super) fn have_kept(&self, put: &Put) {
        if put.is_admitted {
            self.policy.admit(put.id, put.weight);
        } else {
            // The one who begins to fill says so, and then looks for what is in the index.
            fence(Ordering::SeqCst);
            if self.policy.is_filling() {
                self.admit(put.id);
            }
        }
        if put.fills {
            self.admit_all();
        }
        self.take_out_gone();
    }

    pub(super) fn count_stored(&self) -> u32 {
        let stored = self.filling.stored.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if stored % COUNTED_AFTER == 1 {
            let told_after = u32::try_from(self.index.len() / TOLD_IN_ALL).unwrap_or(u32::MAX);
            self.filling.told_after.store(told_after, Ordering::Relaxed);
        }
        stored
    }

    /// Has the policy know of all that was put into the index before, on a thread of its own: there may be
    /// a million.
    fn admit_all(&self) {
        let all = |local: &LocalTier| {
            fence(Ordering::SeqCst);
            let ids = |reading: ReadGuard<'_>| {
                let now = local.now();
                let is_due =
                    |(entry, known): &(&Entry, &Known)| now < entry.gone() && !known.is_admitted();
                let before = reading.entries().filter(is_due);
                before.map(|(entry, _)| entry.id()).collect::<Vec<_>>()
            };
            let ids = local.read().map(ids).unwrap_or_default();
            for ids in ids.chunks(AT_ONCE) {
                ids.iter().for_each(|id| local.admit(*id));
                local.take_out_gone();
            }
        };
        let here = self.here.clone();
        let thread = move || {
            if let Some(local) = here.upgrade() {
                all(&local);
            }
        };
        if thread::Builder::new().name("cached-filling".to_owned()).spawn(thread).is_err() {
            all(self);
        }
    }

    /// Has the policy know of an entry, unless it does.
    fn admit(&self, id: EntryId) {
        let is_to_be_admitted = |reading: ReadGuard<'_>| {
            let (_, known) = reading.find_by_id(id)?;
            known.is_to_be_admitted().then_some(known.weight)
        };
        if let Some(weight) = self.read().and_then(is_to_be_admitted) {
            self.policy.admit(id, weight);
        }
    }

    /// Takes out what the policy has let go of.
    pub(super) fn take_out_gone(&self) {
        let gone = self.policy.gone();
        if !gone.is_empty()
            && let Some(reading) = self.read()
        {
            for id in gone {
                if let Some((entry, _)) = reading.find_by_id(id) {
                    self.remove(&reading, entry);
                }
            }
        }
    }

    /// Takes out what is of no use any more, or a part of it. Returns true if there is more.
    pub(super) fn sweep(&self) -> bool {
        let now = self.now();
        if !self.due.is_over(now) {
            return false;
        }
        let mut next = CoarseInstant::NEVER;
        let gone = self.read().map(|reading| {
            let is_gone = |&(entry, _): &(&Entry, &Known)| {
                let is_gone = entry.gone() <= now;
                next = if is_gone { next } else { next.min(entry.gone()) };
                is_gone
            };
            let gone = reading.entries().filter(is_gone).take(SWEPT_AT_ONCE);
            gone.map(|(entry, _)| entry.id()).collect::<Vec<_>>()
        });
        let gone = gone.unwrap_or_default();
        let is_more = gone.len() == SWEPT_AT_ONCE;
        let next = if is_more { now } else { next };
        self.due.at(next);
        for ids in gone.chunks(AT_ONCE) {
            let out: Vec<Name> = self.read().map_or_else(Vec::new, |reading| {
                let entries = ids.iter().filter_map(|id| reading.find_by_id(*id));
                let out = entries.map(|(entry, _)| self.take_out(&reading, entry)).collect();
                reading.flush();
                out
            });
            out.into_iter().for_each(|name| self.policy.dismiss(name));
        }
        self.take_out_gone();
        is_more
    }

    /// Takes an entry out of the index. Returns its name, for the policy, when nothing is locked.
    pub(super) fn take_out(&self, reading: &ReadGuard<'_>, entry: &Entry) -> Name {
        self.remove(reading, entry);
        entry.id().name()
    }

    fn remove(&self, reading: &ReadGuard<'_>, entry: &Entry) {
        if let Some(weight) = reading.remove(entry) {
            self.policy.removed(weight);
        }
    }
}
