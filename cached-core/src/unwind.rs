//! Catches the panics of code that belongs to the program, for example of a value's `Drop` or of an
//! observer. Such a panic must end neither a call of the cache nor a thread of the cache.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `run`, and returns `None` if `run` panics. `run` must not leave shared state half changed
/// when it panics.
///
/// A panic carries a *payload*, which is a value of any type. Dropping the payload also runs code
/// of the program, so a panic of its `Drop` is caught as well.
pub(crate) fn catch_panic<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(output) => Some(output),
        Err(payload) => {
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                // The drop of this second payload might panic again, and so on without end. The
                // payload is therefore leaked.
                std::mem::forget(second);
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::catch_panic;

    /// A payload whose `Drop` panics. The payload of that panic is another `PanickingPayload`, until
    /// the number reaches zero.
    struct PanickingPayload(u8);

    impl Drop for PanickingPayload {
        fn drop(&mut self) {
            if let Some(number) = self.0.checked_sub(1) {
                panic_any(PanickingPayload(number));
            }
        }
    }

    #[test]
    fn a_panicking_payload_is_caught() {
        assert_eq!(catch_panic(|| 1), Some(1));
        assert_eq!(catch_panic(|| -> u8 { panic!("in the program's code") }), None);
        assert_eq!(catch_panic(|| -> u8 { panic_any(PanickingPayload(2)) }), None);
    }
}
