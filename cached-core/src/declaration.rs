//! Declarations: the annotated functions of the program, found at link time, and the ledger.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use linkme::distributed_slice;

use crate::value::ValueType;

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
    reason: Option<&'static str>,
    ttl: Option<Duration>,
    local_ttl: Option<Duration>,
    none_ttl: Option<Duration>,
    stale_if_error: Duration,
    refresh_ahead: Duration,
    uses_local: bool,
    uses_remote: bool,
    /// Whether a value that the local tier has is an answer, and no more is to be done.
    is_plain: bool,
    /// [`UNKNOWN`], [`SHARED_NAME`], or the index in [`DECLARATIONS`] plus 1.
    index: AtomicUsize,
    /// The site that was last seen to be without type arguments; see `private::Types`.
    pub(crate) plain_site: AtomicUsize,
    /// Why its values stay out of memcached, once one was found to have to.
    pub(crate) unstorable: OnceLock<&'static str>,
    /// The type of a value that `none_ttl` can mean nothing for, once one was seen.
    never_none: OnceLock<&'static str>,
    /// Set once a value was seen that is larger than memcached takes.
    pub(crate) too_large: OnceLock<()>,
}

const UNKNOWN: usize = 0;
const SHARED_NAME: usize = usize::MAX;

impl Declaration {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(
        name: &'static str,
        function: &'static str,
        file: &'static str,
        line: u32,
        column: u32,
    ) -> Declaration {
        Declaration {
            name,
            function,
            file,
            line,
            column,
            reason: None,
            ttl: None,
            local_ttl: None,
            none_ttl: None,
            stale_if_error: Duration::ZERO,
            refresh_ahead: Duration::ZERO,
            uses_local: true,
            uses_remote: true,
            is_plain: true,
            index: AtomicUsize::new(UNKNOWN),
            plain_site: AtomicUsize::new(0),
            unstorable: OnceLock::new(),
            never_none: OnceLock::new(),
            too_large: OnceLock::new(),
        }
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
        self.is_plain &= ahead.is_zero();
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn tiers(mut self, local: bool, remote: bool) -> Declaration {
        self.uses_local = local;
        self.is_plain &= local;
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
    pub(crate) fn kept_for_errors(&self) -> Duration {
        self.stale_if_error
    }

    /// How long before its end an entry is refreshed; zero where it is not.
    pub(crate) fn refreshed_ahead(&self) -> Duration {
        self.refresh_ahead
    }

    #[inline]
    pub(crate) fn uses_local(&self) -> bool {
        self.uses_local
    }

    /// Whether the local tier may answer, and no answer is due for anything.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain
    }

    pub(crate) fn uses_remote(&self) -> bool {
        self.uses_remote
    }

    /// Its index among all declarations; `None` where it shares its name, and so must not cache.
    #[inline]
    pub(crate) fn index(&self) -> Option<usize> {
        let index = match self.index.load(Ordering::Acquire) {
            UNKNOWN => {
                registry();
                self.index.load(Ordering::Acquire)
            }
            known => known,
        };
        (index != SHARED_NAME && index != UNKNOWN).then(|| index - 1)
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
pub struct Declared {
    /// What the companion goes by where the linker dropped the function: it never caches.
    missing: Declaration,
    found: OnceLock<&'static Declaration>,
}

impl Declared {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(name: &'static str, function: &'static str) -> Declared {
        Declared { missing: Declaration::new(name, function, "", 0, 0), found: OnceLock::new() }
    }

    #[doc(hidden)]
    pub fn get(&'static self) -> &'static Declaration {
        let Declaration { name, function, .. } = self.missing;
        self.found.get_or_init(|| {
            // Two functions of one path share a name, so it does not matter which is found.
            DECLARATIONS
                .iter()
                .find(|d| d.name == name && d.function == function)
                .unwrap_or(&self.missing)
        })
    }
}

/// All declarations by name, in order; made on first use, which also numbers them.
fn registry() -> &'static [&'static Declaration] {
    static REGISTRY: OnceLock<Vec<&'static Declaration>> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let mut uses: HashMap<&str, usize> = HashMap::new();
        for declaration in DECLARATIONS {
            *uses.entry(declaration.name).or_default() += 1;
        }
        for (index, declaration) in DECLARATIONS.iter().enumerate() {
            let index = if uses[declaration.name] == 1 { index + 1 } else { SHARED_NAME };
            declaration.index.store(index, Ordering::Release);
        }
        let mut all: Vec<_> = DECLARATIONS.iter().collect();
        all.sort_by_key(|d| (d.name, d.file, d.line, d.column));
        all
    })
}

/// One line for each name that several functions share, with every place.
pub(crate) fn shared_names() -> Vec<Finding> {
    registry()
        .chunk_by(|a, b| a.name == b.name)
        .filter(|sharing| sharing.len() > 1)
        .map(|sharing| Finding::SharedName {
            name: sharing[0].name,
            places: sharing.iter().map(|d| (d.function, d.place())).collect(),
        })
        .collect()
}

/// The ledger: every annotated function of the program, with its overwrite reason if it has one.
///
/// ```
/// println!("{}", cached_core::ledger());
/// for finding in cached_core::ledger().audit() {
///     eprintln!("{finding}");
/// }
/// ```
#[must_use]
pub fn ledger() -> Ledger {
    Ledger { declarations: registry() }
}

/// See [`ledger`]. `Display` prints a table, each reason whole.
#[derive(Debug, Clone, Copy)]
pub struct Ledger {
    declarations: &'static [&'static Declaration],
}

impl Ledger {
    /// Every declaration, by name.
    pub fn iter(&self) -> impl Iterator<Item = &'static Declaration> + use<> {
        self.declarations.iter().copied()
    }

    /// What is wrong with the declarations, as far as the program has found out by now: names that
    /// are shared, values that have to stay out of memcached, and options that mean nothing for the values
    /// that were seen. Empty when all is well.
    #[must_use]
    pub fn audit(&self) -> Vec<Finding> {
        let mut findings = shared_names();
        for declaration in self.iter() {
            let Declaration { name, function, .. } = *declaration;
            let place = declaration.place();
            if let Some(why) = declaration.unstorable.get() {
                let place = place.clone();
                findings.push(Finding::NotStoredRemotely { name, function, place, why });
            }
            if let Some(value) = declaration.never_none.get() {
                findings.push(Finding::NeverNone { name, function, place, value });
            }
        }
        findings
    }
}

/// One finding of [`Ledger::audit`]; `Display` is one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// Functions that share a cache name. Until one is renamed, none of them caches.
    SharedName {
        /// The name.
        name: &'static str,
        /// The path of each function and where it stands.
        places: Vec<(&'static str, String)>,
    },
    /// A function with a value that had to stay out of memcached.
    NotStoredRemotely {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// Where it stands.
        place: String,
        /// Why.
        why: &'static str,
    },
    /// A function that declares `none_ttl`, with a value that is not an `Option`.
    NeverNone {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// Where it stands.
        place: String,
        /// The type of the value.
        value: &'static str,
    },
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
                    "the cache name `{name}` is shared by {}: none of them caches; rename all but one",
                    places.join(" and ")
                )
            }
            Finding::NotStoredRemotely { name, function, place, why } => {
                write!(
                    f,
                    "`{name}`, the function `{function}` ({place}), is cached in this process only: {why}"
                )
            }
            Finding::NeverNone { name, function, place, value } => {
                write!(
                    f,
                    "`{name}`, the function `{function}` ({place}), declares `none_ttl` for a value of the type \
                     `{value}`, which is not an `Option` and is never `None`; remove `none_ttl`"
                )
            }
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: fn(&Declaration) -> String, title: &str| {
            self.iter().map(|d| column(d).chars().count()).max().unwrap_or(0).max(title.len())
        };
        let names = width(|d| d.name.to_owned(), "name");
        let functions = width(|d| d.function.to_owned(), "function");
        let places = width(Declaration::place, "place");
        write!(
            f,
            "{:names$}  {:functions$}  {:places$}  overwrite reason",
            "name", "function", "place"
        )?;
        for d in self.iter() {
            let (place, reason) = (d.place(), d.reason.unwrap_or("write-once"));
            write!(f, "\n{:names$}  {:functions$}  {place:places$}  {reason}", d.name, d.function)?;
        }
        Ok(())
    }
}
