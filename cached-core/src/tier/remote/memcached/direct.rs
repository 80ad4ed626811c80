//! A command that its caller runs in its own task.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::command::{Command, CommandError, CommandResult};
use super::pipeline::Pipeline;

/// A command that its caller runs itself. If the caller goes away in the middle, a task goes on with
/// it: the connection stays good, and a lease that is won is given back.
pub(super) struct DirectExchange {
    pipeline: Arc<Pipeline>,
    exchange: Option<Pin<Box<dyn Future<Output = CommandResult> + Send>>>,
    /// The command, if it may win a right that is to be given back.
    command: Option<Command>,
}

impl DirectExchange {
    pub(super) fn new(permit: DirectPermit, command: Command, now: Instant) -> DirectExchange {
        let read = command.is_read().then(|| command.clone());
        let pipeline = Arc::clone(&permit.0);
        let exchange = Box::pin(async move {
            let permit = permit;
            permit.0.exchange_one(command, now).await
        });
        DirectExchange { pipeline, exchange: Some(exchange), command: read }
    }
}

impl Future for DirectExchange {
    type Output = CommandResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CommandResult> {
        // Taken out while it is polled: one that panics is not to be gone on with.
        let Some(mut exchange) = self.exchange.take() else {
            return Poll::Ready(Err(CommandError::timed_out()));
        };
        let polled = exchange.as_mut().poll(context);
        if polled.is_pending() {
            self.exchange = Some(exchange);
        }
        polled
    }
}

impl Drop for DirectExchange {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            let (pipeline, command) = (Arc::clone(&self.pipeline), self.command.take());
            self.pipeline.runtime().spawn(async move {
                let answer = exchange.await;
                if let Some(command) = command {
                    pipeline.give_back(&command, &answer);
                }
            });
        }
    }
}

/// Counts as a direct exchange until it is dropped.
pub(super) struct DirectPermit(Arc<Pipeline>);

impl DirectPermit {
    /// The pipeline must have counted it.
    pub(super) fn new(pipeline: &Arc<Pipeline>) -> DirectPermit {
        DirectPermit(Arc::clone(pipeline))
    }
}

impl Drop for DirectPermit {
    fn drop(&mut self) {
        self.0.end_direct_exchange();
    }
}
