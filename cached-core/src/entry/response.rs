//! [`CachedResponse`]: the result of looking up an entry.

use std::fmt;

use crate::tier::Tier;
use crate::value::Value;

/// The result of [`CacheEntry::get`](crate::CacheEntry::get): a value and the tier that had the
/// value, or nothing.
///
/// `Debug` shows the tier and never the value.
///
/// ```
/// # use cached_core::{Tier, coordinator_cached};
/// #[coordinator_cached(name = "response_doc", version = edition, entry = course_entry)]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("course {id}, edition {edition}"))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// course(1, 2).await?;
/// let found = course_entry(1, 2).get().await;
/// assert!(found.is_found());
/// assert_eq!(found.tier(), Some(Tier::Local));
/// assert_eq!(found.into_option().as_deref(), Some("course 1, edition 2"));
///
/// let missing = course_entry(1, 3).get().await;
/// assert_eq!(missing.value_or("no course".to_owned()), "no course");
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use = "a response does nothing by itself"]
pub struct CachedResponse<V> {
    found: Option<(V, Tier)>,
}

impl<V> CachedResponse<V> {
    pub(super) fn missing() -> CachedResponse<V> {
        CachedResponse { found: None }
    }

    /// Returns true if a tier had a value.
    #[must_use]
    pub fn is_found(&self) -> bool {
        self.found.is_some()
    }

    /// Returns the tier that had the value, or `None` if no tier had a value.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        self.found.as_ref().map(|(_, tier)| *tier)
    }

    /// Returns the value, or `None` if no tier had a value.
    #[must_use]
    pub fn into_option(self) -> Option<V> {
        self.found.map(|(value, _)| value)
    }

    /// Returns the value, or `default` if no tier had a value.
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

impl<V> fmt::Debug for CachedResponse<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedResponse").field("tier", &self.tier()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_tier_and_no_value() {
        let found = CachedResponse { found: Some(("secret", Tier::Local)) };
        assert_eq!(format!("{found:?}"), "CachedResponse { tier: Some(Local), .. }");
        let missing = CachedResponse::<&str>::missing();
        assert_eq!(format!("{missing:?}"), "CachedResponse { tier: None, .. }");
    }
}
