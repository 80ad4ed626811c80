//! The possible next steps of one process in the gutter model.
//!
//! A *step* changes the state once, for example by one exchange with a server. The *home server*
//! stores the key, and the *gutter server* stands in for a home server that the process cannot
//! reach. A *hint* is a process's note that it must still remove the key from a server.
//!
//! A call *fetches* a value from its source, and *fills* a server with the fetched value. A *lease*
//! is the right to fill a missing item. While a lease is held, the server keeps a *placeholder*
//! instead of a value. A *CAS number* is the number that a server gives to each write.
//!
//! Parameters and fields named `at` are the index of a server: `HOME` or `GUTTER`.

use super::*;

/// Adds the possible next steps of one process to `steps`.
pub(super) struct ProcessSteps<'s> {
    pub(super) state: &'s SystemState,
    pub(super) scenario: &'s Scenario,
    pub(super) process: usize,
    pub(super) steps: &'s RefCell<NextStates<SystemState>>,
}

impl ProcessSteps<'_> {
    fn own(&self) -> &ProcessState {
        &self.state.processes[self.process]
    }

    fn add(&self, action: &'static str, is_external: bool, next: Result<SystemState, Violation>) {
        let actor = ["process a", "process b"][self.process];
        let step = Step { actor, action, is_external };
        self.steps
            .borrow_mut()
            .push((step, next.and_then(SystemState::check).map(SystemState::canonical)));
    }

    /// Returns the state after `change` has changed this process's own state.
    fn with_own(&self, change: impl FnOnce(&mut ProcessState)) -> SystemState {
        let mut next = *self.state;
        change(&mut next.processes[self.process]);
        next
    }

    /// Returns the possible states after a failed exchange, or none if the scenario allows no more
    /// failures. There are four states: the server has executed the command or not, and the process
    /// has *ejected* the server (stopped using it) or not.
    fn after_failed_exchange(&self, at: usize, command: impl Fn(&mut Server)) -> Vec<SystemState> {
        if self.state.failures == self.scenario.failures {
            return Vec::new();
        }
        let mut states = Vec::new();
        for (is_executed, is_ejected) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let mut next = *self.state;
            next.failures += 1;
            next.processes[self.process].ejected[at] |= is_ejected;
            if is_executed {
                command(&mut next.servers[at]);
            }
            states.push(next);
        }
        states
    }

    pub(super) fn call(&self) {
        let own = *self.own();
        match own.caller {
            CallerState::Idle if self.state.calls < self.scenario.calls => {
                let mut next =
                    self.state.with_next_server(self.process, own.replaced, HOME, self.scenario);
                next.calls += 1;
                self.add("calls", true, Ok(next));
            }
            CallerState::Reading { at, replaced } => self.read(at, replaced),
            CallerState::Fetching { lease, value } => {
                let after = match lease {
                    Some((at, cas)) => CallerState::Filling { at, cas, value },
                    None => CallerState::Idle,
                };
                self.add("has fetched", false, Ok(self.with_own(|own| own.caller = after)));
                if let Some((at, cas)) = lease
                    && self.state.failures < self.scenario.failures
                {
                    let mut next =
                        self.with_own(|own| own.caller = CallerState::GivingBack { at, cas });
                    next.failures += 1;
                    self.add("is cancelled while it fetches", true, Ok(next));
                }
            }
            CallerState::Filling { at, cas, value } => self.fill(at, cas, value),
            // A call that was cancelled while it fetched removes the placeholder that the server
            // keeps for its lease.
            CallerState::GivingBack { at, cas } => {
                let mut next = self.with_own(|own| own.caller = CallerState::Idle);
                if own.serves(at, self.scenario) && next.servers[at].holds(cas) {
                    next.servers[at].item = Item::Absent;
                }
                self.add("gives the lease back", false, Ok(next));
            }
            CallerState::Idle => {}
        }
    }

    /// Models a read, which wins a lease if the item is absent. If the process cannot use the home
    /// server, it reads the gutter server. If it can use neither, it fetches without a read.
    fn read(&self, at: usize, replaced: ValueSet) {
        let turned = |state: &SystemState| {
            state.with_next_server(self.process, replaced, at + 1, self.scenario)
        };
        if !self.own().serves(at, self.scenario) {
            let action =
                ["turns to the gutter without a read", "fetches, because no server can be used"]
                    [at];
            self.add(action, false, Ok(turned(self.state)));
            return;
        }
        let grant_lease = |server: &mut Server| {
            if server.item == Item::Absent {
                server.item = Item::Placeholder { cas: server.cas };
                server.cas += 1;
            }
        };
        let action = ["loses its home while it reads", "loses the gutter while it reads"][at];
        for next in self.after_failed_exchange(at, grant_lease).iter().map(turned) {
            self.add(action, true, Ok(next));
        }
        match self.state.servers[at].item {
            Item::Value { value, .. } => {
                let answered = match has(replaced, value) {
                    true => Err("a call is answered with a value that its process had replaced"),
                    false => Ok(self.with_own(|own| own.caller = CallerState::Idle)),
                };
                let action = ["is answered by its home", "is answered by the gutter"][at];
                self.add(action, false, answered);
            }
            Item::Placeholder { .. } => {
                let mut next = *self.state;
                let value = next.new_value();
                let fetching = CallerState::Fetching { lease: None, value };
                next.processes[self.process].caller = fetching;
                self.add("gives up waiting, and fetches", false, Ok(next));
            }
            Item::Absent => {
                let mut next = *self.state;
                let (value, cas) = (next.new_value(), next.servers[at].cas);
                grant_lease(&mut next.servers[at]);
                let fetching = CallerState::Fetching { lease: Some((at, cas)), value };
                next.processes[self.process].caller = fetching;
                self.add(
                    ["wins a lease at home", "wins a lease of the gutter"][at],
                    false,
                    Ok(next),
                );
            }
        }
    }

    /// Models the write of a fetched value. The server stores the value only if the item still has
    /// the lease's CAS number.
    fn fill(&self, mut at: usize, cas: u8, value: Value) {
        let scenario = self.scenario;
        let is_lost = !self.own().serves(at, scenario);
        if is_lost
            && scenario.fault == InjectedFault::CasOfOtherServer
            && self.own().serves(1 - at, scenario)
        {
            at = 1 - at;
        }
        let store = |server: &mut Server| {
            if server.holds(cas) {
                server.store(value);
            }
        };
        let after_fill = |mut state: SystemState| {
            state.processes[self.process].caller = CallerState::Idle;
            if scenario.fault == InjectedFault::FilledElsewhere
                && at == HOME
                && state.processes[self.process].serves(GUTTER, scenario)
                && state.servers[GUTTER].item == Item::Absent
            {
                state.servers[GUTTER].store(value);
            }
            state
        };
        if !self.own().serves(at, scenario) {
            self.add("cannot fill a lost server", false, Ok(after_fill(*self.state)));
            return;
        }
        for next in self.after_failed_exchange(at, store).into_iter().map(after_fill) {
            self.add("fills, and loses the answer", true, Ok(next));
        }
        let mut next = self.with_own(|own| own.caller = CallerState::Idle);
        store(&mut next.servers[at]);
        self.add(["fills its home", "fills the gutter"][at], false, Ok(next));
    }

    pub(super) fn change(&self) {
        match self.own().change {
            ChangeState::Idle if self.state.changes < self.scenario.changes => {
                let replaced = self.state.replaced();
                let mut next = self.with_own(|own| {
                    own.change = ChangeState::InvalidatingHome { has_failed: false, replaced }
                });
                next.changes += 1;
                self.add("invalidates", true, Ok(next));
                if self.scenario.overwritable {
                    let mut next = *self.state;
                    next.changes += 1;
                    let value = next.new_value();
                    let own = &mut next.processes[self.process];
                    let first_usable =
                        [HOME, GUTTER].into_iter().find(|&at| own.serves(at, self.scenario));
                    own.change = match first_usable {
                        Some(at) => ChangeState::Writing { at, value, replaced },
                        None => ChangeState::InvalidatingHome { has_failed: true, replaced },
                    };
                    self.add("overwrites", true, Ok(next));
                }
            }
            ChangeState::Writing { at, value, replaced } => self.write(at, value, replaced),
            ChangeState::Written { at: HOME, replaced }
                if self.scenario.fault == InjectedFault::OverwriteLeavesGutter =>
            {
                let next = self.end_change(*self.state, false, replaced);
                self.add("overwrites: returns", false, Ok(next));
            }
            ChangeState::Written { at: HOME, replaced } => self.invalidate(GUTTER, false, replaced),
            // The value was written to the gutter server, so the home server must be invalidated.
            ChangeState::Written { replaced, .. } => {
                let invalidating = ChangeState::InvalidatingHome { has_failed: true, replaced };
                let unreached = |mut state: SystemState| {
                    state.processes[self.process].keep_hint(HOME, self.scenario);
                    state.processes[self.process].change = invalidating;
                    state
                };
                if self.own().ejected[HOME] {
                    self.add("overwrites: its home is lost", false, Ok(unreached(*self.state)));
                    return;
                }
                let failed_states =
                    self.after_failed_exchange(HOME, |server| server.item = Item::Absent);
                for next in failed_states.into_iter().map(unreached) {
                    self.add("overwrites: its home is not reached", true, Ok(next));
                }
                let mut next = self.end_change(*self.state, false, replaced);
                next.servers[HOME].item = Item::Absent;
                self.add("overwrites: its home is invalidated, returns", false, Ok(next));
            }
            ChangeState::InvalidatingHome { has_failed, replaced } => {
                self.invalidate(HOME, has_failed, replaced)
            }
            ChangeState::InvalidatingGutter { has_failed, replaced } => {
                self.invalidate(GUTTER, has_failed, replaced)
            }
            ChangeState::Idle => {}
        }
    }

    /// Models how an overwrite stores its value, whatever CAS number the item has. If the write
    /// fails, the overwrite invalidates the entry on both servers.
    fn write(&self, at: usize, value: Value, replaced: ValueSet) {
        let after_failed_write = |mut state: SystemState| {
            let invalidating = ChangeState::InvalidatingHome { has_failed: true, replaced };
            state.processes[self.process].change = invalidating;
            state
        };
        if !self.own().serves(at, self.scenario) {
            self.add("overwrites: no server is used", false, Ok(after_failed_write(*self.state)));
            return;
        }
        let failed_states = self.after_failed_exchange(at, |server| server.store(value));
        for next in failed_states.into_iter().map(after_failed_write) {
            self.add("overwrites: the write fails", true, Ok(next));
        }
        let mut next = self.with_own(|own| own.change = ChangeState::Written { at, replaced });
        next.servers[at].store(value);
        let action = ["overwrites: its home stores", "overwrites: the gutter stores"][at];
        self.add(action, false, Ok(next));
    }

    /// Models the removal of the key from one server. If the removal fails, the process keeps a
    /// hint.
    fn invalidate(&self, at: usize, has_failed: bool, replaced: ValueSet) {
        let scenario = self.scenario;
        let after = |state: SystemState, reached: bool| {
            let has_failed = has_failed
                || (at == HOME && !reached && scenario.fault != InjectedFault::OkWithoutHome);
            match at {
                HOME if scenario.fault != InjectedFault::GutterNotInvalidated => {
                    let mut state = state;
                    let own = &mut state.processes[self.process];
                    own.change = ChangeState::InvalidatingGutter { has_failed, replaced };
                    state
                }
                _ => {
                    let mut state = self.end_change(state, has_failed, replaced);
                    if at == GUTTER && reached {
                        state.replaced[GUTTER] |= replaced;
                    }
                    state
                }
            }
        };
        let unreached = |mut state: SystemState| {
            state.processes[self.process].keep_hint(at, scenario);
            after(state, false)
        };
        if self.own().ejected[at] {
            let action = ["its home will get a hint", "the gutter will get a hint"][at];
            self.add(action, false, Ok(unreached(*self.state)));
        } else {
            let action = ["its home is not reached", "the gutter is not reached"][at];
            let failed_states = self.after_failed_exchange(at, |server| server.item = Item::Absent);
            for next in failed_states.into_iter().map(unreached) {
                self.add(action, true, Ok(next));
            }
            let mut next = after(*self.state, true);
            next.servers[at].item = Item::Absent;
            let action = ["its home is invalidated", "the gutter is invalidated"][at];
            self.add(action, false, Ok(next));
        }
        if self.state.failures < scenario.failures {
            let mut next = self.end_change(*self.state, true, replaced);
            next.failures += 1;
            let own = &mut next.processes[self.process];
            own.keep_hint(at, scenario);
            if scenario.fault != InjectedFault::DroppedWithoutHint {
                own.keep_hint(GUTTER, scenario);
            }
            self.add("drops the change", true, Ok(next));
        }
    }

    /// Returns the state after an invalidation or overwrite has ended. From then on, no new call of
    /// this process may be answered with a value in `replaced`. If the change has not failed, the
    /// home server must not have such a value either.
    fn end_change(
        &self,
        mut state: SystemState,
        has_failed: bool,
        replaced: ValueSet,
    ) -> SystemState {
        let own = &mut state.processes[self.process];
        own.change = ChangeState::Idle;
        own.replaced |= replaced;
        if !has_failed {
            state.replaced[HOME] |= replaced;
        }
        state
    }

    /// Models the recovery of a server that the process has ejected or for which it has a hint. The
    /// process *delivers* the hint, which removes the key there, and uses the server again.
    pub(super) fn recover(&self) {
        for at in [HOME, GUTTER] {
            if !self.own().ejected[at] && !self.own().hints[at] {
                continue;
            }
            let mut next = self.with_own(|own| (own.ejected[at], own.hints[at]) = (false, false));
            if self.own().hints[at] && self.scenario.fault != InjectedFault::BackBeforeHint {
                next.servers[at].item = Item::Absent;
            }
            let action = ["delivers the hint to its home", "delivers the hint to the gutter"][at];
            self.add(action, false, Ok(next));
        }
    }
}

impl SystemState {
    /// Returns the state in which a call reads the next server, or fetches if there is none. The
    /// next server is the first one, from `from` on, that the process can use.
    fn with_next_server(
        &self,
        process: usize,
        replaced: ValueSet,
        from: usize,
        scenario: &Scenario,
    ) -> SystemState {
        let mut next = *self;
        let serves = |at: &usize| next.processes[process].serves(*at, scenario);
        let caller = match (from..=GUTTER).find(serves) {
            Some(at) => CallerState::Reading { at, replaced },
            None => CallerState::Fetching { lease: None, value: next.new_value() },
        };
        next.processes[process].caller = caller;
        next
    }
}
