//! The trait bounds of a cached value, each as a separate trait with its own error message.
//!
//! The module `private::checked_value` chooses which of these traits a value must implement. A type
//! without serde then causes one compiler error and not several.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A bound that replaces `Clone`. Every type that is `Clone` implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be cached, because it is not `Clone`",
    label = "this value is not `Clone`",
    note = "derive `Clone` for it, or return an `Arc<{Self}>`, of which a hit only counts a reference up"
)]
pub trait ClonedValue: Clone {}

#[diagnostic::do_not_recommend]
impl<T: Clone> ClonedValue for T {}

/// A bound that replaces `Serialize`. Every type that is `Serialize` implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored in memcached, because it is not `serde::Serialize`",
    label = "this value is not `Serialize`",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it and for the types in it",
    note = "or add the option `remote = false`, which caches it in this process only and needs no serde",
    note = "or, if it is a type of another crate, turn on that crate's feature `serde`, or return a type of your own that wraps it and implements both"
)]
pub trait SerializedValue {}

#[diagnostic::do_not_recommend]
impl<T: Serialize> SerializedValue for T {}

/// A bound that replaces `DeserializeOwned`. Every type that is `DeserializeOwned` implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from memcached, because it is not `serde::de::DeserializeOwned`",
    label = "this value is not `DeserializeOwned`",
    note = "derive `serde::Deserialize` for it and for the types in it, and let them own their data",
    note = "or add the option `remote = false`, which caches it in this process only and needs no serde",
    note = "or, if it is a type of another crate, return a type of your own that wraps it and implements both"
)]
pub trait DeserializedValue {}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned> DeserializedValue for T {}
