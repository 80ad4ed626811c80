//! The report of the fleet simulation. It shows the results as a table, and checks the promises
//! that the library makes: for example, a key and version is fetched only once.

use std::fmt;

use crate::fleet::{FleetSize, MovedKeys};

/// The counters of one phase.
pub(crate) struct PhaseCounters {
    pub(crate) title: &'static str,
    pub(crate) calls: u64,
    pub(crate) local_hits: u64,
    pub(crate) remote_hits: u64,
    pub(crate) waits: u64,
    pub(crate) fetches: u64,
    /// The largest number of fetches of one key and version.
    pub(crate) most_fetches: u32,
    /// The number of different keys in the calls.
    pub(crate) keys: u64,
    /// The number of fetches that the same calls would need if each process had only a local cache.
    pub(crate) fetches_alone: u64,
    /// The number of wrong answers and failed calls.
    pub(crate) wrong: u64,
}

/// The results of all phases.
pub(crate) struct Report {
    pub(crate) size: FleetSize,
    pub(crate) phases: Vec<PhaseCounters>,
    /// The number of commands that each server received before a server was lost.
    pub(crate) load: Vec<u64>,
    /// The keys that moved to another server when the lost server was removed from the pool.
    pub(crate) moved: MovedKeys,
    /// The number of keys that the lost server held.
    pub(crate) keys_of_lost_server: u64,
}

impl Report {
    /// Returns a line for each broken promise.
    pub(crate) fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for phase in &self.phases {
            if phase.wrong > 0 {
                broken.push(format!("{}: {} wrong or failed answers", phase.title, phase.wrong));
            }
            if phase.most_fetches > 1 {
                broken.push(format!(
                    "{}: a key and version was fetched {} times",
                    phase.title, phase.most_fetches
                ));
            }
        }
        let MovedKeys { moved, .. } = self.moved;
        if moved > self.keys_of_lost_server {
            broken.push(format!(
                "{moved} keys moved, but the lost server had only {}",
                self.keys_of_lost_server
            ));
        }
        broken
    }

    fn mean_load(&self) -> f64 {
        self.load.iter().sum::<u64>() as f64 / self.load.len().max(1) as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FleetSize { processes, servers, keys, .. } = self.size;
        writeln!(
            f,
            "{processes} processes, {servers} memcached servers, {keys} keys (Zipf, s = 1)\n"
        )?;
        writeln!(
            f,
            "{:36} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
            "phase", "calls", "local", "remote", "waited", "fetches", "keys", "most/key", "alone"
        )?;
        for phase in &self.phases {
            writeln!(
                f,
                "{:36} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
                phase.title,
                phase.calls,
                phase.local_hits,
                phase.remote_hits,
                phase.waits,
                phase.fetches,
                phase.keys,
                phase.most_fetches,
                phase.fetches_alone
            )?;
        }
        writeln!(
            f,
            "\nmost/key: the most fetches of one key and version. alone: the fetches if each process had\n\
             only a local cache.\n"
        )?;
        let busiest = self.load.iter().copied().max().unwrap_or(0) as f64;
        writeln!(
            f,
            "load: the busiest server took {busiest:.0} commands, {:.2} times the mean",
            busiest / self.mean_load()
        )?;
        let MovedKeys { moved, keys } = self.moved;
        write!(
            f,
            "removing a server moved {moved} of {keys} keys ({:.2}%); the server had {}; hashing by modulus would move {:.0}%",
            100.0 * moved as f64 / keys.max(1) as f64,
            self.keys_of_lost_server,
            100.0 * (1.0 - 1.0 / f64::from(servers))
        )
    }
}
