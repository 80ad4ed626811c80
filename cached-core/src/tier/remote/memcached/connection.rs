//! The connections to one server, each of which carries one exchange at a time.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::cas::Incarnation;
use super::command::{Command, CommandError, CommandResult};
use super::dial::Addresses;
use super::timer::Timer;
use super::wire::{ExchangeEnd, Wire};
use crate::sync::lock;

/// A connection that was idle for longer may have been forgotten on its way.
const LONGEST_IDLE: Duration = Duration::from_secs(90);

/// The connections to one server.
pub(super) struct ConnectionPool {
    addresses: Addresses,
    /// How many idle connections are kept.
    limit: usize,
    idle: Mutex<Vec<(Box<Connection>, Instant)>>,
}

/// A connection. It stays in one box, so that it is not moved from where it was used last.
pub(super) struct Connection {
    wire: Wire<TcpStream>,
    timer: Timer,
}

/// Why an exchange stopped before every command was answered.
pub(super) enum ExchangeError {
    Failed(CommandError),
    /// The deadline has passed; the answers may yet come on this connection.
    TimedOut(Box<Connection>),
}

impl ConnectionPool {
    /// Resolves the name. ConnectionPool are opened when they are needed.
    pub(super) async fn resolve(
        address: &str,
        limit: usize,
        runtime: &Handle,
    ) -> Result<ConnectionPool, CommandError> {
        let addresses = Addresses::resolve(address, runtime).await?;
        Ok(ConnectionPool { addresses, limit, idle: Mutex::default() })
    }

    /// Sends the commands in one go, and passes on each answer as soon as it is there, in order. A
    /// future that is dropped in the middle takes its connection with it, on which answers may be
    /// under way.
    pub(super) async fn exchange(
        &self,
        commands: &[Command],
        sent: Instant,
        deadline: Instant,
        answered: &mut impl FnMut(CommandResult),
    ) -> Result<(), ExchangeError> {
        loop {
            let idle = self.take(sent);
            let was_idle = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                // In a box, as it is rare, so that what holds it stays small.
                None => {
                    Box::pin(self.addresses.open(deadline)).await.map_err(ExchangeError::Failed)?
                }
            };
            connection.wire.begin(commands);
            let end = connection.go_on(commands, sent, deadline, answered).await;
            match end {
                ExchangeEnd::Answered => {
                    self.keep(connection, sent);
                    return Ok(());
                }
                ExchangeEnd::Failed(failure) => return Err(ExchangeError::Failed(failure)),
                ExchangeEnd::TimedOut => return Err(ExchangeError::TimedOut(connection)),
                // The server closed it while it was idle, and has not read these commands.
                ExchangeEnd::Closed { nothing_sent, .. }
                    if was_idle
                        && connection.wire.answered() == 0
                        && (nothing_sent || commands.iter().all(Command::is_repeatable)) => {}
                ExchangeEnd::Closed { error, .. } => {
                    return Err(ExchangeError::Failed(CommandError::lost(error)));
                }
            }
        }
    }

    /// Goes on with an exchange that was too late. `sent` and `commands` must be those of before.
    pub(super) async fn finish(
        &self,
        mut connection: Box<Connection>,
        commands: &[Command],
        sent: Instant,
        deadline: Instant,
        answered: &mut impl FnMut(CommandResult),
    ) {
        if let ExchangeEnd::Answered = connection.go_on(commands, sent, deadline, answered).await {
            self.keep(connection, Instant::now());
        }
    }

    fn take(&self, now: Instant) -> Option<Box<Connection>> {
        loop {
            let (connection, since) = self.idle().pop()?;
            if now.saturating_duration_since(since) < LONGEST_IDLE && connection.wire.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, mut connection: Box<Connection>, now: Instant) {
        connection.wire.trim();
        let mut idle = self.idle();
        if connection.wire.is_sound() && idle.len() < self.limit {
            idle.push((connection, now));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Box<Connection>, Instant)>> {
        lock(&self.idle)
    }
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        incarnation: Incarnation,
        deadline: Instant,
    ) -> Connection {
        Connection { wire: Wire::new(stream, incarnation), timer: Timer::new(deadline) }
    }

    fn go_on(
        &mut self,
        commands: &[Command],
        sent: Instant,
        deadline: Instant,
        answered: &mut impl FnMut(CommandResult),
    ) -> impl Future<Output = ExchangeEnd> {
        let Connection { wire, timer } = self;
        poll_fn(move |context| {
            let end = match wire.poll(commands, answered, sent, deadline, context) {
                Poll::Pending => timer.poll(deadline, context).map(|()| ExchangeEnd::TimedOut),
                end => end,
            };
            if end.is_ready() {
                timer.forget_waiter();
            }
            end
        })
    }
}

#[cfg(test)]
mod tests;
