//! Many callers, one round trip: the way of one runtime's commands to one server.
//!
//! A caller that finds few under way runs its own command in its own task, and pays nothing for the
//! others. Who comes meanwhile queues, and a *drain* carries the queue: a task of its own, which
//! takes what has gathered while its last exchange was under way and ends when nothing has. So
//! nobody's command waits for a task that somebody else may have dropped, or holds and does not
//! poll.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::client::{Client, Command, Failure, Reply};
use super::server::Server;
use super::{Found, Item};

/// So many commands travel together at most.
pub(super) const BATCH: usize = 512;
/// Together they are written in at most so many bytes, which the buffers of a connection take: the
/// client writes a whole batch before it reads, and the server may wait for it to read. What is
/// larger travels alone.
const BATCH_BYTES: usize = 48 << 10;
/// What a command is written in beside its frame, at most.
const COMMAND_BYTES: usize = 320;
/// Exchanges of drains under way at once.
const DRAINS: usize = 2;
/// Callers that run their own commands at once: a few do better each on a connection of its own than
/// by waiting for one another.
const ALONE: usize = 4;
/// Another drain starts when so many wait.
const FULL: usize = 64;
/// Where more wait, a command is refused at once.
const WAITING: usize = 32 << 10;

pub(super) type Answer = Result<Reply, Failure>;

pub(super) struct Lane {
    server: Weak<Server>,
    runtime: Handle,
    /// Made on first use and again after a failure: a client resolves its name but once.
    client: Mutex<Option<Arc<Client>>>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    drains: usize,
    /// Callers that run their own commands.
    alone: usize,
}

struct Waiting {
    command: Command,
    /// `None` where nobody wants to know.
    answer: Option<oneshot::Sender<Answer>>,
}

enum Entered {
    Alone(Alone),
    Waits(oneshot::Receiver<Answer>),
    Refused,
}

impl Lane {
    pub(super) fn new(server: Weak<Server>, runtime: &Handle) -> Arc<Lane> {
        let runtime = runtime.clone();
        Arc::new(Lane { server, runtime, client: Mutex::default(), queue: Mutex::default() })
    }

    /// Runs a command that is asked `now`; its answer, or a failure at the deadline.
    pub(super) async fn ask(
        self: &Arc<Lane>,
        command: Command,
        now: Instant,
        deadline: Instant,
    ) -> Answer {
        let answered = match self.enter(command, now) {
            // Its exchange ends in time by itself.
            Entered::Alone(alone) => return alone.await,
            Entered::Waits(answer) => timeout_at(deadline.into(), answer).await.map(unwrap),
            Entered::Refused => return Err(too_many()),
        };
        answered.unwrap_or_else(|_| Err(Failure::too_late()))
    }

    /// Runs several that travel together, where there is room; answers in order.
    pub(super) async fn ask_many(
        self: &Arc<Lane>,
        commands: Vec<Command>,
        deadline: Instant,
    ) -> Vec<Answer> {
        let answers: Vec<_> = {
            let mut queue = self.queue();
            let answers = commands.into_iter().map(|command| queue.push(command)).collect();
            self.start_drains(&mut queue);
            answers
        };
        let mut answered = Vec::with_capacity(answers.len());
        for answer in answers {
            answered.push(match answer {
                Some(answer) => match timeout_at(deadline.into(), answer).await {
                    Ok(answer) => unwrap(answer),
                    Err(_) => Err(Failure::too_late()),
                },
                None => Err(too_many()),
            });
        }
        answered
    }

    fn enter(self: &Arc<Lane>, command: Command, now: Instant) -> Entered {
        let mut queue = self.queue();
        if queue.alone < ALONE && queue.drains == 0 {
            queue.alone += 1;
            drop(queue);
            return Entered::Alone(Alone::new(self, command, now));
        }
        match queue.push(command) {
            Some(answer) => {
                self.start_drains(&mut queue);
                Entered::Waits(answer)
            }
            None => Entered::Refused,
        }
    }

    fn start_drains(self: &Arc<Lane>, queue: &mut Queue) {
        let waiting = queue.waiting.len();
        if waiting > 0 && (queue.drains == 0 || (queue.drains < DRAINS && waiting >= FULL)) {
            queue.drains += 1;
            let drain = Drain { lane: Arc::clone(self), counted: true };
            self.runtime.spawn(drain.run());
        }
    }

    /// One command's exchange, and what it says of the server's health.
    async fn exchange_one(&self, command: &Command, now: Instant) -> Answer {
        let server = self.server.upgrade().ok_or_else(unused)?;
        let deadline = now + server.timeout();
        let answer = match self.client(&server, deadline).await {
            Ok(client) => client.run_one(command, server.clock.at(now), deadline).await,
            Err(failure) => Err(failure),
        };
        self.judge(&server, std::slice::from_ref(&answer));
        answer
    }

    /// The same for several.
    async fn exchange(&self, commands: Vec<Command>) -> Vec<Answer> {
        let count = commands.len();
        let failed = |failure: Failure| (0..count).map(|_| Err(failure.clone())).collect();
        let Some(server) = self.server.upgrade() else { return failed(unused()) };
        // The client bounds a batch and lets a part of it be answered; this bounds what it may not.
        let deadline = Instant::now() + server.timeout() * 2;
        let exchange = async {
            let client = self.client(&server, deadline).await?;
            Ok(client.run(commands, server.clock.now()).await)
        };
        let answers = match timeout_at(deadline.into(), exchange).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(failure)) => failed(failure),
            Err(_) => failed(Failure::too_late()),
        };
        self.judge(&server, &answers);
        answers
    }

    fn judge(&self, server: &Server, answers: &[Answer]) {
        // A server that answers a part is slow, or the batch large; it is there.
        match answers.iter().find_map(|answer| answer.as_ref().err()) {
            Some(Failure::Lost(why)) if answers.iter().all(is_lost) => {
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
                server.failed(why);
            }
            _ => server.health.succeeded(),
        }
    }

    async fn client(&self, server: &Server, deadline: Instant) -> Result<Arc<Client>, Failure> {
        #[cfg(feature = "testing")]
        if let Some(network) = &server.network {
            return Ok(Arc::new(Client::Memory(network.at(&server.address))));
        }
        let made = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = made {
            return Ok(client);
        }
        // In a box, as it is rare: what holds the command of one alone is made for each call.
        let connect = Client::connect(&server.address, DRAINS + ALONE, server.timeout());
        let connect = Box::pin(timeout_at(deadline.into(), connect));
        let client = connect.await.unwrap_or_else(|_| Err(Failure::too_late()))?;
        // Two that dial at once make two clients; one of them is kept.
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(kept.get_or_insert_with(|| Arc::new(client))))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what an answer that nobody takes has won.
    fn unclaimed(self: &Arc<Lane>, key: Option<Arc<str>>, answer: Answer) {
        let (Some(key), Ok(Reply::Found(found))) = (key, answer) else { return };
        let command = match found {
            Found::Lease(cas) => Command::Delete { key, unchanged: Some(cas) },
            Found::Item(Item { won: true, cas, .. }) => Command::LetOthersWin { key, cas },
            _ => return,
        };
        let mut queue = self.queue();
        queue.waiting.push_back(Waiting { command, answer: None });
        self.start_drains(&mut queue);
    }
}

fn unused() -> Failure {
    Failure::lost("it is no longer used")
}

fn too_many() -> Failure {
    Failure::Refused("too many commands wait for it".into())
}

/// The answer of a drain, which may have ended with its runtime.
fn unwrap(answer: Result<Answer, oneshot::error::RecvError>) -> Answer {
    answer.unwrap_or_else(|_| Err(Failure::lost("its runtime has ended")))
}

fn is_lost(answer: &Answer) -> bool {
    matches!(answer, Err(Failure::Lost(_)))
}

impl Queue {
    fn push(&mut self, command: Command) -> Option<oneshot::Receiver<Answer>> {
        if self.waiting.len() >= WAITING {
            return None;
        }
        let (answer, receiver) = oneshot::channel();
        self.waiting.push_back(Waiting { command, answer: Some(answer) });
        Some(receiver)
    }

    /// What travels next. A command whose caller has gone does not, but for a removal: that it came
    /// to be unwanted does not make the entry right.
    fn next_batch(&mut self) -> Vec<Waiting> {
        let mut batch: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.waiting.front()
            && batch.len() < BATCH
        {
            let size = COMMAND_BYTES.min(BATCH_BYTES / BATCH) + next.command.frame_bytes();
            if !batch.is_empty() && bytes + size > BATCH_BYTES {
                break;
            }
            bytes += size;
            let Some(next) = self.waiting.pop_front() else { break };
            let gone = next.answer.as_ref().is_some_and(oneshot::Sender::is_closed);
            if !gone || matches!(next.command, Command::Delete { unchanged: None, .. }) {
                batch.push(next);
            }
        }
        batch
    }
}

/// Carries the queue, until it is empty.
struct Drain {
    lane: Arc<Lane>,
    /// Whether the queue counts it.
    counted: bool,
}

impl Drain {
    async fn run(mut self) {
        loop {
            let batch = {
                let mut queue = self.lane.queue();
                let batch = queue.next_batch();
                if batch.is_empty() {
                    queue.drains -= 1;
                    self.counted = false;
                    return;
                }
                batch
            };
            let is_one = batch.len() == 1;
            self.carry(batch).await;
            if !is_one {
                // Who was answered just now may ask again.
                tokio::task::yield_now().await;
            }
        }
    }

    async fn carry(&self, batch: Vec<Waiting>) {
        let (commands, answers): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|waiting| {
                let leased = waiting.command.leased_key();
                (waiting.command, (leased, waiting.answer))
            })
            .unzip();
        let answered = match <[Command; 1]>::try_from(commands) {
            // One alone is spared what it takes to tell many apart.
            Ok([command]) => vec![self.lane.exchange_one(&command, Instant::now()).await],
            Err(commands) => self.lane.exchange(commands).await,
        };
        for ((leased, waits), answer) in answers.into_iter().zip(answered) {
            if let Some(waits) = waits
                && let Err(answer) = waits.send(answer)
            {
                self.lane.unclaimed(leased, answer);
            }
        }
    }
}

/// A drain that is dropped ended with its runtime, and nobody will carry what waits.
impl Drop for Drain {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        let mut queue = self.lane.queue();
        queue.drains -= 1;
        let lost = match queue.drains {
            0 => std::mem::take(&mut queue.waiting),
            _ => VecDeque::new(),
        };
        drop(queue);
        drop(lost);
    }
}

/// A command that its caller runs itself. Where the caller goes away in the middle, a task goes on
/// with it: the connection stays good, and a lease that is won is given back.
struct Alone {
    lane: Arc<Lane>,
    leased: Option<Arc<str>>,
    exchange: Option<Pin<Box<dyn Future<Output = Answer> + Send>>>,
}

impl Alone {
    fn new(lane: &Arc<Lane>, command: Command, now: Instant) -> Alone {
        let leased = command.leased_key();
        let seat = Seat(Arc::clone(lane));
        let exchange = Box::pin(async move {
            let seat = seat;
            seat.0.exchange_one(&command, now).await
        });
        Alone { lane: Arc::clone(lane), leased, exchange: Some(exchange) }
    }
}

impl Future for Alone {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        // Taken out while it is polled: one that panics is not to be gone on with.
        let Some(mut exchange) = self.exchange.take() else {
            return Poll::Ready(Err(Failure::too_late()));
        };
        let polled = exchange.as_mut().poll(context);
        if polled.is_pending() {
            self.exchange = Some(exchange);
        }
        polled
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            let (lane, leased) = (Arc::clone(&self.lane), self.leased.take());
            let rest = async move { lane.unclaimed(leased, exchange.await) };
            self.lane.runtime.spawn(rest);
        }
    }
}

/// The place of one who runs its own command.
struct Seat(Arc<Lane>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.queue().alone -= 1;
    }
}
