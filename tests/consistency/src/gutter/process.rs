//! The steps of one process. `at` is always the index of a server.

use super::*;

/// A process that is about to take a step.
pub(super) struct ProcessSteps<'s> {
    pub(super) state: &'s State,
    pub(super) bounds: &'s Bounds,
    pub(super) process: usize,
    pub(super) steps: &'s RefCell<NextStates<State>>,
}

impl ProcessSteps<'_> {
    fn own(&self) -> &Process {
        &self.state.processes[self.process]
    }

    fn add(&self, action: &'static str, is_external: bool, next: Result<State, Violation>) {
        let actor = ["process a", "process b"][self.process];
        let step = Step { actor, action, is_external };
        self.steps.borrow_mut().push((step, next.and_then(State::check).map(State::canonical)));
    }

    fn with(&self, with: impl FnOnce(&mut Process)) -> State {
        let mut next = *self.state;
        with(&mut next.processes[self.process]);
        next
    }

    /// Returns the states after a failed exchange. The server has executed the command or not, and
    /// the process has ejected the server (stopped using it) or not.
    fn failures(&self, at: usize, executed: impl Fn(&mut Server)) -> Vec<State> {
        if self.state.failures == self.bounds.failures {
            return Vec::new();
        }
        let mut failures = Vec::new();
        for (is_executed, is_ejected) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let mut next = *self.state;
            next.failures += 1;
            next.processes[self.process].ejected[at] |= is_ejected;
            if is_executed {
                executed(&mut next.servers[at]);
            }
            failures.push(next);
        }
        failures
    }

    pub(super) fn call(&self) {
        let own = *self.own();
        match own.caller {
            Caller::Idle if self.state.calls < self.bounds.calls => {
                let mut next =
                    self.state.with_next_server(self.process, own.replaced, HOME, self.bounds);
                next.calls += 1;
                self.add("calls", true, Ok(next));
            }
            Caller::Reading { at, replaced } => self.read(at, replaced),
            Caller::Fetching { lease, value } => {
                let after = match lease {
                    Some((at, cas)) => Caller::Filling { at, cas, value },
                    None => Caller::Idle,
                };
                self.add("has fetched", false, Ok(self.with(|own| own.caller = after)));
                if let Some((at, cas)) = lease
                    && self.state.failures < self.bounds.failures
                {
                    let mut next = self.with(|own| own.caller = Caller::GivingBack { at, cas });
                    next.failures += 1;
                    self.add("is cancelled while it fetches", true, Ok(next));
                }
            }
            Caller::Filling { at, cas, value } => self.fill(at, cas, value),
            // This models the drop of a lease.
            Caller::GivingBack { at, cas } => {
                let mut next = self.with(|own| own.caller = Caller::Idle);
                if own.serves(at, self.bounds) && next.servers[at].holds(cas) {
                    next.servers[at].item = Item::Absent;
                }
                self.add("gives the lease back", false, Ok(next));
            }
            Caller::Idle => {}
        }
    }

    /// Models a read that may take the lease. If the home server is lost, the read continues on the
    /// gutter server.
    fn read(&self, at: usize, replaced: Values) {
        let turned =
            |state: &State| state.with_next_server(self.process, replaced, at + 1, self.bounds);
        if !self.own().serves(at, self.bounds) {
            let action =
                ["turns to the gutter without a read", "fetches, because no server can be used"]
                    [at];
            self.add(action, false, Ok(turned(self.state)));
            return;
        }
        let lease = |server: &mut Server| {
            if server.item == Item::Absent {
                server.item = Item::Placeholder { cas: server.cas };
                server.cas += 1;
            }
        };
        let action = ["loses its home while it reads", "loses the gutter while it reads"][at];
        for failed in self.failures(at, lease).iter().map(turned) {
            self.add(action, true, Ok(failed));
        }
        match self.state.servers[at].item {
            Item::Value { value, .. } => {
                let answered = match has(replaced, value) {
                    true => Err("a call is answered with a value that its process had replaced"),
                    false => Ok(self.with(|own| own.caller = Caller::Idle)),
                };
                let action = ["is answered by its home", "is answered by the gutter"][at];
                self.add(action, false, answered);
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

    /// Models a write in the background that requires a CAS number.
    fn fill(&self, mut at: usize, cas: u8, value: Value) {
        let bounds = self.bounds;
        let is_lost = !self.own().serves(at, bounds);
        if is_lost
            && bounds.broken == InjectedFault::CasOfOtherServer
            && self.own().serves(1 - at, bounds)
        {
            at = 1 - at;
        }
        let fill = |server: &mut Server| {
            if server.holds(cas) {
                server.store(value);
            }
        };
        let idle = |mut state: State| {
            state.processes[self.process].caller = Caller::Idle;
            if bounds.broken == InjectedFault::FilledElsewhere
                && at == HOME
                && state.processes[self.process].serves(GUTTER, bounds)
                && state.servers[GUTTER].item == Item::Absent
            {
                state.servers[GUTTER].store(value);
            }
            state
        };
        if !self.own().serves(at, bounds) {
            self.add("cannot fill a lost server", false, Ok(idle(*self.state)));
            return;
        }
        for failed in self.failures(at, fill).into_iter().map(idle) {
            self.add("fills, and loses the answer", true, Ok(failed));
        }
        let mut next = self.with(|own| own.caller = Caller::Idle);
        fill(&mut next.servers[at]);
        self.add(["fills its home", "fills the gutter"][at], false, Ok(next));
    }

    pub(super) fn change(&self) {
        match self.own().change {
            Change::Idle if self.state.changes < self.bounds.changes => {
                let replaced = self.state.replaced();
                let mut next = self
                    .with(|own| own.change = Change::InvalidatingHome { failed: false, replaced });
                next.changes += 1;
                self.add("invalidates", true, Ok(next));
                if self.bounds.overwritable {
                    let mut next = *self.state;
                    next.changes += 1;
                    let value = next.new_value();
                    let own = &mut next.processes[self.process];
                    let located =
                        [HOME, GUTTER].into_iter().find(|&at| own.serves(at, self.bounds));
                    own.change = match located {
                        Some(at) => Change::Writing { at, value, replaced },
                        None => Change::InvalidatingHome { failed: true, replaced },
                    };
                    self.add("overwrites", true, Ok(next));
                }
            }
            Change::Writing { at, value, replaced } => self.write(at, value, replaced),
            Change::Written { at: HOME, replaced }
                if self.bounds.broken == InjectedFault::OverwriteLeavesGutter =>
            {
                let next = self.returned(*self.state, false, replaced);
                self.add("overwrites: returns", false, Ok(next));
            }
            Change::Written { at: HOME, replaced } => self.invalidate(GUTTER, false, replaced),
            // The value was written to the gutter, so the home must be invalidated.
            Change::Written { replaced, .. } => {
                let removing = Change::InvalidatingHome { failed: true, replaced };
                let unreached = |mut state: State| {
                    state.processes[self.process].keep_hint(HOME, self.bounds);
                    state.processes[self.process].change = removing;
                    state
                };
                if self.own().ejected[HOME] {
                    self.add("overwrites: its home is lost", false, Ok(unreached(*self.state)));
                    return;
                }
                let failures = self.failures(HOME, |server| server.item = Item::Absent);
                for failed in failures.into_iter().map(unreached) {
                    self.add("overwrites: its home is not reached", true, Ok(failed));
                }
                let mut next = self.returned(*self.state, false, replaced);
                next.servers[HOME].item = Item::Absent;
                self.add("overwrites: its home is invalidated, returns", false, Ok(next));
            }
            Change::InvalidatingHome { failed, replaced } => {
                self.invalidate(HOME, failed, replaced)
            }
            Change::InvalidatingGutter { failed, replaced } => {
                self.invalidate(GUTTER, failed, replaced)
            }
            Change::Idle => {}
        }
    }

    /// Models an unconditional write. If it fails, the overwrite invalidates the entry.
    fn write(&self, at: usize, value: Value, replaced: Values) {
        let removing = |mut state: State| {
            let removing = Change::InvalidatingHome { failed: true, replaced };
            state.processes[self.process].change = removing;
            state
        };
        if !self.own().serves(at, self.bounds) {
            self.add("overwrites: no server is used", false, Ok(removing(*self.state)));
            return;
        }
        let failures = self.failures(at, |server| server.store(value));
        for failed in failures.into_iter().map(removing) {
            self.add("overwrites: the write fails", true, Ok(failed));
        }
        let mut next = self.with(|own| own.change = Change::Written { at, replaced });
        next.servers[at].store(value);
        let action = ["overwrites: its home stores", "overwrites: the gutter stores"][at];
        self.add(action, false, Ok(next));
    }

    /// Models the invalidation of a key on one server, and the hint that a failure leaves.
    fn invalidate(&self, at: usize, failed: bool, replaced: Values) {
        let bounds = self.bounds;
        let after = |state: State, reached: bool| {
            let failed =
                failed || (at == HOME && !reached && bounds.broken != InjectedFault::OkWithoutHome);
            match at {
                HOME if bounds.broken != InjectedFault::GutterNotInvalidated => {
                    let mut state = state;
                    let own = &mut state.processes[self.process];
                    own.change = Change::InvalidatingGutter { failed, replaced };
                    state
                }
                _ => {
                    let mut state = self.returned(state, failed, replaced);
                    if at == GUTTER && reached {
                        state.replaced[GUTTER] |= replaced;
                    }
                    state
                }
            }
        };
        let unreached = |mut state: State| {
            state.processes[self.process].keep_hint(at, bounds);
            after(state, false)
        };
        if self.own().ejected[at] {
            let action = ["its home will get a hint", "the gutter will get a hint"][at];
            self.add(action, false, Ok(unreached(*self.state)));
        } else {
            let action = ["its home is not reached", "the gutter is not reached"][at];
            let failures = self.failures(at, |server| server.item = Item::Absent);
            for failed in failures.into_iter().map(unreached) {
                self.add(action, true, Ok(failed));
            }
            let mut next = after(*self.state, true);
            next.servers[at].item = Item::Absent;
            let action = ["its home is invalidated", "the gutter is invalidated"][at];
            self.add(action, false, Ok(next));
        }
        if self.state.failures < bounds.failures {
            let mut next = self.returned(*self.state, true, replaced);
            next.failures += 1;
            let own = &mut next.processes[self.process];
            own.keep_hint(at, bounds);
            if bounds.broken != InjectedFault::DroppedWithoutHint {
                own.keep_hint(GUTTER, bounds);
            }
            self.add("drops the change", true, Ok(next));
        }
    }

    fn returned(&self, mut state: State, failed: bool, replaced: Values) -> State {
        let own = &mut state.processes[self.process];
        own.change = Change::Idle;
        own.replaced |= replaced;
        if !failed {
            state.replaced[HOME] |= replaced;
        }
        state
    }

    /// Models an ejected server that returns to rotation.
    pub(super) fn recover(&self) {
        for at in [HOME, GUTTER] {
            if !self.own().ejected[at] && !self.own().hints[at] {
                continue;
            }
            let mut next = self.with(|own| (own.ejected[at], own.hints[at]) = (false, false));
            if self.own().hints[at] && self.bounds.broken != InjectedFault::BackBeforeHint {
                next.servers[at].item = Item::Absent;
            }
            let action = ["delivers the hint to its home", "delivers the hint to the gutter"][at];
            self.add(action, false, Ok(next));
        }
    }
}

impl State {
    /// Lets a call read the first server from `from` on that its process may use. Without such a
    /// server, the call fetches.
    fn with_next_server(
        &self,
        process: usize,
        replaced: Values,
        from: usize,
        bounds: &Bounds,
    ) -> State {
        let mut next = *self;
        let serves = |at: &usize| next.processes[process].serves(*at, bounds);
        let caller = match (from..=GUTTER).find(serves) {
            Some(at) => Caller::Reading { at, replaced },
            None => Caller::Fetching { lease: None, value: next.new_value() },
        };
        next.processes[process].caller = caller;
        next
    }
}
