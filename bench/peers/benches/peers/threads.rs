//! Hits on two threads beside one: how long one hit takes when twice as many are made.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use crate::harness::{Results, measured, race};
use crate::hits::ours_shared;
use crate::payment::{State, numbers};

pub const ONE: &str = "cached-core, one thread";

/// Nanoseconds a hit, over all threads: half of what one thread takes, if they do not hinder each
/// other.
fn hit_on(threads: usize, count: usize, one_key: bool, hit: impl Fn(&str) + Sync) -> f64 {
    let numbers = numbers(400);
    let start = Barrier::new(threads);
    let took = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (numbers, start, hit) = (&numbers, &start, &hit);
                scope.spawn(move || {
                    let own = if one_key { &numbers[..1] } else { &numbers[thread * 200..][..200] };
                    let ask = |count: usize| (0..count).for_each(|at| hit(&own[at % own.len()]));
                    ask(4_000);
                    start.wait();
                    let began = Instant::now();
                    ask(count);
                    began.elapsed()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("it does not panic")).max()
    });
    took.expect("a thread").as_nanos() as f64 / (threads * count) as f64
}

/// Shares nothing and reads no memory, and takes about as long as a hit: what two threads come to
/// here at best.
fn arithmetic(number: &str) {
    let word = (0..50).fold(black_box(number.len() as u64), |word, _| {
        word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
    });
    black_box(word);
}

fn ours(number: &str) {
    // Polled by hand, so that a hit is measured and not the runtime's start.
    let mut future = std::pin::pin!(ours_shared(number, State::Paid));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(black_box(future.as_mut().poll(&mut context)).is_ready());
}

pub fn run(one_key: bool) -> Results {
    // Long enough for the system to give each thread a core.
    let count = 1_000_000;
    let moka = moka::sync::Cache::new(10_000);
    let quick = quick_cache::sync::Cache::new(10_000);
    for number in numbers(400) {
        moka.insert(number.clone(), 1_u64);
        quick.insert(number, 1_u64);
    }
    let (moka, quick) = (&moka, &quick);
    let on_moka = move |number: &str| {
        black_box(moka.get(number));
    };
    let on_quick = move |number: &str| {
        black_box(quick.get(number));
    };
    let contenders = vec![
        measured(ONE, move |_| hit_on(1, count, one_key, ours)),
        measured("cached-core, two threads", move |_| hit_on(2, count, one_key, ours)),
        measured("arithmetic, one thread", move |_| hit_on(1, count, one_key, arithmetic)),
        measured("arithmetic, two threads", move |_| hit_on(2, count, one_key, arithmetic)),
        measured("moka sync alone, one thread", move |_| hit_on(1, count, one_key, on_moka)),
        measured("moka sync alone, two threads", move |_| hit_on(2, count, one_key, on_moka)),
        measured("quick_cache alone, one thread", move |_| hit_on(1, count, one_key, on_quick)),
        measured("quick_cache alone, two threads", move |_| hit_on(2, count, one_key, on_quick)),
    ];
    race(11, 1, contenders)
}
