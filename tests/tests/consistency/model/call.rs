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
    fn answer(&self, next: &mut State, old: Values, value: Value) -> Result<(), Violation> {
        let process = &mut next.processes[self.process];
        if process.flight == Some(self.caller as u8) {
            process.flight = None;
        }
        let mut answered = vec![old];
        if let Caller::Following { old } = *self.other(next) {
            *self.other(next) = Caller::Idle;
            answered.push(old);
        }
        if value == PLACEHOLDER {
            return Err("a caller is answered with a placeholder");
        }
        match answered.into_iter().any(|old| has(old, value)) {
            true => Err("a caller is answered with a value that its process had replaced before"),
            false => Ok(()),
        }
    }

    pub(super) fn steps(&self, add: &mut Add<'_>) {
        let (state, bounds) = (self.state, self.bounds);
        let own = &state.processes[self.process];
        let mut inner = |what, next| add(self.process, what, false, next);
        match own.callers[self.caller] {
            // A call reads the local tier, and then joins the flight of the key or starts one.
            Caller::Idle if state.calls < bounds.calls => {
                let begin = |caller| State { calls: state.calls + 1, ..self.with(caller) };
                let old = own.old;
                if let Some(value) = own.local {
                    let answered = match has(old, value) {
                        true => Err("a local hit is older than a change of its own process"),
                        false => Ok(begin(Caller::Idle)),
                    };
                    add(self.process, "calls, and hits locally", true, answered);
                    return;
                }
                let (what, next) = match own.flight {
                    Some(_) => ("calls, and follows", begin(Caller::Following { old })),
                    None => {
                        let token = own.epoch;
                        let mut next = begin(Caller::Leading { token, old });
                        next.processes[self.process].flight = Some(self.caller as u8);
                        ("calls, and leads", next)
                    }
                };
                add(self.process, what, true, Ok(next));
            }
            // A successor takes a new fill token, and the lease of the former leader.
            Caller::Successor { right, old } => {
                let token = own.epoch;
                let mut next = self.with(Caller::Leading { token, old });
                if let Some(right) = right {
                    let value = next.new_value();
                    let fetching = Caller::Fetching { token, right, value, old };
                    next.processes[self.process].callers[self.caller] = fetching;
                }
                inner("takes the lead over", Ok(next));
            }
            Caller::Leading { token, old } => self.read(token, old, add),
            Caller::Reading { token, found, old } => self.handle_answer(token, found, old, add),
            Caller::Fetching { token, right, value, old } => {
                self.fetched(token, right, value, old, add);
            }
            // The fill of memcached. The library extends the local entry afterwards, which stores no value.
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
                if state.mishaps < bounds.mishaps {
                    // memcached stores the value, and its answer is lost. The caller gives the lease back.
                    let lost = next.map(|mut next| {
                        next.mishaps += 1;
                        let giving = Caller::GivingBack { cas, of_item };
                        next.processes[self.process].callers[self.caller] = giving;
                        next
                    });
                    add(self.process, "fills memcached, and loses the answer", true, lost);
                }
            }
            // The drop of a lease: a delete or a mark under its CAS number.
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

    /// Models a leader that reads the local tier once more, and then memcached.
    fn read(&self, token: u8, old: Values, add: &mut Add<'_>) {
        let (state, bounds) = (self.state, self.bounds);
        if let Some(value) = state.processes[self.process].local {
            let mut next = self.with(Caller::Idle);
            let answered = self.answer(&mut next, old, value).map(|()| next);
            add(self.process, "finds locally what another fetched", false, answered);
            return;
        }
        let mut next = *state;
        let found = read_or_lease(&mut next, bounds);
        next.processes[self.process].callers[self.caller] = Caller::Reading { token, found, old };
        add(self.process, "reads memcached", false, Ok(next));
        if state.mishaps < bounds.mishaps {
            let value = next.new_value();
            next.mishaps += 1;
            next.processes[self.process].callers[self.caller] =
                Caller::Fetching { token, right: FillCondition::Nothing, value, old };
            add(self.process, "reads memcached, loses the answer, fetches", true, Ok(next));
        }
    }

    /// Models what a leader does with the answer of memcached.
    fn handle_answer(&self, token: u8, found: Found, old: Values, add: &mut Add<'_>) {
        let mut inner = |what, next| add(self.process, what, false, next);
        let fetch = |right| {
            let mut next = *self.state;
            let value = next.new_value();
            next.processes[self.process].callers[self.caller] =
                Caller::Fetching { token, right, value, old };
            next
        };
        match found {
            Found::Item(value) => {
                let mut next = self.with(Caller::Idle);
                next.processes[self.process].store_local(token, value, self.bounds);
                let answered = self.answer(&mut next, old, value).map(|()| next);
                inner("answers with what memcached had", answered);
            }
            Found::Lease(cas) | Found::Claimed(cas) => {
                let of_item = matches!(found, Found::Claimed(_));
                let mut next = fetch(FillCondition::Lease { cas, of_item });
                let again = next.fetched & (1 << cas) != 0
                    && self.bounds.broken != BrokenRule::CasOutlivesServer;
                next.fetched |= 1 << cas;
                let next = if again { Err("two fetch under one lease") } else { Ok(next) };
                inner("fetches under a lease", next);
            }
            Found::Busy | Found::ClaimTaken(_) => {
                inner("pauses, and will read again", Ok(self.with(Caller::Leading { token, old })));
                if self.bounds.broken != BrokenRule::WaitForever {
                    let right = match found {
                        Found::ClaimTaken(cas) => FillCondition::Replace { cas },
                        _ => FillCondition::Nothing,
                    };
                    inner("gives up waiting, and fetches", Ok(fetch(right)));
                }
            }
        }
    }

    /// Models the end of a fetch, or its cancellation.
    fn fetched(
        &self,
        token: u8,
        right: FillCondition,
        value: Value,
        old: Values,
        add: &mut Add<'_>,
    ) {
        let after = match right {
            FillCondition::Lease { cas, of_item } => Caller::Filling { cas, of_item, value },
            FillCondition::Replace { cas } => Caller::Filling { cas, of_item: false, value },
            FillCondition::Nothing => Caller::Idle,
        };
        let mut next = self.with(after);
        next.processes[self.process].store_local(token, value, self.bounds);
        let answered = self.answer(&mut next, old, value).map(|()| next);
        add(self.process, "has fetched, stores locally and answers", false, answered);
        if self.state.mishaps == self.bounds.mishaps {
            return;
        }
        // A dropped leader hands the lead and the lease to a follower.
        let mut next = State { mishaps: self.state.mishaps + 1, ..self.with(Caller::Idle) };
        let own = self.caller as u8;
        match *self.other(&mut next) {
            Caller::Following { old } => {
                let right =
                    Some(right).filter(|right| matches!(right, FillCondition::Lease { .. }));
                *self.other(&mut next) = Caller::Successor { right, old };
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
                if let FillCondition::Lease { cas, of_item } = right {
                    process.callers[self.caller] = Caller::GivingBack { cas, of_item };
                }
            }
        }
        add(self.process, "is cancelled while it fetches", true, Ok(next));
    }

    /// Models a write under a CAS number. Returns true beside the state if memcached stored the value.
    fn fill(&self, cas: u8, value: Value) -> (Result<State, Violation>, bool) {
        let mut next = *self.state;
        let unchanged = match next.item {
            Item::Absent => false,
            Item::Placeholder { cas: held } | Item::Value { cas: held, .. } => held == cas,
        };
        if !unchanged && self.bounds.broken != BrokenRule::FillWithoutCas {
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
