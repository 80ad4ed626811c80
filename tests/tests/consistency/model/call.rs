//! A call of the annotated function, step by step.

use super::*;

/// One caller of one process, about to take a step.
pub(super) struct Call<'s> {
    pub(super) state: &'s State,
    pub(super) scope: &'s Scope,
    pub(super) process: usize,
    pub(super) caller: usize,
}

impl Call<'_> {
    fn with(&self, caller: Caller) -> State {
        let mut next = *self.state;
        next.processes[self.process].callers[self.caller] = caller;
        next
    }

    /// Who follows this caller: with two callers it is the other one.
    fn other<'n>(&self, next: &'n mut State) -> &'n mut Caller {
        &mut next.processes[self.process].callers[1 - self.caller]
    }

    /// `Leader::answer`: the flight lands, and its follower has its answer.
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
            true => Err("a caller is answered with what its process had done away with before"),
            false => Ok(()),
        }
    }

    pub(super) fn steps(&self, add: &mut Add<'_>) {
        let (state, scope) = (self.state, self.scope);
        let own = &state.processes[self.process];
        let mut inner = |what, next| add(self.process, what, false, next);
        match own.callers[self.caller] {
            // `private::look`, then `Missed::step`: joins the flight of the key, or starts it.
            Caller::Idle if state.calls < scope.calls => {
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
                        let ticket = own.count;
                        let mut next = begin(Caller::Leading { ticket, old });
                        next.processes[self.process].flight = Some(self.caller as u8);
                        ("calls, and leads", next)
                    }
                };
                add(self.process, what, true, Ok(next));
            }
            // `Missed::lead`: a ticket of its own, and the lease that its leader had won.
            Caller::Heir { right, old } => {
                let ticket = own.count;
                let mut next = self.with(Caller::Leading { ticket, old });
                if let Some(right) = right {
                    let value = next.new_value();
                    let fetching = Caller::Fetching { ticket, right, value, old };
                    next.processes[self.process].callers[self.caller] = fetching;
                }
                inner("takes the lead over", Ok(next));
            }
            Caller::Leading { ticket, old } => self.ask(ticket, old, add),
            Caller::Reading { ticket, found, old } => self.take(ticket, found, old, add),
            Caller::Fetching { ticket, right, value, old } => {
                self.fetched(ticket, right, value, old, add);
            }
            // `Missed::fill_remote`. `Local::extend`, after it, prolongs what is there and has a
            // ticket, and stores nothing.
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
                if state.mishaps < scope.mishaps {
                    // Carried out, and the answer is lost: the lease is given back.
                    let lost = next.map(|mut next| {
                        next.mishaps += 1;
                        let giving = Caller::GivingBack { cas, of_item };
                        next.processes[self.process].callers[self.caller] = giving;
                        next
                    });
                    add(self.process, "fills memcached, and does not learn of it", true, lost);
                }
            }
            // `Lease`'s drop: a delete, or a mark, for the case that nothing has happened since.
            Caller::GivingBack { cas, of_item } => {
                let mut next = self.with(Caller::Idle);
                next.item = match (of_item, next.item) {
                    (false, Item::Placeholder { cas: held }) if held == cas => Item::Absent,
                    (true, Item::Value { value, cas: held, .. }) if held == cas => {
                        let cas = next.new_cas();
                        Item::Value { value, cas, stale: true, won: false }
                    }
                    (_, item) => item,
                };
                inner("gives the lease back", Ok(next));
            }
            Caller::Idle | Caller::Following { .. } => {}
        }
    }

    /// `Missed::lead` and `acquire`: looks once more, and asks memcached.
    fn ask(&self, ticket: u8, old: Values, add: &mut Add<'_>) {
        let (state, scope) = (self.state, self.scope);
        if let Some(value) = state.processes[self.process].local {
            let mut next = self.with(Caller::Idle);
            let answered = self.answer(&mut next, old, value).map(|()| next);
            add(self.process, "finds locally what another fetched", false, answered);
            return;
        }
        let mut next = *state;
        let found = read_or_lease(&mut next, scope);
        next.processes[self.process].callers[self.caller] = Caller::Reading { ticket, found, old };
        add(self.process, "reads memcached", false, Ok(next));
        if state.mishaps < scope.mishaps {
            let value = next.new_value();
            next.mishaps += 1;
            next.processes[self.process].callers[self.caller] =
                Caller::Fetching { ticket, right: Right::Nothing, value, old };
            add(self.process, "asks memcached, does not learn the answer, fetches", true, Ok(next));
        }
    }

    /// `Missed::acquire` and `take`: what comes of what memcached answered.
    fn take(&self, ticket: u8, found: Found, old: Values, add: &mut Add<'_>) {
        let mut inner = |what, next| add(self.process, what, false, next);
        let fetch = |right| {
            let mut next = *self.state;
            let value = next.new_value();
            next.processes[self.process].callers[self.caller] =
                Caller::Fetching { ticket, right, value, old };
            next
        };
        match found {
            Found::Item(value) => {
                let mut next = self.with(Caller::Idle);
                next.processes[self.process].publish(ticket, value, self.scope);
                let answered = self.answer(&mut next, old, value).map(|()| next);
                inner("answers with what memcached had", answered);
            }
            Found::Lease(cas) | Found::Won(cas) => {
                let of_item = matches!(found, Found::Won(_));
                let mut next = fetch(Right::Lease { cas, of_item });
                let again = next.fetched & (1 << cas) != 0
                    && self.scope.broken != Broken::CasOutlivesServer;
                next.fetched |= 1 << cas;
                let next = if again { Err("two fetch under one lease") } else { Ok(next) };
                inner("fetches under a lease", next);
            }
            Found::Busy | Found::Passed(_) => {
                inner("pauses, to look again", Ok(self.with(Caller::Leading { ticket, old })));
                if self.scope.broken != Broken::WaitForEver {
                    let right = match found {
                        Found::Passed(cas) => Right::Replace { cas },
                        _ => Right::Nothing,
                    };
                    inner("gives up waiting, and fetches", Ok(fetch(right)));
                }
            }
        }
    }

    /// `Missed::take_step` and `fill`: the fetch has ended, or was cancelled.
    fn fetched(&self, ticket: u8, right: Right, value: Value, old: Values, add: &mut Add<'_>) {
        let after = match right {
            Right::Lease { cas, of_item } => Caller::Filling { cas, of_item, value },
            Right::Replace { cas } => Caller::Filling { cas, of_item: false, value },
            Right::Nothing => Caller::Idle,
        };
        let mut next = self.with(after);
        next.processes[self.process].publish(ticket, value, self.scope);
        let answered = self.answer(&mut next, old, value).map(|()| next);
        add(self.process, "has fetched, publishes and answers", false, answered);
        if self.state.mishaps == self.scope.mishaps {
            return;
        }
        // `Leader`'s drop, `Flight::abandon`: the lead and the lease go to a follower.
        let mut next = State { mishaps: self.state.mishaps + 1, ..self.with(Caller::Idle) };
        let own = self.caller as u8;
        match *self.other(&mut next) {
            Caller::Following { old } => {
                let right = Some(right).filter(|right| matches!(right, Right::Lease { .. }));
                *self.other(&mut next) = Caller::Heir { right, old };
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
                if let Right::Lease { cas, of_item } = right {
                    process.callers[self.caller] = Caller::GivingBack { cas, of_item };
                }
            }
        }
        add(self.process, "is cancelled while it fetches", true, Ok(next));
    }

    /// `Server::write` with `Condition::Unchanged`; and whether it was stored.
    fn fill(&self, cas: u8, value: Value) -> (Result<State, Violation>, bool) {
        let mut next = *self.state;
        let unchanged = match next.item {
            Item::Absent => false,
            Item::Placeholder { cas: held } | Item::Value { cas: held, .. } => held == cas,
        };
        if !unchanged && self.scope.broken != Broken::FillWithoutCas {
            return (Ok(next), false);
        }
        if let Item::Value { value: stored, stale: false, .. } = next.item
            && stored != value
        {
            return (Err("a fill replaces an entry that is alive"), true);
        }
        let cas = next.new_cas();
        next.item = Item::Value { value, cas, stale: false, won: false };
        (Ok(next), true)
    }
}
