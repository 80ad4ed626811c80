//! Compares the ledger with a file in version control, so that a reviewer sees changes of the
//! ledger. The *ledger* lists a program's annotated functions and their settings.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use super::Ledger;

/// The environment variable that makes [`Ledger::check`] write the file.
const UPDATE_VARIABLE: &str = "UPDATE_LEDGER";

/// The largest number of cells in the comparison table. If more would be needed, common lines are
/// not searched for: every line between the equal beginning and the equal end counts as different.
const MAX_COMPARED_PAIRS: usize = 4 << 20;

impl Ledger {
    /// Compares the ledger with a file in version control. If a test calls this method, a reviewer
    /// sees each new `overwrite(reason = …)` as a changed line of the file.
    ///
    /// The file must contain the text that [`to_markdown`](Self::to_markdown) returns, with any
    /// line endings. A relative path begins at the folder of the package's `Cargo.toml`, because
    /// Cargo runs tests there.
    ///
    /// With the environment variable `UPDATE_LEDGER=1`, the method writes the file if it differs,
    /// and returns `Ok`. It writes nothing if the ledger is empty, or if the file cannot be read as
    /// UTF-8. An empty variable and `0` count as not set. Without the variable, the method never
    /// writes.
    ///
    /// The method reads or writes the file on the calling thread.
    ///
    /// # Errors
    /// If the file differs from the ledger, returns an error that shows the differing lines. Also
    /// returns an error if the file does not exist, or cannot be read or written. An empty ledger
    /// is an error too, because the test would compare nothing.
    ///
    /// ```no_run
    /// # use cached_core::LedgerDrift;
    /// #[test]
    /// fn the_ledger_is_reviewed() -> Result<(), LedgerDrift> {
    ///     cached_core::ledger().check("CACHE-LEDGER.md")
    /// }
    /// ```
    ///
    /// The error contains the lines that differ:
    ///
    /// ```
    /// # use cached_core::{LedgerDriftKind, coordinator_cached, ledger};
    /// #[coordinator_cached(name = "check_doc", overwrite(reason = "prices have no version"))]
    /// async fn price(item: u32) -> Result<u64, std::io::Error> {
    ///     Ok(100)
    /// }
    ///
    /// # let _ = price(1);
    /// # let path = std::env::temp_dir().join(format!("check_doc.{}.md", std::process::id()));
    /// let ledger = ledger();
    /// let earlier = ledger.to_markdown().replace("prices have", "a price has");
    /// std::fs::write(&path, earlier)?;
    /// let drift = ledger.check(&path).unwrap_err();
    /// assert_eq!(drift.kind(), LedgerDriftKind::Differs);
    /// assert!(drift.removed().any(|line| line.contains("a price has no version")));
    /// assert!(drift.added().any(|line| line.contains("prices have no version")));
    ///
    /// std::fs::write(&path, ledger.to_markdown())?;
    /// assert!(ledger.check(&path).is_ok());
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn check(&self, path: impl AsRef<Path>) -> Result<(), LedgerDrift> {
        let variable = std::env::var_os(UPDATE_VARIABLE);
        let is_update = variable.is_some_and(|value| !value.is_empty() && value != "0");
        let drift = |kind, error| LedgerDrift {
            path: path.as_ref().to_owned(),
            kind,
            lines: Vec::new(),
            error,
        };
        if self.iter().next().is_none() {
            return Err(drift(LedgerDriftKind::Empty, None));
        }
        let current = self.to_markdown();
        let checked_in = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if is_update && error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(drift(LedgerDriftKind::Missing, Some(error)));
            }
            Err(error) => return Err(drift(LedgerDriftKind::Unreadable, Some(error))),
        };
        let lines = differing_lines(&checked_in, &current);
        if lines.is_empty() {
            return Ok(());
        }
        if is_update {
            let written = std::fs::write(&path, current);
            return written.map_err(|error| drift(LedgerDriftKind::NotWritten, Some(error)));
        }
        Err(LedgerDrift { lines, ..drift(LedgerDriftKind::Differs, None) })
    }
}

/// The error of [`Ledger::check`]: the file differs from the ledger, or they could not be compared.
///
/// `Display` shows the lines that differ, and how to update the file. `{:?}` writes the same text and
/// the [source](std::error::Error::source), because that is the format in which a failed test prints
/// the error. `{:#?}` shows the fields.
pub struct LedgerDrift {
    path: PathBuf,
    kind: LedgerDriftKind,
    lines: Vec<DifferingLine>,
    error: Option<io::Error>,
}

/// The reason why [`Ledger::check`] returned a [`LedgerDrift`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LedgerDriftKind {
    /// The file and the ledger differ.
    Differs,
    /// The file does not exist.
    Missing,
    /// The file cannot be read, or is not UTF-8.
    Unreadable,
    /// `UPDATE_LEDGER` is set, but the file cannot be written.
    NotWritten,
    /// The ledger lists no function, so there is nothing to compare.
    Empty,
}

/// A line that differs between the file and the ledger. A line that moved appears twice: as removed
/// and as added.
#[derive(Debug, PartialEq)]
enum DifferingLine {
    /// The file has the line here, and the ledger does not.
    Removed(String),
    /// The ledger has the line here, and the file does not.
    Added(String),
}

impl LedgerDrift {
    /// Returns the reason why the check failed.
    #[must_use]
    pub fn kind(&self) -> LedgerDriftKind {
        self.kind
    }

    /// Returns the path of the file, as it was passed to [`Ledger::check`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the lines of the file that the ledger does not have at the same place. A line that
    /// has moved is also in [`added`](Self::added).
    ///
    /// The iterator is empty unless the kind is [`LedgerDriftKind::Differs`].
    pub fn removed(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| match line {
            DifferingLine::Removed(line) => Some(line.as_str()),
            DifferingLine::Added(_) => None,
        })
    }

    /// Returns the lines of the ledger that the file does not have at the same place. A line that
    /// has moved is also in [`removed`](Self::removed).
    ///
    /// The iterator is empty unless the kind is [`LedgerDriftKind::Differs`].
    pub fn added(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| match line {
            DifferingLine::Added(line) => Some(line.as_str()),
            DifferingLine::Removed(_) => None,
        })
    }
}

impl fmt::Display for LedgerDrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LedgerDrift { path, kind, lines, .. } = self;
        let shown = path.display();
        match kind {
            LedgerDriftKind::Differs => {
                writeln!(f, "`{shown}` differs from the ledger of this program:")?;
                for line in lines {
                    match line {
                        DifferingLine::Removed(line) => writeln!(f, "- {line}")?,
                        DifferingLine::Added(line) => writeln!(f, "+ {line}")?,
                    }
                }
                f.write_str(
                    "if the change is intended, run `UPDATE_LEDGER=1 cargo test`, and commit the file",
                )
            }
            LedgerDriftKind::Missing => {
                write!(f, "`{shown}` does not exist")?;
                if path.is_relative()
                    && let Ok(folder) = std::env::current_dir()
                {
                    write!(f, " in `{}`", folder.display())?;
                }
                f.write_str("; run `UPDATE_LEDGER=1 cargo test` to write it, and commit it")
            }
            LedgerDriftKind::Unreadable => write!(f, "`{shown}` cannot be read"),
            LedgerDriftKind::NotWritten => write!(f, "`{shown}` cannot be written"),
            LedgerDriftKind::Empty => f.write_str(
                "the ledger lists no function, so there is nothing to compare; move the test into the \
                 crate whose functions are annotated, or correct the names in `of_crates`",
            ),
        }
    }
}

impl fmt::Debug for LedgerDrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LedgerDrift { path, kind, lines, error } = self;
        if !f.alternate() {
            fmt::Display::fmt(self, f)?;
            return match error {
                // The text already says that the file does not exist.
                Some(error) if *kind != LedgerDriftKind::Missing => write!(f, ": {error}"),
                _ => Ok(()),
            };
        }
        f.debug_struct("LedgerDrift")
            .field("path", path)
            .field("kind", kind)
            .field("lines", lines)
            .field("error", error)
            .finish()
    }
}

impl std::error::Error for LedgerDrift {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.as_ref().map(|error| error as _)
    }
}

/// Compares two texts line by line. Returns the removed and added lines, in the order of the texts.
fn differing_lines(before: &str, after: &str) -> Vec<DifferingLine> {
    let (before, after): (Vec<&str>, Vec<&str>) =
        (before.lines().collect(), after.lines().collect());
    let pairs = || before.iter().zip(&after);
    let head = pairs().take_while(|(before, after)| before == after).count();
    let (before, after) = (&before[head..], &after[head..]);
    let tail = before.iter().rev().zip(after.iter().rev());
    let tail = tail.take_while(|(before, after)| before == after).count();
    let (before, after) = (&before[..before.len() - tail], &after[..after.len() - tail]);

    let removed = |line: &&str| DifferingLine::Removed((*line).to_owned());
    let added = |line: &&str| DifferingLine::Added((*line).to_owned());
    if before.len() * after.len() > MAX_COMPARED_PAIRS {
        return before.iter().map(removed).chain(after.iter().map(added)).collect();
    }
    let common = common_line_counts(before, after);
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < before.len() || j < after.len() {
        if i < before.len() && j < after.len() && before[i] == after[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == after.len() || (i < before.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(removed(&before[i]));
            i += 1;
        } else {
            lines.push(added(&after[j]));
            j += 1;
        }
    }
    lines
}

/// Returns a comparison table: `table[i][j]` is the length of the longest common subsequence of
/// `before[i..]` and `after[j..]`.
fn common_line_counts(before: &[&str], after: &[&str]) -> Vec<Vec<u32>> {
    let mut table = vec![vec![0; after.len() + 1]; before.len() + 1];
    for i in (0..before.len()).rev() {
        for j in (0..after.len()).rev() {
            table[i][j] = match before[i] == after[j] {
                true => table[i + 1][j + 1] + 1,
                false => table[i + 1][j].max(table[i][j + 1]),
            };
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(before: &str, after: &str) -> Vec<String> {
        let lines = differing_lines(before, after).into_iter().map(|line| match line {
            DifferingLine::Removed(line) => format!("-{line}"),
            DifferingLine::Added(line) => format!("+{line}"),
        });
        lines.collect()
    }

    #[test]
    fn only_differing_lines_are_shown() {
        assert!(diff("a\nb\n", "a\nb\n").is_empty());
        assert_eq!(diff("a\nb\nc\n", "a\nB\nc\n"), ["-b", "+B"]);
        assert_eq!(diff("a\nc\n", "a\nb\nc\nd\n"), ["+b", "+d"]);
        assert_eq!(diff("a\nb\nc\nd\n", "b\nd\n"), ["-a", "-c"]);
        assert_eq!(diff("", "a\n"), ["+a"]);
        assert_eq!(diff("a\na\n", "a\n"), ["-a"]);
        assert_eq!(diff("a\nb\n", "b\na\n"), ["-a", "+a"]);
    }

    #[test]
    fn line_endings_do_not_count() {
        assert!(diff("a\r\nb\r\n", "a\nb\n").is_empty());
        assert!(diff("a\nb", "a\nb\n").is_empty());
    }

    #[test]
    fn too_many_differing_lines_are_not_matched() {
        // The last of the 6,000 lines is equal in both texts, so it is cut off before the
        // comparison.
        let lines = |letter: &str| format!("{letter}\ncommon\n").repeat(3_000);
        assert_eq!(diff(&lines("a"), &lines("b")).len(), 2 * 5_999);
    }
}
