//! The ledger: the list of what a program declares, and an audit of it.

use std::fmt;

use super::Declaration;
use super::registry::{not_linked, registry, shared_names};

/// Returns the ledger: every annotated function of the program, with its reason to overwrite if it
/// declares one.
///
/// The ledger also lists functions that were never called.
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

/// The list of all annotated functions; [`ledger`] returns it. `Display` prints a table.
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

    /// Returns what is wrong with the declarations, as far as the program has found out. The list
    /// is empty when all is well.
    ///
    /// Shared names are found without a call. The other findings need one: the program learns of
    /// them when it first meets such a value or function.
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

/// One finding of [`Ledger::audit`]. `Display` is one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// Functions share a cache name. None of them is cached until all but one are renamed.
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
    /// A value of the function had to stay out of memcached.
    NotStoredRemotely {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// The place of the attribute, as `file:line`.
        place: String,
        /// The reason.
        why: &'static str,
    },
    /// The function declares `none_ttl`, but its value is not an `Option`.
    NeverNone {
        /// The cache name.
        name: &'static str,
        /// The path of the function.
        function: &'static str,
        /// The place of the attribute, as `file:line`.
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
