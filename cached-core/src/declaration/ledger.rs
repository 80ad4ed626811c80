//! The ledger: what a program declares, and what is wrong with it.

use std::fmt;

use super::Declaration;
use super::registry::{registry, shared_names};

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

    /// Returns what is wrong with the declarations, as far as the program has found out by now: names that
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
