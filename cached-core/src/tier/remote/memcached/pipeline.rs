//! A pipeline sends commands from one tokio runtime to one server. Commands of several callers can
//! share a round trip.
//!
//! While few commands are under way, each caller's own task sends the caller's command, as a
//! *direct exchange*. Further commands wait in a queue. A *flusher*, a task that the pipeline
//! spawns, sends the queued commands in batches until the queue is empty. No command depends on the
//! task of another caller, because that task might be dropped or never polled.
//!
//! A read may win a *lease*, the right to fetch a missing value, or a *refresh claim*, the right to
//! fetch a value again before it expires. If no caller receives the reply, the pipeline gives the
//! lease or claim back.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::RemoteErrorKind;
use super::client::ServerClient;
use super::command::{Command, CommandError, CommandResult};
use super::connection::{Connection, ExchangeError};
use super::direct::DirectExchange;
use super::endpoint::EndpointState;
use super::health::ExchangeVerdict;
use super::queue::{CommandBatch, CommandQueue, ResultSender};
use super::timer::run_until;
use crate::sync::lock;

const MAX_FLUSHERS: usize = 2;
/// The pipeline allows this many direct exchanges at a time. For so few commands, a connection for
/// each command is faster than a batch.
const MAX_DIRECT_EXCHANGES: usize = 4;
/// A second flusher starts when this many commands wait.
const SECOND_FLUSHER_AT: usize = 64;
/// How long a pipeline waits for replies that missed their deadline.
const LATE_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends the commands of one runtime to one server.
pub(super) struct CommandPipeline {
    endpoint: Arc<EndpointState>,
    runtime: Handle,
    /// Created on first use, and again after each failure, because a client resolves its server's
    /// name only once.
    client: Mutex<Option<Arc<ServerClient>>>,
    state: Mutex<PipelineState>,
}

#[derive(Default)]
struct PipelineState {
    queue: CommandQueue,
    flushers: usize,
    direct_exchanges: usize,
}

/// The way in which a pipeline handles a new command.
enum CommandAdmission {
    /// The caller's task sends the command.
    Direct(DirectExchangeGuard, Command),
    /// A flusher sends the command, and the caller receives the result.
    Queued(oneshot::Receiver<CommandResult>),
    /// The queue is full.
    Refused,
}

impl CommandPipeline {
    pub(super) fn new(endpoint: &Arc<EndpointState>, runtime: &Handle) -> Arc<CommandPipeline> {
        Arc::new(CommandPipeline {
            endpoint: Arc::clone(endpoint),
            runtime: runtime.clone(),
            client: Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// Sends a command that was issued at `now`, and returns its result. `deadline` limits how long
    /// a queued command may take.
    pub(super) async fn run(
        self: &Arc<CommandPipeline>,
        command: Command,
        now: Instant,
        deadline: Instant,
    ) -> CommandResult {
        match self.admit(command) {
            // A direct exchange ends at its own deadline: `now` plus the server's timeout.
            CommandAdmission::Direct(guard, command) => self.run_direct(guard, command, now).await,
            CommandAdmission::Queued(result) => {
                let result = run_until(deadline, result).await;
                result.map_or_else(|| Err(CommandError::timed_out()), flatten)
            }
            CommandAdmission::Refused => Err(queue_is_full()),
        }
    }

    /// Queues all commands at once, and returns their results in order. A command fails if the
    /// queue is full, or if the deadline passes before the result arrives.
    pub(super) async fn run_many(
        self: &Arc<CommandPipeline>,
        commands: Vec<Command>,
        deadline: Instant,
    ) -> Vec<CommandResult> {
        let count = commands.len();
        let receivers: Vec<_> = {
            let mut state = self.state();
            let push = |command| state.queue.push(command);
            let receivers = commands.into_iter().map(push).collect();
            self.start_flushers(&mut state);
            receivers
        };
        let mut results = Vec::with_capacity(count);
        let receive_all = async {
            for receiver in receivers {
                results.push(match receiver {
                    Some(receiver) => flatten(receiver.await),
                    None => Err(queue_is_full()),
                });
            }
        };
        run_until(deadline, receive_all).await;
        results.resize_with(count, || Err(CommandError::timed_out()));
        results
    }

    fn admit(self: &Arc<CommandPipeline>, command: Command) -> CommandAdmission {
        let mut state = self.state();
        if state.direct_exchanges < MAX_DIRECT_EXCHANGES && state.flushers == 0 {
            state.direct_exchanges += 1;
            drop(state);
            return CommandAdmission::Direct(DirectExchangeGuard(Arc::clone(self)), command);
        }
        match state.queue.push(command) {
            Some(result) => {
                self.start_flushers(&mut state);
                CommandAdmission::Queued(result)
            }
            None => CommandAdmission::Refused,
        }
    }

    fn start_flushers(self: &Arc<CommandPipeline>, state: &mut PipelineState) {
        let waiting = state.queue.len();
        let needs_second = state.flushers < MAX_FLUSHERS && waiting >= SECOND_FLUSHER_AT;
        if waiting > 0 && (state.flushers == 0 || needs_second) {
            state.flushers += 1;
            let flusher = QueueFlusher { pipeline: Arc::clone(self), is_counted: true };
            self.runtime.spawn(flusher.run());
        }
    }

    fn run_direct(
        self: &Arc<CommandPipeline>,
        guard: DirectExchangeGuard,
        command: Command,
        now: Instant,
    ) -> impl Future<Output = CommandResult> {
        let pipeline = Arc::clone(self);
        // If the caller is gone, the lease or refresh claim that a read has won must be given back.
        let read = command.is_read().then(|| command.clone());
        let give_back = move |result| {
            if let Some(read) = read {
                pipeline.give_back(&read, &result);
            }
        };
        let exchange = async move { guard.0.exchange_one(command, now).await };
        DirectExchange::new(&self.runtime, exchange, give_back)
    }

    async fn exchange_one(
        self: &Arc<CommandPipeline>,
        command: Command,
        now: Instant,
    ) -> CommandResult {
        let (sent, deadline) = (self.endpoint.clock.shift(now), now + self.endpoint.timeout());
        let is_read = command.is_read();
        let mut result = Err(CommandError::unreachable("no answer"));
        match self.client(deadline).await {
            Ok(client) => {
                let commands = std::slice::from_ref(&command);
                let mut on_result = |received| result = received;
                match client.exchange(commands, sent, deadline, &mut on_result).await {
                    Ok(()) => {}
                    Err(ExchangeError::Failed(error)) => result = Err(error),
                    Err(ExchangeError::TimedOut(connection)) => {
                        result = Err(CommandError::timed_out());
                        let batch = CommandBatch { commands: vec![command], senders: vec![None] };
                        self.finish_late(client, connection, batch, 0, sent);
                    }
                }
            }
            Err(error) => result = Err(error),
        }
        let mut verdict = ExchangeVerdict::default();
        verdict.add(is_read, &result);
        self.record_exchange(verdict, now, deadline);
        result
    }

    async fn exchange_batch(self: &Arc<CommandPipeline>, batch: CommandBatch) {
        let began = Instant::now();
        let (sent, deadline) = (self.endpoint.clock.shift(began), began + self.endpoint.timeout());
        let CommandBatch { commands, mut senders } = batch;
        let mut verdict = ExchangeVerdict::default();
        let mut answered = 0;
        let mut on_result = |result: CommandResult| {
            verdict.add(commands[answered].is_read(), &result);
            self.deliver(&commands[answered], senders[answered].take(), result);
            answered += 1;
        };
        let error = match self.client(deadline).await {
            Ok(client) => match client.exchange(&commands, sent, deadline, &mut on_result).await {
                Ok(()) => None,
                Err(ExchangeError::Failed(error)) => Some(error),
                Err(ExchangeError::TimedOut(connection)) => {
                    verdict.add(false, &Err(CommandError::timed_out()));
                    let batch = CommandBatch { commands, senders };
                    self.finish_late(client, connection, batch, answered, sent);
                    return self.record_exchange(verdict, began, deadline);
                }
            },
            Err(error) => Some(error),
        };
        if let Some(mut error) = error {
            for (command, sender) in commands.iter().zip(&mut senders).skip(answered) {
                let result = Err(error.clone());
                verdict.add(command.is_read(), &result);
                self.deliver(command, sender.take(), result);
                // A refusal concerns only the first command without a result. The connection was
                // then closed, so the later commands got no reply.
                if error.kind == RemoteErrorKind::Refused {
                    error = CommandError::unreachable(
                        "the connection was closed after another command",
                    );
                }
            }
        }
        self.record_exchange(verdict, began, deadline);
    }

    /// Spawns a task that waits for the replies that missed their deadline. The first `answered`
    /// commands of the batch already have their results.
    fn finish_late(
        self: &Arc<CommandPipeline>,
        client: Arc<ServerClient>,
        connection: Box<Connection>,
        batch: CommandBatch,
        mut answered: usize,
        sent: Instant,
    ) {
        let pipeline = Arc::clone(self);
        self.runtime.spawn(async move {
            let CommandBatch { commands, mut senders } = batch;
            let mut on_result = |result: CommandResult| {
                pipeline.deliver(&commands[answered], senders[answered].take(), result);
                answered += 1;
            };
            let deadline = Instant::now() + LATE_ANSWER_TIMEOUT;
            client.finish_late(connection, &commands, sent, deadline, &mut on_result).await;
        });
    }

    /// Sends a result to the command's caller. If the caller is gone, gives back the lease or
    /// refresh claim that the command has won.
    fn deliver(
        self: &Arc<CommandPipeline>,
        command: &Command,
        sender: ResultSender,
        result: CommandResult,
    ) {
        let undelivered = match sender {
            Some(sender) => sender.send(result).err(),
            None => Some(result),
        };
        if let Some(result) = undelivered {
            self.give_back(command, &result);
        }
    }

    /// Queues the command that gives back the lease or refresh claim in `result`. Does nothing if
    /// `result` contains neither.
    fn give_back(self: &Arc<CommandPipeline>, command: &Command, result: &CommandResult) {
        let Some(give_back) = command.give_back_command(result) else { return };
        let mut state = self.state();
        state.queue.push_release_first(give_back);
        self.start_flushers(&mut state);
    }

    /// Counts an exchange that began at `began`, and updates the server's health.
    fn record_exchange(&self, verdict: ExchangeVerdict, began: Instant, deadline: Instant) {
        let has_timed_out = verdict.has_timed_out();
        let failure = verdict.failure();
        self.endpoint.exchanges.record(began.elapsed(), failure.is_some(), has_timed_out);
        let Some(error) = failure else { return self.endpoint.health.record_success() };
        // An exchange ends soon after its deadline at the latest, unless this process was paused
        // meanwhile. After a pause, the failure says nothing about the server.
        let was_paused = || Instant::now() > deadline + self.endpoint.timeout() / 2;
        if error.is_unusable() || !was_paused() {
            // The next exchange resolves the server's name again, because the server's address may
            // have changed.
            *lock(&self.client) = None;
            self.endpoint.record_failure(&error);
        }
    }

    async fn client(&self, deadline: Instant) -> Result<Arc<ServerClient>, CommandError> {
        #[cfg(feature = "testing")]
        if let Some(servers) = &self.endpoint.in_memory_servers {
            return Ok(Arc::new(ServerClient::InMemory(servers.at(&self.endpoint.address))));
        }
        let known = lock(&self.client).clone();
        if let Some(client) = known {
            return Ok(client);
        }
        // The boxed future below keeps the future of each direct exchange small. Its allocation
        // hardly matters, because clients are rarely created.
        let max_idle = MAX_FLUSHERS + MAX_DIRECT_EXCHANGES;
        let resolve =
            ServerClient::resolve(&self.endpoint.address, &self.endpoint.identity, max_idle);
        let resolve = Box::pin(run_until(deadline, resolve));
        let client = resolve.await.unwrap_or_else(|| Err(CommandError::timed_out()))?;
        // If two tasks resolve the name at once, the first client is kept.
        Ok(Arc::clone(lock(&self.client).get_or_insert_with(|| Arc::new(client))))
    }

    fn state(&self) -> MutexGuard<'_, PipelineState> {
        lock(&self.state)
    }
}

fn queue_is_full() -> CommandError {
    CommandError::refused("too many commands wait for this server")
}

/// Returns the received result, or an error if the sender was dropped because the flusher's runtime
/// has ended.
fn flatten(result: Result<CommandResult, oneshot::error::RecvError>) -> CommandResult {
    result.unwrap_or_else(|_| {
        Err(CommandError::unreachable("the runtime of its connection has ended"))
    })
}

/// Counts one direct exchange of the pipeline until the guard is dropped.
struct DirectExchangeGuard(Arc<CommandPipeline>);

impl Drop for DirectExchangeGuard {
    fn drop(&mut self) {
        self.0.state().direct_exchanges -= 1;
    }
}

/// A task that sends queued commands until the queue is empty.
struct QueueFlusher {
    pipeline: Arc<CommandPipeline>,
    /// True while [`PipelineState`] counts this flusher.
    is_counted: bool,
}

impl QueueFlusher {
    async fn run(mut self) {
        loop {
            let batch = {
                let mut state = self.pipeline.state();
                let batch = state.queue.next_batch();
                if batch.commands.is_empty() {
                    state.flushers -= 1;
                    self.is_counted = false;
                    return;
                }
                batch
            };
            let is_single = batch.commands.len() == 1;
            self.pipeline.exchange_batch(batch).await;
            if !is_single {
                // Lets the callers of this batch run, so that their next commands can join the next
                // batch.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// If a flusher is dropped while the pipeline counts it, the flusher's runtime has ended. If no
/// other flusher is left, the queued commands fail, because no task will send them.
impl Drop for QueueFlusher {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        let mut state = self.pipeline.state();
        state.flushers -= 1;
        let abandoned = (state.flushers == 0).then(|| state.queue.take_all());
        drop(state);
        drop(abandoned);
    }
}
