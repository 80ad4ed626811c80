//! One key in two processes that may each lose sight of its home and of the gutter, as a state
//! machine like that of `model`, and smaller: without a local tier and without flights, which know
//! nothing of servers. The functions of `cached-core` that a step stands for are named beside it.

mod acting;
mod canonical;

use std::cell::RefCell;

use acting::Acting;

use crate::search::{Event, Model, Search, Steps, Violation, search};

type Value = u8;
/// A set of values.
type Values = u16;

fn has(values: Values, value: Value) -> bool {
    values & (1 << value) != 0
}

const HOME: usize = 0;
const GUTTER: usize = 1;

#[derive(Clone, Copy, Debug)]
struct Scope {
    calls: u8,
    changes: u8,
    /// Exchanges that fail, carried out or not; what is cancelled and dropped.
    mishaps: u8,
    overwritable: bool,
    broken: Broken,
}

/// A rule that is broken, to see that the search finds out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Broken {
    Nothing,
    /// An invalidation reaches the key's home alone.
    GutterNotTold,
    /// An overwrite does not remove what stands in.
    OverwriteLeavesGutter,
    /// What could not be told is not remembered.
    NotOwed,
    /// What the gutter could not be told is not remembered.
    NotOwedInGutter,
    /// A change that is dropped while its home is told leaves the gutter as it is.
    DroppedUntold,
    /// A server is asked for what it was not told yet.
    AskedUntold,
    /// A server is in rotation again before it was told.
    BackUntold,
    /// A fill whose server is lost is added in the gutter, without a lease of it.
    FilledElsewhere,
    /// A fill goes to where its process would look now, under the CAS of where it did look.
    CasOfAnother,
    /// An `Ok` is returned where the gutter alone was told.
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
    /// The next. Each server counts its own.
    cas: u8,
}

/// A call; `old` is what it must not be answered with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Caller {
    Idle,
    Asking {
        at: usize,
        old: Values,
    },
    /// Under the lease with this CAS of that server, or without.
    Fetching {
        lease: Option<(usize, u8)>,
        value: Value,
    },
    /// The caller is answered.
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
    /// The new value is being written; then the other server is told.
    Writing {
        at: usize,
        value: Value,
        old: Values,
    },
    Written {
        at: usize,
        old: Values,
    },
    /// The entry is being removed; `failed` where that cannot make the change succeed.
    TellingHome {
        failed: bool,
        old: Values,
    },
    TellingGutter {
        failed: bool,
        old: Values,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Process {
    ejected: [bool; 2],
    owes: [bool; 2],
    caller: Caller,
    change: Change,
    /// What its own changes have done away with.
    old: Values,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct State {
    servers: [Server; 2],
    processes: [Process; 2],
    next: Value,
    /// What changes that returned `Ok` have done away with at home, and what was done away with in
    /// the gutter.
    old: [Values; 2],
    calls: u8,
    changes: u8,
    mishaps: u8,
}

impl Process {
    /// `Server::serves`.
    fn serves(&self, at: usize, scope: &Scope) -> bool {
        !self.ejected[at] && (!self.owes[at] || scope.broken == Broken::AskedUntold)
    }

    /// `Untold`, dropped.
    fn owe(&mut self, at: usize, scope: &Scope) {
        let remembered = match scope.broken {
            Broken::NotOwed => false,
            Broken::NotOwedInGutter => at == HOME,
            _ => true,
        };
        self.owes[at] |= remembered;
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
    type Scope = Scope;

    fn first() -> State {
        let process = Process {
            ejected: [false; 2],
            owes: [false; 2],
            caller: Caller::Idle,
            change: Change::Idle,
            old: 0,
        };
        State {
            servers: [Server { item: Item::Absent, cas: 1 }; 2],
            processes: [process; 2],
            next: 1,
            old: [0; 2],
            calls: 0,
            changes: 0,
            mishaps: 0,
        }
    }

    fn steps(&self, scope: &Scope) -> Steps<State> {
        let steps = RefCell::new(Steps::new());
        for process in 0..2 {
            let acting = Acting { state: self, scope, process, steps: &steps };
            acting.call();
            acting.change();
            acting.mend();
        }
        for at in [HOME, GUTTER] {
            if self.servers[at].item != Item::Absent {
                let mut next = *self;
                next.servers[at].item = Item::Absent;
                let who = ["its home", "the gutter"][at];
                let what = "what is there expires or is lost";
                let event = Event { who, what, from_outside: false };
                steps.borrow_mut().push((event, Ok(next.canonical())));
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

    /// What a change does away with: all but what another change is about to store.
    fn old(&self) -> Values {
        let stored = |values, process: &Process| match process.change {
            Change::Writing { value, .. } => values | 1 << value,
            _ => values,
        };
        ((1 << self.next) - 1) & !self.processes.iter().fold(0, stored)
    }

    fn check(self) -> Result<State, Violation> {
        let [home, gutter] = [HOME, GUTTER].map(|at| match self.servers[at].item {
            Item::Value { value, .. } => has(self.old[at], value),
            _ => false,
        });
        match (home, gutter) {
            (true, _) => Err("its home has a value from before a change that returned Ok"),
            (_, true) => Err("the gutter has a value from before it was told"),
            _ => Ok(self),
        }
    }
}

const WRITE_ONCE: Scope =
    Scope { calls: 3, changes: 1, mishaps: 1, overwritable: false, broken: Broken::Nothing };
const OVERWRITABLE: Scope = Scope { calls: 2, mishaps: 2, overwritable: true, ..WRITE_ONCE };
const TWO_CHANGES: Scope = Scope { changes: 2, mishaps: 1, ..OVERWRITABLE };

#[test]
fn the_gutter_holds_in_every_order() {
    for scope in [WRITE_ONCE, OVERWRITABLE, TWO_CHANGES] {
        let Search { states, violation } = search::<State>(&scope);
        println!("{scope:?}: {states} states");
        assert!(violation.is_none(), "{states} states: {}", violation.unwrap_or_default());
        assert!(states > 10_000, "{states} states: the model has hardly moved");
    }
}

#[test]
fn each_broken_rule_of_the_gutter_is_found_out() {
    for (broken, contains) in [
        (Broken::GutterNotTold, "is answered by the gutter"),
        (Broken::OverwriteLeavesGutter, "is answered by the gutter"),
        (Broken::NotOwed, "is answered by its home"),
        (Broken::NotOwedInGutter, "is answered by the gutter"),
        (Broken::DroppedUntold, "drops the change"),
        (Broken::AskedUntold, "is answered by its home"),
        (Broken::BackUntold, "what it missed"),
        (Broken::FilledElsewhere, "does not fill what is lost"),
        (Broken::CasOfAnother, "wins a lease of the gutter"),
        (Broken::OkWithoutHome, ""),
    ] {
        let found = search::<State>(&Scope { broken, ..OVERWRITABLE });
        let trace = found.violation.unwrap_or_else(|| panic!("{broken:?}: no trace is found"));
        println!("{broken:?}:\n{trace}");
        assert!(trace.contains(contains), "{broken:?}:\n{trace}");
    }
}
