//! The tables: on the terminal, and as Markdown and SVG.

use std::fmt::Write;
use std::path::Path;

use crate::harness::Results;

#[derive(Default)]
pub struct Report {
    markdown: String,
    plots: Vec<(String, String)>,
}

impl Report {
    /// Adds what came of a race, each contender also as a multiple of `other`.
    pub fn table(&mut self, title: &str, unit: &str, other: &str, results: &Results) {
        let Some(&first) = results.names().first() else {
            println!("{title}: no contender has that in its name");
            return;
        };
        let other = if results.names().contains(&other) { other } else { first };
        println!("{title}");
        let _ = write!(self.markdown, "\n### {title}\n\n| | {unit} | × {other} |\n|---|--:|--:|\n");
        let mut rows = Vec::new();
        for &name in results.names() {
            let (median, ratio) = (results.median(name), results.ratio(name, other));
            let median =
                if median < 10.0 { format!("{median:.2}") } else { format!("{median:.0}") };
            println!("  {name:45} {median:>8} {unit}  {ratio:6.2} × {other}");
            let _ = writeln!(self.markdown, "| {name} | {median} | {ratio:.2} |");
            rows.push((name, results.median(name), median));
        }
        if results.names().len() > 1 {
            let name: String = title
                .to_lowercase()
                .split(|c: char| !c.is_ascii_alphanumeric())
                .filter(|word| !word.is_empty())
                .collect::<Vec<_>>()
                .join("-");
            let _ = writeln!(self.markdown, "\n![{title}](performance-{name}.svg)");
            self.plots.push((format!("performance-{name}.svg"), plot(title, unit, &rows)));
        }
    }

    /// Puts the tables between the markers of `performance.md` in the folder, and the plots beside it.
    pub fn write(&self, folder: &Path) {
        const BEGIN: &str = "<!-- written by scripts/bench: begin -->\n";
        const END: &str = "<!-- written by scripts/bench: end -->";
        let path = folder.join("performance.md");
        let page = std::fs::read_to_string(&path).expect("the page is there");
        let (before, rest) = page.split_once(BEGIN).expect("it has a beginning for the tables");
        let (_, after) = rest.split_once(END).expect("it has an end for the tables");
        let page = format!("{before}{BEGIN}{}\n{END}{after}", self.markdown);
        std::fs::write(&path, page).expect("it can be written");
        for (name, plot) in &self.plots {
            std::fs::write(folder.join(name), plot).expect("it can be written");
        }
    }
}

/// One bar for each row.
fn plot(title: &str, unit: &str, rows: &[(&str, f64, String)]) -> String {
    let longest = rows.iter().map(|row| row.1).fold(0.0, f64::max);
    let height = 40 + rows.len() * 26;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-weight=\"bold\">{title}, {unit}</text>\n"
    );
    for (index, (name, value, shown)) in rows.iter().enumerate() {
        let (y, width) = (36 + index * 26, 370.0 * value / longest);
        let color = if name.starts_with("cached-core") { "#d9541e" } else { "#8aa2b8" };
        let name = name.replace('&', "&amp;");
        let _ = writeln!(
            svg,
            "<text x=\"300\" y=\"{}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"308\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" fill=\"{color}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{shown}</text>",
            y + 14,
            314.0 + width,
            y + 14
        );
    }
    svg.push_str("</svg>\n");
    svg
}
