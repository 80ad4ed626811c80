//! Breadth first through every order of steps, so that the first trace found is a shortest one.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;

/// A state machine to be looked at whole.
pub(crate) trait Model: Copy + Eq + Hash {
    type Scope;

    fn first() -> Self;

    /// Every step that may come next.
    fn steps(&self, scope: &Self::Scope) -> Steps<Self>;

    /// Nothing is under way.
    fn is_quiet(&self) -> bool;
}

/// One step: who, and what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) who: &'static str,
    pub(crate) what: &'static str,
    /// Something new, or a mishap: nobody may count on it to end a wait.
    pub(crate) from_outside: bool,
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.who, self.what)
    }
}

/// What must not be.
pub(crate) type Violation = &'static str;

/// What a state leads to.
pub(crate) type Steps<M> = Vec<(Event, Result<M, Violation>)>;

pub(crate) struct Search {
    pub(crate) states: usize,
    /// What must not be, and how it came about.
    pub(crate) violation: Option<String>,
}

pub(crate) fn search<M: Model>(scope: &M::Scope) -> Search {
    let mut seen = HashMap::from([(M::first(), 0)]);
    let mut states = vec![M::first()];
    // How each state was first reached, and which states lead to it by themselves.
    let mut reached: Vec<Option<(usize, Event)>> = vec![None];
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    let mut from = 0;
    while from < states.len() {
        for (event, next) in states[from].steps(scope) {
            let next = match next {
                Ok(next) => next,
                Err(violation) => {
                    let trace = trace(&reached, from, Some(event), violation);
                    return Search { states: states.len(), violation: Some(trace) };
                }
            };
            let to = *seen.entry(next).or_insert_with(|| {
                states.push(next);
                reached.push(Some((from, event)));
                before.push(Vec::new());
                states.len() - 1
            });
            if !event.from_outside {
                before[to].push(u32::try_from(from).expect("fewer states"));
            }
        }
        from += 1;
    }
    let violation = stuck(&states, &before)
        .map(|stuck| trace(&reached, stuck, None, "somebody waits for ever"));
    Search { states: states.len(), violation }
}

/// The first state from which what is under way does not come to its end by itself.
fn stuck<M: Model>(states: &[M], before: &[Vec<u32>]) -> Option<usize> {
    let mut ends = vec![false; states.len()];
    let mut todo: Vec<usize> = (0..states.len()).filter(|&at| states[at].is_quiet()).collect();
    todo.iter().for_each(|&at| ends[at] = true);
    while let Some(at) = todo.pop() {
        for &from in &before[at] {
            let from = from as usize;
            if !std::mem::replace(&mut ends[from], true) {
                todo.push(from);
            }
        }
    }
    ends.iter().position(|ends| !ends)
}

fn trace(
    reached: &[Option<(usize, Event)>],
    mut at: usize,
    last: Option<Event>,
    violation: Violation,
) -> String {
    let mut events: Vec<Event> = last.into_iter().collect();
    while let Some((from, event)) = reached[at] {
        events.push(event);
        at = from;
    }
    let mut trace = String::new();
    for event in events.iter().rev() {
        let _ = writeln!(trace, "  {event}");
    }
    trace + violation
}
