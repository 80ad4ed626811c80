//! Copies of parameters, for code that runs after the annotated function's body has taken the
//! parameters, or after the call.
//!
//! The functions of `cache_if` and `ttl_with` are called with the fetched value, and may mention
//! parameters. A refresh in the background outlives the call. The expansion makes the copies after
//! the lookup, so a hit that starts no refresh makes no copies. Two kinds of copies exist:
//!
//! - A [`ParameterClone`] is a clone of the parameter. The clone of a reference is the reference.
//! - An [`OwnedParameter`] owns a copy of the value that a reference refers to. A
//!   [`CacheEntry`](crate::CacheEntry) needs such copies, because it outlives the references. The
//!   option `refresh_with` makes the copy of the receiver that a refresh owns.

use std::borrow::Borrow;
use std::sync::Arc;

/// A clone of a parameter.
pub struct ParameterClone<T> {
    value: T,
    // This is a pointer, because with a bound on `get` the compiler would report a missing bound
    // twice.
    clone: fn(&T) -> T,
}

impl<T> ParameterClone<T> {
    /// Returns the parameter's value.
    pub fn get(&self) -> T {
        (self.clone)(&self.value)
    }
}

/// A copy of the value that a parameter refers to.
pub struct OwnedParameter<T: ?Sized>(Box<dyn Borrow<T> + Send + Sync>);

impl<T: ?Sized> OwnedParameter<T> {
    /// Returns a reference in place of the parameter.
    pub fn get(&self) -> &T {
        (*self.0).borrow()
    }
}

/// A type that implements the traits below, one for each kind of copy.
///
/// The functions below require for example `Copier: OwnsParameter<T>`, and no bound on the
/// parameter's type `T`. If `T` had the bound, the compiler would suggest to borrow the parameter,
/// and would not show the message of the trait.
pub struct Copier;

/// The ability to clone a parameter that `cache_if` or `ttl_with` mentions.
#[diagnostic::on_unimplemented(
    message = "`cache_if` and `ttl_with` cannot mention a `{T}`",
    label = "not `Clone + Send + Sync`",
    note = "the body takes the parameter, so these options get a clone of it: derive `Clone` for `{T}`, or let the function take a reference"
)]
pub trait ClonesParameter<T> {
    /// Clones the parameter.
    fn clone_parameter(parameter: &T) -> ParameterClone<T>;
}

#[diagnostic::do_not_recommend]
impl<T: Clone + Send + Sync> ClonesParameter<T> for Copier {
    fn clone_parameter(parameter: &T) -> ParameterClone<T> {
        clone_generic(parameter)
    }
}

/// The ability to copy the value that a parameter refers to.
#[diagnostic::on_unimplemented(
    message = "no copy of this `{T}` can be kept after the call",
    label = "not `Clone + Send + Sync`",
    note = "an entry outlives the references that its `cache_if` or `ttl_with` mentions, and so does a `refresh_ahead` fetch: derive `Clone` for `{T}`, or let the function take an `Arc` of it"
)]
pub trait OwnsParameter<T: ?Sized> {
    /// Copies the value that the reference refers to.
    fn own_parameter(reference: &T) -> OwnedParameter<T>;
}

#[diagnostic::do_not_recommend]
impl<T: ToOwned<Owned: Send + Sync + 'static> + ?Sized> OwnsParameter<T> for Copier {
    fn own_parameter(reference: &T) -> OwnedParameter<T> {
        OwnedParameter(Box::new(reference.to_owned()))
    }
}

/// The ability to take the receiver that the option `refresh_with` makes: a `T`, an `Arc<T>` or a
/// `Box<T>`.
///
/// A reference is not accepted. If the receiver's type is not `Clone`, `self.clone()` is a
/// reference.
#[diagnostic::on_unimplemented(
    message = "`refresh_with` makes a `{Made}`, but a refresh needs a `{T}` that it owns",
    label = "expected a `{T}` or an `Arc<{T}>`, which must be `Send + Sync`",
    note = "derive `Clone` for `{T}` and write `refresh_with = self.clone()`, or make an `Arc<{T}>`"
)]
pub trait OwnsReceiver<T, Made> {
    /// Takes the receiver.
    fn own_receiver(made: Made) -> OwnedParameter<T>;
}

macro_rules! receivers {
    ($($made:ty),*) => {$(
        #[diagnostic::do_not_recommend]
        impl<T: Send + Sync + 'static> OwnsReceiver<T, $made> for Copier {
            fn own_receiver(made: $made) -> OwnedParameter<T> {
                OwnedParameter(Box::new(made))
            }
        }
    )*};
}

receivers!(T, Arc<T>, Box<T>);

/// Clones a parameter.
pub fn clone_parameter<T>(parameter: &T) -> ParameterClone<T>
where
    Copier: ClonesParameter<T>,
{
    Copier::clone_parameter(parameter)
}

/// Clones a parameter of a generic type.
///
/// The bounds here are the standard ones, so that the compiler suggests them as bounds of the type
/// parameter of the annotated function.
pub fn clone_generic<T: Clone + Send + Sync>(parameter: &T) -> ParameterClone<T> {
    ParameterClone { value: parameter.clone(), clone: T::clone }
}

/// Copies the value that a parameter refers to.
pub fn own_parameter<T: ?Sized>(parameter: &&T) -> OwnedParameter<T>
where
    Copier: OwnsParameter<T>,
{
    Copier::own_parameter(parameter)
}

/// Takes the receiver that the option `refresh_with` makes.
pub fn own_receiver<T, Made>(made: Made) -> OwnedParameter<T>
where
    Copier: OwnsReceiver<T, Made>,
{
    Copier::own_receiver(made)
}

/// Calls the function of `cache_if` or `ttl_with`.
///
/// The expansion does not call the function directly, because the compiler would not know the type
/// of the function's parameter.
pub fn apply_rule<V, T>(value: &V, rule: impl FnOnce(&V) -> T) -> T {
    rule(value)
}
