//! What a server was not told: the keys that this process invalidated or overwrote while the
//! server was out of reach. It is not asked for them before it was told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::sync::lock;

/// So many keys are remembered. Beyond that they are forgotten, and nothing that the server has
/// from before its return is believed any more.
const LIMIT: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Hints {
    /// How much there is in the book; 0 where there is nothing.
    count: AtomicUsize,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// Each with the number of its last change.
    keys: HashMap<Arc<str>, u64>,
    changes: u64,
    /// The number of the change since which nothing older is believed.
    distrusted: Option<u64>,
}

/// A key, and the change that is told with it.
pub(super) type Hint = (Arc<str>, u64);

impl Hints {
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        !self.is_empty() && self.book().keys.contains_key(key)
    }

    /// Remembers a key; `false` where there are too many, and all is distrusted instead.
    #[must_use]
    pub(super) fn remember(&self, key: &Arc<str>) -> bool {
        let mut book = self.book();
        let fits = book.keys.len() < LIMIT || book.keys.contains_key(key);
        book.changes += 1;
        let change = book.changes;
        if fits {
            book.keys.insert(Arc::clone(key), change);
        } else {
            book.keys.clear();
            book.distrusted = Some(change);
        }
        self.recount(&book);
        fits
    }

    /// Believes nothing that the server has by now.
    pub(super) fn distrust(&self) {
        let mut book = self.book();
        book.changes += 1;
        book.distrusted = Some(book.changes);
        self.recount(&book);
    }

    pub(super) fn distrusted(&self) -> Option<u64> {
        self.book().distrusted
    }

    /// The server was marked: what is older can be told from what is younger.
    pub(super) fn marked(&self, distrusted: u64) {
        let mut book = self.book();
        if book.distrusted == Some(distrusted) {
            book.distrusted = None;
        }
        self.recount(&book);
    }

    pub(super) fn some(&self, count: usize) -> Vec<Hint> {
        self.book()
            .keys
            .iter()
            .take(count)
            .map(|(key, &change)| (Arc::clone(key), change))
            .collect()
    }

    /// Forgets what the server was told, and not what changed again meanwhile.
    pub(super) fn settle(&self, told: &[Hint]) {
        let mut book = self.book();
        for (key, change) in told {
            if book.keys.get(key) == Some(change) {
                book.keys.remove(key);
            }
        }
        self.recount(&book);
    }

    /// Does `then` if there is nothing in the book, before anybody can write into it.
    pub(super) fn if_empty<T>(&self, then: impl FnOnce() -> T) -> Option<T> {
        let book = self.book();
        (book.keys.is_empty() && book.distrusted.is_none()).then(then)
    }

    fn recount(&self, book: &Book) {
        let count = book.keys.len() + usize::from(book.distrusted.is_some());
        self.count.store(count, Ordering::Release);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_changed_while_it_was_told_is_owed_still() {
        let (debts, key): (_, Arc<str>) = (Hints::default(), "key".into());
        assert!(debts.remember(&key));
        let told = debts.some(10);
        assert!(debts.remember(&key));
        debts.settle(&told);
        assert!(debts.contains("key") && debts.if_empty(|| ()).is_none());
        debts.settle(&debts.some(10));
        assert!(debts.is_empty() && debts.if_empty(|| ()).is_some());
    }

    #[test]
    fn too_many_keys_become_distrust_of_everything() {
        let debts = Hints::default();
        for number in 0..LIMIT {
            assert!(debts.remember(&number.to_string().into()));
        }
        assert!(debts.remember(&"0".into()), "one that is there already");
        assert!(!debts.remember(&"one more".into()));
        assert!(debts.some(10).is_empty() && !debts.is_empty());
        let first = debts.distrusted().expect("it is");
        debts.distrust();
        debts.marked(first);
        assert!(debts.distrusted().is_some(), "the mark was older than the last distrust");
    }
}
