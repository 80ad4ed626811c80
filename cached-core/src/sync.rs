//! Locks that ignore poisoning.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks the mutex, also after another thread has panicked while it held the lock.
///
/// Every lock in this crate guards data that is whole at each step, so a panic leaves nothing broken.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
