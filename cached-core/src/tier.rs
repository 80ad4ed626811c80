//! The three tiers: request, local and remote.

pub(crate) mod local;
pub(crate) mod remote;
pub(crate) mod request;

use std::fmt;

/// The tier that answered a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The answers of the current request.
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
