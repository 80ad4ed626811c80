//! A state machine of one key, two processes, the home server of the key and its gutter server. Each process may
//! lose the connection to either server. The machine has no local tier and no flights, since servers do not matter
//! to those.

mod canonical;
mod process;

use std::cell::RefCell;

use process::ProcessSteps;

use crate::search::{Model, NextStates, SearchResult, Step, Violation, search};

type Value = u8;
/// A set of values.
type Values = u16;

fn has(values: Values, value: Value) -> bool {
    values & (1 << value) != 0
}

const HOME: usize = 0;
const GUTTER: usize = 1;

#[derive(Clone, Copy, Debug)]
struct Bounds {
    calls: u8,
    changes: u8,
    /// Failed exchanges, executed or not; cancelled calls and dropped changes.
    failures: u8,
    overwritable: bool,
    broken: BrokenRule,
}

/// A rule that the model breaks, to show that the search detects it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BrokenRule {
    Nothing,
    /// An invalidation reaches only the home.
    GutterNotInvalidated,
    /// An overwrite does not remove the value in the gutter.
    OverwriteLeavesGutter,
    /// A failed invalidation leaves no hint.
    NoHint,
    /// A failed invalidation of the gutter leaves no hint.
    NoHintForGutter,
    /// A change that is dropped at the home leaves no hint for the gutter.
    DroppedWithoutHint,
    /// A server is read while there is a hint for it.
    ReadBeforeHint,
    /// A server returns to rotation before its hint is delivered.
    BackBeforeHint,
    /// A fill whose server is lost is added to the gutter, without a lease there.
    FilledElsewhere,
    /// A fill goes to the other server, under the CAS number of the server that was read.
    CasOfOtherServer,
    /// A change that reached only the gutter returns `Ok`.
    OkWithoutHome,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Item {
    Absent,
    Placeholder { cas: u8 },
    Value { value: Value, cas: u8 },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Server {
    item: Item,
    /// The next CAS number. Each server counts its own.
    cas: u8,
}

/// A call. It must not be answered with a value in `replaced`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Caller {
    Idle,
    Reading {
        at: usize,
        replaced: Values,
    },
    /// `lease` is the server that granted a lease, and the CAS number of the lease.
    Fetching {
        lease: Option<(usize, u8)>,
        value: Value,
    },
    /// The caller is answered, and the fill runs in the background.
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

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Change {
    Idle,
    /// The new value is being written. The other server is invalidated afterwards.
    Writing {
        at: usize,
        value: Value,
        replaced: Values,
    },
    Written {
        at: usize,
        replaced: Values,
    },
    /// The entry is being removed. With `failed` the change returns an error in any case.
    InvalidatingHome {
        failed: bool,
        replaced: Values,
    },
    InvalidatingGutter {
        failed: bool,
        replaced: Values,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Process {
    ejected: [bool; 2],
    hints: [bool; 2],
    caller: Caller,
    change: Change,
    /// The values that changes of this process have replaced.
    replaced: Values,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct State {
    servers: [Server; 2],
    processes: [Process; 2],
    /// The next value.
    next: Value,
    /// The values that must not be at home, because changes that returned `Ok` have replaced them; and the values
    /// that were removed from the gutter.
    replaced: [Values; 2],
    calls: u8,
    changes: u8,
    failures: u8,
}

impl Process {
    /// Returns true if the process may use the server.
    fn serves(&self, at: usize, bounds: &Bounds) -> bool {
        !self.ejected[at] && (!self.hints[at] || bounds.broken == BrokenRule::ReadBeforeHint)
    }

    /// Keeps a hint for a server that an invalidation did not reach.
    fn keep_hint(&mut self, at: usize, bounds: &Bounds) {
        let is_kept = match bounds.broken {
            BrokenRule::NoHint => false,
            BrokenRule::NoHintForGutter => at == HOME,
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

impl Model for State {
    type Bounds = Bounds;

    fn first() -> State {
        let process = Process {
            ejected: [false; 2],
            hints: [false; 2],
            caller: Caller::Idle,
            change: Change::Idle,
            replaced: 0,
        };
        State {
            servers: [Server { item: Item::Absent, cas: 1 }; 2],
            processes: [process; 2],
            next: 1,
            replaced: [0; 2],
            calls: 0,
            changes: 0,
            failures: 0,
        }
    }

    fn steps(&self, bounds: &Bounds) -> NextStates<State> {
        let steps = RefCell::new(NextStates::new());
        for process in 0..2 {
            let steps_of = ProcessSteps { state: self, bounds, process, steps: &steps };
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
        let is_idle =
            |process: &Process| (process.caller, process.change) == (Caller::Idle, Change::Idle);
        self.processes.iter().all(is_idle)
    }
}

impl State {
    fn new_value(&mut self) -> Value {
        self.next += 1;
        self.next - 1
    }

    /// Returns the values that a change replaces: all but those that concurrent changes are about to store.
    fn replaced(&self) -> Values {
        let stored = |values, process: &Process| match process.change {
            Change::Writing { value, .. } => values | 1 << value,
            _ => values,
        };
        ((1 << self.next) - 1) & !self.processes.iter().fold(0, stored)
    }

    fn check(self) -> Result<State, Violation> {
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

const WRITE_ONCE: Bounds =
    Bounds { calls: 3, changes: 1, failures: 1, overwritable: false, broken: BrokenRule::Nothing };
const OVERWRITABLE: Bounds = Bounds { calls: 2, failures: 2, overwritable: true, ..WRITE_ONCE };
const TWO_CHANGES: Bounds = Bounds { changes: 2, failures: 1, ..OVERWRITABLE };

#[test]
fn the_gutter_holds_in_every_order() {
    for bounds in [WRITE_ONCE, OVERWRITABLE, TWO_CHANGES] {
        let SearchResult { states, violation } = search::<State>(&bounds);
        println!("{bounds:?}: {states} states");
        assert!(violation.is_none(), "{states} states: {}", violation.unwrap_or_default());
        assert!(states > 10_000, "{states} states: the model covers too few states");
    }
}

#[test]
fn every_broken_gutter_rule_is_detected() {
    for (broken, contains) in [
        (BrokenRule::GutterNotInvalidated, "is answered by the gutter"),
        (BrokenRule::OverwriteLeavesGutter, "is answered by the gutter"),
        (BrokenRule::NoHint, "is answered by its home"),
        (BrokenRule::NoHintForGutter, "is answered by the gutter"),
        (BrokenRule::DroppedWithoutHint, "drops the change"),
        (BrokenRule::ReadBeforeHint, "is answered by its home"),
        (BrokenRule::BackBeforeHint, "delivers the hint"),
        (BrokenRule::FilledElsewhere, "cannot fill a lost server"),
        (BrokenRule::CasOfOtherServer, "wins a lease of the gutter"),
        (BrokenRule::OkWithoutHome, ""),
    ] {
        let found = search::<State>(&Bounds { broken, ..OVERWRITABLE });
        let trace =
            found.violation.unwrap_or_else(|| panic!("{broken:?}: the search finds no violation"));
        println!("{broken:?}:\n{trace}");
        assert!(trace.contains(contains), "{broken:?}:\n{trace}");
    }
}
