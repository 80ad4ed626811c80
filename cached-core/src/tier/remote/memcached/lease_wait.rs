//! Limits how long a caller waits for a lease that another caller holds.
//!
//! A *lease* is the right to fetch a missing value, and a *fetch* is a run of the annotated
//! function. A waiting caller reads the key again and again, in one exchange with the server each
//! time, until the value is there or the wait is over.
//!
//! A new lease is a *placeholder* on the server, an empty item that usually expires after 2 s.
//! While the holder of a lease fetches, it stores a *marker* in the placeholder every half second,
//! to show that it is alive.
//!
//! For a lease without a marker, a caller waits only briefly: for twice the function's usual fetch
//! time, but at most 2.5 s. If the holder was killed before its first marker, the lease usually
//! ends within this time. For a lease with a marker, a caller waits until the fetch has taken twice
//! the expected time.
//!
//! If the holder fails or is killed, another caller wins the lease. The other waiting callers then
//! see a new lease without a marker, and start their wait over. Otherwise they would all give up
//! and fetch at once. Each wait starts over only once.

use std::time::{Duration, Instant};

use super::cas::Cas;
use super::item::BusyLease;
use super::renewals::LONGEST_PLACEHOLDER;
use super::route::KeyRoute;
use crate::config::Config;

/// The pause between two reads of the key doubles from `FIRST_PAUSE` to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long a caller waits for the first marker if the function's usual fetch time is unknown. A
/// live holder stores its first marker within this time.
const FIRST_MARKER_WAIT: Duration = Duration::from_millis(750);
/// The longest wait for a lease without a marker. The placeholder of a killed process usually ends
/// within this time, because it lasts for 2 s.
const LONGEST_WAIT_WITHOUT_MARKER: Duration = Duration::from_millis(2500);
/// When a caller has given up its wait, a later check finds out whether the lease has ended. The
/// check runs after this time at the earliest. By then, the usual placeholder of a killed process
/// has expired.
const ORPHAN_ENDS_AFTER: Duration = Duration::from_millis(3200);
/// A server might remove a placeholder up to this much later than the server's reply says.
const REMOVAL_DELAY: Duration = Duration::from_millis(1200);
/// The longest wait for a lease with a marker if neither the holder nor this process knows how long
/// the fetch takes.
const UNKNOWN_FETCH_WAIT: Duration = Duration::from_secs(60);

/// The state of one caller's wait for a lease.
pub(super) struct LeaseWait {
    began: Instant,
    pause: Duration,
    /// The setting `lease_wait`. If it is set, it replaces all other limits of the wait.
    configured: Option<Duration>,
    /// The longest time for which any process of the deployment lets a placeholder last.
    longest_placeholder: Duration,
    /// The function's usual fetch time; `None` if this process has not measured it.
    fetch_time: Option<Duration>,
    /// False if recent leases on the server did not end. The caller then waits only for a lease
    /// with a marker.
    allows_waiting: bool,
    has_seen_marker: bool,
    /// The CAS (version number) of a lease without a marker, and the time from which the wait for
    /// this lease counts. Set for the first holder's lease, and set again for the second holder's
    /// lease. Later holders do not change this field.
    placeholder: Option<(Option<Cas>, Instant)>,
    /// True if another holder has won the lease during this wait.
    has_changed_hands: bool,
}

impl LeaseWait {
    pub(super) fn new(
        config: &Config,
        fetch_time: Option<Duration>,
        route: &KeyRoute,
    ) -> LeaseWait {
        LeaseWait {
            began: Instant::now(),
            pause: FIRST_PAUSE,
            configured: config.lease_wait,
            longest_placeholder: config.lease.unwrap_or(LONGEST_PLACEHOLDER),
            fetch_time,
            allows_waiting: route.allows_waiting(),
            has_seen_marker: false,
            placeholder: None,
            has_changed_hands: false,
        }
    }

    /// Returns the pause before the next read, or `None` if the wait is over.
    pub(super) fn next_pause(&mut self, busy: &BusyLease) -> Option<Duration> {
        let now = Instant::now();
        let began = match self.configured {
            Some(_) => self.began,
            None => self.wait_start(busy, now),
        };
        let waited = now.saturating_duration_since(began);
        let left = self.time_left(busy, waited)?;
        let pause = self.pause.min(left);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }

    /// Returns the time from which the wait counts. For a lease with a marker, and for the first
    /// holder, this is `began`. For a second holder without a marker, it is the time of the first
    /// read that found the second holder's lease. The time does not change for later holders.
    fn wait_start(&mut self, busy: &BusyLease, now: Instant) -> Instant {
        if busy.marker.is_some() {
            return self.began;
        }
        match self.placeholder {
            Some((cas, since)) if cas == busy.cas || self.has_changed_hands => since,
            before => {
                self.has_changed_hands = before.is_some() || self.has_seen_marker;
                let since = if self.has_changed_hands { now } else { self.began };
                self.placeholder = Some((busy.cas, since));
                since
            }
        }
    }

    /// Returns how much longer a caller that has waited for `waited` should wait, or `None` if the
    /// wait is over.
    fn time_left(&mut self, busy: &BusyLease, waited: Duration) -> Option<Duration> {
        self.has_seen_marker |= busy.marker.is_some();
        let left = match (self.configured, busy.marker) {
            (Some(configured), _) => configured.checked_sub(waited),
            (None, Some(marker)) => {
                let expected = marker.expected.max(self.fetch_time.unwrap_or_default());
                match expected.is_zero() {
                    true => UNKNOWN_FETCH_WAIT.checked_sub(waited),
                    false => expected.saturating_mul(2).checked_sub(marker.elapsed),
                }
            }
            (None, None) if !self.allows_waiting => None,
            (None, None) => {
                let bound = self.fetch_time.map_or(FIRST_MARKER_WAIT, |time| {
                    time.saturating_mul(2).min(LONGEST_WAIT_WITHOUT_MARKER)
                });
                bound.checked_sub(waited)
            }
        };
        left.filter(|left| !left.is_zero())
    }

    /// Must be called when the caller stops waiting. If a marker was seen, records that the lease
    /// makes progress, because the holder was alive. Otherwise starts a task that later reads the
    /// key again, and finds out whether the lease has ended. No task is started if the lease has no
    /// CAS, or if `allows_waiting` is false.
    pub(super) fn give_up(&self, route: &KeyRoute, busy: &BusyLease) {
        if self.has_seen_marker {
            route.record_lease_progress();
        } else if let Some(cas) = busy.cas
            && self.allows_waiting
        {
            route.check_lease_end(cas, self.orphan_ends_in(busy, Instant::now()));
        }
    }

    /// Returns the time after which an *orphan*, a lease whose holder was killed, has ended.
    ///
    /// A placeholder can last longer than usual: the setting `lease` prolongs it, and so does a
    /// large number of leases at once. The result is bounded, because a faulty server could report
    /// any remaining time.
    fn orphan_ends_in(&self, busy: &BusyLease, now: Instant) -> Duration {
        let left = busy.expires.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        ORPHAN_ENDS_AFTER.max(left.min(self.longest_placeholder) + REMOVAL_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::remote::memcached::marker::LeaseMarker;

    fn wait(fetch_time: Option<Duration>) -> LeaseWait {
        LeaseWait {
            began: Instant::now(),
            pause: FIRST_PAUSE,
            configured: None,
            longest_placeholder: LONGEST_PLACEHOLDER,
            fetch_time,
            allows_waiting: true,
            has_seen_marker: false,
            placeholder: None,
            has_changed_hands: false,
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn busy(marker: Option<(u64, u64)>) -> BusyLease {
        let marker = marker.map(|(elapsed, expected)| LeaseMarker {
            nonce: 7,
            elapsed: millis(elapsed),
            expected: millis(expected),
        });
        BusyLease { cas: Some(7.into()), marker, expires: None }
    }

    #[test]
    fn a_wait_without_a_marker_is_short() {
        for (fetch_time, bound) in [(None, 750), (Some(10), 20), (Some(8000), 2500)] {
            let mut wait = wait(fetch_time.map(millis));
            assert_eq!(wait.time_left(&busy(None), millis(bound - 1)), Some(millis(1)));
            assert_eq!(wait.time_left(&busy(None), millis(bound)), None);
        }
        let mut paused = LeaseWait { allows_waiting: false, ..wait(None) };
        assert_eq!(paused.time_left(&busy(None), millis(0)), None);
        assert!(
            paused.time_left(&busy(Some((500, 0))), millis(0)).is_some(),
            "a marker shows that the holder is alive"
        );
    }

    #[test]
    fn a_marker_allows_twice_the_expected_time() {
        let mut nothing_known = wait(None);
        assert!(nothing_known.time_left(&busy(Some((55_000, 0))), millis(59_000)).is_some());
        assert!(nothing_known.time_left(&busy(Some((55_000, 0))), millis(60_000)).is_none());
        let marker = |elapsed| busy(Some((elapsed, 8000)));
        assert!(nothing_known.time_left(&marker(15_000), millis(15_000)).is_some());
        assert!(nothing_known.time_left(&marker(16_000), millis(100)).is_none());
        let mut knows_more = wait(Some(millis(20_000)));
        assert!(knows_more.time_left(&marker(16_000), millis(100)).is_some());
    }

    #[test]
    fn the_wait_starts_over_for_one_new_holder() {
        let mut wait = wait(None);
        let began = wait.began;
        let lease = |cas: u64| BusyLease { cas: Some(cas.into()), ..busy(None) };
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(wait.wait_start(&lease(1), at(0)), began);
        wait.has_seen_marker = true;
        assert_eq!(wait.wait_start(&busy(Some((500, 0))), at(1)), began);
        assert_eq!(
            wait.wait_start(&lease(2), at(2)),
            at(2),
            "the wait starts over for a new holder"
        );
        assert_eq!(wait.wait_start(&lease(2), at(3)), at(2));
        assert_eq!(wait.wait_start(&lease(3), at(4)), at(2), "the wait starts over only once");
    }

    #[test]
    fn a_long_placeholder_is_checked_late() {
        let now = Instant::now();
        let ends_in = |wait: &LeaseWait, seconds| {
            let expires = now + Duration::from_secs(seconds);
            wait.orphan_ends_in(&BusyLease { expires: Some(expires), ..busy(None) }, now)
        };
        let usual = wait(None);
        assert_eq!(ends_in(&usual, 2), ORPHAN_ENDS_AFTER);
        assert!(
            ends_in(&usual, 9) > Duration::from_secs(10),
            "many held leases prolong a placeholder"
        );
        let bound = LONGEST_PLACEHOLDER + Duration::from_secs(2);
        assert!(ends_in(&usual, 99_999) < bound, "the time is bounded if the server is faulty");
        let configured = LeaseWait { longest_placeholder: Duration::from_secs(30), ..usual };
        assert!(ends_in(&configured, 29) > Duration::from_secs(30));
        assert_eq!(configured.orphan_ends_in(&busy(None), now), ORPHAN_ENDS_AFTER);
    }

    #[test]
    fn a_configured_wait_replaces_all_limits() {
        let mut wait = LeaseWait { configured: Some(millis(300)), ..wait(Some(millis(8000))) };
        for busy in [busy(None), busy(Some((20_000, 10)))] {
            assert!(wait.time_left(&busy, millis(299)).is_some());
            assert!(wait.time_left(&busy, millis(300)).is_none());
        }
    }
}
