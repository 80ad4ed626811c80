//! Counters, one set for each declaration in each cache.

mod sharded_counter;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::declaration::{DECLARATIONS, ledger};
pub(crate) use sharded_counter::ShardedCounter;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $counter:ty,)*) => {
        /// The counters of one declaration, as they count.
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: $counter,)*
            /// See [`Counters::observe`]; nanoseconds, 0 before the first fetch.
            fetch_time: AtomicU64,
        }

        /// What one declaration has done in one cache since that was built.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct DeclarationStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            fn read(&self) -> DeclarationStats {
                DeclarationStats { $($name: self.$name.get(),)* }
            }
        }

        impl std::ops::AddAssign for DeclarationStats {
            fn add_assign(&mut self, other: DeclarationStats) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Answers from the request tier.
    request_hits: ShardedCounter,
    /// Answers from the local tier.
    local_hits: ShardedCounter,
    /// Answers from memcached.
    remote_hits: Counter,
    /// Answers that another caller of this process fetched meanwhile.
    waits: Counter,
    /// Runs of the function's body.
    fetches: Counter,
    /// Runs of the body that ended in an error.
    fetch_errors: Counter,
    /// Expired values served because the fetch failed, or while another process fetched
    /// (`stale_if_error`).
    stale_answers: Counter,
    /// Fetches in the background of entries that were about to expire (`refresh_ahead`).
    refreshes: Counter,
    /// Values stored in memcached.
    fills: Counter,
    /// Values that memcached did not take: the lease had run out, an invalidation came first, the
    /// value was too large, the server failed, or too many fills were under way.
    fills_dropped: Counter,
    /// Exchanges with memcached that failed or came too late.
    remote_errors: Counter,
    /// Waits for another process's lease that ended without a value.
    lease_timeouts: Counter,
    /// Calls that did not use the cache: it is off, the name is shared, the key could not be
    /// encoded, or the function called itself.
    bypassed: Counter,
    /// Entries taken from every tier by `invalidate`.
    invalidations: Counter,
    /// Entries replaced by `overwrite`.
    overwrites: Counter,
}

impl DeclarationStats {
    /// Answers from any tier.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.request_hits + self.local_hits + self.remote_hits
    }
}

/// Fetches that took longer count as this long.
const LONGEST_FETCH: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// Takes note of how long a fetch took. The estimate rises at once and falls slowly, because
    /// waiting too short for another process's fetch costs a fetch.
    pub(crate) fn observe(&self, took: Duration) {
        // A future that was held and not polled does not take long, it is not run.
        let took = u64::try_from(took.min(LONGEST_FETCH).as_nanos()).unwrap_or(u64::MAX).max(1);
        // A lost update between two fetches only makes the estimate a little older.
        let estimate = self.fetch_time.load(Ordering::Relaxed);
        let next = if took >= estimate { took } else { estimate - estimate / 8 + took / 8 };
        self.fetch_time.store(next, Ordering::Relaxed);
    }

    /// How long a fetch takes, once one was seen.
    pub(crate) fn fetch_time(&self) -> Option<Duration> {
        match self.fetch_time.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

pub(crate) fn all_counters() -> Box<[Counters]> {
    DECLARATIONS.iter().map(|_| Counters::default()).collect()
}

/// The counters of a cache, by declaration; see [`Cache::stats`](crate::Cache::stats).
///
/// `Display` prints a table of the declarations that were called.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    rows: Vec<(&'static str, DeclarationStats)>,
}

impl Stats {
    pub(crate) fn read(counters: &[Counters]) -> Stats {
        // Functions that share a name have no counters; they count nothing.
        let rows =
            ledger().iter().filter_map(|d| Some((d.name(), counters.get(d.index()?)?.read())));
        Stats { rows: rows.collect() }
    }

    /// The counters of the declaration called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<DeclarationStats> {
        self.iter().find(|(of, _)| *of == name).map(|(_, stats)| stats)
    }

    /// Every declaration's name and counters, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, DeclarationStats)> + '_ {
        self.rows.iter().copied()
    }

    /// The sums over all declarations.
    #[must_use]
    pub fn total(&self) -> DeclarationStats {
        let mut total = DeclarationStats::default();
        self.iter().for_each(|(_, stats)| total += stats);
        total
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let called = || self.iter().filter(|(_, stats)| *stats != DeclarationStats::default());
        let width = called().map(|(name, _)| name.len()).max().unwrap_or(0).max(5);
        write!(
            f,
            "{:width$} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>13}",
            "name", "request", "local", "remote", "waited", "fetched", "failed", "remote errors"
        )?;
        let mut row = |name: &str, s: &DeclarationStats| {
            write!(
                f,
                "\n{name:width$} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>13}",
                s.request_hits,
                s.local_hits,
                s.remote_hits,
                s.waits,
                s.fetches,
                s.fetch_errors,
                s.remote_errors
            )
        };
        for (name, stats) in called() {
            row(name, &stats)?;
        }
        row("total", &self.total())
    }
}
