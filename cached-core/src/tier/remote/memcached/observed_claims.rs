//! Refresh claims that another process holds: memcached gives the claim of an item to one reader.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::cas::Cas;
use crate::sync::lock;

/// The most keys whose claims are watched.
const LIMIT: usize = 4096;

/// For each key the item whose refresh is claimed, and when this process first saw that.
#[derive(Default)]
pub(super) struct ObservedClaims(Mutex<HashMap<Arc<str>, (Cas, Instant)>>);

impl ObservedClaims {
    /// Returns true if this process has seen this item's claim at least `within` ago. The holder may
    /// have been killed; any process may then replace the item under its CAS.
    pub(super) fn is_abandoned(&self, key: &Arc<str>, cas: Cas, within: Duration) -> bool {
        let now = Instant::now();
        let mut claims = lock(&self.0);
        match claims.get(key) {
            Some(&(claimed, since)) if claimed == cas => {
                let is_abandoned = now.saturating_duration_since(since) > within;
                if is_abandoned {
                    claims.remove(key);
                }
                is_abandoned
            }
            _ => {
                // A claim that is forgotten is only waited for anew.
                if claims.len() >= LIMIT {
                    claims.clear();
                }
                claims.insert(Arc::clone(key), (cas, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_abandoned_after_its_time() {
        let (claims, key): (_, Arc<str>) = (ObservedClaims::default(), "key".into());
        let within = Duration::from_millis(20);
        assert!(!claims.is_abandoned(&key, 1.into(), within));
        assert!(!claims.is_abandoned(&key, 1.into(), Duration::from_secs(60)));
        std::thread::sleep(within + Duration::from_millis(5));
        assert!(!claims.is_abandoned(&key, 2.into(), within), "the item was replaced");
        std::thread::sleep(within + Duration::from_millis(5));
        assert!(claims.is_abandoned(&key, 2.into(), within));
        assert!(!claims.is_abandoned(&key, 2.into(), within), "one caller is told");
    }
}
