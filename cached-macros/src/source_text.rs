//! Writes expressions as text for the ledger, the list of a program's cached functions.
//!
//! Users check the ledger into a repository and compare it later. The text must therefore depend on
//! the tokens alone. The text that the compiler makes from tokens can change with the compiler's
//! version. The source text changes when the user formats it.

use proc_macro2::token_stream::IntoIter;
use proc_macro2::{Delimiter, Group, Punct, Spacing, TokenStream, TokenTree};
use std::iter::Peekable;

/// The binary operators that get a space on each side. The characters `<` and `>` get none, because
/// they may enclose type arguments.
const SPACED: [&str; 16] =
    ["+", "-", "*", "/", "%", "^", "&", "|", "&&", "||", "==", "!=", "<=", ">=", "=>", "="];

/// If an operator follows one of these words, it is not a binary operator.
const KEYWORDS: [&str; 11] =
    ["as", "const", "dyn", "else", "if", "in", "match", "move", "mut", "ref", "return"];

/// Returns the expression as text on one line, such as `(state, self.revision + 1)`.
pub(crate) fn source_text(expression: TokenStream) -> String {
    let mut writer =
        ExpressionTextWriter { text: String::new(), previous: PreviousToken::Operator };
    writer.write(expression, CommaPolicy::All);
    writer.text
}

/// The kind of the token that was written last.
#[derive(Clone, Copy, PartialEq)]
enum PreviousToken {
    /// A name, a literal or a group.
    Operand,
    Keyword,
    /// An operator, or the beginning of a group.
    Operator,
}

/// Says whether the last comma of a group is written. A formatter adds a last comma when it breaks
/// a list into lines, so the text must not depend on that comma.
#[derive(Clone, Copy, PartialEq)]
enum CommaPolicy {
    All,
    /// The last comma is left out.
    Inner,
    /// The last comma is left out unless it is the only one, as in `(state,)`.
    OfTuple,
}

/// Writes the tokens of an expression one after the other.
struct ExpressionTextWriter {
    text: String,
    previous: PreviousToken,
}

impl ExpressionTextWriter {
    fn write(&mut self, tokens: TokenStream, commas: CommaPolicy) {
        let mut tokens = tokens.into_iter().peekable();
        let mut comma_count = 0;
        // True while the parameters of a closure are written.
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
                                CommaPolicy::All => false,
                                CommaPolicy::Inner => is_last,
                                CommaPolicy::OfTuple => is_last && comma_count > 1,
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
                        _ if self.previous == PreviousToken::Operand
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
                    self.previous = PreviousToken::Operator;
                }
                word => {
                    if self.previous != PreviousToken::Operator {
                        self.text.push(' ');
                    }
                    let word = word.to_string();
                    self.text.push_str(&word);
                    self.previous = match KEYWORDS.contains(&word.as_str()) {
                        true => PreviousToken::Keyword,
                        false => PreviousToken::Operand,
                    };
                }
            }
        }
    }

    fn write_group(&mut self, group: &Group) {
        let is_call = self.previous == PreviousToken::Operand;
        let (open, close, commas) = match group.delimiter() {
            Delimiter::Parenthesis if is_call => ("(", ")", CommaPolicy::Inner),
            Delimiter::Parenthesis => ("(", ")", CommaPolicy::OfTuple),
            Delimiter::Bracket => ("[", "]", CommaPolicy::Inner),
            Delimiter::Brace => ("{ ", " }", CommaPolicy::Inner),
            Delimiter::None => ("", "", CommaPolicy::All),
        };
        self.space_after_keyword();
        if is_call && group.delimiter() == Delimiter::Brace {
            self.text.push(' ');
        }
        self.text.push_str(open);
        self.previous = PreviousToken::Operator;
        self.write(group.stream(), commas);
        self.text.push_str(close);
        self.previous = PreviousToken::Operand;
    }

    fn space_after_keyword(&mut self) {
        if self.previous == PreviousToken::Keyword {
            self.text.push(' ');
        }
    }
}

/// Returns the whole operator that begins with `first`. Takes the operator's other characters from
/// `tokens`.
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
    fn the_text_reads_as_a_user_writes_it() {
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
    fn the_text_ignores_formatting() {
        assert_eq!(write("( state,\n    edition+1 , )"), "(state, edition + 1)");
        assert_eq!(write("of(\n    state,\n)"), "of(state)");
        assert_eq!(write("{ state . number }"), "{ state.number }");
    }
}
