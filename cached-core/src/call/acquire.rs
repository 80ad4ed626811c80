//! What memcached answers a leader: the value, or the right to fill.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lease_wait::LeaseWait;
use super::{Missed, Right, Won};
use crate::event::Event;
use crate::site::{Frame, Lifetime};
use crate::tier::local::{FillToken, WriteMode};
use crate::tier::remote::{Found, Item, Lease, Remote, RemoteKey, whole_seconds};
use crate::value::Value;

/// After this long whoever won the right to replace an item counts as killed, unless fetches are seen
/// to take longer than a quarter of it; and at the latest after the second time.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);
const REPLACED_WITHIN_AT_MOST: Duration = Duration::from_secs(120);

/// What the remote tier answers a leader.
pub(super) enum Acquired {
    Value(Value),
    /// A value that is to be refreshed, and when it expires, where the right may have been won too
    /// early: once, for then it is given back.
    Due(Value, Right, Option<Instant>),
    /// A value that has expired, while somebody else fetches.
    Stale(Value),
    Right {
        right: Right,
        stale: Option<Value>,
    },
}

impl Acquired {
    fn without_stale(right: Right) -> Acquired {
        Acquired::Right { right, stale: None }
    }
}

impl Missed {
    /// Asks memcached for the value, or for the right to fill it. An `async fn` keeps what it is given
    /// twice; this is a block, so that it and what waits for it fit in a box that an allocator has at
    /// hand.
    pub(super) fn acquire(&self, fill_token: FillToken) -> impl Future<Output = Acquired> {
        let site = &self.site;
        let lifetime = site.lifetime(None);
        async move {
            // By the ttl that is asked for: what jitter makes of that is another time for each value.
            let lasts = whole_seconds(site.ttl(None)) > 0;
            let Some((remote, mut key)) = site.remote().filter(|_| lasts) else {
                return Acquired::without_stale(Right::LocalOnly);
            };
            let entry = site.event_entry();
            let config = site.cache.config();
            let fetch_time = site.counters().fetch_time();
            let (_request, lease) = remote.request_lease();
            let mut wait: Option<LeaseWait> = None;
            loop {
                let found = key.read_or_lease(lease, lifetime.kept + lifetime.ahead).await;
                if let Some(wait) = &wait
                    && let Ok(Found::Item(_) | Found::Lease(_)) = found
                {
                    wait.ended(&key);
                }
                match found {
                    Err(error) => {
                        site.report(&error);
                        if key.turns_to_gutter(&error) {
                            continue;
                        }
                        return Acquired::without_stale(match wait {
                            None if error.is_refusal() => Right::Unshared,
                            None => Right::Unasked,
                            // It has answered before, and said that another has the lease.
                            Some(_) => Right::Nothing,
                        });
                    }
                    Ok(Found::Item(item)) => {
                        let frame = site.open(&item.frame);
                        if frame.is_foreign() {
                            site.leave(&item, &key);
                            if key.turns_to_second_slot() {
                                continue;
                            }
                        }
                        return self.take((item, frame), remote, &key, lifetime, fill_token);
                    }
                    Ok(Found::Lease(cas)) => {
                        site.emit(Event::LeaseWon { entry });
                        let expected = fetch_time.unwrap_or_default();
                        let lease = Lease::new(remote, key, cas, lease, expected);
                        let won = Box::new(Won { lease, stale: None });
                        return Acquired::without_stale(Right::Lease(Some(won)));
                    }
                    Ok(Found::Nothing) => return Acquired::without_stale(Right::Nothing),
                    Ok(Found::Busy(busy)) => {
                        let wait = wait.get_or_insert_with(|| {
                            site.emit(Event::LeaseBusy { entry });
                            LeaseWait::new(config.lease_wait, fetch_time, &key)
                        });
                        if self.force_miss() {
                            site.emit(Event::LeaseTimedOut { entry });
                            return Acquired::without_stale(Right::Nothing);
                        }
                        match wait.next_look(&busy) {
                            Some(pause) => tokio::time::sleep(pause).await,
                            None => {
                                site.emit(Event::LeaseTimedOut { entry });
                                wait.gave_up(&key, &busy);
                                return Acquired::without_stale(Right::Nothing);
                            }
                        }
                    }
                }
            }
        }
    }

    /// What an item is worth to this call.
    fn take(
        &self,
        (item, frame): (Item, Frame),
        remote: &Arc<Remote>,
        key: &RemoteKey,
        lifetime: Lifetime,
        fill_token: FillToken,
    ) -> Acquired {
        let site = &self.site;
        let replace = || Right::Replace(Box::new((key.clone(), item.cas)));
        let won = |stale| {
            let lease = Lease::of_item(remote, key.clone(), &item);
            Right::Lease(Some(Box::new(Won { lease, stale })))
        };
        let (value, weight) = match frame {
            // An item that nobody can read may be replaced by anybody. So may one that another build
            // has in the second slot: it has an entry in the first slot too.
            Frame::Corrupt | Frame::Foreign => return Acquired::without_stale(replace()),
            Frame::Value(value, weight) => (value, weight),
        };
        if self.force_miss() {
            let right = if site.overwritable() { replace() } else { Right::Leave };
            return Acquired::without_stale(right);
        }
        let now = site.now();
        let Some(fresh) = lifetime.left_of(now, &item) else {
            return match item.won {
                true => Acquired::Right { right: won(Some(value.clone())), stale: Some(value) },
                // The winner may have been killed.
                false if remote.is_lost(key, item.cas, self.replaced_within()) => {
                    Acquired::Right { right: replace(), stale: Some(value) }
                }
                false => Acquired::Stale(value),
            };
        };
        let life = lifetime.local_expiry(now, fresh.min(lifetime.local));
        site.publish(fill_token, WriteMode::Once, &value, weight, life);
        match item.won {
            true => Acquired::Due(value, won(None), (!item.given_back).then(|| now + fresh)),
            false => Acquired::Value(value),
        }
    }

    /// How long whoever won the right to replace an item has for it.
    fn replaced_within(&self) -> Duration {
        let fetch_time = self.site.counters().fetch_time().unwrap_or_default();
        let by_fetch_time =
            fetch_time.saturating_mul(4).clamp(REPLACED_WITHIN, REPLACED_WITHIN_AT_MOST);
        self.site.cache.config().lease.unwrap_or(by_fetch_time)
    }
}
