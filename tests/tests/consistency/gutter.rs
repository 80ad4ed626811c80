//! One key in two processes that may each lose sight of its home and of the gutter, as a state
//! machine like that of `model`, and smaller: without a local tier and without flights, which know
//! nothing of servers. The functions of `cached-core` that a step stands for are named beside it.

use std::cell::RefCell;

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

/// States that differ only in numbers that make no difference are one state.
impl State {
    fn canonical(mut self) -> State {
        let mut values: Vec<Value> = Vec::new();
        self.each_value(|value| values.push(*value));
        values.sort_unstable();
        values.dedup();
        let number =
            |value: Value| 1 + values.iter().take_while(|other| **other < value).count() as Value;
        self.each_value(|value| *value = number(*value));
        self.next = values.len() as Value + 1;
        self.each_set(|set| {
            let kept = values.iter().filter(|value| has(*set, **value));
            *set = kept.fold(0, |set, value| set | 1 << number(*value));
        });
        for at in [HOME, GUTTER] {
            let mut all: Vec<u8> = Vec::new();
            self.each_cas(at, |cas| all.push(*cas));
            all.sort_unstable();
            all.dedup();
            let number = |cas: u8| 1 + all.iter().take_while(|other| **other < cas).count() as u8;
            self.each_cas(at, |cas| *cas = number(*cas));
            self.servers[at].cas = all.len() as u8 + 1;
        }
        self
    }

    fn each_value(&mut self, mut each: impl FnMut(&mut Value)) {
        for server in &mut self.servers {
            if let Item::Value { value, .. } = &mut server.item {
                each(value);
            }
        }
        for process in &mut self.processes {
            if let Caller::Fetching { value, .. } | Caller::Filling { value, .. } =
                &mut process.caller
            {
                each(value);
            }
            if let Change::Writing { value, .. } = &mut process.change {
                each(value);
            }
        }
    }

    fn each_set(&mut self, mut each: impl FnMut(&mut Values)) {
        self.old.iter_mut().for_each(&mut each);
        for process in &mut self.processes {
            each(&mut process.old);
            if let Caller::Asking { old, .. } = &mut process.caller {
                each(old);
            }
            if let Change::Writing { old, .. }
            | Change::Written { old, .. }
            | Change::TellingHome { old, .. }
            | Change::TellingGutter { old, .. } = &mut process.change
            {
                each(old);
            }
        }
    }

    fn each_cas(&mut self, at: usize, mut each: impl FnMut(&mut u8)) {
        if let Item::Placeholder { cas } | Item::Value { cas, .. } = &mut self.servers[at].item {
            each(cas);
        }
        for process in &mut self.processes {
            if let Caller::Fetching { lease: Some((of, cas)), .. }
            | Caller::Filling { at: of, cas, .. }
            | Caller::GivingBack { at: of, cas } = &mut process.caller
                && *of == at
            {
                each(cas);
            }
        }
    }
}

/// One process, about to take a step.
struct Acting<'s> {
    state: &'s State,
    scope: &'s Scope,
    process: usize,
    steps: &'s RefCell<Steps<State>>,
}

impl Acting<'_> {
    fn own(&self) -> &Process {
        &self.state.processes[self.process]
    }

    fn add(&self, what: &'static str, from_outside: bool, next: Result<State, Violation>) {
        let who = ["process a", "process b"][self.process];
        let event = Event { who, what, from_outside };
        self.steps.borrow_mut().push((event, next.and_then(State::check).map(State::canonical)));
    }

    fn with(&self, with: impl FnOnce(&mut Process)) -> State {
        let mut next = *self.state;
        with(&mut next.processes[self.process]);
        next
    }

    /// The states in which an exchange has failed: carried out or not, and its server ejected or
    /// not yet.
    fn failures(&self, at: usize, carried_out: impl Fn(&mut Server)) -> Vec<State> {
        if self.state.mishaps == self.scope.mishaps {
            return Vec::new();
        }
        let mut failures = Vec::new();
        for (is_carried_out, is_ejected) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let mut next = *self.state;
            next.mishaps += 1;
            next.processes[self.process].ejected[at] |= is_ejected;
            if is_carried_out {
                carried_out(&mut next.servers[at]);
            }
            failures.push(next);
        }
        failures
    }

    fn call(&self) {
        let own = *self.own();
        match own.caller {
            // `Remote::locate`.
            Caller::Idle if self.state.calls < self.scope.calls => {
                let mut next = self.state.turned(self.process, own.old, HOME, self.scope);
                next.calls += 1;
                self.add("calls", true, Ok(next));
            }
            Caller::Asking { at, old } => self.ask(at, old),
            Caller::Fetching { lease, value } => {
                let after = match lease {
                    Some((at, cas)) => Caller::Filling { at, cas, value },
                    None => Caller::Idle,
                };
                self.add("has fetched", false, Ok(self.with(|own| own.caller = after)));
                if let Some((at, cas)) = lease
                    && self.state.mishaps < self.scope.mishaps
                {
                    let mut next = self.with(|own| own.caller = Caller::GivingBack { at, cas });
                    next.mishaps += 1;
                    self.add("is cancelled while it fetches", true, Ok(next));
                }
            }
            Caller::Filling { at, cas, value } => self.fill(at, cas, value),
            // `Lease`'s drop.
            Caller::GivingBack { at, cas } => {
                let mut next = self.with(|own| own.caller = Caller::Idle);
                if own.serves(at, self.scope) && next.servers[at].holds(cas) {
                    next.servers[at].item = Item::Absent;
                }
                self.add("gives the lease back", false, Ok(next));
            }
            Caller::Idle => {}
        }
    }

    /// `RemoteKey::read_or_lease`, and `turns_to_gutter` where that comes to nothing.
    fn ask(&self, at: usize, old: Values) {
        let turned = |state: &State| state.turned(self.process, old, at + 1, self.scope);
        if !self.own().serves(at, self.scope) {
            let what = ["turns to the gutter unasked", "fetches, as nobody can be asked"][at];
            self.add(what, false, Ok(turned(self.state)));
            return;
        }
        let lease = |server: &mut Server| {
            if server.item == Item::Absent {
                server.item = Item::Placeholder { cas: server.cas };
                server.cas += 1;
            }
        };
        let what = ["loses its home while it asks", "loses the gutter while it asks"][at];
        for failed in self.failures(at, lease).iter().map(turned) {
            self.add(what, true, Ok(failed));
        }
        match self.state.servers[at].item {
            Item::Value { value, .. } => {
                let answered = match has(old, value) {
                    true => Err("a call is answered with what its process had done away with"),
                    false => Ok(self.with(|own| own.caller = Caller::Idle)),
                };
                let what = ["is answered by its home", "is answered by the gutter"][at];
                self.add(what, false, answered);
            }
            Item::Placeholder { .. } => {
                let mut next = *self.state;
                let value = next.new_value();
                let fetching = Caller::Fetching { lease: None, value };
                next.processes[self.process].caller = fetching;
                self.add("gives up waiting, and fetches", false, Ok(next));
            }
            Item::Absent => {
                let mut next = *self.state;
                let (value, cas) = (next.new_value(), next.servers[at].cas);
                lease(&mut next.servers[at]);
                let fetching = Caller::Fetching { lease: Some((at, cas)), value };
                next.processes[self.process].caller = fetching;
                self.add(
                    ["wins a lease at home", "wins a lease of the gutter"][at],
                    false,
                    Ok(next),
                );
            }
        }
    }

    /// `RemoteKey::write` with `Condition::Unchanged`, in the background.
    fn fill(&self, mut at: usize, cas: u8, value: Value) {
        let scope = self.scope;
        let is_lost = !self.own().serves(at, scope);
        if is_lost && scope.broken == Broken::CasOfAnother && self.own().serves(1 - at, scope) {
            at = 1 - at;
        }
        let fill = |server: &mut Server| {
            if server.holds(cas) {
                server.store(value);
            }
        };
        let idle = |mut state: State| {
            state.processes[self.process].caller = Caller::Idle;
            if scope.broken == Broken::FilledElsewhere
                && at == HOME
                && state.processes[self.process].serves(GUTTER, scope)
                && state.servers[GUTTER].item == Item::Absent
            {
                state.servers[GUTTER].store(value);
            }
            state
        };
        if !self.own().serves(at, scope) {
            self.add("does not fill what is lost", false, Ok(idle(*self.state)));
            return;
        }
        for failed in self.failures(at, fill).into_iter().map(idle) {
            self.add("fills, and does not learn of it", true, Ok(failed));
        }
        let mut next = self.with(|own| own.caller = Caller::Idle);
        fill(&mut next.servers[at]);
        self.add(["fills its home", "fills the gutter"][at], false, Ok(next));
    }

    fn change(&self) {
        match self.own().change {
            Change::Idle if self.state.changes < self.scope.changes => {
                let old = self.state.old();
                let mut next =
                    self.with(|own| own.change = Change::TellingHome { failed: false, old });
                next.changes += 1;
                self.add("invalidates", true, Ok(next));
                if self.scope.overwritable {
                    let mut next = *self.state;
                    next.changes += 1;
                    let value = next.new_value();
                    let own = &mut next.processes[self.process];
                    let located = [HOME, GUTTER].into_iter().find(|&at| own.serves(at, self.scope));
                    own.change = match located {
                        Some(at) => Change::Writing { at, value, old },
                        None => Change::TellingHome { failed: true, old },
                    };
                    self.add("overwrites", true, Ok(next));
                }
            }
            Change::Writing { at, value, old } => self.write(at, value, old),
            Change::Written { at: HOME, old }
                if self.scope.broken == Broken::OverwriteLeavesGutter =>
            {
                let next = self.returned(*self.state, false, old);
                self.add("overwrites: returns", false, Ok(next));
            }
            Change::Written { at: HOME, old } => self.tell(GUTTER, false, old),
            // In the gutter: its home must be told too.
            Change::Written { old, .. } => {
                let removing = Change::TellingHome { failed: true, old };
                let untold = |mut state: State| {
                    state.processes[self.process].owe(HOME, self.scope);
                    state.processes[self.process].change = removing;
                    state
                };
                if self.own().ejected[HOME] {
                    self.add("overwrites: its home is lost", false, Ok(untold(*self.state)));
                    return;
                }
                let failures = self.failures(HOME, |server| server.item = Item::Absent);
                for failed in failures.into_iter().map(untold) {
                    self.add("overwrites: its home is not told", true, Ok(failed));
                }
                let mut next = self.returned(*self.state, false, old);
                next.servers[HOME].item = Item::Absent;
                self.add("overwrites: its home is told, returns", false, Ok(next));
            }
            Change::TellingHome { failed, old } => self.tell(HOME, failed, old),
            Change::TellingGutter { failed, old } => self.tell(GUTTER, failed, old),
            Change::Idle => {}
        }
    }

    /// `RemoteKey::write` with `Condition::Always`; where it fails, `CacheEntry::replace` forgets.
    fn write(&self, at: usize, value: Value, old: Values) {
        let removing = |mut state: State| {
            let removing = Change::TellingHome { failed: true, old };
            state.processes[self.process].change = removing;
            state
        };
        if !self.own().serves(at, self.scope) {
            self.add("overwrites: nobody is asked", false, Ok(removing(*self.state)));
            return;
        }
        let failures = self.failures(at, |server| server.store(value));
        for failed in failures.into_iter().map(removing) {
            self.add("overwrites: the write fails", true, Ok(failed));
        }
        let mut next = self.with(|own| own.change = Change::Written { at, old });
        next.servers[at].store(value);
        let what = ["overwrites: its home stores", "overwrites: the gutter stores"][at];
        self.add(what, false, Ok(next));
    }

    /// `RemoteKey::forget`: `Untold::tell`, and `Untold`'s drop.
    fn tell(&self, at: usize, failed: bool, old: Values) {
        let scope = self.scope;
        let after = |state: State, told: bool| {
            let failed = failed || (at == HOME && !told && scope.broken != Broken::OkWithoutHome);
            match at {
                HOME if scope.broken != Broken::GutterNotTold => {
                    let mut state = state;
                    let own = &mut state.processes[self.process];
                    own.change = Change::TellingGutter { failed, old };
                    state
                }
                _ => {
                    let mut state = self.returned(state, failed, old);
                    if at == GUTTER && told {
                        state.old[GUTTER] |= old;
                    }
                    state
                }
            }
        };
        let untold = |mut state: State| {
            state.processes[self.process].owe(at, scope);
            after(state, false)
        };
        if self.own().ejected[at] {
            let what = ["its home is to be told later", "the gutter is to be told later"][at];
            self.add(what, false, Ok(untold(*self.state)));
        } else {
            let what = ["its home is not told", "the gutter is not told"][at];
            let failures = self.failures(at, |server| server.item = Item::Absent);
            for failed in failures.into_iter().map(untold) {
                self.add(what, true, Ok(failed));
            }
            let mut next = after(*self.state, true);
            next.servers[at].item = Item::Absent;
            let what = ["its home is told", "the gutter is told"][at];
            self.add(what, false, Ok(next));
        }
        if self.state.mishaps < scope.mishaps {
            let mut next = self.returned(*self.state, true, old);
            next.mishaps += 1;
            let own = &mut next.processes[self.process];
            own.owe(at, scope);
            if scope.broken != Broken::DroppedUntold {
                own.owe(GUTTER, scope);
            }
            self.add("drops the change", true, Ok(next));
        }
    }

    fn returned(&self, mut state: State, failed: bool, old: Values) -> State {
        let own = &mut state.processes[self.process];
        own.change = Change::Idle;
        own.old |= old;
        if !failed {
            state.old[HOME] |= old;
        }
        state
    }

    /// `Server::attempt`.
    fn mend(&self) {
        for at in [HOME, GUTTER] {
            if !self.own().ejected[at] && !self.own().owes[at] {
                continue;
            }
            let mut next = self.with(|own| (own.ejected[at], own.owes[at]) = (false, false));
            if self.own().owes[at] && self.scope.broken != Broken::BackUntold {
                next.servers[at].item = Item::Absent;
            }
            let what = ["tells its home what it missed", "tells the gutter what it missed"][at];
            self.add(what, false, Ok(next));
        }
    }
}

impl State {
    /// The call of the process asks the next server from `from` on that serves the key; where there
    /// is none, it fetches.
    fn turned(&self, process: usize, old: Values, from: usize, scope: &Scope) -> State {
        let mut next = *self;
        let serves = |at: &usize| next.processes[process].serves(*at, scope);
        let caller = match (from..=GUTTER).find(serves) {
            Some(at) => Caller::Asking { at, old },
            None => Caller::Fetching { lease: None, value: next.new_value() },
        };
        next.processes[process].caller = caller;
        next
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
