//! Compares *contenders*: implementations of the same operation. In each of many rounds, a short
//! batch of each contender is timed. So other load on the machine affects all contenders alike. The
//! tables show each contender's median time, and the median ratio of two contenders' times.

use std::fmt;
use std::time::Instant;

/// Runs `count` operations of a contender, and returns the mean nanoseconds per operation.
pub type Batch<'b> = Box<dyn FnMut(usize) -> f64 + 'b>;

pub struct Contender<'b> {
    name: &'static str,
    batch: Batch<'b>,
}

/// Returns a contender whose batches are timed here.
pub fn timed<'b>(name: &'static str, mut run: impl FnMut(usize) + 'b) -> Contender<'b> {
    measured(name, move |count| {
        let began = Instant::now();
        run(count);
        began.elapsed().as_nanos() as f64 / count as f64
    })
}

/// Returns a contender that times its own batches.
pub fn measured<'b>(name: &'static str, batch: impl FnMut(usize) -> f64 + 'b) -> Contender<'b> {
    Contender { name, batch: Box::new(batch) }
}

impl Contender<'_> {
    /// Runs a batch that is not part of a race.
    pub fn prepare(&mut self, count: usize) {
        (self.batch)(count);
    }
}

/// Runs a batch of `count` operations of each contender in each round.
pub fn race(rounds: usize, count: usize, mut contenders: Vec<Contender<'_>>) -> Results {
    let mut results = Results::default();
    for contender in &contenders {
        results.push(contender.name, Vec::new());
    }
    for round in 0..rounds + 1 {
        // Each round begins with the next contender, so that none always runs first.
        let places = contenders.len();
        for place in 0..places {
            let at = (round + place) % places;
            // The caches of the processor hold data of the last contender, so a short batch comes
            // first.
            (contenders[at].batch)(count / 4 + 1);
            let took = (contenders[at].batch)(count);
            if round > 0 {
                results.rows[at].1.push(took);
            }
        }
    }
    results
}

/// Removes the notes of the warm-up batches from the notes of one contender. A *note* is a number
/// that the contender records for each batch, such as a hit ratio.
pub fn measured_notes<T>(notes: impl IntoIterator<Item = T>) -> Vec<T> {
    // The first round is a warm-up, and so is the first batch of each round.
    notes.into_iter().skip(3).step_by(2).collect()
}

/// The times of each contender in each round. `Display` and [`parse`](Results::parse) send them
/// from a child process to its parent.
#[derive(Default)]
pub struct Results {
    rows: Vec<(String, Vec<f64>)>,
}

impl Results {
    pub fn push(&mut self, name: impl Into<String>, rounds: Vec<f64>) {
        self.rows.push((name.into(), rounds));
    }

    pub fn parse(text: &str) -> Results {
        let rows = text.lines().map(|line| {
            let (name, rounds) = line.split_once('\t').expect("a name and its rounds");
            let rounds = rounds.split(' ').map(|took| took.parse().expect("the text is a number"));
            (name.to_owned(), rounds.collect())
        });
        Results { rows: rows.collect() }
    }

    /// For each of `names`, looks for the row `row_of(name)` and returns the row under `name`. A
    /// name without such a row is left out.
    pub fn select(&self, names: &[&str], row_of: fn(&str) -> String) -> Results {
        let rows = names.iter().filter_map(|name| {
            let row = self.rows.iter().find(|row| row.0 == row_of(name))?;
            Some(((*name).to_owned(), row.1.clone()))
        });
        Results { rows: rows.collect() }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| &row.0[..])
    }

    pub fn median(&self, name: &str) -> f64 {
        median(self.rounds(name).to_vec())
    }

    /// Returns the median ratio of the times of `name` and `other`.
    pub fn ratio(&self, name: &str, other: &str) -> f64 {
        let pairs = self.rounds(name).iter().zip(self.rounds(other));
        median(pairs.map(|(one, other)| one / other).collect())
    }

    fn rounds(&self, name: &str) -> &[f64] {
        let row = self.rows.iter().find(|row| row.0 == name);
        &row.unwrap_or_else(|| panic!("there is no row `{name}`")).1
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, rounds) in &self.rows {
            let rounds: Vec<String> = rounds.iter().map(f64::to_string).collect();
            writeln!(f, "{name}\t{}", rounds.join(" "))?;
        }
        Ok(())
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns random keys, in the same sequence in every run.
pub fn sequence(keys: usize) -> impl Iterator<Item = usize> + Clone {
    fractions().map(move |fraction| {
        // A division would take too long, compared with what is measured.
        ((fraction * keys as u64) >> 32) as usize
    })
}

/// Returns random numbers of 32 bits, the same in every run.
pub fn fractions() -> impl Iterator<Item = u64> + Clone {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 32
    })
}
