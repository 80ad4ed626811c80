//! The second lookup of a call in the memory of this process.
//!
//! The first lookup is inlined into the annotated function. If the first lookup finds no value, the
//! second lookup encodes the key and searches again. The second lookup also finds the request's
//! *hidden* values, which the first lookup cannot see.

use std::sync::Arc;

use crate::cache::Cache;
use crate::call::{BypassingCall, CallPlan, LocalHit, PendingCall, Phase, record_hit};
use crate::current::has_lost_its_scope;
use crate::declaration::Declaration;
use crate::entry_handle::EntryHandle;
use crate::event::{BypassReason, Event, is_in_observer};
use crate::key::{KeyBytes, KeyError};
use crate::tier::Tier;
use crate::tier::request::CallScope;
use crate::value::{Value, ValueOperations};

/// A function that converts a cached value to the call's return value, and stores the return value
/// for its caller. It returns false if the cached value does not have the type that the call
/// returns.
pub(super) type HitWriter<'s> = &'s mut dyn FnMut(&Value) -> bool;

/// Encodes the key and looks it up, first among the request's hidden values, and then in the local
/// tier. Passes a hit to `write_hit`.
///
/// Returns `None` if `write_hit` has completed the call. Otherwise returns the [`Phase`] in which
/// the call continues. If the function declares `refresh_ahead`, a hit in the local tier is not
/// passed to `write_hit`, but is returned in the phase.
pub(super) fn look_up_by_bytes(
    cache: &Cache,
    declaration: &'static Declaration,
    encode: &dyn Fn(&mut KeyBytes) -> Result<(), KeyError>,
    value_operations: &'static ValueOperations,
    write_hit: HitWriter<'_>,
) -> Option<Phase> {
    if !cache.is_enabled() {
        return bypass(cache, declaration, BypassReason::CacheOff);
    }
    if declaration.index().is_none() {
        return bypass(cache, declaration, BypassReason::NotRegistered);
    }
    let mut key = KeyBytes::default();
    match encode(&mut key) {
        Ok(()) => look_in_process(cache, declaration, &key, value_operations, write_hit),
        Err(error) => bypass(cache, declaration, BypassReason::Key(&error)),
    }
}

fn look_in_process(
    cache: &Cache,
    declaration: &'static Declaration,
    key: &[u8],
    value_operations: &'static ValueOperations,
    write_hit: HitWriter<'_>,
) -> Option<Phase> {
    let handle = || EntryHandle::new(cache, declaration, Arc::from(key), value_operations, None);
    let CallScope { request, is_recorded } = CallScope::current();
    if let Some(value) = request.and_then(|request| request.get_hidden(cache.id(), key))
        && write_hit(&value)
    {
        cache.report_hit(key, Tier::Request);
        if is_recorded {
            record_hit(cache, declaration, key, Tier::Request);
        }
        return None;
    }
    let force_miss = request.is_some_and(|request| request.force_miss());
    let uses_local = !force_miss && declaration.uses_local();
    if let Some(value) = uses_local.then(|| cache.local().get(key)).flatten() {
        let value = match request {
            Some(request) => request.keep(cache.id(), &Arc::from(key), value),
            None => value,
        };
        if !declaration.declared_refresh_ahead().is_zero()
            && let Some(handle) = handle()
        {
            return Some(Phase::Hit(Box::new(LocalHit { value, handle, is_recorded })));
        }
        if !write_hit(&value) {
            return bypass(cache, declaration, BypassReason::OtherType);
        }
        cache.report_hit(key, Tier::Local);
        if is_recorded {
            record_hit(cache, declaration, key, Tier::Local);
        }
        return None;
    }
    if is_in_observer() {
        return bypass(cache, declaration, BypassReason::InObserver);
    }
    match handle() {
        Some(handle) => {
            if cfg!(debug_assertions) && has_lost_its_scope(cache) {
                cache.emit(Event::ScopeLost { declaration });
            }
            handle.emit(|entry| Event::LocalMiss { entry });
            Some(Phase::Miss(
                PendingCall::new(handle, request, CallPlan::Bypass).traced(is_recorded),
            ))
        }
        None => bypass(cache, declaration, BypassReason::NotRegistered),
    }
}

#[cold]
fn bypass(
    cache: &Cache,
    declaration: &'static Declaration,
    reason: BypassReason<'_>,
) -> Option<Phase> {
    cache.emit(Event::Bypassed { declaration, reason });
    Some(Phase::Bypass(BypassingCall::begin(declaration)))
}
