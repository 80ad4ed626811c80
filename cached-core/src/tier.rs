//! The three tiers.

pub(crate) mod local;
pub(crate) mod remote;
pub(crate) mod request;

use std::fmt;

/// Where an answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The running request's own answers.
    Request,
    /// This process's memory.
    Local,
    /// memcached.
    Remote,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Request => "request",
            Tier::Local => "local",
            Tier::Remote => "remote",
        })
    }
}
