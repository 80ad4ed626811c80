//! Tests that every public type is `Send`, `Sync` and `Unpin`.

use crate::*;

fn assert_auto_traits<T: Send + Sync + Unpin>() {}

#[test]
fn every_public_type_is_send_sync_and_unpin() {
    assert_auto_traits::<Cache>();
    assert_auto_traits::<CacheBuilder>();
    assert_auto_traits::<StaticCache>();
    assert_auto_traits::<CacheEntry<String, WriteOnce>>();
    assert_auto_traits::<CacheEntry<String, Overwritable>>();
    assert_auto_traits::<CachedResponse<String>>();
    assert_auto_traits::<(CacheError, ConfigError, ConfigErrorKind, InstallError, KeyError)>();
    assert_auto_traits::<(RemoteError, RemoteErrorKind, UnknownNameError)>();
    assert_auto_traits::<(Declaration, Finding, Ledger, LedgerDrift, LedgerDriftKind)>();
    assert_auto_traits::<(Stats, DeclarationStats, LocalStats, DurationHistogram)>();
    assert_auto_traits::<(ServerStats, ServerState, Health, ObserverStats)>();
    assert_auto_traits::<(Event<'_>, event::EventSubject<'_>, event::BypassReason<'_>)>();
    assert_auto_traits::<(event::FetchOutcome, event::UncachedReason, event::FillRefusal)>();
    assert_auto_traits::<(event::StaleServedReason, event::EvictionReason, event::UnstorableValue)>(
    );
    assert_auto_traits::<(RequestScope, Tier)>();
    assert_auto_traits::<(CallResult, Outcome, Outcomes)>();
}

#[cfg(feature = "memcached")]
#[test]
fn keys_are_send_sync_and_unpin() {
    assert_auto_traits::<(Key, Digest)>();
}

#[cfg(feature = "tower")]
#[test]
fn the_layer_is_send_sync_and_unpin() {
    use crate::tower::{CacheStatus, RequestScopeLayer, RequestScopeService, ResponseFuture};
    assert_auto_traits::<(CacheStatus, RequestScopeLayer)>();
    assert_auto_traits::<RequestScopeService<()>>();
    assert_auto_traits::<ResponseFuture<std::future::Ready<()>>>();
}

#[cfg(feature = "console")]
#[test]
fn the_console_is_send_sync_and_unpin() {
    assert_auto_traits::<console::Console>();
}

#[cfg(feature = "testing")]
#[test]
fn test_tools_are_send_sync_and_unpin() {
    assert_auto_traits::<testing::TestCache>();
    #[cfg(feature = "memcached")]
    assert_auto_traits::<testing::TestMemcached>();
}

#[cfg(feature = "metrics")]
#[test]
fn the_metrics_publisher_is_send_sync_and_unpin() {
    assert_auto_traits::<MetricsPublisher>();
}
