//! Writes the ledger as JSON and as Markdown. The ledger is the list of all *declarations*: one for
//! each annotated function.

use std::fmt::Write;

use super::Ledger;
use crate::declaration::Declaration;

/// The text before the table of [`Ledger::to_markdown`].
const MARKDOWN_HEAD: &str = "\
# Cache ledger

Each line is a function whose results are cached. Entries are write-once, unless the function gives a
reason to overwrite them. `UPDATE_LEDGER=1 cargo test` writes this file.

| name | function | version | overwrite reason | ttl | tiers | options |
|---|---|---|---|---|---|---|
";

impl Ledger {
    /// Returns the ledger as a JSON array with one object for each declaration, sorted by name.
    /// Each object is on a line of its own.
    ///
    /// | member | meaning |
    /// |---|---|
    /// | `name` | the cache name |
    /// | `function` | the path of the function, with its module |
    /// | `place` | where the attribute is, as `file:line` |
    /// | `version` | the expression of the option `version`, or `null` |
    /// | `overwrite_reason` | the full reason, or `null` if the entries are write-once |
    /// | `ttl` | a duration such as `30m`; `default` if the cache's default applies; `computed` if it is an expression or comes from `ttl_with` |
    /// | `tiers` | an array of `local` and `remote` |
    /// | `options` | an array of the other options, such as `local_ttl = 5s` and `cache_if` |
    ///
    /// The places change whenever a file is edited. For a ledger that is kept in version control,
    /// use [`to_markdown`](Self::to_markdown), which omits the places.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, ledger};
    /// #[coordinator_cached(name = "json_doc", version = edition, ttl = "90s", remote = false)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # let _ = course(1, 2);
    /// let json = ledger().to_json();
    /// let line = json.lines().find(|line| line.contains("json_doc")).unwrap();
    /// assert!(line.contains(r#""version":"edition","overwrite_reason":null,"ttl":"1m30s","tiers":["local"]"#));
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        let objects: Vec<String> = self.sorted().into_iter().map(json_object).collect();
        if objects.is_empty() {
            "[]\n".to_owned()
        } else {
            format!("[\n{}\n]\n", objects.join(",\n"))
        }
    }

    /// Returns the ledger as a Markdown file for review: a table with one line for each
    /// declaration, sorted by name.
    ///
    /// A line has the cache name, the path of the function, the version, the whole reason to
    /// overwrite, the ttl, the tiers and the other options. It has no file names and no line
    /// numbers, so a line changes only if the declaration changes or moves to another module.
    ///
    /// ```
    /// # use cached_core::{coordinator_cached, ledger};
    /// #[coordinator_cached(name = "markdown_doc", overwrite(reason = "prices | have no version"))]
    /// async fn price(item: u32) -> Result<u64, std::io::Error> {
    ///     Ok(100)
    /// }
    ///
    /// # let _ = price(1);
    /// let markdown = ledger().to_markdown();
    /// let line = markdown.lines().find(|line| line.starts_with("| markdown_doc |")).unwrap();
    /// assert!(line.ends_with(r"::price` |  | prices \| have no version | default | local, remote |  |"));
    /// ```
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let lines = self.sorted().into_iter().map(markdown_line);
        MARKDOWN_HEAD.to_owned() + &lines.collect::<String>()
    }

    /// Returns the declarations in an order that does not depend on their positions in a file.
    fn sorted(&self) -> Vec<&'static Declaration> {
        let mut declarations: Vec<_> = self.iter().collect();
        declarations.sort_by_key(|declaration| (declaration.name, declaration.function));
        declarations
    }
}

fn json_object(declaration: &Declaration) -> String {
    let list = |text: &str| {
        let items = text.split(", ").filter(|item| !item.is_empty()).map(json_string);
        format!("[{}]", items.collect::<Vec<_>>().join(","))
    };
    let optional = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), json_string);
    let members = [
        ("name", json_string(declaration.name)),
        ("function", json_string(declaration.function)),
        ("place", json_string(&declaration.place())),
        ("version", optional(declaration.version)),
        ("overwrite_reason", optional(declaration.overwrite_reason)),
        ("ttl", json_string(&declaration.ttl_text())),
        ("tiers", list(declaration.tiers_text())),
        ("options", list(&declaration.options_text())),
    ];
    let members = members.map(|(name, value)| format!("\"{name}\":{value}"));
    format!("{{{}}}", members.join(","))
}

fn json_string(text: &str) -> String {
    let mut json = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            control if control < ' ' => {
                // Writing to a `String` does not fail.
                let _ = write!(json, "\\u{:04x}", u32::from(control));
            }
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

fn markdown_line(declaration: &Declaration) -> String {
    let cells = [
        markdown_text(declaration.name),
        markdown_code(declaration.function),
        declaration.version.map(markdown_code).unwrap_or_default(),
        markdown_text(declaration.overwrite_reason.unwrap_or("write-once")),
        markdown_text(&declaration.ttl_text()),
        markdown_text(declaration.tiers_text()),
        markdown_text(&declaration.options_text()),
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// Returns the text as the content of a table cell. A line break becomes `<br>`. A backslash and
/// the characters that end a cell or begin an HTML element are escaped.
fn markdown_text(text: &str) -> String {
    let mut cell = String::new();
    let mut letters = text.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' if letters.peek() == Some(&'\n') => {}
            '\n' | '\r' => cell.push_str("<br>"),
            '|' | '<' | '\\' => cell.extend(['\\', letter]),
            other => cell.push(other),
        }
    }
    cell
}

/// Returns the text as a code span in a table cell. A backslash, a backquote or a line break cannot
/// be escaped in a code span, so a text with one of them is written as plain text.
fn markdown_code(text: &str) -> String {
    if text.contains(['\\', '`', '\n', '\r']) {
        return markdown_text(text);
    }
    format!("`{}`", text.replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json_string("\"a\\b\"\n\r\t\u{1}\u{1f}ü"), r#""\"a\\b\"\n\r\t\u0001\u001fü""#);
    }

    #[test]
    fn table_cells_are_escaped() {
        assert_eq!(markdown_text("a|b\n c\r\nd"), "a\\|b<br> c<br>d");
        assert_eq!(markdown_text("Vec<u8> \\| `x`"), "Vec\\<u8> \\\\\\| `x`");
        assert_eq!(markdown_code("a | b"), "`a \\| b`");
        assert_eq!(markdown_code("f(\"\\n\")"), "f(\"\\\\n\")");
    }
}
