//! The ledger lists the cached functions of a program, with the options that each declares. An
//! audit of the ledger finds problems with these functions.

mod review;
mod text;

use std::fmt;

use super::registry::{not_linked, registry, shared_names};
use super::{Declaration, Finding};
pub use review::{LedgerDrift, LedgerDriftKind};

/// Returns the ledger. It lists every annotated function of the program, even if the function was
/// never called.
///
/// A function declares either the expression `version`, or the reason why its entries can be
/// overwritten. The ledger has this declaration, the ttl, the tiers and the other options.
///
/// The ledger also lists the functions of the program's dependencies. In a test program, it also
/// lists the functions of the tests. [`Ledger::of_crates`] and [`Ledger::without_module`] leave
/// functions out.
///
/// ```
/// println!("{}", cached_core::ledger());
/// for finding in cached_core::ledger().audit() {
///     eprintln!("{finding}");
/// }
/// ```
pub fn ledger() -> Ledger {
    Ledger::default()
}

/// The list of the annotated functions of the program. `Display` prints a table.
///
/// The function [`ledger`] returns this type. The [guide](crate::guide::ledger) shows how a team
/// reviews its ledger.
#[derive(Clone, Default)]
#[must_use = "a ledger does nothing until it is read"]
pub struct Ledger {
    /// The names of the crates whose functions are listed. `None` lists the functions of all
    /// crates.
    crates: Option<Vec<String>>,
    /// The paths of the modules whose functions are left out.
    left_out: Vec<String>,
}

impl Ledger {
    /// Keeps the functions of these crates, and leaves out all others. A dash in a name counts as
    /// an underscore, so package names may be used.
    ///
    /// An integration test is a crate of its own, so this method also leaves out functions that the
    /// test defines.
    ///
    /// ```
    /// let ledger = cached_core::ledger().of_crates(["shop", "shop-payments"]);
    /// assert!(ledger.iter().all(|declaration| declaration.function().starts_with("shop")));
    /// ```
    pub fn of_crates<Name: AsRef<str>>(mut self, names: impl IntoIterator<Item = Name>) -> Ledger {
        let names = names.into_iter().map(|name| name.as_ref().replace('-', "_"));
        self.crates = Some(names.collect());
        self
    }

    /// Leaves out the functions of a module and of the modules inside of it. Each call adds a
    /// module.
    ///
    /// `tests` leaves out every module with this name. `payments::tests` leaves out only the
    /// modules `tests` that are directly in a module `payments`.
    ///
    /// ```
    /// # use cached_core::ledger;
    /// mod tests {
    ///     # use cached_core::coordinator_cached;
    ///     #[coordinator_cached(name = "without_module_doc", version = day)]
    ///     pub async fn quote(day: u32) -> Option<u32> {
    ///         Some(day)
    ///     }
    /// }
    /// # let _ = tests::quote(1);
    ///
    /// assert!(ledger().iter().any(|declaration| declaration.name() == "without_module_doc"));
    /// let mut reviewed = ledger().without_module("tests").iter();
    /// assert!(!reviewed.any(|declaration| declaration.name() == "without_module_doc"));
    /// ```
    pub fn without_module(mut self, path: &str) -> Ledger {
        self.left_out.push(path.to_owned());
        self
    }

    /// Returns true if the function with this path is listed.
    fn covers(&self, function: &str) -> bool {
        let path: Vec<&str> = function.split("::").collect();
        let [modules @ .., _] = &path[..] else { return false };
        let is_in_crates = |crates: &Vec<String>| crates.iter().any(|name| name == path[0]);
        let is_left_out = |module: &String| {
            let module: Vec<&str> = module.split("::").collect();
            modules.windows(module.len()).any(|window| window == module)
        };
        self.crates.as_ref().is_none_or(is_in_crates) && !self.left_out.iter().any(is_left_out)
    }

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
        let ledger = self.clone();
        registry().iter().copied().filter(move |declaration| ledger.covers(declaration.function))
    }

    /// Returns the problems that are known so far.
    ///
    /// If two functions share a cache name, this is known from the start. Every other problem
    /// becomes known when the function or one of its entries is used.
    ///
    /// ```
    /// let findings = cached_core::ledger().audit();
    /// assert!(findings.is_empty(), "{findings:?}");
    /// ```
    #[must_use]
    pub fn audit(&self) -> Vec<Finding> {
        let mut findings = shared_names();
        findings.extend(not_linked());
        findings.retain(|finding| finding.functions().any(|function| self.covers(function)));
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

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The reason is the last column, so a long reason does not widen the table.
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
        one_line(declaration.overwrite_reason.unwrap_or("write-once")),
    ]
}

/// Replaces each line end, with the spaces around it, by one space.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_selects_crates_and_modules() {
        let all = ledger();
        assert!(all.covers("shop::payments::fetch"));
        let shop = ledger().of_crates(["shop", "my-client"]);
        assert!(shop.covers("shop::payments::fetch") && shop.covers("my_client::fetch"));
        assert!(!shop.covers("shop_test::fetch") && !shop.covers("client::shop::fetch"));

        let reviewed = ledger().without_module("tests").without_module("shop::demo");
        assert!(reviewed.covers("shop::payments::tests_of_fetch"));
        assert!(reviewed.covers("shop::tests"), "`tests` is a function here, not a module");
        assert!(!reviewed.covers("shop::tests::fetch"));
        assert!(!reviewed.covers("shop::payments::tests::inner::fetch"));
        assert!(!reviewed.covers("shop::demo::fetch") && reviewed.covers("other::demo::fetch"));
        assert!(!ledger().of_crates([""; 0]).covers("shop::fetch"));
    }
}
