//! The caches that the benchmark compares, here called stores. All of them hold orders. Some belong
//! to a function with a caching attribute; the others are called directly.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cached::macros::{cached, concurrent_cached};
use cached::{LruTtlCache, ShardedLruTtlCache};
use cached_core::{Cache, coordinator_cached};
use tokio::runtime::{Builder, Runtime};

use crate::order::{Key, Order, make, upstream};
use crate::payment::{FetchError, State};

const TTL: Duration = Duration::from_secs(30 * 60);

/// The capacity of each store of this process, in entries.
static ROOM: OnceLock<usize> = OnceLock::new();

/// Sets the capacity of every store: `bytes` for cached-core, and `room` entries for each of the
/// others. The caller must call this function once, before it uses a store.
pub fn prepare(room: usize, bytes: u64) -> Runtime {
    ROOM.set(room).expect("this call is the first");
    let runtime = Builder::new_current_thread().enable_all().build().expect("the runtime starts");
    let cache = runtime.block_on(Cache::builder().local_capacity(bytes).build());
    cache.expect("the settings are valid").install().expect("this call is the first");
    runtime
}

/// Calls [`prepare`] with capacities that are large enough for `entries` entries. They suffice even
/// for a store whose shards fill unevenly.
pub fn prepare_for(entries: usize) -> Runtime {
    prepare(entries + entries / 4 + 1_000, entries as u64 * 2_500 + (64 << 20))
}

fn room() -> usize {
    *ROOM.get().expect("`prepare` was called")
}

#[coordinator_cached(name = "order", version = state)]
pub async fn ours(id: u64, state: State) -> Result<Arc<Order>, FetchError> {
    upstream(id, state).await
}

#[coordinator_cached(name = "owned_order", version = state)]
pub async fn ours_owned(id: u64, state: State) -> Result<Order, FetchError> {
    Ok(make(id, state))
}

/// An infallible function, because the get and the insert of the other stores cannot fail either.
#[coordinator_cached(name = "bare_order", version = state, infallible, entry = ours_bare_entry)]
pub async fn ours_bare(id: u64, state: State) -> Arc<Order> {
    Arc::new(make(id, state))
}

#[concurrent_cached(
    name = "CONCURRENT",
    ty = "ShardedLruTtlCache<Key, Arc<Order>>",
    create = { ShardedLruTtlCache::new(room(), TTL) },
    map_error = |never: Infallible| match never {},
    convert = { (id, state) }
)]
pub async fn concurrent(id: u64, state: State) -> Result<Arc<Order>, FetchError> {
    upstream(id, state).await
}

pub fn concurrent_entries() -> usize {
    CONCURRENT.get().expect("the function was called").len()
}

#[cached(
    ty = "LruTtlCache<Key, Arc<Order>>",
    create = { LruTtlCache::new(room(), TTL) },
    convert = { (id, state) }
)]
pub async fn locked(id: u64, state: State) -> Result<Arc<Order>, FetchError> {
    upstream(id, state).await
}

pub type MokaSync = moka::sync::Cache<Key, Arc<Order>>;
pub type MokaFuture = moka::future::Cache<Key, Arc<Order>>;
pub type Quick = quick_cache::sync::Cache<Key, Arc<Order>>;
pub type Foyer = foyer_memory::Cache<Key, Arc<Order>>;

pub fn moka_sync() -> MokaSync {
    moka::sync::Cache::builder().max_capacity(room() as u64).time_to_live(TTL).build()
}

pub fn moka_future() -> MokaFuture {
    moka::future::Cache::builder().max_capacity(room() as u64).time_to_live(TTL).build()
}

pub fn quick() -> Quick {
    quick_cache::sync::Cache::new(room())
}

pub fn foyer() -> Foyer {
    foyer_memory::Cache::builder(room()).build::<foyer_memory::CacheProperties>()
}

/// Looks up an order in foyer. Like the other stores, this returns an `Arc` of the order.
pub fn foyer_get(foyer: &Foyer, id: u64, state: State) -> Option<Arc<Order>> {
    foyer.get(&(id, state)).map(|entry| Arc::clone(entry.value()))
}

pub const OURS: &str = "cached-core, Arc value";
pub const OURS_OWNED: &str = "cached-core, owned value";
pub const CONCURRENT_CACHED: &str = "cached #[concurrent_cached]";
pub const CACHED: &str = "cached #[cached]";
pub const MOKA: &str = "moka sync alone";
pub const QUICK_CACHE: &str = "quick_cache alone";
pub const FOYER: &str = "foyer memory alone";
