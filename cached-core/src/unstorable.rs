//! The reason why memcached cannot store a value.

use std::fmt;

/// The reason why a value cannot be encoded as bytes that decode to the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unstorable {
    /// The end of the error message. The subject of this clause is the name of the part, or "it".
    pub(crate) why: &'static str,
    /// The innermost part of the value that cannot be encoded, if it is known.
    pub(crate) part: Option<ValuePart>,
}

impl Unstorable {
    pub(crate) const fn new(why: &'static str) -> Unstorable {
        Unstorable { why, part: None }
    }
}

/// A part of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValuePart {
    /// The struct field that holds the part. `None` if no field holds the part, for example if the
    /// part is an element of a sequence.
    pub(crate) field: Option<&'static str>,
    pub(crate) type_name: &'static str,
}

impl fmt::Display for ValuePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(field) = self.field {
            write!(f, "the field `{field}` of the type ")?;
        }
        write!(f, "`{}`", self.type_name)
    }
}

/// The reason why memcached cannot store a value that an annotated function returned. The error
/// names the type of the value, and the part that cannot be encoded. It does not show the value.
///
/// `Display` writes one line. [`Ledger::audit`](crate::Ledger::audit) also returns this line.
#[derive(Debug)]
pub struct UnstorableValue {
    /// The name of the value's type.
    pub(crate) type_name: &'static str,
    pub(crate) reason: Unstorable,
}

impl UnstorableValue {
    /// Returns the name of the value's type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.type_name
    }
}

impl fmt::Display for UnstorableValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnstorableValue { type_name, reason: Unstorable { why, part } } = self;
        match part {
            Some(part) if part.type_name != *type_name => {
                write!(f, "a value of the type `{type_name}` cannot be stored: {part} {why}")
            }
            _ => write!(f, "a value of the type `{type_name}` cannot be stored: it {why}"),
        }
    }
}
