//! Whether an expression of an option mentions a parameter.
//!
//! A parameter that is taken for mentioned and is not would be missing in the key. So where that
//! cannot be seen, as inside a macro that nobody here knows, it does not count: the user gets an
//! error, not another caller's answer.

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{
    Arm, Block, Expr, ExprClosure, ExprForLoop, ExprIf, ExprLet, ExprLit, ExprPath, ExprWhile,
    Item, Lit, Local, Macro, Pat, PatIdent, Token,
};

/// Whether `expression` mentions the parameter (or `self`), and not something of the same name that
/// it binds itself: a closure's argument, a `let`, a pattern.
pub(crate) fn mentions(expression: &impl ToTokens, parameter: &Ident) -> bool {
    let Ok(expression) = syn::parse2::<Expr>(expression.to_token_stream()) else { return false };
    let mut search = Search { parameter, hidden: false, found: false };
    search.visit_expr(&expression);
    search.found
}

struct Search<'p> {
    parameter: &'p Ident,
    /// Whether something else has the name here.
    hidden: bool,
    found: bool,
}

impl Search<'_> {
    /// What is bound in `search` ends with it.
    fn in_scope(&mut self, search: impl FnOnce(&mut Self)) {
        let hidden = self.hidden;
        search(self);
        self.hidden = hidden;
    }

    fn bind(&mut self, pattern: &Pat) {
        struct Binds<'p>(&'p Ident, bool);
        impl<'ast> Visit<'ast> for Binds<'_> {
            fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
                self.1 |= pattern.ident == *self.0;
                visit::visit_pat_ident(self, pattern);
            }
            fn visit_macro(&mut self, _: &'ast Macro) {
                // It may bind anything.
                self.1 = true;
            }
        }
        let mut binds = Binds(self.parameter, false);
        binds.visit_pat(pattern);
        self.hidden |= binds.1;
    }

    /// `format!("{state}", other = …)`.
    fn format(&mut self, arguments: &Punctuated<Expr, Token![,]>) {
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
            && !self.hidden
        {
            // A format string captures `r#type` as `{type}`.
            self.found |= captures(&text.value(), &self.parameter.unraw().to_string());
        }
    }
}

fn is_path(expression: &Expr, name: &Ident) -> bool {
    matches!(expression, Expr::Path(path) if path.qself.is_none() && path.path.is_ident(name))
}

/// Whether a format string captures the name: `{state}`, `{state:?}`; `{{state}}` is text.
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

/// The arguments of a macro that takes expressions: `f!(a, b)`, `vec![a; b]`.
fn arguments(tokens: &TokenStream) -> syn::Result<Punctuated<Expr, Token![,]>> {
    let repeated = |input: ParseStream<'_>| {
        let value: Expr = input.parse()?;
        input.parse::<Token![;]>()?;
        Ok(Punctuated::from_iter([value, input.parse()?]))
    };
    let listed = Punctuated::<Expr, Token![,]>::parse_terminated;
    listed.parse2(tokens.clone()).or_else(|_| repeated.parse2(tokens.clone()))
}

/// The first argument of `matches!`; what follows is a pattern.
fn matched(tokens: &TokenStream) -> syn::Result<Expr> {
    let first = |input: ParseStream<'_>| {
        let matched = input.parse()?;
        input.parse::<TokenStream>()?;
        Ok(matched)
    };
    first.parse2(tokens.clone())
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_expr_path(&mut self, path: &'ast ExprPath) {
        self.found |= !self.hidden && path.qself.is_none() && path.path.is_ident(self.parameter);
    }

    fn visit_expr_closure(&mut self, closure: &'ast ExprClosure) {
        self.in_scope(|search| {
            closure.inputs.iter().for_each(|input| search.bind(input));
            search.visit_expr(&closure.body);
        });
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        self.in_scope(|search| {
            search.bind(&arm.pat);
            visit::visit_arm(search, arm);
        });
    }

    fn visit_block(&mut self, block: &'ast Block) {
        self.in_scope(|search| visit::visit_block(search, block));
    }

    fn visit_local(&mut self, local: &'ast Local) {
        if let Some(init) = &local.init {
            visit::visit_local_init(self, init);
        }
        self.bind(&local.pat);
    }

    fn visit_expr_let(&mut self, condition: &'ast ExprLet) {
        self.visit_expr(&condition.expr);
        self.bind(&condition.pat);
    }

    fn visit_expr_if(&mut self, branch: &'ast ExprIf) {
        self.in_scope(|search| {
            search.visit_expr(&branch.cond);
            search.visit_block(&branch.then_branch);
        });
        if let Some((_, otherwise)) = &branch.else_branch {
            self.visit_expr(otherwise);
        }
    }

    fn visit_expr_while(&mut self, repeated: &'ast ExprWhile) {
        self.in_scope(|search| visit::visit_expr_while(search, repeated));
    }

    fn visit_expr_for_loop(&mut self, repeated: &'ast ExprForLoop) {
        self.visit_expr(&repeated.expr);
        self.in_scope(|search| {
            search.bind(&repeated.pat);
            search.visit_block(&repeated.body);
        });
    }

    /// An item in a block sees no parameters, and may have the name of one.
    fn visit_item(&mut self, _: &'ast Item) {
        self.hidden = true;
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        let name = call.path.segments.last().map(|segment| segment.ident.to_string());
        match (name.as_deref(), arguments(&call.tokens)) {
            (Some("matches"), _) => {
                if let Ok(matched) = matched(&call.tokens) {
                    self.visit_expr(&matched);
                }
            }
            (Some("format" | "format_args"), Ok(arguments)) => self.format(&arguments),
            (Some("vec" | "dbg"), Ok(arguments)) => {
                arguments.iter().for_each(|argument| self.visit_expr(argument));
            }
            // What another macro makes of its tokens is not seen here.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proc_macro2::Span;
    use quote::quote;

    use super::*;

    #[test]
    fn mentions_are_uses_and_nothing_else() {
        let state = Ident::new("state", Span::call_site());
        for yes in [
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
        ] {
            assert!(mentions(&yes, &state), "{yes}");
        }
        for no in [
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
        ] {
            assert!(!mentions(&no, &state), "{no}");
        }
    }

    #[test]
    fn a_format_string_captures_a_raw_identifier_without_its_mark() {
        let raw = Ident::new_raw("type", Span::call_site());
        assert!(mentions(&quote!(format!("{type}")), &raw));
        assert!(mentions(&quote!(format!("{}", r#type)), &raw));
        assert!(!mentions(&quote!(format!("{types}")), &raw));
    }
}
