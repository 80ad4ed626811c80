//! Tests of the rules that every remote store must follow. Each rule is a function that is generic
//! over the store. To test another store, write a function that builds a [`TwoClients`] of that
//! store, and add a module to the macro `rules!`.
//!
//! A store keeps *frames*: encoded values. A reader needs a *permit* to write a frame. A *lease* is
//! a permit that only one reader gets while the value is missing. A *refresh claim* is one reader's
//! right to replace a value that will soon be removed.

mod memcached_process;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::memcached::MemcachedStore;
use super::memory::{InMemoryServers, ServerBehaviour};
use super::{
    DecodedFrame, IfMissing, Item, LeaseOptions, ReadHandler, ReadOutcome, RefreshClaimOutcome,
    RemoteError, RemoteErrorKind, RemoteStore, WriteOutcome, WritePermit,
};
use crate::clock::Clock;
use crate::config::Config;
use crate::event::{EventDispatcher, ObserverList};
use crate::key::Key;
pub(super) use memcached_process::MemcachedProcess;

/// Two clients of one store, which stand for two processes.
struct TwoClients<S> {
    one: Arc<S>,
    other: Arc<S>,
    /// Stops the server.
    take_down: Box<dyn FnOnce()>,
}

fn clients_on_memory() -> TwoClients<MemcachedStore> {
    let servers = InMemoryServers::new(Clock::default());
    let server = servers.at("memcached:11211");
    let config = Config {
        servers: vec!["memcached:11211".to_owned()],
        in_memory_servers: Some(servers),
        ..Config::default()
    };
    clients(&config, Box::new(move || server.set_behaviour(ServerBehaviour::Down)))
}

fn clients_on_memcached() -> TwoClients<MemcachedStore> {
    let process = MemcachedProcess::start();
    let servers = vec![process.address()];
    // The timeout is long because a busy machine can be slow. These tests do not check timeouts.
    let config = Config { servers, remote_timeout: Duration::from_secs(10), ..Config::default() };
    clients(&config, Box::new(move || drop(process)))
}

fn clients(config: &Config, take_down: Box<dyn FnOnce()>) -> TwoClients<MemcachedStore> {
    let store = || {
        let store = MemcachedStore::new(config, &EventDispatcher::new(&ObserverList::default()));
        Arc::new(store.expect("a server is configured"))
    };
    TwoClients { one: store(), other: store(), take_down }
}

/// Decodes a frame by its first letter: `v` marks a value, and `f` a frame that another build of
/// the program wrote. Any other letter marks a corrupt frame.
#[derive(Default)]
struct FirstLetterDecoder {
    failures: AtomicUsize,
    busy_leases: AtomicUsize,
}

impl ReadHandler for FirstLetterDecoder {
    type Decoded = Vec<u8>;

    fn decode(&self, frame: &[u8]) -> DecodedFrame<Vec<u8>> {
        match frame.first() {
            Some(b'v') => DecodedFrame::Value(frame.to_vec()),
            Some(b'f') => DecodedFrame::Foreign,
            _ => DecodedFrame::Corrupt,
        }
    }

    fn read_failed(&self, _: &RemoteError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    fn lease_held_elsewhere(&self) {
        self.busy_leases.fetch_add(1, Ordering::Relaxed);
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const LEASE: LeaseOptions =
    LeaseOptions { fetch_time: None, refresh_before_removal: Duration::ZERO, waits: false };
/// Options for a read that also tries to claim the refresh of an item with less than two minutes
/// left. An item with a ttl of one minute can be claimed as soon as it is stored.
const LEASE_OR_CLAIM: LeaseOptions =
    LeaseOptions { refresh_before_removal: Duration::from_secs(120), ..LEASE };

type LetterReadOutcome<S> = ReadOutcome<Vec<u8>, <S as RemoteStore>::Permit>;

fn key(name: &str) -> Key {
    Key::new(None, "contract", name.as_bytes())
}

async fn read<S: RemoteStore>(store: &Arc<S>, if_missing: IfMissing) -> LetterReadOutcome<S> {
    let outcome = store.read(&key("key"), &FirstLetterDecoder::default(), if_missing).await;
    outcome.expect("the store answers")
}

async fn read_permit<S: RemoteStore>(store: &Arc<S>, if_missing: IfMissing) -> S::Permit {
    match read(store, if_missing).await {
        ReadOutcome::Permit(permit) => permit,
        _ => panic!("the read gave no permit"),
    }
}

async fn win_lease<S: RemoteStore>(store: &Arc<S>) -> S::Permit {
    read_permit(store, IfMissing::Lease(LEASE)).await
}

async fn read_item<S: RemoteStore>(
    store: &Arc<S>,
    if_missing: IfMissing,
) -> Item<Vec<u8>, S::Permit> {
    match read(store, if_missing).await {
        ReadOutcome::Item(item) => item,
        _ => panic!("the read found no item"),
    }
}

async fn read_value<S: RemoteStore>(store: &Arc<S>) -> Option<Vec<u8>> {
    match read(store, IfMissing::Report).await {
        ReadOutcome::Item(item) => item.value,
        _ => None,
    }
}

async fn write(permit: &impl WritePermit, frame: &[u8]) -> WriteOutcome {
    let outcome = permit.write(frame.to_vec(), MINUTE, Duration::ZERO).await;
    outcome.expect("the store answers")
}

async fn overwrite<S: RemoteStore>(store: &Arc<S>, frame: &[u8]) {
    let outcome = store.overwrite(&key("key"), frame.to_vec(), MINUTE, Duration::ZERO).await;
    assert_eq!(outcome, Ok(WriteOutcome::Stored));
}

async fn one_reader_wins_the_lease<S: RemoteStore>(clients: TwoClients<S>) {
    let _lease = win_lease(&clients.one).await;
    let handler = FirstLetterDecoder::default();
    let outcome = clients.other.read(&key("key"), &handler, IfMissing::Lease(LEASE)).await;
    assert!(matches!(outcome, Ok(ReadOutcome::Busy)));
    assert_eq!(handler.busy_leases.into_inner(), 1);
    assert!(matches!(read(&clients.other, IfMissing::Report).await, ReadOutcome::Missing));
}

async fn a_fill_reaches_every_process<S: RemoteStore>(clients: TwoClients<S>) {
    assert_eq!(read_value(&clients.one).await, None);
    assert_eq!(write(&win_lease(&clients.one).await, b"v1").await, WriteOutcome::Stored);
    assert_eq!(read_value(&clients.one).await.as_deref(), Some(&b"v1"[..]));
    assert_eq!(read_value(&clients.other).await.as_deref(), Some(&b"v1"[..]));
}

async fn a_waiting_reader_gets_the_fill<S: RemoteStore>(clients: TwoClients<S>) {
    let lease = win_lease(&clients.one).await;
    let other = Arc::clone(&clients.other);
    let waiting = LeaseOptions { waits: true, fetch_time: Some(MINUTE), ..LEASE };
    let reader =
        tokio::spawn(async move { read_item(&other, IfMissing::Lease(waiting)).await.value });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(write(&lease, b"v1").await, WriteOutcome::Stored);
    assert_eq!(reader.await.expect("the reader ends").as_deref(), Some(&b"v1"[..]));
}

async fn a_dropped_lease_goes_to_the_next_reader<S: RemoteStore>(clients: TwoClients<S>) {
    drop(win_lease(&clients.one).await);
    clients.one.flush().await;
    win_lease(&clients.other).await;
}

async fn a_value_is_written_once<S: RemoteStore>(clients: TwoClients<S>) {
    let lease = win_lease(&clients.one).await;
    // A process without the lease may add a value, and need not wait for the lease.
    let add = read_permit(&clients.other, IfMissing::PermitWithoutLease).await;
    assert_eq!(write(&add, b"v1").await, WriteOutcome::Stored);
    assert_eq!(write(&lease, b"v2").await, WriteOutcome::NotStored);
    assert_eq!(read_value(&clients.one).await.as_deref(), Some(&b"v1"[..]));
}

async fn two_adds_store_one_value<S: RemoteStore>(clients: TwoClients<S>) {
    let first = read_permit(&clients.one, IfMissing::PermitWithoutLease).await;
    let second = read_permit(&clients.other, IfMissing::PermitWithoutLease).await;
    assert_eq!(write(&first, b"v1").await, WriteOutcome::Stored);
    assert_eq!(write(&second, b"v2").await, WriteOutcome::NotStored);
    assert_eq!(read_value(&clients.one).await.as_deref(), Some(&b"v1"[..]));
}

async fn a_removal_refuses_an_older_fill<S: RemoteStore>(clients: TwoClients<S>) {
    let lease = win_lease(&clients.one).await;
    assert_eq!(clients.other.remove(&key("key"), None).await, Ok(()));
    assert_eq!(write(&lease, b"v1").await, WriteOutcome::NotStored);
    assert_eq!(read_value(&clients.one).await, None);
}

async fn an_overwrite_refuses_an_older_fill<S: RemoteStore>(clients: TwoClients<S>) {
    let lease = win_lease(&clients.one).await;
    overwrite(&clients.other, b"v2").await;
    assert_eq!(write(&lease, b"v1").await, WriteOutcome::NotStored);
    assert_eq!(read_value(&clients.one).await.as_deref(), Some(&b"v2"[..]));
}

async fn one_reader_claims_a_refresh<S: RemoteStore>(clients: TwoClients<S>) {
    overwrite(&clients.one, b"v1").await;
    let lease_or_claim = IfMissing::Lease(LEASE_OR_CLAIM);
    assert_eq!(
        read_item(&clients.one, IfMissing::Lease(LEASE)).await.claim,
        RefreshClaimOutcome::NotWon
    );
    let claimed = read_item(&clients.one, lease_or_claim).await;
    let unclaimed = read_item(&clients.other, lease_or_claim).await;
    assert_eq!(
        (claimed.claim, unclaimed.claim),
        (RefreshClaimOutcome::Won, RefreshClaimOutcome::NotWon)
    );
    assert_eq!(write(&claimed.permit, b"v2").await, WriteOutcome::Stored);
    assert_eq!(write(&unclaimed.permit, b"v3").await, WriteOutcome::NotStored);
    assert_eq!(read_value(&clients.other).await.as_deref(), Some(&b"v2"[..]));
}

async fn a_dropped_claim_goes_to_the_next_reader<S: RemoteStore>(clients: TwoClients<S>) {
    overwrite(&clients.one, b"v1").await;
    let lease_or_claim = IfMissing::Lease(LEASE_OR_CLAIM);
    drop(read_item(&clients.one, lease_or_claim).await);
    clients.one.flush().await;
    assert_eq!(
        read_item(&clients.other, lease_or_claim).await.claim,
        RefreshClaimOutcome::WonAfterReturn
    );
}

async fn a_claim_is_abandoned_after_a_while<S: RemoteStore>(clients: TwoClients<S>) {
    overwrite(&clients.one, b"v1").await;
    let lease_or_claim = IfMissing::Lease(LEASE_OR_CLAIM);
    let _claimed = read_item(&clients.one, lease_or_claim).await;
    let unclaimed = read_item(&clients.other, lease_or_claim).await;
    let limit = Duration::from_millis(20);
    assert!(!unclaimed.permit.is_claim_abandoned(limit));
    tokio::time::sleep(limit + Duration::from_millis(5)).await;
    assert!(unclaimed.permit.is_claim_abandoned(limit));
    assert_eq!(write(&unclaimed.permit, b"v2").await, WriteOutcome::Stored);
}

async fn an_item_is_removed_by_its_permit<S: RemoteStore>(clients: TwoClients<S>) {
    overwrite(&clients.one, b"v1").await;
    read_item(&clients.one, IfMissing::Report).await.permit.remove_item();
    clients.one.flush().await;
    assert_eq!(read_value(&clients.other).await, None);
}

async fn many_keys_are_read_in_order<S: RemoteStore>(clients: TwoClients<S>) {
    let keys = ["a", "b", "c"].map(key);
    for (key, frame) in [(&keys[0], b"v1"), (&keys[2], b"v3")] {
        let written = clients.one.overwrite(key, frame.to_vec(), MINUTE, Duration::ZERO).await;
        assert_eq!(written, Ok(WriteOutcome::Stored));
    }
    let handler = FirstLetterDecoder::default();
    let items = clients.other.read_many(&keys.map(|key| (key, &handler))).await;
    let values: Vec<_> = items.into_iter().map(|item| item.and_then(|item| item.value)).collect();
    assert_eq!(values, [Some(b"v1".to_vec()), None, Some(b"v3".to_vec())]);
}

async fn a_value_that_is_too_large_is_refused<S: RemoteStore>(clients: TwoClients<S>) {
    let lease = win_lease(&clients.one).await;
    let written = lease.write(vec![b'v'; 2 << 20], MINUTE, Duration::ZERO).await;
    assert_eq!(written.map_err(|error| error.kind()), Err(RemoteErrorKind::TooLarge));
    assert_eq!(read_value(&clients.other).await, None);
}

async fn an_item_lives_no_longer_than_its_ttl<S: RemoteStore>(clients: TwoClients<S>) {
    let unit = S::LIMITS.ttl_granularity;
    let brief = unit.saturating_sub(Duration::from_millis(1));
    let lease = win_lease(&clients.one).await;
    let written = lease.write(b"v1".to_vec(), brief, Duration::ZERO).await;
    assert_eq!(written, Ok(WriteOutcome::NotStored), "a ttl below the granularity stores nothing");
    let ttl = MINUTE + unit / 2;
    let written = lease.write(b"v1".to_vec(), ttl, MINUTE).await;
    let written_by = Instant::now();
    assert_eq!(written, Ok(WriteOutcome::Stored));
    let item = read_item(&clients.one, IfMissing::Report).await;
    let fresh = item.fresh_for(written_by, MINUTE).expect("the item is fresh");
    assert!(fresh <= ttl && fresh >= ttl - 3 * unit, "{fresh:?}");
    assert!(S::LIMITS.guaranteed(ttl).expect("the ttl is long enough") <= fresh);
    let later = written_by + ttl + unit;
    assert_eq!(item.fresh_for(later, MINUTE), None, "no item is fresh after its ttl");
}

async fn two_builds_have_an_entry_each<S: RemoteStore>(clients: TwoClients<S>) {
    overwrite(&clients.one, b"foreign").await;
    assert_eq!(write(&win_lease(&clients.one).await, b"v1").await, WriteOutcome::Stored);
    assert_eq!(read_value(&clients.other).await.as_deref(), Some(&b"v1"[..]));
    let (handler, keys) = (FirstLetterDecoder::default(), [key("key")]);
    let items = clients.other.read_many(&keys.map(|key| (key, &handler))).await;
    assert!(matches!(&items[..], [Some(Item { value: Some(_), .. })]));
    assert_eq!(clients.one.remove(&key("key"), None).await, Ok(()));
    win_lease(&clients.other).await;
}

async fn a_corrupt_item_may_be_replaced<S: RemoteStore>(clients: TwoClients<S>) {
    overwrite(&clients.one, b"corrupt").await;
    let corrupt = read_item(&clients.other, IfMissing::Lease(LEASE)).await;
    assert_eq!(corrupt.value, None);
    assert_eq!(write(&corrupt.permit, b"v1").await, WriteOutcome::Stored);
}

async fn a_store_that_is_down_is_an_error<S: RemoteStore>(clients: TwoClients<S>) {
    let TwoClients { one, take_down, .. } = clients;
    take_down();
    let handler = FirstLetterDecoder::default();
    let outcome = one.read(&key("key"), &handler, IfMissing::Lease(LEASE)).await;
    assert_eq!(outcome.map(drop).map_err(|error| error.kind()), Err(RemoteErrorKind::Unreachable));
    assert_eq!(handler.failures.into_inner(), 1);
    let removed = one.remove(&key("key"), None).await;
    assert_eq!(removed.map_err(|error| error.kind()), Err(RemoteErrorKind::Unreachable));
}

/// Defines a test of each rule for each store.
macro_rules! rules {
    ($($rule:ident)*) => {
        mod on_memory {
            $(#[tokio::test]
            async fn $rule() {
                super::$rule(super::clients_on_memory()).await;
            })*
        }

        mod on_memcached {
            $(#[tokio::test]
            async fn $rule() {
                super::$rule(super::clients_on_memcached()).await;
            })*
        }
    };
}

rules! {
    one_reader_wins_the_lease
    a_fill_reaches_every_process
    a_waiting_reader_gets_the_fill
    a_dropped_lease_goes_to_the_next_reader
    a_value_is_written_once
    two_adds_store_one_value
    a_removal_refuses_an_older_fill
    an_overwrite_refuses_an_older_fill
    one_reader_claims_a_refresh
    a_dropped_claim_goes_to_the_next_reader
    a_claim_is_abandoned_after_a_while
    an_item_is_removed_by_its_permit
    many_keys_are_read_in_order
    a_value_that_is_too_large_is_refused
    an_item_lives_no_longer_than_its_ttl
    two_builds_have_an_entry_each
    a_corrupt_item_may_be_replaced
    a_store_that_is_down_is_an_error
}
