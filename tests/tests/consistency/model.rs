//! One key in two processes and a memcached, as a state machine small enough to look at whole.
//!
//! Each step is one that nothing can come in between: what a process does under one lock, or what
//! memcached does for one command. The functions of `cached-core` that a step stands for are named
//! beside it; a step that changes there has to change here.

mod call;
mod canonical;
mod change;

use call::Call;
use change::change_steps;

use crate::search::{Event, Model, Steps, Violation};

/// What a fetch or an overwrite made, by number: 1 is the first.
pub(crate) type Value = u8;
/// What a reader would have in hand that took a placeholder for a value.
pub(crate) const PLACEHOLDER: Value = 0;

/// A set of values.
type Values = u16;

fn has(values: Values, value: Value) -> bool {
    values & (1 << value) != 0
}

/// What may happen, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    pub(crate) calls: u8,
    pub(crate) changes: u8,
    /// Kills, cancellations, answers that are lost.
    pub(crate) mishaps: u8,
    /// Ends of an item's or a local entry's lifetime. Leases end at any time.
    pub(crate) expiries: u8,
    /// Whether the function declares a reason; else what changes an entry is `invalidate` alone.
    pub(crate) overwritable: bool,
    /// Whether it declares `stale_if_error`.
    pub(crate) keeps_stale: bool,
    pub(crate) broken: Broken,
}

/// A rule that is broken, to see that the search finds out. The last is not a rule of the
/// library: it is what memcached does not promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    Nothing,
    /// A fill is stored whatever became of the lease.
    FillWithoutCas,
    /// A local publication does not look at its ticket.
    PublishWithoutTicket,
    /// The process forgets the entry before memcached is told, and not again after.
    ForgetOnce,
    /// Callers who come after an invalidation join the flight from before it.
    KeepFlight,
    /// A lease that is held is granted again.
    LeaseForTwo,
    PlaceholderIsValue,
    /// Who waits for a lease never gives up, and leases do not end.
    WaitForEver,
    /// A CAS is shown to the server also after a restart, when it counts from the start again.
    CasOutlivesServer,
    /// A write that timed out is carried out later all the same.
    LateWrites,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Item {
    Absent,
    Placeholder {
        cas: u8,
    },
    /// `stale`: expired, and kept for a fetch that fails; `won`: somebody may replace it.
    Value {
        value: Value,
        cas: u8,
        stale: bool,
        won: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Found {
    Item(Value),
    Lease(u8),
    Busy,
    /// A stale item and the right to replace it, or that somebody else has it.
    Won(u8),
    Passed(u8),
}

/// `call::Right`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Right {
    Lease { cas: u8, of_item: bool },
    Replace { cas: u8 },
    Nothing,
}

/// A call of the annotated function. `old` is what it must not be answered with: what was there
/// when a change returned that this process made before the call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Caller {
    Idle,
    Following {
        old: Values,
    },
    /// Promoted, and not polled yet; with the lease that its leader had won.
    Heir {
        right: Option<Right>,
        old: Values,
    },
    Leading {
        ticket: u8,
        old: Values,
    },
    /// memcached has answered, and the caller has not seen it yet.
    Reading {
        ticket: u8,
        found: Found,
        old: Values,
    },
    Fetching {
        ticket: u8,
        right: Right,
        value: Value,
        old: Values,
    },
    /// The caller is answered; what is left happens in the background.
    Filling {
        cas: u8,
        of_item: bool,
        value: Value,
    },
    GivingBack {
        cas: u8,
        of_item: bool,
    },
}

/// An `invalidate` or `overwrite` under way; `old` is what was there when it was called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Change {
    Idle,
    Invalidating { old: Values },
    Invalidated { old: Values },
    Overwriting { value: Value, ticket: u8, old: Values },
    Overwritten { value: Value, ticket: u8, old: Values },
    Publishing { value: Value, ticket: Option<u8>, old: Values },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Process {
    pub(crate) local: Option<Value>,
    /// `Local::stripes`: counts invalidations.
    count: u8,
    /// Which caller leads the flight that newcomers join.
    flight: Option<u8>,
    pub(crate) callers: [Caller; 2],
    pub(crate) change: Change,
    /// What this process's own changes have done away with.
    old: Values,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) item: Item,
    cas: u8,
    next: Value,
    pub(crate) processes: [Process; 2],
    /// What changes that have returned, of any process, have done away with.
    old: Values,
    /// The leases that somebody fetches or has fetched under.
    fetched: u16,
    late: Option<Value>,
    calls: u8,
    changes: u8,
    mishaps: u8,
    expiries: u8,
}

const SERVER: usize = 2;

impl Model for State {
    type Scope = Scope;

    fn first() -> State {
        let process = Process {
            local: None,
            count: 0,
            flight: None,
            callers: [Caller::Idle; 2],
            change: Change::Idle,
            old: 0,
        };
        State {
            item: Item::Absent,
            cas: 1,
            next: 1,
            processes: [process; 2],
            old: 0,
            fetched: 0,
            late: None,
            calls: 0,
            changes: 0,
            mishaps: 0,
            expiries: 0,
        }
    }

    fn is_quiet(&self) -> bool {
        self.processes
            .iter()
            .all(|process| process.change == Change::Idle && process.callers == [Caller::Idle; 2])
    }

    fn steps(&self, scope: &Scope) -> Steps<State> {
        steps(self, scope)
    }
}

impl State {
    /// What a change does away with: all that there is, and what fetches under way will make of it.
    /// Not what another change under way stores: either of the two may come last.
    fn old(&self) -> Values {
        let under_way = self.processes.iter().fold(0, |values, process| {
            values | process.change.value().map_or(0, |value| 1 << value)
        });
        ((1 << self.next) - 1) & !under_way
    }

    fn new_value(&mut self) -> Value {
        self.next += 1;
        self.next - 1
    }

    fn new_cas(&mut self) -> u8 {
        self.cas += 1;
        self.cas - 1
    }

    /// What holds in every state.
    fn check(&self) -> Result<(), Violation> {
        if let Item::Value { value, .. } = self.item
            && has(self.old, value)
        {
            return Err("memcached has a value from before a change that has returned");
        }
        for process in &self.processes {
            if process.local.is_some_and(|value| has(process.old, value)) {
                return Err("a process has a value from before a change of its own that returned");
            }
        }
        Ok(())
    }
}

fn steps(state: &State, scope: &Scope) -> Steps<State> {
    let mut steps = Steps::new();
    let mut add = |process, what, from_outside, next: Result<State, Violation>| {
        let next = next.and_then(|next| next.check().map(|()| next.canonical(scope)));
        let who = ["process a", "process b", "memcached"][process];
        steps.push((Event { who, what, from_outside }, next));
    };
    for process in 0..2 {
        for caller in 0..2 {
            Call { state, scope, process, caller }.steps(&mut add);
        }
        change_steps(state, scope, process, &mut add);
        if state.mishaps < scope.mishaps {
            let mut next = *state;
            next.mishaps += 1;
            next.processes[process] = State::first().processes[process];
            if next.processes[process] != state.processes[process] {
                add(process, "is killed, and another starts", true, Ok(next));
            }
        }
        if state.expiries < scope.expiries && state.processes[process].local.is_some() {
            let mut next = *state;
            next.expiries += 1;
            next.processes[process].local = None;
            add(process, "the local entry expires", false, Ok(next));
        }
    }
    server_steps(state, scope, &mut add);
    steps
}

type Add<'a> = dyn FnMut(usize, &'static str, bool, Result<State, Violation>) + 'a;

fn server_steps(state: &State, scope: &Scope, add: &mut Add<'_>) {
    let with = |item| Ok(State { item, ..*state });
    match state.item {
        Item::Absent => {}
        Item::Placeholder { .. } if scope.broken == Broken::WaitForEver => {}
        Item::Placeholder { .. } => add(SERVER, "the lease ends", false, with(Item::Absent)),
        Item::Value { value, cas, stale, .. } if state.expiries < scope.expiries => {
            let item = match scope.keeps_stale && !stale {
                true => Item::Value { value, cas, stale: true, won: false },
                false => Item::Absent,
            };
            let next = State { item, expiries: state.expiries + 1, ..*state };
            add(SERVER, "the item expires", false, Ok(next));
        }
        Item::Value { .. } => {}
    }
    if state.mishaps < scope.mishaps && state.item != Item::Absent {
        let mut next = State { item: Item::Absent, mishaps: state.mishaps + 1, ..*state };
        if scope.broken == Broken::CasOutlivesServer {
            next.cas = 1;
        }
        add(SERVER, "is lost, and comes back empty", true, Ok(next));
    }
    if let Some(value) = state.late {
        let mut next = State { late: None, ..*state };
        let cas = next.new_cas();
        next.item = Item::Value { value, cas, stale: false, won: false };
        add(SERVER, "carries out the write that had timed out", true, Ok(next));
    }
}

/// `Server::read` with lease terms.
fn read_or_lease(state: &mut State, scope: &Scope) -> Found {
    match state.item {
        Item::Absent => {
            let cas = state.new_cas();
            state.item = Item::Placeholder { cas };
            Found::Lease(cas)
        }
        Item::Placeholder { cas } if scope.broken == Broken::LeaseForTwo => Found::Lease(cas),
        Item::Placeholder { .. } if scope.broken == Broken::PlaceholderIsValue => {
            Found::Item(PLACEHOLDER)
        }
        Item::Placeholder { .. } => Found::Busy,
        Item::Value { value, stale: false, .. } => Found::Item(value),
        Item::Value { cas, won: true, .. } => Found::Passed(cas),
        Item::Value { value, cas, won: false, .. } => {
            state.item = Item::Value { value, cas, stale: true, won: true };
            Found::Won(cas)
        }
    }
}

impl Process {
    /// `Local::publish` with `Write::Once`.
    fn publish(&mut self, ticket: u8, value: Value, scope: &Scope) {
        let in_time = ticket == self.count || scope.broken == Broken::PublishWithoutTicket;
        if in_time && self.local.is_none() {
            self.local = Some(value);
        }
    }

    /// `Cache::forget`.
    fn forget(&mut self, before: Option<u8>, scope: &Scope) -> Option<u8> {
        if scope.broken != Broken::KeepFlight {
            self.flight = None;
        }
        let in_time = before.is_none_or(|before| before == self.count);
        self.count += 1;
        self.local = None;
        in_time.then_some(self.count)
    }
}
