//! The way from one runtime to one server. A connection works only while the runtime that opened it is
//! driven.

use std::time::Instant;

use tokio::runtime::Handle;

use super::command::{Command, CommandError, CommandResult};
use super::connection::{Connection, ConnectionPool, ExchangeError};

pub(super) enum Client {
    Memcached(ConnectionPool),
    /// A test's server, which has no connections.
    #[cfg(feature = "testing")]
    Memory(std::sync::Arc<super::memory::InMemoryServer>),
}

impl Client {
    /// Resolves the name. ConnectionPool are opened when they are needed; `limit` idle ones are kept.
    pub(super) async fn connect(
        address: &str,
        limit: usize,
        runtime: &Handle,
    ) -> Result<Client, CommandError> {
        Ok(Client::Memcached(ConnectionPool::resolve(address, limit, runtime).await?))
    }

    /// Runs the commands in one round trip, and passes on each answer as it comes, in order. The
    /// server's count of seconds begins at `sent`.
    pub(super) async fn exchange(
        &self,
        commands: &[Command],
        sent: Instant,
        deadline: Instant,
        answered: &mut impl FnMut(CommandResult),
    ) -> Result<(), ExchangeError> {
        match self {
            Client::Memcached(connections) => {
                connections.exchange(commands, sent, deadline, answered).await
            }
            #[cfg(feature = "testing")]
            Client::Memory(memory) => {
                let answers = memory.run(commands.to_vec());
                let answers = super::timer::run_until(deadline, answers).await;
                let answers =
                    answers.ok_or_else(|| ExchangeError::Failed(CommandError::timed_out()))?;
                answers.into_iter().for_each(answered);
                Ok(())
            }
        }
    }

    /// Goes on with an exchange that was too late; see [`ConnectionPool::finish`].
    pub(super) async fn finish(
        &self,
        connection: Box<Connection>,
        commands: &[Command],
        sent: Instant,
        deadline: Instant,
        answered: &mut impl FnMut(CommandResult),
    ) {
        match self {
            Client::Memcached(connections) => {
                connections.finish(connection, commands, sent, deadline, answered).await;
            }
            #[cfg(feature = "testing")]
            Client::Memory(_) => {}
        }
    }
}
