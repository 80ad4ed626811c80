//! A direct exchange: the caller's own task sends a command and receives the result. All other
//! commands are sent by a task of the [`pipeline`](super::pipeline), which decides between the two.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use super::command::{CommandError, CommandResult};

/// An exchange that the caller's task polls.
///
/// If the caller drops this future before the exchange ends, a new task finishes the exchange and
/// passes the result to `on_orphaned`. So the connection stays usable. `on_orphaned` can also give
/// back a lease (the right to fill a missing entry) that the command has won.
pub(super) struct DirectExchange<'p, C>
where
    C: FnOnce(CommandResult) + Send + Unpin + 'static,
{
    runtime: &'p Handle,
    exchange: Option<Pin<Box<dyn Future<Output = CommandResult> + Send>>>,
    on_orphaned: Option<C>,
}

impl<'p, C> DirectExchange<'p, C>
where
    C: FnOnce(CommandResult) + Send + Unpin + 'static,
{
    pub(super) fn new(
        runtime: &'p Handle,
        exchange: impl Future<Output = CommandResult> + Send + 'static,
        on_orphaned: C,
    ) -> DirectExchange<'p, C> {
        let exchange = Some(Box::pin(exchange) as _);
        DirectExchange { runtime, exchange, on_orphaned: Some(on_orphaned) }
    }
}

impl<C> Future for DirectExchange<'_, C>
where
    C: FnOnce(CommandResult) + Send + Unpin + 'static,
{
    type Output = CommandResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CommandResult> {
        // An exchange must not be polled again after it has panicked, so the field is empty during
        // a poll.
        let Some(mut exchange) = self.exchange.take() else {
            return Poll::Ready(Err(CommandError::timed_out()));
        };
        // The caller's task might run on another runtime by now. The timers and sockets that the
        // exchange creates must still belong to the pipeline's runtime.
        let _entered = self.runtime.enter();
        let polled = exchange.as_mut().poll(context);
        if polled.is_pending() {
            self.exchange = Some(exchange);
        }
        polled
    }
}

impl<C> Drop for DirectExchange<'_, C>
where
    C: FnOnce(CommandResult) + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        if let (Some(exchange), Some(on_orphaned)) = (self.exchange.take(), self.on_orphaned.take())
        {
            self.runtime.spawn(async move { on_orphaned(exchange.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;
    use std::time::Duration;

    use super::super::command::Reply;
    use super::*;

    #[test]
    fn an_exchange_uses_the_timers_of_its_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the runtime starts");
        let exchange = async {
            drop(tokio::time::sleep(Duration::ZERO));
            Ok(Reply::Applied(true))
        };
        let mut direct = pin!(DirectExchange::new(runtime.handle(), exchange, |_| ()));
        // This thread is outside every runtime.
        let polled = direct.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(Reply::Applied(true)))));
    }
}
