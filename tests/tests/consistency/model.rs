//! One key in two processes and a memcached, as a state machine small enough to look at whole.
//!
//! Each step is one that nothing can come in between: what a process does under one lock, or what
//! memcached does for one command. The functions of `cached-core` that a step stands for are named
//! beside it; a step that changes there has to change here.

/// What a fetch or an overwrite made, by number: 1 is the first.
pub(crate) type Value = u8;
/// What a reader would have in hand that took a placeholder for a value.
pub(crate) const PLACEHOLDER: Value = 0;

/// A set of values.
type Values = u16;

fn has(values: Values, value: Value) -> bool {
    values & (1 << value) != 0
}

/// What may happen, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    pub(crate) calls: u8,
    pub(crate) changes: u8,
    /// Kills, cancellations, answers that are lost.
    pub(crate) mishaps: u8,
    /// Ends of an item's or a local entry's lifetime. Leases end at any time.
    pub(crate) expiries: u8,
    /// Whether the function declares a reason; else what changes an entry is `invalidate` alone.
    pub(crate) overwritable: bool,
    /// Whether it declares `stale_if_error`.
    pub(crate) keeps_stale: bool,
    pub(crate) broken: Broken,
}

/// A rule that is broken, to see that the search finds out. The last two are not rules of the
/// library: they are what memcached does not promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    Nothing,
    /// A fill is stored whatever became of the lease.
    FillWithoutCas,
    /// A local publication does not look at its ticket.
    PublishWithoutTicket,
    /// The process forgets the entry before memcached is told, and not again after.
    ForgetOnce,
    /// Callers who come after an invalidation join the flight from before it.
    KeepFlight,
    /// A lease that is held is granted again.
    LeaseForTwo,
    PlaceholderIsValue,
    /// Who waits for a lease never gives up, and leases do not end.
    WaitForEver,
    /// A restarted server counts its CAS from the start again.
    CasRestarts,
    /// A write that timed out is carried out later all the same.
    LateWrites,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Item {
    Absent,
    Placeholder {
        cas: u8,
    },
    /// `stale`: expired, and kept for a fetch that fails; `won`: somebody may replace it.
    Value {
        value: Value,
        cas: u8,
        stale: bool,
        won: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Found {
    Item(Value),
    Lease(u8),
    Busy,
    /// A stale item and the right to replace it, or that somebody else has it.
    Won(u8),
    Passed(u8),
}

/// `call::Right`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Right {
    Lease { cas: u8, of_item: bool },
    Replace { cas: u8 },
    Nothing,
}

/// A call of the annotated function. `old` is what it must not be answered with: what was there
/// when a change returned that this process made before the call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Caller {
    Idle,
    Following {
        old: Values,
    },
    /// Promoted, and not polled yet; with the lease that its leader had won.
    Heir {
        right: Option<Right>,
        old: Values,
    },
    Leading {
        ticket: u8,
        old: Values,
    },
    /// memcached has answered, and the caller has not seen it yet.
    Reading {
        ticket: u8,
        found: Found,
        old: Values,
    },
    Fetching {
        ticket: u8,
        right: Right,
        value: Value,
        old: Values,
    },
    /// The caller is answered; what is left happens in the background.
    Filling {
        cas: u8,
        of_item: bool,
        value: Value,
    },
    GivingBack {
        cas: u8,
        of_item: bool,
    },
}

/// An `invalidate` or `overwrite` under way; `old` is what was there when it was called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Change {
    Idle,
    Invalidating { old: Values },
    Invalidated { old: Values },
    Overwriting { value: Value, ticket: u8, old: Values },
    Overwritten { value: Value, ticket: u8, old: Values },
    Publishing { value: Value, ticket: Option<u8>, old: Values },
}

impl Caller {
    fn ticket(&mut self) -> Option<&mut u8> {
        match self {
            Caller::Leading { ticket, .. }
            | Caller::Reading { ticket, .. }
            | Caller::Fetching { ticket, .. } => Some(ticket),
            _ => None,
        }
    }
}

impl Change {
    fn ticket(&mut self) -> Option<&mut u8> {
        match self {
            Change::Overwriting { ticket, .. }
            | Change::Overwritten { ticket, .. }
            | Change::Publishing { ticket: Some(ticket), .. } => Some(ticket),
            _ => None,
        }
    }

    fn value_mut(&mut self) -> Option<&mut Value> {
        match self {
            Change::Overwriting { value, .. }
            | Change::Overwritten { value, .. }
            | Change::Publishing { value, .. } => Some(value),
            _ => None,
        }
    }

    fn value(mut self) -> Option<Value> {
        self.value_mut().copied()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Process {
    pub(crate) local: Option<Value>,
    /// `Local::stripes`: counts invalidations.
    count: u8,
    /// Which caller leads the flight that newcomers join.
    flight: Option<u8>,
    pub(crate) callers: [Caller; 2],
    pub(crate) change: Change,
    /// What this process's own changes have done away with.
    old: Values,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) item: Item,
    cas: u8,
    next: Value,
    pub(crate) processes: [Process; 2],
    /// What changes that have returned, of any process, have done away with.
    old: Values,
    /// The leases that somebody fetches or has fetched under.
    fetched: u16,
    late: Option<Value>,
    calls: u8,
    changes: u8,
    mishaps: u8,
    expiries: u8,
}

/// One step: who, and what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    process: usize,
    what: &'static str,
    /// Something new, or a mishap: nobody may count on it to end a wait.
    pub(crate) from_outside: bool,
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.process {
            SERVER => write!(f, "memcached: {}", self.what),
            process => write!(f, "process {}: {}", ["a", "b"][process], self.what),
        }
    }
}

const SERVER: usize = 2;

/// What must not be.
pub(crate) type Violation = &'static str;

/// What a state leads to.
pub(crate) type Steps = Vec<(Event, Result<State, Violation>)>;

impl State {
    pub(crate) fn first() -> State {
        let process = Process {
            local: None,
            count: 0,
            flight: None,
            callers: [Caller::Idle; 2],
            change: Change::Idle,
            old: 0,
        };
        State {
            item: Item::Absent,
            cas: 1,
            next: 1,
            processes: [process; 2],
            old: 0,
            fetched: 0,
            late: None,
            calls: 0,
            changes: 0,
            mishaps: 0,
            expiries: 0,
        }
    }

    /// Nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.processes
            .iter()
            .all(|process| process.change == Change::Idle && process.callers == [Caller::Idle; 2])
    }

    /// What a change does away with: all that there is, and what fetches under way will make of it.
    /// Not what another change under way stores: either of the two may come last.
    fn old(&self) -> Values {
        let under_way = self.processes.iter().fold(0, |values, process| {
            values | process.change.value().map_or(0, |value| 1 << value)
        });
        ((1 << self.next) - 1) & !under_way
    }

    /// The same state with its numbers as small as they can be: what nobody holds any more makes
    /// no difference, nor which caller of a process is the first.
    fn canonical(mut self, scope: &Scope) -> State {
        for process in &mut self.processes {
            let count = std::mem::replace(&mut process.count, 1);
            let ticket = |ticket: &mut u8| *ticket = u8::from(*ticket == count);
            process.callers.iter_mut().filter_map(Caller::ticket).for_each(ticket);
            process.change.ticket().into_iter().for_each(ticket);
            if process.callers[0] > process.callers[1] {
                process.callers.swap(0, 1);
                process.flight = process.flight.map(|leader| 1 - leader);
            }
        }
        let mut values: Vec<Value> = Vec::new();
        self.each_value(|value| values.push(*value));
        values.sort_unstable();
        values.dedup();
        let number = |value: Value| 1 + values.iter().take_while(|other| **other < value).count();
        self.each_value(|value| *value = number(*value) as Value);
        self.next = values.len() as Value + 1;
        self.each_set(|set| {
            let kept = values.iter().filter(|value| has(*set, **value));
            *set = kept.fold(0, |set, value| set | 1 << number(*value));
        });
        // Where numbers come again, each keeps its own.
        if scope.broken != Broken::CasRestarts {
            let mut all: Vec<u8> = Vec::new();
            self.each_cas(|cas| all.push(*cas));
            all.sort_unstable();
            all.dedup();
            let number = |cas: u8| 1 + all.iter().take_while(|other| **other < cas).count();
            self.each_cas(|cas| *cas = number(*cas) as u8);
            self.cas = all.len() as u8 + 1;
            let kept = all.iter().filter(|cas| self.fetched & (1 << **cas) != 0);
            self.fetched = kept.fold(0, |set, cas| set | 1 << number(*cas));
        }
        self
    }

    fn each_value(&mut self, mut each: impl FnMut(&mut Value)) {
        if let Item::Value { value, .. } = &mut self.item {
            each(value);
        }
        self.late.iter_mut().for_each(&mut each);
        for process in &mut self.processes {
            process.local.iter_mut().for_each(&mut each);
            if let Some(value) = process.change.value_mut() {
                each(value);
            }
            for caller in &mut process.callers {
                if let Caller::Reading { found: Found::Item(value), .. }
                | Caller::Fetching { value, .. }
                | Caller::Filling { value, .. } = caller
                    && *value != PLACEHOLDER
                {
                    each(value);
                }
            }
        }
    }

    fn each_set(&mut self, mut each: impl FnMut(&mut Values)) {
        each(&mut self.old);
        for process in &mut self.processes {
            each(&mut process.old);
            if let Change::Invalidating { old }
            | Change::Invalidated { old }
            | Change::Overwriting { old, .. }
            | Change::Overwritten { old, .. }
            | Change::Publishing { old, .. } = &mut process.change
            {
                each(old);
            }
            for caller in &mut process.callers {
                if let Caller::Following { old }
                | Caller::Heir { old, .. }
                | Caller::Leading { old, .. }
                | Caller::Reading { old, .. }
                | Caller::Fetching { old, .. } = caller
                {
                    each(old);
                }
            }
        }
    }

    fn each_cas(&mut self, mut each: impl FnMut(&mut u8)) {
        if let Item::Placeholder { cas } | Item::Value { cas, .. } = &mut self.item {
            each(cas);
        }
        for caller in self.processes.iter_mut().flat_map(|process| &mut process.callers) {
            if let Caller::Heir { right: Some(Right::Lease { cas, .. }), .. }
            | Caller::Reading {
                found: Found::Lease(cas) | Found::Won(cas) | Found::Passed(cas),
                ..
            }
            | Caller::Fetching {
                right: Right::Lease { cas, .. } | Right::Replace { cas },
                ..
            }
            | Caller::Filling { cas, .. }
            | Caller::GivingBack { cas, .. } = caller
            {
                each(cas);
            }
        }
    }

    fn new_value(&mut self) -> Value {
        self.next += 1;
        self.next - 1
    }

    fn new_cas(&mut self) -> u8 {
        self.cas += 1;
        self.cas - 1
    }

    /// What holds in every state.
    fn check(&self) -> Result<(), Violation> {
        if let Item::Value { value, .. } = self.item
            && has(self.old, value)
        {
            return Err("memcached has a value from before a change that has returned");
        }
        for process in &self.processes {
            if process.local.is_some_and(|value| has(process.old, value)) {
                return Err("a process has a value from before a change of its own that returned");
            }
        }
        Ok(())
    }
}

/// Every step that may come next.
pub(crate) fn steps(state: &State, scope: &Scope) -> Steps {
    let mut steps = Steps::new();
    let mut add = |process, what, from_outside, next: Result<State, Violation>| {
        let next = next.and_then(|next| next.check().map(|()| next.canonical(scope)));
        steps.push((Event { process, what, from_outside }, next));
    };
    for process in 0..2 {
        for caller in 0..2 {
            Call { state, scope, process, caller }.steps(&mut add);
        }
        change_steps(state, scope, process, &mut add);
        if state.mishaps < scope.mishaps {
            let mut next = *state;
            next.mishaps += 1;
            next.processes[process] = State::first().processes[process];
            if next.processes[process] != state.processes[process] {
                add(process, "is killed, and another starts", true, Ok(next));
            }
        }
        if state.expiries < scope.expiries && state.processes[process].local.is_some() {
            let mut next = *state;
            next.expiries += 1;
            next.processes[process].local = None;
            add(process, "the local entry expires", false, Ok(next));
        }
    }
    server_steps(state, scope, &mut add);
    steps
}

type Add<'a> = dyn FnMut(usize, &'static str, bool, Result<State, Violation>) + 'a;

fn server_steps(state: &State, scope: &Scope, add: &mut Add<'_>) {
    let with = |item| Ok(State { item, ..*state });
    match state.item {
        Item::Absent => {}
        Item::Placeholder { .. } if scope.broken == Broken::WaitForEver => {}
        Item::Placeholder { .. } => add(SERVER, "the lease ends", false, with(Item::Absent)),
        Item::Value { value, cas, stale, .. } if state.expiries < scope.expiries => {
            let item = match scope.keeps_stale && !stale {
                true => Item::Value { value, cas, stale: true, won: false },
                false => Item::Absent,
            };
            let next = State { item, expiries: state.expiries + 1, ..*state };
            add(SERVER, "the item expires", false, Ok(next));
        }
        Item::Value { .. } => {}
    }
    if state.mishaps < scope.mishaps && state.item != Item::Absent {
        let mut next = State { item: Item::Absent, mishaps: state.mishaps + 1, ..*state };
        if scope.broken == Broken::CasRestarts {
            next.cas = 1;
        }
        add(SERVER, "is lost, and comes back empty", true, Ok(next));
    }
    if let Some(value) = state.late {
        let mut next = State { late: None, ..*state };
        let cas = next.new_cas();
        next.item = Item::Value { value, cas, stale: false, won: false };
        add(SERVER, "carries out the write that had timed out", true, Ok(next));
    }
}

/// `Server::read` with lease terms.
fn read_or_lease(state: &mut State, scope: &Scope) -> Found {
    match state.item {
        Item::Absent => {
            let cas = state.new_cas();
            state.item = Item::Placeholder { cas };
            Found::Lease(cas)
        }
        Item::Placeholder { cas } if scope.broken == Broken::LeaseForTwo => Found::Lease(cas),
        Item::Placeholder { .. } if scope.broken == Broken::PlaceholderIsValue => {
            Found::Item(PLACEHOLDER)
        }
        Item::Placeholder { .. } => Found::Busy,
        Item::Value { value, stale: false, .. } => Found::Item(value),
        Item::Value { cas, won: true, .. } => Found::Passed(cas),
        Item::Value { value, cas, won: false, .. } => {
            state.item = Item::Value { value, cas, stale: true, won: true };
            Found::Won(cas)
        }
    }
}

impl Process {
    /// `Local::publish` with `Write::Once`.
    fn publish(&mut self, ticket: u8, value: Value, scope: &Scope) {
        let in_time = ticket == self.count || scope.broken == Broken::PublishWithoutTicket;
        if in_time && self.local.is_none() {
            self.local = Some(value);
        }
    }

    /// `Cache::forget`.
    fn forget(&mut self, before: Option<u8>, scope: &Scope) -> Option<u8> {
        if scope.broken != Broken::KeepFlight {
            self.flight = None;
        }
        let in_time = before.is_none_or(|before| before == self.count);
        self.count += 1;
        self.local = None;
        in_time.then_some(self.count)
    }
}

/// One caller of one process, about to take a step.
struct Call<'s> {
    state: &'s State,
    scope: &'s Scope,
    process: usize,
    caller: usize,
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

    fn steps(&self, add: &mut Add<'_>) {
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
                let again =
                    next.fetched & (1 << cas) != 0 && self.scope.broken != Broken::CasRestarts;
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

/// `CacheEntry::invalidate` and `replace`.
fn change_steps(state: &State, scope: &Scope, process: usize, add: &mut Add<'_>) {
    let own = &state.processes[process];
    let with = |change| {
        let mut next = *state;
        next.processes[process].change = change;
        next
    };
    let returned = |mut next: State, old: Values| {
        next.processes[process].old |= old;
        next.processes[process].change = Change::Idle;
        next.old |= old;
        next
    };
    match own.change {
        Change::Idle if state.changes < scope.changes => {
            let old = state.old();
            let mut next = with(Change::Invalidating { old });
            next.changes += 1;
            next.processes[process].forget(None, scope);
            add(process, "invalidates: clears itself", true, Ok(next));
            if scope.overwritable {
                let mut next = *state;
                next.changes += 1;
                let value = next.new_value();
                if let Some(ticket) = next.processes[process].forget(None, scope) {
                    let change = Change::Overwriting { value, ticket, old };
                    next.processes[process].change = change;
                }
                add(process, "overwrites: clears itself", true, Ok(next));
            }
        }
        Change::Invalidating { old } => {
            let mut next = with(Change::Invalidated { old });
            next.item = Item::Absent;
            add(process, "invalidates: memcached deletes", false, Ok(next));
            if state.mishaps < scope.mishaps {
                // `ForgetOnDrop`; nothing is promised.
                let mut next = with(Change::Idle);
                next.mishaps += 1;
                next.processes[process].forget(None, scope);
                add(process, "invalidates: is dropped or fails", true, Ok(next));
            }
        }
        Change::Invalidated { old } => {
            let mut next = *state;
            if scope.broken != Broken::ForgetOnce {
                next.processes[process].forget(None, scope);
            }
            add(
                process,
                "invalidates: clears itself again, returns",
                false,
                Ok(returned(next, old)),
            );
        }
        Change::Overwriting { value, ticket, old } => {
            let mut next = with(Change::Overwritten { value, ticket, old });
            let cas = next.new_cas();
            next.item = Item::Value { value, cas, stale: false, won: false };
            add(process, "overwrites: memcached stores", false, Ok(next));
            if scope.broken == Broken::LateWrites && state.late.is_none() {
                let mut next = with(Change::Idle);
                next.late = Some(value);
                next.processes[process].forget(None, scope);
                add(process, "overwrites: gives up waiting", true, Ok(next));
            }
        }
        Change::Overwritten { value, ticket, old } => {
            let mut next = *state;
            let ticket = next.processes[process].forget(Some(ticket), scope);
            next.processes[process].change = Change::Publishing { value, ticket, old };
            add(process, "overwrites: clears itself again", false, Ok(next));
        }
        Change::Publishing { value, ticket, old } => {
            let mut next = *state;
            let own = &mut next.processes[process];
            // `Local::publish` with `Write::Replace`.
            if ticket == Some(own.count) {
                own.local = Some(value);
            }
            add(process, "overwrites: publishes, returns", false, Ok(returned(next, old)));
        }
        Change::Idle => {}
    }
}
