//! The ledger: the list of a program's declarations, and an audit that finds problems in them.

use std::fmt;

use super::Declaration;
use super::registry::{not_linked, registry, shared_names};

/// Returns the ledger. It lists every annotated function of the program, even if the function was never
/// called, with its ttl, its tiers, its options and the declared reason to overwrite entries.
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
            if let Some(unstorable) = declaration.unstorable_value.get() {
                let (place, why) = (place.clone(), unstorable.to_string());
                let value = unstorable.type_name;
                findings.push(Finding::NotStoredRemotely { name, function, place, value, why });
            }
            if let Some(value) = declaration.never_none_type.get() {
                let place = place.clone();
                findings.push(Finding::NeverNone { name, function, place, value });
            }
            if let Some(collection) = declaration.unordered_key.get() {
                findings.push(declaration.unordered_key_finding(collection));
            }
            if let Some(error) = declaration.unshared_error_type.get() {
                findings.push(Finding::UnsharedErrors { name, function, place, error });
            }
        }
        findings
    }
}

impl Declaration {
    pub(super) fn unordered_key_finding(&self, collection: &'static str) -> Finding {
        let Declaration { name, function, .. } = *self;
        Finding::UnorderedKey { name, function, place: self.place(), collection }
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
    /// A key of the function contains a collection without a stable order, such as a `HashSet`. Calls
    /// with equal collections have different keys, so most of them fetch.
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
    /// The function returns an error that calls cannot share. When a fetch fails, each call that
    /// waited for the fetch fetches too.
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
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The reason is the last column, so that it is shown whole without widening the others.
        let header = ["name", "function", "place", "ttl", "tiers", "options", "overwrite reason"];
        let rows: Vec<[String; 7]> = self.iter().map(row).collect();
        let cells = || rows.iter().map(|row| row.each_ref().map(String::as_str));
        let widths = cells().fold(header.map(str::len), |mut widths, row| {
            let longer = widths.iter_mut().zip(row);
            longer.for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
            widths
        });
        for (index, row) in std::iter::once(header).chain(cells()).enumerate() {
            let [columns @ .., reason] = row;
            f.write_str(if index == 0 { "" } else { "\n" })?;
            for (cell, width) in columns.iter().zip(widths) {
                write!(f, "{cell:width$}  ")?;
            }
            f.write_str(reason)?;
        }
        Ok(())
    }
}

fn row(declaration: &'static Declaration) -> [String; 7] {
    [
        declaration.name.to_owned(),
        declaration.function.to_owned(),
        declaration.place(),
        declaration.ttl_text(),
        declaration.tiers_text().to_owned(),
        declaration.options_text(),
        declaration.overwrite_reason.unwrap_or("write-once").to_owned(),
    ]
}
