//! The steps of an `invalidate` or `overwrite`.

use super::*;

/// Models `CacheEntry::invalidate` and `CacheEntry::overwrite`.
pub(super) fn change_steps(state: &State, bounds: &Bounds, process: usize, add: &mut Add<'_>) {
    let own = &state.processes[process];
    let with = |change| {
        let mut next = *state;
        next.processes[process].change = change;
        next
    };
    let returned = |mut next: State, old: Values| {
        next.processes[process].old |= old;
        next.processes[process].change = Change::Idle;
        next.old |= old;
        next
    };
    match own.change {
        Change::Idle if state.changes < bounds.changes => {
            let old = state.old();
            let mut next = with(Change::Invalidating { old });
            next.changes += 1;
            next.processes[process].clear_local(None, bounds);
            add(process, "invalidates: clears itself", true, Ok(next));
            if bounds.overwritable {
                let mut next = *state;
                next.changes += 1;
                let value = next.new_value();
                if let Some(token) = next.processes[process].clear_local(None, bounds) {
                    let change = Change::Overwriting { value, token, old };
                    next.processes[process].change = change;
                }
                add(process, "overwrites: clears itself", true, Ok(next));
            }
        }
        Change::Invalidating { old } => {
            let mut next = with(Change::Invalidated { old });
            next.item = Item::Absent;
            add(process, "invalidates: memcached deletes", false, Ok(next));
            if state.mishaps < bounds.mishaps {
                // A dropped change clears the local tier and promises nothing else.
                let mut next = with(Change::Idle);
                next.mishaps += 1;
                next.processes[process].clear_local(None, bounds);
                add(process, "invalidates: is dropped or fails", true, Ok(next));
            }
        }
        Change::Invalidated { old } => {
            let mut next = *state;
            if bounds.broken != BrokenRule::ClearOnce {
                next.processes[process].clear_local(None, bounds);
            }
            add(
                process,
                "invalidates: clears itself again, returns",
                false,
                Ok(returned(next, old)),
            );
        }
        Change::Overwriting { value, token, old } => {
            let mut next = with(Change::Overwritten { value, token, old });
            let cas = next.new_cas();
            next.item = Item::Value { value, cas, stale: false, claimed: false };
            add(process, "overwrites: memcached stores", false, Ok(next));
            if bounds.broken == BrokenRule::LateWrites && state.late.is_none() {
                let mut next = with(Change::Idle);
                next.late = Some(value);
                next.processes[process].clear_local(None, bounds);
                add(process, "overwrites: gives up waiting", true, Ok(next));
            }
        }
        Change::Overwritten { value, token, old } => {
            let mut next = *state;
            let token = next.processes[process].clear_local(Some(token), bounds);
            next.processes[process].change = Change::StoringLocally { value, token, old };
            add(process, "overwrites: clears itself again", false, Ok(next));
        }
        Change::StoringLocally { value, token, old } => {
            let mut next = *state;
            let own = &mut next.processes[process];
            // This models the local store of an overwrite.
            if token == Some(own.epoch) {
                own.local = Some(value);
            }
            add(process, "overwrites: stores locally, returns", false, Ok(returned(next, old)));
        }
        Change::Idle => {}
    }
}
