//! The three tiers.

pub(crate) mod local;
#[cfg(feature = "memcached")]
pub(crate) mod remote;
pub(crate) mod request;

use std::fmt;

#[cfg(not(feature = "memcached"))]
pub(crate) use crate::embedded::remote;

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
