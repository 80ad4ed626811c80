//! Parses the options between the attribute's parentheses, such as `ttl = "30m"`.
//!
//! This module checks the syntax of each option by itself. The module `validate` then checks the
//! options together and against the annotated function.

use proc_macro2::{Group, Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Expr, ExprLit, ExprPath, Lit, LitStr, Path, Token};

use crate::errors::{Errors, nearest, prose_list};

/// One option that the user wrote, such as `ttl = "30m"`.
pub(crate) struct Arg<T> {
    /// The option's name. An error about the option can point at this token.
    pub(crate) key: Ident,
    pub(crate) value: T,
}

/// The options of one attribute. An option's field is `None` if the user left out the option, or if
/// the option could not be parsed.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) name: Option<Arg<LitStr>>,
    pub(crate) version: Option<Arg<Expr>>,
    pub(crate) overwrite: Option<Arg<LitStr>>,
    pub(crate) identifier: Option<Arg<Expr>>,
    pub(crate) skip: Option<Arg<Vec<Ident>>>,
    pub(crate) ttl: Option<Arg<Expr>>,
    pub(crate) cache: Option<Arg<Expr>>,
    pub(crate) entry: Option<Arg<Ident>>,
    pub(crate) ttl_with: Option<Arg<Expr>>,
    pub(crate) local_ttl: Option<Arg<LitStr>>,
    pub(crate) none_ttl: Option<Arg<LitStr>>,
    pub(crate) cache_if: Option<Arg<Expr>>,
    pub(crate) weight: Option<Arg<Expr>>,
    pub(crate) stale_if_error: Option<Arg<LitStr>>,
    pub(crate) refresh_ahead: Option<Arg<LitStr>>,
    pub(crate) refresh_with: Option<Arg<Expr>>,
    pub(crate) share_error: Option<Arg<Expr>>,
    pub(crate) error_ttl: Option<Arg<LitStr>>,
    pub(crate) local: Option<Arg<bool>>,
    pub(crate) remote: Option<Arg<bool>>,
    pub(crate) infallible: Option<Arg<()>>,
    /// The option `crate`: the path of the crate `cached_core`.
    pub(crate) krate: Option<Arg<Path>>,
    /// The names of the options that the user wrote, including those that could not be parsed. A
    /// misspelt option is listed under its correct name.
    attempted: Vec<&'static str>,
    /// True if a syntax error ended the parsing. The rest of the options is then unknown.
    is_truncated: bool,
}

/// The syntax of one option.
pub(crate) struct OptionSyntax {
    pub(crate) name: &'static str,
    /// A correct example, which the error about a malformed option shows.
    pub(crate) example: &'static str,
    parse: OptionParser,
}

/// The names of options in other caching crates, each with the name of the option here.
const SYNONYMS: [(&str, &str); 5] = [
    ("time", "ttl"),
    ("time_to_live", "ttl"),
    ("key", "identifier"),
    ("convert", "identifier"),
    ("condition", "cache_if"),
];

/// Parses the tokens after an option's name, and stores the option in [`Args`].
type OptionParser = fn(&mut Args, Ident, ParseStream<'_>) -> Result<(), OptionError>;

/// All options that an attribute can have.
pub(crate) const OPTIONS: &[OptionSyntax] = &[
    OptionSyntax {
        name: "name",
        example: "name = \"payment\"",
        parse: |args, key, input| set(&mut args.name, key, as_string(parse_value(input)?)?),
    },
    OptionSyntax {
        name: "version",
        example: "version = state",
        parse: |args, key, input| set(&mut args.version, key, parse_value(input)?),
    },
    OptionSyntax {
        name: "overwrite",
        example: "overwrite(reason = \"…\")",
        parse: |args, key, input| {
            let reason = parse_reason(&key, input)?;
            set(&mut args.overwrite, key, reason)
        },
    },
    OptionSyntax {
        name: "identifier",
        example: "identifier = (number, region)",
        parse: |args, key, input| set(&mut args.identifier, key, parse_value(input)?),
    },
    OptionSyntax {
        name: "skip",
        example: "skip(client)",
        parse: |args, key, input| set(&mut args.skip, key, parse_parameter_names(input)?),
    },
    OptionSyntax {
        name: "ttl",
        example: "ttl = \"30m\"",
        parse: |args, key, input| set(&mut args.ttl, key, parse_value(input)?),
    },
    OptionSyntax {
        name: "cache",
        example: "cache = client.cache",
        parse: |args, key, input| set(&mut args.cache, key, parse_value(input)?),
    },
    OptionSyntax {
        name: "entry",
        example: "entry = payment_entry",
        parse: |args, key, input| set(&mut args.entry, key, as_name(parse_value(input)?)?),
    },
    OptionSyntax {
        name: "ttl_with",
        example: "ttl_with = |value| value.lifetime()",
        parse: |args, key, input| set(&mut args.ttl_with, key, parse_value(input)?),
    },
    OptionSyntax {
        name: "local_ttl",
        example: "local_ttl = \"5s\"",
        parse: |args, key, input| set(&mut args.local_ttl, key, as_string(parse_value(input)?)?),
    },
    OptionSyntax {
        name: "none_ttl",
        example: "none_ttl = \"30s\"",
        parse: |args, key, input| set(&mut args.none_ttl, key, as_string(parse_value(input)?)?),
    },
    OptionSyntax {
        name: "cache_if",
        example: "cache_if = |value| value.is_final()",
        parse: |args, key, input| set(&mut args.cache_if, key, parse_value(input)?),
    },
    OptionSyntax {
        name: "weight",
        example: "weight = |value| value.size_in_memory()",
        parse: |args, key, input| set(&mut args.weight, key, parse_value(input)?),
    },
    OptionSyntax {
        name: "stale_if_error",
        example: "stale_if_error = \"1h\"",
        parse: |args, key, input| {
            set(&mut args.stale_if_error, key, as_string(parse_value(input)?)?)
        },
    },
    OptionSyntax {
        name: "refresh_ahead",
        example: "refresh_ahead = \"5m\"",
        parse: |args, key, input| {
            set(&mut args.refresh_ahead, key, as_string(parse_value(input)?)?)
        },
    },
    OptionSyntax {
        name: "refresh_with",
        example: "refresh_with = self.clone()",
        parse: |args, key, input| set(&mut args.refresh_with, key, parse_value(input)?),
    },
    OptionSyntax {
        name: "share_error",
        example: "share_error = |error| anyhow::anyhow!(\"{error:#}\")",
        parse: |args, key, input| set(&mut args.share_error, key, parse_value(input)?),
    },
    OptionSyntax {
        name: "error_ttl",
        example: "error_ttl = \"1s\"",
        parse: |args, key, input| set(&mut args.error_ttl, key, as_string(parse_value(input)?)?),
    },
    OptionSyntax {
        name: "local",
        example: "local = false",
        parse: |args, key, input| set(&mut args.local, key, as_bool(parse_value(input)?)?),
    },
    OptionSyntax {
        name: "remote",
        example: "remote = false",
        parse: |args, key, input| set(&mut args.remote, key, as_bool(parse_value(input)?)?),
    },
    OptionSyntax {
        name: "infallible",
        example: "infallible",
        parse: |args, key, input| {
            check_no_value(&key, input)?;
            set(&mut args.infallible, key, ())
        },
    },
    OptionSyntax {
        name: "crate",
        example: "crate = path::to::cached_core",
        parse: |args, key, input| set(&mut args.krate, key, as_path(parse_value(input)?)?),
    },
];

/// The reason why an option was refused.
enum OptionError {
    /// The option is not written like its example. Holds the tokens that the error underlines.
    /// Without tokens, the error underlines the option's name.
    Malformed(TokenStream),
    /// The parser understands the option but refuses it, for example because it is given twice.
    /// Holds the error for the user.
    Forbidden(syn::Error),
    /// The option's tokens are not valid Rust syntax, so the parser cannot tell where the option
    /// ends.
    Syntax(syn::Error),
}

impl From<syn::Error> for OptionError {
    fn from(error: syn::Error) -> OptionError {
        OptionError::Syntax(error)
    }
}

impl Args {
    /// Parses the tokens between the attribute's parentheses.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Args {
        let mut args = Args::default();
        let parse = |input: ParseStream<'_>| {
            args.parse_options(input, errors);
            input.parse::<TokenStream>()
        };
        if let Err(error) = parse.parse2(tokens) {
            errors.push(error);
        }
        args
    }

    /// Returns true if the user wrote the option, or if a syntax error hides whether the user did.
    /// An option that could not be parsed counts as written: the user already gets an error about
    /// it.
    pub(crate) fn was_attempted(&self, option: &str) -> bool {
        self.is_truncated || self.attempted.contains(&option)
    }

    /// Parses the options until the tokens end, or until a syntax error hides where the next option
    /// begins.
    fn parse_options(&mut self, input: ParseStream<'_>, errors: &mut Errors) {
        while !input.is_empty() && !self.is_truncated {
            let start = input.span();
            let Ok(key) = input.call(Ident::parse_any) else {
                errors.at(start, "expected an option, for example `name = \"payment\"`");
                self.is_truncated = true;
                return;
            };
            self.parse_option(key, input, errors);
            if input.is_empty() || self.is_truncated {
                return;
            }
            if input.parse::<Token![,]>().is_err() {
                errors.at(input.span(), "expected `,` between two options");
                self.is_truncated = true;
            }
        }
    }

    fn parse_option(&mut self, key: Ident, input: ParseStream<'_>, errors: &mut Errors) {
        let name = key.to_string();
        let Some(syntax) = OPTIONS.iter().find(|syntax| syntax.name == name) else {
            self.report_unknown(&key, errors);
            skip_to_comma(input);
            return;
        };
        self.attempted.push(syntax.name);
        match (syntax.parse)(self, key.clone(), input) {
            Ok(()) => {}
            Err(OptionError::Malformed(tokens)) => {
                let message =
                    format!("malformed option `{name}`; write for example `{}`", syntax.example);
                let tokens = if tokens.is_empty() { key.into_token_stream() } else { tokens };
                errors.on(tokens, message);
                skip_to_comma(input);
            }
            Err(OptionError::Forbidden(error)) => {
                errors.push(error);
                skip_to_comma(input);
            }
            Err(OptionError::Syntax(error)) => {
                errors.push(error);
                self.is_truncated = true;
            }
        }
    }

    fn report_unknown(&mut self, key: &Ident, errors: &mut Errors) {
        let name = key.to_string();
        let synonym = SYNONYMS.iter().find(|(other, _)| *other == name).map(|(_, option)| *option);
        let correction =
            synonym.or_else(|| nearest(&name, OPTIONS.iter().map(|syntax| syntax.name)));
        match correction {
            Some(option) => {
                let message = format!("unknown option `{key}`; did you mean `{option}`?");
                errors.at(key.span(), message);
                self.attempted.push(option);
            }
            None => {
                let names = prose_list(OPTIONS.iter().map(|syntax| syntax.name));
                errors.at(key.span(), format!("unknown option `{key}`; the options are {names}"));
            }
        }
    }
}

/// Stores an option, or returns an error if the user wrote the same option before.
fn set<T>(field: &mut Option<Arg<T>>, key: Ident, value: T) -> Result<(), OptionError> {
    if field.is_some() {
        return Err(forbidden(&key, format!("option `{key}` is given twice; remove one")));
    }
    *field = Some(Arg { key, value });
    Ok(())
}

/// Parses `= EXPR`. This function accepts any expression, even if the option must have a string, a
/// name or a path. The parser therefore knows where a wrong expression ends.
fn parse_value(input: ParseStream<'_>) -> Result<Expr, OptionError> {
    if !input.peek(Token![=]) || input.peek(Token![==]) {
        return Err(OptionError::Malformed(next_token(input)));
    }
    let equals: Token![=] = input.parse()?;
    if input.is_empty() || input.peek(Token![,]) {
        return Err(OptionError::Malformed(equals.into_token_stream()));
    }
    let start = input.span();
    match input.parse() {
        Ok(value) => Ok(without_groups(value)),
        // syn would point at the end of the attribute, where there is no token to underline.
        Err(_) if input.is_empty() => Err(OptionError::Syntax(syn::Error::new(
            start,
            "this value is incomplete; write an expression",
        ))),
        Err(error) => Err(OptionError::Syntax(error)),
    }
}

fn as_string(value: Expr) -> Result<LitStr, OptionError> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text),
        other => Err(OptionError::Malformed(other.into_token_stream())),
    }
}

fn as_bool(value: Expr) -> Result<bool, OptionError> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Bool(flag), .. }) => Ok(flag.value),
        other => Err(OptionError::Malformed(other.into_token_stream())),
    }
}

fn as_path(value: Expr) -> Result<Path, OptionError> {
    match value {
        Expr::Path(ExprPath { path, qself: None, .. }) => Ok(path),
        other => Err(OptionError::Malformed(other.into_token_stream())),
    }
}

fn as_name(value: Expr) -> Result<Ident, OptionError> {
    let path = as_path(value)?;
    path.get_ident().cloned().ok_or_else(|| OptionError::Malformed(path.into_token_stream()))
}

/// Parses `(a, b, self)`.
fn parse_parameter_names(input: ParseStream<'_>) -> Result<Vec<Ident>, OptionError> {
    let list = parse_parentheses(input)?;
    let parse = |input: ParseStream<'_>| {
        Punctuated::<_, Token![,]>::parse_terminated_with(input, Ident::parse_any)
    };
    match parse.parse2(list.stream()) {
        Ok(names) if !names.is_empty() => Ok(names.into_iter().collect()),
        _ => Err(OptionError::Malformed(list.into_token_stream())),
    }
}

/// Parses `(reason = "…")`.
fn parse_reason(overwrite: &Ident, input: ParseStream<'_>) -> Result<LitStr, OptionError> {
    const MISSING: &str = "overwriting needs a reason; \
        write `overwrite(reason = \"…\")` with a sentence that says why entries must be replaced";
    if input.is_empty() || input.peek(Token![,]) {
        return Err(forbidden(overwrite, MISSING));
    }
    let list = parse_parentheses(input)?;
    let parse = |input: ParseStream<'_>| {
        if input.is_empty() {
            return Ok(Err(forbidden(overwrite, MISSING)));
        }
        let key = input.call(Ident::parse_any)?;
        if key != "reason" {
            let message =
                format!("`overwrite` has no option `{key}`; write `overwrite(reason = \"…\")`");
            input.parse::<TokenStream>()?;
            return Ok(Err(forbidden(&key, message)));
        }
        let text = parse_value(input).and_then(as_string);
        input.parse::<Option<Token![,]>>()?;
        Ok(text)
    };
    parse
        .parse2(list.stream())
        .unwrap_or_else(|_| Err(OptionError::Malformed(list.into_token_stream())))
}

fn parse_parentheses(input: ParseStream<'_>) -> Result<Group, OptionError> {
    if input.peek(syn::token::Paren) {
        return Ok(input.parse()?);
    }
    Err(OptionError::Malformed(next_token(input)))
}

/// Checks that nothing follows the option's name.
fn check_no_value(key: &Ident, input: ParseStream<'_>) -> Result<(), OptionError> {
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(());
    }
    let message = format!("option `{key}` takes no value; write `{key}` alone");
    Err(forbidden(next_token(input), message))
}

/// Returns the option's next token without consuming the token, or an empty stream if the option
/// ends here.
fn next_token(input: ParseStream<'_>) -> TokenStream {
    let ahead = input.fork();
    match ahead.parse::<TokenTree>() {
        Ok(token) if !input.peek(Token![,]) => token.into_token_stream(),
        _ => TokenStream::new(),
    }
}

fn forbidden(tokens: impl ToTokens, message: impl std::fmt::Display) -> OptionError {
    OptionError::Forbidden(syn::Error::new_spanned(tokens, message))
}

/// Removes the invisible groups that a `macro_rules` variable leaves around an expression.
fn without_groups(mut value: Expr) -> Expr {
    while let Expr::Group(group) = value {
        value = *group.expr;
    }
    value
}

/// Skips the rest of a refused option, so that the options after it can be parsed.
fn skip_to_comma(input: ParseStream<'_>) {
    if input.peek(Token![=]) {
        let ahead = input.fork();
        // A comma inside a valid expression does not end the option.
        if ahead.parse::<Token![=]>().is_ok() && ahead.parse::<Expr>().is_ok() {
            let _ = input.parse::<Token![=]>();
            let _ = input.parse::<Expr>();
        }
    }
    while !input.is_empty() && !input.peek(Token![,]) {
        let _ = input.parse::<TokenTree>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_another_crate_is_translated() {
        for (name, option) in SYNONYMS {
            assert!(OPTIONS.iter().any(|syntax| syntax.name == option), "`{option}` is an option");
            let mut errors = Errors::default();
            let key = Ident::new(name, proc_macro2::Span::call_site());
            Args::default().report_unknown(&key, &mut errors);
            let tokens = errors.into_compile_errors().to_string();
            assert!(tokens.contains(&format!("did you mean `{option}`?")), "{name}: {tokens}");
        }
    }
}
