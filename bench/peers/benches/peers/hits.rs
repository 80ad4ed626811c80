//! Measures hits on one thread for different numbers of keys. Every key has an entry.

use std::hint::black_box;

use tokio::runtime::Runtime;

use crate::harness::{Contender, Results, race, sequence, timed};
use crate::order::{fetches, upstream};
use crate::payment::State;
use crate::report::Report;
use crate::stores::{
    CACHED, CONCURRENT_CACHED, FOYER, MOKA, OURS, OURS_OWNED, QUICK_CACHE, concurrent, foyer,
    foyer_get, locked, moka_sync, ours, ours_owned, prepare_for, quick,
};
use crate::{child, plot};

const KEYS: [usize; 10] =
    [REPEATED, 100, 200, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000];
/// With this number of keys, calls go through the keys in turn. With more keys, calls choose keys
/// at random.
const REPEATED: usize = 8;

pub fn report(report: &mut Report) {
    let title = "A hit over the number of keys";
    let races = KEYS.map(|keys| (keys, child::run("hits", &keys.to_string())));
    let mut head = vec![String::new()];
    head.extend(KEYS.map(|keys| match keys {
        REPEATED => format!("{keys}, repeated"),
        _ => plot::thousands(keys),
    }));
    let names: Vec<&str> = races[0].1.names().collect();
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    for name in names {
        let mut row = vec![name.to_owned()];
        let mut line = Vec::new();
        for (keys, results) in &races {
            let (took, ratio) = (results.median(name), results.ratio(name, CONCURRENT_CACHED));
            row.push(format!("{took:.0} ({ratio:.2})"));
            line.push((*keys as f64, took));
        }
        rows.push(row);
        lines.push((name, line));
    }
    let note = format!("Nanoseconds, and in brackets the ratio to `{CONCURRENT_CACHED}`.");
    report.table(title, &note, &head, &rows);
    report.plot(title, plot::lines(title, "ns", "keys", &lines));
}

/// Runs the race for this number of keys. A child process that [`report`] starts calls this.
pub fn measure(keys: &str) -> Results {
    let keys: usize = keys.parse().expect("a number of keys");
    let runtime = prepare_for(keys);
    match keys {
        REPEATED => race_for(&runtime, keys, (0..keys).cycle()),
        _ => race_for(&runtime, keys, sequence(keys)),
    }
}

/// Fills the store with the keys below `$all`, and returns a contender that looks up `$keys`.
macro_rules! hits {
    ($name:expr, $runtime:expr, $all:expr, $keys:expr, |$id:ident| $call:expr, |$new:ident| $fill:expr) => {{
        let (runtime, mut keys) = ($runtime, $keys.clone());
        runtime.block_on(async {
            for $new in 0..$all as u64 {
                let _ = $fill;
            }
        });
        timed($name, move |count: usize| {
            runtime.block_on(async {
                for key in keys.by_ref().take(count) {
                    let $id = key as u64;
                    assert!(black_box($call).is_some());
                }
            })
        })
    }};
}

fn race_for(runtime: &Runtime, all: usize, keys: impl Iterator<Item = usize> + Clone) -> Results {
    let (moka, quick, foyer) = (moka_sync(), quick(), foyer());
    let new = async |id| upstream(id, State::Paid).await.expect("the fetch succeeds");
    let contenders: Vec<Contender<'_>> = vec![
        hits!(OURS, runtime, all, keys, |id| ours(id, State::Paid).await.ok(), |id| {
            ours(id, State::Paid).await
        }),
        hits!(OURS_OWNED, runtime, all, keys, |id| ours_owned(id, State::Paid).await.ok(), |id| {
            ours_owned(id, State::Paid).await
        }),
        hits!(
            CONCURRENT_CACHED,
            runtime,
            all,
            keys,
            |id| concurrent(id, State::Paid).await.ok(),
            |id| concurrent(id, State::Paid).await
        ),
        hits!(CACHED, runtime, all, keys, |id| locked(id, State::Paid).await.ok(), |id| {
            locked(id, State::Paid).await
        }),
        hits!(MOKA, runtime, all, keys, |id| moka.get(&(id, State::Paid)), |id| {
            moka.insert((id, State::Paid), new(id).await)
        }),
        hits!(QUICK_CACHE, runtime, all, keys, |id| quick.get(&(id, State::Paid)), |id| {
            quick.insert((id, State::Paid), new(id).await)
        }),
        hits!(FOYER, runtime, all, keys, |id| foyer_get(&foyer, id, State::Paid), |id| {
            foyer.insert((id, State::Paid), new(id).await)
        }),
    ];
    // A batch is long enough to load the entries into the caches of the processor, if they fit.
    let count = (2 * all).clamp(10_000, 300_000);
    let before = fetches();
    let results = race((1_000_000 / count).clamp(9, 51), count, contenders);
    assert_eq!(fetches(), before, "every call is a hit");
    results
}
