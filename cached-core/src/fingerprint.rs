//! The fingerprint of a value's type: a hash of the names and kinds that its `Deserialize` asks
//! for, in their order, with every variant of every enum.
//!
//! Two builds whose types differ have different fingerprints, and so different keys in memcached:
//! neither takes the other's entry for garbage or in its place. It is no more than that: what makes
//! a value safe to read is its shape. So a type that cannot be seen through ends the trace where it
//! is, with what was seen until then, the same in every build and on every machine.
//!
//! A type is asked to deserialize itself again and again, each time through another variant, and,
//! where it refuses a text that was made up for it, with another text. A type inside of itself is
//! closed as soon as it can be: with no element, no `Some`, and a variant that ends.

mod forms;

use std::any::{TypeId, type_name};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, PoisonError, RwLock};

use serde::de::{self, DeserializeOwned};
use sha2::{Digest as _, Sha256};

use forms::Tracer;

/// A fingerprint, as it goes into a digest.
pub(crate) type Fingerprint = [u8; 8];

/// Of a type whose `Deserialize` panics.
const NONE: Fingerprint = [0; 8];

type Known = HashMap<TypeId, Fingerprint, BuildHasherDefault<AsItIs>>;

/// The hasher of what is a hash already, as a `TypeId` is.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 ^= hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The fingerprint of `V`, found out once in a process.
pub(crate) fn of<V: DeserializeOwned + 'static>() -> Fingerprint {
    static KNOWN: LazyLock<RwLock<Known>> = LazyLock::new(RwLock::default);
    // Nothing in here panics while it holds the lock.
    let known =
        KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(&TypeId::of::<V>()).copied();
    known.unwrap_or_else(|| {
        let fingerprint = catch_unwind(AssertUnwindSafe(trace::<V>)).unwrap_or(NONE);
        let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
        *known.entry(TypeId::of::<V>()).or_insert(fingerprint)
    })
}

/// What a trace may come to; a type that goes on is cut off there.
const LONGEST: usize = 64 << 10;
const PASSES: usize = 1024;
const DEEPEST: usize = 64;

fn trace<V: DeserializeOwned>() -> Fingerprint {
    let mut trace = Trace::default();
    for _ in 0..PASSES {
        trace.word(b'/');
        (trace.again, trace.incomplete, trace.retries) = (false, false, false);
        let ended = V::deserialize(Tracer(&mut trace)).err();
        trace.settle(ended);
        if !trace.again && !trace.retries || trace.bytes.len() > LONGEST {
            break;
        }
    }
    let mut fingerprint = NONE;
    fingerprint.copy_from_slice(&Sha256::digest(&trace.bytes)[..NONE.len()]);
    fingerprint
}

/// What is known of the types so far. A visitor's type stands for the type that it makes; how the
/// compiler writes it is in no fingerprint.
#[derive(Default)]
struct Trace {
    bytes: Vec<u8>,
    /// The types that are being deserialized, outermost first.
    open: Vec<&'static str>,
    /// How many of them are inside of themselves.
    closing: usize,
    closing_enums: Vec<&'static str>,
    enums: BTreeMap<&'static str, Variants>,
    /// Which of the made-up texts and bytes a type gets.
    choices: BTreeMap<&'static str, usize>,
    /// Who got the last one, and how many there are.
    last: Option<(&'static str, usize)>,
    /// Whether the last enum that was left has variants yet to be seen.
    incomplete: bool,
    /// Whether this pass has seen a variant whole, while others are left.
    again: bool,
    /// Whether the next pass takes another choice.
    retries: bool,
}

struct Variants {
    seen: Vec<bool>,
    /// Which one is taken to come to an end.
    closing: usize,
}

/// Why a pass ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The type does not take what was made up for it.
    Refused,
    /// A type asks what comes, or never ends.
    Opaque,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the trace ends here")
    }
}

impl std::error::Error for Ended {}

impl de::Error for Ended {
    fn custom<T: fmt::Display>(_message: T) -> Ended {
        Ended::Refused
    }
}

impl Trace {
    fn word(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn texts(&mut self, texts: &[&str]) {
        self.bytes.extend_from_slice(&(texts.len() as u64).to_be_bytes());
        texts.iter().for_each(|text| self.text(text));
    }

    /// What to make up for the type behind `visitor`.
    fn choose(&mut self, visitor: &'static str, count: usize) -> usize {
        self.last = Some((visitor, count));
        *self.choices.entry(visitor).or_default()
    }

    /// Takes note of how something ended: if it was refused, the next pass makes something else up.
    fn settle(&mut self, ended: Option<Ended>) {
        if ended == Some(Ended::Refused)
            && !self.retries
            && let Some((visitor, count)) = self.last
            && let Some(choice) = self.choices.get_mut(visitor)
            && *choice + 1 < count
        {
            *choice += 1;
            self.retries = true;
        }
    }

    /// Another variant for the innermost enum that does not come to an end with the one it has.
    fn close_otherwise(&mut self) {
        let enums = &mut self.enums;
        let other = self.closing_enums.iter().rev().any(|name| {
            let Some(variants) = enums.get_mut(name) else { return false };
            let more = variants.closing + 1 < variants.seen.len();
            variants.closing += usize::from(more);
            more
        });
        self.retries |= other;
    }
}

impl Tracer<'_> {
    /// Deserializes a type that others may be inside of, perhaps itself.
    fn within<V, T>(self, run: impl FnOnce(&mut Trace) -> Result<T, Ended>) -> Result<T, Ended> {
        let Tracer(trace) = self;
        let visitor = type_name::<V>();
        let times = trace.open.iter().filter(|open| **open == visitor).count();
        if times > 1 || trace.open.len() > DEEPEST || trace.bytes.len() > LONGEST {
            trace.close_otherwise();
            return Err(Ended::Opaque);
        }
        trace.open.push(visitor);
        trace.closing += times;
        let done = run(trace);
        trace.closing -= times;
        trace.open.pop();
        done
    }

    /// Deserializes an enum through one of its variants.
    fn variant<V, T>(
        self,
        count: usize,
        run: impl FnOnce(&mut Trace, usize) -> Result<T, Ended>,
    ) -> Result<T, Ended> {
        let visitor = type_name::<V>();
        self.within::<V, T>(|trace| {
            let variants = trace
                .enums
                .entry(visitor)
                .or_insert_with(|| Variants { seen: vec![false; count], closing: 0 });
            if trace.closing > 0 {
                let choice = variants.closing;
                trace.closing_enums.push(visitor);
                let done = run(trace, choice);
                trace.closing_enums.pop();
                return done;
            }
            let choice = variants.seen.iter().position(|seen| !seen).unwrap_or(variants.closing);
            let outer = std::mem::replace(&mut trace.incomplete, false);
            let done = run(trace, choice);
            trace.settle(done.as_ref().err().copied());
            let whole = !trace.incomplete && !trace.retries;
            let mut left = false;
            if let Some(variants) = trace.enums.get_mut(visitor) {
                if let Some(seen) = variants.seen.get_mut(choice) {
                    *seen |= whole;
                }
                left = variants.seen.contains(&false);
            }
            trace.again |= left;
            trace.incomplete |= outer | left;
            done
        })
    }
}

#[cfg(test)]
mod tests;
