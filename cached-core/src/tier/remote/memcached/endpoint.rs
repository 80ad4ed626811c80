//! The part of a server's state that the server's pipelines share. A *pipeline* sends commands from
//! one tokio runtime to the server, in *exchanges* of commands and replies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::command::CommandError;
use super::health::ServerHealth;
use super::identity::ServerIdentity;
#[cfg(feature = "testing")]
use super::memory::InMemoryServers;
use crate::clock::Clock;
use crate::config::Config;
use crate::stats::{Counter, LiveHistogram, ServerState, ServerStats};

/// The address, timeout, health and identity of one server.
pub(super) struct EndpointState {
    pub(super) address: Arc<str>,
    pub(super) clock: Clock,
    pub(super) health: ServerHealth,
    pub(super) exchanges: ExchangeCounters,
    pub(super) identity: Arc<ServerIdentity>,
    /// In tests, the servers that replace memcached.
    #[cfg(feature = "testing")]
    pub(super) in_memory_servers: Option<InMemoryServers>,
    /// How long one exchange may take, in nanoseconds.
    timeout: AtomicU64,
    /// Called when a failed exchange ejects the server. Calls skip an ejected server.
    on_ejection: Box<dyn Fn(&CommandError) + Send + Sync>,
}

impl EndpointState {
    pub(super) fn new(
        address: &str,
        config: &Config,
        timeout: Duration,
        identity: ServerIdentity,
        on_ejection: impl Fn(&CommandError) + Send + Sync + 'static,
    ) -> EndpointState {
        EndpointState {
            address: address.into(),
            clock: config.clock.clone(),
            health: ServerHealth::new(config.clock.clone()),
            exchanges: ExchangeCounters::default(),
            identity: Arc::new(identity),
            #[cfg(feature = "testing")]
            in_memory_servers: config.in_memory_servers.clone(),
            timeout: AtomicU64::new(nanos(timeout)),
            on_ejection: Box::new(on_ejection),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout.load(Ordering::Relaxed))
    }

    pub(super) fn set_timeout(&self, timeout: Duration) {
        self.timeout.store(nanos(timeout), Ordering::Relaxed);
    }

    /// Returns true if the server is an in-memory server of a test.
    pub(super) fn is_in_memory(&self) -> bool {
        #[cfg(feature = "testing")]
        return self.in_memory_servers.is_some();
        #[cfg(not(feature = "testing"))]
        false
    }

    /// Counts a failed exchange. Ejects the server if too many exchanges in a row have failed.
    pub(super) fn record_failure(&self, error: &CommandError) {
        if self.health.record_failure(error.is_unusable()) {
            (self.on_ejection)(error);
        }
    }
}

/// Counts the exchanges with one server.
#[derive(Default)]
pub(super) struct ExchangeCounters {
    errors: Counter,
    timeouts: Counter,
    durations: LiveHistogram,
}

impl ExchangeCounters {
    /// Counts an exchange that has ended.
    pub(super) fn record(&self, took: Duration, has_failed: bool, has_timed_out: bool) {
        self.durations.record(took);
        if has_failed || has_timed_out {
            self.errors.add();
        }
        if has_timed_out {
            self.timeouts.add();
        }
    }

    pub(super) fn read(&self, address: &str, state: ServerState, ejections: u64) -> ServerStats {
        // `record` counts an exchange before its error. This method reads the errors before the
        // exchanges. So the result never has more errors than exchanges.
        let (timeouts, errors) = (self.timeouts.get(), self.errors.get());
        let durations = self.durations.read();
        ServerStats {
            address: address.to_owned(),
            state,
            exchanges: durations.count(),
            errors,
            timeouts,
            ejections,
            durations,
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
