//! Finds out whether an expression in an option of the attribute mentions a parameter of the
//! annotated function.
//!
//! A use that the search cannot see, for example inside an unknown macro, does not count. At worst,
//! the user then gets an error about a parameter that is in fact mentioned. The opposite mistake
//! would be worse. A parameter that the option mentions may be left out of the key. If the search
//! found a mention where there is none, the parameter would silently be missing from the key, and a
//! caller could get the result of a call with different arguments.
//!
//! A call `f(state)` is a mention, although the function `f` may ignore its argument. In the same
//! way, `format!("{state}")` and `vec![state]` are mentions, although the module may define macros
//! of these names. The attribute cannot see the module, so the author must avoid such macros. The
//! attribute can see a block inside the expression. If such a block might define a name that hides
//! the parameter or one of these macros, uses in the block are not mentions.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{
    Arm, Attribute, Block, Expr, ExprClosure, ExprForLoop, ExprIf, ExprLet, ExprLit, ExprPath,
    ExprWhile, FieldValue, Item, Lit, Local, Macro, Pat, Stmt, Token,
};

use crate::shadowing::{is_same, may_bind, may_define, standard_macro};

/// Returns true if `expression` mentions the parameter, which may be `self`.
///
/// If a closure's parameter, a `let` or another pattern in the expression binds the same name, uses
/// of the new binding do not count. If an item in a block has the same name, no use in that block
/// counts. Uses under `#[cfg]` or `#[cfg_attr]` do not count.
pub(crate) fn mentions(expression: &impl ToTokens, parameter: &Ident) -> bool {
    search(expression, parameter, false)
}

/// Returns true if `expression` mentions the parameter, or may mention it where the search cannot
/// see it, such as inside an unknown macro.
///
/// For such an option the attribute generates a function, and passes it a copy of each parameter
/// for which this search returns true. A superfluous copy does no harm. Without a necessary copy,
/// the generated function would not compile.
pub(crate) fn may_mention(expression: &impl ToTokens, parameter: &Ident) -> bool {
    search(expression, parameter, true)
}

fn search(expression: &impl ToTokens, parameter: &Ident, counts_doubtful: bool) -> bool {
    let Ok(expression) = syn::parse2::<Expr>(expression.to_token_stream()) else { return false };
    let mut search = MentionSearch {
        parameter,
        counts_doubtful,
        is_shadowed: false,
        is_under_cfg: false,
        is_found: false,
    };
    search.visit_expr(&expression);
    search.is_found
}

/// Returns true if the tokens contain the name, also inside brackets or in a format string.
fn contains_name(tokens: &TokenStream, name: &Ident) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => is_same(&ident, name),
        TokenTree::Group(group) => contains_name(&group.stream(), name),
        TokenTree::Literal(literal) => captures(&literal.to_string(), &name.unraw().to_string()),
        TokenTree::Punct(_) => false,
    })
}

/// A search through an expression for uses of one parameter.
struct MentionSearch<'p> {
    parameter: &'p Ident,
    /// True if doubtful uses count: uses in an unknown macro, under `#[cfg]`, or where an item may
    /// shadow the parameter.
    counts_doubtful: bool,
    /// True if the parameter's name means another binding in the current scope.
    is_shadowed: bool,
    /// True if the compiler may remove the current code, because it is under `#[cfg]` or
    /// `#[cfg_attr]`.
    is_under_cfg: bool,
    /// True if a use of the parameter was found.
    is_found: bool,
}

impl MentionSearch<'_> {
    /// Searches a nested scope. A binding that shadows the parameter there has no effect after the
    /// end of the scope.
    fn in_scope(&mut self, run: impl FnOnce(&mut Self)) {
        let is_shadowed = self.is_shadowed;
        run(self);
        self.is_shadowed = is_shadowed;
    }

    /// Searches code that may have attributes. The effect of a `#[cfg]` ends with
    /// that code.
    fn in_cfg_scope(&mut self, run: impl FnOnce(&mut Self)) {
        let is_under_cfg = self.is_under_cfg;
        run(self);
        self.is_under_cfg = is_under_cfg;
    }

    fn visit_attributes(&mut self, attributes: &[Attribute]) {
        attributes.iter().for_each(|attribute| self.visit_attribute(attribute));
    }

    /// Marks the parameter as shadowed if the pattern binds its name.
    fn bind(&mut self, pattern: &Pat) {
        self.is_shadowed |= may_bind(pattern, self.parameter);
    }

    /// Searches the arguments of a `format!`, and the names that the format string captures.
    fn visit_format_arguments(&mut self, arguments: &Punctuated<Expr, Token![,]>) {
        let mut is_named = false;
        for argument in arguments {
            match argument {
                Expr::Assign(named) => {
                    is_named |= is_path(&named.left, self.parameter);
                    self.visit_expr(&named.right);
                }
                argument => self.visit_expr(argument),
            }
        }
        if let Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) = arguments.first()
            && !is_named
            && !self.is_shadowed
            && !self.is_under_cfg
        {
            // A format string captures the variable `r#type` as `{type}`.
            self.is_found |= captures(&text.value(), &self.parameter.unraw().to_string());
        }
    }
}

fn is_path(expression: &Expr, name: &Ident) -> bool {
    let Expr::Path(ExprPath { qself: None, path, .. }) = expression else { return false };
    path.get_ident().is_some_and(|ident| is_same(ident, name))
}

/// Returns true if a format string captures the name, as `{state}` and `{state:?}` do. The string
/// `{{state}}` has escaped braces and captures nothing.
fn captures(text: &str, name: &str) -> bool {
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        rest = &rest[open + 1..];
        if let Some(text) = rest.strip_prefix('{') {
            rest = text;
        } else if rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(['}', ':'])) {
            return true;
        }
    }
    false
}

/// Parses the arguments of a macro that takes expressions: `f!(a, b)` or `vec![a; b]`.
fn parse_arguments(tokens: &TokenStream) -> syn::Result<Punctuated<Expr, Token![,]>> {
    let repeated = |input: ParseStream<'_>| {
        let value: Expr = input.parse()?;
        input.parse::<Token![;]>()?;
        Ok(Punctuated::from_iter([value, input.parse()?]))
    };
    let listed = Punctuated::<Expr, Token![,]>::parse_terminated;
    listed.parse2(tokens.clone()).or_else(|_| repeated.parse2(tokens.clone()))
}

/// Parses the first argument of `matches!`, which is an expression. The rest is a pattern.
fn parse_matched(tokens: &TokenStream) -> syn::Result<Expr> {
    let first = |input: ParseStream<'_>| {
        let matched = input.parse()?;
        input.parse::<TokenStream>()?;
        Ok(matched)
    };
    first.parse2(tokens.clone())
}

impl<'ast> Visit<'ast> for MentionSearch<'_> {
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let is = |name| attribute.path().is_ident(name);
        self.is_under_cfg |= !self.counts_doubtful && (is("cfg") || is("cfg_attr"));
    }

    fn visit_expr(&mut self, expression: &'ast Expr) {
        self.in_cfg_scope(|search| visit::visit_expr(search, expression));
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        self.in_cfg_scope(|search| visit::visit_stmt(search, statement));
    }

    fn visit_field_value(&mut self, field: &'ast FieldValue) {
        self.in_cfg_scope(|search| visit::visit_field_value(search, field));
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        self.in_cfg_scope(|search| {
            search.in_scope(|search| {
                search.bind(&arm.pat);
                visit::visit_arm(search, arm);
            });
        });
    }

    fn visit_expr_path(&mut self, path: &'ast ExprPath) {
        self.visit_attributes(&path.attrs);
        self.is_found |= !self.is_shadowed
            && !self.is_under_cfg
            && path.qself.is_none()
            && path.path.is_ident(self.parameter);
    }

    fn visit_expr_closure(&mut self, closure: &'ast ExprClosure) {
        self.visit_attributes(&closure.attrs);
        self.in_scope(|search| {
            closure.inputs.iter().for_each(|input| search.bind(input));
            search.visit_expr(&closure.body);
        });
    }

    fn visit_block(&mut self, block: &'ast Block) {
        self.in_scope(|search| {
            let mut statements = block.stmts.iter();
            search.is_shadowed |= !search.counts_doubtful
                && statements.any(|statement| may_define(statement, search.parameter));
            visit::visit_block(search, block);
        });
    }

    fn visit_local(&mut self, local: &'ast Local) {
        self.visit_attributes(&local.attrs);
        if let Some(init) = &local.init {
            visit::visit_local_init(self, init);
        }
        self.bind(&local.pat);
    }

    fn visit_expr_let(&mut self, condition: &'ast ExprLet) {
        self.visit_attributes(&condition.attrs);
        self.visit_expr(&condition.expr);
        self.bind(&condition.pat);
    }

    fn visit_expr_if(&mut self, branch: &'ast ExprIf) {
        self.visit_attributes(&branch.attrs);
        self.in_scope(|search| {
            search.visit_expr(&branch.cond);
            search.visit_block(&branch.then_branch);
        });
        if let Some((_, else_branch)) = &branch.else_branch {
            self.visit_expr(else_branch);
        }
    }

    fn visit_expr_while(&mut self, while_loop: &'ast ExprWhile) {
        self.in_scope(|search| visit::visit_expr_while(search, while_loop));
    }

    fn visit_expr_for_loop(&mut self, for_loop: &'ast ExprForLoop) {
        self.visit_attributes(&for_loop.attrs);
        self.visit_expr(&for_loop.expr);
        self.in_scope(|search| {
            search.bind(&for_loop.pat);
            search.visit_block(&for_loop.body);
        });
    }

    /// Does not search an item in a block, because an item cannot use parameters.
    fn visit_item(&mut self, _: &'ast Item) {}

    fn visit_macro(&mut self, call: &'ast Macro) {
        match (standard_macro(&call.path), parse_arguments(&call.tokens)) {
            (Some("matches"), _) => {
                if let Ok(matched) = parse_matched(&call.tokens) {
                    self.visit_expr(&matched);
                }
                // A guard after the pattern may also use the parameter.
                self.is_found |= self.counts_doubtful
                    && !self.is_shadowed
                    && contains_name(&call.tokens, self.parameter);
            }
            (Some("format" | "format_args"), Ok(arguments)) => {
                self.visit_format_arguments(&arguments)
            }
            (Some("vec" | "dbg"), Ok(arguments)) => {
                arguments.iter().for_each(|argument| self.visit_expr(argument));
            }
            // Other macros may do anything with their tokens.
            _ => {
                self.is_found |= self.counts_doubtful
                    && !self.is_shadowed
                    && contains_name(&call.tokens, self.parameter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proc_macro2::Span;
    use quote::quote;

    use super::*;

    #[test]
    fn only_uses_of_a_parameter_are_mentions() {
        let state = Ident::new("state", Span::call_site());
        for mentioning in [
            quote!(state),
            quote!(&state),
            quote!(state.code()),
            quote!(f(1, state)),
            quote!(format!("{}", state)),
            quote!(format!("{state:?}")),
            quote!(std::format!("{{}}{state}")),
            quote!(format!("{now}", now = state)),
            quote!(vec![state; 2]),
            quote!(matches!(state, State::Paid | State::Open)),
            quote!(Key { state }),
            quote!(Key { number: state }),
            quote!(0..state),
            quote!(state == 1),
            quote!(state != 1),
            quote!(all.map(|other| other + state)),
            quote!((all.map(|state| state), state)),
            quote!({
                let state = state + 1;
                state
            }),
            quote!(if let Some(state) = other { state } else { state }),
            quote!(match state {
                other => other,
            }),
            quote!({
                let Some(state) = other else { return f(state) };
                state
            }),
            quote!({
                use std::fmt::Write as _;
                f(state)
            }),
            quote!({
                fn f(state: u32) -> u32 {
                    state
                }
                f(state)
            }),
            quote!({
                assert!(other);
                state
            }),
            quote!({
                #[cfg(any())]
                f(other);
                state
            }),
            quote!(match other {
                #[cfg(any())]
                1 => other,
                _ => state,
            }),
        ] {
            assert!(mentions(&mentioning, &state), "a mention: {mentioning}");
        }
        for other in [
            quote!(client.state),
            quote!(client.state()),
            quote!(state::X),
            quote!(crate::state),
            quote!(Key { state: 1 }),
            quote!(state!(1)),
            quote!("{state}"),
            quote!(f("{state}")),
            quote!(format!("{states}")),
            quote!(format!("{{state}}")),
            quote!(format!("{state}", state = 1)),
            quote!(format!("{state}", r#state = 1)),
            quote!(all.map(|state| state)),
            quote!(all.map(|(state, other)| state + other)),
            quote!(vec![all.map(|state| *state)]),
            quote!(match other {
                Other { state } => state,
            }),
            quote!(matches!(other, Other { state })),
            quote!(if let Some(state) = other { state } else { 1 }),
            quote!({
                let state = 1;
                state
            }),
            quote!({
                for state in all {
                    f(state)
                }
            }),
            quote!({
                const state: u32 = 1;
                state
            }),
            quote!(unknown!(state)),
            quote!(other::format!("{state}")),
            quote!(other::vec![state]),
            quote!({
                let r#state = 1;
                state
            }),
            quote!(all.map(|r#state| state)),
            quote!(all.map(|pattern!()| state)),
            quote!(while let Some(state) = all.next() {
                f(state)
            }),
            quote!(if let Some(state) = other
                && f(state)
            {
                1
            }),
            quote!(match other {
                Some(state) if state == 1 => state,
                _ => 2,
            }),
        ] {
            assert!(!mentions(&other, &state), "{other}");
        }
    }

    /// The compiler may remove what is under `#[cfg]`.
    #[test]
    fn uses_under_cfg_are_not_mentions() {
        let state = Ident::new("state", Span::call_site());
        for other in [
            quote!({
                #[cfg(any())]
                f(state);
                1
            }),
            quote!({
                #[cfg(any())]
                let other = state;
                1
            }),
            quote!({
                #[cfg_attr(all(), cfg(any()))]
                f(state);
                1
            }),
            quote!({
                #[cfg(any())]
                {
                    state
                }
                1
            }),
            quote!({
                #[cfg(any())]
                if state {
                    f(1)
                }
                1
            }),
            quote!({
                #[cfg(any())]
                dbg!(state);
                1
            }),
            quote!([
                #[cfg(any())]
                state,
                1
            ]),
            quote!(f(
                #[cfg(any())]
                |other| state
            )),
            quote!(Key {
                #[cfg(any())]
                state,
                number: 1
            }),
            quote!(match other {
                #[cfg(any())]
                1 => state,
                _ => 1,
            }),
        ] {
            assert!(!mentions(&other, &state), "{other}");
        }
    }

    #[test]
    fn doubtful_uses_may_be_mentions() {
        let state = Ident::new("state", Span::call_site());
        for doubtful in [
            quote!(|payment| unknown!(payment, state)),
            quote!(|payment| unknown!(payment, "{state}")),
            quote!(|payment| matches!(payment.state, known if known == state)),
            quote!(|payment| {
                #[cfg(test)]
                check(state);
                true
            }),
            quote!(|payment| {
                use states::*;
                payment.state == state
            }),
        ] {
            assert!(!mentions(&doubtful, &state), "`{doubtful}` is not a sure mention");
            assert!(may_mention(&doubtful, &state), "`{doubtful}` may be a mention");
        }
        for other in [
            quote!(|state| state.is_paid()),
            quote!(|payment| payment.state()),
            quote!(|state| unknown!(state)),
        ] {
            assert!(!may_mention(&other, &state), "`{other}` cannot be a mention");
        }
    }

    #[test]
    fn format_strings_capture_raw_identifiers_without_prefix() {
        let raw = Ident::new_raw("type", Span::call_site());
        assert!(mentions(&quote!(format!("{type}")), &raw));
        assert!(mentions(&quote!(format!("{}", r#type)), &raw));
        assert!(!mentions(&quote!(format!("{types}")), &raw));
    }
}
