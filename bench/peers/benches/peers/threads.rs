//! Measures the cache hits of several crates on one thread and on two threads, and compares the
//! throughput.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use tokio::runtime::Builder;

use crate::harness::{Results, measured, race, sequence};
use crate::order::upstream;
use crate::payment::State;
use crate::report::Report;
use crate::stores::{
    CACHED, CONCURRENT_CACHED, FOYER, MOKA, OURS, QUICK_CACHE, concurrent, foyer, foyer_get,
    locked, moka_sync, ours, prepare_for, quick,
};
use crate::{child, plot};

const ARITHMETIC: &str = "arithmetic";
const NAMES: [&str; 7] = [OURS, CONCURRENT_CACHED, CACHED, MOKA, QUICK_CACHE, FOYER, ARITHMETIC];

pub fn report(report: &mut Report) {
    for keys in [1, 1_000, 100_000] {
        let title = match keys {
            1 => "Two threads on one key".to_owned(),
            _ => format!("Two threads, each on its half of {} keys", plot::thousands(keys)),
        };
        let results = child::run("threads", &keys.to_string());
        let mut rows = Vec::new();
        let mut bars = Vec::new();
        for name in NAMES {
            let (one, two) = (on(1, name), on(2, name));
            let more = results.ratio(&one, &two);
            let took = [results.median(&one), results.median(&two)].map(plot::short);
            let [one, two] = took;
            rows.push(vec![name.to_owned(), one, two, format!("{more:.2}")]);
            bars.push((name.to_owned(), more));
        }
        let head = ["", "one thread, ns", "two threads, ns", "throughput, × one thread's"];
        let note = "How long a hit takes, over all threads.";
        report.table(&title, note, &head.map(str::to_owned), &rows);
        report.plot(&title, plot::bars(&title, "throughput, × one thread's", &bars));
    }
}

fn on(threads: usize, name: &str) -> String {
    format!("{name}, {threads}")
}

/// Returns the elapsed nanoseconds divided by the number of hits on all threads. If two threads do
/// not slow each other down, this is half of what one thread takes. Each thread looks up its own
/// half of the keys, also when it runs alone. If there is a single key, all threads look it up.
fn hit_on(threads: usize, count: usize, keys: usize, hit: &(impl AsyncFn(u64) + Sync)) -> f64 {
    let half = (keys / 2).max(1);
    let start = Barrier::new(threads);
    let took = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let start = &start;
                scope.spawn(move || {
                    let runtime =
                        Builder::new_current_thread().build().expect("the runtime starts");
                    let first = if keys == 1 { 0 } else { thread * half };
                    let mut own = sequence(half);
                    let mut ask = |count: usize| {
                        runtime.block_on(async {
                            for key in own.by_ref().take(count) {
                                hit((first + key) as u64).await;
                            }
                        });
                    };
                    ask(half.max(4_000));
                    start.wait();
                    let began = Instant::now();
                    ask(count);
                    began.elapsed()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no thread panics")).max()
    });
    took.expect("a thread").as_nanos() as f64 / (threads * count) as f64
}

/// A computation that takes about as long as a hit, and shares no memory. Its throughput is the
/// best that two threads can reach.
fn arithmetic(id: u64) -> u64 {
    (0..50).fold(black_box(id), |word, _| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32))
}

/// Measures all contenders. [`report`] starts a child process that calls this function.
pub fn measure(keys: &str) -> Results {
    let keys: usize = keys.parse().expect("a number of keys");
    let runtime = prepare_for(keys);
    let (moka, quick, foyer) = (&moka_sync(), &quick(), &foyer());
    runtime.block_on(async {
        for id in 0..keys as u64 {
            let order = upstream(id, State::Paid).await.expect("the fetch succeeds");
            moka.insert((id, State::Paid), order.clone());
            quick.insert((id, State::Paid), order.clone());
            foyer.insert((id, State::Paid), order);
            let _ = ours(id, State::Paid).await;
            let _ = concurrent(id, State::Paid).await;
            let _ = locked(id, State::Paid).await;
        }
    });
    let mut contenders = Vec::new();
    macro_rules! contend {
        ($name:expr, |$id:ident| $call:expr) => {
            let hit = async |$id: u64| {
                black_box($call);
            };
            for threads in [1, 2] {
                contenders.push(measured(on(threads, $name).leak(), move |count| {
                    hit_on(threads, count, keys, &hit)
                }));
            }
        };
    }
    contend!(OURS, |id| ours(id, State::Paid).await.is_ok());
    contend!(CONCURRENT_CACHED, |id| concurrent(id, State::Paid).await.is_ok());
    contend!(CACHED, |id| locked(id, State::Paid).await.is_ok());
    contend!(MOKA, |id| moka.get(&(id, State::Paid)));
    contend!(QUICK_CACHE, |id| quick.get(&(id, State::Paid)));
    contend!(FOYER, |id| foyer_get(foyer, id, State::Paid));
    contend!(ARITHMETIC, |id| arithmetic(id));
    // A batch is long enough for the system to give each thread a core.
    race(9, if keys > 10_000 { 200_000 } else { 500_000 }, contenders)
}
