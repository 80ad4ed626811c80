//! Formats two tables. One compares a run without the cache with a run that has the cache. The
//! other shows a run in which memcached was killed.
//!
//! A *broker* is a service that answers customer requests with the help of annotated functions.

use crate::upstream::SERVICES;
use cached_core::DeclarationStats;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Counts the calls of annotated functions by where their answer came from. Also counts the fetches
/// and the exchanges with memcached that failed. A broker sends these counters as JSON.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct AnswerSourceCounters {
    request_hits: u64,
    local_hits: u64,
    remote_hits: u64,
    waits: u64,
    fetches: u64,
    fetch_errors: u64,
    remote_errors: u64,
}

impl AnswerSourceCounters {
    fn calls(&self) -> u64 {
        self.request_hits + self.local_hits + self.remote_hits + self.waits + self.fetches
    }

    fn combine(
        self,
        other: AnswerSourceCounters,
        combine: fn(u64, u64) -> u64,
    ) -> AnswerSourceCounters {
        AnswerSourceCounters {
            request_hits: combine(self.request_hits, other.request_hits),
            local_hits: combine(self.local_hits, other.local_hits),
            remote_hits: combine(self.remote_hits, other.remote_hits),
            waits: combine(self.waits, other.waits),
            fetches: combine(self.fetches, other.fetches),
            fetch_errors: combine(self.fetch_errors, other.fetch_errors),
            remote_errors: combine(self.remote_errors, other.remote_errors),
        }
    }
}

impl From<DeclarationStats> for AnswerSourceCounters {
    fn from(stats: DeclarationStats) -> AnswerSourceCounters {
        AnswerSourceCounters {
            request_hits: stats.request_hits,
            local_hits: stats.local_hits,
            remote_hits: stats.remote_hits,
            waits: stats.waits,
            fetches: stats.fetches,
            fetch_errors: stats.fetch_errors,
            remote_errors: stats.remote_errors,
        }
    }
}

impl Add for AnswerSourceCounters {
    type Output = AnswerSourceCounters;

    fn add(self, other: AnswerSourceCounters) -> AnswerSourceCounters {
        self.combine(other, u64::add)
    }
}

impl Sub for AnswerSourceCounters {
    type Output = AnswerSourceCounters;

    fn sub(self, earlier: AnswerSourceCounters) -> AnswerSourceCounters {
        self.combine(earlier, u64::saturating_sub)
    }
}

/// The counters at one moment of a run.
#[derive(Clone, Copy, Default)]
pub(crate) struct Snapshot {
    /// The number of customer requests that the brokers have answered.
    pub(crate) requests: u64,
    pub(crate) answers: AnswerSourceCounters,
}

impl Sub for Snapshot {
    type Output = Snapshot;

    fn sub(self, earlier: Snapshot) -> Snapshot {
        let requests = self.requests.saturating_sub(earlier.requests);
        Snapshot { requests, answers: self.answers - earlier.answers }
    }
}

/// The counters when memcached was killed during a run, and when it was started again.
pub(crate) struct Outage {
    pub(crate) killed: Snapshot,
    pub(crate) restarted: Snapshot,
    /// False if memcached did not start again, for example because its port was taken.
    pub(crate) is_restarted: bool,
}

/// The measurements of one run.
pub(crate) struct Run {
    /// The number of calls that each upstream service has counted.
    calls: [u64; SERVICES.len()],
    /// The duration of each customer request, sorted.
    waits: Vec<Duration>,
    took: Duration,
    /// The counters of all brokers at the end of the run.
    end: Snapshot,
    outage: Option<Outage>,
}

impl Run {
    pub(crate) fn new(
        calls: [u64; SERVICES.len()],
        mut waits: Vec<Duration>,
        took: Duration,
        end: Snapshot,
        outage: Option<Outage>,
    ) -> Run {
        waits.sort_unstable();
        Run { calls, waits, took, end, outage }
    }

    /// Returns the table of the run's outage, if memcached was killed.
    pub(crate) fn outage(&self) -> Option<OutageTable<'_>> {
        let outage = self.outage.as_ref()?;
        Some(OutageTable { outage, end: self.end })
    }

    /// Returns true if memcached answered a call.
    pub(crate) fn used_memcached(&self) -> bool {
        self.end.answers.remote_hits > 0
    }

    fn upstream_calls(&self) -> u64 {
        self.calls.iter().sum()
    }

    fn percentile(&self, percent: usize) -> Duration {
        let last = self.waits.len().saturating_sub(1);
        self.waits.get(last * percent / 100).copied().unwrap_or_default()
    }

    fn waited(&self) -> Duration {
        self.waits.iter().sum()
    }
}

/// A table that compares two runs: one without the cache, and one with it.
pub(crate) struct ComparisonTable<'a> {
    pub(crate) without: &'a Run,
    pub(crate) with: &'a Run,
    /// True if the run with the cache also had a remote tier.
    pub(crate) memcached: bool,
}

impl fmt::Display for ComparisonTable<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ComparisonTable { without, with, memcached } = self;
        let rule = "-".repeat(78);
        let mut row = |name: &str, left: &str, right: &str, note: &str| {
            writeln!(out, "{}", format!("{name:<28}{left:>15}{right:>14}   {note}").trim_end())
        };
        row("", "without cache", "with cache", "")?;
        row(&rule, "", "", "")?;
        let (before, after) = (without.upstream_calls(), with.upstream_calls());
        row("upstream calls", &grouped(before), &grouped(after), &fewer(before, after))?;
        for (place, service) in SERVICES.iter().enumerate() {
            let (before, after) = (without.calls[place], with.calls[place]);
            row(
                &format!("  to {}", service.name),
                &grouped(before),
                &grouped(after),
                &fewer(before, after),
            )?;
        }
        for percent in [50, 99] {
            let (before, after) = (without.percentile(percent), with.percentile(percent));
            let name = format!("customer request, p{percent}");
            row(&name, &millis(before), &millis(after), "")?;
        }
        let (before, after) = (without.waited(), with.waited());
        let saved = before.saturating_sub(after);
        let share = 100.0 * saved.as_secs_f64() / before.as_secs_f64().max(f64::EPSILON);
        let note = format!("time saved: {} ({share:.0} %)", seconds(saved));
        row("all customers waited", &seconds(before), &seconds(after), &note)?;
        row("the run took", &seconds(without.took), &seconds(with.took), "")?;
        let answered = &with.end.answers;
        let remote = match (memcached, answered.remote_errors) {
            (false, _) => "not configured".to_string(),
            (true, failed) if failed > 0 && with.outage.is_none() => {
                format!("{} exchanges with memcached failed", grouped(failed))
            }
            (true, _) => "stored there by the other broker".to_string(),
        };
        let tiers = [
            ("request tier", answered.request_hits, "called before within the same request"),
            ("local tier", answered.local_hits, "found in the memory of the broker"),
            ("memcached", answered.remote_hits, &remote),
            ("another call's fetch", answered.waits, "this call waited for a running fetch"),
            ("a fetch of its own", answered.fetches, "found nowhere, so an upstream was called"),
        ];
        let calls: u64 = tiers.iter().map(|(_, count, _)| count).sum();
        writeln!(out, "\nWith the cache, {} annotated calls were answered from:", grouped(calls))?;
        for (name, count, note) in tiers {
            let share = format!("{:.1} %", 100.0 * count as f64 / calls.max(1) as f64);
            writeln!(out, "  {name:<22}{:>8}{share:>9}   {note}", grouped(count))?;
        }
        Ok(())
    }
}

/// The table of a run in which memcached was killed: what happened before, during and after the
/// outage.
pub(crate) struct OutageTable<'a> {
    outage: &'a Outage,
    end: Snapshot,
}

/// The name of a row of the [`OutageTable`], and the function that returns the count it shows.
type OutageRow = (&'static str, fn(&Snapshot) -> u64);

const OUTAGE_ROWS: [OutageRow; 9] = [
    ("customer requests", |part| part.requests),
    ("annotated calls", |part| part.answers.calls()),
    ("  request tier", |part| part.answers.request_hits),
    ("  local tier", |part| part.answers.local_hits),
    ("  shared by memcached", |part| part.answers.remote_hits),
    ("  another call's fetch", |part| part.answers.waits),
    ("  fetches", |part| part.answers.fetches),
    ("exchanges that failed", |part| part.answers.remote_errors),
    ("calls that failed", |part| part.answers.fetch_errors),
];

impl fmt::Display for OutageTable<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutageTable { outage: Outage { killed, restarted, is_restarted }, end } = self;
        writeln!(
            out,
            "memcached was killed after {} of {} requests, and {}:\n",
            grouped(killed.requests),
            grouped(end.requests),
            match is_restarted {
                true => format!("started again, empty, after {}", grouped(restarted.requests)),
                false => "did not start again".to_string(),
            }
        )?;
        let last = if *is_restarted { "started again" } else { "still killed" };
        writeln!(out, "{:<28}{:>15}{:>14}{last:>16}", "", "before", "killed")?;
        writeln!(out, "{}", "-".repeat(78))?;
        let parts = [*killed, *restarted - *killed, *end - *restarted];
        for (name, count) in OUTAGE_ROWS {
            let [before, during, after] = parts.each_ref().map(|part| grouped(count(part)));
            writeln!(out, "{name:<28}{before:>15}{during:>14}{after:>16}")?;
        }
        Ok(())
    }
}

fn fewer(before: u64, after: u64) -> String {
    let times = before as f64 / after.max(1) as f64;
    if times < 1.05 { "no fewer".to_string() } else { format!("{times:.1} times fewer") }
}

/// Formats a count with commas between the thousands.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn a_percentile_is_one_of_the_waits() {
        let waits = (1..=100).rev().map(Duration::from_millis).collect();
        let run =
            |waits| Run::new([0; SERVICES.len()], waits, Duration::ZERO, Snapshot::default(), None);
        let many = run(waits);
        assert_eq!(many.percentile(50), Duration::from_millis(50));
        assert_eq!(many.percentile(99), Duration::from_millis(99));
        assert_eq!(run(Vec::new()).percentile(99), Duration::ZERO);
    }

    #[test]
    fn an_outage_splits_the_run_into_three_parts() {
        let at = |requests, remote_hits, fetches| Snapshot {
            requests,
            answers: AnswerSourceCounters {
                remote_hits,
                fetches,
                ..AnswerSourceCounters::default()
            },
        };
        let outage =
            Outage { killed: at(40, 7, 9), restarted: at(60, 7, 1_020), is_restarted: true };
        let run = Run::new(
            [0; SERVICES.len()],
            Vec::new(),
            Duration::ZERO,
            at(100, 12, 1_025),
            Some(outage),
        );
        let table = run.outage().expect("memcached was killed").to_string();
        assert!(table.starts_with("memcached was killed after 40 of 100 requests"), "{table}");
        let row = |name: &str| {
            let row = table.lines().find(|line| line.trim_start().starts_with(name));
            let row = row.unwrap_or_else(|| panic!("no row {name}: {table}"));
            row.trim_start()[name.len()..].split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(row("customer requests"), ["40", "20", "40"]);
        assert_eq!(row("shared by memcached"), ["7", "0", "5"]);
        assert_eq!(row("fetches"), ["9", "1,011", "5"]);
    }
}
