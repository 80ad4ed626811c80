//! A state machine of one key, two processes and a memcached server, small enough to explore
//! completely.
//!
//! Each step is atomic: a process takes the step while it holds one lock, or memcached takes the
//! step by executing one command. Comments say which part of `cached-core` a step models. When you
//! change that part, update the model too.
//!
//! - A *lease* is the right to fill a missing item. memcached numbers its writes, and the *CAS
//!   number* of an item is the number of its last write. While a caller holds the lease, memcached
//!   keeps a *placeholder*, and the placeholder's CAS number identifies the lease.
//! - A *refresh claim* is the right to fetch a stale item again.
//! - A *flight* is a fetch with the calls that wait for it: the *leader* fetches, and its
//!   *followers* wait.
//! - A *fill token* is the invalidation count at the start of a fetch. A value may be stored
//!   locally only while the count is unchanged.

mod call;
mod canonical;
mod change;

use call::CallSteps;
use change::change_steps;

use crate::search::{Model, NextStates, Step, Violation};

/// A value that a fetch or an overwrite made. The first value is 1.
pub(crate) type Value = u8;
/// The value that a reader sees if it mistakes a lease's placeholder for a value.
pub(crate) const PLACEHOLDER: Value = 0;

/// A set of values.
type ValueSet = u16;

fn has(values: ValueSet, value: Value) -> bool {
    values & (1 << value) != 0
}

/// The operations that one search of the state space covers, and how often each may happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) calls: u8,
    pub(crate) changes: u8,
    /// The total number of kills, cancellations and lost answers.
    pub(crate) failures: u8,
    /// How often items and local entries may expire, in total. The end of a lease does not count.
    pub(crate) expiries: u8,
    /// True if the function declares `overwrite`. Otherwise the only change is `invalidate`.
    pub(crate) overwritable: bool,
    /// True if the function declares `stale_if_error`.
    pub(crate) keeps_stale: bool,
    pub(crate) fault: InjectedFault,
}

/// A fault that is put into the model, to show that the search detects it. Each fault breaks a rule
/// of the library, except `LateWrites`, which is a behaviour of memcached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum InjectedFault {
    Nothing,
    /// A fill is stored even when its lease is gone.
    FillWithoutCas,
    /// The local tier stores a value without checking its fill token.
    StoreWithoutToken,
    /// An invalidation clears the local tier before the command to memcached, and not again after
    /// the command.
    ClearOnce,
    /// After an invalidation, callers join a flight that began before the invalidation.
    KeepFlight,
    /// A lease is granted to two callers.
    LeaseForTwo,
    /// A placeholder is read as a value.
    PlaceholderIsValue,
    /// A waiting caller never gives up, and leases never end.
    WaitForever,
    /// A process sends an old CAS number to a server that has restarted and counts from 1 again.
    CasOutlivesServer,
    /// memcached executes a write after the write has timed out for its caller.
    LateWrites,
}

/// The item that memcached has under the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Item {
    Absent,
    Placeholder {
        cas: u8,
    },
    /// `stale` is true if the value has expired and is kept in case a later fetch fails. `claimed`
    /// is true if a caller holds the refresh claim.
    Value {
        value: Value,
        cas: u8,
        stale: bool,
        claimed: bool,
    },
}

/// The answer of memcached to a read. The read can also win a lease or a refresh claim.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum ReadAnswer {
    Item(Value),
    Lease(u8),
    /// Another caller holds the lease.
    Busy,
    /// A stale item. The reader has won its refresh claim.
    Claimed(u8),
    /// A stale item whose refresh claim another caller holds.
    ClaimTaken(u8),
}

/// The condition under which a fetched value may be stored in memcached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum FillCondition {
    /// The caller holds a lease or, if `is_refresh_claim` is true, the refresh claim on a stale item.
    Lease {
        cas: u8,
        is_refresh_claim: bool,
    },
    /// The caller holds neither a lease nor a refresh claim, but may replace this stale item.
    Replace {
        cas: u8,
    },
    NoFill,
}

/// The progress of a call of the annotated function. `replaced` is the set of values that this
/// process had replaced when the call began. The call must not return one of these values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum CallerState {
    Idle,
    Following {
        replaced: ValueSet,
    },
    /// A follower whose leader was cancelled. The follower has inherited the lead and the lease,
    /// but its task has not run yet.
    Successor {
        condition: Option<FillCondition>,
        replaced: ValueSet,
    },
    Leading {
        token: u8,
        replaced: ValueSet,
    },
    /// memcached has answered, and the caller has not read the answer yet.
    Reading {
        token: u8,
        found: ReadAnswer,
        replaced: ValueSet,
    },
    Fetching {
        token: u8,
        condition: FillCondition,
        value: Value,
        replaced: ValueSet,
    },
    /// The call has returned, and the fill runs in the background.
    Filling {
        cas: u8,
        is_refresh_claim: bool,
        value: Value,
    },
    GivingBack {
        cas: u8,
        is_refresh_claim: bool,
    },
}

/// The progress of a running `invalidate` or `overwrite`. `replaced` is the set of values that the
/// change replaces.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ChangeState {
    Idle,
    Invalidating { replaced: ValueSet },
    Invalidated { replaced: ValueSet },
    Overwriting { value: Value, token: u8, replaced: ValueSet },
    Overwritten { value: Value, token: u8, replaced: ValueSet },
    StoringLocally { value: Value, token: Option<u8>, replaced: ValueSet },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ProcessState {
    pub(crate) local: Option<Value>,
    /// How often the key has been invalidated in this process.
    epoch: u8,
    /// The leader of the flight that new callers join.
    flight: Option<u8>,
    pub(crate) callers: [CallerState; 2],
    pub(crate) change: ChangeState,
    /// The values that changes of this process have replaced.
    replaced: ValueSet,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SystemState {
    pub(crate) item: Item,
    /// The next CAS number.
    cas: u8,
    /// The next value.
    next: Value,
    pub(crate) processes: [ProcessState; 2],
    /// All values replaced by changes that have finished, in any process.
    replaced: ValueSet,
    /// The leases under which a fetch has begun.
    fetched: u16,
    /// The value of a write that has timed out, and that memcached may still execute.
    late: Option<Value>,
    calls: u8,
    changes: u8,
    failures: u8,
    expiries: u8,
}

const SERVER: usize = 2;

impl Model for SystemState {
    type Scenario = Scenario;

    fn first() -> SystemState {
        let process = ProcessState {
            local: None,
            epoch: 0,
            flight: None,
            callers: [CallerState::Idle; 2],
            change: ChangeState::Idle,
            replaced: 0,
        };
        SystemState {
            item: Item::Absent,
            cas: 1,
            next: 1,
            processes: [process; 2],
            replaced: 0,
            fetched: 0,
            late: None,
            calls: 0,
            changes: 0,
            failures: 0,
            expiries: 0,
        }
    }

    fn is_quiet(&self) -> bool {
        self.processes.iter().all(|process| {
            process.change == ChangeState::Idle && process.callers == [CallerState::Idle; 2]
        })
    }

    fn steps(&self, scenario: &Scenario) -> NextStates<SystemState> {
        steps(self, scenario)
    }
}

impl SystemState {
    /// Returns the values that a change replaces if it begins now: all values that exist, and those
    /// of running fetches. The value of another running change is not among them, because either
    /// change might come last.
    fn replaced(&self) -> ValueSet {
        let concurrent = self.processes.iter().fold(0, |values, process| {
            values | process.change.value().map_or(0, |value| 1 << value)
        });
        ((1 << self.next) - 1) & !concurrent
    }

    fn new_value(&mut self) -> Value {
        self.next += 1;
        self.next - 1
    }

    fn new_cas(&mut self) -> u8 {
        self.cas += 1;
        self.cas - 1
    }

    /// Checks what must hold in every state.
    fn check(&self) -> Result<(), Violation> {
        if let Item::Value { value, .. } = self.item
            && has(self.replaced, value)
        {
            return Err("memcached has a value from before a change that has returned");
        }
        for process in &self.processes {
            if process.local.is_some_and(|value| has(process.replaced, value)) {
                return Err("a process has a value from before a change of its own that returned");
            }
        }
        Ok(())
    }
}

fn steps(state: &SystemState, scenario: &Scenario) -> NextStates<SystemState> {
    let mut steps = NextStates::new();
    let mut add = |process, action, is_external, next: Result<SystemState, Violation>| {
        let next = next.and_then(|next| next.check().map(|()| next.canonical(scenario)));
        let actor = ["process a", "process b", "memcached"][process];
        steps.push((Step { actor, action, is_external }, next));
    };
    for process in 0..2 {
        for caller in 0..2 {
            CallSteps { state, scenario, process, caller }.steps(&mut add);
        }
        change_steps(state, scenario, process, &mut add);
        if state.failures < scenario.failures {
            let mut next = *state;
            next.failures += 1;
            next.processes[process] = SystemState::first().processes[process];
            if next.processes[process] != state.processes[process] {
                add(process, "is killed, and a new one starts", true, Ok(next));
            }
        }
        if state.expiries < scenario.expiries && state.processes[process].local.is_some() {
            let mut next = *state;
            next.expiries += 1;
            next.processes[process].local = None;
            add(process, "the local entry expires", false, Ok(next));
        }
    }
    server_steps(state, scenario, &mut add);
    steps
}

/// A function that adds a step. Its arguments are the index of the actor, the action, whether the
/// step is external, and the next state. An *external* step is a failure that no process chooses,
/// such as a kill or a lost server.
type AddStep<'a> = dyn FnMut(usize, &'static str, bool, Result<SystemState, Violation>) + 'a;

fn server_steps(state: &SystemState, scenario: &Scenario, add: &mut AddStep<'_>) {
    let with = |item| Ok(SystemState { item, ..*state });
    match state.item {
        Item::Absent => {}
        Item::Placeholder { .. } if scenario.fault == InjectedFault::WaitForever => {}
        Item::Placeholder { .. } => add(SERVER, "the lease ends", false, with(Item::Absent)),
        Item::Value { value, cas, stale, .. } if state.expiries < scenario.expiries => {
            let item = match scenario.keeps_stale && !stale {
                true => Item::Value { value, cas, stale: true, claimed: false },
                false => Item::Absent,
            };
            let next = SystemState { item, expiries: state.expiries + 1, ..*state };
            add(SERVER, "the item expires", false, Ok(next));
        }
        Item::Value { .. } => {}
    }
    if state.failures < scenario.failures && state.item != Item::Absent {
        let mut next = SystemState { item: Item::Absent, failures: state.failures + 1, ..*state };
        if scenario.fault == InjectedFault::CasOutlivesServer {
            next.cas = 1;
        }
        add(SERVER, "is lost, and comes back empty", true, Ok(next));
    }
    if let Some(value) = state.late {
        let mut next = SystemState { late: None, ..*state };
        let cas = next.new_cas();
        next.item = Item::Value { value, cas, stale: false, claimed: false };
        add(SERVER, "executes the write that has timed out", true, Ok(next));
    }
}

/// Models a read that can win the lease or the refresh claim.
fn read_or_lease(state: &mut SystemState, scenario: &Scenario) -> ReadAnswer {
    match state.item {
        Item::Absent => {
            let cas = state.new_cas();
            state.item = Item::Placeholder { cas };
            ReadAnswer::Lease(cas)
        }
        Item::Placeholder { cas } if scenario.fault == InjectedFault::LeaseForTwo => {
            ReadAnswer::Lease(cas)
        }
        Item::Placeholder { .. } if scenario.fault == InjectedFault::PlaceholderIsValue => {
            ReadAnswer::Item(PLACEHOLDER)
        }
        Item::Placeholder { .. } => ReadAnswer::Busy,
        Item::Value { value, stale: false, .. } => ReadAnswer::Item(value),
        Item::Value { cas, claimed: true, .. } => ReadAnswer::ClaimTaken(cas),
        Item::Value { value, cas, claimed: false, .. } => {
            state.item = Item::Value { value, cas, stale: true, claimed: true };
            ReadAnswer::Claimed(cas)
        }
    }
}

impl ProcessState {
    /// Models how the local tier stores a value if the function does not declare `overwrite`.
    fn store_local(&mut self, token: u8, value: Value, scenario: &Scenario) {
        let is_current = token == self.epoch || scenario.fault == InjectedFault::StoreWithoutToken;
        if is_current && self.local.is_none() {
            self.local = Some(value);
        }
    }

    /// Models an invalidation in this process: the local entry is removed, and no further caller
    /// joins the current flight. Returns a new fill token, or `None` if the token `before` was
    /// already out of date.
    fn clear_local(&mut self, before: Option<u8>, scenario: &Scenario) -> Option<u8> {
        if scenario.fault != InjectedFault::KeepFlight {
            self.flight = None;
        }
        let is_current = before.is_none_or(|before| before == self.epoch);
        self.epoch += 1;
        self.local = None;
        is_current.then_some(self.epoch)
    }
}
