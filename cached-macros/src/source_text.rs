//! Expressions as text, for the ledger.
//!
//! Users check the text in and compare it, so it depends on the tokens alone. The text that the
//! compiler makes of tokens may change with its version, and what the user wrote changes when it is
//! formatted.

use proc_macro2::token_stream::IntoIter;
use proc_macro2::{Delimiter, Group, Punct, Spacing, TokenStream, TokenTree};
use std::iter::Peekable;

/// The binary operators that get a space on each side. The signs `<` and `>` get none, because they
/// may enclose type arguments.
const SPACED: [&str; 16] =
    ["+", "-", "*", "/", "%", "^", "&", "|", "&&", "||", "==", "!=", "<=", ">=", "=>", "="];

/// The words after which an operator is not a binary one.
const KEYWORDS: [&str; 11] =
    ["as", "const", "dyn", "else", "if", "in", "match", "move", "mut", "ref", "return"];

/// Returns the expression as text on one line, such as `(state, self.revision + 1)`.
pub(crate) fn source_text(expression: TokenStream) -> String {
    let mut writer = Writer { text: String::new(), previous: Previous::Operator };
    writer.write(expression, Commas::All);
    writer.text
}

/// The kind of the token that was written last.
#[derive(Clone, Copy, PartialEq)]
enum Previous {
    /// A name, a literal or a group.
    Operand,
    Keyword,
    /// An operator, or the beginning of a group.
    Operator,
}

/// Says which commas are written. A formatter adds a last comma to a list that it breaks.
#[derive(Clone, Copy, PartialEq)]
enum Commas {
    All,
    /// The last comma is left out.
    Inner,
    /// The last comma is left out unless it is the only one, as in `(state,)`.
    OfTuple,
}

struct Writer {
    text: String,
    previous: Previous,
}

impl Writer {
    fn write(&mut self, tokens: TokenStream, commas: Commas) {
        let mut tokens = tokens.into_iter().peekable();
        let mut comma_count = 0;
        // The parameters of a closure are being written.
        let mut is_in_closure_head = false;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Group(group) => self.write_group(&group),
                TokenTree::Punct(first) => {
                    let operator = operator(first, &mut tokens);
                    let is_last = tokens.peek().is_none();
                    match operator.as_str() {
                        "," => {
                            comma_count += 1;
                            let is_left_out = match commas {
                                Commas::All => false,
                                Commas::Inner => is_last,
                                Commas::OfTuple => is_last && comma_count > 1,
                            };
                            if is_left_out {
                                self.text.truncate(self.text.trim_end().len());
                            } else {
                                self.text.push_str(if is_last { "," } else { ", " });
                            }
                        }
                        ";" | ":" => {
                            self.text.push_str(&operator);
                            self.text.push_str(if is_last { "" } else { " " });
                        }
                        "|" if is_in_closure_head => {
                            self.text.push_str("| ");
                            is_in_closure_head = false;
                        }
                        _ if self.previous == Previous::Operand
                            && SPACED.contains(&operator.as_str()) =>
                        {
                            self.text.push(' ');
                            self.text.push_str(&operator);
                            self.text.push(' ');
                        }
                        _ => {
                            self.space_after_keyword();
                            self.text.push_str(&operator);
                            self.text.push_str(if operator == "||" { " " } else { "" });
                            is_in_closure_head |= operator == "|";
                        }
                    }
                    self.previous = Previous::Operator;
                }
                word => {
                    if self.previous != Previous::Operator {
                        self.text.push(' ');
                    }
                    let word = word.to_string();
                    self.text.push_str(&word);
                    self.previous = match KEYWORDS.contains(&word.as_str()) {
                        true => Previous::Keyword,
                        false => Previous::Operand,
                    };
                }
            }
        }
    }

    fn write_group(&mut self, group: &Group) {
        let is_call = self.previous == Previous::Operand;
        let (open, close, commas) = match group.delimiter() {
            Delimiter::Parenthesis if is_call => ("(", ")", Commas::Inner),
            Delimiter::Parenthesis => ("(", ")", Commas::OfTuple),
            Delimiter::Bracket => ("[", "]", Commas::Inner),
            Delimiter::Brace => ("{ ", " }", Commas::Inner),
            Delimiter::None => ("", "", Commas::All),
        };
        self.space_after_keyword();
        if is_call && group.delimiter() == Delimiter::Brace {
            self.text.push(' ');
        }
        self.text.push_str(open);
        self.previous = Previous::Operator;
        self.write(group.stream(), commas);
        self.text.push_str(close);
        self.previous = Previous::Operand;
    }

    fn space_after_keyword(&mut self) {
        if self.previous == Previous::Keyword {
            self.text.push(' ');
        }
    }
}

/// Returns the operator that begins with this sign.
fn operator(first: Punct, tokens: &mut Peekable<IntoIter>) -> String {
    let mut operator = String::from(first.as_char());
    let mut spacing = first.spacing();
    while spacing == Spacing::Joint
        && let Some(TokenTree::Punct(next)) = tokens.peek()
    {
        operator.push(next.as_char());
        spacing = next.spacing();
        tokens.next();
    }
    operator
}

#[cfg(test)]
mod tests {
    use quote::ToTokens;
    use syn::Expr;

    use super::*;

    fn write(text: &str) -> String {
        let expression: Expr = syn::parse_str(text).expect("the text is an expression");
        source_text(expression.to_token_stream())
    }

    #[test]
    fn the_text_is_what_a_user_writes() {
        for text in [
            "state",
            "(state, self.revision + 1)",
            "(state,)",
            "payment.state.as_str()",
            "&self.version",
            "Version::<u32>::of(state)",
            "(edition as u64, &*name as &dyn Version)",
            "(a + b) as u8",
            "hash(state, \"two  words\")",
            "states[0]",
            "(state == State::Paid || !is_open, -1)",
            "state.map(|state| state.number)",
            "or(move |a, b: u8| a | b, || 0)",
            "match state { State::Paid => 1, _ => 2 }",
        ] {
            assert_eq!(write(text), text);
        }
    }

    #[test]
    fn the_format_does_not_count() {
        assert_eq!(write("( state,\n    edition+1 , )"), "(state, edition + 1)");
        assert_eq!(write("of(\n    state,\n)"), "of(state)");
        assert_eq!(write("{ state . number }"), "{ state.number }");
    }
}
