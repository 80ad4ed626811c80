//! A model of one key, two processes and two servers. The tests search the model's states for
//! broken promises. The key's *home server* stores its values. While a process cannot reach the
//! home server, it uses the key's *gutter server*. Each process can lose the connection to either
//! server. A process *ejects* a lost server: it stops using the server. A *hint* is a process's
//! note that it must still remove the key from a server. An *item* is what a server stores under
//! the key. A *fill* is the write of a fetched value. A *lease* is the right to fill a missing
//! item. A *CAS number* identifies a write: the server numbers its writes.
//!
//! The model has no local tier and no *flights* (a flight is a fetch with the calls that wait for
//! it), because the servers affect neither.

mod canonical;
mod process;

use std::cell::RefCell;

use process::ProcessSteps;

use crate::search::{Model, NextStates, SearchResult, Step, Violation, search};

type Value = u8;
/// A set of values.
type ValueSet = u16;

fn has(values: ValueSet, value: Value) -> bool {
    values & (1 << value) != 0
}

const HOME: usize = 0;
const GUTTER: usize = 1;

/// The options of one search: how often each operation can happen, and which rule is broken.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    calls: u8,
    changes: u8,
    /// The total number of failures: exchanges that fail before or after the server executed the
    /// command, cancelled calls, and dropped changes.
    failures: u8,
    overwritable: bool,
    fault: InjectedFault,
}

/// A rule that the model breaks, to show that the search detects the violation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InjectedFault {
    Nothing,
    /// An invalidation reaches only the home server.
    GutterNotInvalidated,
    /// An overwrite does not remove the value on the gutter server.
    OverwriteLeavesGutter,
    /// A failed invalidation leaves no hint, so the process does not repeat the invalidation later.
    NoHint,
    /// A failed invalidation on the gutter server leaves no hint.
    NoHintForGutter,
    /// A change that is dropped during the exchange with the home server leaves no hint for the
    /// gutter server.
    DroppedWithoutHint,
    /// A process reads a server for which it keeps a hint.
    ReadBeforeHint,
    /// A process uses a lost server again before it delivers the hint.
    BackBeforeHint,
    /// A fill whose server is lost goes to the gutter server, without a lease there.
    FilledElsewhere,
    /// A call reads one server and fills the other, with the CAS number from the read.
    CasOfOtherServer,
    /// A change that reached only the gutter server returns `Ok`.
    OkWithoutHome,
}

/// The item that a server has under the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Item {
    Absent,
    Placeholder { cas: u8 },
    Value { value: Value, cas: u8 },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Server {
    item: Item,
    /// The next CAS number. Each server counts for itself.
    cas: u8,
}

/// The progress of a call. `replaced` is the set of values that the process had replaced when the
/// call began. The call must not return one of these values. `at` is the index of a server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum CallerState {
    Idle,
    Reading {
        at: usize,
        replaced: ValueSet,
    },
    /// `lease` is the server that granted a lease, and the CAS number of the lease.
    Fetching {
        lease: Option<(usize, u8)>,
        value: Value,
    },
    /// The call has returned, and the fill runs in the background.
    Filling {
        at: usize,
        cas: u8,
        value: Value,
    },
    GivingBack {
        at: usize,
        cas: u8,
    },
}

/// The progress of a running `invalidate` or `overwrite`. `replaced` is the set of values that the
/// change replaces.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum ChangeState {
    Idle,
    /// The new value is being written. The other server is invalidated afterwards.
    Writing {
        at: usize,
        value: Value,
        replaced: ValueSet,
    },
    Written {
        at: usize,
        replaced: ValueSet,
    },
    /// The entry is being removed. With `has_failed`, the change will return an error.
    InvalidatingHome {
        has_failed: bool,
        replaced: ValueSet,
    },
    InvalidatingGutter {
        has_failed: bool,
        replaced: ValueSet,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct ProcessState {
    ejected: [bool; 2],
    hints: [bool; 2],
    caller: CallerState,
    change: ChangeState,
    /// The values that changes of this process have replaced.
    replaced: ValueSet,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct SystemState {
    servers: [Server; 2],
    processes: [ProcessState; 2],
    /// The next value.
    next: Value,
    /// For each server, the values that it must not have. For the home server, these are the values
    /// that were replaced by changes that returned `Ok`. For the gutter server, these are the
    /// values that were removed there.
    replaced: [ValueSet; 2],
    calls: u8,
    changes: u8,
    failures: u8,
}

impl ProcessState {
    /// Returns true if the process may use the server.
    fn serves(&self, at: usize, scenario: &Scenario) -> bool {
        !self.ejected[at] && (!self.hints[at] || scenario.fault == InjectedFault::ReadBeforeHint)
    }

    /// Keeps a hint for a server that an invalidation did not reach.
    fn keep_hint(&mut self, at: usize, scenario: &Scenario) {
        let is_kept = match scenario.fault {
            InjectedFault::NoHint => false,
            InjectedFault::NoHintForGutter => at == HOME,
            _ => true,
        };
        self.hints[at] |= is_kept;
    }
}

impl Server {
    fn store(&mut self, value: Value) {
        self.item = Item::Value { value, cas: self.cas };
        self.cas += 1;
    }

    fn holds(&self, cas: u8) -> bool {
        match self.item {
            Item::Absent => false,
            Item::Placeholder { cas: held } | Item::Value { cas: held, .. } => held == cas,
        }
    }
}

impl Model for SystemState {
    type Scenario = Scenario;

    fn first() -> SystemState {
        let process = ProcessState {
            ejected: [false; 2],
            hints: [false; 2],
            caller: CallerState::Idle,
            change: ChangeState::Idle,
            replaced: 0,
        };
        SystemState {
            servers: [Server { item: Item::Absent, cas: 1 }; 2],
            processes: [process; 2],
            next: 1,
            replaced: [0; 2],
            calls: 0,
            changes: 0,
            failures: 0,
        }
    }

    fn steps(&self, scenario: &Scenario) -> NextStates<SystemState> {
        let steps = RefCell::new(NextStates::new());
        for process in 0..2 {
            let steps_of = ProcessSteps { state: self, scenario, process, steps: &steps };
            steps_of.call();
            steps_of.change();
            steps_of.recover();
        }
        for at in [HOME, GUTTER] {
            if self.servers[at].item != Item::Absent {
                let mut next = *self;
                next.servers[at].item = Item::Absent;
                let actor = ["its home", "the gutter"][at];
                let action = "the item expires or is lost";
                let step = Step { actor, action, is_external: false };
                steps.borrow_mut().push((step, Ok(next.canonical())));
            }
        }
        steps.into_inner()
    }

    fn is_quiet(&self) -> bool {
        let is_idle = |process: &ProcessState| {
            (process.caller, process.change) == (CallerState::Idle, ChangeState::Idle)
        };
        self.processes.iter().all(is_idle)
    }
}

impl SystemState {
    fn new_value(&mut self) -> Value {
        self.next += 1;
        self.next - 1
    }

    /// Returns the values that a change replaces: all values except those that concurrent changes
    /// are about to store.
    fn replaced(&self) -> ValueSet {
        let stored = |values, process: &ProcessState| match process.change {
            ChangeState::Writing { value, .. } => values | 1 << value,
            _ => values,
        };
        ((1 << self.next) - 1) & !self.processes.iter().fold(0, stored)
    }

    fn check(self) -> Result<SystemState, Violation> {
        let [home, gutter] = [HOME, GUTTER].map(|at| match self.servers[at].item {
            Item::Value { value, .. } => has(self.replaced[at], value),
            _ => false,
        });
        match (home, gutter) {
            (true, _) => Err("its home has a value from before a change that returned Ok"),
            (_, true) => Err("the gutter has a value from before it was invalidated"),
            _ => Ok(self),
        }
    }
}

const WRITE_ONCE: Scenario = Scenario {
    calls: 3,
    changes: 1,
    failures: 1,
    overwritable: false,
    fault: InjectedFault::Nothing,
};
const OVERWRITABLE: Scenario = Scenario { calls: 2, failures: 2, overwritable: true, ..WRITE_ONCE };
const TWO_CHANGES: Scenario = Scenario { changes: 2, failures: 1, ..OVERWRITABLE };

#[test]
fn a_gutter_server_keeps_the_promises() {
    for scenario in [WRITE_ONCE, OVERWRITABLE, TWO_CHANGES] {
        let SearchResult { states, violation } = search::<SystemState>(&scenario);
        println!("{scenario:?}: {states} states");
        assert!(violation.is_none(), "{states} states: {}", violation.unwrap_or_default());
        assert!(states > 10_000, "the model has many states: {states}");
    }
}

#[test]
fn every_broken_gutter_rule_is_detected() {
    for (fault, contains) in [
        (InjectedFault::GutterNotInvalidated, "is answered by the gutter"),
        (InjectedFault::OverwriteLeavesGutter, "is answered by the gutter"),
        (InjectedFault::NoHint, "is answered by its home"),
        (InjectedFault::NoHintForGutter, "is answered by the gutter"),
        (InjectedFault::DroppedWithoutHint, "drops the change"),
        (InjectedFault::ReadBeforeHint, "is answered by its home"),
        (InjectedFault::BackBeforeHint, "delivers the hint"),
        (InjectedFault::FilledElsewhere, "cannot fill a lost server"),
        (InjectedFault::CasOfOtherServer, "wins a lease of the gutter"),
        (InjectedFault::OkWithoutHome, ""),
    ] {
        let found = search::<SystemState>(&Scenario { fault, ..OVERWRITABLE });
        let trace =
            found.violation.unwrap_or_else(|| panic!("{fault:?}: the search found no violation"));
        println!("{fault:?}:\n{trace}");
        assert!(trace.contains(contains), "{fault:?}:\n{trace}");
    }
}
