//! Renumbers the values, the fill tokens and the CAS numbers in a state of the model. States that
//! differ only in their numbers become equal. Otherwise the search would find new states without
//! end.

use super::*;

impl CallerState {
    fn token(&mut self) -> Option<&mut u8> {
        match self {
            CallerState::Leading { token, .. }
            | CallerState::Reading { token, .. }
            | CallerState::Fetching { token, .. } => Some(token),
            _ => None,
        }
    }
}

impl ChangeState {
    fn token(&mut self) -> Option<&mut u8> {
        match self {
            ChangeState::Overwriting { token, .. }
            | ChangeState::Overwritten { token, .. }
            | ChangeState::StoringLocally { token: Some(token), .. } => Some(token),
            _ => None,
        }
    }

    fn value_mut(&mut self) -> Option<&mut Value> {
        match self {
            ChangeState::Overwriting { value, .. }
            | ChangeState::Overwritten { value, .. }
            | ChangeState::StoringLocally { value, .. } => Some(value),
            _ => None,
        }
    }

    pub(super) fn value(mut self) -> Option<Value> {
        self.value_mut().copied()
    }
}

impl SystemState {
    /// Returns an equivalent state with the smallest numbers. Numbers that nothing refers to are
    /// dropped, and the two callers of a process are sorted.
    pub(super) fn canonical(mut self, scenario: &Scenario) -> SystemState {
        for process in &mut self.processes {
            let epoch = std::mem::replace(&mut process.epoch, 1);
            let token = |token: &mut u8| *token = u8::from(*token == epoch);
            process.callers.iter_mut().filter_map(CallerState::token).for_each(token);
            process.change.token().into_iter().for_each(token);
            if process.callers[0] > process.callers[1] {
                process.callers.swap(0, 1);
                process.flight = process.flight.map(|leader| 1 - leader);
            }
        }
        let mut values: Vec<Value> = Vec::new();
        self.each_value(|value| values.push(*value));
        values.sort_unstable();
        values.dedup();
        let new_value =
            |value: Value| 1 + values.iter().take_while(|other| **other < value).count();
        self.each_value(|value| *value = new_value(*value) as Value);
        self.next = values.len() as Value + 1;
        self.each_set(|set| {
            let kept = values.iter().filter(|value| has(*set, **value));
            *set = kept.fold(0, |set, value| set | 1 << new_value(*value));
        });
        // With the fault `CasOutlivesServer`, the server uses CAS numbers again. Then they must
        // keep their numbers.
        if scenario.fault != InjectedFault::CasOutlivesServer {
            let mut all: Vec<u8> = Vec::new();
            self.each_cas(|cas| all.push(*cas));
            all.sort_unstable();
            all.dedup();
            let new_cas = |cas: u8| 1 + all.iter().take_while(|other| **other < cas).count();
            self.each_cas(|cas| *cas = new_cas(*cas) as u8);
            self.cas = all.len() as u8 + 1;
            let kept = all.iter().filter(|cas| self.fetched & (1 << **cas) != 0);
            self.fetched = kept.fold(0, |set, cas| set | 1 << new_cas(*cas));
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
                if let CallerState::Reading { found: ReadAnswer::Item(value), .. }
                | CallerState::Fetching { value, .. }
                | CallerState::Filling { value, .. } = caller
                    && *value != PLACEHOLDER
                {
                    each(value);
                }
            }
        }
    }

    fn each_set(&mut self, mut each: impl FnMut(&mut ValueSet)) {
        each(&mut self.replaced);
        for process in &mut self.processes {
            each(&mut process.replaced);
            if let ChangeState::Invalidating { replaced }
            | ChangeState::Invalidated { replaced }
            | ChangeState::Overwriting { replaced, .. }
            | ChangeState::Overwritten { replaced, .. }
            | ChangeState::StoringLocally { replaced, .. } = &mut process.change
            {
                each(replaced);
            }
            for caller in &mut process.callers {
                if let CallerState::Following { replaced }
                | CallerState::Successor { replaced, .. }
                | CallerState::Leading { replaced, .. }
                | CallerState::Reading { replaced, .. }
                | CallerState::Fetching { replaced, .. } = caller
                {
                    each(replaced);
                }
            }
        }
    }

    fn each_cas(&mut self, mut each: impl FnMut(&mut u8)) {
        if let Item::Placeholder { cas } | Item::Value { cas, .. } = &mut self.item {
            each(cas);
        }
        for caller in self.processes.iter_mut().flat_map(|process| &mut process.callers) {
            if let CallerState::Successor {
                condition: Some(FillCondition::Lease { cas, .. }),
                ..
            }
            | CallerState::Reading {
                found:
                    ReadAnswer::Lease(cas) | ReadAnswer::Claimed(cas) | ReadAnswer::ClaimTaken(cas),
                ..
            }
            | CallerState::Fetching {
                condition: FillCondition::Lease { cas, .. } | FillCondition::Replace { cas },
                ..
            }
            | CallerState::Filling { cas, .. }
            | CallerState::GivingBack { cas, .. } = caller
            {
                each(cas);
            }
        }
    }
}
