//! Many callers, one round trip: the commands of one runtime to one server.
//!
//! A caller that finds few under way runs its own command in its own task, a *direct exchange*, and
//! pays nothing for the others. Commands that come meanwhile queue, and a *flusher* carries the queue.
//! It is a task of its own, which takes what has gathered while its last exchange was under way and
//! ends when nothing has. So nobody's command waits for a task that somebody else may have dropped, or
//! holds and does not poll.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::RemoteErrorKind;
use super::client::Client;
use super::command::{Command, CommandError, CommandResult};
use super::connection::{Connection, ExchangeError};
use super::direct::{DirectExchange, DirectPermit};
use super::health::{HealthReport, Verdict};
use super::queue::{Batch, Queue, Waiter};
use super::server::Server;
use super::timer::run_until;
use crate::sync::lock;

/// The most exchanges of flushers under way at once.
const FLUSHERS: usize = 2;
/// The most direct exchanges at once: a few callers do better each on a connection of its own than by
/// waiting for one another.
const DIRECT: usize = 4;
/// Another flusher starts when so many commands wait.
const FULL: usize = 64;
/// How long answers are awaited that come too late for their callers. They may have won a lease, which
/// is then given back.
const LATE: Duration = Duration::from_secs(1);

pub(super) struct Pipeline {
    server: Weak<Server>,
    runtime: Handle,
    /// Made on first use and again after a failure: a client resolves its name but once.
    client: Mutex<Option<Arc<Client>>>,
    state: Mutex<PipelineState>,
}

#[derive(Default)]
struct PipelineState {
    queue: Queue,
    flushers: usize,
    direct: usize,
}

enum Admission {
    Direct(DirectExchange),
    Queued(oneshot::Receiver<CommandResult>),
    Refused,
}

impl Pipeline {
    pub(super) fn new(server: Weak<Server>, runtime: &Handle) -> Arc<Pipeline> {
        let runtime = runtime.clone();
        Arc::new(Pipeline { server, runtime, client: Mutex::default(), state: Mutex::default() })
    }

    /// Runs a command that is asked `now`. Returns its answer, or a failure at the deadline.
    pub(super) async fn ask(
        self: &Arc<Pipeline>,
        command: Command,
        now: Instant,
        deadline: Instant,
    ) -> CommandResult {
        match self.admit(command, now) {
            // Its exchange ends in time by itself.
            Admission::Direct(exchange) => exchange.await,
            Admission::Queued(answer) => {
                let answer = run_until(deadline, answer).await.map(unwrap);
                answer.unwrap_or_else(|| Err(CommandError::timed_out()))
            }
            Admission::Refused => Err(too_many()),
        }
    }

    /// Runs several that travel together, where there is room. Returns the answers in order.
    pub(super) async fn ask_many(
        self: &Arc<Pipeline>,
        commands: Vec<Command>,
        deadline: Instant,
    ) -> Vec<CommandResult> {
        let count = commands.len();
        let answers: Vec<_> = {
            let mut state = self.state();
            let queue = |command| state.queue.push(command);
            let answers = commands.into_iter().map(queue).collect();
            self.start_flushers(&mut state);
            answers
        };
        let mut answered = Vec::with_capacity(count);
        let all = async {
            for answer in answers {
                answered.push(match answer {
                    Some(answer) => unwrap(answer.await),
                    None => Err(too_many()),
                });
            }
        };
        run_until(deadline, all).await;
        answered.resize_with(count, || Err(CommandError::timed_out()));
        answered
    }

    fn admit(self: &Arc<Pipeline>, command: Command, now: Instant) -> Admission {
        let mut state = self.state();
        if state.direct < DIRECT && state.flushers == 0 {
            state.direct += 1;
            drop(state);
            let permit = DirectPermit::new(self);
            return Admission::Direct(DirectExchange::new(permit, command, now));
        }
        match state.queue.push(command) {
            Some(answer) => {
                self.start_flushers(&mut state);
                Admission::Queued(answer)
            }
            None => Admission::Refused,
        }
    }

    fn start_flushers(self: &Arc<Pipeline>, state: &mut PipelineState) {
        let waiting = state.queue.len();
        let another = state.flushers < FLUSHERS && waiting >= FULL;
        if waiting > 0 && (state.flushers == 0 || another) {
            state.flushers += 1;
            let flusher = Flusher { pipeline: Arc::clone(self), is_counted: true };
            self.runtime.spawn(flusher.run());
        }
    }

    /// Runs one command that is asked `now`.
    pub(super) async fn exchange_one(
        self: &Arc<Pipeline>,
        command: Command,
        now: Instant,
    ) -> CommandResult {
        let server = self.server.upgrade().ok_or_else(unused)?;
        let (sent, deadline) = (server.clock.at(now), now + server.timeout());
        let mut answer = None;
        let stopped = match self.client(&server, deadline).await {
            Ok(client) => {
                let commands = std::slice::from_ref(&command);
                let mut answered = |its| answer = Some(its);
                let exchange = client.exchange(commands, sent, deadline, &mut answered);
                exchange.await.err().map(|stopped| (stopped, Some(client)))
            }
            Err(failure) => Some((ExchangeError::Failed(failure), None)),
        };
        let is_read = command.is_read();
        let failure = match stopped {
            None => CommandError::lost("no answer"),
            Some((ExchangeError::Failed(failure), _)) => failure,
            Some((ExchangeError::TimedOut(connection), client)) => {
                let batch = Batch { commands: vec![command], waiters: vec![None] };
                self.finish_late(client, connection, batch, 0, sent);
                CommandError::timed_out()
            }
        };
        let answer = answer.unwrap_or(Err(failure));
        let mut health = HealthReport::default();
        health.add(is_read, &answer);
        self.report(&server, health, deadline);
        answer
    }

    /// Runs a batch, and tells its waiters.
    async fn exchange(self: &Arc<Pipeline>, batch: Batch) {
        let Some(server) = self.server.upgrade() else { return };
        let began = Instant::now();
        let (sent, deadline) = (server.clock.at(began), began + server.timeout());
        let Batch { commands, mut waiters } = batch;
        let mut answered = 0;
        let mut health = HealthReport::default();
        let stopped = match self.client(&server, deadline).await {
            Ok(client) => {
                let mut answered = |answer: CommandResult| {
                    health.add(commands[answered].is_read(), &answer);
                    self.tell(&commands[answered], waiters[answered].take(), answer);
                    answered += 1;
                };
                let exchange = client.exchange(&commands, sent, deadline, &mut answered);
                exchange.await.err().map(|stopped| (stopped, Some(client)))
            }
            Err(failure) => Some((ExchangeError::Failed(failure), None)),
        };
        match stopped {
            None => {}
            Some((ExchangeError::Failed(failure), _)) => {
                // What the server says to one command it does not say of those behind it.
                let lost = CommandError::lost("the connection was given up after another command");
                let mut failures = std::iter::once(failure.clone()).chain(std::iter::repeat(
                    if failure.kind == RemoteErrorKind::Refused { lost } else { failure },
                ));
                for (command, waiter) in commands.iter().zip(&mut waiters).skip(answered) {
                    let Some(failure) = failures.next() else { break };
                    let answer = Err(failure);
                    health.add(command.is_read(), &answer);
                    self.tell(command, waiter.take(), answer);
                }
            }
            Some((ExchangeError::TimedOut(connection), client)) => {
                health.add(false, &Err(CommandError::timed_out()));
                let batch = Batch { commands, waiters };
                self.finish_late(client, connection, batch, answered, sent);
            }
        }
        self.report(&server, health, deadline);
    }

    /// Awaits the answers that did not come in time, in a task of its own.
    fn finish_late(
        self: &Arc<Pipeline>,
        client: Option<Arc<Client>>,
        connection: Box<Connection>,
        batch: Batch,
        mut answered: usize,
        sent: Instant,
    ) {
        let pipeline = Arc::clone(self);
        let finish = async move {
            let Some(client) = client else { return };
            let Batch { commands, mut waiters } = batch;
            let mut tell = |answer: CommandResult| {
                pipeline.tell(&commands[answered], waiters[answered].take(), answer);
                answered += 1;
            };
            let deadline = Instant::now() + LATE;
            client.finish(connection, &commands, sent, deadline, &mut tell).await;
        };
        self.runtime.spawn(finish);
    }

    /// Tells a waiter its answer. If nobody takes it, what it has won is given back.
    fn tell(self: &Arc<Pipeline>, command: &Command, waiter: Waiter, answer: CommandResult) {
        let untold = match waiter {
            Some(waiter) => waiter.send(answer).err(),
            None => Some(answer),
        };
        if let Some(answer) = untold {
            self.give_back(command, &answer);
        }
    }

    pub(super) fn give_back(self: &Arc<Pipeline>, command: &Command, answer: &CommandResult) {
        let Some(give_back) = command.give_back(answer) else { return };
        let mut state = self.state();
        state.queue.push_give_back(give_back);
        self.start_flushers(&mut state);
    }

    fn report(&self, server: &Server, report: HealthReport, deadline: Instant) {
        // This process was held up itself, so that nothing is known of the server.
        let was_held_up = || Instant::now() > deadline + server.timeout() / 2;
        match report.verdict() {
            Verdict::Answers => server.health.succeeded(),
            Verdict::Lost(_) if was_held_up() => {}
            verdict => {
                // Its name may have another address by now.
                *lock(&self.client) = None;
                server.count_failure(&verdict);
            }
        }
    }

    async fn client(
        &self,
        server: &Server,
        deadline: Instant,
    ) -> Result<Arc<Client>, CommandError> {
        #[cfg(feature = "testing")]
        if let Some(network) = &server.network {
            return Ok(Arc::new(Client::Memory(network.at(&server.address))));
        }
        let made = lock(&self.client).clone();
        if let Some(client) = made {
            return Ok(client);
        }
        // In a box, as it is rare: what holds the command of a direct exchange is made for each call.
        let connect = Client::connect(&server.address, FLUSHERS + DIRECT, &self.runtime);
        let connect = Box::pin(run_until(deadline, connect));
        let client = connect.await.unwrap_or_else(|| Err(CommandError::timed_out()))?;
        // Two that resolve the name at once make two clients; one of them is kept.
        let mut kept = lock(&self.client);
        Ok(Arc::clone(kept.get_or_insert_with(|| Arc::new(client))))
    }

    pub(super) fn end_direct_exchange(&self) {
        self.state().direct -= 1;
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn state(&self) -> MutexGuard<'_, PipelineState> {
        lock(&self.state)
    }
}

fn unused() -> CommandError {
    CommandError::lost("it is no longer used")
}

fn too_many() -> CommandError {
    CommandError::refused("too many commands wait for it")
}

/// The answer of a flusher, which may have ended with its runtime.
fn unwrap(answer: Result<CommandResult, oneshot::error::RecvError>) -> CommandResult {
    answer.unwrap_or_else(|_| Err(CommandError::lost("its runtime has ended")))
}

/// Carries the queue, until it is empty.
struct Flusher {
    pipeline: Arc<Pipeline>,
    /// True while the pipeline counts it.
    is_counted: bool,
}

impl Flusher {
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
            let is_one = batch.commands.len() == 1;
            self.pipeline.exchange(batch).await;
            if !is_one {
                // Those who were answered just now may ask again.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// A flusher that is dropped ended with its runtime, and nobody will carry what waits.
impl Drop for Flusher {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        let mut state = self.pipeline.state();
        state.flushers -= 1;
        let lost = (state.flushers == 0).then(|| state.queue.take_all());
        drop(state);
        drop(lost);
    }
}
