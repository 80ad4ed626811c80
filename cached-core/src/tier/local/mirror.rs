//! What a thread is asked for most, before the local tier's store.
//!
//! The store counts on shared memory who reads what; on a hit that costs more than all the rest,
//! and two threads hinder each other. So each thread keeps references to the entries it served
//! last, and reads them without touching memory that another thread writes. Of an entry that is
//! kept so, a hit is passed on to the store now and then, while other entries are stored, so that
//! the store learns what is asked for and what to make room with; see `Local::answers`.
//!
//! # Why no old value is served
//! Keys share a table of *marks*, counters that only grow. Whoever changes an entry of the store
//! (a publication, an invalidation) counts the key's mark up *after* that, with `Release`. Whoever
//! fills a slot loads the mark with `Acquire` *before* it reads the store, and keeps it in the slot;
//! a slot answers only while its mark is the current one.
//!
//! - A slot never holds a value that is older than its mark: if the load saw the count of a change,
//!   it synchronizes with it, so the read of the store came after the change and saw it.
//! - After a change has returned, no call that begins later is answered from a slot filled before:
//!   the call happens after the count, so by coherence it loads that count or a later one, and no
//!   slot from before it has that mark.
//!
//! What it costs when keys share a mark is a look in the store.

use std::cell::RefCell;
use std::hint::select_unpredictable;
use std::mem::replace;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use smallvec::SmallVec;

use crate::clock::Coarse;
use crate::value::Value;

/// Slots of a set.
const WAYS: usize = 4;
/// Room for 2,048 entries a thread, which is 260 KiB.
const SETS: usize = 512;

/// Bits of a tag; one for each way fits in a word.
const LANE: usize = 64 / WAYS;
/// 1 in each lane.
const LANES: u64 = 0x0001_0001_0001_0001;

/// The highest bit of each lane that is 0; where there is one, perhaps of others above it too.
/// (Mycroft's test for a zero byte, in lanes of 16 bits.)
#[inline(always)]
fn zero_lanes(word: u64) -> u64 {
    word.wrapping_sub(LANES) & !word & (LANES << (LANE - 1))
}

/// One entry, in one cache; in two lines of the processor's cache.
#[repr(align(64))]
pub(super) struct Slot {
    weight: u32,
    store: u64,
    pub(super) mark: u64,
    /// Until when it answers.
    pub(super) until: Coarse,
    /// How much had been stored when it was looked up in the store.
    pub(super) stored: u64,
    /// In the slot, where it is short; else a buffer that the next key uses again, so that a hit
    /// allocates nothing.
    key: SmallVec<[u8; 56]>,
    value: Value,
}

struct Mirror {
    /// For each set a word, of whose lanes each has a part of a key's hash, by which most other keys
    /// are told without reading them. None until something is kept.
    tags: Vec<u64>,
    /// As many sets.
    slots: Vec<[Option<Slot>; WAYS]>,
    weight: u64,
    /// The slot that is emptied next where there is too much.
    hand: usize,
    /// How many stores were gone when this began.
    gone: u64,
}

thread_local! {
    static MIRROR: RefCell<Mirror> = const { RefCell::new(Mirror::empty(0)) };
}

/// Threads that have a mirror; they share what a store allows all of them.
static MIRRORS: AtomicUsize = AtomicUsize::new(0);
/// Stores that are gone. A mirror that sees this grow lets go of everything.
static GONE: AtomicU64 = AtomicU64::new(0);

/// A key as the mirrors find it.
#[derive(Clone, Copy)]
pub(super) struct Place<'k> {
    pub(super) store: u64,
    pub(super) hash: u32,
    pub(super) key: &'k [u8],
}

impl Place<'_> {
    /// Its two sets. With one, a seventh of a thousand keys would share a set with four others or
    /// more, and drive each other out.
    fn sets(&self) -> [usize; 2] {
        [self.hash >> 23, self.hash >> 14].map(|bits| bits as usize % SETS)
    }

    /// What each lane of a set's tags holds where the key may be.
    fn tag(&self) -> u64 {
        u64::from(self.hash as u16) * LANES
    }

    /// Its set, its way in it, and what is there.
    #[inline(always)]
    fn find<'m>(&self, mirror: &'m Mirror) -> Option<(usize, usize, &'m Slot)> {
        // Where among its places a key is cannot be foreseen, so that is no branch.
        let [first, second] = self.sets();
        let in_first = zero_lanes(mirror.tags.get(first)? ^ self.tag());
        let in_second = zero_lanes(mirror.tags.get(second)? ^ self.tag());
        let mut found = in_first | (in_second >> 1);
        while found != 0 {
            let bit = found.trailing_zeros() as usize;
            let set = select_unpredictable(bit % LANE == LANE - 1, first, second);
            let way = bit / LANE;
            let slot = mirror.slots.get(set)?[way].as_ref();
            if let Some(slot) = slot.filter(|slot| self.is_of(slot)) {
                return Some((set, way, slot));
            }
            found &= found - 1;
        }
        None
    }

    #[inline(always)]
    fn is_of(&self, slot: &Slot) -> bool {
        slot.store == self.store && *slot.key == *self.key
    }
}

/// What `serve` makes of the entry's value, if this thread has it and `answers` is true of it.
#[inline(always)]
pub(super) fn look<T>(
    place: Place<'_>,
    answers: impl FnOnce(&Slot) -> bool,
    serve: impl FnOnce(&Value) -> T,
) -> Option<T> {
    let look = |mirror: &RefCell<Mirror>| {
        // A value's own `Clone` may ask for another entry, hence no more than a shared borrow.
        let mirror = mirror.try_borrow().ok()?;
        let (.., slot) = place.find(&mirror)?;
        answers(slot).then(|| serve(&slot.value))
    };
    // Without thread-locals, at the end of a thread, there is the store.
    MIRROR.try_with(look).ok().flatten()
}

/// Lets go of everything where a store is gone. Called on the way to the store.
#[inline]
pub(super) fn tidy() {
    let gone = GONE.load(Ordering::Relaxed);
    // What is let go is dropped after the borrow: a value's own `Drop` may ask for an entry.
    let old = MIRROR.try_with(|mirror| {
        let mut mirror = mirror.try_borrow_mut().ok()?;
        (mirror.gone != gone).then(|| replace(&mut *mirror, Mirror::empty(gone)))
    });
    drop(old);
}

/// A store is gone: this thread lets go of it now, every other when it next looks into a store, or
/// ends.
pub(super) fn forget_store() {
    GONE.fetch_add(1, Ordering::Relaxed);
    tidy();
}

/// Keeps an entry, where this thread's share of `allowed` has room for it.
pub(super) fn keep(place: Place<'_>, kept: Kept<'_>, allowed: u64) {
    let keep = |mirror: &RefCell<Mirror>| {
        mirror.try_borrow_mut().ok().and_then(|mut mirror| mirror.make_room(place, kept, allowed))
    };
    // Each is dropped after the borrow: a value's own `Drop` may ask for an entry.
    while let Ok(Some(let_go)) = MIRROR.try_with(keep) {
        drop(let_go);
    }
    let keep = |mirror: &RefCell<Mirror>| {
        mirror.try_borrow_mut().ok().and_then(|mut mirror| mirror.keep(place, kept, allowed))
    };
    drop(MIRROR.try_with(keep));
}

/// What is kept of an entry.
#[derive(Clone, Copy)]
pub(super) struct Kept<'v> {
    pub(super) mark: u64,
    pub(super) until: Coarse,
    pub(super) stored: u64,
    pub(super) value: &'v Value,
    pub(super) weight: u32,
}

impl Mirror {
    const fn empty(gone: u64) -> Mirror {
        Mirror { tags: Vec::new(), slots: Vec::new(), weight: 0, hand: 0, gone }
    }

    /// What this thread may keep of what all may keep.
    fn share(allowed: u64) -> u64 {
        allowed / MIRRORS.load(Ordering::Relaxed).max(1) as u64
    }

    /// Takes one entry out, if that is needed for another's sake.
    fn make_room(&mut self, place: Place<'_>, kept: Kept<'_>, allowed: u64) -> Option<Value> {
        let full = self.weight + u64::from(kept.weight) > Mirror::share(allowed);
        if !full || self.weight == 0 || place.find(self).is_some() {
            return None;
        }
        loop {
            let (set, way) = self.next();
            if let Some(slot) = self.slots[set][way].take() {
                self.weight -= u64::from(slot.weight);
                return Some(slot.value);
            }
        }
    }

    /// The set and the way that the hand points at, after it was moved on.
    fn next(&mut self) -> (usize, usize) {
        self.hand = (self.hand + 1) % (SETS * WAYS);
        (self.hand / WAYS, self.hand % WAYS)
    }

    /// Returns what had its place.
    fn keep(&mut self, place: Place<'_>, kept: Kept<'_>, allowed: u64) -> Option<Value> {
        if u64::from(kept.weight) > Mirror::share(allowed) {
            return None;
        }
        if self.slots.is_empty() {
            self.tags.resize(SETS, 0);
            self.slots.resize_with(SETS, Default::default);
            MIRRORS.fetch_add(1, Ordering::Relaxed);
        }
        let Kept { mark, until, stored, value, weight } = kept;
        let free = || {
            let ways =
                place.sets().into_iter().flat_map(|set| (0..WAYS).map(move |way| (set, way)));
            ways.into_iter().find(|&(set, way)| self.slots[set][way].is_none())
        };
        let (set, way) =
            place.find(self).map(|(set, way, _)| (set, way)).or_else(free).unwrap_or_else(|| {
                // Any of its places, but not always the same.
                let (turn, way) = self.next();
                (place.sets()[turn % 2], way)
            });
        let old = self.slots[set][way].take();
        let (mut key, value_before) = match old {
            Some(slot) => {
                self.weight -= u64::from(slot.weight);
                (slot.key, Some(slot.value))
            }
            None => (SmallVec::new(), None),
        };
        key.clear();
        key.extend_from_slice(place.key);
        self.weight += u64::from(weight);
        let value = Arc::clone(value);
        let lane = u64::from(u16::MAX) << (way * LANE);
        self.tags[set] = (self.tags[set] & !lane) | (place.tag() & lane);
        self.slots[set][way] =
            Some(Slot { weight, store: place.store, mark, until, stored, key, value });
        value_before
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if !self.slots.is_empty() {
            MIRRORS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
