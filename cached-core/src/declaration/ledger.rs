//! The ledger: the list of a program's declarations, and an audit that finds problems in them.

use std::fmt;

use super::Declaration;
use super::registry::{not_linked, registry, shared_names};

/// Returns the ledger. It lists every annotated function of the program, even if the function was never
/// called, with the declared reason to overwrite entries.
///
/// ```
/// println!("{}", cached_core::ledger());
/// for finding in cached_core::ledger().audit() {
///     eprintln!("{finding}");
/// }
/// ```
pub fn ledger() -> Ledger {
    Ledger { declarations: registry() }
}

/// The list of all annotated functions of the program. `Display` prints a table.
///
/// The function [`ledger`] returns it.
#[derive(Debug, Clone, Copy)]
#[must_use = "a ledger does nothing until it is read"]
pub struct Ledger {
    declarations: &'static [&'static Declaration],
}

impl Ledger {
    /// Returns every declaration, sorted by name.
    ///
    /// ```
    /// for declaration in cached_core::ledger().iter() {
    ///     if let Some(reason) = declaration.overwrite_reason() {
    ///         println!("{} overwrites: {reason}", declaration.name());
    ///     }
    /// }
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = &'static Declaration> + use<> {
        self.declarations.iter().copied()
    }

    /// Returns the problems that are known so far.
    ///
    /// Shared names are known from the start. Other problems become known when the function or its entry
    /// is used.
    ///
    /// ```
    /// let findings = cached_core::ledger().audit();
    /// assert!(findings.is_empty(), "{findings:?}");
    /// ```
    #[must_use]
    pub fn audit(&self) -> Vec<Finding> {
        let mut findings = shared_names();
        findings.extend(not_linked());
        for declaration in self.iter() {
            let Declaration { name, function, .. } = *declaration;
            let place = declaration.place();
            if let Some(why) = declaration.unstorable_reason.get() {
                let place = place.clone();
                findings.push(Finding::NotStoredRemotely { name, function, place, why });
            }
            if let Some(value) = declaration.never_none_type.get() {
                findings.push(Finding::NeverNone { name, function, place, value });
            }
        }
        findings
    }
}

/// A problem with a declaration, found by [`Ledger::audit`]. `Display` writes one line that says what
/// to do.
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
        /// The reason why the value could not be stored.
        why: &'static str,
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
                     `{value}`, which is not an `Option`; remove `none_ttl`"
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
            let (place, reason) = (d.place(), d.overwrite_reason.unwrap_or("write-once"));
            write!(f, "\n{:names$}  {:functions$}  {place:places$}  {reason}", d.name, d.function)?;
        }
        Ok(())
    }
}
