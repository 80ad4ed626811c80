//! Declarations: the annotated functions of the program, found at link time, and the ledger.

mod ledger;
mod registry;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use linkme::distributed_slice;

use crate::value::ValueType;
pub use ledger::{Finding, Ledger, ledger};
use registry::registry;
pub(crate) use registry::shared_names;

/// Every annotated function of the program, collected by the linker.
#[doc(hidden)]
#[distributed_slice]
pub static DECLARATIONS: [Declaration];

/// How long an entry lives where the function does not say: a checkout session.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(30 * 60);

/// One annotated function: its name, its place, and what it declares.
pub struct Declaration {
    name: &'static str,
    function: &'static str,
    file: &'static str,
    line: u32,
    column: u32,
    /// Returns the path of a type in the function's body; see `registry`.
    path: fn() -> &'static str,
    /// A hash of the function's code.
    code: u32,
    reason: Option<&'static str>,
    ttl: Option<Duration>,
    local_ttl: Option<Duration>,
    none_ttl: Option<Duration>,
    stale_if_error: Duration,
    refresh_ahead: Duration,
    uses_local: bool,
    uses_remote: bool,
    /// Whether a value that the local tier has is an answer, and no more is to be done.
    local_hit_is_final: bool,
    /// [`UNKNOWN`], [`NOT_CACHED`], or the index in [`DECLARATIONS`] plus 1.
    index: AtomicUsize,
    /// The site that was last seen to be without type arguments; see `private::Types`.
    pub(crate) non_generic_site: AtomicUsize,
    /// Why its values stay out of memcached, once one was found to have to.
    pub(crate) unstorable: OnceLock<&'static str>,
    /// The type of a value that `none_ttl` can mean nothing for, once one was seen.
    never_none: OnceLock<&'static str>,
    /// Set once a value was seen that is larger than memcached takes.
    pub(crate) too_large: OnceLock<()>,
}

const UNKNOWN: usize = 0;
/// The index of a declaration that shares its name, and of a copy.
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
            path,
            code: 0,
            reason: None,
            ttl: None,
            local_ttl: None,
            none_ttl: None,
            stale_if_error: Duration::ZERO,
            refresh_ahead: Duration::ZERO,
            uses_local: true,
            uses_remote: true,
            local_hit_is_final: true,
            index: AtomicUsize::new(UNKNOWN),
            non_generic_site: AtomicUsize::new(0),
            unstorable: OnceLock::new(),
            never_none: OnceLock::new(),
            too_large: OnceLock::new(),
        }
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn code(mut self, hash: u32) -> Declaration {
        self.code = hash;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn overwrite(mut self, reason: &'static str) -> Declaration {
        self.reason = Some(reason);
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
    pub const fn tiers(mut self, local: bool, remote: bool) -> Declaration {
        self.uses_local = local;
        self.local_hit_is_final &= local;
        self.uses_remote = remote;
        self
    }

    /// The cache name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The path of the function, with its module.
    #[must_use]
    pub fn function(&self) -> &'static str {
        self.function
    }

    /// Where it stands: `file:line`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// Why its entries may be overwritten; `None` where they are write-once.
    #[must_use]
    pub fn overwrite_reason(&self) -> Option<&'static str> {
        self.reason
    }

    pub(crate) fn declared_ttl(&self) -> Option<Duration> {
        self.ttl
    }

    pub(crate) fn declared_local_ttl(&self) -> Option<Duration> {
        self.local_ttl
    }

    /// How long a `None` is cached; `None` where it is not.
    pub(crate) fn declared_none_ttl(&self) -> Option<Duration> {
        self.none_ttl
    }

    /// Notes that `none_ttl` is declared and the value is not an `Option`.
    #[inline]
    pub(crate) fn check_none_ttl(&self, value_type: &ValueType) {
        if self.none_ttl.is_some() && !(value_type.is_option)() {
            self.never_none.get_or_init(value_type.name);
        }
    }

    /// How long a value is kept after it expired, for a fetch that fails.
    pub(crate) fn declared_stale_if_error(&self) -> Duration {
        self.stale_if_error
    }

    /// How long before its end an entry is refreshed; zero where it is not.
    pub(crate) fn declared_refresh_ahead(&self) -> Duration {
        self.refresh_ahead
    }

    #[inline]
    pub(crate) fn uses_local(&self) -> bool {
        self.uses_local
    }

    /// Whether the local tier may answer, and no answer is due for anything.
    #[inline]
    pub(crate) fn local_hit_is_final(&self) -> bool {
        self.local_hit_is_final
    }

    pub(crate) fn uses_remote(&self) -> bool {
        self.uses_remote
    }

    /// Its index among all declarations; `None` where it shares its name or is a copy, and so must not cache.
    #[inline]
    pub(crate) fn index(&self) -> Option<usize> {
        let index = match self.index.load(Ordering::Acquire) {
            UNKNOWN => {
                registry();
                self.index.load(Ordering::Acquire)
            }
            known => known,
        };
        (index != NOT_CACHED && index != UNKNOWN).then(|| index - 1)
    }
}

impl fmt::Debug for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Declaration")
            .field("name", &self.name)
            .field("function", &self.function)
            .field("place", &self.place())
            .field("overwrite_reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// A companion's way to its function's declaration, which stands in the function's body.
pub struct DeclarationRef {
    /// What the companion goes by where the linker dropped the function: it never caches.
    missing: Declaration,
    found: OnceLock<&'static Declaration>,
}

impl DeclarationRef {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(name: &'static str, function: &'static str) -> DeclarationRef {
        let missing = Declaration::new(name, function, "", 0, 0, || "");
        DeclarationRef { missing, found: OnceLock::new() }
    }

    #[doc(hidden)]
    pub fn get(&'static self) -> &'static Declaration {
        let Declaration { name, function, .. } = self.missing;
        self.found.get_or_init(|| {
            // Two functions of one path share a name, so it does not matter which is found. Copies are not
            // in the registry.
            let mut all = registry().iter().copied();
            all.find(|d| d.name == name && d.function == function).unwrap_or(&self.missing)
        })
    }
}
