//! Counters of a cache: one set for each annotated function, and counters of the local tier, the
//! memcached servers and the observers.

mod histogram;
mod servers;
mod sharded_counter;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::declaration::{DECLARATIONS, Declaration, ledger};
pub use histogram::DurationHistogram;
pub(crate) use histogram::LiveHistogram;
pub use servers::{Health, ServerState, ServerStats};
pub(crate) use sharded_counter::ShardedCounter;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $counter:ty, $title:literal, $shown:expr;)*) => {
        /// The live counters of one annotated function in one cache.
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: $counter,)*
            /// The estimated duration of a fetch in nanoseconds; 0 before the first fetch.
            fetch_time: AtomicU64,
            fetch_durations: LiveHistogram,
        }

        /// The counters of one annotated function in one cache, since the cache was built.
        ///
        /// Each call of the function is counted once, when it is answered or dropped. The method
        /// [`calls`](Self::calls) returns the number of these calls. The guide explains
        /// [each counter](crate::guide::events).
        ///
        /// [`Stats::get`] and [`Stats::iter`] return the counters of one function, and
        /// [`Stats::total`] returns the sums over all functions. A counter never decreases.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct DeclarationStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The columns of the table that [`Stats`] prints, one for each counter.
        const COLUMNS: &[Column] = &[
            $(Column { title: $title, shown: $shown, count: |stats| stats.$name },)*
        ];

        impl Counters {
            fn read(&self) -> DeclarationStats {
                DeclarationStats { $($name: self.$name.get(),)* }
            }
        }

        #[cfg(feature = "console")]
        impl DeclarationStats {
            /// Returns the name of each counter with its count.
            pub(crate) fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
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
    shown: ColumnVisibility,
    count: fn(&DeclarationStats) -> u64,
}

/// Says when the table shows a column.
#[derive(PartialEq)]
enum ColumnVisibility {
    Always,
    /// The table shows the column if the counter of at least one function is not zero.
    IfCounted,
}

// After its type, each counter states the title of its column and when the table shows the column.
counters! {
    /// Calls that were answered from the request tier.
    request_hits: ShardedCounter, "request", ColumnVisibility::Always;
    /// Calls that were answered from the local tier.
    local_hits: ShardedCounter, "local", ColumnVisibility::Always;
    /// Calls that were answered from memcached.
    remote_hits: Counter, "remote", ColumnVisibility::Always;
    /// Calls that were answered with the result of another call's fetch in this process.
    waits: Counter, "waited", ColumnVisibility::Always;
    /// Calls that were answered by their own fetch, with a value or an error.
    misses: Counter, "missed", ColumnVisibility::IfCounted;
    /// Runs of the function's body, for calls that missed or bypassed the cache and for refreshes.
    /// A run counts even if, meanwhile, its call was dropped or answered in another way.
    fetches: Counter, "fetched", ColumnVisibility::Always;
    /// Runs of the function's body that returned an error.
    fetch_errors: Counter, "failed", ColumnVisibility::Always;
    /// Calls that were answered with an expired value (`stale_if_error`). The fetch had failed, the
    /// option `error_ttl` delayed it, or another process was fetching.
    stale_answers: Counter, "stale", ColumnVisibility::IfCounted;
    /// Calls that were answered with the error of an earlier fetch, because the option `error_ttl`
    /// delays the next fetch of the key.
    paused_answers: Counter, "paused", ColumnVisibility::IfCounted;
    /// Background fetches of entries that were about to expire (`refresh_ahead`).
    refreshes: Counter, "refreshed", ColumnVisibility::IfCounted;
    /// Fetched values that are not cached, for one of these reasons: `cache_if` refused the value,
    /// its ttl is zero, it is a `None` without `none_ttl`, or it is an `Err` (`infallible`).
    not_cached: Counter, "not cached", ColumnVisibility::IfCounted;
    /// Leases that calls won: the right to fetch a value that memcached does not have, and to store
    /// it there.
    leases_won: Counter, "leases won", ColumnVisibility::IfCounted;
    /// Calls that found that another process had the lease.
    leases_busy: Counter, "leases busy", ColumnVisibility::IfCounted;
    /// Calls that fetched although another process had the lease, because that process did not
    /// store a value in time, or because the call did not wait.
    lease_timeouts: Counter, "lease timeouts", ColumnVisibility::IfCounted;
    /// Values stored in memcached.
    fills: Counter, "stored", ColumnVisibility::IfCounted;
    /// Values that were not stored in memcached. The sum of the five counters below.
    fills_dropped: Counter, "not stored", ColumnVisibility::IfCounted;
    /// Values that were not stored in memcached because too many bytes were waiting to be written.
    fills_queue_full: Counter, "queue full", ColumnVisibility::IfCounted;
    /// Values that were not stored in memcached because they do not decode to the same value.
    fills_not_storable: Counter, "not storable", ColumnVisibility::IfCounted;
    /// Values that were not stored in memcached because their ttl is under a second.
    fills_ttl_too_short: Counter, "ttl too short", ColumnVisibility::IfCounted;
    /// Values that were not stored in memcached because the lease had ended, or because the entry
    /// was changed during the fetch.
    fills_overtaken: Counter, "overtaken", ColumnVisibility::IfCounted;
    /// Values that were not stored in memcached because the exchange failed, or because the value
    /// is too large for the server.
    fills_failed: Counter, "store failed", ColumnVisibility::IfCounted;
    /// Exchanges with memcached that failed or took too long.
    remote_errors: Counter, "remote errors", ColumnVisibility::IfCounted;
    /// Calls that did not use the cache, for example because the cache is off, two functions have
    /// the same cache name, the key cannot be encoded, or the function called itself with the same
    /// key.
    bypassed: Counter, "bypassed", ColumnVisibility::IfCounted;
    /// Calls that ended without an answer, because the caller dropped the call or the function
    /// panicked.
    cancelled: Counter, "cancelled", ColumnVisibility::IfCounted;
    /// Runs of the function's body that did not end, because the caller dropped the call or the
    /// function panicked.
    fetches_cancelled: Counter, "fetches cancelled", ColumnVisibility::IfCounted;
    /// Calls of `invalidate`, whether or not there was an entry, and local entries that
    /// `invalidate_all` and `clear` removed.
    invalidations: Counter, "invalidated", ColumnVisibility::IfCounted;
    /// Entries that `overwrite` replaced.
    overwrites: Counter, "overwritten", ColumnVisibility::IfCounted;
    /// Local entries that were removed because the local tier was full.
    evictions_size: Counter, "evicted: size", ColumnVisibility::IfCounted;
    /// Local entries that were removed after their ttl.
    evictions_expired: Counter, "evicted: expired", ColumnVisibility::IfCounted;
    /// Local entries that a newer value of the same key replaced.
    evictions_replaced: Counter, "evicted: replaced", ColumnVisibility::IfCounted;
    /// Local entries that `invalidate` or `overwrite` removed.
    evictions_invalidated: Counter, "evicted: invalidated", ColumnVisibility::IfCounted;
    /// Local entries that `clear` or `invalidate_all` removed.
    evictions_cleared: Counter, "evicted: cleared", ColumnVisibility::IfCounted;
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

    /// Returns the number of calls that have ended. Each call is counted once: as a hit, a wait, a
    /// miss, a stale or a paused answer, as bypassed or as cancelled.
    ///
    /// A lookup with [`CacheEntry::get`](crate::CacheEntry::get) or
    /// [`first_found`](crate::first_found) that finds a value counts as a hit too.
    ///
    /// ```
    /// # use cached_core::{Cache, coordinator_cached};
    /// #[coordinator_cached(name = "calls_doc", version = edition)]
    /// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
    ///     Ok(format!("course {id}, edition {edition}"))
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let cache = Cache::builder().build().await.unwrap();
    /// for _ in 0..4 {
    ///     cache.scope(course(1, 2)).await?;
    /// }
    /// let course = cache.stats().get("calls_doc").expect("the function is declared");
    /// assert_eq!((course.calls(), course.hits(), course.misses), (4, 3, 1));
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.hits()
            + self.waits
            + self.misses
            + self.stale_answers
            + self.paused_answers
            + self.bypassed
            + self.cancelled
    }
}

/// How many entries the local tier of a cache has, and how many it has removed.
///
/// [`Stats::local`] returns this type. The numbers of removed entries are sums over all functions;
/// [`DeclarationStats`] has the numbers of one function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalStats {
    /// The number of entries, including expired entries that are not removed yet.
    pub entries: u64,
    /// The memory that the entries take, in bytes, as the local tier estimates it.
    pub bytes: u64,
    /// The memory that the entries may take, in bytes.
    pub capacity: u64,
    /// Entries that were removed because the tier was full.
    pub evictions_size: u64,
    /// Entries that were removed after their ttl.
    pub evictions_expired: u64,
    /// Entries that a newer value of the same key replaced.
    pub evictions_replaced: u64,
    /// Entries that `invalidate` or `overwrite` removed.
    pub evictions_invalidated: u64,
    /// Entries that `clear` or `invalidate_all` removed.
    pub evictions_cleared: u64,
}

/// The counters of one [`Observer`](crate::Observer) of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObserverStats {
    /// The name of the observer, by default the name of its type.
    pub name: String,
    /// Events that the observer has received.
    pub received: u64,
    /// Events that the observer has not received, because it was paused or stuck.
    pub missed: u64,
    /// How many times the observer has panicked.
    pub panics: u64,
}

/// The most nanoseconds that one fetch counts in the estimated duration of a fetch. Without this
/// limit, a future that is not polled for a long time would look like a very slow fetch.
const LONGEST_FETCH_NANOS: u64 = 300_000_000_000;

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// Updates the estimate of how long a fetch takes.
    ///
    /// The estimate rises at once and falls slowly. With too low an estimate, a call would stop
    /// waiting for another process too early, and run an unnecessary fetch.
    pub(crate) fn estimate_fetch_time(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).clamp(1, LONGEST_FETCH_NANOS);
        // Two threads may overwrite each other's updates. The estimate need not be exact.
        let estimate = self.fetch_time.load(Ordering::Relaxed);
        let next = if took >= estimate { took } else { estimate - estimate / 8 + took / 8 };
        self.fetch_time.store(next, Ordering::Relaxed);
    }

    /// Adds the duration of a fetch to the histogram.
    pub(crate) fn record_fetch(&self, took: Duration) {
        self.fetch_durations.record(took);
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

/// A snapshot of a cache's counters. It lists each annotated function under its cache name.
///
/// [`Cache::stats`](crate::Cache::stats) returns this type. `Display` prints a table of the
/// functions that were called. The table leaves out counters of unusual results, such as `stale`,
/// as long as they are zero for every function.
#[derive(Debug, Clone, Default)]
#[must_use = "a snapshot does nothing by itself"]
pub struct Stats {
    rows: Vec<FunctionStatsRow>,
    local: LocalStats,
    observers: Vec<ObserverStats>,
}

/// The counters of one function.
#[derive(Debug, Clone)]
struct FunctionStatsRow {
    name: &'static str,
    counters: DeclarationStats,
    fetch_durations: DurationHistogram,
}

impl Stats {
    /// Reads the counters of every function. `local` must have the tier's `entries`, `bytes` and
    /// `capacity`. The evictions are set here, to the sums over all annotated functions.
    pub(crate) fn read(
        counters: &[Counters],
        local: LocalStats,
        observers: Vec<ObserverStats>,
    ) -> Stats {
        // A function that is not cached has no counters.
        let row = |declaration: &'static Declaration| {
            let counters = counters.get(declaration.index()?)?;
            // The durations are read first, so that there are never more durations than fetches.
            let fetch_durations = counters.fetch_durations.read();
            Some(FunctionStatsRow {
                name: declaration.name(),
                counters: counters.read(),
                fetch_durations,
            })
        };
        let rows = ledger().iter().filter_map(row).collect();
        let mut stats = Stats { rows, local, observers };
        let total = stats.total();
        stats.local = LocalStats {
            evictions_size: total.evictions_size,
            evictions_expired: total.evictions_expired,
            evictions_replaced: total.evictions_replaced,
            evictions_invalidated: total.evictions_invalidated,
            evictions_cleared: total.evictions_cleared,
            ..local
        };
        stats
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
        self.rows.iter().map(|row| (row.name, row.counters))
    }

    /// Returns the fetch durations of the function with this cache name, or `None` if no function
    /// or several functions have the name.
    ///
    /// A duration is recorded whenever the function's body returns, for refreshes too. Runs that
    /// bypass the cache are left out.
    ///
    /// ```
    /// let stats = cached_core::Cache::current().stats();
    /// for (name, _) in stats.iter() {
    ///     let durations = stats.fetch_durations(name).expect("the name is from the same list");
    ///     println!("{name}: half of the fetches took {:?} at most", durations.quantile(0.5));
    /// }
    /// ```
    #[must_use]
    pub fn fetch_durations(&self, name: &str) -> Option<DurationHistogram> {
        self.rows.iter().find(|row| row.name == name).map(|row| row.fetch_durations)
    }

    /// Returns how many entries the local tier has, and how many it has removed.
    ///
    /// ```
    /// let local = cached_core::Cache::current().stats().local();
    /// println!("{} entries take {} of {} bytes", local.entries, local.bytes, local.capacity);
    /// ```
    #[must_use]
    pub fn local(&self) -> LocalStats {
        self.local
    }

    /// Returns the counters of each observer, in the order in which the builder received them.
    ///
    /// ```
    /// for observer in cached_core::Cache::current().stats().observers() {
    ///     println!("{} has missed {} events", observer.name, observer.missed);
    /// }
    /// ```
    #[must_use]
    pub fn observers(&self) -> &[ObserverStats] {
        &self.observers
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
        let is_shown = |column: &&Column| {
            column.shown == ColumnVisibility::Always || (column.count)(&total) > 0
        };
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
