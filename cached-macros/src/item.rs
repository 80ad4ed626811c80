//! The annotated function. The signature of the function is parsed, and its body stays as tokens.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::quote;
use syn::parse::{ParseStream, Parser};
use syn::visit::Visit;
use syn::visit_mut::VisitMut;
use syn::{Attribute, FnArg, Pat, PatIdent, ReturnType, Signature, Token, Type, Visibility};

use crate::desugared::DesugaredAsyncFn;
use crate::signature::find_impl_trait;

/// The annotated function.
pub(crate) struct Function {
    /// The whole function. It is emitted unchanged if the attribute has errors.
    pub(crate) tokens: TokenStream,
    /// The attributes, the visibility, and the signature without the `mut` of its parameters. The
    /// expansion writes each `mut` in the body, at the `let` that binds the parameter again.
    pub(crate) head: TokenStream,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
    /// The body with its braces. If the function is not an `async fn` but returns an `async` block,
    /// this is the block. `None` if the function ends with a `;`. The body is not parsed, so that
    /// completion in an editor works while the code is unfinished.
    pub(crate) body: Option<Group>,
    /// The parts of a function that returns a future. `None` for an `async fn`.
    pub(crate) desugared: Option<DesugaredAsyncFn>,
    pub(crate) parameters: Vec<SignatureBinding>,
}

/// A name that the signature brings into the body: a parameter, a binding in a parameter's
/// pattern, or `self`.
pub(crate) struct SignatureBinding {
    pub(crate) ident: Ident,
    /// The `mut` before the name, if there is one.
    pub(crate) mutability: Option<Token![mut]>,
    /// The index of the argument that binds the name.
    pub(crate) argument: usize,
}

/// An item that cannot be cached, because the item could not be parsed as a function.
pub(crate) enum UnsupportedItem {
    /// A function whose signature `syn` cannot parse, with the span of the keyword `fn`.
    UnreadableFunction(Span),
    /// An item of another kind, with the keyword of this kind, such as `struct`.
    NotAFunction { keyword: Option<Ident>, span: Span },
}

impl Function {
    pub(crate) fn parse(tokens: TokenStream) -> Result<Function, UnsupportedItem> {
        let tokens = without_groups(tokens);
        let mut trees: Vec<TokenTree> = tokens.clone().into_iter().collect();
        let body = trees.last().and_then(find_braces);
        if body.is_some() {
            trees.pop();
        }
        let head: TokenStream = trees.into_iter().collect();
        let Ok((attributes, visibility, signature)) = parse_head.parse2(head) else {
            return Err(UnsupportedItem::new(&tokens));
        };
        let desugared = match (&signature.asyncness, &signature.output, &body) {
            (None, ReturnType::Type(_, ty), Some(body)) => DesugaredAsyncFn::parse(ty, body),
            _ => None,
        };
        let body = desugared.as_ref().map(|desugared| desugared.block.clone()).or(body);
        let parameters = parameters(&signature);
        let head = head_without_mut(&attributes, &visibility, &signature);
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

    pub(crate) fn parameter(&self, name: &Ident) -> Option<&SignatureBinding> {
        self.parameters.iter().find(|parameter| parameter.ident == *name)
    }

    pub(crate) fn parameter_names(&self) -> Vec<String> {
        self.parameters.iter().map(|parameter| parameter.ident.to_string()).collect()
    }

    /// Returns true if the parameter's type is, or contains, an `impl Trait`.
    pub(crate) fn has_unnamed_type(&self, parameter: &SignatureBinding) -> bool {
        match self.signature.inputs.get(parameter.argument) {
            Some(FnArg::Typed(argument)) => find_impl_trait(&argument.ty).is_some(),
            _ => false,
        }
    }

    /// Returns the type that a caller gets after `.await`, or `None` if the signature has no `->`.
    pub(crate) fn return_type(&self) -> Option<&Type> {
        match (&self.desugared, &self.signature.output) {
            (Some(desugared), _) => Some(&desugared.output),
            (None, ReturnType::Type(_, ty)) => Some(ty),
            (None, ReturnType::Default) => None,
        }
    }

    pub(crate) fn is_async(&self) -> bool {
        self.signature.asyncness.is_some() || self.desugared.is_some()
    }
}

impl UnsupportedItem {
    fn new(tokens: &TokenStream) -> UnsupportedItem {
        const QUALIFIERS: &[&str] =
            &["pub", "default", "const", "async", "unsafe", "safe", "extern"];
        const ITEM_KEYWORDS: &[&str] = &[
            "struct", "enum", "union", "trait", "impl", "mod", "const", "static", "type", "use",
            "extern", "let",
        ];
        let mut words = tokens.clone().into_iter().filter_map(|token| match token {
            TokenTree::Ident(word) => Some(word),
            _ => None,
        });
        let is_in = |word: &Ident, list: &[&str]| list.contains(&word.to_string().as_str());
        let first_unqualified = words.clone().find(|word| !is_in(word, QUALIFIERS));
        if let Some(word) = first_unqualified.filter(|word| word == "fn") {
            return UnsupportedItem::UnreadableFunction(word.span());
        }
        let keyword = words.find(|word| is_in(word, ITEM_KEYWORDS));
        let first = tokens.clone().into_iter().next().map(|token| token.span());
        let span = keyword.as_ref().map(Ident::span).or(first).unwrap_or_else(Span::call_site);
        UnsupportedItem::NotAFunction { keyword, span }
    }
}

fn parse_head(input: ParseStream<'_>) -> syn::Result<(Vec<Attribute>, Visibility, Signature)> {
    let attributes = input.call(Attribute::parse_outer)?;
    let visibility = input.parse()?;
    let signature = input.parse()?;
    input.parse::<Option<Token![;]>>()?;
    Ok((attributes, visibility, signature))
}

/// Removes the invisible groups around an item. They occur if the item comes from a `macro_rules`
/// variable.
fn without_groups(tokens: TokenStream) -> TokenStream {
    let mut trees = tokens.clone().into_iter();
    match (trees.next(), trees.next()) {
        (Some(TokenTree::Group(group)), None) if group.delimiter() == Delimiter::None => {
            without_groups(group.stream())
        }
        _ => tokens,
    }
}

/// Returns the token if it is a group in braces. Invisible groups around the braces are removed.
fn find_braces(token: &TokenTree) -> Option<Group> {
    let TokenTree::Group(group) = token else {
        return None;
    };
    match group.delimiter() {
        Delimiter::Brace => Some(group.clone()),
        Delimiter::None => {
            let mut inner = group.stream().into_iter();
            let first = inner.next()?;
            if inner.next().is_none() { find_braces(&first) } else { None }
        }
        _ => None,
    }
}

pub(crate) fn is_punct(token: Option<&TokenTree>, expected: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == expected)
}

fn parameters(signature: &Signature) -> Vec<SignatureBinding> {
    let mut parameters: Vec<SignatureBinding> = Vec::new();
    for (argument, input) in signature.inputs.iter().enumerate() {
        let mut bindings = Bindings::default();
        match input {
            FnArg::Receiver(receiver) => {
                bindings.0.push((Ident::new("self", receiver.self_token.span), None));
            }
            FnArg::Typed(typed) => bindings.visit_pat(&typed.pat),
        }
        for (ident, mutability) in bindings.0 {
            // The alternatives of an or-pattern bind the same names.
            if !parameters.iter().any(|parameter| parameter.ident == ident) {
                parameters.push(SignatureBinding { ident, mutability, argument });
            }
        }
    }
    parameters
}

/// The names that a pattern binds, each with its `mut`.
#[derive(Default)]
struct Bindings(Vec<(Ident, Option<Token![mut]>)>);

impl<'ast> Visit<'ast> for Bindings {
    // A name in a pattern can also be a unit struct or a constant, and the tokens do not show the
    // difference. Every such name counts as a parameter. If it is a struct or a constant, the user
    // gets an error at once. The opposite mistake would silently omit a parameter from the key.
    fn visit_pat_ident(&mut self, binding: &'ast PatIdent) {
        // In `ref mut x` the `mut` belongs to the reference and not to the name.
        let mutability = binding.mutability.filter(|_| binding.by_ref.is_none());
        self.0.push((binding.ident.clone(), mutability));
        if let Some((_, pattern)) = &binding.subpat {
            self.visit_pat(pattern);
        }
    }
}

fn head_without_mut(
    attributes: &[Attribute],
    visibility: &Visibility,
    signature: &Signature,
) -> TokenStream {
    /// Removes the `mut` before each name in a pattern.
    struct MutRemover;
    impl VisitMut for MutRemover {
        fn visit_pat_ident_mut(&mut self, binding: &mut PatIdent) {
            if binding.by_ref.is_none() {
                binding.mutability = None;
            }
            syn::visit_mut::visit_pat_ident_mut(self, binding);
        }
    }
    let mut signature = signature.clone();
    for input in &mut signature.inputs {
        MutRemover.visit_fn_arg_mut(input);
    }
    quote!(#(#attributes)* #visibility #signature)
}

/// Returns true if the pattern contains a macro or syntax that `syn` does not know. The tokens of
/// such a pattern do not show which names the pattern binds.
pub(crate) fn hides_names(pattern: &Pat) -> bool {
    struct HiddenNameSearch(bool);
    impl<'ast> Visit<'ast> for HiddenNameSearch {
        fn visit_pat(&mut self, pattern: &'ast Pat) {
            self.0 |= matches!(pattern, Pat::Macro(_) | Pat::Verbatim(_));
            syn::visit::visit_pat(self, pattern);
        }
    }
    let mut visitor = HiddenNameSearch(false);
    visitor.visit_pat(pattern);
    visitor.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_of_patterns_are_parameters() {
        let function = Function::parse(quote! {
            async fn f(&self, mut a: A, (b, [c, ..]): B, S { d, e: ref f, .. }: S, _: C, g @ Some(_): G) {}
        });
        let names = function.ok().map(|function| function.parameter_names());
        assert_eq!(names.unwrap_or_default(), ["self", "a", "b", "c", "d", "f", "g"]);
    }

    #[test]
    fn an_unfinished_body_is_kept() {
        let function = Function::parse(quote! { async fn f() -> u8 { let x = client. ; if } });
        assert!(function.is_ok_and(|function| function.body.is_some()));
    }
}
