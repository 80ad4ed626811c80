//! cached-core beside its peers, in one run. `cargo bench` prints the tables; with `--write FOLDER`
//! it writes them there too, as Markdown and SVG. A word after `--` races only what has it in its name.

mod harness;
mod hitbox;
mod hits;
mod memcached;
mod misses;
mod payment;
mod remote;
mod report;
mod threads;

use tokio::runtime::Builder;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let (folder, only) = match &arguments[..] {
        [] => (None, None),
        [write, folder] if write == "--write" => (Some(folder), None),
        [only] => (None, Some(&only[..])),
        _ => panic!("peers [--write FOLDER | NAME]"),
    };
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut report = report::Report::default();
    for keys in [200, 1_000] {
        let results = hits::run(&runtime, keys, 25, 10_000, only);
        report.table(&format!("A hit, {keys} hot keys"), "ns", hits::PEER, &results);
    }
    if only.is_none() {
        report.table("A miss", "ns", misses::BARE, &misses::run(&runtime, 25, 2_000));
        report.table("Two threads on distinct keys", "ns", threads::ONE, &threads::run(false));
        report.table("Two threads on one key", "ns", threads::ONE, &threads::run(true));
        for (title, results) in remote::run() {
            report.table(&title, "µs", remote::BARE, &results);
        }
    }
    if let Some(folder) = folder {
        report.write(folder.as_ref());
    }
}
