//! The pool of connections to one memcached server.
//!
//! A connection carries one *exchange* at a time: commands are sent, and their replies arrive in
//! the same order. An *incarnation* is one run of the server's process.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::cas::Incarnation;
use super::command::{Command, CommandError, CommandResult};
use super::dial::{Dialer, ProbedStream};
use super::identity::ServerIdentity;
use super::timer::DeadlineTimer;
use super::wire::{ExchangeOutcome, MemcachedStream};
use crate::sync::lock;

/// A connection that was idle for longer than this is not reused, because a firewall may have
/// dropped it.
const MAX_IDLE_TIME: Duration = Duration::from_secs(90);

/// Opens connections to one server on demand, and keeps idle connections for later exchanges.
pub(super) struct ConnectionPool {
    dialer: Dialer,
    identity: Arc<ServerIdentity>,
    max_idle: usize,
    /// Idle connections, each with the time of its last use. The connection at the end of the list
    /// is reused first.
    idle: Mutex<Vec<(Box<Connection>, Instant)>>,
}

/// An open connection, with the timer for the deadlines of its exchanges. A connection is always
/// boxed, so that moving it moves only a pointer.
pub(super) struct Connection {
    stream: MemcachedStream<TcpStream>,
    timer: DeadlineTimer,
}

/// The reason why an exchange ended before every command had a result.
pub(super) enum ExchangeError {
    Failed(CommandError),
    /// The deadline has passed. The missing replies may still arrive on this connection.
    TimedOut(Box<Connection>),
}

impl ConnectionPool {
    /// Resolves the server's name. Opens no connection yet.
    pub(super) async fn resolve(
        address: &str,
        identity: &Arc<ServerIdentity>,
        max_idle: usize,
    ) -> Result<ConnectionPool, CommandError> {
        let identity = Arc::clone(identity);
        let dialer = Dialer::resolve(address, Arc::clone(&identity)).await?;
        Ok(ConnectionPool { dialer, identity, max_idle, idle: Mutex::default() })
    }

    /// Sends all commands at once. Calls `on_result` with the result of each command, in order, as
    /// the replies arrive.
    ///
    /// If the caller drops the returned future, the connection is closed, because replies may still
    /// arrive on it.
    pub(super) async fn exchange(
        &self,
        commands: &[Command],
        sent: Instant,
        deadline: Instant,
        on_result: &mut impl FnMut(CommandResult),
    ) -> Result<(), ExchangeError> {
        loop {
            let idle = self.take_idle(sent);
            let was_idle = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                // The box keeps the future of `exchange` small. Connections are rarely opened.
                None => Box::pin(self.open(deadline)).await.map_err(ExchangeError::Failed)?,
            };
            connection.stream.begin(commands);
            let incarnation = connection.stream.incarnation();
            let mut on_result = self.result_checker(incarnation, commands, &mut *on_result);
            match connection.run(commands, sent, deadline, &mut on_result).await {
                ExchangeOutcome::Complete => {
                    self.put_back(connection, sent);
                    return Ok(());
                }
                ExchangeOutcome::Failed(error) => return Err(ExchangeError::Failed(error)),
                ExchangeOutcome::TimedOut => return Err(ExchangeError::TimedOut(connection)),
                // The server closed the idle connection before it replied. Either no command was
                // sent, or it does no harm to send each command twice. The commands are therefore
                // sent again on another connection.
                ExchangeOutcome::Closed { nothing_sent, .. }
                    if was_idle
                        && connection.stream.answered() == 0
                        && (nothing_sent || commands.iter().all(Command::is_repeatable)) => {}
                ExchangeOutcome::Closed { error, .. } => {
                    return Err(ExchangeError::Failed(CommandError::unreachable(error)));
                }
            }
        }
    }

    /// Continues an exchange that timed out, until a new deadline. `commands` and `sent` must be
    /// the arguments of the call of [`exchange`](Self::exchange) that timed out. `on_result`
    /// receives the missing results.
    pub(super) async fn finish_late(
        &self,
        mut connection: Box<Connection>,
        commands: &[Command],
        sent: Instant,
        deadline: Instant,
        on_result: &mut impl FnMut(CommandResult),
    ) {
        let unanswered = &commands[connection.stream.answered()..];
        let incarnation = connection.stream.incarnation();
        let mut on_result = self.result_checker(incarnation, unanswered, on_result);
        let outcome = connection.run(commands, sent, deadline, &mut on_result).await;
        if let ExchangeOutcome::Complete = outcome {
            self.put_back(connection, Instant::now());
        }
    }

    /// Returns a function that passes the results of these commands on to `on_result`. A result
    /// from an incarnation that is no longer current becomes an error.
    fn result_checker<'c>(
        &'c self,
        incarnation: Incarnation,
        commands: &'c [Command],
        on_result: &'c mut impl FnMut(CommandResult),
    ) -> impl FnMut(CommandResult) + 'c {
        let mut commands = commands.iter();
        move |result| {
            on_result(match commands.next() {
                Some(command) => self.identity.check(command, incarnation, result),
                None => result,
            });
        }
    }

    async fn open(&self, deadline: Instant) -> Result<Box<Connection>, CommandError> {
        let ProbedStream { stream, incarnation } = self.dialer.dial(deadline).await?;
        let stream = MemcachedStream::new(stream, incarnation);
        Ok(Box::new(Connection { stream, timer: DeadlineTimer::new(deadline) }))
    }

    fn take_idle(&self, now: Instant) -> Option<Box<Connection>> {
        loop {
            let (connection, last_used) = self.idle().pop()?;
            let idle_time = now.saturating_duration_since(last_used);
            let is_current = self.identity.is_current(connection.stream.incarnation());
            if is_current && idle_time < MAX_IDLE_TIME && connection.stream.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn put_back(&self, mut connection: Box<Connection>, now: Instant) {
        connection.stream.shrink();
        let mut idle = self.idle();
        if connection.stream.is_reusable() && idle.len() < self.max_idle {
            idle.push((connection, now));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Box<Connection>, Instant)>> {
        lock(&self.idle)
    }
}

impl Connection {
    /// Continues the exchange that [`MemcachedStream::begin`] began, until the exchange ends or
    /// times out.
    fn run(
        &mut self,
        commands: &[Command],
        sent: Instant,
        deadline: Instant,
        on_result: &mut impl FnMut(CommandResult),
    ) -> impl Future<Output = ExchangeOutcome> {
        let Connection { stream, timer } = self;
        poll_fn(move |context| {
            let outcome = match stream.poll(commands, on_result, sent, deadline, context) {
                Poll::Pending => timer.poll(deadline, context).map(|()| ExchangeOutcome::TimedOut),
                outcome => outcome,
            };
            if outcome.is_ready() {
                timer.forget_waker();
            }
            outcome
        })
    }
}

#[cfg(test)]
mod tests;
