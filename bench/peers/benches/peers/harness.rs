//! Times contenders in turn, in short batches over many rounds, so that what the machine does
//! besides falls on all of them alike. What is reported are medians, and ratios of two contenders
//! within a round.

use std::collections::BTreeMap;
use std::time::Instant;

/// One way to do the job. Runs `count` operations and returns how many nanoseconds one took.
pub type Batch<'b> = Box<dyn FnMut(usize) -> f64 + 'b>;

pub struct Contender<'b> {
    pub name: &'static str,
    batch: Batch<'b>,
}

/// A contender that is timed from outside.
pub fn timed<'b>(name: &'static str, mut run: impl FnMut(usize) + 'b) -> Contender<'b> {
    measured(name, move |count| {
        let began = Instant::now();
        run(count);
        began.elapsed().as_nanos() as f64 / count as f64
    })
}

/// A contender that measures itself.
pub fn measured<'b>(name: &'static str, batch: impl FnMut(usize) -> f64 + 'b) -> Contender<'b> {
    Contender { name, batch: Box::new(batch) }
}

/// What came of one race.
#[derive(Default)]
pub struct Results {
    order: Vec<&'static str>,
    rounds: BTreeMap<&'static str, Vec<f64>>,
}

pub fn race(rounds: usize, count: usize, mut contenders: Vec<Contender<'_>>) -> Results {
    let mut results = Results {
        order: contenders.iter().map(|contender| contender.name).collect(),
        ..Results::default()
    };
    for round in 0..rounds + 1 {
        // Each round begins with another, so that none always follows the same one.
        let places = contenders.len();
        for place in 0..places {
            let contender = &mut contenders[(round + place) % places];
            // What the one before left in the processor's caches is not this one's business.
            (contender.batch)(count / 4 + 1);
            let took = (contender.batch)(count);
            if round > 0 {
                results.rounds.entry(contender.name).or_default().push(took);
            }
        }
    }
    results
}

impl Results {
    pub fn of<const N: usize>(rows: [(&'static str, Vec<f64>); N]) -> Results {
        Results { order: rows.iter().map(|row| row.0).collect(), rounds: rows.into() }
    }

    pub fn names(&self) -> &[&'static str] {
        &self.order
    }

    pub fn median(&self, name: &str) -> f64 {
        median(self.rounds[name].clone())
    }

    /// The median over the rounds of how much longer `name` took than `other`.
    pub fn ratio(&self, name: &str, other: &str) -> f64 {
        let pairs = self.rounds[name].iter().zip(&self.rounds[other]);
        median(pairs.map(|(one, other)| one / other).collect())
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A sequence of keys to ask for, the same in every run.
pub fn sequence(keys: usize) -> impl Iterator<Item = usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Without a division, which would take as long as a part of what is measured.
        (((state >> 32) * keys as u64) >> 32) as usize
    })
}
