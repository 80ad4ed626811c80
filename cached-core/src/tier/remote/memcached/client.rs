//! A client that sends commands from one tokio runtime to one memcached server. In one *exchange*,
//! the client sends some commands and receives their replies in the same order.

use std::sync::Arc;
use std::time::Instant;

use super::command::{Command, CommandError, CommandResult};
use super::connection::{Connection, ConnectionPool, ExchangeError};
use super::identity::ServerIdentity;
#[cfg(feature = "testing")]
use super::memory::InMemoryServer;

/// Sends commands to one server: through a pool of connections or, in a test, to a server in
/// memory.
pub(super) enum ServerClient {
    Sockets(ConnectionPool),
    #[cfg(feature = "testing")]
    InMemory(Arc<InMemoryServer>),
}

impl ServerClient {
    /// Resolves the server's name. The client opens connections on demand, and keeps at most
    /// `max_idle` idle connections.
    pub(super) async fn resolve(
        address: &str,
        identity: &Arc<ServerIdentity>,
        max_idle: usize,
    ) -> Result<ServerClient, CommandError> {
        Ok(ServerClient::Sockets(ConnectionPool::resolve(address, identity, max_idle).await?))
    }

    /// Sends all commands at once. Calls `on_result` with the result of each command, in order.
    /// `sent` is the time at which the commands are sent. The ttls in the replies count from this
    /// time.
    pub(super) async fn exchange(
        &self,
        commands: &[Command],
        sent: Instant,
        deadline: Instant,
        on_result: &mut impl FnMut(CommandResult),
    ) -> Result<(), ExchangeError> {
        match self {
            ServerClient::Sockets(pool) => pool.exchange(commands, sent, deadline, on_result).await,
            #[cfg(feature = "testing")]
            ServerClient::InMemory(server) => {
                let results = super::timer::run_until(deadline, server.run(commands.to_vec()));
                let timed_out = || ExchangeError::Failed(CommandError::timed_out());
                results.await.ok_or_else(timed_out)?.into_iter().for_each(on_result);
                Ok(())
            }
        }
    }

    /// Continues an exchange that timed out on `connection`; see [`ConnectionPool::finish_late`].
    pub(super) async fn finish_late(
        &self,
        connection: Box<Connection>,
        commands: &[Command],
        sent: Instant,
        deadline: Instant,
        on_result: &mut impl FnMut(CommandResult),
    ) {
        match self {
            ServerClient::Sockets(pool) => {
                pool.finish_late(connection, commands, sent, deadline, on_result).await;
            }
            #[cfg(feature = "testing")]
            ServerClient::InMemory(_) => {}
        }
    }
}
