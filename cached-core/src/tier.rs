//! The three tiers that a call searches for a value, in this order: request, local and remote.

pub(crate) mod local;
pub(crate) mod remote;
pub(crate) mod request;

use std::fmt;

/// The tier that had the value for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// The values that the current web request has already received.
    Request,
    /// The memory of this process.
    Local,
    /// The memcached servers.
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
