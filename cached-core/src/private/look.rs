//! The look at the tiers of this process that every call begins with.

use std::sync::Arc;

use super::asked::Asked;
use crate::cache::Cache;
use crate::call::{Begun, Missed};
use crate::declaration::Declaration;
use crate::key::{Bytes, Head, KeyError, Parts, Sought};
use crate::site::Site;
use crate::stats::Hits;
use crate::tier::local::Local;
use crate::tier::request::Request;
use crate::value::{CachedValue, Returned, Value, ValueType, join};

/// How a call goes on that was not served. Boxed, so that a look returns two words.
pub(super) enum State {
    /// Served from the local tier, by an entry that may be due for a refresh.
    Due(Box<(Value, Site)>),
    Missed(Box<Begun>),
    /// Missed, and begun.
    Begun(Box<Begun>),
    /// The cache is off, the name is shared, or the arguments gave no key.
    Bypassed(Box<(Cache, &'static Declaration)>),
}

/// What has the value that is found; whether it took it.
pub(super) type Serve<'s> = &'s mut dyn FnMut(&Value) -> bool;

/// The local tier whose entries a thread keeps, and where a hit of one is counted.
pub(super) struct Keeper<'c> {
    pub(super) local: &'c Local,
    pub(super) hits: &'c Hits,
}

/// Looks in the request, which puts a hit in its place, or finds out whose entries this thread may keep,
/// without the bytes of the key. The way of a hit begins here: all of it is inlined, so that the compiler
/// sees the arguments' types and keeps what it works with in registers. Returns the key's head too, if
/// it has one and the cache is on.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn look<'c, R, M, I: Parts, V: Parts, C: Parts>(
    cache: &'c Cache,
    asked: impl Fn() -> Asked<(I, V), C>,
    hit: &mut Option<R>,
) -> (Option<Head>, Option<Keeper<'c>>)
where
    R: Returned<M, Value: CachedValue>,
{
    if !cache.is_enabled() {
        return (None, None);
    }
    let looked_for = asked();
    let Some(key) = looked_for.hashed() else { return (None, None) };
    let counters = cache.counters_at(key.head().index());
    let keeper = match Request::current() {
        Some(request) => {
            if look_in_request::<R, M, _, _, _>(request, cache, asked(), key.head(), hit) {
                counters.request_hits.add();
            }
            None
        }
        None if looked_for.declaration.is_plain() => {
            Some(Keeper { local: cache.local(), hits: &counters.local_hits })
        }
        None => None,
    };
    (Some(key.head()), keeper)
}

#[inline(never)]
fn look_in_request<R, M, I: Parts, V: Parts, C: Parts>(
    request: Request,
    cache: &Cache,
    asked: Asked<(I, V), C>,
    head: Head,
    hit: &mut Option<R>,
) -> bool
where
    R: Returned<M, Value: CachedValue>,
{
    request.serve(cache.id(), &asked.with(head), |value| join::<R, M>(value, hit)).unwrap_or(false)
}

/// The way of every other call, which has been looked for by [`look`]: lets `serve` have the value
/// that the local tier has. `None` where it took it.
pub(super) fn look_further(
    cache: &Cache,
    declaration: &'static Declaration,
    encode: &dyn Fn(&mut Bytes) -> Result<(), KeyError>,
    value_type: &'static ValueType,
    serve: Serve<'_>,
) -> Option<State> {
    if !cache.is_enabled() || declaration.index().is_none() {
        return bypass(cache, declaration);
    }
    let mut key = Bytes::default();
    match encode(&mut key) {
        Ok(()) => look_in_tiers(cache, declaration, &key, value_type, serve),
        Err(error) => without_key(cache, declaration, &error),
    }
}

fn look_in_tiers(
    cache: &Cache,
    declaration: &'static Declaration,
    key: &[u8],
    value_type: &'static ValueType,
    serve: Serve<'_>,
) -> Option<State> {
    let site = || Site::new(cache, declaration, Arc::from(key), value_type, None);
    let Some(counters) = cache.counters(declaration) else { return bypass(cache, declaration) };
    let request = Request::current();
    let force_miss = request.is_some_and(|request| request.force_miss());
    let mut looked = None;
    if !force_miss && declaration.uses_local() {
        // What this thread keeps was looked at already, where that could be the answer.
        let found = match request.is_none() && declaration.is_plain() {
            true => cache.local().get_from_store(key),
            false => cache.local().get(key),
        };
        match found {
            Ok(value) => {
                counters.local_hits.add();
                let value = match request {
                    Some(request) => request.keep(cache.id(), &Arc::from(key), value),
                    None => value,
                };
                if !declaration.refreshed_ahead().is_zero()
                    && let Some(site) = site()
                {
                    return Some(State::Due(Box::new((value, site))));
                }
                return if serve(&value) { None } else { bypass(cache, declaration) };
            }
            Err(mark) => looked = Some(mark),
        }
    }
    match site() {
        Some(site) => Some(State::Missed(Begun::missed(Missed { site, request, looked }))),
        None => bypass(cache, declaration),
    }
}

#[cold]
fn without_key(
    cache: &Cache,
    declaration: &'static Declaration,
    error: &KeyError,
) -> Option<State> {
    log::warn!("`{}` is not cached for this call: {error}", declaration.name());
    bypass(cache, declaration)
}

#[cold]
fn bypass(cache: &Cache, declaration: &'static Declaration) -> Option<State> {
    Some(State::Bypassed(Box::new((cache.clone(), declaration))))
}
