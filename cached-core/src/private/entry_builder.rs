//! The builder of cache entries for the code that the attribute generates.
//!
//! The option `entry = NAME` generates a second function beside the annotated function, the
//! *companion*. The companion takes the same arguments, and returns a [`CacheEntry`], the handle of
//! the cache entry for these arguments. It creates this handle with the builder.

use std::sync::Arc;
use std::time::Duration;

use crate::entry::CacheEntry;
use crate::value::weight_fn;

/// A builder that sets the options of a [`CacheEntry`].
#[must_use]
pub struct EntryBuilder<V, P>(pub(super) CacheEntry<V, P>);

impl<V, P> EntryBuilder<V, P> {
    /// Sets the time to live of the entry.
    pub fn ttl(mut self, ttl: Duration) -> EntryBuilder<V, P> {
        self.0.ttl = Some(ttl);
        self
    }

    /// Sets the function that decides whether a value is cached.
    pub fn cache_if(
        mut self,
        cache_if: impl Fn(&V) -> bool + Send + Sync + 'static,
    ) -> EntryBuilder<V, P> {
        self.0.rules.cache_if = Some(Arc::new(cache_if));
        self
    }

    /// Sets the function that computes the time to live from a value.
    pub fn ttl_with(
        mut self,
        ttl_with: impl Fn(&V) -> Duration + Send + Sync + 'static,
    ) -> EntryBuilder<V, P> {
        self.0.rules.ttl_with = Some(Arc::new(ttl_with));
        self
    }

    /// Sets the function that computes the weight of a value in the local tier.
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
