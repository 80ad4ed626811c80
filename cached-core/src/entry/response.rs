//! What a look at an entry found.

use crate::tier::Tier;
use crate::value::Value;

/// What [`CacheEntry::get`](crate::CacheEntry::get) found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct CachedResponse<V> {
    found: Option<(V, Tier)>,
}

impl<V> CachedResponse<V> {
    pub(super) fn missing() -> CachedResponse<V> {
        CachedResponse { found: None }
    }

    /// Whether there is a value.
    #[must_use]
    pub fn is_found(&self) -> bool {
        self.found.is_some()
    }

    /// The tier it was found in.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        self.found.as_ref().map(|(_, tier)| *tier)
    }

    /// The value, if one was found.
    #[must_use]
    pub fn into_option(self) -> Option<V> {
        self.found.map(|(value, _)| value)
    }

    /// The value, or `default`.
    #[must_use]
    pub fn value_or(self, default: V) -> V {
        self.into_option().unwrap_or(default)
    }
}

impl<V: Clone + Send + Sync + 'static> CachedResponse<V> {
    pub(super) fn found(value: &Value, tier: Tier) -> CachedResponse<V> {
        let value = value.downcast_ref::<V>().cloned();
        CachedResponse { found: value.map(|value| (value, tier)) }
    }
}
