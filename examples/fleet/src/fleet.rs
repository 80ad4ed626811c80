//! The simulated processes, and the memcached servers that they share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cached_core::testing::TestCache;
use cached_core::{Cache, CacheEntry, WriteOnce, coordinator_cached};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::report::PhaseCounters;

/// The number of concurrent calls in all processes together.
const CONCURRENT_CALLS: u32 = 2000;
/// How long a fetch takes.
const FETCH_TIME: Duration = Duration::from_millis(20);

/// The numbers that the command line sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FleetSize {
    pub(crate) processes: u32,
    pub(crate) servers: u32,
    pub(crate) keys: u32,
    pub(crate) calls: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Payment {
    number: u32,
    version: u32,
}

/// The service that the processes call. The service counts its answers by key and version.
#[derive(Default)]
struct Upstream {
    fetches: Mutex<HashMap<(u32, u32), u32>>,
}

impl Upstream {
    async fn answer(&self, number: u32, version: u32) -> Payment {
        tokio::time::sleep(FETCH_TIME).await;
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        *fetches.entry((number, version)).or_default() += 1;
        Payment { number, version }
    }

    /// Returns the counts since the last call of this method.
    fn take(&self) -> HashMap<(u32, u32), u32> {
        std::mem::take(&mut self.fetches.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[coordinator_cached(
    name = "fleet_payment",
    version = version,
    skip(upstream),
    entry = payment_entry
)]
async fn payment(upstream: &Upstream, number: u32, version: u32) -> Result<Payment, Infallible> {
    Ok(upstream.answer(number, version).await)
}

pub(crate) struct Fleet {
    size: FleetSize,
    processes: Vec<TestCache>,
    /// The addresses of the servers in the pool.
    addresses: Vec<String>,
    upstream: Arc<Upstream>,
    dice: StdRng,
}

impl Fleet {
    pub(crate) fn new(size: FleetSize) -> Fleet {
        let addresses: Vec<String> =
            (0..size.servers).map(|server| format!("cache-{server}:11211")).collect();
        let builder = Cache::builder()
            .namespace("fleet")
            .memcached(&addresses)
            // If another process is already fetching a key, a call waits for that fetch. By
            // default, the call waits at most twice as long as a fetch usually takes. That would be
            // too short here: the paused clock jumps, so a fetch seems to take no time.
            .lease_wait(Duration::from_secs(60));
        let first = TestCache::with(builder).expect("the addresses are well-formed");
        let mut processes: Vec<TestCache> =
            (1..size.processes).map(|_| first.another_process()).collect();
        processes.push(first);
        let dice = StdRng::seed_from_u64(20);
        Fleet { size, processes, addresses, upstream: Arc::default(), dice }
    }

    /// Returns one of the processes. All of them share the clock and the servers.
    fn any_process(&self) -> &TestCache {
        &self.processes[0]
    }

    /// Makes every process call `payment` for the same key at once. No cache holds that key yet.
    pub(crate) async fn stampede(&mut self) -> PhaseCounters {
        let calls = (0..self.processes.len()).map(|process| (process, 0)).collect();
        self.run_calls("all processes call with one cold key", 1, calls).await
    }

    /// Makes calls from random processes, with keys that are drawn by Zipf's law.
    pub(crate) async fn phase(&mut self, title: &'static str, version: u32) -> PhaseCounters {
        let keys = Zipf::new(self.size.keys.into(), 1.0).expect("there is a key");
        let calls = (0..self.size.calls).map(|_| {
            let process = self.dice.random_range(0..self.processes.len());
            (process, keys.sample(&mut self.dice) as u32)
        });
        let calls = calls.collect();
        self.run_calls(title, version, calls).await
    }

    async fn run_calls(
        &mut self,
        title: &'static str,
        version: u32,
        calls: Vec<(usize, u32)>,
    ) -> PhaseCounters {
        self.upstream.take();
        let before = self.count();
        let mut wrong = 0;
        for burst in calls.chunks(CONCURRENT_CALLS as usize) {
            let mut running = JoinSet::new();
            for &(process, number) in burst {
                let upstream = Arc::clone(&self.upstream);
                let call = async move { (number, payment(&upstream, number, version).await) };
                running.spawn(self.processes[process].cache().scope(call));
            }
            while let Some(answer) = running.join_next().await {
                // A call that panics counts as a wrong answer.
                let is_right =
                    answer.is_ok_and(|(number, answer)| answer == Ok(Payment { number, version }));
                wrong += u32::from(!is_right);
            }
        }
        for process in &self.processes {
            process.cache().flush().await;
        }
        let after = self.count();
        let fetched = self.upstream.take();
        let keys: HashSet<u32> = calls.iter().map(|&(_, number)| number).collect();
        let keys_by_process: HashSet<(usize, u32)> = calls.iter().copied().collect();
        PhaseCounters {
            title,
            calls: calls.len() as u64,
            local_hits: after.local_hits - before.local_hits,
            remote_hits: after.remote_hits - before.remote_hits,
            waits: after.waits - before.waits,
            fetches: fetched.values().map(|&count| u64::from(count)).sum(),
            most_fetches: fetched.values().copied().max().unwrap_or(0),
            keys: keys.len() as u64,
            fetches_alone: keys_by_process.len() as u64,
            wrong: wrong.into(),
        }
    }

    fn count(&self) -> cached_core::DeclarationStats {
        let mut sum = cached_core::DeclarationStats::default();
        self.processes.iter().for_each(|process| sum += process.stats("fleet_payment"));
        sum
    }

    /// Returns the number of commands that each server has received.
    pub(crate) fn loads(&self) -> Vec<u64> {
        self.addresses
            .iter()
            .map(|address| self.any_process().memcached_at(address).commands())
            .collect()
    }

    /// Finds, for every payment in version 2, the server that holds it.
    pub(crate) fn homes(&self) -> KeyHomes {
        let servers: Vec<_> = self
            .addresses
            .iter()
            .map(|address| (address, self.any_process().memcached_at(address)))
            .collect();
        let mut homes = BTreeMap::new();
        for number in 1..=self.size.keys {
            let key = self.entry(number).key();
            let home = servers.iter().find(|(_, server)| server.holds(&key));
            if let Some((address, _)) = home {
                homes.insert(number, (*address).clone());
            }
        }
        KeyHomes(homes)
    }

    fn entry(&self, number: u32) -> CacheEntry<Payment, WriteOnce> {
        let entry = async || payment_entry(number, 2);
        let entry = std::pin::pin!(self.any_process().cache().scope(entry()));
        match entry.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(entry) => entry,
            std::task::Poll::Pending => unreachable!("a companion returns an entry at once"),
        }
    }

    /// Makes one server fail, and returns its address.
    pub(crate) fn lose_a_server(&self) -> String {
        let lost = self.addresses[self.addresses.len() / 2].clone();
        self.any_process().memcached_at(&lost).fail();
        lost
    }

    /// Removes a server from the pool of every process.
    pub(crate) fn remove_server(&mut self, lost: &str) {
        self.addresses.retain(|address| address != lost);
        for process in &self.processes {
            let changed = process.cache().set_memcached(&self.addresses);
            changed.expect("there are servers left, and their addresses are well-formed");
        }
    }

    /// Moves the clock forward by 31 minutes, after which every entry has expired.
    pub(crate) fn half_an_hour_later(&self) {
        self.any_process().advance(Duration::from_secs(31 * 60));
    }
}

/// A map from each payment number to the address of the server that holds it.
pub(crate) struct KeyHomes(BTreeMap<u32, String>);

impl KeyHomes {
    /// Counts the keys that are in both `self` and `later`, and how many of these keys have moved
    /// to another server.
    pub(crate) fn moved_until(&self, later: &KeyHomes) -> MovedKeys {
        let both = self.0.iter().filter_map(|(key, home)| Some((home, later.0.get(key)?)));
        let (mut moved, mut keys) = (0, 0);
        for (before, after) in both {
            keys += 1;
            moved += u64::from(before != after);
        }
        MovedKeys { moved, keys }
    }

    /// Returns the number of keys on a server.
    pub(crate) fn at(&self, address: &str) -> u64 {
        self.0.values().filter(|home| *home == address).count() as u64
    }
}

/// How many keys were compared, and how many of them have moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MovedKeys {
    pub(crate) moved: u64,
    pub(crate) keys: u64,
}
