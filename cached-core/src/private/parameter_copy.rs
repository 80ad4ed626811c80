//! Copies of parameters, for code that runs after the annotated function's body has consumed the
//! parameters.
//!
//! The functions given to `cache_if` and `ttl_with` can use the parameters, and they run after the
//! body. A refresh in the background runs even after the call has returned. The generated code
//! makes the copies after the lookup, so a hit that starts no refresh makes no copies. There are
//! two kinds of copies:
//!
//! - A [`ParameterClone`] is a clone of the parameter. If the parameter is a reference, the clone
//!   is a reference to the same value.
//! - An [`OwnedParameter`] owns a copy of the value behind a reference. A
//!   [`CacheEntry`](crate::CacheEntry) and a refresh need such copies, because both can outlive the
//!   call's references. The expression given to `refresh_with` makes the copy of the receiver
//!   (`self`).

use std::borrow::Borrow;
use std::sync::Arc;

/// A clone of a parameter.
pub struct ParameterClone<T> {
    value: T,
    // The clone function is stored here, so that `get` needs no bound `Clone`. With that bound, the
    // compiler would report a missing `Clone` twice.
    clone: fn(&T) -> T,
}

impl<T> ParameterClone<T> {
    /// Returns a new clone of the stored value.
    pub fn get(&self) -> T {
        (self.clone)(&self.value)
    }
}

/// A copy of the value that a parameter refers to.
pub struct OwnedParameter<T: ?Sized>(Box<dyn Borrow<T> + Send + Sync>);

impl<T: ?Sized> OwnedParameter<T> {
    /// Returns a reference to the copy, to be used in place of the parameter.
    pub fn get(&self) -> &T {
        (*self.0).borrow()
    }
}

/// The type for which the three traits below are implemented. Two of them make a copy, and the
/// third one takes the receiver that `refresh_with` has made.
///
/// The functions below require, for example, `Copier: OwnsParameter<T>` instead of a bound on the
/// parameter's type `T`. With a bound on `T`, the compiler would suggest borrowing the parameter,
/// and would not show the trait's message.
pub struct Copier;

/// Clones a parameter that `cache_if` or `ttl_with` mentions.
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

/// Copies the value behind a parameter that is a reference.
#[diagnostic::on_unimplemented(
    message = "no copy of this `{T}` can be kept after the call",
    label = "not `Clone + Send + Sync`",
    note = "an entry outlives the references that its `cache_if` or `ttl_with` mentions, and so does a `refresh_ahead` fetch: derive `Clone` for `{T}`, or let the function take an `Arc` of it"
)]
pub trait OwnsParameter<T: ?Sized> {
    /// Copies the value behind the reference.
    fn own_parameter(reference: &T) -> OwnedParameter<T>;
}

#[diagnostic::do_not_recommend]
impl<T: ToOwned<Owned: Send + Sync + 'static> + ?Sized> OwnsParameter<T> for Copier {
    fn own_parameter(reference: &T) -> OwnedParameter<T> {
        OwnedParameter(Box::new(reference.to_owned()))
    }
}

/// Takes ownership of the receiver that the option `refresh_with` makes: a `T`, an `Arc<T>` or a
/// `Box<T>`.
///
/// A reference is not accepted, because it usually comes from a mistake: if the receiver's type is
/// not `Clone`, `self.clone()` clones only the reference.
#[diagnostic::on_unimplemented(
    message = "`refresh_with` makes a `{Made}`, but a refresh needs a `{T}` that it owns",
    label = "expected a `{T}` or an `Arc<{T}>`, which must be `Send + Sync`",
    note = "derive `Clone` for `{T}` and write `refresh_with = self.clone()`, or make an `Arc<{T}>`"
)]
pub trait AcceptsReceiver<T, Made> {
    /// Takes ownership of the receiver.
    fn own_receiver(made: Made) -> OwnedParameter<T>;
}

macro_rules! receivers {
    ($($made:ty),*) => {$(
        #[diagnostic::do_not_recommend]
        impl<T: Send + Sync + 'static> AcceptsReceiver<T, $made> for Copier {
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
/// The bounds are standard traits, so that the compiler suggests them for the type parameter of the
/// annotated function.
pub fn clone_generic<T: Clone + Send + Sync>(parameter: &T) -> ParameterClone<T> {
    ParameterClone { value: parameter.clone(), clone: T::clone }
}

/// Copies the value behind a parameter that is a reference.
pub fn own_parameter<T: ?Sized>(parameter: &&T) -> OwnedParameter<T>
where
    Copier: OwnsParameter<T>,
{
    Copier::own_parameter(parameter)
}

/// Takes ownership of the receiver that the option `refresh_with` makes.
pub fn own_receiver<T, Made>(made: Made) -> OwnedParameter<T>
where
    Copier: AcceptsReceiver<T, Made>,
{
    Copier::own_receiver(made)
}

/// Calls the function of `cache_if` or `ttl_with`.
///
/// The generated code does not call `rule` directly. The signature of `apply_rule` tells the
/// compiler the type of the parameter of `rule`.
pub fn apply_rule<V, T>(value: &V, rule: impl FnOnce(&V) -> T) -> T {
    rule(value)
}
