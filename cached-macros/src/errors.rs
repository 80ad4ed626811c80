//! Collects the errors of one expansion, and suggests corrections for misspelt words.

use std::fmt::Display;

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;

/// The errors found so far. Each check adds its errors here, so that one compilation shows the
/// errors of all checks.
#[derive(Default)]
pub(crate) struct Errors(Vec<syn::Error>);

impl Errors {
    /// Adds an error that underlines the code at `span`.
    pub(crate) fn at(&mut self, span: Span, message: impl Display) {
        self.0.push(syn::Error::new(span, message));
    }

    /// Adds an error that underlines all of `tokens`.
    pub(crate) fn on(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.0.push(syn::Error::new_spanned(tokens, message));
    }

    pub(crate) fn push(&mut self, error: syn::Error) {
        self.0.push(error);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_compile_errors(self) -> TokenStream {
        self.0.into_iter().map(syn::Error::into_compile_error).collect()
    }
}

/// Returns the candidate that `word` most likely misspells, if any candidate is similar enough.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A word may have one edit for every three letters, and a shorter word may have one. So
    // `identfire`, with two edits, matches `identifier`. `tag`, also with two, does not match `ttl`.
    let max_distance = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, candidate)| {
            (1..=max_distance).contains(distance) || one_begins_with_the_other(word, candidate)
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns true if one word begins with the other, as `state` begins with `stat`. The shorter word
/// must have three letters or more.
fn one_begins_with_the_other(word: &str, candidate: &str) -> bool {
    let (short, long) =
        if word.len() < candidate.len() { (word, candidate) } else { (candidate, word) };
    short.len() >= 3 && short.len() < long.len() && long.starts_with(short)
}

/// Returns how many edits turn `left` into `right` (the optimal string alignment distance). An edit
/// inserts, removes or replaces a letter, or swaps two neighbouring letters.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut table = vec![vec![0; right.len() + 1]; left.len() + 1];
    for i in 0..=left.len() {
        for j in 0..=right.len() {
            if i == 0 || j == 0 {
                table[i][j] = i + j;
                continue;
            }
            let replaced = table[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut least = replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
            let is_swap =
                i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1];
            if is_swap {
                least = least.min(table[i - 2][j - 2] + 1);
            }
            table[i][j] = least;
        }
    }
    table[left.len()][right.len()]
}

/// Formats words as a list in prose, each in backticks: `a`, `b` and `c`.
pub(crate) fn prose_list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_only() {
        let options = ["name", "version", "skip", "ttl", "identifier", "state"];
        assert_eq!(nearest("verison", options), Some("version"));
        assert_eq!(nearest("stat", options), Some("state"));
        assert_eq!(nearest("ident", options), Some("identifier"));
        assert_eq!(nearest("nmae", options), Some("name"));
        assert_eq!(nearest("names", options), Some("name"));
        assert_eq!(nearest("backend", options), None);
    }

    #[test]
    fn lists_read_as_prose() {
        assert_eq!(prose_list(["a"]), "`a`");
        assert_eq!(prose_list(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
