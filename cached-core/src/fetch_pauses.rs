//! Implements the option `error_ttl`. After a fetch of a key has failed, the key is *paused* for the
//! time that the option names.
//!
//! While a key is paused, the calls of this process do not fetch it. A call that finds no value in
//! the cache returns the error of the failed fetch.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::key::KeyHeader;
use crate::sync::lock;
use crate::value::SharedError;

/// The largest number of paused keys in one cache. If there would be more, the pause that ends
/// first is removed.
const MAX_PAUSES: usize = 4096;

/// The longest pause. It is short enough that adding it to an `Instant` does not overflow.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The paused keys of one cache.
#[derive(Default)]
pub(crate) struct FetchPauses {
    paused: Mutex<PausedKeys>,
}

/// The data behind the lock of [`FetchPauses`].
#[derive(Default)]
struct PausedKeys {
    by_key: HashMap<Arc<[u8]>, FetchPause>,
    /// The keys in the order in which their pauses end.
    by_end: BTreeMap<PauseEnd, Arc<[u8]>>,
    next_number: u64,
}

/// The end of a pause, and a number that tells apart the pauses that end at the same time.
type PauseEnd = (Instant, u64);

/// The pause of one key.
struct FetchPause {
    error: SharedError,
    end: PauseEnd,
}

impl FetchPauses {
    /// Returns the error of the failed fetch if the key is paused.
    pub(crate) fn get(&self, key: &[u8], now: Instant) -> Option<SharedError> {
        let paused = lock(&self.paused);
        let pause = paused.by_key.get(key)?;
        (now < pause.end.0).then(|| Arc::clone(&pause.error))
    }

    /// Pauses the key for `ttl` from now on. Replaces an earlier pause of the key.
    pub(crate) fn begin(&self, key: &Arc<[u8]>, error: SharedError, now: Instant, ttl: Duration) {
        let mut paused = lock(&self.paused);
        let end = (now + ttl.min(LONGEST_PAUSE), paused.next_number);
        paused.next_number += 1;
        let before = paused.remove(key);
        paused.by_end.insert(end, Arc::clone(key));
        paused.by_key.insert(Arc::clone(key), FetchPause { error, end });
        let ended = paused.remove_ended_or_surplus(now);
        // The `Drop` of an error is the program's own code, and must not run under the lock.
        drop(paused);
        drop((before, ended));
    }

    /// Ends the pause of the key, if the key is paused.
    pub(crate) fn end(&self, key: &[u8]) {
        let _dropped_after_the_lock = lock(&self.paused).remove(key);
    }

    /// Ends the pauses of the function whose declaration has this index. `None` ends all pauses.
    pub(crate) fn end_all(&self, index: Option<usize>) {
        let mut paused = lock(&self.paused);
        let is_of_function =
            |key: &[u8]| index.is_none_or(|index| KeyHeader::read(key).index() == index);
        let keys = paused.by_key.keys().filter(|key| is_of_function(key));
        let keys: Vec<Arc<[u8]>> = keys.cloned().collect();
        let ended: Vec<_> = keys.iter().map(|key| paused.remove(key)).collect();
        drop(paused);
        drop(ended);
    }
}

impl PausedKeys {
    fn remove(&mut self, key: &[u8]) -> Option<FetchPause> {
        let pause = self.by_key.remove(key)?;
        self.by_end.remove(&pause.end);
        Some(pause)
    }

    /// Removes the pauses that are over. If more than [`MAX_PAUSES`] remain, removes those that end
    /// first.
    fn remove_ended_or_surplus(&mut self, now: Instant) -> Vec<FetchPause> {
        let mut removed = Vec::new();
        while let Some(first) = self.by_end.first_entry()
            && (first.key().0 <= now || self.by_key.len() > MAX_PAUSES)
        {
            let key = first.remove();
            removed.extend(self.by_key.remove(&key));
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: u32) -> Arc<[u8]> {
        Arc::from(number.to_ne_bytes())
    }

    fn error() -> SharedError {
        Arc::new(())
    }

    #[test]
    fn a_pause_ends_after_its_ttl() {
        let (pauses, now) = (FetchPauses::default(), Instant::now());
        pauses.begin(&key(1), error(), now, 2 * SECOND);
        assert!(pauses.get(&key(1), now + SECOND).is_some());
        assert!(pauses.get(&key(2), now + SECOND).is_none());
        assert!(pauses.get(&key(1), now + 2 * SECOND).is_none());
    }

    #[test]
    fn a_later_failure_replaces_the_pause() {
        let (pauses, now) = (FetchPauses::default(), Instant::now());
        pauses.begin(&key(1), error(), now, 2 * SECOND);
        pauses.begin(&key(1), error(), now + SECOND, 2 * SECOND);
        assert!(pauses.get(&key(1), now + 2 * SECOND).is_some());
        pauses.end(&key(1));
        assert!(pauses.get(&key(1), now + SECOND).is_none());
        assert!(lock(&pauses.paused).by_end.is_empty());
    }

    #[test]
    fn the_number_of_paused_keys_is_bounded() {
        let (pauses, now) = (FetchPauses::default(), Instant::now());
        let count = u32::try_from(MAX_PAUSES).expect("the number is small");
        for number in 0..count + 1000 {
            pauses.begin(&key(number), error(), now + SECOND * (number / 1000), 3600 * SECOND);
        }
        let held = || {
            let paused = lock(&pauses.paused);
            assert_eq!(paused.by_key.len(), paused.by_end.len());
            paused.by_key.len()
        };
        assert_eq!(held(), MAX_PAUSES);
        assert!(pauses.get(&key(0), now).is_none(), "the oldest pause is dropped");
        assert!(pauses.get(&key(count + 999), now).is_some());
        // Beginning a pause removes the pauses that are over.
        pauses.begin(&key(0), error(), now + 7200 * SECOND, SECOND);
        assert_eq!(held(), 1);
    }

    #[test]
    fn the_longest_pause_does_not_overflow() {
        let pauses = FetchPauses::default();
        pauses.begin(&key(1), error(), Instant::now(), Duration::MAX);
        assert!(pauses.get(&key(1), Instant::now()).is_some());
    }

    #[test]
    fn errors_are_dropped_outside_of_the_lock() {
        /// An error whose `Drop` asserts that the lock is free.
        struct LockProbe(Arc<FetchPauses>);
        impl Drop for LockProbe {
            fn drop(&mut self) {
                assert!(self.0.paused.try_lock().is_ok(), "an error is dropped under the lock");
            }
        }
        let (pauses, now) = (Arc::new(FetchPauses::default()), Instant::now());
        let probe = || -> SharedError { Arc::new(LockProbe(Arc::clone(&pauses))) };
        pauses.begin(&key(1), probe(), now, SECOND);
        pauses.begin(&key(1), probe(), now, SECOND);
        pauses.begin(&key(2), probe(), now, SECOND);
        pauses.begin(&key(3), error(), now + 2 * SECOND, SECOND);
        pauses.begin(&key(4), probe(), now, SECOND);
        pauses.end(&key(4));
    }
}
