//! The report of a benchmark: tables, which are printed and written as Markdown, and SVG plots.

use std::fmt::Write;
use std::path::Path;

use crate::harness::Results;
use crate::plot;

#[derive(Default)]
pub struct Report {
    markdown: String,
    plots: Vec<(String, String)>,
}

impl Report {
    /// Adds the results of a race between several contenders. The table shows each contender's
    /// median, and the ratio to the contender `other`.
    pub fn race(&mut self, title: &str, unit: &str, other: &str, results: &Results) {
        let mut rows = Vec::new();
        let mut bars = Vec::new();
        for name in results.names() {
            let (median, ratio) = (results.median(name), results.ratio(name, other));
            rows.push(vec![name.to_owned(), plot::short(median), format!("{ratio:.2}")]);
            bars.push((name.to_owned(), median));
        }
        let head = [String::new(), unit.to_owned(), format!("× {other}")];
        self.table(title, "", &head, &rows);
        self.plot(title, plot::bars(title, unit, &bars));
    }

    /// Adds a table. The note stands above the table, and can be empty. The first column has the
    /// names of the rows.
    pub fn table(&mut self, title: &str, note: &str, head: &[String], rows: &[Vec<String>]) {
        println!("\n{title}");
        if !note.is_empty() {
            println!("{note}");
        }
        let widths: Vec<usize> = (0..head.len())
            .map(|at| {
                let cells = rows.iter().map(|row| &row[at]).chain([&head[at]]);
                cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
            })
            .collect();
        for row in [head].into_iter().chain(rows.iter().map(Vec::as_slice)) {
            print!("  {:name$}", row[0], name = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                print!("  {cell:>width$}");
            }
            println!();
        }

        let _ = writeln!(self.markdown, "\n### {title}\n");
        if !note.is_empty() {
            let _ = writeln!(self.markdown, "{note}\n");
        }
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        self.markdown.push_str(&line(head));
        let _ = writeln!(self.markdown, "|---{}|", "|--:".repeat(head.len() - 1));
        rows.iter().for_each(|row| self.markdown.push_str(&line(row)));
    }

    /// Adds a plot below the last table.
    pub fn plot(&mut self, title: &str, plot: String) {
        let name: String = title
            .to_lowercase()
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join("-");
        let _ = writeln!(self.markdown, "\n![{title}](performance-{name}.svg)");
        self.plots.push((format!("performance-{name}.svg"), plot));
    }

    /// Writes the tables to `performance.md` in this folder, between two markers. Writes the plots
    /// beside that file.
    pub fn write(&self, folder: &Path) {
        const BEGIN: &str = "<!-- written by scripts/bench: begin -->\n";
        const END: &str = "<!-- written by scripts/bench: end -->";
        let path = folder.join("performance.md");
        let page = std::fs::read_to_string(&path).expect("the page is there");
        let (before, rest) =
            page.split_once(BEGIN).expect("the page has a beginning for the tables");
        let (_, after) = rest.split_once(END).expect("the page has an end for the tables");
        let page = format!("{before}{BEGIN}{}\n{END}{after}", self.markdown);
        std::fs::write(&path, page).expect("the file can be written");
        // An earlier run might have left plots with other titles.
        for file in folder.read_dir().expect("the folder can be read") {
            let path = file.expect("the folder can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("performance-") && name.ends_with(".svg") {
                std::fs::remove_file(&path).expect("the file can be removed");
            }
        }
        for (name, plot) in &self.plots {
            std::fs::write(folder.join(name), plot).expect("the file can be written");
        }
    }
}
