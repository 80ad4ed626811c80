//! Measures caches that have room for a tenth of the keys. The popularity of the keys follows
//! Zipf's law. The measured times include both hits and misses.

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::{Results, fractions, measured_notes, race, timed};
use crate::order::{fetches, make};
use crate::payment::State;
use crate::report::Report;
use crate::stores::{
    CONCURRENT_CACHED, FOYER, MOKA, QUICK_CACHE, concurrent, concurrent_entries, foyer, foyer_get,
    moka_sync, ours_bare, ours_bare_entry, prepare, quick,
};
use crate::{child, plot};

const KEYS: usize = 1_000_000;
const ROOM: usize = KEYS / 10;
const EXPONENT: f64 = 0.99;
const OURS: &str = "cached-core";
const NAMES: [&str; 5] = [OURS, CONCURRENT_CACHED, MOKA, QUICK_CACHE, FOYER];

pub fn report(report: &mut Report) {
    let title = "Zipf 0.99 over 1,000,000 keys, room for a tenth";
    // The capacity of cached-core is in bytes. A run with a small cache shows how many bytes an
    // entry takes. From this, the capacity for a tenth of the keys is computed.
    let sample: usize = 32 << 20;
    let held = child::run("held", &sample.to_string()).median(OURS);
    let bytes = (sample as f64 / held * ROOM as f64) as usize;
    let results = child::run("zipf", &bytes.to_string());
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for name in NAMES {
        let took = results.median(name);
        rows.push(vec![
            name.to_owned(),
            plot::short(took),
            format!("{:.2}", results.ratio(name, MOKA)),
            format!("{:.1} %", 100.0 * results.median(&hit_ratio_of(name))),
            plot::thousands(results.median(&entries_of(name)) as usize),
        ]);
        bars.push((name.to_owned(), took));
    }
    let head = ["", "ns", &format!("× {MOKA}"), "hit ratio", "entries held"];
    let note = format!(
        "An access, hits and misses together. {OURS} has a capacity of {} bytes, which holds about \
         as many entries as the others have room for.",
        plot::thousands(bytes)
    );
    report.table(title, &note, &head.map(str::to_owned), &rows);
    report.plot(title, plot::bars(title, "ns", &bars));
}

fn hit_ratio_of(name: &str) -> String {
    format!("{name}, hit ratio")
}

fn entries_of(name: &str) -> String {
    format!("{name}, entries")
}

/// Returns a sequence of keys that follows Zipf's law. Key 0 is the most popular one.
fn trace(length: usize) -> Vec<u32> {
    let mut sum = 0.0;
    let mut sums = Vec::with_capacity(KEYS);
    for rank in 1..=KEYS {
        sum += (rank as f64).powf(-EXPONENT);
        sums.push(sum);
    }
    let keys = fractions().take(length).map(|fraction| {
        let at = fraction as f64 / (1_u64 << 32) as f64 * sum;
        sums.partition_point(|sum| *sum <= at) as u32
    });
    keys.collect()
}

/// Returns how many entries a cache with this capacity holds. Runs in a child process.
pub fn held(bytes: &str) -> Results {
    let runtime = prepare(ROOM, bytes.parse().expect("bytes"));
    runtime.block_on(async {
        for id in 0..KEYS as u64 / 2 {
            black_box(ours_bare(id, State::Paid).await);
        }
    });
    let mut results = Results::default();
    results.push(OURS, vec![runtime.block_on(count_ours())]);
    results
}

async fn count_ours() -> f64 {
    // cached-core stores its entries in moka. moka evicts entries during later calls, and only
    // after a while.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for id in 0..1_000 {
        black_box(ours_bare(id, State::Paid).await);
    }
    let mut entries = 0;
    for id in 0..KEYS as u64 {
        entries += usize::from(ours_bare_entry(id, State::Paid).get().await.is_found());
    }
    entries as f64
}

/// Runs the race between the caches. This function runs in a child process.
pub fn measure(bytes: &str) -> Results {
    let runtime = &prepare(ROOM, bytes.parse().expect("bytes"));
    let (moka, quick, foyer) = (&moka_sync(), &quick(), &foyer());
    let trace = &trace(1 << 22);
    let hit_ratios = NAMES.map(|_| Mutex::new(Vec::new()));
    // Each contender looks up the keys of the trace in order, and begins again at the end.
    macro_rules! contend {
        ($at:expr, |$id:ident| $call:expr) => {{
            let (hit_ratios, mut keys) = (&hit_ratios[$at], trace.iter().cycle());
            timed(NAMES[$at], move |count| {
                let before = fetches();
                runtime.block_on(async {
                    for key in keys.by_ref().take(count) {
                        let $id = u64::from(*key);
                        black_box($call);
                    }
                });
                let misses = (fetches() - before) as f64;
                hit_ratios
                    .lock()
                    .expect("no thread panics while it holds the lock")
                    .push(1.0 - misses / count as f64);
            })
        }};
    }
    let mut contenders = vec![
        contend!(0, |id| ours_bare(id, State::Paid).await),
        contend!(1, |id| concurrent(id, State::Paid).await.is_ok()),
        contend!(2, |id| moka.get(&(id, State::Paid)).unwrap_or_else(|| {
            let order = Arc::new(make(id, State::Paid));
            moka.insert((id, State::Paid), Arc::clone(&order));
            order
        })),
        contend!(3, |id| quick.get(&(id, State::Paid)).unwrap_or_else(|| {
            let order = Arc::new(make(id, State::Paid));
            quick.insert((id, State::Paid), Arc::clone(&order));
            order
        })),
        contend!(4, |id| foyer_get(foyer, id, State::Paid).unwrap_or_else(|| {
            let order = Arc::new(make(id, State::Paid));
            foyer.insert((id, State::Paid), Arc::clone(&order));
            order
        })),
    ];
    // This fills the stores, mostly with popular keys. Its hit ratios are discarded.
    contenders.iter_mut().for_each(|contender| contender.prepare(KEYS));
    hit_ratios.iter().for_each(|ratios| {
        ratios.lock().expect("no thread panics while it holds the lock").clear()
    });
    let mut results = race(11, 200_000, contenders);

    moka.run_pending_tasks();
    let entries = [
        runtime.block_on(count_ours()),
        concurrent_entries() as f64,
        moka.entry_count() as f64,
        quick.len() as f64,
        foyer.entries() as f64,
    ];
    for ((name, ratios), entries) in NAMES.iter().zip(hit_ratios).zip(entries) {
        let ratios = ratios.into_inner().expect("no thread panics while it holds the lock");
        results.push(hit_ratio_of(name), measured_notes(ratios));
        results.push(entries_of(name), vec![entries]);
    }
    results
}
