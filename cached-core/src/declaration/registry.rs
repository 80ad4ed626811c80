//! All declarations of the program, numbered; which of them share a name, and which are copies.
//!
//! An attribute may copy the function that it stands on into checks that nobody calls, as
//! `#[axum::debug_handler]` does. Each copy brings a declaration with it, of the same place. A copy is told by
//! where its code is: not in a function of the declared name, or in one that is nested in another item beside
//! the declared function. A copy is not cached and not listed, and the function is as if there were none. Two
//! functions that a macro writes at one place, for two types or with other code, are not copies of each other:
//! they share a name.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use super::{DECLARATIONS, Declaration, Finding, NOT_CACHED};

/// Returns all declarations but copies, by name; made on first use, which also numbers them.
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
                same_name.retain(|declaration| !all.iter().any(|other| declaration.copies(other)));
            }
        }
        for (index, declaration) in DECLARATIONS.iter().enumerate() {
            let is_alone = matches!(by_name[declaration.name][..], [alone] if std::ptr::eq(alone, declaration));
            let index = if is_alone { index + 1 } else { NOT_CACHED };
            declaration.index.store(index, Ordering::Release);
        }
        let mut all: Vec<_> = by_name.into_values().flatten().collect();
        all.sort_by_key(|d| (d.name, d.file, d.line, d.column));
        all
    })
}

/// Returns one finding for each name that several functions share, with every place.
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

impl Declaration {
    /// Returns true if this declaration came about by copying the code of `original`.
    fn copies(&self, original: &Declaration) -> bool {
        let place = |d: &Declaration| (d.function, d.file, d.line, d.column, d.code);
        place(self) == place(original) && is_copy((self.path)(), (original.path)(), self.function)
    }
}

/// Returns true if the code at `path` is a copy of the code at `original`, which is in the declared function.
fn is_copy(path: &str, original: &str, function: &str) -> bool {
    let name = function.rsplit("::").next().unwrap_or_default();
    let Some((container, enclosing)) = surroundings(original) else { return false };
    let is_in_its_function = enclosing.trim_start_matches("r#") == name.trim_start_matches("r#");
    let is_beside_it = path.strip_prefix(container).is_some_and(|rest| rest.starts_with("::"));
    is_in_its_function && is_beside_it && path != original
}

/// Returns the path of the module, type or function that the enclosing function stands in, and the enclosing
/// function's name: `app::Client` and `fetch` for `app::Client::fetch::{{closure}}::Here`.
fn surroundings(path: &str) -> Option<(&str, &str)> {
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
    fn code_beside_the_function_and_not_in_it_is_a_copy() {
        let original = "app::fetch::{{closure}}::Here";
        for copy in [
            "app::check::fetch::{{closure}}::Here",
            "app::_::fetch::{{closure}}::Here",
            "app::_::check::fetch::{{closure}}::Here",
            "app::check_fetch::{{closure}}::Here",
        ] {
            assert!(is_copy(copy, original, "app::fetch"), "{copy}");
            assert!(!is_copy(original, copy, "app::fetch"), "{copy}");
        }
        let in_a_function = "app::main::fetch::{{closure}}::Here";
        assert!(is_copy("app::main::check::fetch::{{closure}}::Here", in_a_function, "app::fetch"));
        let method = "app::Client<_>::fetch::{{closure}}::Here";
        assert!(is_copy("app::Client<_>::check_fetch::{{closure}}::Here", method, "app::fetch"));
    }

    #[test]
    fn two_functions_that_a_macro_writes_at_one_place_are_no_copies() {
        for (a, b) in [
            ("app::A::fetch::{{closure}}::Here", "app::B::fetch::{{closure}}::Here"),
            ("app::A::fetch::{{closure}}::Here", "app::A2::fetch::{{closure}}::Here"),
            ("<app::A as app::T>::fetch::Here", "<app::B as app::T>::fetch::Here"),
            ("app::one::fetch::Here", "app::two::fetch::Here"),
            ("app::fetch::Here", "app::fetch::Here"),
        ] {
            assert!(!is_copy(a, b, "app::fetch") && !is_copy(b, a, "app::fetch"), "{a} {b}");
        }
    }
}
