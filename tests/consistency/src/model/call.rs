//! The steps of a call of the annotated function.

use super::*;

/// A caller of a process that is about to take a step.
pub(super) struct Call<'s> {
    pub(super) state: &'s State,
    pub(super) bounds: &'s Bounds,
    pub(super) process: usize,
    pub(super) caller: usize,
}

impl Call<'_> {
    fn with(&self, caller: Caller) -> State {
        let mut next = *self.state;
        next.processes[self.process].callers[self.caller] = caller;
        next
    }

    /// Returns the other caller of the process, which may follow this one.
    fn other<'n>(&self, next: &'n mut State) -> &'n mut Caller {
        &mut next.processes[self.process].callers[1 - self.caller]
    }

    /// Models the end of a flight: its follower gets the answer too.
    fn answer(&self, next: &mut State, replaced: Values, value: Value) -> Result<(), Violation> {
        let process = &mut next.processes[self.process];
        if process.flight == Some(self.caller as u8) {
            process.flight = None;
        }
        let mut answered = vec![replaced];
        if let Caller::Following { replaced } = *self.other(next) {
            *self.other(next) = Caller::Idle;
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
        let (state, bounds) = (self.state, self.bounds);
        let own = &state.processes[self.process];
        let mut inner = |what, next| add(self.process, what, false, next);
        match own.callers[self.caller] {
            // A call reads the local tier, and then joins the flight of the key or starts one.
            Caller::Idle if state.calls < bounds.calls => {
                let begin = |caller| State { calls: state.calls + 1, ..self.with(caller) };
                let replaced = own.replaced;
                if let Some(value) = own.local {
                    let answered = match has(replaced, value) {
                        true => Err("a local hit is older than a change of its own process"),
                        false => Ok(begin(Caller::Idle)),
                    };
                    add(self.process, "calls, and hits locally", true, answered);
                    return;
                }
                let (what, next) = match own.flight {
                    Some(_) => ("calls, and follows", begin(Caller::Following { replaced })),
                    None => {
                        let token = own.epoch;
                        let mut next = begin(Caller::Leading { token, replaced });
                        next.processes[self.process].flight = Some(self.caller as u8);
                        ("calls, and leads", next)
                    }
                };
                add(self.process, what, true, Ok(next));
            }
            // A successor takes a new fill token, and the lease of the former leader.
            Caller::Successor { condition, replaced } => {
                let token = own.epoch;
                let mut next = self.with(Caller::Leading { token, replaced });
                if let Some(condition) = condition {
                    let value = next.new_value();
                    let fetching = Caller::Fetching { token, condition, value, replaced };
                    next.processes[self.process].callers[self.caller] = fetching;
                }
                inner("takes the lead over", Ok(next));
            }
            Caller::Leading { token, replaced } => self.read(token, replaced, add),
            Caller::Reading { token, found, replaced } => {
                self.handle_answer(token, found, replaced, add)
            }
            Caller::Fetching { token, condition, value, replaced } => {
                self.fetched(token, condition, value, replaced, add);
            }
            // The caller fills memcached. Then the library extends the ttl of the local entry,
            // which stores no value.
            Caller::Filling { cas, of_item, value } => {
                let (next, stored) = self.fill(cas, value);
                let caller = match stored {
                    true => Caller::Idle,
                    false => Caller::GivingBack { cas, of_item },
                };
                let done = next.map(|mut next| {
                    next.processes[self.process].callers[self.caller] = caller;
                    next
                });
                inner("fills memcached", done);
                if state.failures < bounds.failures {
                    // memcached stores the value, but the answer is lost. The caller gives the
                    // lease back.
                    let lost = next.map(|mut next| {
                        next.failures += 1;
                        let giving = Caller::GivingBack { cas, of_item };
                        next.processes[self.process].callers[self.caller] = giving;
                        next
                    });
                    add(self.process, "fills memcached, and loses the answer", true, lost);
                }
            }
            // The drop of a lease or claim: a delete, or a mark on the item, that requires the CAS
            // number.
            Caller::GivingBack { cas, of_item } => {
                let mut next = self.with(Caller::Idle);
                next.item = match (of_item, next.item) {
                    (false, Item::Placeholder { cas: held }) if held == cas => Item::Absent,
                    (true, Item::Value { value, cas: held, .. }) if held == cas => {
                        let cas = next.new_cas();
                        Item::Value { value, cas, stale: true, claimed: false }
                    }
                    (_, item) => item,
                };
                inner("gives the lease back", Ok(next));
            }
            Caller::Idle | Caller::Following { .. } => {}
        }
    }

    /// Models a leader that reads the local tier again, and then memcached.
    fn read(&self, token: u8, replaced: Values, add: &mut AddStep<'_>) {
        let (state, bounds) = (self.state, self.bounds);
        if let Some(value) = state.processes[self.process].local {
            let mut next = self.with(Caller::Idle);
            let answered = self.answer(&mut next, replaced, value).map(|()| next);
            add(self.process, "finds locally what another fetched", false, answered);
            return;
        }
        let mut next = *state;
        let found = read_or_lease(&mut next, bounds);
        next.processes[self.process].callers[self.caller] =
            Caller::Reading { token, found, replaced };
        add(self.process, "reads memcached", false, Ok(next));
        if state.failures < bounds.failures {
            let value = next.new_value();
            next.failures += 1;
            next.processes[self.process].callers[self.caller] =
                Caller::Fetching { token, condition: FillCondition::NoFill, value, replaced };
            add(self.process, "reads memcached, loses the answer, fetches", true, Ok(next));
        }
    }

    /// Models a leader that handles the answer of memcached.
    fn handle_answer(&self, token: u8, found: ReadAnswer, replaced: Values, add: &mut AddStep<'_>) {
        let mut inner = |what, next| add(self.process, what, false, next);
        let fetch = |condition| {
            let mut next = *self.state;
            let value = next.new_value();
            next.processes[self.process].callers[self.caller] =
                Caller::Fetching { token, condition, value, replaced };
            next
        };
        match found {
            ReadAnswer::Item(value) => {
                let mut next = self.with(Caller::Idle);
                next.processes[self.process].store_local(token, value, self.bounds);
                let answered = self.answer(&mut next, replaced, value).map(|()| next);
                inner("answers with what memcached had", answered);
            }
            ReadAnswer::Lease(cas) | ReadAnswer::Claimed(cas) => {
                let of_item = matches!(found, ReadAnswer::Claimed(_));
                let mut next = fetch(FillCondition::Lease { cas, of_item });
                let again = next.fetched & (1 << cas) != 0
                    && self.bounds.broken != InjectedFault::CasOutlivesServer;
                next.fetched |= 1 << cas;
                let next = if again { Err("two callers fetch under one lease") } else { Ok(next) };
                inner("fetches under a lease", next);
            }
            ReadAnswer::Busy | ReadAnswer::ClaimTaken(_) => {
                inner(
                    "pauses, and will read again",
                    Ok(self.with(Caller::Leading { token, replaced })),
                );
                if self.bounds.broken != InjectedFault::WaitForever {
                    let condition = match found {
                        ReadAnswer::ClaimTaken(cas) => FillCondition::Replace { cas },
                        _ => FillCondition::NoFill,
                    };
                    inner("gives up waiting, and fetches", Ok(fetch(condition)));
                }
            }
        }
    }

    /// Models the end of a fetch, or its cancellation.
    fn fetched(
        &self,
        token: u8,
        condition: FillCondition,
        value: Value,
        replaced: Values,
        add: &mut AddStep<'_>,
    ) {
        let after = match condition {
            FillCondition::Lease { cas, of_item } => Caller::Filling { cas, of_item, value },
            FillCondition::Replace { cas } => Caller::Filling { cas, of_item: false, value },
            FillCondition::NoFill => Caller::Idle,
        };
        let mut next = self.with(after);
        next.processes[self.process].store_local(token, value, self.bounds);
        let answered = self.answer(&mut next, replaced, value).map(|()| next);
        add(self.process, "has fetched, stores locally and answers", false, answered);
        if self.state.failures == self.bounds.failures {
            return;
        }
        // A dropped leader hands the lead and the lease to a follower.
        let mut next = State { failures: self.state.failures + 1, ..self.with(Caller::Idle) };
        let own = self.caller as u8;
        match *self.other(&mut next) {
            Caller::Following { replaced } => {
                let condition = Some(condition)
                    .filter(|condition| matches!(condition, FillCondition::Lease { .. }));
                *self.other(&mut next) = Caller::Successor { condition, replaced };
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
                if let FillCondition::Lease { cas, of_item } = condition {
                    process.callers[self.caller] = Caller::GivingBack { cas, of_item };
                }
            }
        }
        add(self.process, "is cancelled while it fetches", true, Ok(next));
    }

    /// Models a write that requires a CAS number. Returns the next state, and true if memcached
    /// stored the value.
    fn fill(&self, cas: u8, value: Value) -> (Result<State, Violation>, bool) {
        let mut next = *self.state;
        let unchanged = match next.item {
            Item::Absent => false,
            Item::Placeholder { cas: held } | Item::Value { cas: held, .. } => held == cas,
        };
        if !unchanged && self.bounds.broken != InjectedFault::FillWithoutCas {
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
