//! The annotated function: its signature parsed, its body kept as it was written.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::quote;
use syn::parse::{ParseStream, Parser};
use syn::visit::Visit;
use syn::visit_mut::VisitMut;
use syn::{Attribute, FnArg, Pat, PatIdent, ReturnType, Signature, Token, Type, Visibility};

use crate::desugared::Desugared;
use crate::signature::opaque;

/// A function with the attribute on it.
pub(crate) struct Function {
    /// All of it, for the case that it is given back unchanged.
    pub(crate) tokens: TokenStream,
    /// Attributes, visibility and signature. The `mut` of a parameter is not in it, but where the
    /// body takes the parameter over.
    pub(crate) head: TokenStream,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
    /// The braces and what is in them, not parsed: a body that is half typed still expands, and
    /// an editor goes on completing in it. `None` for a function that ends with a `;`.
    /// Of a function that is not `async`, those of the block whose future it returns.
    pub(crate) body: Option<Group>,
    pub(crate) desugared: Option<Desugared>,
    pub(crate) parameters: Vec<Parameter>,
}

/// A name that the signature brings into the body: a parameter, a binding in the pattern of one,
/// or `self`.
pub(crate) struct Parameter {
    pub(crate) ident: Ident,
    /// The `mut` before it.
    pub(crate) mutability: Option<Token![mut]>,
    /// The place of the argument that it is bound by.
    pub(crate) argument: usize,
}

/// What is no function that can be read.
pub(crate) enum Unread {
    /// A function, by its `fn`. Where there is a mistake in its syntax the compiler tells of that; but it
    /// may know some that is not known here.
    Function(Span),
    /// Something else, by the keyword that it begins with.
    Other { keyword: Option<Ident>, span: Span },
}

impl Function {
    pub(crate) fn parse(tokens: TokenStream) -> Result<Function, Unread> {
        let tokens = ungrouped(tokens);
        let mut trees: Vec<TokenTree> = tokens.clone().into_iter().collect();
        let body = trees.last().and_then(braces);
        if body.is_some() {
            trees.pop();
        }
        let head: TokenStream = trees.into_iter().collect();
        let parsed = parse_head.parse2(head.clone());
        let Ok((attributes, visibility, signature)) = parsed else {
            return Err(Unread::of(&tokens));
        };
        let desugared = match (&signature.asyncness, &signature.output, &body) {
            (None, ReturnType::Type(_, returned), Some(body)) => Desugared::of(returned, body),
            _ => None,
        };
        let body = desugared.as_ref().map(|desugared| desugared.block.clone()).or(body);
        let parameters = parameters(&signature);
        let head = without_mut(&attributes, &visibility, &signature);
        Ok(Function {
            tokens,
            head,
            attributes,
            visibility,
            signature,
            body,
            desugared,
            parameters,
        })
    }

    pub(crate) fn parameter(&self, name: &Ident) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.ident == *name)
    }

    /// Returns true if the parameter's type is, or holds, an `impl Trait`.
    pub(crate) fn is_unnamed(&self, parameter: &Parameter) -> bool {
        match self.signature.inputs.get(parameter.argument) {
            Some(FnArg::Typed(argument)) => opaque(&argument.ty).is_some(),
            _ => false,
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.parameters.iter().map(|parameter| parameter.ident.to_string()).collect()
    }

    /// What is returned, or what the future gives that is returned.
    pub(crate) fn returned(&self) -> Option<&Type> {
        match (&self.desugared, &self.signature.output) {
            (Some(desugared), _) => Some(&desugared.output),
            (None, ReturnType::Type(_, returned)) => Some(returned),
            (None, ReturnType::Default) => None,
        }
    }

    pub(crate) fn is_async(&self) -> bool {
        self.signature.asyncness.is_some() || self.desugared.is_some()
    }
}

impl Unread {
    fn of(tokens: &TokenStream) -> Unread {
        const QUALIFIERS: &[&str] =
            &["pub", "default", "const", "async", "unsafe", "safe", "extern"];
        const KEYWORDS: &[&str] = &[
            "struct", "enum", "union", "trait", "impl", "mod", "const", "static", "type", "use",
            "extern", "let",
        ];
        let mut words = tokens.clone().into_iter().filter_map(|token| match token {
            TokenTree::Ident(word) => Some(word),
            _ => None,
        });
        let is_one_of = |word: &Ident, some: &[&str]| some.contains(&word.to_string().as_str());
        let name_or_keyword = words.clone().find(|word| !is_one_of(word, QUALIFIERS));
        if let Some(word) = name_or_keyword.filter(|word| word == "fn") {
            return Unread::Function(word.span());
        }
        let keyword = words.find(|word| is_one_of(word, KEYWORDS));
        let first = tokens.clone().into_iter().next().map(|token| token.span());
        let span = keyword.as_ref().map(Ident::span).or(first).unwrap_or_else(Span::call_site);
        Unread::Other { keyword, span }
    }
}

fn parse_head(input: ParseStream<'_>) -> syn::Result<(Vec<Attribute>, Visibility, Signature)> {
    let attributes = input.call(Attribute::parse_outer)?;
    let visibility = input.parse()?;
    let signature = input.parse()?;
    input.parse::<Option<Token![;]>>()?;
    Ok((attributes, visibility, signature))
}

/// A function that comes out of a `macro_rules` variable is wrapped in a group without delimiters.
fn ungrouped(tokens: TokenStream) -> TokenStream {
    let mut trees = tokens.clone().into_iter();
    match (trees.next(), trees.next()) {
        (Some(TokenTree::Group(group)), None) if group.delimiter() == Delimiter::None => {
            ungrouped(group.stream())
        }
        _ => tokens,
    }
}

/// The body, also where it comes out of a `macro_rules` variable.
fn braces(token: &TokenTree) -> Option<Group> {
    let TokenTree::Group(group) = token else {
        return None;
    };
    match group.delimiter() {
        Delimiter::Brace => Some(group.clone()),
        Delimiter::None => {
            let mut inner = group.stream().into_iter();
            let first = inner.next()?;
            if inner.next().is_none() { braces(&first) } else { None }
        }
        _ => None,
    }
}

pub(crate) fn is_punct(token: Option<&TokenTree>, expected: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == expected)
}

fn parameters(signature: &Signature) -> Vec<Parameter> {
    let mut parameters: Vec<Parameter> = Vec::new();
    for (argument, input) in signature.inputs.iter().enumerate() {
        let mut bindings = Bindings::default();
        match input {
            FnArg::Receiver(receiver) => {
                bindings.0.push((Ident::new("self", receiver.self_token.span), None));
            }
            FnArg::Typed(typed) => bindings.visit_pat(&typed.pat),
        }
        for (ident, mutability) in bindings.0 {
            // The cases of an or-pattern bind the same names.
            if !parameters.iter().any(|parameter| parameter.ident == ident) {
                parameters.push(Parameter { ident, mutability, argument });
            }
        }
    }
    parameters
}

#[derive(Default)]
struct Bindings(Vec<(Ident, Option<Token![mut]>)>);

impl<'ast> Visit<'ast> for Bindings {
    // A name in a pattern may also be a unit struct or a constant, which cannot be seen here. It
    // counts as a parameter: one too many in the key is seen at once, one too few never.
    fn visit_pat_ident(&mut self, binding: &'ast PatIdent) {
        // In `ref mut x` it is not `x` that is mutable.
        let mutability = binding.mutability.filter(|_| binding.by_ref.is_none());
        self.0.push((binding.ident.clone(), mutability));
        if let Some((_, pattern)) = &binding.subpat {
            self.visit_pat(pattern);
        }
    }
}

fn without_mut(
    attributes: &[Attribute],
    visibility: &Visibility,
    signature: &Signature,
) -> TokenStream {
    struct WithoutMut;
    impl VisitMut for WithoutMut {
        fn visit_pat_ident_mut(&mut self, binding: &mut PatIdent) {
            if binding.by_ref.is_none() {
                binding.mutability = None;
            }
            syn::visit_mut::visit_pat_ident_mut(self, binding);
        }
    }
    let mut signature = signature.clone();
    for input in &mut signature.inputs {
        WithoutMut.visit_fn_arg_mut(input);
    }
    quote!(#(#attributes)* #visibility #signature)
}

/// Whether a pattern holds something whose names cannot be seen.
pub(crate) fn hides_names(pattern: &Pat) -> bool {
    struct Hidden(bool);
    impl<'ast> Visit<'ast> for Hidden {
        fn visit_pat(&mut self, pattern: &'ast Pat) {
            self.0 |= matches!(pattern, Pat::Macro(_) | Pat::Verbatim(_));
            syn::visit::visit_pat(self, pattern);
        }
    }
    let mut hidden = Hidden(false);
    hidden.visit_pat(pattern);
    hidden.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_of_patterns_are_parameters() {
        let function = Function::parse(quote! {
            async fn f(&self, mut a: A, (b, [c, ..]): B, S { d, e: ref f, .. }: S, _: C, g @ Some(_): G) {}
        });
        let names = function.ok().map(|function| function.names());
        assert_eq!(names.unwrap_or_default(), ["self", "a", "b", "c", "d", "f", "g"]);
    }

    #[test]
    fn a_half_typed_body_is_kept() {
        let function = Function::parse(quote! { async fn f() -> u8 { let x = client. ; if } });
        assert!(function.is_ok_and(|function| function.body.is_some()));
    }
}
