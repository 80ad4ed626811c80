//! Maps states that differ only in irrelevant numbers to one state.

use super::*;

impl State {
    pub(super) fn canonical(mut self) -> State {
        let mut values: Vec<Value> = Vec::new();
        self.each_value(|value| values.push(*value));
        values.sort_unstable();
        values.dedup();
        let number =
            |value: Value| 1 + values.iter().take_while(|other| **other < value).count() as Value;
        self.each_value(|value| *value = number(*value));
        self.next = values.len() as Value + 1;
        self.each_set(|set| {
            let kept = values.iter().filter(|value| has(*set, **value));
            *set = kept.fold(0, |set, value| set | 1 << number(*value));
        });
        for at in [HOME, GUTTER] {
            let mut all: Vec<u8> = Vec::new();
            self.each_cas(at, |cas| all.push(*cas));
            all.sort_unstable();
            all.dedup();
            let number = |cas: u8| 1 + all.iter().take_while(|other| **other < cas).count() as u8;
            self.each_cas(at, |cas| *cas = number(*cas));
            self.servers[at].cas = all.len() as u8 + 1;
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
            if let Caller::Fetching { value, .. } | Caller::Filling { value, .. } =
                &mut process.caller
            {
                each(value);
            }
            if let Change::Writing { value, .. } = &mut process.change {
                each(value);
            }
        }
    }

    fn each_set(&mut self, mut each: impl FnMut(&mut Values)) {
        self.replaced.iter_mut().for_each(&mut each);
        for process in &mut self.processes {
            each(&mut process.replaced);
            if let Caller::Reading { replaced, .. } = &mut process.caller {
                each(replaced);
            }
            if let Change::Writing { replaced, .. }
            | Change::Written { replaced, .. }
            | Change::InvalidatingHome { replaced, .. }
            | Change::InvalidatingGutter { replaced, .. } = &mut process.change
            {
                each(replaced);
            }
        }
    }

    fn each_cas(&mut self, at: usize, mut each: impl FnMut(&mut u8)) {
        if let Item::Placeholder { cas } | Item::Value { cas, .. } = &mut self.servers[at].item {
            each(cas);
        }
        for process in &mut self.processes {
            if let Caller::Fetching { lease: Some((of, cas)), .. }
            | Caller::Filling { at: of, cas, .. }
            | Caller::GivingBack { at: of, cas } = &mut process.caller
                && *of == at
            {
                each(cas);
            }
        }
    }
}
