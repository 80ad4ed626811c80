//! Measures how much memory a cache entry takes: how much a process grows when it stores entries.

use std::time::Duration;

use crate::harness::Results;
use crate::kinds::{KINDS, resident};
use crate::order::{fetches, upstream};
use crate::payment::State;
use crate::report::Report;
use crate::stores::{
    CACHED, CONCURRENT_CACHED, FOYER, MOKA, OURS, QUICK_CACHE, concurrent, foyer, foyer_get,
    locked, moka_sync, ours, prepare_for, quick,
};
use crate::{child, plot};

const ENTRIES: usize = 1_000_000;
const NO_STORE: &str = "keys and values in a Vec";
const NAMES: [&str; 7] = [OURS, CONCURRENT_CACHED, CACHED, MOKA, QUICK_CACHE, FOYER, NO_STORE];
const CAPACITY: u64 = 64 << 20;
/// A capacity for two million entries of a few bytes.
const LARGE_CAPACITY: u64 = 1200 << 20;

pub fn report(report: &mut Report) {
    let title = format!("Memory of an entry, {} entries", plot::thousands(ENTRIES));
    let bytes = NAMES.map(|name| (name.to_owned(), child::run("entries", name).median(name)));
    let rows = bytes.clone().map(|(name, bytes)| vec![name, format!("{bytes:.0}")]);
    let note = "By how much a process grew, for each entry: a `u64` and an enum for a key, an `Arc` \
                of a struct of 24 bytes for a value.";
    report.table(&title, note, &["", "bytes"].map(str::to_owned), &rows);
    report.plot(&title, plot::bars(&title, "bytes", &bytes));

    let title = "Memory of a cache that is filled with twice its capacity";
    let mut percent =
        KINDS.map(|(kind, _)| (kind.to_owned(), child::run("growth", kind).median(kind))).to_vec();
    let kind = KINDS[0].0;
    percent.push((format!("{kind}, in {} MiB", LARGE_CAPACITY >> 20), {
        child::run("growth-large", kind).median(kind)
    }));
    let rows = percent.iter().map(|(kind, percent)| vec![kind.clone(), format!("{percent:.0} %")]);
    let rows: Vec<_> = rows.collect();
    let note = format!(
        "By how much a process grew, in percent of a `local_capacity` of {} MiB. The last row has \
         a capacity for two million entries.",
        CAPACITY >> 20
    );
    report.table(title, &note, &["values", "of the capacity"].map(str::to_owned), &rows);
    report.plot(title, plot::bars(title, "% of the capacity", &percent));
}

/// Fills one store in a child process, and returns the number of bytes for each entry.
pub fn entries(name: &str) -> Results {
    let runtime = prepare_for(ENTRIES);
    let before = resident();
    let (moka, quick, foyer) = (moka_sync(), quick(), foyer());
    let mut vector = Vec::new();
    macro_rules! fill {
        (|$id:ident| $insert:expr, $get:expr) => {
            runtime.block_on(async {
                for $id in 0..ENTRIES as u64 {
                    let _ = $insert;
                }
                // moka does a part of its work in the background, so the test waits.
                tokio::time::sleep(Duration::from_millis(500)).await;
                let before = fetches();
                for $id in 0..1_000 {
                    assert!($get.is_some());
                }
                assert_eq!(fetches(), before, "the first entries are still present");
            })
        };
    }
    let new = async |id| upstream(id, State::Paid).await.expect("it answers");
    match name {
        OURS => fill!(|id| ours(id, State::Paid).await, ours(id, State::Paid).await.ok()),
        CONCURRENT_CACHED => {
            fill!(|id| concurrent(id, State::Paid).await, concurrent(id, State::Paid).await.ok())
        }
        CACHED => fill!(|id| locked(id, State::Paid).await, locked(id, State::Paid).await.ok()),
        MOKA => {
            fill!(|id| moka.insert((id, State::Paid), new(id).await), moka.get(&(id, State::Paid)))
        }
        QUICK_CACHE => fill!(
            |id| quick.insert((id, State::Paid), new(id).await),
            quick.get(&(id, State::Paid))
        ),
        FOYER => fill!(
            |id| foyer.insert((id, State::Paid), new(id).await),
            foyer_get(&foyer, id, State::Paid)
        ),
        NO_STORE => {
            vector.reserve_exact(ENTRIES);
            fill!(|id| vector.push(((id, State::Paid), new(id).await)), vector.get(id as usize))
        }
        _ => panic!("there is no store `{name}`"),
    }
    moka.run_pending_tasks();
    let mut results = Results::default();
    results.push(name, vec![(resident() - before) as f64 / ENTRIES as f64]);
    results
}

/// Fills a cache with one kind of values in a child process. Returns the growth of the process in
/// percent of the capacity.
pub fn growth(kind: &str) -> Results {
    growth_of(CAPACITY, kind)
}

/// Measures as [`growth`] does, with a capacity for two million entries.
pub fn growth_large(kind: &str) -> Results {
    growth_of(LARGE_CAPACITY, kind)
}

fn growth_of(capacity: u64, kind: &str) -> Results {
    let (_, grown) = KINDS.iter().find(|one| one.0 == kind).expect("a kind");
    let mut results = Results::default();
    results.push(kind, vec![grown(capacity) as f64 * 100.0 / capacity as f64]);
    results
}
