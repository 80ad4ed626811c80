//! Compares a value with the value that is decoded from its bytes.
//!
//! serde may lose a part of a value without an error. A field with `#[serde(skip)]` is read back as
//! its default, and a `serialize_with` may write less than the field holds. Only the type's
//! `PartialEq` or `Debug` can show the difference.
//!
//! There are two codecs. The positional codec writes no field names. The named codec writes them,
//! and encodes values that the positional codec cannot read back.

use std::any::Any;
use std::fmt::{Debug, Write};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use crate::sync::lock;
use crate::unstorable::Unstorable;

/// Compares two values of one type. `are_equal` calls `PartialEq`, and `describe` calls `Debug`. A
/// function is `None` if the type does not implement the trait.
#[derive(Clone, Copy, Default)]
pub(crate) struct RoundTripCheck {
    are_equal: Option<EqualityFn>,
    describe: Option<DebugTextFn>,
    /// True in a test. A test compares the `Debug` texts of every value that has no `PartialEq`.
    is_test: bool,
}

/// The reason to refuse a value that is not equal to the value read back.
const NOT_EQUAL: Unstorable = Unstorable::new(
    "does not equal what is read back: a field is `#[serde(skip)]`, or its `Serialize` writes \
     less than the field holds",
);
/// The reason to refuse a value without `PartialEq` whose `Debug` texts differ. Only tests use this
/// reason.
pub(crate) const DEBUG_DIFFERS: Unstorable = Unstorable::new(
    "has another `Debug` text than what is read back: a field is `#[serde(skip)]`, or its \
     `Serialize` writes less than the field holds",
);
/// The reason to refuse a value without `PartialEq` that the named codec has encoded, if the
/// `Debug` texts differ.
const NAMED_DEBUG_DIFFERS: Unstorable = Unstorable::new(
    "has another `Debug` text than what is read back: a field is `#[serde(skip)]`, its \
     `Serialize` writes less than the field holds, or two variants of an untagged enum look alike",
);

/// The reason to refuse a value that the named codec has encoded, if its type has neither
/// `PartialEq` nor `Debug`.
const NOT_COMPARABLE: Unstorable = Unstorable::new(
    "needs a codec with names, and cannot be compared with what is read back: derive `PartialEq` \
     (in a generic function, add the bound `PartialEq` to the type parameter)",
);

impl From<RoundTripFns> for RoundTripCheck {
    fn from((are_equal, describe): RoundTripFns) -> RoundTripCheck {
        RoundTripCheck { are_equal, describe, is_test: false }
    }
}

impl RoundTripCheck {
    /// Returns the check for a test, or for production.
    pub(crate) fn for_test(self, is_test: bool) -> RoundTripCheck {
        RoundTripCheck { is_test, ..self }
    }

    /// Compares a value with the value that was read back. `is_named` is true for the named codec.
    ///
    /// A type without `PartialEq` is compared by its `Debug` texts. For the positional codec this
    /// is done only in tests, because the texts are expensive. For the named codec it is always
    /// done, because a value of an untagged enum can be read back as another variant that also
    /// fits the data. The [outline](crate::outline), which lists the steps of decoding, does not
    /// show this error.
    ///
    /// `read_again` decodes the value's bytes once more.
    ///
    /// # Errors
    /// Returns a reason if the values differ. Also returns a reason for the named codec if the type
    /// implements neither trait.
    pub(crate) fn compare(
        &self,
        value: &dyn Any,
        read_back: &dyn Any,
        is_named: bool,
        read_again: impl FnOnce() -> Option<Box<dyn Any>>,
    ) -> Result<(), Unstorable> {
        if let Some(are_equal) = self.are_equal {
            if are_equal(value, read_back) {
                return Ok(());
            }
            // If two values decoded from the same bytes are not equal, the value contains something
            // like NaN, and `PartialEq` cannot decide. Comparing the value with itself would show
            // this too, but a `PartialEq` that locks a mutex on each side would deadlock.
            if self.describe.is_none()
                || read_again().is_none_or(|again| are_equal(read_back, &*again))
            {
                return Err(NOT_EQUAL);
            }
        }
        if is_named && self.are_equal.is_none() && self.describe.is_none() {
            return Err(NOT_COMPARABLE);
        }
        let reason = match (self.are_equal, is_named) {
            (Some(_), _) => NOT_EQUAL,
            (None, true) => NAMED_DEBUG_DIFFERS,
            (None, false) if self.is_test => DEBUG_DIFFERS,
            (None, false) => return Ok(()),
        };
        match self.describe {
            Some(describe) if !are_alike(&describe(value), &describe(read_back)) => Err(reason),
            _ => Ok(()),
        }
    }

    /// A check that accepts every value.
    #[cfg(all(test, feature = "memcached"))]
    pub(crate) const ANY: RoundTripCheck =
        RoundTripCheck { are_equal: Some(|_, _| true), describe: None, is_test: false };

    /// Returns whether the type has a `PartialEq`, and whether it has a `Debug`.
    #[cfg(test)]
    pub(crate) fn found_traits(&self) -> (bool, bool) {
        (self.are_equal.is_some(), self.describe.is_some())
    }
}

/// The failure messages that a test collects: one for each function whose value would not survive
/// memcached. Clones share the list.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoundTripFailures(Arc<Mutex<Vec<String>>>);

impl RoundTripFailures {
    pub(crate) fn add(&self, message: String) {
        lock(&self.0).push(message);
    }

    /// Removes and returns the messages.
    #[cfg(feature = "testing")]
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.0))
    }
}

/// Returns true if two `Debug` texts consist of the same words. A `HashMap` prints its entries in
/// another order after it is read back, so the order does not count.
fn are_alike(first: &str, second: &str) -> bool {
    fn words(text: &str) -> Vec<&str> {
        let mut words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
        words.sort_unstable();
        words
    }
    first == second || (first.len() == second.len() && words(first) == words(second))
}

fn are_equal<V: PartialEq + 'static>(first: &dyn Any, second: &dyn Any) -> bool {
    match (first.downcast_ref::<V>(), second.downcast_ref::<V>()) {
        (Some(first), Some(second)) => first == second,
        _ => true,
    }
}

fn describe<V: Debug + 'static>(value: &dyn Any) -> String {
    let mut text = String::new();
    if let Some(value) = value.downcast_ref::<V>() {
        // If `Debug` fails, the text that it wrote before is compared.
        let _ = write!(text, "{value:?}");
    }
    text
}

/// Chooses at compile time how the values of a function with the return type `R` are compared.
///
/// As in `ErrorProbe`, method resolution prefers an inherent method to one that is found through
/// `Deref`. `RoundTripProbe` itself has methods for the `Ok` of a `Result`. It dereferences to
/// `WholeReturnProbe`, whose methods compare any other return type. `WholeReturnProbe` dereferences
/// to `RoundTripProbeFallback`, whose methods return `None`.
///
/// There is one method for `PartialEq` and one for `Debug`, because some types implement only one
/// of them.
pub struct RoundTripProbe<R>(WholeReturnProbe<R>);

/// The part of [`RoundTripProbe`] that compares a return type as a whole.
#[doc(hidden)]
pub struct WholeReturnProbe<R>(RoundTripProbeFallback<R>);

/// The part of [`RoundTripProbe`] that compares nothing.
#[doc(hidden)]
pub struct RoundTripProbeFallback<R>(PhantomData<fn() -> R>);

/// A function that compares two values with `PartialEq`.
pub(crate) type EqualityFn = fn(&dyn Any, &dyn Any) -> bool;

/// A function that returns the `Debug` text of a value.
pub(crate) type DebugTextFn = fn(&dyn Any) -> String;

/// The functions that [`RoundTripProbe`] finds for one type. A function is `None` if the type does
/// not implement the trait that the function needs.
pub type RoundTripFns = (Option<EqualityFn>, Option<DebugTextFn>);

impl<R> RoundTripProbe<R> {
    #[doc(hidden)]
    pub const NEW: RoundTripProbe<R> =
        RoundTripProbe(WholeReturnProbe(RoundTripProbeFallback(PhantomData)));
}

impl<T: PartialEq + 'static, E> RoundTripProbe<Result<T, E>> {
    #[doc(hidden)]
    pub fn are_equal(&self) -> Option<EqualityFn> {
        Some(are_equal::<T>)
    }
}

impl<T: Debug + 'static, E> RoundTripProbe<Result<T, E>> {
    #[doc(hidden)]
    pub fn describe(&self) -> Option<DebugTextFn> {
        Some(describe::<T>)
    }
}

impl<R: PartialEq + 'static> WholeReturnProbe<R> {
    #[doc(hidden)]
    pub fn are_equal(&self) -> Option<EqualityFn> {
        Some(are_equal::<R>)
    }
}

impl<R: Debug + 'static> WholeReturnProbe<R> {
    #[doc(hidden)]
    pub fn describe(&self) -> Option<DebugTextFn> {
        Some(describe::<R>)
    }
}

impl<R> RoundTripProbeFallback<R> {
    #[doc(hidden)]
    pub fn are_equal(&self) -> Option<EqualityFn> {
        None
    }

    #[doc(hidden)]
    pub fn describe(&self) -> Option<DebugTextFn> {
        None
    }
}

impl<R> Deref for RoundTripProbe<R> {
    type Target = WholeReturnProbe<R>;
    fn deref(&self) -> &WholeReturnProbe<R> {
        &self.0
    }
}

impl<R> Deref for WholeReturnProbe<R> {
    type Target = RoundTripProbeFallback<R>;
    fn deref(&self) -> &RoundTripProbeFallback<R> {
        &self.0
    }
}

#[cfg(test)]
mod tests;
