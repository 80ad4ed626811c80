//! The options that a companion sets on its entry.

use std::time::Duration;

use crate::entry::CacheEntry;
use crate::value::weight_fn;

/// A [`CacheEntry`] whose options are set by the companion that makes it.
#[must_use]
pub struct EntryBuilder<V, P>(pub(super) CacheEntry<V, P>);

impl<V, P> EntryBuilder<V, P> {
    /// Sets the time to live of values that are added or overwritten.
    pub fn ttl(mut self, ttl: Duration) -> EntryBuilder<V, P> {
        self.0.ttl = Some(ttl);
        self
    }

    /// Sets which values are cached.
    pub fn cache_if(mut self, cache_if: fn(&V) -> bool) -> EntryBuilder<V, P> {
        self.0.rules.cache_if = Some(cache_if);
        self
    }

    /// Sets the time to live from the value.
    pub fn ttl_with(mut self, ttl_with: fn(&V) -> Duration) -> EntryBuilder<V, P> {
        self.0.rules.ttl_with = Some(ttl_with);
        self
    }

    /// Sets the weight of a value in the local tier.
    pub fn weight(mut self, weight: fn(&V) -> usize) -> EntryBuilder<V, P>
    where
        V: 'static,
    {
        self.0.weigher = Some(weight_fn(weight));
        self
    }

    /// Returns the entry.
    pub fn build(self) -> CacheEntry<V, P> {
        self.0
    }
}
