//! Draws plots as SVG.

use std::fmt::Write;

const OURS: &str = "#d9541e";
const OTHERS: &str = "#8aa2b8";

/// The name of a line, and its points from left to right.
pub type Line<'n> = (&'n str, Vec<(f64, f64)>);

/// Draws one bar for each row.
pub fn bars(title: &str, unit: &str, rows: &[(String, f64)]) -> String {
    let longest = rows.iter().map(|row| row.1).fold(0.0, f64::max);
    let mut svg = begin(title, unit, 40 + rows.len() * 26);
    for (index, (name, value)) in rows.iter().enumerate() {
        let (y, width) = (36 + index * 26, 370.0 * value / longest);
        let color = if name.starts_with("cached-core") { OURS } else { OTHERS };
        let _ = writeln!(
            svg,
            "<text x=\"300\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"308\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" fill=\"{color}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            y + 14,
            escaped(name),
            314.0 + width,
            y + 14,
            short(*value)
        );
    }
    svg + "</svg>\n"
}

/// Draws one line for each row. Both axes are logarithmic.
pub fn lines(title: &str, unit: &str, axis: &str, rows: &[Line<'_>]) -> String {
    const COLORS: [&str; 6] = ["#1f77b4", "#2ca02c", "#9467bd", "#7f7f7f", "#17a2b8", "#8c564b"];
    const HEIGHT: usize = 400;
    let (left, right, top, bottom) = (50.0, 550.0, 40.0, 355.0);
    let range = |at: fn(&(f64, f64)) -> f64| {
        let values = || rows.iter().flat_map(|row| &row.1).map(at);
        (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max))
    };
    let (first, last) = range(|point| point.0);
    let (lowest, highest) = range(|point| point.1);
    let (lowest, highest) = (round_below(lowest), round_above(highest));
    let part = |value: f64, from: f64, to: f64| (value / from).ln() / (to / from).ln();
    let across = |value: f64| left + (right - left) * part(value, first, last);
    let up = |value: f64| bottom - (bottom - top) * part(value, lowest, highest);

    let mut svg = begin(title, unit, HEIGHT);
    for value in round_numbers().filter(|value| (lowest..=highest).contains(value)) {
        let y = up(value);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            left - 6.0,
            y + 4.0
        );
    }
    for value in (0..9).map(|zeros| 10_usize.pow(zeros)) {
        if !(first..=last).contains(&(value as f64)) {
            continue;
        }
        let x = across(value as f64);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {top}V{bottom}\" stroke=\"#dddddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            thousands(value)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{axis}</text>",
        (left + right) / 2.0,
        bottom + 36.0
    );
    // Each name is at the end of its line, at some distance from the other names.
    let mut ends: Vec<(usize, f64)> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| (index, up(row.1.last().expect("a point").1)))
        .collect();
    ends.sort_by(|one, other| other.1.total_cmp(&one.1));
    let mut below = HEIGHT as f64;
    let mut others = COLORS.iter().cycle();
    for (index, end) in ends {
        let (name, points) = &rows[index];
        let ours = name.starts_with("cached-core");
        let color = if ours { OURS } else { others.next().expect("the colours never end") };
        // This library's first line is row 0. If the library has a second line, it is dashed.
        let dashes = if ours && index > 0 { " stroke-dasharray=\"6 3\"" } else { "" };
        let path: Vec<String> =
            points.iter().map(|(x, y)| format!("{:.1} {:.1}", across(*x), up(*y))).collect();
        below = (below - 16.0).min(end + 4.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"{dashes}/>\
             <text x=\"{}\" y=\"{below:.1}\" fill=\"{color}\">{}</text>",
            path.join("L"),
            right + 6.0,
            escaped(name)
        );
    }
    svg + "</svg>\n"
}

fn begin(title: &str, unit: &str, height: usize) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-weight=\"bold\">{}, {unit}</text>\n",
        escaped(title)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Returns 1, 2, 5, 10, 20, 50 and so on.
fn round_numbers() -> impl Iterator<Item = f64> {
    (0..9).flat_map(|zeros| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(zeros)))
}

fn round_below(value: f64) -> f64 {
    round_numbers().take_while(|round| *round <= value).last().unwrap_or(value)
}

fn round_above(value: f64) -> f64 {
    round_numbers().find(|round| *round >= value).unwrap_or(value)
}

/// Formats a number with few digits.
pub fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// Formats a number with commas between the thousands.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
