//! Awaits several futures in one task.
//!
//! A task for each future would be too slow under load. With a hundred thousand runnable tasks,
//! each poll of a task waits about a second for its turn on the runtime. Background writes and
//! renewals of leases would then come too late.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

pub(super) type BoxedFuture<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// Runs all futures concurrently. Returns their outputs in the order in which the futures end.
/// Every wake-up polls all unfinished futures, so the caller should pass at most a few hundred
/// futures.
pub(super) async fn run_all<T>(mut futures: Vec<BoxedFuture<'_, T>>) -> Vec<T> {
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
