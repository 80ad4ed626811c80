//! The registry of all declarations. The attribute generates a *declaration* for each annotated
//! function: its cache name, its place in the source, and its settings. The registry numbers the
//! declarations, finds shared cache names, and leaves out copies.
//!
//! Another attribute may copy an annotated function. `#[axum::debug_handler]`, for example, copies
//! the function into a check that is never called. The copy contains a declaration with the cache
//! name and the place of the original.
//!
//! A copy is recognized by the path of its code. The function around the copied code has a
//! different name, or is inside an item that stands next to the original function. Only the
//! original is listed and cached.
//!
//! A macro may also generate two functions at one place in the source, for two types or with
//! different bodies. These functions are not copies. If they share a cache name, neither of them is
//! cached.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock};

use super::{DECLARATIONS, Declaration, Finding, NOT_CACHED};
use crate::sync::lock;
use crate::telemetry::write_line;

/// Returns all declarations except copies, sorted by name. The first call also numbers them.
pub(super) fn registry() -> &'static [&'static Declaration] {
    static REGISTRY: OnceLock<Vec<&'static Declaration>> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let mut by_name: HashMap<&str, Vec<&'static Declaration>> = HashMap::new();
        for declaration in DECLARATIONS {
            by_name.entry(declaration.name).or_default().push(declaration);
        }
        for same_name in by_name.values_mut() {
            if same_name.len() > 1 {
                let all = same_name.clone();
                same_name
                    .retain(|declaration| !all.iter().any(|other| declaration.is_copy_of(other)));
            }
        }
        for (index, declaration) in DECLARATIONS.iter().enumerate() {
            let is_unique =
                matches!(by_name[declaration.name][..], [only] if std::ptr::eq(only, declaration));
            let index = if is_unique { index + 1 } else { NOT_CACHED };
            declaration.index.store(index, Ordering::Release);
        }
        let mut all: Vec<_> = by_name.into_values().flatten().collect();
        all.sort_by_key(|d| (d.name, d.file, d.line, d.column));
        all
    })
}

/// Returns one finding for each cache name that several functions share.
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

// The two warnings below are not events, because an event belongs to a cache. The code that finds a
// missing declaration has no cache at hand.

/// The cache name and the path of each function that was used without a declaration, because the
/// linker dropped the declaration.
static NOT_LINKED: Mutex<Vec<(&str, &str)>> = Mutex::new(Vec::new());

/// Records that a function was used although the linker dropped its declaration. Logs this once for
/// each function.
pub(super) fn note_not_linked(name: &'static str, function: &'static str) {
    let is_new = {
        let mut functions = lock(&NOT_LINKED);
        let is_new = !functions.contains(&(name, function));
        if is_new {
            functions.push((name, function));
        }
        is_new
    };
    // A logger is code of the program, and may call the function.
    if is_new {
        write_line!(warn, "{}", Finding::NotLinked { name, function });
    }
}

/// Returns one finding for each recorded function whose declaration the linker dropped.
pub(super) fn not_linked() -> Vec<Finding> {
    lock(&NOT_LINKED)
        .iter()
        .map(|&(name, function)| Finding::NotLinked { name, function })
        .collect()
}

/// Logs a warning if an annotated function was called and the linker dropped every declaration of
/// the program, so that nothing is cached.
pub(crate) fn warn_if_inventory_is_empty() {
    if let Some(finding) = not_linked().first().filter(|_| DECLARATIONS.is_empty()) {
        write_line!(
            warn,
            "no function of this program is cached, its inventory is empty: {finding}"
        );
    }
}

impl Declaration {
    /// Returns true if this declaration belongs to a copy of the code of `original`.
    fn is_copy_of(&self, original: &Declaration) -> bool {
        let place = |d: &Declaration| (d.function, d.file, d.line, d.column, d.code_hash);
        place(self) == place(original)
            && is_copy((self.body_path)(), (original.body_path)(), self.function)
    }
}

/// Takes the paths of two types, each of which is defined in the body of a function. Returns true
/// if `original` is in the body of `function`, and `path` is in a copy of this body.
fn is_copy(path: &str, original: &str, function: &str) -> bool {
    let name = function.rsplit("::").next().unwrap_or_default();
    let Some((container, enclosing)) = split_at_function(original) else { return false };
    let original_is_in_function =
        enclosing.trim_start_matches("r#") == name.trim_start_matches("r#");
    let path_is_beside_function =
        path.strip_prefix(container).is_some_and(|rest| rest.starts_with("::"));
    original_is_in_function && path_is_beside_function && path != original
}

/// Takes the path of a type that is defined in a function's body. Returns the path of the item
/// around the function, and the function's name. Example: `app::Client::fetch::{{closure}}::Here`
/// gives `app::Client` and `fetch`.
fn split_at_function(path: &str) -> Option<(&str, &str)> {
    let (mut path, _) = path.rsplit_once("::")?;
    while let Some(outer) = path.strip_suffix("::{{closure}}") {
        path = outer;
    }
    path.rsplit_once("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_beside_the_function_is_a_copy() {
        let original = "app::fetch::{{closure}}::Here";
        for copy in [
            "app::check::fetch::{{closure}}::Here",
            "app::_::fetch::{{closure}}::Here",
            "app::_::check::fetch::{{closure}}::Here",
            "app::check_fetch::{{closure}}::Here",
        ] {
            assert!(is_copy(copy, original, "app::fetch"), "{copy} is a copy");
            assert!(!is_copy(original, copy, "app::fetch"), "{copy} is not the original");
        }
        let in_a_function = "app::main::fetch::{{closure}}::Here";
        assert!(is_copy("app::main::check::fetch::{{closure}}::Here", in_a_function, "app::fetch"));
        let method = "app::Client<_>::fetch::{{closure}}::Here";
        assert!(is_copy("app::Client<_>::check_fetch::{{closure}}::Here", method, "app::fetch"));
    }

    #[test]
    fn two_functions_at_one_place_are_not_copies() {
        for (a, b) in [
            ("app::A::fetch::{{closure}}::Here", "app::B::fetch::{{closure}}::Here"),
            ("app::A::fetch::{{closure}}::Here", "app::A2::fetch::{{closure}}::Here"),
            ("<app::A as app::T>::fetch::Here", "<app::B as app::T>::fetch::Here"),
            ("app::one::fetch::Here", "app::two::fetch::Here"),
            ("app::fetch::Here", "app::fetch::Here"),
        ] {
            let one_is_copy = is_copy(a, b, "app::fetch") || is_copy(b, a, "app::fetch");
            assert!(!one_is_copy, "{a} and {b} are not copies");
        }
    }
}
