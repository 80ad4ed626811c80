//! How the error of a failed fetch reaches the other calls that waited for the fetch. To *fetch* is
//! to run the annotated function.
//!
//! The call that fetches is the *leader*, and the calls that wait for the fetch are its
//! *followers*. Each call returns an error that its caller owns, so each follower needs a copy of
//! the leader's error. The leader stores a [`SharedError`], and each follower copies it in one of
//! three ways:
//!
//! - `Clone`, if the error is `Clone + Send + Sync + 'static`.
//! - [`copy_io_error`], for `std::io::Error`.
//! - The function of the option `share_error`, for any error that is `Send + 'static`.
//!
//! If copying panics, the error counts as an error that cannot be shared, and the follower runs the
//! function itself.

use std::any::{Any, type_name};
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use crate::sync::lock;
use crate::unwind::catch_panic;

/// The error of a failed fetch, without its static type. The functions of [`ErrorSharing`] read it.
pub(crate) type SharedError = Arc<dyn Any + Send + Sync>;

/// How the errors in a return type `R` are copied for followers.
pub struct ErrorSharing<R>(ErrorSharingKind<R>);

/// The kinds of [`ErrorSharing`].
enum ErrorSharingKind<R> {
    /// The return type has no error.
    NoError,
    /// The errors cannot be shared, so each call that waited for a failed fetch runs the function
    /// itself. Contains the name of the error's type.
    Unshared(fn() -> &'static str),
    Shared(ErrorSharingFns<R>),
}

/// The functions that copy the error in a return value, and turn a shared error back into a return
/// value.
struct ErrorSharingFns<R> {
    share: fn(&R) -> Option<SharedError>,
    rebuild: fn(&SharedError) -> Option<R>,
}

impl<R> ErrorSharing<R> {
    /// Copies the error in `returned`. Returns `None` if the error cannot be shared.
    pub(crate) fn share(&self, returned: &R) -> Option<SharedError> {
        match &self.0 {
            ErrorSharingKind::Shared(fns) => catch_panic(|| (fns.share)(returned))?,
            _ => None,
        }
    }

    /// Returns a copy of a shared error as the function's return value. Returns `None` if copying
    /// panics, or if the error is not of the error type of `R`.
    pub(crate) fn rebuild(&self, error: &SharedError) -> Option<R> {
        match &self.0 {
            ErrorSharingKind::Shared(fns) => catch_panic(|| (fns.rebuild)(error))?,
            _ => None,
        }
    }

    /// Returns the name of the error's type if the errors of the function cannot be shared.
    pub(crate) fn unshared_type(&self) -> Option<&'static str> {
        match &self.0 {
            ErrorSharingKind::Unshared(name) => Some(name()),
            _ => None,
        }
    }

    fn with_fns(
        share: fn(&R) -> Option<SharedError>,
        rebuild: fn(&SharedError) -> Option<R>,
    ) -> ErrorSharing<R> {
        ErrorSharing(ErrorSharingKind::Shared(ErrorSharingFns { share, rebuild }))
    }

    /// Shares errors with the function of the option `share_error`. `share` must call
    /// [`ErrorCopier::copy`].
    pub(crate) fn by_option(share: fn(&R) -> Option<SharedError>) -> ErrorSharing<R>
    where
        R: 'static,
    {
        ErrorSharing::with_fns(share, |error| {
            let copied = error.downcast_ref::<CopiedError<R>>()?;
            Some((copied.make_another)())
        })
    }
}

/// The error that the option `share_error` made for the followers of a fetch.
struct CopiedError<R> {
    /// Makes an error for one follower, as the function's return value.
    make_another: Box<dyn Fn() -> R + Send + Sync>,
}

/// Returns the functions that share an error by the option `share_error`.
///
/// This function takes no argument and carries all the bounds on the error's type. The compiler
/// therefore reports a missing bound once, at the return type.
#[must_use]
pub fn error_copier<R>() -> ErrorCopier<R, R::Error>
where
    R: FallibleReturn<Error: SendStaticError> + 'static,
{
    ErrorCopier {
        error: R::error,
        share: |error, copy| {
            // An error need not be `Sync`, so it is behind a lock. Only `copy` and `from_error` run
            // while the lock is held.
            let error = Mutex::new(error);
            let make_another = Box::new(move || R::from_error(copy(&lock(&error))));
            Arc::new(CopiedError { make_another })
        },
    }
}

/// The function of the option `share_error`.
type CopyFn<E> = fn(&E) -> E;

/// The functions that share an error `E` of the return type `R`, for a function with the option
/// `share_error`.
pub struct ErrorCopier<R, E> {
    /// Returns the error in the return value, or `None` if the fetch has not failed.
    error: fn(&R) -> Option<&E>,
    /// Makes the shared error. The arguments are a copy of the error, and the function that makes
    /// more copies.
    share: fn(E, CopyFn<E>) -> SharedError,
}

impl<R, E> ErrorCopier<R, E> {
    /// Copies the error in `returned` with the function of the option `share_error`.
    pub fn copy(self, returned: &R, copy: fn(&E) -> E) -> Option<SharedError> {
        let error = (self.error)(returned)?;
        Some((self.share)(copy(error), copy))
    }
}

/// A return type that has an error: `Result`. The option `share_error` requires this trait.
#[diagnostic::on_unimplemented(
    message = "the return type `{Self}` has no error that could be shared",
    label = "not a `Result`",
    note = "remove the options `share_error` and `error_ttl`, or return a `Result`"
)]
pub trait FallibleReturn: Sized {
    /// The type of the error.
    type Error;

    #[doc(hidden)]
    fn error(&self) -> Option<&Self::Error>;

    #[doc(hidden)]
    fn from_error(error: Self::Error) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T, E> FallibleReturn for Result<T, E> {
    type Error = E;

    fn error(&self) -> Option<&E> {
        self.as_ref().err()
    }

    fn from_error(error: E) -> Self {
        Err(error)
    }
}

/// An error that the option `share_error` can copy for other threads: `Send + 'static`.
#[diagnostic::on_unimplemented(
    message = "the error `{Self}` cannot be kept for other callers",
    label = "this error is not `Send`",
    note = "`share_error` needs an error that is `Send + 'static`; write for example `Box<dyn std::error::Error + Send + Sync>`"
)]
pub trait SendStaticError: Send + 'static {}

#[diagnostic::do_not_recommend]
impl<E: Send + 'static> SendStaticError for E {}

/// Copies the kind and the text of an I/O error. An error of the operating system keeps its code
/// too.
fn copy_io_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Chooses at compile time how the error in `R` is shared.
///
/// Method resolution prefers an inherent method of `ErrorProbe` to a method that is found through
/// `Deref`. The inherent method `sharing` exists only for a `Result` whose error is `Clone + Send +
/// Sync + 'static`. For all other types, the compiler follows the chain `IoErrorProbe`,
/// `UnsharedErrorProbe`, `NoErrorProbe` to the first fitting method. (Stable Rust has no
/// specialization, which would make such a choice directly.)
///
/// The option `error_ttl` answers calls with the error of a failed fetch for a while, so it needs
/// an error that can be shared. For a function with this option, the method `sharing_for_error_ttl` is called in
/// place of `sharing`.
pub struct ErrorProbe<R>(IoErrorProbe<R>);

/// The methods of [`ErrorProbe`] for a `Result` whose error is an `io::Error`.
#[doc(hidden)]
pub struct IoErrorProbe<R>(UnsharedErrorProbe<R>);

/// The methods of [`ErrorProbe`] for a `Result` whose error cannot be shared.
#[doc(hidden)]
pub struct UnsharedErrorProbe<R>(NoErrorProbe<R>);

/// The methods of [`ErrorProbe`] for a return type that is not a `Result`.
#[doc(hidden)]
pub struct NoErrorProbe<R>(PhantomData<fn() -> R>);

impl<R> ErrorProbe<R> {
    #[doc(hidden)]
    pub const NEW: ErrorProbe<R> =
        ErrorProbe(IoErrorProbe(UnsharedErrorProbe(NoErrorProbe(PhantomData))));
}

impl<T, E: Clone + Send + Sync + 'static> ErrorProbe<Result<T, E>> {
    #[doc(hidden)]
    pub fn sharing(&self) -> ErrorSharing<Result<T, E>> {
        ErrorSharing::with_fns(
            |returned| {
                let error = returned.as_ref().err()?;
                Some(Arc::new(error.clone()))
            },
            |error| error.downcast_ref::<E>().cloned().map(Err),
        )
    }

    #[doc(hidden)]
    pub fn sharing_for_error_ttl(&self) -> ErrorSharing<Result<T, E>> {
        self.sharing()
    }
}

impl<T> IoErrorProbe<Result<T, io::Error>> {
    #[doc(hidden)]
    pub fn sharing(&self) -> ErrorSharing<Result<T, io::Error>> {
        ErrorSharing::with_fns(
            |returned| {
                let error = returned.as_ref().err()?;
                Some(Arc::new(copy_io_error(error)))
            },
            |error| error.downcast_ref().map(copy_io_error).map(Err),
        )
    }

    #[doc(hidden)]
    pub fn sharing_for_error_ttl(&self) -> ErrorSharing<Result<T, io::Error>> {
        self.sharing()
    }
}

impl<T, E> UnsharedErrorProbe<Result<T, E>> {
    #[doc(hidden)]
    pub fn sharing(&self) -> ErrorSharing<Result<T, E>> {
        self.unshared()
    }

    /// Disables the sharing of errors. The attribute calls this method for a return type that
    /// borrows, because a shared error can outlive what the return type borrows from.
    #[doc(hidden)]
    pub fn unshared(&self) -> ErrorSharing<Result<T, E>> {
        ErrorSharing(ErrorSharingKind::Unshared(type_name::<E>))
    }

    /// Under the option `error_ttl`, rejects an error that cannot be shared.
    #[doc(hidden)]
    pub fn sharing_for_error_ttl(&self) -> ErrorSharing<Result<T, E>>
    where
        E: ShareableError,
    {
        self.unshared()
    }

    /// Under the option `infallible`, rejects a `Result`. For a `Result` the compiler prefers this
    /// method to that of [`NoErrorProbe`], and then reports that the bound does not hold.
    #[doc(hidden)]
    pub fn infallible(&self) -> ErrorSharing<Result<T, E>>
    where
        Result<T, E>: NeverFails,
    {
        self.unshared()
    }
}

impl<R> NoErrorProbe<R> {
    #[doc(hidden)]
    pub fn sharing(&self) -> ErrorSharing<R> {
        ErrorSharing(ErrorSharingKind::NoError)
    }

    #[doc(hidden)]
    pub fn unshared(&self) -> ErrorSharing<R> {
        self.sharing()
    }

    /// Under the option `error_ttl`, rejects a return type without an error.
    #[doc(hidden)]
    pub fn sharing_for_error_ttl(&self) -> ErrorSharing<R>
    where
        R: FallibleReturn,
    {
        self.sharing()
    }

    #[doc(hidden)]
    pub fn infallible(&self) -> ErrorSharing<R> {
        self.sharing()
    }
}

/// A trait that no type implements. The option `infallible` requires it of a `Result`. A function
/// that returns a `Result` therefore does not compile with `infallible`.
#[diagnostic::on_unimplemented(
    message = "a `Result` can fail, so it cannot be cached whole",
    label = "the `Ok` of this `Result` is cached without `infallible`",
    note = "remove the option `infallible`"
)]
pub trait NeverFails {}

/// A trait that no type implements. The option `error_ttl` requires it of an error that cannot be
/// shared. A function with such an error therefore does not compile with `error_ttl`.
#[diagnostic::on_unimplemented(
    message = "`error_ttl` answers other calls with the error of a failed fetch, and `{Self}` cannot be shared",
    label = "the error of this `Result` is not `Clone + Send + Sync`",
    note = "add `share_error = |error| …`, which makes a second error from `&{Self}`; or derive `Clone` for the error"
)]
pub trait ShareableError {}

impl<R> Deref for ErrorProbe<R> {
    type Target = IoErrorProbe<R>;
    fn deref(&self) -> &IoErrorProbe<R> {
        &self.0
    }
}

impl<R> Deref for IoErrorProbe<R> {
    type Target = UnsharedErrorProbe<R>;
    fn deref(&self) -> &UnsharedErrorProbe<R> {
        &self.0
    }
}

impl<R> Deref for UnsharedErrorProbe<R> {
    type Target = NoErrorProbe<R>;
    fn deref(&self) -> &NoErrorProbe<R> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_keep_kind_text_and_code() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "shop is closed");
        let copy = copy_io_error(&refused);
        assert_eq!((copy.kind(), copy.to_string()), (refused.kind(), "shop is closed".to_owned()));
        let of_system = io::Error::from_raw_os_error(2);
        let copy = copy_io_error(&of_system);
        assert_eq!(copy.raw_os_error(), Some(2));
        assert_eq!((copy.kind(), copy.to_string()), (of_system.kind(), of_system.to_string()));
        let plain = io::Error::from(io::ErrorKind::TimedOut);
        let copy = copy_io_error(&plain);
        assert_eq!((copy.kind(), copy.to_string()), (plain.kind(), plain.to_string()));
    }

    /// An error that is not `Clone`. Without `share_error`, it cannot be shared.
    struct UnsharedError;

    #[test]
    fn the_probe_finds_how_an_error_is_shared() {
        let unshared =
            |sharing: Option<&'static str>| sharing.is_some_and(|n| n.ends_with("UnsharedError"));
        assert!(unshared(ErrorProbe::<Result<u8, UnsharedError>>::NEW.sharing().unshared_type()));
        assert!(
            ErrorProbe::<Result<u8, UnsharedError>>::NEW
                .sharing()
                .share(&Err(UnsharedError))
                .is_none()
        );
        assert!(ErrorProbe::<Option<u8>>::NEW.sharing().unshared_type().is_none());
        let sharing = ErrorProbe::<Result<u8, String>>::NEW.sharing_for_error_ttl();
        let error = sharing.share(&Err("down".to_owned())).expect("a `String` is `Clone`");
        assert_eq!(sharing.rebuild(&error), Some(Err("down".to_owned())));
        let sharing = ErrorProbe::<io::Result<u8>>::NEW.sharing_for_error_ttl();
        let error = sharing
            .share(&Err(io::ErrorKind::TimedOut.into()))
            .expect("an I/O error can be shared");
        assert!(
            sharing
                .rebuild(&error)
                .is_some_and(|r| r.is_err_and(|e| e.kind() == io::ErrorKind::TimedOut))
        );
    }

    #[test]
    fn an_error_whose_copy_panics_is_not_shared() {
        #[derive(Debug)]
        struct PanickingError(u32);
        fn share(returned: &Result<u8, PanickingError>) -> Option<SharedError> {
            // The leader's copy succeeds, and each follower's copy panics.
            error_copier().copy(returned, |PanickingError(copies)| match copies {
                0 => PanickingError(1),
                _ => panic!("one copy is enough"),
            })
        }
        let sharing = ErrorSharing::by_option(share);
        let error = sharing.share(&Err(PanickingError(0))).expect("the first copy succeeds");
        assert!(sharing.rebuild(&error).is_none());
        assert!(sharing.rebuild(&error).is_none(), "the panic does not poison the lock for good");
        assert!(sharing.share(&Err(PanickingError(1))).is_none());
    }
}
