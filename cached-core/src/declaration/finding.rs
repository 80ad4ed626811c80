//! Problems that the ledger, the list of all annotated functions, finds in their declarations.

use std::fmt;
use std::time::Duration;

use super::Declaration;
use super::options::duration_text;

/// A problem with a declaration. `Display` writes one line that says what to do.
///
/// [`Ledger::audit`](super::Ledger::audit) finds mistakes, and
/// [`Ledger::not_worth_caching`](super::Ledger::not_worth_caching) finds functions for which
/// caching saves little.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// Several functions share a cache name. None of these functions is cached.
    SharedName {
        /// The cache name.
        name: &'static str,
        /// The path of each function, with its place as `file:line`.
        places: Vec<(&'static str, String)>,
    },
    /// The linker dropped the declaration of a function that is used, so the function is not
    /// cached.
    NotLinked {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
    },
    /// A value of the function could not be stored in memcached.
    NotStoredRemotely {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// The place of the attribute, as `file:line`.
        place: String,
        /// The type of the cached value.
        value: &'static str,
        /// The reason why the value could not be stored. It names the field, if the field is known.
        why: String,
    },
    /// The function declares `none_ttl`, but the cached value is not an `Option`.
    NeverNone {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// The place of the attribute, as `file:line`.
        place: String,
        /// The type of the cached value.
        value: &'static str,
    },
    /// A key of the function contains a collection without a stable order, such as a `HashSet`.
    /// Calls with equal collections have different keys, so most of them fetch.
    UnorderedKey {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// The place of the attribute, as `file:line`.
        place: String,
        /// The type of the collection.
        collection: &'static str,
    },
    /// The function returns an error that calls cannot share. If a fetch fails, each call that
    /// waited for it runs the function itself.
    UnsharedErrors {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// The place of the attribute, as `file:line`.
        place: String,
        /// The type of the error.
        error: &'static str,
    },
    /// The function is rarely called.
    FewCalls {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// The place of the attribute, as `file:line`.
        place: String,
        /// The number of calls in this cache.
        calls: u64,
        /// The time since the cache was built.
        watched: Duration,
    },
    /// Nearly every call of the function fetches.
    LowHitRate {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// The place of the attribute, as `file:line`.
        place: String,
        /// The number of calls that used the cache and got an answer.
        calls: u64,
        /// The number of these calls that needed no fetch of their own.
        saved: u64,
    },
    /// A fetch of the function takes no longer than a lookup in memcached.
    CheapFetch {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// The place of the attribute, as `file:line`.
        place: String,
        /// The duration that nine of ten fetches do not exceed.
        fetch: Duration,
        /// The median duration of an exchange with the fastest memcached server.
        exchange: Duration,
    },
}

impl Finding {
    /// Returns the path of each function that the finding is about.
    pub(super) fn functions(&self) -> impl Iterator<Item = &'static str> {
        let (one, several) = match self {
            Finding::SharedName { places, .. } => (None, &places[..]),
            Finding::NotLinked { function, .. }
            | Finding::NotStoredRemotely { function, .. }
            | Finding::NeverNone { function, .. }
            | Finding::UnorderedKey { function, .. }
            | Finding::UnsharedErrors { function, .. }
            | Finding::FewCalls { function, .. }
            | Finding::LowHitRate { function, .. }
            | Finding::CheapFetch { function, .. } => (Some(*function), &[][..]),
        };
        one.into_iter().chain(several.iter().map(|(function, _)| *function))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::SharedName { name, places } => {
                let places: Vec<String> = places
                    .iter()
                    .map(|(function, place)| format!("`{function}` ({place})"))
                    .collect();
                write!(
                    f,
                    "the cache name `{name}` is shared by {}: none of them is cached; rename all but one",
                    places.join(" and ")
                )
            }
            Finding::NotLinked { name, function } => {
                write!(
                    f,
                    "`{name}`, the function `{function}`, is not cached: the linker dropped its declaration; \
                     call the function somewhere in the program, and link with `-z nostart-stop-gc` (on macOS: turn on LTO)"
                )
            }
            Finding::NotStoredRemotely { name, function, place, why, .. } => {
                write!(
                    f,
                    "`{name}`, the function `{function}` ({place}), is cached in this process only: {why}"
                )
            }
            Finding::NeverNone { name, function, place, value } => {
                write!(
                    f,
                    "`{name}`, the function `{function}` ({place}), declares `none_ttl` for a value of the type \
                     `{value}`, which is not an `Option`; remove `none_ttl`"
                )
            }
            Finding::UnorderedKey { name, function, place, collection } => {
                write!(
                    f,
                    "`{name}`, the function `{function}` ({place}), has a `{collection}` in its key, whose \
                     elements have no stable order, so calls with equal elements fetch; use a `BTreeSet`, \
                     or write `identifier = …` with a sorted collection"
                )
            }
            Finding::UnsharedErrors { name, function, place, error } => {
                write!(
                    f,
                    "`{name}`, the function `{function}` ({place}), returns the error `{error}`, which calls cannot \
                     share: when a fetch fails, each call that waited for it fetches too; \
                     add `share_error = |error| …`, or derive `Clone` for the error"
                )
            }
            Finding::FewCalls { name, function, place, calls, watched } => {
                let watched = duration_text(Duration::from_secs(watched.as_secs() / 60 * 60));
                write!(
                    f,
                    "`{name}`, the function `{function}` ({place}), was called {calls} times in {watched}, less \
                     than once a minute, so the cache saves little; remove the attribute, unless it is there for \
                     `stale_if_error`"
                )
            }
            Finding::LowHitRate { name, function, place, calls, saved } => {
                let percent = 100.0 * *saved as f64 / (*calls).max(1) as f64;
                write!(
                    f,
                    "`{name}`, the function `{function}` ({place}), was answered without a fetch in {saved} of \
                     {calls} calls ({percent:.1} %); skip the parameters that do not change the answer, raise its \
                     ttl, or remove the attribute"
                )
            }
            Finding::CheapFetch { name, function, place, fetch, exchange } => {
                write!(
                    f,
                    "`{name}`, the function `{function}` ({place}), fetches in {fetch:.1?} nine times of ten, and \
                     an exchange with memcached takes {exchange:.1?}; write `remote = false`, or remove the \
                     attribute"
                )
            }
        }
    }
}

impl Declaration {
    pub(super) fn unordered_key_finding(&self, collection: &'static str) -> Finding {
        let Declaration { name, function, .. } = *self;
        Finding::UnorderedKey { name, function, place: self.place(), collection }
    }
}
