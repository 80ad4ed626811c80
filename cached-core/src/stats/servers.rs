//! The state and the counters of a cache's memcached servers, and the health of the cache.

use std::fmt;

use super::DurationHistogram;

/// The state of one memcached server of a cache, and its counters since it was added to the cache.
///
/// [`Cache::servers`](crate::Cache::servers) returns this type for each server. An *exchange* sends
/// one or more commands to the server and receives the replies. A counter never decreases.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// The address, as it was configured.
    pub address: String,
    /// Says whether calls use the server now.
    pub state: ServerState,
    /// Exchanges that have ended, including exchanges in the background.
    pub exchanges: u64,
    /// Exchanges that failed because the server refused the connection, replied to no command, or
    /// was too late with a reply.
    pub errors: u64,
    /// Exchanges in which the server did not reply in time. They also count as `errors`.
    pub timeouts: u64,
    /// How many times the server was taken out of rotation.
    pub ejections: u64,
    /// The durations of the exchanges. If an exchange had to open a connection first, its duration
    /// includes that time.
    pub durations: DurationHistogram,
}

/// Says whether calls use a memcached server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerState {
    /// Calls use the server.
    Up,
    /// Calls do not use the server, because it has failed several times in a row, or might have
    /// entries that have changed since. This process tries in the background to recover the server.
    Ejected,
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ServerState::Up => "up",
            ServerState::Ejected => "ejected",
        })
    }
}

/// The health of a cache.
///
/// A degraded cache still answers every call, so a service need not be taken out of rotation
/// because of it. [`Cache::health`](crate::Cache::health) has an example.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// No memcached server is out of rotation. A cache without memcached is up, and so is a cache
    /// that is off.
    Up,
    /// Some memcached servers are out of rotation.
    #[non_exhaustive]
    Degraded {
        /// The addresses of the servers that are out of rotation, as they were configured.
        servers: Vec<String>,
    },
}

impl Health {
    pub(crate) fn of(servers: &[ServerStats]) -> Health {
        let ejected = servers.iter().filter(|server| server.state != ServerState::Up);
        let servers: Vec<String> = ejected.map(|server| server.address.clone()).collect();
        if servers.is_empty() { Health::Up } else { Health::Degraded { servers } }
    }

    /// Returns true for [`Health::Up`].
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Health::Up)
    }
}

/// Writes `up`, or for example `degraded: memcached at a:11211 is out of rotation`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Up => f.write_str("up"),
            Health::Degraded { servers } => {
                let are = if servers.len() == 1 { "is" } else { "are" };
                write!(f, "degraded: memcached at {} {are} out of rotation", servers.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_degraded_cache_names_its_ejected_servers() {
        let server = |address: &str, state| ServerStats {
            address: address.to_owned(),
            state,
            exchanges: 0,
            errors: 0,
            timeouts: 0,
            ejections: 0,
            durations: DurationHistogram::default(),
        };
        assert!(Health::of(&[]).is_up());
        let up = server("a:1", ServerState::Up);
        assert_eq!(Health::of(std::slice::from_ref(&up)).to_string(), "up");
        let out = server("b:1", ServerState::Ejected);
        let health = Health::of(&[up, out.clone()]);
        assert!(!health.is_up());
        assert_eq!(health.to_string(), "degraded: memcached at b:1 is out of rotation");
        let both = Health::of(&[out.clone(), out]).to_string();
        assert_eq!(both, "degraded: memcached at b:1, b:1 are out of rotation");
    }
}
