//! The table that compares two runs.

use crate::upstream::SERVICES;
use cached_core::DeclarationStats;
use std::fmt;
use std::time::Duration;

/// The measurements of one run.
pub(crate) struct Run {
    /// The number of calls that each upstream service has counted.
    calls: [u64; SERVICES.len()],
    /// The duration of each customer request, sorted.
    waits: Vec<Duration>,
    took: Duration,
    /// The sum of the statistics of all caches.
    answered: DeclarationStats,
}

impl Run {
    pub(crate) fn new(
        calls: [u64; SERVICES.len()],
        mut waits: Vec<Duration>,
        took: Duration,
        answered: DeclarationStats,
    ) -> Run {
        waits.sort_unstable();
        Run { calls, waits, took, answered }
    }

    /// Returns true if memcached answered a call.
    pub(crate) fn used_memcached(&self) -> bool {
        self.answered.remote_hits > 0
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

/// The table that compares the load without the cache and with it.
pub(crate) struct Table<'a> {
    pub(crate) without: &'a Run,
    pub(crate) with: &'a Run,
    /// True if the second run had a remote tier.
    pub(crate) memcached: bool,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Table { without, with, memcached } = self;
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
        let answered = &with.answered;
        let remote = match (memcached, answered.remote_errors) {
            (false, _) => "not configured".to_string(),
            (true, 0) => "stored there by the other broker".to_string(),
            (true, failed) => format!("{} exchanges with memcached failed", grouped(failed)),
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
        let run = Run::new([0; SERVICES.len()], waits, Duration::ZERO, DeclarationStats::default());
        assert_eq!(run.percentile(50), Duration::from_millis(50));
        assert_eq!(run.percentile(99), Duration::from_millis(99));
        let empty =
            Run::new([0; SERVICES.len()], Vec::new(), Duration::ZERO, DeclarationStats::default());
        assert_eq!(empty.percentile(99), Duration::ZERO);
    }
}
