//! Finds and replaces the lifetimes that are visible in a type or an argument. Lifetimes that are
//! hidden in a type alias or a macro are not found.

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::visit_mut::{self, VisitMut};
use syn::{
    BoundLifetimes, Expr, FnArg, GenericParam, Lifetime, ParenthesizedGenericArguments, Pat,
    Receiver, ReceiverKind, Type, TypeFnPtr, TypeReference,
};

/// Returns true if the type has a visible lifetime other than `'static`, written or elided.
/// Lifetimes that the type itself binds do not count, as in `for<'a> fn(&'a u8)`.
pub(crate) fn borrows(ty: &Type) -> bool {
    ty.to_token_stream().to_string() != with_static_lifetimes(ty).to_string()
}

/// Returns true for `&self`, and for `self: T` if the type `T` borrows. Returns false for
/// `&'static self`.
pub(crate) fn is_borrowed(receiver: &Receiver) -> bool {
    match &receiver.kind {
        ReceiverKind::Value => false,
        ReceiverKind::Typed(_, ty) => borrows(ty),
        ReceiverKind::Reference(_, Some(lifetime), _) => lifetime.ident != "static",
        // A reference without a lifetime, or a kind that a later version of `syn` adds.
        _ => true,
    }
}

/// Returns true for `&self`, and for a parameter of the form `name: &T`. A `'static` reference does
/// not count.
pub(crate) fn is_shared_reference(argument: &FnArg) -> bool {
    let is_reference =
        |ty: &Type| matches!(ty, Type::Reference(reference) if reference.mutability.is_none());
    match argument {
        FnArg::Receiver(receiver) => match &receiver.kind {
            ReceiverKind::Value => false,
            ReceiverKind::Typed(_, ty) => is_reference(ty) && borrows(ty),
            _ => is_borrowed(receiver),
        },
        FnArg::Typed(typed) => {
            let is_plain = matches!(&*typed.pat, Pat::Ident(name) if name.by_ref.is_none() && name.subpat.is_none());
            is_plain && is_reference(&typed.ty) && borrows(&typed.ty)
        }
    }
}

/// Returns true if the argument borrows in another way than as a plain `&T` whose `T` owns its
/// data.
pub(crate) fn borrows_otherwise(argument: &FnArg) -> bool {
    let target_borrows =
        |ty: &Type| matches!(ty, Type::Reference(reference) if borrows(&reference.elem));
    match argument {
        FnArg::Receiver(receiver) => match &receiver.kind {
            ReceiverKind::Typed(_, ty) => {
                borrows(ty) && (!is_shared_reference(argument) || target_borrows(ty))
            }
            _ => false,
        },
        FnArg::Typed(typed) => {
            let ty = &typed.ty;
            borrows(ty) && (!is_shared_reference(argument) || target_borrows(ty))
        }
    }
}

/// Replaces the lifetimes in the type by `'static`, including the elided lifetime of a reference.
/// Lifetimes that the type itself binds stay, as in `for<'a> fn(&'a u8)` and `fn(&u8)`.
///
/// The companion (the function that the option `entry` generates) returns `EntryOf<R, P>`, where
/// `R` is the return type of the annotated function. `R` can contain lifetimes of parameters that
/// the companion does not have, so these lifetimes must be replaced. The replacement is harmless: a
/// cached value is `'static` anyway, and `EntryOf` ignores the error type.
pub(crate) fn with_static_lifetimes(ty: &Type) -> TokenStream {
    let mut ty = ty.clone();
    StaticLifetimeReplacer::default().visit_type_mut(&mut ty);
    ty.into_token_stream()
}

/// The visitor that does the work of [`with_static_lifetimes`].
#[derive(Default)]
struct StaticLifetimeReplacer {
    /// The lifetime names that a `for<…>` binds. A name stays in the list after the scope of its
    /// `for<…>`. This is harmless: Rust forbids shadowing of lifetimes, so a later lifetime with
    /// this name is bound by a `for<…>` too.
    bound: Vec<Ident>,
    /// True in the arguments and the result of a function type, which binds its elided lifetimes.
    is_in_function: bool,
}

impl StaticLifetimeReplacer {
    fn in_function(&mut self, run: impl FnOnce(&mut Self)) {
        let is_in_function = std::mem::replace(&mut self.is_in_function, true);
        run(self);
        self.is_in_function = is_in_function;
    }
}

impl VisitMut for StaticLifetimeReplacer {
    fn visit_bound_lifetimes_mut(&mut self, binder: &mut BoundLifetimes) {
        for parameter in &binder.lifetimes {
            if let GenericParam::Lifetime(parameter) = parameter {
                self.bound.push(parameter.lifetime.ident.clone());
            }
        }
    }

    fn visit_type_fn_ptr_mut(&mut self, function: &mut TypeFnPtr) {
        self.in_function(|visitor| visit_mut::visit_type_fn_ptr_mut(visitor, function));
    }

    /// Visits the arguments and the result in `Fn(&u8) -> &u8`.
    fn visit_parenthesized_generic_arguments_mut(
        &mut self,
        arguments: &mut ParenthesizedGenericArguments,
    ) {
        self.in_function(|visitor| {
            visit_mut::visit_parenthesized_generic_arguments_mut(visitor, arguments);
        });
    }

    fn visit_type_reference_mut(&mut self, reference: &mut TypeReference) {
        if reference.lifetime.is_none() && !self.is_in_function {
            reference.lifetime = Some(Lifetime::new("'static", reference.and_token.span));
        }
        visit_mut::visit_type_reference_mut(self, reference);
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        let is_elided = lifetime.ident == "_";
        if !(self.bound.contains(&lifetime.ident) || is_elided && self.is_in_function) {
            lifetime.ident = Ident::new("static", lifetime.ident.span());
        }
    }

    /// Leaves constant expressions as they are, for example the length of an array.
    fn visit_expr_mut(&mut self, _: &mut Expr) {}
}

#[cfg(test)]
mod tests {
    use syn::Type;

    use super::*;

    #[test]
    fn lifetimes_become_static_unless_the_type_binds_them() {
        for (given, expected) in [
            ("&u8", "&'static u8"),
            ("&'a mut Payment<'_, 'b>", "&'static mut Payment<'static, 'static>"),
            ("Box<dyn Store + 'a>", "Box<dyn Store + 'static>"),
            ("(dyn Store<&u8> + 'a)", "(dyn Store<&'static u8> + 'static)"),
            ("for<'a> fn(&'a u8)", "for<'a> fn(&'a u8)"),
            ("for<'a> fn(&'a u8) -> &'b u8", "for<'a> fn(&'a u8) -> &'static u8"),
            ("Box<dyn for<'a> Fn(&'a u8) + 'b>", "Box<dyn for<'a> Fn(&'a u8) + 'static>"),
            (
                "(dyn for<'a, 'b> Store<'a, 'b, 'c>, &'c u8)",
                "(dyn for<'a, 'b> Store<'a, 'b, 'static>, &'static u8)",
            ),
            (
                "(for<'a> fn(&'a u8), for<'b> fn(&'b u8))",
                "(for<'a> fn(&'a u8), for<'b> fn(&'b u8))",
            ),
            ("fn(&u8, Payment<'_>) -> &u8", "fn(&u8, Payment<'_>) -> &u8"),
            ("(Box<dyn Fn(&u8) -> &u8>, &u8)", "(Box<dyn Fn(&u8) -> &u8>, &'static u8)"),
            ("fn(&'a u8, &u8)", "fn(&'static u8, &u8)"),
            ("([u8; A & B], Payment<{ A & B }, '_>)", "([u8; A & B], Payment<{ A & B }, 'static>)"),
            ("impl Store<Item = &u8>", "impl Store<Item = &'static u8>"),
        ] {
            let given: Type = syn::parse_str(given).expect("the text is a type");
            let expected: Type = syn::parse_str(expected).expect("the text is a type");
            let text = |ty: &Type| ty.to_token_stream().to_string();
            assert_eq!(with_static_lifetimes(&given).to_string(), text(&expected));
            assert_eq!(borrows(&given), text(&given) != text(&expected), "{}", text(&given));
        }
    }
}
