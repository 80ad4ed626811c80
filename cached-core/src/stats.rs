//! Counters of hits, fetches, fills and failures: one set for each annotated function in each cache.

mod sharded_counter;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::declaration::{DECLARATIONS, ledger};
pub(crate) use sharded_counter::ShardedCounter;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $counter:ty, $title:literal, $shown:expr;)*) => {
        /// The live counters of one declaration in one cache.
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: $counter,)*
            /// The estimated duration of a fetch in nanoseconds; 0 before the first fetch.
            fetch_time: AtomicU64,
        }

        /// The counters of one annotated function in one cache, since the cache was built.
        ///
        /// [`Stats::get`] and [`Stats::iter`] return the counters of one function, and
        /// [`Stats::total`] returns the sums over all functions. A counter never decreases.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct DeclarationStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The columns of the table, one for each counter.
        const COLUMNS: &[Column] = &[
            $(Column { title: $title, shown: $shown, count: |stats| stats.$name },)*
        ];

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

/// One column of the table that [`Stats`] prints.
struct Column {
    title: &'static str,
    shown: Shown,
    count: fn(&DeclarationStats) -> u64,
}

/// Says when the table has a column.
#[derive(PartialEq)]
enum Shown {
    Always,
    /// The table has the column if the counter of at least one function is not zero.
    IfCounted,
}

// Each counter has the title of its column, and says when the table has the column.
counters! {
    /// Calls that were answered from the request tier.
    request_hits: ShardedCounter, "request", Shown::Always;
    /// Calls that were answered from the local tier.
    local_hits: ShardedCounter, "local", Shown::Always;
    /// Calls that were answered from memcached.
    remote_hits: Counter, "remote", Shown::Always;
    /// Calls that returned the result of another caller's fetch in this process.
    waits: Counter, "waited", Shown::Always;
    /// Runs of the function's body.
    fetches: Counter, "fetched", Shown::Always;
    /// Runs of the function's body that returned an error.
    fetch_errors: Counter, "failed", Shown::Always;
    /// Calls that were answered with an expired value (`stale_if_error`): the fetch failed, or
    /// another process was fetching.
    stale_answers: Counter, "stale", Shown::IfCounted;
    /// Calls that were answered with the error of an earlier fetch, because the option `error_ttl`
    /// holds off the next fetches of the key.
    paused_answers: Counter, "paused", Shown::IfCounted;
    /// Background fetches of entries that were about to expire (`refresh_ahead`).
    refreshes: Counter, "refreshed", Shown::IfCounted;
    /// Values stored in memcached.
    fills: Counter, "stored", Shown::IfCounted;
    /// Values that were not stored in memcached: the lease (the right to store the value) had run out,
    /// the entry was invalidated first, the value was too large, the server failed, or too many
    /// values were being stored.
    fills_dropped: Counter, "not stored", Shown::IfCounted;
    /// Exchanges with memcached that failed or took too long.
    remote_errors: Counter, "remote errors", Shown::IfCounted;
    /// Calls that fetched although another process held the lease: the value of that process did not
    /// arrive in time, or the call did not wait.
    lease_timeouts: Counter, "lease timeouts", Shown::IfCounted;
    /// Calls that did not use the cache: the cache is off, the function shares its cache name, the
    /// key could not be encoded, or the function called itself with the same key.
    bypassed: Counter, "bypassed", Shown::IfCounted;
    /// Entries that `invalidate` removed, and local entries that `invalidate_all` and `clear` removed.
    invalidations: Counter, "invalidated", Shown::IfCounted;
    /// Entries that `overwrite` replaced.
    overwrites: Counter, "overwritten", Shown::IfCounted;
}

impl DeclarationStats {
    /// Returns the number of calls that were answered from any tier.
    ///
    /// ```
    /// let total = cached_core::Cache::current().stats().total();
    /// assert_eq!(total.hits(), total.request_hits + total.local_hits + total.remote_hits);
    /// ```
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.request_hits + self.local_hits + self.remote_hits
    }
}

/// The longest duration that is recorded for a fetch. Without this limit, a future that is not polled
/// for a long time would look like a very slow fetch.
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
    /// Updates the estimate of how long a fetch takes.
    ///
    /// The estimate rises at once and falls slowly. If it is too short, a call stops waiting for
    /// another process too early and runs an unnecessary fetch.
    pub(crate) fn record_fetch_time(&self, took: Duration) {
        let took = u64::try_from(took.min(LONGEST_FETCH).as_nanos()).unwrap_or(u64::MAX).max(1);
        // Two threads may overwrite each other's updates. The estimate need not be exact.
        let estimate = self.fetch_time.load(Ordering::Relaxed);
        let next = if took >= estimate { took } else { estimate - estimate / 8 + took / 8 };
        self.fetch_time.store(next, Ordering::Relaxed);
    }

    /// Returns the estimated duration of a fetch, or `None` before the first fetch.
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

/// A snapshot of the counters of a cache, by cache name. `Display` prints a table of the functions
/// that were called. The table leaves out a counter of something unusual, such as `stale`, while the
/// counter is zero for every function.
///
/// The method [`Cache::stats`](crate::Cache::stats) returns it.
#[derive(Debug, Clone, Default)]
#[must_use = "a snapshot does nothing by itself"]
pub struct Stats {
    rows: Vec<(&'static str, DeclarationStats)>,
}

impl Stats {
    pub(crate) fn read(counters: &[Counters]) -> Stats {
        // A function that is not cached has no counters.
        let rows =
            ledger().iter().filter_map(|d| Some((d.name(), counters.get(d.index()?)?.read())));
        Stats { rows: rows.collect() }
    }

    /// Returns the counters of the function with this cache name, or `None` if no function or
    /// several functions have the name.
    ///
    /// ```
    /// let stats = cached_core::Cache::current().stats();
    /// assert!(stats.get("a-name-that-no-function-has").is_none());
    /// ```
    #[must_use]
    pub fn get(&self, name: &str) -> Option<DeclarationStats> {
        self.iter().find(|(of, _)| *of == name).map(|(_, stats)| stats)
    }

    /// Returns the cache name and the counters of every function, sorted by name.
    ///
    /// ```
    /// for (name, stats) in cached_core::Cache::current().stats().iter() {
    ///     println!("{name}: {} hits, {} fetches", stats.hits(), stats.fetches);
    /// }
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, DeclarationStats)> + '_ {
        self.rows.iter().copied()
    }

    /// Returns the sums over all functions.
    ///
    /// ```
    /// let total = cached_core::Cache::current().stats().total();
    /// println!("{} calls were answered from the cache", total.hits());
    /// ```
    #[must_use]
    pub fn total(&self) -> DeclarationStats {
        let mut total = DeclarationStats::default();
        self.iter().for_each(|(_, stats)| total += stats);
        total
    }
}

/// A table with more rows than this repeats its header at the end.
const ROWS_UNDER_ONE_HEADER: usize = 40;

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let called = self.iter().filter(|(_, stats)| *stats != DeclarationStats::default());
        let rows: Vec<_> = called.chain([("total", total)]).collect();
        let is_shown =
            |column: &&Column| column.shown == Shown::Always || (column.count)(&total) > 0;
        let columns: Vec<_> = COLUMNS.iter().filter(is_shown).collect();
        let name_width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        // A total has at least as many digits as the counts that it sums up.
        let width = |column: &Column| column.title.len().max(shown((column.count)(&total)).len());

        let header = |f: &mut fmt::Formatter<'_>| {
            write!(f, "{:name_width$}", "name")?;
            columns.iter().try_for_each(|c| write!(f, "  {:>1$}", c.title, width(c)))
        };
        header(f)?;
        for (name, stats) in &rows {
            write!(f, "\n{name:name_width$}")?;
            for column in &columns {
                write!(f, "  {:>1$}", shown((column.count)(stats)), width(column))?;
            }
        }
        if rows.len() > ROWS_UNDER_ONE_HEADER {
            f.write_str("\n")?;
            header(f)?;
        }
        Ok(())
    }
}

/// Returns the text of a count in the table. A dash for zero makes the other counts stand out.
fn shown(count: u64) -> String {
    if count == 0 { "-".to_owned() } else { count.to_string() }
}

#[cfg(test)]
mod tests;
