//! Finds out whether a pattern or a statement may give the name of a parameter another meaning.
//!
//! If that is uncertain, for example because of an unknown macro, the answer is yes. If the answer
//! is yes, the function `mentions`, which searches code for uses of a parameter, does not count
//! uses of the name.

use proc_macro2::Ident;
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{
    Item, ItemConst, ItemFn, ItemStatic, ItemStruct, ItemUse, Macro, Pat, PatIdent, Path, Stmt,
    UseTree,
};

/// The macros of the standard library in whose arguments `mentions` searches.
const SEARCHED_MACROS: [&str; 5] = ["format", "format_args", "matches", "vec", "dbg"];

/// Other macros of the standard library that can be called as statements. They define no names.
const STATEMENT_MACROS: [&str; 16] = [
    "assert",
    "assert_eq",
    "assert_ne",
    "debug_assert",
    "debug_assert_eq",
    "debug_assert_ne",
    "eprint",
    "eprintln",
    "panic",
    "print",
    "println",
    "todo",
    "unimplemented",
    "unreachable",
    "write",
    "writeln",
];

/// Returns true if the pattern may bind the name.
pub(crate) fn may_bind(pattern: &Pat, name: &Ident) -> bool {
    /// A search through a pattern for a binding of one name.
    struct BindingSearch<'p> {
        name: &'p Ident,
        is_found: bool,
    }
    impl<'ast> Visit<'ast> for BindingSearch<'_> {
        fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
            self.is_found |= is_same(&pattern.ident, self.name);
            visit::visit_pat_ident(self, pattern);
        }
        fn visit_pat(&mut self, pattern: &'ast Pat) {
            // `syn` does not know this pattern, which may bind any name.
            self.is_found |= matches!(pattern, Pat::Verbatim(_));
            visit::visit_pat(self, pattern);
        }
        fn visit_macro(&mut self, _: &'ast Macro) {
            // A macro may bind any name.
            self.is_found = true;
        }
    }
    let mut search = BindingSearch { name, is_found: false };
    search.visit_pat(pattern);
    search.is_found
}

/// Compares two names. `r#state` and `state` are the same.
pub(crate) fn is_same(left: &Ident, right: &Ident) -> bool {
    left.unraw() == right.unraw()
}

/// Returns true if the statement may define an item that shadows the name, or a macro that replaces
/// a macro of the standard library. An item is visible in the whole block.
pub(crate) fn may_define(statement: &Stmt, name: &Ident) -> bool {
    match statement {
        Stmt::Item(
            Item::Const(ItemConst { attrs, ident, .. })
            | Item::Static(ItemStatic { attrs, ident, .. })
            | Item::Struct(ItemStruct { attrs, ident, .. }),
        ) => is_same(ident, name) || !attrs.is_empty(),
        // An attribute may be a macro, which may define any item.
        Stmt::Item(Item::Fn(ItemFn { attrs, sig, .. })) => {
            is_same(&sig.ident, name) || !attrs.is_empty()
        }
        Stmt::Item(Item::Use(ItemUse { attrs, tree, .. })) => {
            may_import(tree, name) || !attrs.is_empty()
        }
        Stmt::Item(_) => true,
        Stmt::Macro(call) => standard_macro(&call.mac.path).is_none(),
        // A `let` does not change the meaning of names above it.
        Stmt::Local(_) | Stmt::Expr(..) => false,
    }
}

/// Returns true if the `use` item may import the name, or a macro with a name in the lists above.
fn may_import(tree: &UseTree, name: &Ident) -> bool {
    let matters = |imported: &Ident| is_same(imported, name) || listed_macro(imported).is_some();
    match tree {
        UseTree::Path(path) => may_import(&path.tree, name),
        UseTree::Name(imported) => matters(&imported.ident),
        UseTree::Rename(imported) => matters(&imported.rename),
        UseTree::Group(group) => group.items.iter().any(|tree| may_import(tree, name)),
        UseTree::Glob(_) => true,
    }
}

/// Returns the macro's name if it is a standard library macro that is listed above. A path into
/// another crate, such as `bumpalo::format`, is a different macro.
pub(crate) fn standard_macro(path: &Path) -> Option<&'static str> {
    let mut segments = path.segments.iter().rev();
    let name = &segments.next()?.ident;
    let is_standard =
        segments.all(|parent| ["std", "core", "alloc"].iter().any(|name| parent.ident == name));
    listed_macro(name).filter(|_| is_standard)
}

fn listed_macro(name: &Ident) -> Option<&'static str> {
    SEARCHED_MACROS.into_iter().chain(STATEMENT_MACROS).find(|listed| name == listed)
}

#[cfg(test)]
mod tests {
    use proc_macro2::Span;
    use quote::quote;

    use super::*;
    use crate::mentions::mentions;

    /// An item is visible in its whole block, also above its definition.
    #[test]
    fn an_item_shadows_in_its_whole_block() {
        let state = Ident::new("state", Span::call_site());
        for item in [
            quote!(
                const state: u32 = 1;
            ),
            quote!(
                static state: u32 = 1;
            ),
            quote!(
                fn state() {}
            ),
            quote!(
                struct state;
            ),
            quote!(
                struct state(u32);
            ),
            quote!(
                use self::State::*;
            ),
            quote!(
                use self::State::{Paid, state};
            ),
            quote!(
                use self::State::Paid as state;
            ),
            quote!(
                use self::State::Paid as r#state;
            ),
            quote!(
                extern "C" {
                    static state: u32;
                }
            ),
            // A macro may define any item. A `format!` that is not the standard one may ignore its
            // arguments.
            quote!(unknown!();),
            quote!(unknown! {}),
            quote!(
                macro_rules! format {
                    () => {};
                }
            ),
            quote!(
                use other::format;
            ),
            quote!(
                #[derive(Unknown)]
                struct Other;
            ),
        ] {
            for block in [
                quote!({ f(state); #item }),
                quote!({ #item f(state) }),
                quote!({ f(&format!("{state}")); #item }),
                quote!({ let other = { state }; #item other }),
            ] {
                assert!(!mentions(&block, &state), "the item shadows: {block}");
            }
            let outside = quote!(({ #item }, state));
            assert!(mentions(&outside, &state), "no item shadows outside its block: {outside}");
        }
    }
}
