//! The library's own errors. A function with the attribute `#[coordinator_cached]` never returns
//! one of these errors.
//!
//! If `main` returns an error, the standard library prints it with `{:?}`. A `main` often returns a
//! [`ConfigError`] or an [`InstallError`], so `{:?}` of these errors writes the same line as
//! `Display`; `{:#?}` shows the fields.

use std::fmt;
use std::panic::Location;

use crate::declaration::Finding;
pub use crate::key::KeyError;
pub use crate::tier::remote::{RemoteError, RemoteErrorKind};

/// A mistake in a cache's configuration.
///
/// `Display` writes one line that names the mistake and says what to write instead. The line never
/// shows a password.
///
/// ```
/// # use cached_core::{Cache, ConfigErrorKind};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let error = Cache::builder().jitter(2.0).build().await.unwrap_err();
/// assert_eq!(error.kind(), ConfigErrorKind::Value);
/// assert_eq!(error.to_string(), "the jitter 2 is not a fraction; write 0 to 1");
/// # });
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError {
    kind: ConfigErrorKind,
    message: String,
}

/// The kind of mistake in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// `CACHE_URL` does not describe a cache that this program can build.
    Url,
    /// A setting in `CACHE_URL` is unknown, is repeated, has no value, or does not apply to this
    /// kind of cache.
    Setting,
    /// A duration, a number or a size is unreadable or out of range.
    Value,
    /// The namespace is too long, or has a character that a namespace must not have.
    Namespace,
    /// The address of a memcached server is malformed or repeated, or no address is given.
    Server,
    /// The cache was built without memcached, so its servers cannot be replaced.
    NoRemoteTier,
}

impl ConfigError {
    /// Creates an error with this message. A message quotes what the program has configured, which
    /// can contain line ends, so control characters are escaped: the message stays one line.
    pub(crate) fn new(kind: ConfigErrorKind, message: impl AsRef<str>) -> ConfigError {
        let escaped = message.as_ref().chars().map(|letter| match letter.is_control() {
            true => letter.escape_default().to_string(),
            false => letter.to_string(),
        });
        ConfigError { kind, message: escaped.collect() }
    }

    /// Returns the kind of mistake in the configuration.
    #[must_use]
    pub fn kind(&self) -> ConfigErrorKind {
        self.kind
    }

    /// Puts the name of the environment variable in front of the message.
    pub(crate) fn in_variable(self, variable: &str) -> ConfigError {
        ConfigError { message: format!("{variable}: {}", self.message), ..self }
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        let ConfigError { kind, message } = self;
        f.debug_struct("ConfigError").field("kind", kind).field("message", message).finish()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The reason why [`Cache::install`](crate::Cache::install) did not install a cache.
///
/// ```
/// # use cached_core::{Cache, InstallError};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cache = Cache::builder().build().await.unwrap();
/// cache.install().unwrap();
/// assert!(matches!(cache.install(), Err(InstallError::AlreadyInstalled { .. })));
/// # });
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstallError {
    /// The process has an installed cache already.
    AlreadyInstalled {
        /// The place in the program's source where the first cache was installed.
        first: &'static Location<'static>,
        /// The place of the call of `install` that failed.
        second: &'static Location<'static>,
    },
    /// Two or more functions have the same cache name. There is one [`Finding::SharedName`] for
    /// each such name.
    SharedNames(Vec<Finding>),
}

impl fmt::Debug for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            _ if !f.alternate() => fmt::Display::fmt(self, f),
            InstallError::AlreadyInstalled { first, second } => f
                .debug_struct("AlreadyInstalled")
                .field("first", first)
                .field("second", second)
                .finish(),
            InstallError::SharedNames(findings) => {
                f.debug_tuple("SharedNames").field(findings).finish()
            }
        }
    }
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstallError::AlreadyInstalled { first, second } => {
                write!(
                    f,
                    "a cache is installed already, at {first}; remove the call of `install` at {second}"
                )
            }
            InstallError::SharedNames(findings) => {
                for (index, finding) in findings.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{finding}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for InstallError {}

/// The reason why an entry could not be invalidated or overwritten in every tier.
///
/// [`CacheError::Remote`] and [`CacheError::NotStorable`] concern memcached only. This process has
/// then already invalidated or overwritten the entry in its request tier and its local tier.
/// `source()` returns the error that a variant contains.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheError {
    /// memcached did not confirm the change: it could not be reached, or its answer was lost.
    /// memcached might return the old value until the value expires.
    Remote(RemoteError),
    /// The new value cannot be stored in memcached. The old value was removed from memcached.
    NotStorable(&'static str),
    /// The arguments could not be encoded as a key, so there is no entry.
    Key(KeyError),
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheError::Remote(_) => f.write_str(
                "memcached did not confirm the change; this process tells it again, and until then \
                 other processes may see the old value",
            ),
            CacheError::NotStorable(why) => {
                write!(f, "the value cannot be stored in memcached: it {why}")
            }
            CacheError::Key(_) => f.write_str("an argument cannot be part of a key"),
        }
    }
}

impl std::error::Error for CacheError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CacheError::Remote(error) => Some(error),
            CacheError::NotStorable(_) => None,
            CacheError::Key(error) => Some(error),
        }
    }
}

/// The error of [`Cache::invalidate_all`](crate::Cache::invalidate_all): no function of the program
/// has the given cache name. `Display` writes one line with the most similar names.
///
/// ```
/// # use cached_core::{Cache, coordinator_cached};
/// #[coordinator_cached(name = "unknown_name_doc", version = edition)]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("course {id}, edition {edition}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let _ = course(1, 2);
/// let cache = Cache::current();
/// let error = cache.invalidate_all("unknown_nmae_doc").await.unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "`unknown_nmae_doc` is not the cache name of a function of this program; write `unknown_name_doc`"
/// );
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownNameError {
    name: String,
    near: Vec<&'static str>,
}

impl UnknownNameError {
    /// Builds the error for `name`. The error lists the most similar names of `names`, three at
    /// most.
    pub(crate) fn new(
        name: &str,
        names: impl IntoIterator<Item = &'static str>,
    ) -> UnknownNameError {
        // A name is similar if at most a third of its letters are wrong. One wrong letter is always
        // allowed.
        let max_distance = (name.chars().count() / 3).max(1);
        let distances = names.into_iter().map(|other| (edit_distance(name, other), other));
        let is_near = |(distance, other): &(usize, &str)| {
            let is_prefix = name.len().min(other.len()) >= 3
                && (other.starts_with(name) || name.starts_with(other));
            *distance <= max_distance || is_prefix
        };
        let mut near: Vec<_> = distances.filter(is_near).collect();
        near.sort_unstable();
        near.dedup();
        let near = near.into_iter().take(3).map(|(_, other)| other).collect();
        UnknownNameError { name: name.to_owned(), near }
    }

    /// Returns the most similar cache names, the nearest first.
    #[must_use]
    pub fn near(&self) -> &[&'static str] {
        &self.near
    }
}

impl fmt::Display for UnknownNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not the cache name of a function of this program; ", self.name)?;
        let near: Vec<String> = self.near.iter().map(|name| format!("`{name}`")).collect();
        match &near[..] {
            [] => f.write_str("write a name that `ledger()` lists"),
            near => write!(f, "write {}", near.join(" or ")),
        }
    }
}

impl std::error::Error for UnknownNameError {}

/// Returns how many letters must be inserted, removed or replaced to turn one word into the other.
fn edit_distance(word: &str, other: &str) -> usize {
    // The edit distances between the letters of `word` that were read so far and each prefix of
    // `other`.
    let mut distances: Vec<usize> = (0..=other.chars().count()).collect();
    for (read, letter) in word.chars().enumerate() {
        let mut replaced = std::mem::replace(&mut distances[0], read + 1);
        for (at, other) in other.chars().enumerate() {
            let least = (distances[at + 1] + 1)
                .min(distances[at] + 1)
                .min(replaced + usize::from(letter != other));
            replaced = std::mem::replace(&mut distances[at + 1], least);
        }
    }
    distances.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_line_end_is_escaped() {
        let error = ConfigError::new(ConfigErrorKind::Namespace, "`shop\nß` is not allowed");
        assert_eq!(error.to_string(), "`shop\\nß` is not allowed");
    }

    #[test]
    fn the_edit_distance_counts_letters() {
        for (word, other, distance) in [
            ("", "", 0),
            ("payment", "", 7),
            ("", "pay", 3),
            ("payment", "paymnt", 1),
            ("ab", "ba", 2),
        ] {
            assert_eq!(edit_distance(word, other), distance, "{word} {other}");
        }
    }

    #[test]
    fn an_unknown_name_lists_near_names() {
        let names = ["payment", "payment.list", "order", "payments", "repayment", "pa"];
        let error = UnknownNameError::new("paymnet", names);
        assert_eq!(error.near(), ["payment"]);
        let error = UnknownNameError::new("pay", names);
        assert_eq!(error.near(), ["pa", "payment", "payments"]);
        let advice = "write `pa` or `payment` or `payments`";
        assert!(error.to_string().ends_with(advice), "the error lists similar names: {error}");
        let error = UnknownNameError::new("invoice", names);
        assert!(error.near().is_empty());
        let advice = "write a name that `ledger()` lists";
        assert!(error.to_string().ends_with(advice), "the error refers to the ledger: {error}");
    }

    #[test]
    fn debug_is_one_line_unless_it_is_alternate() {
        let error = ConfigError::new(ConfigErrorKind::Value, "the jitter 2 is not a fraction");
        assert_eq!(format!("{error:?}"), "the jitter 2 is not a fraction");
        assert!(format!("{error:#?}").contains("kind: Value"));

        let finding = Finding::SharedName { name: "payment", places: Vec::new() };
        let error = InstallError::SharedNames(vec![finding]);
        assert_eq!(format!("{error:?}"), error.to_string());
        assert!(format!("{error:#?}").contains("SharedName {"));
    }

    #[test]
    fn a_cache_error_has_its_cause_as_source() {
        let cause = RemoteError::new(RemoteErrorKind::Unreachable, "memcached at a:1: no answer");
        let error = CacheError::Remote(cause.clone());
        let source = std::error::Error::source(&error).expect("the error has a source");
        assert_eq!(source.downcast_ref(), Some(&cause));
        assert!(!error.to_string().contains(&cause.to_string()), "the cause is repeated: {error}");
    }

    #[test]
    fn a_second_install_names_both_places() {
        let (first, second) = (Location::caller(), Location::caller());
        let line = InstallError::AlreadyInstalled { first, second }.to_string();
        for place in [first, second] {
            assert!(line.contains(&place.to_string()), "the message names {place}: {line}");
        }
    }
}
