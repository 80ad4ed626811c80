//! What memcached answers a leader: the value, or the right to fill.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Missed, Right, Won};
use crate::site::{Frame, Lifetime};
use crate::tier::local::{Ticket, Write};
use crate::tier::remote::{Found, Item, Lease, Remote, RemoteKey, whole_seconds};
use crate::value::Value;

/// The lease, until fetches are seen to take longer than a quarter of it.
const LEASE: Duration = Duration::from_secs(5);
/// Pauses between two looks at an entry whose lease another process holds.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(100);

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
    pub(super) fn acquire(&self, ticket: Ticket) -> impl Future<Output = Acquired> {
        let site = &self.site;
        let lifetime = site.lifetime(None);
        async move {
            // By the ttl that is asked for: what jitter makes of that is another time for each value.
            let lasts = whole_seconds(site.ttl(None)) > 0;
            let Some((remote, mut key)) = site.remote().filter(|_| lasts) else {
                return Acquired::without_stale(Right::LocalOnly);
            };
            let counters = site.counters();
            let config = site.cache.config();
            let observed = counters.fetch_time();
            let lease = config.lease.unwrap_or(observed.map_or(LEASE, |time| LEASE.max(time * 4)));
            let wait = config.lease_wait.unwrap_or(observed.map_or(lease, |time| time * 2));
            let mut give_up = None;
            let mut pause = FIRST_LOOK;
            loop {
                match key.read_or_lease(lease, lifetime.kept + lifetime.ahead).await {
                    Err(error) => {
                        log::debug!("{error}");
                        counters.remote_errors.add();
                        if key.turns_to_gutter(&error) {
                            continue;
                        }
                        // Where it has said before that another has the lease, it has answered.
                        let unasked = give_up.is_none();
                        let right = if unasked { Right::Unasked } else { Right::Nothing };
                        return Acquired::without_stale(right);
                    }
                    Ok(Found::Item(item)) => {
                        let frame = site.open(&item.frame);
                        if frame.is_foreign() {
                            site.leave(&item, &key);
                            if key.turns_to_second_slot() {
                                continue;
                            }
                        }
                        return self.take((item, frame), remote, &key, lease, lifetime, ticket);
                    }
                    Ok(Found::Lease(cas)) => {
                        let lease = Lease::new(remote, key, cas);
                        let won = Box::new(Won { lease, stale: None });
                        return Acquired::without_stale(Right::Lease(Some(won)));
                    }
                    Ok(Found::Nothing) => return Acquired::without_stale(Right::Nothing),
                    Ok(Found::Busy(_)) => {}
                }
                // From the first look on, of which most callers need no more.
                let now = Instant::now();
                let left = give_up.get_or_insert(now + wait).saturating_duration_since(now);
                if left.is_zero() || self.force_miss() {
                    counters.lease_timeouts.add();
                    return Acquired::without_stale(Right::Nothing);
                }
                tokio::time::sleep(pause.min(left)).await;
                pause = (pause * 2).min(LONGEST_LOOK);
            }
        }
    }

    /// What an item is worth to this call.
    fn take(
        &self,
        (item, frame): (Item, Frame),
        remote: &Arc<Remote>,
        key: &RemoteKey,
        lease: Duration,
        lifetime: Lifetime,
        ticket: Ticket,
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
                false if remote.is_lost(key, item.cas, lease) => {
                    Acquired::Right { right: replace(), stale: Some(value) }
                }
                false => Acquired::Stale(value),
            };
        };
        let life = lifetime.local_life(now, fresh.min(lifetime.local));
        site.publish(ticket, Write::Once, &value, weight, life);
        match item.won {
            true => Acquired::Due(value, won(None), (!item.given_back).then(|| now + fresh)),
            false => Acquired::Value(value),
        }
    }
}
