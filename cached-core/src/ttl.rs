//! How long each tier keeps a value, computed from the options of the function and the settings of
//! the cache.
//!
//! A value has a *time to live* (ttl), during which a tier returns the value. After the ttl, a tier
//! may keep the expired value for the *stale time*, to serve if a fetch fails (`stale_if_error`).
//! The local tier is this process's memory, and the remote tier is memcached. An *item* is a value
//! as memcached stores it.

use std::time::Duration;

use crate::tier::remote::{RemoteStore, Store};

/// The longest local ttl of a value whose write to the remote tier is not confirmed. It is also the
/// default local ttl of a confirmed value that another process may overwrite.
pub(crate) const UNCONFIRMED_TTL: Duration = Duration::from_secs(5);

/// The longest ttl and the longest stale time of a cache without a remote tier. With a remote tier
/// too, this is the longest `refresh_ahead`, which is how long before its expiry a value is
/// refreshed. Adding this duration to an [`Instant`](std::time::Instant) does not overflow.
const LONGEST_LOCAL_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The longest stale time in the remote tier.
///
/// The remote tier removes an item when the item's ttl and stale time have passed. A reader knows
/// the time of removal, and subtracts the stale time to learn when the value expires. The reader
/// does not know the ttl of the item, so the stale time must not depend on the ttl.
const LONGEST_REMOTE_STALE: Duration = Duration::from_secs(Store::LIMITS.longest_ttl.as_secs() / 2);

/// Returns how long the remote tier keeps an expired value, given the function's `stale_if_error`.
#[cfg(all(feature = "console", feature = "memcached"))]
pub(crate) fn remote_stale_time(stale_if_error: Duration) -> Duration {
    stale_if_error.min(LONGEST_REMOTE_STALE)
}

/// The options and settings from which the [`EntryTtls`] of one value are computed.
#[derive(Clone, Copy)]
pub(crate) struct TtlInputs {
    /// The ttl of the value, before jitter and limits.
    pub(crate) ttl: Duration,
    /// The fraction of the ttl that is subtracted, from 0 to 1. It is random, so that values do not
    /// expire all at once.
    pub(crate) jitter: f64,
    /// The upper bound of `jitter`.
    pub(crate) max_jitter: f64,
    pub(crate) local_ttl: Option<Duration>,
    pub(crate) stale_if_error: Duration,
    pub(crate) refresh_ahead: Duration,
    pub(crate) is_overwritable: bool,
    pub(crate) has_remote_tier: bool,
}

/// How long each tier keeps one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryTtls {
    /// How long the remote tier, if there is one, returns the value.
    pub(crate) remote: Duration,
    /// How long the local tier returns a value that the remote tier has confirmed. Without a remote
    /// tier, how long the local tier returns any value.
    pub(crate) local: Duration,
    /// How long the local tier returns a value that the remote tier has not confirmed.
    pub(crate) unconfirmed: Duration,
    /// How long both tiers keep the value after its ttl, to serve if a fetch fails.
    pub(crate) stale: Duration,
    /// How long before the end of its ttl the value is due for a refresh.
    pub(crate) refresh_window: Duration,
    /// The shortest ttl that jitter can give the value in the remote tier.
    pub(crate) shortest: Duration,
}

impl EntryTtls {
    pub(crate) fn new(inputs: &TtlInputs) -> EntryTtls {
        let (mut longest, longest_stale) = match inputs.has_remote_tier {
            true => (Store::LIMITS.longest_ttl, LONGEST_REMOTE_STALE),
            false => (LONGEST_LOCAL_TTL, LONGEST_LOCAL_TTL),
        };
        let stale = inputs.stale_if_error.min(longest_stale);
        if inputs.has_remote_tier {
            // The limit of the remote tier applies to the ttl plus the stale time.
            longest -= stale;
        }
        // If `longest` shortens the ttl, the refresh window is computed from the shortened ttl. The
        // window is then always shorter than the ttl.
        let refresh_window = match inputs.ttl > longest {
            true => refresh_window(longest, inputs.refresh_ahead),
            false => inputs.refresh_ahead.min(LONGEST_LOCAL_TTL),
        };
        let whole = inputs.ttl.min(longest);
        let shortened = |jitter: f64| match jitter {
            0.0 => whole,
            // Jitter must not make a ttl too short for the remote tier.
            jitter => whole.mul_f64(1.0 - jitter).max(whole.min(Store::LIMITS.ttl_granularity)),
        };
        let (ttl, shortest) = (shortened(inputs.jitter), shortened(inputs.max_jitter));
        let refresh_window = match inputs.has_remote_tier {
            true => Store::LIMITS.refresh_window(refresh_window, shortest),
            false => refresh_window,
        };
        let in_remote_tier =
            inputs.has_remote_tier.then(|| Store::LIMITS.guaranteed(ttl)).flatten();
        let local = match in_remote_tier {
            // There is no remote tier, or it might remove the item at once.
            None => ttl.min(inputs.local_ttl.unwrap_or(ttl)),
            // The local entry must expire before the remote tier may remove the item.
            Some(guaranteed) => {
                let default = if inputs.is_overwritable { UNCONFIRMED_TTL } else { ttl };
                guaranteed.min(inputs.local_ttl.unwrap_or(default))
            }
        };
        let unconfirmed = ttl.min(UNCONFIRMED_TTL).min(inputs.local_ttl.unwrap_or(UNCONFIRMED_TTL));
        EntryTtls { remote: ttl, local, unconfirmed, stale, refresh_window, shortest }
    }
}

/// Returns how long before the end of its ttl an entry is due for a refresh. `declared` is the
/// option `refresh_ahead`. In the first third of the ttl, an entry is never due.
pub(crate) fn refresh_window(ttl: Duration, declared: Duration) -> Duration {
    declared.min(ttl / 3 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Returns the inputs for a ttl of an hour and no other option. The values of the function are
    /// never overwritten.
    fn inputs(has_remote_tier: bool) -> TtlInputs {
        TtlInputs {
            ttl: HOUR,
            jitter: 0.0,
            max_jitter: 0.0,
            local_ttl: None,
            stale_if_error: Duration::ZERO,
            refresh_ahead: Duration::ZERO,
            is_overwritable: false,
            has_remote_tier,
        }
    }

    #[test]
    fn the_local_tier_alone_keeps_the_whole_ttl() {
        let ttls = EntryTtls::new(&inputs(false));
        assert_eq!((ttls.remote, ttls.local), (HOUR, HOUR));
        let bounded = TtlInputs { local_ttl: Some(HOUR / 2), ..inputs(false) };
        assert_eq!(EntryTtls::new(&bounded).local, HOUR / 2);
    }

    #[test]
    fn an_unconfirmed_value_is_kept_for_five_seconds() {
        assert_eq!(EntryTtls::new(&inputs(true)).unconfirmed, UNCONFIRMED_TTL);
        let brief = TtlInputs { ttl: Duration::from_secs(2), ..inputs(true) };
        assert_eq!(EntryTtls::new(&brief).unconfirmed, brief.ttl);
    }

    #[test]
    fn jitter_takes_off_a_part_of_the_ttl() {
        let ttls = EntryTtls::new(&TtlInputs { jitter: 0.25, max_jitter: 0.5, ..inputs(false) });
        assert_eq!((ttls.remote, ttls.shortest), (HOUR * 3 / 4, HOUR / 2));
    }

    #[cfg(feature = "memcached")]
    #[test]
    fn no_local_entry_outlives_the_remote_item() {
        assert!(EntryTtls::new(&inputs(true)).local < HOUR);
        let overwritable = TtlInputs { is_overwritable: true, ..inputs(true) };
        assert_eq!(EntryTtls::new(&overwritable).local, UNCONFIRMED_TTL);
    }

    #[cfg(feature = "memcached")]
    #[test]
    fn the_remote_limit_includes_the_stale_time() {
        let longest = Store::LIMITS.longest_ttl;
        let ttls =
            EntryTtls::new(&TtlInputs { ttl: longest, stale_if_error: HOUR, ..inputs(true) });
        assert_eq!(ttls.remote + ttls.stale, longest);
    }

    #[cfg(feature = "memcached")]
    #[test]
    fn jitter_leaves_a_ttl_that_memcached_can_store() {
        let second = Duration::from_secs(1);
        let jitter = TtlInputs { jitter: 0.5, max_jitter: 0.5, ..inputs(true) };
        assert_eq!(EntryTtls::new(&TtlInputs { ttl: second, ..jitter }).remote, second);
        let brief = second / 2;
        assert_eq!(EntryTtls::new(&TtlInputs { ttl: brief, ..jitter }).remote, brief);
    }

    #[cfg(feature = "memcached")]
    #[test]
    fn no_item_is_due_from_the_moment_it_is_stored() {
        let window = |ttl_millis, window_millis| {
            let ttls = EntryTtls::new(&TtlInputs {
                ttl: Duration::from_millis(ttl_millis),
                refresh_ahead: Duration::from_millis(window_millis),
                ..inputs(true)
            });
            ttls.refresh_window.as_secs_f64()
        };
        assert_eq!(window(600_000, 120_000), 120.0);
        assert_eq!(window(10_000, 100), 1.0, "the window is rounded up to memcached's unit");
        assert_eq!(window(10_000, 2_500), 3.0);
        assert_eq!(window(2_900, 1_500), 1.0, "the item is stored for two seconds");
        assert_eq!(window(1_900, 1_000), 0.0, "the item is stored for one second");
        assert_eq!(window(600_000, 0), 0.0);
    }

    #[test]
    fn the_window_is_shorter_than_a_cut_ttl() {
        let endless =
            TtlInputs { ttl: Duration::MAX, refresh_ahead: Duration::MAX, ..inputs(false) };
        let ttls = EntryTtls::new(&endless);
        assert!(ttls.refresh_window < ttls.remote);
    }

    #[test]
    fn no_entry_is_due_early_in_its_ttl() {
        let seconds = Duration::from_secs;
        assert_eq!(refresh_window(seconds(600), seconds(120)), seconds(120));
        assert_eq!(refresh_window(seconds(90), seconds(120)), seconds(60));
    }
}
