//! The steps that a call of the annotated function takes in the model. The model is a state machine
//! of one key, two processes with two callers each, and a memcached server.
//!
//! - A *flight* is a fetch with the calls that wait for it: the *leader* fetches, and its
//!   *followers* wait.
//! - A *lease* is the right to fill a missing item, and a *claim* is the right to fetch a stale
//!   item again. While a caller holds a lease, memcached keeps a *placeholder*.
//! - The *CAS number* of an item or a placeholder is the number of the last write to it.
//! - A *fill token* is the invalidation count at the start of a fetch. The value is stored locally
//!   only if the count is unchanged.

use super::*;

/// A caller that is about to take a step, its process, and the state before the step.
pub(super) struct CallSteps<'s> {
    pub(super) state: &'s SystemState,
    pub(super) scenario: &'s Scenario,
    pub(super) process: usize,
    pub(super) caller: usize,
}

impl CallSteps<'_> {
    fn with(&self, caller: CallerState) -> SystemState {
        let mut next = *self.state;
        next.processes[self.process].callers[self.caller] = caller;
        next
    }

    /// Returns the other caller of the process, which may follow this caller's flight.
    fn other<'n>(&self, next: &'n mut SystemState) -> &'n mut CallerState {
        &mut next.processes[self.process].callers[1 - self.caller]
    }

    /// Models the end of a flight, in which the follower gets the leader's answer too. `replaced`
    /// is the set of values that the process had replaced before the leader's call began.
    fn answer(
        &self,
        next: &mut SystemState,
        replaced: ValueSet,
        value: Value,
    ) -> Result<(), Violation> {
        let process = &mut next.processes[self.process];
        if process.flight == Some(self.caller as u8) {
            process.flight = None;
        }
        let mut answered = vec![replaced];
        if let CallerState::Following { replaced } = *self.other(next) {
            *self.other(next) = CallerState::Idle;
            answered.push(replaced);
        }
        if value == PLACEHOLDER {
            return Err("a caller is answered with a placeholder");
        }
        match answered.into_iter().any(|replaced| has(replaced, value)) {
            true => Err("a caller is answered with a value that its process had replaced before"),
            false => Ok(()),
        }
    }

    pub(super) fn steps(&self, add: &mut AddStep<'_>) {
        let (state, scenario) = (self.state, self.scenario);
        let own = &state.processes[self.process];
        let mut inner = |what, next| add(self.process, what, false, next);
        match own.callers[self.caller] {
            // A call reads the local tier, and then joins the flight of the key or starts one.
            CallerState::Idle if state.calls < scenario.calls => {
                let begin = |caller| SystemState { calls: state.calls + 1, ..self.with(caller) };
                let replaced = own.replaced;
                if let Some(value) = own.local {
                    let answered = match has(replaced, value) {
                        true => Err("a local hit is older than a change of its own process"),
                        false => Ok(begin(CallerState::Idle)),
                    };
                    add(self.process, "calls, and hits locally", true, answered);
                    return;
                }
                let (what, next) = match own.flight {
                    Some(_) => ("calls, and follows", begin(CallerState::Following { replaced })),
                    None => {
                        let token = own.epoch;
                        let mut next = begin(CallerState::Leading { token, replaced });
                        next.processes[self.process].flight = Some(self.caller as u8);
                        ("calls, and leads", next)
                    }
                };
                add(self.process, what, true, Ok(next));
            }
            // A *successor* is a follower that takes over the lead. It creates a new fill token,
            // and inherits the lease of the former leader.
            CallerState::Successor { condition, replaced } => {
                let token = own.epoch;
                let mut next = self.with(CallerState::Leading { token, replaced });
                if let Some(condition) = condition {
                    let value = next.new_value();
                    let fetching = CallerState::Fetching { token, condition, value, replaced };
                    next.processes[self.process].callers[self.caller] = fetching;
                }
                inner("takes the lead over", Ok(next));
            }
            CallerState::Leading { token, replaced } => self.read(token, replaced, add),
            CallerState::Reading { token, found, replaced } => {
                self.handle_answer(token, found, replaced, add)
            }
            CallerState::Fetching { token, condition, value, replaced } => {
                self.end_fetch(token, condition, value, replaced, add);
            }
            // The caller stores its value in memcached. Afterwards the library extends the ttl of
            // the local entry. The model leaves that step out, because it has no ttl.
            CallerState::Filling { cas, is_refresh_claim, value } => {
                let (next, stored) = self.fill(cas, value);
                let caller = match stored {
                    true => CallerState::Idle,
                    false => CallerState::GivingBack { cas, is_refresh_claim },
                };
                let done = next.map(|mut next| {
                    next.processes[self.process].callers[self.caller] = caller;
                    next
                });
                inner("fills memcached", done);
                if state.failures < scenario.failures {
                    // memcached stores the value, but the answer is lost. The caller gives the
                    // lease back.
                    let lost = next.map(|mut next| {
                        next.failures += 1;
                        let giving = CallerState::GivingBack { cas, is_refresh_claim };
                        next.processes[self.process].callers[self.caller] = giving;
                        next
                    });
                    add(self.process, "fills memcached, and loses the answer", true, lost);
                }
            }
            // This models the drop of a lease or a claim. The library deletes the placeholder of a
            // lease, and marks a claimed item as free. Both commands fail if the CAS number has
            // changed.
            CallerState::GivingBack { cas, is_refresh_claim } => {
                let mut next = self.with(CallerState::Idle);
                next.item = match (is_refresh_claim, next.item) {
                    (false, Item::Placeholder { cas: held }) if held == cas => Item::Absent,
                    (true, Item::Value { value, cas: held, .. }) if held == cas => {
                        let cas = next.new_cas();
                        Item::Value { value, cas, stale: true, claimed: false }
                    }
                    (_, item) => item,
                };
                inner("gives the lease back", Ok(next));
            }
            CallerState::Idle | CallerState::Following { .. } => {}
        }
    }

    /// Models a leader that reads the local tier again, and then memcached.
    fn read(&self, token: u8, replaced: ValueSet, add: &mut AddStep<'_>) {
        let (state, scenario) = (self.state, self.scenario);
        if let Some(value) = state.processes[self.process].local {
            let mut next = self.with(CallerState::Idle);
            let answered = self.answer(&mut next, replaced, value).map(|()| next);
            add(self.process, "finds locally what another fetched", false, answered);
            return;
        }
        let mut next = *state;
        let found = read_or_lease(&mut next, scenario);
        next.processes[self.process].callers[self.caller] =
            CallerState::Reading { token, found, replaced };
        add(self.process, "reads memcached", false, Ok(next));
        if state.failures < scenario.failures {
            let value = next.new_value();
            next.failures += 1;
            next.processes[self.process].callers[self.caller] =
                CallerState::Fetching { token, condition: FillCondition::NoFill, value, replaced };
            add(self.process, "reads memcached, loses the answer, fetches", true, Ok(next));
        }
    }

    /// Models how a leader handles the answer of memcached.
    fn handle_answer(
        &self,
        token: u8,
        found: ReadAnswer,
        replaced: ValueSet,
        add: &mut AddStep<'_>,
    ) {
        let mut inner = |what, next| add(self.process, what, false, next);
        let fetch = |condition| {
            let mut next = *self.state;
            let value = next.new_value();
            next.processes[self.process].callers[self.caller] =
                CallerState::Fetching { token, condition, value, replaced };
            next
        };
        match found {
            ReadAnswer::Item(value) => {
                let mut next = self.with(CallerState::Idle);
                next.processes[self.process].store_local(token, value, self.scenario);
                let answered = self.answer(&mut next, replaced, value).map(|()| next);
                inner("answers with what memcached had", answered);
            }
            ReadAnswer::Lease(cas) | ReadAnswer::Claimed(cas) => {
                let is_refresh_claim = matches!(found, ReadAnswer::Claimed(_));
                let mut next = fetch(FillCondition::Lease { cas, is_refresh_claim });
                let again = next.fetched & (1 << cas) != 0
                    && self.scenario.fault != InjectedFault::CasOutlivesServer;
                next.fetched |= 1 << cas;
                let next = if again { Err("two callers fetch under one lease") } else { Ok(next) };
                inner("fetches under a lease", next);
            }
            ReadAnswer::Busy | ReadAnswer::ClaimTaken(_) => {
                inner(
                    "pauses, and will read again",
                    Ok(self.with(CallerState::Leading { token, replaced })),
                );
                if self.scenario.fault != InjectedFault::WaitForever {
                    let condition = match found {
                        ReadAnswer::ClaimTaken(cas) => FillCondition::Replace { cas },
                        _ => FillCondition::NoFill,
                    };
                    inner("gives up waiting, and fetches", Ok(fetch(condition)));
                }
            }
        }
    }

    /// Models a fetch that ends, and a fetch that is cancelled.
    fn end_fetch(
        &self,
        token: u8,
        condition: FillCondition,
        value: Value,
        replaced: ValueSet,
        add: &mut AddStep<'_>,
    ) {
        let after = match condition {
            FillCondition::Lease { cas, is_refresh_claim } => {
                CallerState::Filling { cas, is_refresh_claim, value }
            }
            FillCondition::Replace { cas } => {
                CallerState::Filling { cas, is_refresh_claim: false, value }
            }
            FillCondition::NoFill => CallerState::Idle,
        };
        let mut next = self.with(after);
        next.processes[self.process].store_local(token, value, self.scenario);
        let answered = self.answer(&mut next, replaced, value).map(|()| next);
        add(self.process, "has fetched, stores locally and answers", false, answered);
        if self.state.failures == self.scenario.failures {
            return;
        }
        // A dropped leader hands the lead and the lease to a follower.
        let mut next =
            SystemState { failures: self.state.failures + 1, ..self.with(CallerState::Idle) };
        let own = self.caller as u8;
        match *self.other(&mut next) {
            CallerState::Following { replaced } => {
                let condition = Some(condition)
                    .filter(|condition| matches!(condition, FillCondition::Lease { .. }));
                *self.other(&mut next) = CallerState::Successor { condition, replaced };
                let process = &mut next.processes[self.process];
                if process.flight == Some(own) {
                    process.flight = Some(1 - own);
                }
            }
            _ => {
                let process = &mut next.processes[self.process];
                if process.flight == Some(own) {
                    process.flight = None;
                }
                if let FillCondition::Lease { cas, is_refresh_claim } = condition {
                    process.callers[self.caller] =
                        CallerState::GivingBack { cas, is_refresh_claim };
                }
            }
        }
        add(self.process, "is cancelled while it fetches", true, Ok(next));
    }

    /// Models a write that memcached accepts only if the item still has the CAS number `cas`.
    /// Returns the next state, and true if memcached stored the value.
    fn fill(&self, cas: u8, value: Value) -> (Result<SystemState, Violation>, bool) {
        let mut next = *self.state;
        let unchanged = match next.item {
            Item::Absent => false,
            Item::Placeholder { cas: held } | Item::Value { cas: held, .. } => held == cas,
        };
        if !unchanged && self.scenario.fault != InjectedFault::FillWithoutCas {
            return (Ok(next), false);
        }
        if let Item::Value { value: stored, stale: false, .. } = next.item
            && stored != value
        {
            return (Err("a fill replaces an entry that is alive"), true);
        }
        let cas = next.new_cas();
        next.item = Item::Value { value, cas, stale: false, claimed: false };
        (Ok(next), true)
    }
}
