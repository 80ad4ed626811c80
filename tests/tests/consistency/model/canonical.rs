//! States that differ only in numbers that make no difference are one state: otherwise there would
//! be no end of them.

use super::*;

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

    pub(super) fn value(mut self) -> Option<Value> {
        self.value_mut().copied()
    }
}

impl State {
    /// The same state with its numbers as small as they can be: what nobody holds any more makes
    /// no difference, nor which caller of a process is the first.
    pub(super) fn canonical(mut self, scope: &Scope) -> State {
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
        if scope.broken != Broken::CasOutlivesServer {
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
}
