//! Declarations of annotated functions. A declaration contains the function's cache name, its
//! options and its place in the source. The linker collects the declarations of all crates of the
//! program.

mod finding;
mod ledger;
mod options;
mod registry;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use linkme::distributed_slice;

use crate::error::UnknownNameError;
use crate::unstorable::UnstorableValue;
use crate::value::{Value, ValueOperations};
pub use finding::Finding;
pub use ledger::{Ledger, LedgerDrift, LedgerDriftKind, ledger};
use registry::{note_not_linked, registry};
pub(crate) use registry::{shared_names, warn_if_inventory_is_empty};

/// The declaration of every annotated function of the program, collected by the linker.
#[doc(hidden)]
#[distributed_slice]
pub static DECLARATIONS: [Declaration];

/// One annotated function: its cache name, its place in the source, and the options of its
/// attribute.
///
/// [`ledger()`] lists all declarations of the program.
pub struct Declaration {
    name: &'static str,
    function: &'static str,
    file: &'static str,
    line: u32,
    column: u32,
    /// Returns the full path of a type that is declared in the function's body. If another
    /// attribute has made a copy of the function, the module `registry` recognizes the copy by this
    /// path.
    body_path: fn() -> &'static str,
    /// A hash of the function's tokens.
    code_hash: u32,
    /// The expression of the option `version`, as text.
    version: Option<&'static str>,
    overwrite_reason: Option<&'static str>,
    /// The names of the options that are expressions, such as `cache_if`, separated by commas.
    computed_options: &'static str,
    ttl: Option<Duration>,
    local_ttl: Option<Duration>,
    none_ttl: Option<Duration>,
    stale_if_error: Duration,
    refresh_ahead: Duration,
    error_ttl: Duration,
    uses_local: bool,
    uses_remote: bool,
    local_hit_is_final: bool,
    /// [`UNKNOWN`], [`NOT_CACHED`], or the index in [`DECLARATIONS`] plus 1.
    index: AtomicUsize,
    /// The address of a string, the type name of the function's closure. A call parses this name to
    /// find the type arguments of the type around the function. If there are none, the call stores
    /// the address here. Later hits with the same closure then do not parse the name again; see
    /// `private::generic_arguments`.
    pub(crate) non_generic_closure: AtomicUsize,
    /// The first value that could not be stored in memcached. Empty until storing a value fails.
    pub(crate) unstorable_value: OnceLock<UnstorableValue>,
    /// The type of the cached value, if `none_ttl` is declared and the type is not an `Option`.
    /// Empty until the function is called.
    never_none_type: OnceLock<&'static str>,
    /// The type of the first value that was stored in the local tier, and the type's name.
    #[cfg(feature = "console")]
    value_type: OnceLock<(std::any::TypeId, &'static str)>,
    /// The type of a collection in the key whose order is not stable, such as a `HashSet`. Empty
    /// until a key with such a collection is encoded.
    unordered_key: OnceLock<&'static str>,
    /// The type of the function's error, if the error cannot be shared with other calls. Empty
    /// until the function has run.
    unshared_error_type: OnceLock<&'static str>,
    /// Set when the first value that is too large for memcached was logged.
    pub(crate) too_large_warned: OnceLock<()>,
    /// Set when the first key that could not be encoded was logged.
    pub(crate) key_error_warned: OnceLock<()>,
    /// Set when the first call was logged whose task had lost its cache scope.
    pub(crate) lost_scope_warned: OnceLock<()>,
}

const UNKNOWN: usize = 0;
/// The index of a declaration whose function is not cached. Either another declaration has the same
/// cache name, or the declaration is a copy (see `registry`), or the linker dropped the
/// declaration.
const NOT_CACHED: usize = usize::MAX;

impl Declaration {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(
        name: &'static str,
        function: &'static str,
        file: &'static str,
        line: u32,
        column: u32,
        path: fn() -> &'static str,
    ) -> Declaration {
        Declaration {
            name,
            function,
            file,
            line,
            column,
            body_path: path,
            code_hash: 0,
            version: None,
            overwrite_reason: None,
            computed_options: "",
            ttl: None,
            local_ttl: None,
            none_ttl: None,
            stale_if_error: Duration::ZERO,
            refresh_ahead: Duration::ZERO,
            error_ttl: Duration::ZERO,
            uses_local: true,
            uses_remote: true,
            local_hit_is_final: true,
            index: AtomicUsize::new(UNKNOWN),
            non_generic_closure: AtomicUsize::new(0),
            unstorable_value: OnceLock::new(),
            never_none_type: OnceLock::new(),
            #[cfg(feature = "console")]
            value_type: OnceLock::new(),
            unordered_key: OnceLock::new(),
            unshared_error_type: OnceLock::new(),
            too_large_warned: OnceLock::new(),
            key_error_warned: OnceLock::new(),
            lost_scope_warned: OnceLock::new(),
        }
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn code(mut self, hash: u32) -> Declaration {
        self.code_hash = hash;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn versioned_by(mut self, version: &'static str) -> Declaration {
        self.version = Some(version);
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn overwrite(mut self, reason: &'static str) -> Declaration {
        self.overwrite_reason = Some(reason);
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn computes(mut self, options: &'static str) -> Declaration {
        self.computed_options = options;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Declaration {
        self.ttl = Some(ttl);
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn local_ttl(mut self, ttl: Duration) -> Declaration {
        self.local_ttl = Some(ttl);
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn none_ttl(mut self, ttl: Duration) -> Declaration {
        self.none_ttl = Some(ttl);
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn stale_if_error(mut self, keep: Duration) -> Declaration {
        self.stale_if_error = keep;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn refresh_ahead(mut self, ahead: Duration) -> Declaration {
        self.refresh_ahead = ahead;
        self.local_hit_is_final &= ahead.is_zero();
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn error_ttl(mut self, ttl: Duration) -> Declaration {
        self.error_ttl = ttl;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn tiers(mut self, local: bool, remote: bool) -> Declaration {
        self.uses_local = local;
        self.local_hit_is_final &= local;
        self.uses_remote = remote;
        self
    }

    /// Returns the cache name.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, ledger};
    /// #[coordinator_cached(name = "declaration_doc", overwrite(reason = "prices have no version upstream"))]
    /// async fn price(item: u32) -> Result<u64, std::io::Error> {
    ///     Ok(100)
    /// }
    ///
    /// # let _ = price(1);
    /// let price = ledger().iter().find(|declaration| declaration.name() == "declaration_doc").unwrap();
    /// assert!(price.function().ends_with("::price"));
    /// assert!(price.place().contains(".rs:"));
    /// assert_eq!(price.overwrite_reason(), Some("prices have no version upstream"));
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the path of the function, including its module.
    #[must_use]
    pub fn function(&self) -> &'static str {
        self.function
    }

    /// Returns the place of the attribute in the source, as `file:line`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// Returns the expression of the option `version`, with normalized white space. Returns `None`
    /// if the function has no version.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, ledger};
    /// #[coordinator_cached(name = "version_doc", version = (edition, reprint))]
    /// async fn price(item: u32, edition: u8, reprint: u8) -> Result<u64, std::io::Error> {
    ///     Ok(100)
    /// }
    ///
    /// # let _ = price(1, 2, 3);
    /// let price = ledger().iter().find(|declaration| declaration.name() == "version_doc").unwrap();
    /// assert_eq!(price.version(), Some("(edition, reprint)"));
    /// ```
    #[must_use]
    pub fn version(&self) -> Option<&'static str> {
        self.version
    }

    /// Returns the reason in the option `overwrite`. Returns `None` if the function does not have
    /// the option, so that its entries are never overwritten.
    #[must_use]
    pub fn overwrite_reason(&self) -> Option<&'static str> {
        self.overwrite_reason
    }

    /// Returns the declaration of the function with this cache name, or an error that lists similar
    /// names.
    pub(crate) fn by_name(name: &str) -> Result<&'static Declaration, UnknownNameError> {
        let mut all = registry().iter().copied();
        all.find(|declaration| declaration.name == name)
            .ok_or_else(|| UnknownNameError::new(name, registry().iter().map(|d| d.name)))
    }

    pub(crate) fn declared_ttl(&self) -> Option<Duration> {
        self.ttl
    }

    pub(crate) fn declared_local_ttl(&self) -> Option<Duration> {
        self.local_ttl
    }

    /// Returns how long a `None` result is cached, or `None` if `None` results are not cached.
    pub(crate) fn declared_none_ttl(&self) -> Option<Duration> {
        self.none_ttl
    }

    /// Records a finding (a problem that the ledger reports) if `none_ttl` is declared for a value
    /// that is not an `Option`.
    #[inline]
    pub(crate) fn check_none_ttl(&self, operations: &ValueOperations) {
        if self.none_ttl.is_some() && !(operations.is_option)() {
            self.never_none_type.get_or_init(operations.name);
        }
    }

    /// Records the type of a value, for the console. Does nothing in a build without the console.
    pub(crate) fn note_value_type(&self, value: &Value, operations: &ValueOperations) {
        #[cfg(feature = "console")]
        self.value_type.get_or_init(|| ((**value).type_id(), (operations.name)()));
        #[cfg(not(feature = "console"))]
        let _ = (value, operations);
    }

    /// Returns the name of the value type with this id. Returns `None` if the first value of the
    /// function had another type, which can only happen with a generic function.
    #[cfg(all(feature = "console", feature = "memcached"))]
    pub(crate) fn value_type_name(&self, of: std::any::TypeId) -> Option<&'static str> {
        self.value_type.get().filter(|(known, _)| *known == of).map(|(_, name)| *name)
    }

    /// Records that keys of the function contain a collection whose order is not stable. Logs this
    /// once for each function.
    #[cold]
    pub(crate) fn note_unordered_key(&self, collection: &'static str) {
        if self.unordered_key.set(collection).is_ok() {
            crate::telemetry::write_line!(warn, "{}", self.unordered_key_finding(collection));
        }
    }

    /// Returns how long an expired value is kept, so that it can be served if a fetch fails.
    pub(crate) fn declared_stale_if_error(&self) -> Duration {
        self.stale_if_error
    }

    /// Returns how long before its expiry an entry is refreshed, or zero if entries are not
    /// refreshed.
    pub(crate) fn declared_refresh_ahead(&self) -> Duration {
        self.refresh_ahead
    }

    /// Returns how long a failed fetch delays the next fetch of its key, or zero if the function
    /// does not declare `error_ttl`.
    pub(crate) fn declared_error_ttl(&self) -> Duration {
        self.error_ttl
    }

    /// Records a finding if several calls cannot share an error of the function. `error` must be
    /// the name of the error type if it cannot be shared, and `None` if it can.
    pub(crate) fn check_error_sharing(&self, error: Option<&'static str>) {
        if let Some(error) = error {
            self.unshared_error_type.get_or_init(|| error);
        }
    }

    #[inline]
    pub(crate) fn uses_local(&self) -> bool {
        self.uses_local
    }

    /// Returns true if a call can return a hit in the local tier at once. This is the case if the
    /// function uses the local tier and does not declare `refresh_ahead`.
    #[inline]
    pub(crate) fn local_hit_is_final(&self) -> bool {
        self.local_hit_is_final
    }

    pub(crate) fn uses_remote(&self) -> bool {
        self.uses_remote
    }

    /// Returns the declaration's index in [`DECLARATIONS`], or `None` if the function is not
    /// cached; see [`NOT_CACHED`].
    #[inline]
    pub(crate) fn index(&self) -> Option<usize> {
        let index = match self.index.load(Ordering::Acquire) {
            UNKNOWN => self.register(),
            known => known,
        };
        (index != NOT_CACHED).then(|| index - 1)
    }

    #[cold]
    fn register(&self) -> usize {
        registry();
        let index = self.index.load(Ordering::Acquire);
        if index != UNKNOWN {
            return index;
        }
        self.index.store(NOT_CACHED, Ordering::Release);
        note_not_linked(self.name, self.function);
        NOT_CACHED
    }
}

impl fmt::Debug for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Declaration")
            .field("name", &self.name)
            .field("function", &self.function)
            .field("place", &self.place())
            .field("overwrite_reason", &self.overwrite_reason)
            .finish_non_exhaustive()
    }
}

/// Finds the declaration of an annotated function for the companion, which is the function that
/// `entry = …` generates.
///
/// The declaration is a static in the body of the annotated function, so the companion cannot name
/// it. The first call of [`get`](Self::get) therefore searches all declarations for the cache name
/// and the function's path.
pub struct DeclarationFinder {
    /// The declaration to use if the linker dropped the real one. It has no index, so the function
    /// is not cached.
    stand_in: Declaration,
    found: OnceLock<&'static Declaration>,
}

impl DeclarationFinder {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(name: &'static str, function: &'static str) -> DeclarationFinder {
        let stand_in = Declaration::new(name, function, "", 0, 0, || "");
        DeclarationFinder { stand_in, found: OnceLock::new() }
    }

    #[doc(hidden)]
    pub fn get(&'static self) -> &'static Declaration {
        let Declaration { name, function, .. } = self.stand_in;
        self.found.get_or_init(|| {
            // Several functions might have this name and this path, for example methods of two
            // types in one module. None of them is then cached, so any of their declarations will
            // do. The registry contains no copies of a declaration.
            let mut all = registry().iter().copied();
            all.find(|d| d.name == name && d.function == function).unwrap_or(&self.stand_in)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_declaration_is_a_finding() {
        static COMPANION: DeclarationFinder = DeclarationFinder::new("dropped", "app::dropped");
        let is_dropped =
            |finding: &Finding| matches!(finding, Finding::NotLinked { name: "dropped", .. });
        assert!(!ledger().audit().iter().any(is_dropped));
        assert_eq!(COMPANION.get().index(), None);
        assert_eq!(COMPANION.get().index(), None);
        let findings = ledger().audit();
        let [finding] = &findings.iter().filter(|f| is_dropped(f)).collect::<Vec<_>>()[..] else {
            panic!("{findings:?}");
        };
        assert!(
            finding.to_string().contains("`app::dropped`"),
            "the finding names the function: {finding}"
        );
    }
}
