//! The library's own errors. None of them is ever returned by an annotated function.

use std::fmt;
use std::panic::Location;

/// A mistake in a cache's configuration: which part, what is wrong with it, what to write.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let error = cached_core::Cache::builder().jitter(2.0).build().await.unwrap_err();
/// assert_eq!(error.to_string(), "the jitter 2 is no fraction; write 0 to 1");
/// # });
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError(String);

/// The line itself: it is what a `main` that returns the error prints.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ConfigError {
    pub(crate) fn new(message: impl Into<String>) -> ConfigError {
        ConfigError(message.into())
    }

    /// The same mistake, found in `place`.
    pub(crate) fn within(self, place: &str) -> ConfigError {
        ConfigError(format!("{place}: {}", self.0))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Why [`Cache::install`](crate::Cache::install) did not install.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstallError {
    /// A cache is installed already; where, and where the second was to be.
    AlreadyInstalled {
        /// The place of the first `install`.
        first: &'static Location<'static>,
        /// The place of this one.
        second: &'static Location<'static>,
    },
    /// Two functions share a cache name: one line for each such name, with both places.
    SharedNames(Vec<String>),
}

/// As `Display`: it is what a `main` that returns the error prints.
impl fmt::Debug for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstallError::AlreadyInstalled { first, second } => {
                write!(
                    f,
                    "a cache is installed already, at {first}; install one, not another at {second}"
                )
            }
            InstallError::SharedNames(lines) => f.write_str(&lines.join("\n")),
        }
    }
}

impl std::error::Error for InstallError {}

/// Why an entry could not be invalidated or overwritten everywhere.
///
/// The tiers of this process have done what was asked all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheError {
    /// memcached could not be told, or its answer was lost: it may still serve the old value to
    /// this and other processes until that expires.
    Remote(String),
    /// The new value cannot be stored in memcached; the old one was removed there.
    NotStorable(&'static str),
    /// The arguments could not be encoded as a key, so there is no entry.
    Key(String),
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheError::Remote(why) => write!(f, "memcached could not be told: {why}"),
            CacheError::NotStorable(why) => {
                write!(f, "the value cannot be stored in memcached: {why}")
            }
            CacheError::Key(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for CacheError {}
