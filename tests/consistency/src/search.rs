//! A breadth-first search through every order in which the steps of a model can happen. The search
//! finds a violation with the shortest trace, which is the list of steps that lead to the
//! violation.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;

/// A state machine that the search explores completely.
pub(crate) trait Model: Copy + Eq + Hash {
    /// The operations that the search tries, and how often each may happen.
    type Scenario;

    fn first() -> Self;

    /// Returns every possible next step, with the state that follows.
    fn steps(&self, scenario: &Self::Scenario) -> NextStates<Self>;

    /// Returns true if no operation is under way.
    fn is_quiet(&self) -> bool;
}

/// A step of the state machine: an actor does something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) actor: &'static str,
    pub(crate) action: &'static str,
    /// True for new calls and for failures. A caller that waits must get its answer even if no such
    /// step follows.
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

/// Visits every state that can be reached, until it finds a violation.
pub(crate) fn search<M: Model>(scenario: &M::Scenario) -> SearchResult {
    // The index of each state in `states`.
    let mut seen = HashMap::from([(M::first(), 0)]);
    let mut states = vec![M::first()];
    // For each state, the first step that reached the state, and the state before that step.
    let mut reached: Vec<Option<(usize, Step)>> = vec![None];
    // For each state, the states from which an internal step leads to it.
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    let mut from = 0;
    while from < states.len() {
        for (step, next) in states[from].steps(scenario) {
            let next = match next {
                Ok(next) => next,
                Err(violation) => {
                    let trace = trace(&reached, from, Some(step), violation);
                    return SearchResult { states: states.len(), violation: Some(trace) };
                }
            };
            let to = *seen.entry(next).or_insert_with(|| {
                states.push(next);
                reached.push(Some((from, step)));
                before.push(Vec::new());
                states.len() - 1
            });
            if !step.is_external {
                before[to].push(u32::try_from(from).expect("the search has fewer states"));
            }
        }
        from += 1;
    }
    let violation = first_stuck_state(&states, &before)
        .map(|stuck| trace(&reached, stuck, None, "a caller waits forever"));
    SearchResult { states: states.len(), violation }
}

/// Returns the first state from which no internal steps lead to a quiet state.
fn first_stuck_state<M: Model>(states: &[M], before: &[Vec<u32>]) -> Option<usize> {
    let mut can_end = vec![false; states.len()];
    let mut todo: Vec<usize> = (0..states.len()).filter(|&at| states[at].is_quiet()).collect();
    todo.iter().for_each(|&at| can_end[at] = true);
    while let Some(at) = todo.pop() {
        for &from in &before[at] {
            let from = from as usize;
            if !std::mem::replace(&mut can_end[from], true) {
                todo.push(from);
            }
        }
    }
    can_end.iter().position(|can_end| !can_end)
}

/// Describes the steps that lead to a state, one per line, and the violation after these steps.
fn trace(
    reached: &[Option<(usize, Step)>],
    mut at: usize,
    last: Option<Step>,
    violation: Violation,
) -> String {
    let mut steps: Vec<Step> = last.into_iter().collect();
    while let Some((from, step)) = reached[at] {
        steps.push(step);
        at = from;
    }
    let mut trace = String::new();
    for step in steps.iter().rev() {
        let _ = writeln!(trace, "  {step}");
    }
    trace + violation
}
