//! The steps that a process of the model takes for an `invalidate` or an `overwrite`. The parent
//! module describes the model.

use super::*;

/// Calls `add` for each step that this process can take next in `CacheEntry::invalidate` or
/// `CacheEntry::overwrite`.
pub(super) fn change_steps(
    state: &SystemState,
    scenario: &Scenario,
    process: usize,
    add: &mut AddStep<'_>,
) {
    let own = &state.processes[process];
    let with = |change| {
        let mut next = *state;
        next.processes[process].change = change;
        next
    };
    let returned = |mut next: SystemState, replaced: ValueSet| {
        next.processes[process].replaced |= replaced;
        next.processes[process].change = ChangeState::Idle;
        next.replaced |= replaced;
        next
    };
    match own.change {
        ChangeState::Idle if state.changes < scenario.changes => {
            let replaced = state.replaced();
            let mut next = with(ChangeState::Invalidating { replaced });
            next.changes += 1;
            next.processes[process].clear_local(None, scenario);
            add(process, "invalidates: clears itself", true, Ok(next));
            if scenario.overwritable {
                let mut next = *state;
                next.changes += 1;
                let value = next.new_value();
                if let Some(token) = next.processes[process].clear_local(None, scenario) {
                    let change = ChangeState::Overwriting { value, token, replaced };
                    next.processes[process].change = change;
                }
                add(process, "overwrites: clears itself", true, Ok(next));
            }
        }
        ChangeState::Invalidating { replaced } => {
            let mut next = with(ChangeState::Invalidated { replaced });
            next.item = Item::Absent;
            add(process, "invalidates: memcached deletes", false, Ok(next));
            if state.failures < scenario.failures {
                // An invalidation that is dropped or fails clears the local tier, and promises
                // nothing else.
                let mut next = with(ChangeState::Idle);
                next.failures += 1;
                next.processes[process].clear_local(None, scenario);
                add(process, "invalidates: is dropped or fails", true, Ok(next));
            }
        }
        ChangeState::Invalidated { replaced } => {
            let mut next = *state;
            if scenario.fault != InjectedFault::ClearOnce {
                next.processes[process].clear_local(None, scenario);
            }
            add(
                process,
                "invalidates: clears itself again, returns",
                false,
                Ok(returned(next, replaced)),
            );
        }
        ChangeState::Overwriting { value, token, replaced } => {
            let mut next = with(ChangeState::Overwritten { value, token, replaced });
            let cas = next.new_cas();
            next.item = Item::Value { value, cas, stale: false, claimed: false };
            add(process, "overwrites: memcached stores", false, Ok(next));
            if scenario.fault == InjectedFault::LateWrites && state.late.is_none() {
                let mut next = with(ChangeState::Idle);
                next.late = Some(value);
                next.processes[process].clear_local(None, scenario);
                add(process, "overwrites: gives up waiting", true, Ok(next));
            }
        }
        ChangeState::Overwritten { value, token, replaced } => {
            let mut next = *state;
            let token = next.processes[process].clear_local(Some(token), scenario);
            next.processes[process].change = ChangeState::StoringLocally { value, token, replaced };
            add(process, "overwrites: clears itself again", false, Ok(next));
        }
        ChangeState::StoringLocally { value, token, replaced } => {
            let mut next = *state;
            let own = &mut next.processes[process];
            // The overwrite stores its value locally only if no other invalidation or overwrite has
            // cleared the local tier in the meantime.
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
        ChangeState::Idle => {}
    }
}
