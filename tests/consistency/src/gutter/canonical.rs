//! Renumbers the values and the CAS numbers (memcached's version numbers) in a state of the model.
//!
//! Two states that differ only in the numbering become equal. Every write takes a new number, so
//! the search through the model's states would never end without the renumbering.

use super::*;

impl SystemState {
    pub(super) fn canonical(mut self) -> SystemState {
        let mut values: Vec<Value> = Vec::new();
        self.each_value(|value| values.push(*value));
        values.sort_unstable();
        values.dedup();
        let new_value =
            |value: Value| 1 + values.iter().take_while(|other| **other < value).count() as Value;
        self.each_value(|value| *value = new_value(*value));
        self.next = values.len() as Value + 1;
        self.each_set(|set| {
            let kept = values.iter().filter(|value| has(*set, **value));
            *set = kept.fold(0, |set, value| set | 1 << new_value(*value));
        });
        for server in [HOME, GUTTER] {
            let mut all: Vec<u8> = Vec::new();
            self.each_cas(server, |cas| all.push(*cas));
            all.sort_unstable();
            all.dedup();
            let new_cas = |cas: u8| 1 + all.iter().take_while(|other| **other < cas).count() as u8;
            self.each_cas(server, |cas| *cas = new_cas(*cas));
            self.servers[server].cas = all.len() as u8 + 1;
        }
        self
    }

    fn each_value(&mut self, mut each: impl FnMut(&mut Value)) {
        for server in &mut self.servers {
            if let Item::Value { value, .. } = &mut server.item {
                each(value);
            }
        }
        for process in &mut self.processes {
            if let CallerState::Fetching { value, .. } | CallerState::Filling { value, .. } =
                &mut process.caller
            {
                each(value);
            }
            if let ChangeState::Writing { value, .. } = &mut process.change {
                each(value);
            }
        }
    }

    fn each_set(&mut self, mut each: impl FnMut(&mut ValueSet)) {
        self.replaced.iter_mut().for_each(&mut each);
        for process in &mut self.processes {
            each(&mut process.replaced);
            if let CallerState::Reading { replaced, .. } = &mut process.caller {
                each(replaced);
            }
            if let ChangeState::Writing { replaced, .. }
            | ChangeState::Written { replaced, .. }
            | ChangeState::InvalidatingHome { replaced, .. }
            | ChangeState::InvalidatingGutter { replaced, .. } = &mut process.change
            {
                each(replaced);
            }
        }
    }

    fn each_cas(&mut self, server: usize, mut each: impl FnMut(&mut u8)) {
        if let Item::Placeholder { cas } | Item::Value { cas, .. } = &mut self.servers[server].item
        {
            each(cas);
        }
        for process in &mut self.processes {
            if let CallerState::Fetching { lease: Some((at, cas)), .. }
            | CallerState::Filling { at, cas, .. }
            | CallerState::GivingBack { at, cas } = &mut process.caller
                && *at == server
            {
                each(cas);
            }
        }
    }
}
