//! What one process does, step by step.

use super::*;

/// One process, about to take a step.
pub(super) struct Acting<'s> {
    pub(super) state: &'s State,
    pub(super) scope: &'s Scope,
    pub(super) process: usize,
    pub(super) steps: &'s RefCell<Steps<State>>,
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

    pub(super) fn call(&self) {
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

    pub(super) fn change(&self) {
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
    pub(super) fn mend(&self) {
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
