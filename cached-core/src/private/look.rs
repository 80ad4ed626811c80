//! The look at the tiers of this process that every call begins with.

use std::sync::Arc;

use super::Part;
use super::types::Types;
use crate::cache::Cache;
use crate::call::{Begun, Missed};
use crate::current::{current_of_process, with_current};
use crate::declaration::Declaration;
use crate::key::{Encoder, KeyError};
use crate::site::Site;
use crate::tier::local::Mark;
use crate::tier::request::Request;
use crate::value::{Value, ValueType};

/// Which entry is asked for, whatever the type of its value.
pub(super) struct Asked<'k> {
    pub(super) declaration: &'static Declaration,
    pub(super) value_type: &'static ValueType,
    pub(super) types: Types<'k>,
    pub(super) identifier: &'k [Part<'k>],
    pub(super) version: Option<Part<'k>>,
}

/// How a call goes on that was not served. Boxed, so that a look returns two words.
pub(super) enum State {
    /// Served from the local tier, by an entry that may be due for a refresh.
    Due(Box<(Value, Site)>),
    Missed(Box<Missed>),
    /// Missed, and begun.
    Begun(Box<Begun>),
    /// The cache is off, the name is shared, or the arguments gave no key.
    Bypassed(Box<(Cache, &'static Declaration)>),
}

/// Encodes the key into `encoder`, which stays where it is: moving a key costs a part of a hit.
#[inline(always)]
pub(super) fn encode<'e>(
    encoder: &'e mut Encoder,
    index: usize,
    asked: &Asked<'_>,
) -> Result<&'e [u8], KeyError> {
    encoder.key(index as u32, asked.identifier, asked.version)?;
    asked.types.encode(asked.declaration, encoder)?;
    Ok(encoder.finish())
}

/// What has the value that the request or the local tier has; whether it took it.
pub(super) type Serve<'s> = &'s mut dyn FnMut(&Value) -> bool;

/// Lets `serve` have the value that the request or the local tier has; `None` where it took it. The
/// way of a hit outside of a request is this one function, which calls few others.
pub(super) fn look(cache: Option<&Cache>, asked: &Asked<'_>, serve: Serve<'_>) -> Option<State> {
    let Some(cache) = cache.or_else(current_of_process) else {
        return with_current(|cache| look(Some(cache), asked, serve));
    };
    let declaration = asked.declaration;
    let index = declaration.index().filter(|_| cache.is_enabled());
    let Some(index) = index else { return bypass(cache, declaration) };
    let mut encoder = Encoder::default();
    let key = match encode(&mut encoder, index, asked) {
        Ok(key) => key,
        Err(error) => return without_key(cache, declaration, &error),
    };
    let request = Request::current();
    let mut looked = None;
    if request.is_none() && declaration.is_plain() {
        match cache.local().serve(key, &mut *serve) {
            Ok(served) => {
                cache.counters_at(index).local_hits.add();
                return if served { None } else { bypass(cache, declaration) };
            }
            Err(mark) => looked = Some(mark),
        }
    }
    look_further(cache, asked, key, request, looked, serve)
}

/// The way of every other call.
#[inline(never)]
fn look_further(
    cache: &Cache,
    asked: &Asked<'_>,
    key: &[u8],
    request: Option<Request>,
    looked: Option<Mark>,
    serve: Serve<'_>,
) -> Option<State> {
    let Asked { declaration, value_type, .. } = *asked;
    let site = || Site::new(cache, declaration, Arc::from(key), value_type, None);
    let Some(counters) = cache.counters(declaration) else { return bypass(cache, declaration) };
    if let Some(served) = request.and_then(|request| request.serve(cache.id(), key, &mut *serve)) {
        counters.request_hits.add();
        return if served { None } else { bypass(cache, declaration) };
    }
    let force_miss = request.is_some_and(|request| request.force_miss());
    if looked.is_none()
        && !force_miss
        && declaration.uses_local()
        && let Ok(value) = cache.local().get(key)
    {
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
    match site() {
        Some(site) => Some(State::Missed(Box::new(Missed { site, request, looked }))),
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
