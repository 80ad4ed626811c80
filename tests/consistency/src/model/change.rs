//! The steps of an `invalidate` or an `overwrite`.

use super::*;

/// Models `CacheEntry::invalidate` and `CacheEntry::overwrite`.
pub(super) fn change_steps(state: &State, bounds: &Bounds, process: usize, add: &mut AddStep<'_>) {
    let own = &state.processes[process];
    let with = |change| {
        let mut next = *state;
        next.processes[process].change = change;
        next
    };
    let returned = |mut next: State, replaced: Values| {
        next.processes[process].replaced |= replaced;
        next.processes[process].change = Change::Idle;
        next.replaced |= replaced;
        next
    };
    match own.change {
        Change::Idle if state.changes < bounds.changes => {
            let replaced = state.replaced();
            let mut next = with(Change::Invalidating { replaced });
            next.changes += 1;
            next.processes[process].clear_local(None, bounds);
            add(process, "invalidates: clears itself", true, Ok(next));
            if bounds.overwritable {
                let mut next = *state;
                next.changes += 1;
                let value = next.new_value();
                if let Some(token) = next.processes[process].clear_local(None, bounds) {
                    let change = Change::Overwriting { value, token, replaced };
                    next.processes[process].change = change;
                }
                add(process, "overwrites: clears itself", true, Ok(next));
            }
        }
        Change::Invalidating { replaced } => {
            let mut next = with(Change::Invalidated { replaced });
            next.item = Item::Absent;
            add(process, "invalidates: memcached deletes", false, Ok(next));
            if state.failures < bounds.failures {
                // A dropped change clears the local tier and promises nothing else.
                let mut next = with(Change::Idle);
                next.failures += 1;
                next.processes[process].clear_local(None, bounds);
                add(process, "invalidates: is dropped or fails", true, Ok(next));
            }
        }
        Change::Invalidated { replaced } => {
            let mut next = *state;
            if bounds.broken != InjectedFault::ClearOnce {
                next.processes[process].clear_local(None, bounds);
            }
            add(
                process,
                "invalidates: clears itself again, returns",
                false,
                Ok(returned(next, replaced)),
            );
        }
        Change::Overwriting { value, token, replaced } => {
            let mut next = with(Change::Overwritten { value, token, replaced });
            let cas = next.new_cas();
            next.item = Item::Value { value, cas, stale: false, claimed: false };
            add(process, "overwrites: memcached stores", false, Ok(next));
            if bounds.broken == InjectedFault::LateWrites && state.late.is_none() {
                let mut next = with(Change::Idle);
                next.late = Some(value);
                next.processes[process].clear_local(None, bounds);
                add(process, "overwrites: gives up waiting", true, Ok(next));
            }
        }
        Change::Overwritten { value, token, replaced } => {
            let mut next = *state;
            let token = next.processes[process].clear_local(Some(token), bounds);
            next.processes[process].change = Change::StoringLocally { value, token, replaced };
            add(process, "overwrites: clears itself again", false, Ok(next));
        }
        Change::StoringLocally { value, token, replaced } => {
            let mut next = *state;
            let own = &mut next.processes[process];
            // This models the local store of an overwrite.
            if token == Some(own.epoch) {
                own.local = Some(value);
            }
            add(
                process,
                "overwrites: stores locally, returns",
                false,
                Ok(returned(next, replaced)),
            );
        }
        Change::Idle => {}
    }
}
