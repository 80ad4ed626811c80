//! The attribute's syntax: which options there are, and how each is read.
//!
//! Nothing here knows the function. Every option keeps the tokens it was written with, so that a
//! rule broken later can point at them.

use proc_macro2::{Group, Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Expr, ExprLit, ExprPath, Lit, LitStr, Path, Token};

use crate::errors::{Errors, listed, nearest};

/// An option as it was written.
pub(crate) struct Given<T> {
    pub(crate) key: Ident,
    pub(crate) value: T,
}

/// The options of one attribute, each well-formed by itself.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) name: Option<Given<LitStr>>,
    pub(crate) version: Option<Given<Expr>>,
    pub(crate) overwrite: Option<Given<LitStr>>,
    pub(crate) identifier: Option<Given<Expr>>,
    pub(crate) skip: Option<Given<Vec<Ident>>>,
    pub(crate) ttl: Option<Given<Expr>>,
    pub(crate) cache: Option<Given<Expr>>,
    pub(crate) entry: Option<Given<Ident>>,
    pub(crate) ttl_with: Option<Given<Expr>>,
    pub(crate) local_ttl: Option<Given<LitStr>>,
    pub(crate) none_ttl: Option<Given<LitStr>>,
    pub(crate) cache_if: Option<Given<Expr>>,
    pub(crate) weight: Option<Given<Expr>>,
    pub(crate) stale_if_error: Option<Given<LitStr>>,
    pub(crate) refresh_ahead: Option<Given<LitStr>>,
    pub(crate) local: Option<Given<bool>>,
    pub(crate) remote: Option<Given<bool>>,
    pub(crate) infallible: Option<Given<()>>,
    pub(crate) krate: Option<Given<Path>>,
    /// Every option that somebody tried to write, misspelt ones by the name that was meant.
    attempted: Vec<&'static str>,
    /// A syntax error ended the reading: what comes after it is unknown.
    cut_short: bool,
}

/// One option of the attribute's grammar.
pub(crate) struct Syntax {
    pub(crate) name: &'static str,
    /// How to write it, for the error when it was written otherwise.
    pub(crate) usage: &'static str,
    /// Reads what follows the name.
    read: Read,
}

type Read = fn(&mut Args, Ident, ParseStream<'_>) -> Result<(), Wrong>;

pub(crate) const OPTIONS: &[Syntax] = &[
    Syntax {
        name: "name",
        usage: "name = \"payment\"",
        read: |args, key, input| once(&mut args.name, key, string(value(input)?)?),
    },
    Syntax {
        name: "version",
        usage: "version = state",
        read: |args, key, input| once(&mut args.version, key, value(input)?),
    },
    Syntax {
        name: "overwrite",
        usage: "overwrite(reason = \"…\")",
        read: |args, key, input| {
            let reason = reason(&key, input)?;
            once(&mut args.overwrite, key, reason)
        },
    },
    Syntax {
        name: "identifier",
        usage: "identifier = (number, region)",
        read: |args, key, input| once(&mut args.identifier, key, value(input)?),
    },
    Syntax {
        name: "skip",
        usage: "skip(client)",
        read: |args, key, input| once(&mut args.skip, key, names(input)?),
    },
    Syntax {
        name: "ttl",
        usage: "ttl = \"30m\"",
        read: |args, key, input| once(&mut args.ttl, key, value(input)?),
    },
    Syntax {
        name: "cache",
        usage: "cache = client.cache",
        read: |args, key, input| once(&mut args.cache, key, value(input)?),
    },
    Syntax {
        name: "entry",
        usage: "entry = payment_entry",
        read: |args, key, input| once(&mut args.entry, key, name(value(input)?)?),
    },
    Syntax {
        name: "ttl_with",
        usage: "ttl_with = |value| value.lifetime()",
        read: |args, key, input| once(&mut args.ttl_with, key, value(input)?),
    },
    Syntax {
        name: "local_ttl",
        usage: "local_ttl = \"5s\"",
        read: |args, key, input| once(&mut args.local_ttl, key, string(value(input)?)?),
    },
    Syntax {
        name: "none_ttl",
        usage: "none_ttl = \"30s\"",
        read: |args, key, input| once(&mut args.none_ttl, key, string(value(input)?)?),
    },
    Syntax {
        name: "cache_if",
        usage: "cache_if = |value| value.is_final()",
        read: |args, key, input| once(&mut args.cache_if, key, value(input)?),
    },
    Syntax {
        name: "weight",
        usage: "weight = |value| value.size_in_memory()",
        read: |args, key, input| once(&mut args.weight, key, value(input)?),
    },
    Syntax {
        name: "stale_if_error",
        usage: "stale_if_error = \"1h\"",
        read: |args, key, input| once(&mut args.stale_if_error, key, string(value(input)?)?),
    },
    Syntax {
        name: "refresh_ahead",
        usage: "refresh_ahead = \"5m\"",
        read: |args, key, input| once(&mut args.refresh_ahead, key, string(value(input)?)?),
    },
    Syntax {
        name: "local",
        usage: "local = false",
        read: |args, key, input| once(&mut args.local, key, boolean(value(input)?)?),
    },
    Syntax {
        name: "remote",
        usage: "remote = false",
        read: |args, key, input| once(&mut args.remote, key, boolean(value(input)?)?),
    },
    Syntax {
        name: "infallible",
        usage: "infallible",
        read: |args, key, input| {
            flag(&key, input)?;
            once(&mut args.infallible, key, ())
        },
    },
    Syntax {
        name: "crate",
        usage: "crate = path::to::cached_core",
        read: |args, key, input| once(&mut args.krate, key, path(value(input)?)?),
    },
];

/// Why an option could not be read.
enum Wrong {
    /// It is not written as its usage says, as these tokens show; without any, its name shows it.
    Form(TokenStream),
    /// It is understood and refused.
    Refused(syn::Error),
    /// It is no Rust syntax: nobody knows where it ends.
    Syntax(syn::Error),
}

impl From<syn::Error> for Wrong {
    fn from(error: syn::Error) -> Wrong {
        Wrong::Syntax(error)
    }
}

impl Args {
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Args {
        let mut args = Args::default();
        let read = |input: ParseStream<'_>| {
            args.options(input, errors);
            input.parse::<TokenStream>()
        };
        if let Err(error) = read.parse2(tokens) {
            errors.push(error);
        }
        args
    }

    /// Whether an option is there, or something that was meant to be it: then its absence is not
    /// reported on top of the error that is.
    pub(crate) fn tried(&self, option: &str) -> bool {
        self.cut_short || self.attempted.contains(&option)
    }

    /// All options, up to an error after which it is not known where the next one begins.
    fn options(&mut self, input: ParseStream<'_>, errors: &mut Errors) {
        while !input.is_empty() && !self.cut_short {
            let start = input.span();
            let Ok(key) = input.call(Ident::parse_any) else {
                errors.at(start, "expected an option, such as `name = \"payment\"`");
                self.cut_short = true;
                return;
            };
            self.option(key, input, errors);
            if input.is_empty() || self.cut_short {
                return;
            }
            if input.parse::<Token![,]>().is_err() {
                errors.at(input.span(), "expected `,` between two options");
                self.cut_short = true;
            }
        }
    }

    fn option(&mut self, key: Ident, input: ParseStream<'_>, errors: &mut Errors) {
        let written = key.to_string();
        let Some(syntax) = OPTIONS.iter().find(|syntax| syntax.name == written) else {
            self.unknown(&key, errors);
            skip_value(input);
            return;
        };
        self.attempted.push(syntax.name);
        match (syntax.read)(self, key.clone(), input) {
            Ok(()) => {}
            Err(Wrong::Form(shown)) => {
                let message = format!("option `{written}` is written `{}`", syntax.usage);
                let shown = if shown.is_empty() { key.into_token_stream() } else { shown };
                errors.on(shown, message);
                skip_value(input);
            }
            Err(Wrong::Refused(error)) => {
                errors.push(error);
                skip_value(input);
            }
            Err(Wrong::Syntax(error)) => {
                errors.push(error);
                self.cut_short = true;
            }
        }
    }

    fn unknown(&mut self, key: &Ident, errors: &mut Errors) {
        let meant = nearest(&key.to_string(), OPTIONS.iter().map(|syntax| syntax.name));
        let Some(syntax) = OPTIONS.iter().find(|syntax| Some(syntax.name) == meant) else {
            let names = listed(OPTIONS.iter().map(|option| option.name));
            errors.at(key.span(), format!("unknown option `{key}`; the options are {names}"));
            return;
        };
        errors.at(key.span(), format!("unknown option `{key}`; did you mean `{}`?", syntax.name));
        self.attempted.push(syntax.name);
    }
}

fn once<T>(slot: &mut Option<Given<T>>, key: Ident, value: T) -> Result<(), Wrong> {
    if slot.is_some() {
        return Err(refused(&key, format!("option `{key}` is given twice; keep one")));
    }
    *slot = Some(Given { key, value });
    Ok(())
}

/// `= EXPR`. Strings, names and paths are read as expressions too, so that a wrong one is read to
/// its end and the options after it are still understood.
fn value(input: ParseStream<'_>) -> Result<Expr, Wrong> {
    if !input.peek(Token![=]) || input.peek(Token![==]) {
        return Err(Wrong::Form(next(input)));
    }
    let equals: Token![=] = input.parse()?;
    if input.is_empty() || input.peek(Token![,]) {
        return Err(Wrong::Form(equals.into_token_stream()));
    }
    let start = input.span();
    match input.parse() {
        Ok(value) => Ok(ungrouped(value)),
        // The error's own place would be the end of the attribute, which has no token.
        Err(_) if input.is_empty() => Err(Wrong::Syntax(syn::Error::new(
            start,
            "this value is unfinished; write an expression",
        ))),
        Err(error) => Err(Wrong::Syntax(error)),
    }
}

fn string(value: Expr) -> Result<LitStr, Wrong> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text),
        other => Err(Wrong::Form(other.into_token_stream())),
    }
}

fn boolean(value: Expr) -> Result<bool, Wrong> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Bool(flag), .. }) => Ok(flag.value),
        other => Err(Wrong::Form(other.into_token_stream())),
    }
}

fn path(value: Expr) -> Result<Path, Wrong> {
    match value {
        Expr::Path(ExprPath { path, qself: None, .. }) => Ok(path),
        other => Err(Wrong::Form(other.into_token_stream())),
    }
}

fn name(value: Expr) -> Result<Ident, Wrong> {
    let path = path(value)?;
    path.get_ident().cloned().ok_or_else(|| Wrong::Form(path.into_token_stream()))
}

/// `(a, b, self)`.
fn names(input: ParseStream<'_>) -> Result<Vec<Ident>, Wrong> {
    let list = parentheses(input)?;
    let read = |input: ParseStream<'_>| {
        Punctuated::<_, Token![,]>::parse_terminated_with(input, Ident::parse_any)
    };
    match read.parse2(list.stream()) {
        Ok(names) if !names.is_empty() => Ok(names.into_iter().collect()),
        _ => Err(Wrong::Form(list.into_token_stream())),
    }
}

/// `(reason = "…")`.
fn reason(overwrite: &Ident, input: ParseStream<'_>) -> Result<LitStr, Wrong> {
    const MISSING: &str = "overwriting needs a reason; \
        write `overwrite(reason = \"…\")` with a sentence that says why entries must be replaced";
    if input.is_empty() || input.peek(Token![,]) {
        return Err(refused(overwrite, MISSING));
    }
    let list = parentheses(input)?;
    let read = |input: ParseStream<'_>| {
        if input.is_empty() {
            return Ok(Err(refused(overwrite, MISSING)));
        }
        let key = input.call(Ident::parse_any)?;
        if key != "reason" {
            let message = format!("`overwrite` has no `{key}`; write `overwrite(reason = \"…\")`");
            input.parse::<TokenStream>()?;
            return Ok(Err(refused(&key, message)));
        }
        let text = value(input).and_then(string);
        input.parse::<Option<Token![,]>>()?;
        Ok(text)
    };
    read.parse2(list.stream()).unwrap_or_else(|_| Err(Wrong::Form(list.into_token_stream())))
}

fn parentheses(input: ParseStream<'_>) -> Result<Group, Wrong> {
    if input.peek(syn::token::Paren) {
        return Ok(input.parse()?);
    }
    Err(Wrong::Form(next(input)))
}

/// Nothing: the next option follows.
fn flag(key: &Ident, input: ParseStream<'_>) -> Result<(), Wrong> {
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(());
    }
    Err(refused(next(input), format!("option `{key}` takes no value; write `{key}` alone")))
}

/// What was written instead of what should come here; nothing where the option ends.
fn next(input: ParseStream<'_>) -> TokenStream {
    let ahead = input.fork();
    match ahead.parse::<TokenTree>() {
        Ok(token) if !input.peek(Token![,]) => token.into_token_stream(),
        _ => TokenStream::new(),
    }
}

fn refused(tokens: impl ToTokens, message: impl std::fmt::Display) -> Wrong {
    Wrong::Refused(syn::Error::new_spanned(tokens, message))
}

/// What a `macro_rules` variable in the attribute stands for.
fn ungrouped(mut value: Expr) -> Expr {
    while let Expr::Group(group) = value {
        value = *group.expr;
    }
    value
}

/// Goes on to the end of an option that was not understood, so that the next ones are.
fn skip_value(input: ParseStream<'_>) {
    if input.peek(Token![=]) {
        let ahead = input.fork();
        // An expression can hold commas of its own: better read as one.
        if ahead.parse::<Token![=]>().is_ok() && ahead.parse::<Expr>().is_ok() {
            let _ = input.parse::<Token![=]>();
            let _ = input.parse::<Expr>();
        }
    }
    while !input.is_empty() && !input.peek(Token![,]) {
        let _ = input.parse::<TokenTree>();
    }
}
