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

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use smallvec::SmallVec;

use super::store::put_aside;
use crate::clock::Coarse;
use crate::key::{Head, Sought, body};
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
#[cfg_attr(not(debug_assertions), inline(always))]
fn zero_lanes(word: u64) -> u64 {
    word.wrapping_sub(LANES) & !word & (LANES << (LANE - 1))
}

/// One entry, in one cache; in two lines of the processor's cache.
#[repr(align(64))]
pub(super) struct Slot {
    weight: u32,
    store: u64,
    head: Head,
    pub(super) mark: u64,
    /// Until when it answers.
    pub(super) until: Coarse,
    /// How much had been stored when it was looked up in the store.
    pub(super) stored: u64,
    /// The key without its head: in the slot, where it is short; else a buffer that the next one
    /// uses again, so that a hit allocates nothing.
    body: SmallVec<[u8; 56]>,
    pub(super) value: Value,
}

struct Mirror {
    /// For each set a word, of whose lanes each has a part of a key's hash, by which most other keys
    /// are told without reading them.
    tags: [u64; SETS],
    slots: Box<[Set; SETS]>,
    weight: u64,
    /// The slot that is emptied next where there is too much.
    hand: usize,
    /// How many stores were gone when this began.
    gone: u64,
}

type Set = [Option<Slot>; WAYS];

/// Where a thread's mirror is. Taken and not borrowed, so that what is done with it is no closure,
/// and is inlined.
enum Place {
    /// Nothing is kept yet.
    None,
    Here(Box<Mirror>),
    /// Somebody has it: a value whose own `Clone` or `Drop` asks for an entry meanwhile gets it from the
    /// store.
    InHand,
}

thread_local! {
    static MIRROR: Cell<Place> = const { Cell::new(Place::None) };
}

/// A thread's mirror, until this is dropped, also by a value that panics.
pub struct InHand(Option<Box<Mirror>>);

impl InHand {
    /// `None` where somebody has it, and without thread-locals, at the end of a thread.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn take() -> Option<InHand> {
        match MIRROR.try_with(|place| place.replace(Place::InHand)).ok()? {
            Place::Here(mirror) => Some(InHand(Some(mirror))),
            Place::None => Some(InHand(None)),
            Place::InHand => None,
        }
    }

    /// What it has of an entry.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn find(&self, store: u64, key: &impl Sought) -> Option<&Slot> {
        self.0.as_ref()?.find(store, key).map(|(.., slot)| slot)
    }
}

impl Drop for InHand {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn drop(&mut self) {
        let place = self.0.take().map_or(Place::None, Place::Here);
        // There is nothing in its place. Without thread-locals it goes with them.
        let _ = MIRROR.try_with(|mirror| std::mem::forget(mirror.replace(place)));
    }
}

/// Threads that have a mirror; they share what a store allows all of them.
static MIRRORS: AtomicUsize = AtomicUsize::new(0);
/// Stores that are gone. A mirror that sees this grow lets go of everything.
static GONE: AtomicU64 = AtomicU64::new(0);

impl Slot {
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn is_of(&self, store: u64, key: &impl Sought) -> bool {
        self.store == store && self.head == key.head() && key.is(&self.body)
    }
}

/// The two sets where a key may be. With one, a seventh of a thousand keys would share a set with
/// four others or more, and drive each other out.
#[cfg_attr(not(debug_assertions), inline(always))]
fn sets(head: Head) -> [usize; 2] {
    [head.hash() >> 23, head.hash() >> 14].map(|bits| bits as usize % SETS)
}

/// What each lane of a set's tags holds where the key may be.
#[cfg_attr(not(debug_assertions), inline(always))]
fn tag(head: Head) -> u64 {
    u64::from(head.hash() as u16) * LANES
}

/// Lets go of everything where a store is gone. Called on the way to the store.
#[inline]
pub(super) fn tidy() {
    let gone = GONE.load(Ordering::Relaxed);
    change(|mirror| {
        if mirror.as_ref().is_some_and(|mirror| mirror.gone != gone) {
            let_go(mirror);
        }
    });
}

#[cold]
fn let_go(mirror: &mut Option<Box<Mirror>>) {
    // Where one panics, the others are put aside.
    if let Some(mut mirror) = mirror.take() {
        mirror.values().for_each(drop);
    }
}

#[inline]
fn change(change: impl FnOnce(&mut Option<Box<Mirror>>)) {
    if let Some(mut in_hand) = InHand::take() {
        change(&mut in_hand.0);
    }
}

/// A store is gone: this thread lets go of it now, every other when it next looks into a store, or
/// ends.
pub(super) fn forget_store() {
    GONE.fetch_add(1, Ordering::Relaxed);
    tidy();
}

/// Keeps an entry, where this thread's share of `allowed` has room for it.
pub(super) fn keep(store: u64, key: &[u8], kept: Kept<'_>, allowed: u64) {
    // What is too large for it is no reason to begin one.
    if u64::from(kept.weight) <= Mirror::share(allowed) {
        change(|mirror| mirror.get_or_insert_with(Mirror::new).keep(store, key, kept, allowed));
    }
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
    fn new() -> Box<Mirror> {
        MIRRORS.fetch_add(1, Ordering::Relaxed);
        let gone = GONE.load(Ordering::Relaxed);
        // By way of a vector: an array would be made on the stack, which may be too small for it.
        let slots: Box<[Set]> = std::iter::repeat_with(Set::default).take(SETS).collect();
        let slots = slots.try_into().unwrap_or_else(|_| unreachable!("it has as many sets"));
        Box::new(Mirror { tags: [0; SETS], slots, weight: 0, hand: 0, gone })
    }

    /// Takes one after the other out.
    fn values(&mut self) -> impl Iterator<Item = Value> {
        let slots = self.slots.as_flattened_mut().iter_mut();
        slots.filter_map(Option::take).map(|slot| slot.value)
    }

    /// What this thread may keep of what all may keep.
    fn share(allowed: u64) -> u64 {
        allowed / MIRRORS.load(Ordering::Relaxed).max(1) as u64
    }

    /// A key's set, its way in it, and what is there.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn find(&self, store: u64, key: &impl Sought) -> Option<(usize, usize, &Slot)> {
        let tag = tag(key.head());
        // Mostly it is in the first, until those are full.
        for set in sets(key.head()) {
            let mut found = zero_lanes(self.tags[set] ^ tag);
            while found != 0 {
                let way = found.trailing_zeros() as usize / LANE;
                if let Some(slot) = &self.slots[set][way]
                    && slot.is_of(store, key)
                {
                    return Some((set, way, slot));
                }
                found &= found - 1;
            }
        }
        None
    }

    /// Takes entries out until there is room for the weight of another.
    fn make_room(&mut self, weight: u32, allowed: u64) {
        while self.weight > 0 && self.weight + u64::from(weight) > Mirror::share(allowed) {
            let (set, way) = self.next();
            self.take_out(set, way);
        }
    }

    /// Takes out what there is; returns the buffer of its key, emptied.
    fn take_out(&mut self, set: usize, way: usize) -> SmallVec<[u8; 56]> {
        let Some(mut old) = self.slots[set][way].take() else { return SmallVec::new() };
        self.weight -= u64::from(old.weight);
        old.body.clear();
        old.body
    }

    /// The set and the way that the hand points at, after it was moved on.
    fn next(&mut self) -> (usize, usize) {
        self.hand = (self.hand + 1) % (SETS * WAYS);
        (self.hand / WAYS, self.hand % WAYS)
    }

    fn keep(&mut self, store: u64, key: &[u8], kept: Kept<'_>, allowed: u64) {
        let Kept { mark, until, stored, value, weight } = kept;
        let head = Head::of(key);
        let sets = sets(head);
        let its_own = self.find(store, &key).map(|(set, way, _)| (set, way));
        // What it was before makes room too, and what it is now needs it also where it has a place.
        let mut room = its_own.map_or_else(SmallVec::new, |(set, way)| self.take_out(set, way));
        self.make_room(weight, allowed);
        // Begins at any of a set's ways: the first ones of all sets share a part of the processor's
        // cache.
        let begin = head.hash() as usize >> 4;
        let free = || {
            let ways = sets
                .into_iter()
                .flat_map(|set| (begin..begin + WAYS).map(move |way| (set, way % WAYS)));
            ways.into_iter().find(|&(set, way)| self.slots[set][way].is_none())
        };
        let (set, way) = its_own.or_else(free).unwrap_or_else(|| {
            // Any of its places, but not always the same.
            let (turn, way) = self.next();
            (sets[turn % 2], way)
        });
        if self.slots[set][way].is_some() {
            room = self.take_out(set, way);
        }
        room.extend_from_slice(body(key));
        self.weight += u64::from(weight);
        let value = Arc::clone(value);
        let lane = u64::from(u16::MAX) << (way * LANE);
        self.tags[set] = (self.tags[set] & !lane) | (tag(head) & lane);
        self.slots[set][way] =
            Some(Slot { weight, store, head, mark, until, stored, body: room, value });
    }
}

impl Drop for Mirror {
    /// Drops no value: it goes at the end of its thread, or while another value panics. See
    /// [`store`](super::store).
    fn drop(&mut self) {
        MIRRORS.fetch_sub(1, Ordering::Relaxed);
        put_aside(self.values());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_grow_in_their_places_make_room_like_others() {
        const ALLOWED: u64 = 1 << 20;
        let value: Value = Arc::new(1);
        // Of no store that there is.
        let keep_all = |weight| {
            for number in 0..200_u64 {
                let key =
                    [number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number].map(u64::to_ne_bytes);
                let until = Coarse::now();
                let kept = Kept { mark: 0, until, stored: 0, value: &value, weight };
                keep(u64::MAX, key.as_flattened(), kept, ALLOWED);
            }
        };
        let weight = || InHand::take().and_then(|in_hand| Some(in_hand.0.as_ref()?.weight));
        keep_all(1);
        assert_eq!(weight(), Some(200));
        keep_all(1 << 14);
        assert!(weight().is_some_and(|weight| weight <= ALLOWED), "{:?}", weight());
    }
}
