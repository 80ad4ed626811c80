//! Measures misses. Every key is new, and the fetch makes its answer without a network call.

use std::hint::black_box;

use crate::child;
use crate::harness::{Results, race, timed};
use crate::order::upstream;
use crate::payment::State;
use crate::report::Report;
use crate::stores::{
    CONCURRENT_CACHED, concurrent, moka_future, moka_sync, ours, prepare, prepare_for,
};

const MOKA: &str = "moka's insert of the same key and value";
const ROUNDS: usize = 25;
const COUNT: usize = 4_000;
/// The capacity of a full store: in entries, and in bytes for cached-core.
const FULL: (usize, u64) = (10_000, 10_000 * 550);

pub fn report(report: &mut Report) {
    for store in ["a store with room", "a full store"] {
        let title = format!("A miss, {store}");
        report.race(&title, "ns", MOKA, &child::run("misses", store));
    }
}

macro_rules! ask {
    ($runtime:expr, |$id:ident| $call:expr) => {{
        let (runtime, mut next) = ($runtime, 0_u64);
        move |count: usize| {
            runtime.block_on(async {
                for _ in 0..count {
                    next += 1;
                    let $id = next;
                    let _ = black_box($call);
                }
            })
        }
    }};
}

/// Measures all contenders. [`report`] starts a child process that calls this function.
pub fn measure(store: &str) -> Results {
    let is_full = store == "a full store";
    let runtime = &match is_full {
        true => prepare(FULL.0, FULL.1),
        false => prepare_for(2 * ROUNDS * COUNT),
    };
    let (moka, moka_with) = (moka_sync(), moka_future());
    let mut contenders = vec![
        timed("the bare fetch", ask!(runtime, |id| upstream(id, State::Paid).await)),
        timed(
            MOKA,
            ask!(runtime, |id| {
                moka.insert(
                    (id, State::Paid),
                    upstream(id, State::Paid).await.expect("the fetch succeeds"),
                )
            }),
        ),
        timed("cached-core", ask!(runtime, |id| ours(id, State::Paid).await)),
        timed(CONCURRENT_CACHED, ask!(runtime, |id| concurrent(id, State::Paid).await)),
        timed(
            "moka try_get_with",
            ask!(runtime, |id| {
                moka_with.try_get_with((id, State::Paid), upstream(id, State::Paid)).await
            }),
        ),
    ];
    if is_full {
        contenders.iter_mut().for_each(|contender| contender.prepare(3 * FULL.0));
    }
    race(ROUNDS, COUNT, contenders)
}
