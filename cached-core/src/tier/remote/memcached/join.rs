//! Several futures awaited in one task.
//!
//! A task for each would wait for its turn at every step. Where a hundred thousand callers are ready,
//! a turn takes a second, and a write that is due by then is late.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

pub(super) type BoxedFuture<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// Runs all futures at once. Each is polled whenever one of them is woken, so there should be few.
pub(super) async fn join_all<T>(mut futures: Vec<BoxedFuture<'_, T>>) -> Vec<T> {
    let mut outputs = Vec::with_capacity(futures.len());
    poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(output) => {
                outputs.push(output);
                false
            }
            Poll::Pending => true,
        });
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs
}
