//! How long an entry is kept in each tier. This is a pure function of what is declared and configured.

use std::time::Duration;

use crate::refresh::window;
use crate::tier::remote::{RemoteStore, Store};

/// How long the local tier keeps a value that the remote tier has not confirmed. It is also the
/// default for a confirmed value that another process may overwrite.
pub(crate) const UNCONFIRMED_TTL: Duration = Duration::from_secs(5);

/// The longest ttl without a remote tier. Every clock can add it without an overflow.
const LONGEST_LOCAL_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The longest time for which the remote tier keeps an expired value. It does not depend on the
/// value's ttl, because a reader subtracts what the writer has added and knows no other ttl.
const LONGEST_REMOTE_STALE: Duration = Duration::from_secs(Store::LIMITS.longest_ttl.as_secs() / 2);

/// Everything that the times of one value depend on.
#[derive(Clone, Copy)]
pub(crate) struct TtlRules {
    /// The ttl of the value, before any limit.
    pub(crate) ttl: Duration,
    /// The part of the ttl that is taken off, from 0 to 1.
    pub(crate) jitter: f64,
    pub(crate) local_ttl: Option<Duration>,
    pub(crate) stale_if_error: Duration,
    pub(crate) refresh_ahead: Duration,
    pub(crate) is_overwritable: bool,
    pub(crate) has_remote_tier: bool,
}

/// How long one value is kept in each tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryTtls {
    /// How long the remote tier answers with the value.
    pub(crate) ttl: Duration,
    /// How long the local tier answers with it, once the remote tier has it or if there is none.
    pub(crate) local: Duration,
    /// How long the local tier answers with it while the remote tier has not confirmed it.
    pub(crate) unconfirmed: Duration,
    /// How long both tiers keep it after that, for a fetch that fails.
    pub(crate) stale: Duration,
    /// How long before its end it is due for a refresh.
    pub(crate) refresh_window: Duration,
}

impl EntryTtls {
    pub(crate) fn new(rules: &TtlRules) -> EntryTtls {
        let (mut longest, longest_stale) = match rules.has_remote_tier {
            true => (Store::LIMITS.longest_ttl, LONGEST_REMOTE_STALE),
            false => (LONGEST_LOCAL_TTL, LONGEST_LOCAL_TTL),
        };
        let stale = rules.stale_if_error.min(longest_stale);
        if rules.has_remote_tier {
            // An item of the remote tier lives for both together.
            longest -= stale;
        }
        // An entry whose ttl was cut must not be due for all of its life.
        let refresh_window = match rules.ttl > longest {
            true => window(longest, rules.refresh_ahead),
            false => rules.refresh_ahead.min(LONGEST_LOCAL_TTL),
        };
        let ttl = match rules.jitter {
            0.0 => rules.ttl.min(longest),
            jitter => rules.ttl.min(longest).mul_f64(1.0 - jitter),
        };
        let in_remote_tier = rules.has_remote_tier.then(|| Store::LIMITS.guaranteed(ttl)).flatten();
        let local = match in_remote_tier {
            // The value stays in this process.
            None => ttl.min(rules.local_ttl.unwrap_or(ttl)),
            // The local entry must not outlive the item of the remote tier.
            Some(guaranteed) => {
                let default = if rules.is_overwritable { UNCONFIRMED_TTL } else { ttl };
                guaranteed.min(rules.local_ttl.unwrap_or(default))
            }
        };
        let unconfirmed = ttl.min(UNCONFIRMED_TTL).min(rules.local_ttl.unwrap_or(UNCONFIRMED_TTL));
        EntryTtls { ttl, local, unconfirmed, stale, refresh_window }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A write-once function with a ttl of an hour and no other option.
    fn rules(has_remote_tier: bool) -> TtlRules {
        TtlRules {
            ttl: HOUR,
            jitter: 0.0,
            local_ttl: None,
            stale_if_error: Duration::ZERO,
            refresh_ahead: Duration::ZERO,
            is_overwritable: false,
            has_remote_tier,
        }
    }

    #[test]
    fn without_a_remote_tier_the_local_tier_keeps_the_whole_ttl() {
        let ttls = EntryTtls::new(&rules(false));
        assert_eq!((ttls.ttl, ttls.local), (HOUR, HOUR));
        let bounded = TtlRules { local_ttl: Some(HOUR / 2), ..rules(false) };
        assert_eq!(EntryTtls::new(&bounded).local, HOUR / 2);
    }

    #[test]
    fn an_unconfirmed_value_is_kept_for_five_seconds() {
        assert_eq!(EntryTtls::new(&rules(true)).unconfirmed, UNCONFIRMED_TTL);
        let brief = TtlRules { ttl: Duration::from_secs(2), ..rules(true) };
        assert_eq!(EntryTtls::new(&brief).unconfirmed, brief.ttl);
    }

    #[test]
    fn jitter_takes_off_a_part_of_the_ttl() {
        let ttls = EntryTtls::new(&TtlRules { jitter: 0.25, ..rules(false) });
        assert_eq!(ttls.ttl, HOUR * 3 / 4);
    }

    #[cfg(feature = "memcached")]
    #[test]
    fn the_local_entry_does_not_outlive_the_remote_item() {
        assert!(EntryTtls::new(&rules(true)).local < HOUR);
        let overwritable = TtlRules { is_overwritable: true, ..rules(true) };
        assert_eq!(EntryTtls::new(&overwritable).local, UNCONFIRMED_TTL);
    }

    #[cfg(feature = "memcached")]
    #[test]
    fn the_stale_time_counts_towards_the_limit_of_the_remote_tier() {
        let longest = Store::LIMITS.longest_ttl;
        let ttls = EntryTtls::new(&TtlRules { ttl: longest, stale_if_error: HOUR, ..rules(true) });
        assert_eq!(ttls.ttl + ttls.stale, longest);
    }

    #[test]
    fn an_entry_whose_ttl_is_cut_is_not_always_due() {
        let endless = TtlRules { ttl: Duration::MAX, refresh_ahead: Duration::MAX, ..rules(false) };
        let ttls = EntryTtls::new(&endless);
        assert!(ttls.refresh_window < ttls.ttl);
    }
}
