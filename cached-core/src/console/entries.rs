//! Shows what each tier stores for one entry, and invalidates one entry.
//!
//! The client sends the digest of the entry's key, and the key cannot be computed from the digest.
//! So the console searches the local tier for an entry whose key has this digest. In memcached, it
//! needs no search, because there an entry's key is made of the function's name and the digest.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

use super::{ConsoleState, Refusal, SharedState, json_response};
use crate::cache::Cache;
use crate::declaration::Declaration;
use crate::entry::RemoveOnDrop;
use crate::event::{Event, EventSubject};
use crate::key::{Digest, Key};
use crate::tier::local::EntryMetadata;
use crate::tier::remote::{
    DecodedFrame, IfMissing, ReadHandler, ReadOutcome, RemoteError, RemoteStore,
};
use crate::ttl::remote_stale_time;

/// Serves a report of what each tier stores for an entry.
pub(super) async fn show(
    State(state): SharedState,
    Path(text): Path<String>,
) -> Result<Response, Refusal> {
    let address = EntryAddress::parse(&state.cache, &text)?;
    Ok(json_response(&report(&state.cache, &state.searches, &address).await?))
}

/// Removes an entry from this process and from memcached, if the request carries the console's
/// token.
pub(super) async fn invalidate(
    State(state): SharedState,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    state.access.check_token(&headers)?;
    let address = EntryAddress::parse(&state.cache, &text)?;
    // If the client goes away, the server drops this future. The removal runs in a task of its own,
    // so it is completed even then.
    let removal = {
        let state = Arc::clone(&state);
        tokio::spawn(async move { remove(&state, address).await })
    };
    let address = removal.await.map_err(unfinished)??;
    let entry = report(&state.cache, &state.invalidation_searches, &address).await?;
    Ok(json_response(&json!({ "entry": entry })))
}

/// The function and the digest that identify an entry. The function is unknown if the client sent
/// only the digest.
#[derive(Clone, Copy)]
struct EntryAddress {
    declaration: Option<&'static Declaration>,
    digest: Digest,
}

impl EntryAddress {
    /// Parses a key in the form that [`Key`] prints, or a digest.
    ///
    /// # Errors
    /// Returns a refusal if the text is neither a key nor a digest, or if this cache cannot have an
    /// entry with the key.
    fn parse(cache: &Cache, text: &str) -> Result<EntryAddress, Refusal> {
        let bad = |line: String| Refusal::new(StatusCode::BAD_REQUEST, line);
        let mut parts = text.trim().rsplit(':');
        let digest = parts.next().and_then(Digest::from_hex).ok_or_else(|| {
            bad("this is not a key; write `name:digest` as `CacheEntry::key()` prints it, or the digest alone, which has 64 hexadecimal digits".to_owned())
        })?;
        let Some(name) = parts.next() else {
            return Ok(EntryAddress { declaration: None, digest });
        };
        let declaration = Declaration::by_name(name).map_err(|error| bad(error.to_string()))?;
        let namespace: Vec<&str> = parts.collect();
        let own = cache.config().namespace.as_deref();
        if !namespace.is_empty() && namespace != own.into_iter().collect::<Vec<_>>() {
            return Err(bad(match own {
                Some(own) => format!("the keys of this cache begin with `{own}:`"),
                None => "the keys of this cache have no namespace; write `name:digest`".to_owned(),
            }));
        }
        Ok(EntryAddress { declaration: Some(declaration), digest })
    }

    /// Returns the entry's key in memcached, if the function is known.
    fn key(&self, cache: &Cache) -> Option<Key> {
        let namespace = cache.config().namespace.clone();
        Some(Key::from_digest(namespace, self.declaration?.name(), self.digest))
    }
}

async fn report(
    cache: &Cache,
    queue: &SearchQueue,
    address: &EntryAddress,
) -> Result<Value, Refusal> {
    let found = search(cache, queue, *address).await?;
    let declaration = address.declaration.or(found.as_ref().map(|found| found.declaration));
    let address = EntryAddress { declaration, ..*address };
    let key = address.key(cache);
    let text = key.as_ref().map_or_else(|| address.digest.to_string(), Key::to_string);
    Ok(json!({
        "key": text,
        "name": declaration.map(Declaration::name),
        "local": found.as_ref().map(local_report),
        "remote": remote_report(cache, declaration, key.as_ref()).await,
    }))
}

fn local_report(found: &EntryMetadata) -> Value {
    json!({
        "time_left": found.time_left.as_secs_f64(),
        "age": found.ttl.saturating_sub(found.time_left).as_secs_f64(),
        "size": found.weight,
        "type": found.declaration.value_type_name(found.value_type),
        "expired": found.time_left.is_zero(),
    })
}

/// A queue in which one search of the local tier runs at a time, so that its searches take one core
/// at most. Further searches wait in the order in which they came.
pub(super) struct SearchQueue {
    turn: Arc<Semaphore>,
    /// Has one permit for each search that may be in the queue, whether it runs or waits.
    places: Arc<Semaphore>,
}

impl SearchQueue {
    pub(super) fn with_places(places: usize) -> SearchQueue {
        SearchQueue { turn: Arc::new(Semaphore::new(1)), places: Arc::new(Semaphore::new(places)) }
    }

    pub(super) fn unbounded() -> SearchQueue {
        SearchQueue::with_places(Semaphore::MAX_PERMITS)
    }

    /// Waits until the search may run. The search must hold the returned value while it runs.
    ///
    /// # Errors
    /// Returns a refusal if too many searches are already waiting.
    async fn wait_for_turn(&self) -> Result<SearchTurn, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many searches are waiting; try again in a few seconds",
            )
        })?;
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| shutting_down())?;
        Ok(SearchTurn { _turn: turn, _place: place })
    }
}

/// The right of one search to run. Dropping it lets the next search run.
struct SearchTurn {
    _turn: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

/// Searches the local tier for an entry. The search reads every entry, so it runs on a blocking
/// thread of tokio.
async fn search(
    cache: &Cache,
    queue: &SearchQueue,
    address: EntryAddress,
) -> Result<Option<EntryMetadata>, Refusal> {
    let turn = queue.wait_for_turn().await?;
    let cache = cache.clone();
    let search = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let function = match address.declaration {
            // A function without an index is never cached, for example because another function
            // has the same cache name. So the local tier has no entry for it.
            Some(declaration) => Some(declaration.index()?),
            None => None,
        };
        cache.local().find_by_digest(&address.digest, function)
    });
    search.await.map_err(unfinished)
}

/// Returns the refusal for a task that panicked, or that was cancelled because its runtime is
/// shutting down.
fn unfinished(error: JoinError) -> Refusal {
    match error.is_panic() {
        true => Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the console panicked; the program's standard error says why",
        ),
        false => shutting_down(),
    }
}

fn shutting_down() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the program is shutting down")
}

/// A handler that returns the size of an item and does not decode it, so the value's type need not
/// be known.
struct ItemSizeHandler;

impl ReadHandler for ItemSizeHandler {
    type Decoded = usize;

    fn decode(&self, frame: &[u8]) -> DecodedFrame<usize> {
        DecodedFrame::Value(frame.len())
    }

    fn read_failed(&self, _: &RemoteError) {}

    fn lease_held_elsewhere(&self) {}
}

/// Returns a report of what memcached stores for an entry. The read takes no lease, and does not
/// count as a call.
async fn remote_report(
    cache: &Cache,
    declaration: Option<&'static Declaration>,
    key: Option<&Key>,
) -> Value {
    let Some(store) = cache.remote() else { return json!({ "outcome": "none" }) };
    let (Some(declaration), Some(key)) = (declaration, key) else {
        return json!({ "outcome": "unknown" });
    };
    if !declaration.uses_remote() {
        return json!({ "outcome": "unused" });
    }
    match store.read(key, &ItemSizeHandler, IfMissing::Report).await {
        Ok(ReadOutcome::Item(item)) => {
            let stale = remote_stale_time(declaration.declared_stale_if_error());
            let left = item.fresh_for(cache.config().clock.now(), stale);
            json!({
                "outcome": "found",
                "server": store.server_of(key),
                "time_left": left.unwrap_or(Duration::ZERO).as_secs_f64(),
                "age": null,
                "size": item.value,
            })
        }
        Ok(_) => json!({ "outcome": "missing" }),
        Err(error) => json!({ "outcome": "failed", "error": error.to_string() }),
    }
}

/// Removes the entry from the tiers of this process, then from memcached, and then from this
/// process again. The second removal is needed because, in between, a call might have read the old
/// value from memcached and stored it in this process.
///
/// # Errors
/// Returns a refusal if the client sent only a digest and this process has no entry with it. Also
/// returns a refusal if memcached did not confirm the removal.
async fn remove(state: &Arc<ConsoleState>, address: EntryAddress) -> Result<EntryAddress, Refusal> {
    let cache = &state.cache;
    let found = search(cache, &state.invalidation_searches, address).await?;
    let declaration = address.declaration.or(found.as_ref().map(|found| found.declaration));
    let Some(declaration) = declaration else {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "this process has no entry with this digest; write `name:digest` to remove the entry from memcached",
        ));
    };
    let address = EntryAddress { declaration: Some(declaration), ..address };
    let known_key = match found {
        Some(EntryMetadata { key, .. }) => {
            cache.emit(Event::Invalidated { entry: EventSubject::of(&key) });
            cache.remove_from_process(&key, None);
            Some(key)
        }
        None => {
            // The event cannot be emitted, because it needs the whole key. So the removal is only
            // counted.
            let index = declaration.index();
            index.into_iter().for_each(|index| cache.counters_at(index).invalidations.add());
            remove_unknown_key(state, address).await?
        }
    };
    if let Some(store) = cache.remote().filter(|_| declaration.uses_remote())
        && let Some(key) = address.key(cache)
    {
        let remove_again = known_key.as_ref().map(|key| RemoveOnDrop::new(cache, key));
        let removed = store.remove(&key, None).await;
        match remove_again {
            Some(remove_again) => drop(remove_again),
            None => _ = remove_unknown_key(state, address).await?,
        }
        removed.map_err(|error| {
            let line = format!("memcached did not confirm the removal: {error}");
            Refusal::new(StatusCode::BAD_GATEWAY, line)
        })?;
    }
    Ok(address)
}

/// Removes an entry when only its digest is known. A fetch or a read that is already running will
/// not store the old value. Returns the key if the local tier has meanwhile received the entry.
async fn remove_unknown_key(
    state: &Arc<ConsoleState>,
    address: EntryAddress,
) -> Result<Option<Arc<[u8]>>, Refusal> {
    let cache = &state.cache;
    // From now on, the local tier refuses the results of all running fetches and reads of the
    // function. The search below finds an old value that was stored earlier.
    cache.refuse_values_under_way(address.declaration.and_then(Declaration::index));
    let found = search(cache, &state.invalidation_searches, address).await?;
    Ok(found.map(|EntryMetadata { key, .. }| {
        cache.remove_from_process(&key, None);
        key
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_a_search() {
        let queue = SearchQueue::with_places(2);
        let running = queue.wait_for_turn().await.expect("the queue is empty");
        let mut waiting = Box::pin(queue.wait_for_turn());
        let wait = Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, &mut waiting).await.is_err(), "one search at a time");
        let refused = queue.wait_for_turn().await.err().expect("the queue is full");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        drop(running);
        drop(waiting.await.expect("the search may run"));
        assert!(queue.wait_for_turn().await.is_ok(), "both places are free again");
    }
}
