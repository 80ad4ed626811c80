//! An `invalidate` or `overwrite`, step by step.

use super::*;

/// `CacheEntry::invalidate` and `replace`.
pub(super) fn change_steps(state: &State, scope: &Scope, process: usize, add: &mut Add<'_>) {
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
        Change::Idle if state.changes < scope.changes => {
            let old = state.old();
            let mut next = with(Change::Invalidating { old });
            next.changes += 1;
            next.processes[process].forget(None, scope);
            add(process, "invalidates: clears itself", true, Ok(next));
            if scope.overwritable {
                let mut next = *state;
                next.changes += 1;
                let value = next.new_value();
                if let Some(ticket) = next.processes[process].forget(None, scope) {
                    let change = Change::Overwriting { value, ticket, old };
                    next.processes[process].change = change;
                }
                add(process, "overwrites: clears itself", true, Ok(next));
            }
        }
        Change::Invalidating { old } => {
            let mut next = with(Change::Invalidated { old });
            next.item = Item::Absent;
            add(process, "invalidates: memcached deletes", false, Ok(next));
            if state.mishaps < scope.mishaps {
                // `ForgetOnDrop`; nothing is promised.
                let mut next = with(Change::Idle);
                next.mishaps += 1;
                next.processes[process].forget(None, scope);
                add(process, "invalidates: is dropped or fails", true, Ok(next));
            }
        }
        Change::Invalidated { old } => {
            let mut next = *state;
            if scope.broken != Broken::ForgetOnce {
                next.processes[process].forget(None, scope);
            }
            add(
                process,
                "invalidates: clears itself again, returns",
                false,
                Ok(returned(next, old)),
            );
        }
        Change::Overwriting { value, ticket, old } => {
            let mut next = with(Change::Overwritten { value, ticket, old });
            let cas = next.new_cas();
            next.item = Item::Value { value, cas, stale: false, won: false };
            add(process, "overwrites: memcached stores", false, Ok(next));
            if scope.broken == Broken::LateWrites && state.late.is_none() {
                let mut next = with(Change::Idle);
                next.late = Some(value);
                next.processes[process].forget(None, scope);
                add(process, "overwrites: gives up waiting", true, Ok(next));
            }
        }
        Change::Overwritten { value, ticket, old } => {
            let mut next = *state;
            let ticket = next.processes[process].forget(Some(ticket), scope);
            next.processes[process].change = Change::Publishing { value, ticket, old };
            add(process, "overwrites: clears itself again", false, Ok(next));
        }
        Change::Publishing { value, ticket, old } => {
            let mut next = *state;
            let own = &mut next.processes[process];
            // `Local::publish` with `Write::Replace`.
            if ticket == Some(own.count) {
                own.local = Some(value);
            }
            add(process, "overwrites: publishes, returns", false, Ok(returned(next, old)));
        }
        Change::Idle => {}
    }
}
