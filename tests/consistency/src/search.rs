//! A breadth-first search through every order of steps. No violation has a shorter trace than the
//! first one found.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;

/// A state machine that the search explores completely.
pub(crate) trait Model: Copy + Eq + Hash {
    type Bounds;

    fn first() -> Self;

    /// Returns every possible next step, with the state that follows.
    fn steps(&self, bounds: &Self::Bounds) -> NextStates<Self>;

    /// Returns true if no operation is under way.
    fn is_quiet(&self) -> bool;
}

/// A step of the state machine: an actor does something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) actor: &'static str,
    pub(crate) action: &'static str,
    /// True for new calls and for failures. No wait may depend on such a step.
    pub(crate) is_external: bool,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.actor, self.action)
    }
}

/// The description of a violated promise.
pub(crate) type Violation = &'static str;

/// The steps from a state, each with the next state or a violation.
pub(crate) type NextStates<M> = Vec<(Step, Result<M, Violation>)>;

pub(crate) struct SearchResult {
    pub(crate) states: usize,
    /// The trace of a violation, if there is one.
    pub(crate) violation: Option<String>,
}

pub(crate) fn search<M: Model>(bounds: &M::Bounds) -> SearchResult {
    let mut seen = HashMap::from([(M::first(), 0)]);
    let mut states = vec![M::first()];
    // For each state, the first step that reached the state, and the state before that step.
    let mut reached: Vec<Option<(usize, Step)>> = vec![None];
    // For each state, the states before it from which an internal step leads to it.
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    let mut from = 0;
    while from < states.len() {
        for (event, next) in states[from].steps(bounds) {
            let next = match next {
                Ok(next) => next,
                Err(violation) => {
                    let trace = trace(&reached, from, Some(event), violation);
                    return SearchResult { states: states.len(), violation: Some(trace) };
                }
            };
            let to = *seen.entry(next).or_insert_with(|| {
                states.push(next);
                reached.push(Some((from, event)));
                before.push(Vec::new());
                states.len() - 1
            });
            if !event.is_external {
                before[to].push(u32::try_from(from).expect("the search has fewer states"));
            }
        }
        from += 1;
    }
    let violation =
        stuck(&states, &before).map(|stuck| trace(&reached, stuck, None, "a caller waits forever"));
    SearchResult { states: states.len(), violation }
}

/// Returns the first state from which no internal steps lead to a quiet state.
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
    reached: &[Option<(usize, Step)>],
    mut at: usize,
    last: Option<Step>,
    violation: Violation,
) -> String {
    let mut events: Vec<Step> = last.into_iter().collect();
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
