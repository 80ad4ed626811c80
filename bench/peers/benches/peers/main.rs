//! Compares cached-core with other caches. `cargo bench` prints all tables, and
//! `cargo bench -- PART` prints the tables of one part, such as `keys`. With `--write FOLDER`
//! instead of a part, the program also writes all tables to files, as Markdown and SVG.

mod child;
mod harness;
mod hitbox;
mod hits;
#[path = "../../../../tests/tests/capacity/kinds.rs"]
mod kinds;
mod memcached;
mod memory;
mod misses;
mod order;
mod payment;
mod plot;
mod remote;
mod report;
mod stores;
mod texts;
mod threads;
mod zipf;

use harness::Results;
use report::Report;

/// The name of a part of the report, and the function that adds the part's tables.
type ReportPart = (&'static str, fn(&mut Report));

const PARTS: [ReportPart; 7] = [
    ("keys", hits::report),
    ("text", texts::report),
    ("miss", misses::report),
    ("threads", threads::report),
    ("zipf", zipf::report),
    ("memory", memory::report),
    ("remote", remote::report),
];

/// The name of a measurement, and the function that runs the measurement in a child process.
type Measurement = (&'static str, fn(&str) -> Results);

const MEASUREMENTS: [Measurement; 9] = [
    ("hits", hits::measure),
    ("misses", misses::measure),
    ("threads", threads::measure),
    ("zipf", zipf::measure),
    ("held", zipf::held),
    ("entries", memory::entries),
    ("growth", memory::growth),
    ("growth-large", memory::growth_large),
    ("remote", remote::measure),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (folder, only) = match arguments[..] {
        [] => (None, None),
        ["--write", folder] => (Some(folder), None),
        [child::CHILD_FLAG, measurement, of] => {
            let (_, measure) =
                MEASUREMENTS.iter().find(|one| one.0 == measurement).expect("a measurement");
            return print!("{}", measure(of));
        }
        [part] if PARTS.iter().any(|one| one.0 == part) => (None, Some(part)),
        _ => panic!("peers [--write FOLDER | {}]", PARTS.map(|part| part.0).join(" | ")),
    };
    let mut report = Report::default();
    for (name, part) in PARTS {
        if only.is_none_or(|only| only == name) {
            part(&mut report);
        }
    }
    if let Some(folder) = folder {
        report.write(folder.as_ref());
    }
}
