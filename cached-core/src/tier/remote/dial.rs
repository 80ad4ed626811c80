//! How a connection is opened: to which of a name's addresses, and only to a server that is found fit.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::command::Failure;
use super::connection::Connection;
use super::probe::probe;
use super::timer::run_until;

/// The longest that an address is tried before the next one is tried too. RFC 8305 recommends it.
const LONGEST_HEAD_START: Duration = Duration::from_millis(250);

/// The addresses of one name.
pub(super) struct Addresses {
    addresses: Vec<SocketAddr>,
    /// The index of the one that answered last.
    first: AtomicUsize,
    /// A connection belongs to this runtime, whichever task opens it.
    runtime: Handle,
}

type Attempt<'a> =
    Pin<Box<dyn Future<Output = (usize, Result<Box<Connection>, Failure>)> + Send + 'a>>;

impl Addresses {
    pub(super) async fn resolve(address: &str, runtime: &Handle) -> Result<Addresses, Failure> {
        let addresses = lookup_host(address).await.map_err(Failure::lost)?;
        Ok(Addresses::new(addresses.collect(), runtime))
    }

    pub(super) fn new(addresses: Vec<SocketAddr>, runtime: &Handle) -> Addresses {
        let (first, runtime) = (AtomicUsize::new(0), runtime.clone());
        Addresses { addresses: alternate_families(addresses), first, runtime }
    }

    /// Opens a connection to the address that answers first. They are tried one after the other, each
    /// with a head start (RFC 8305): an address may be silent, as that of a machine that is gone is.
    pub(super) async fn open(&self, deadline: Instant) -> Result<Box<Connection>, Failure> {
        let opened = run_until(deadline, self.race(deadline)).await;
        opened.unwrap_or_else(|| Err(Failure::too_late()))
    }

    async fn race(&self, deadline: Instant) -> Result<Box<Connection>, Failure> {
        let count = self.addresses.len();
        let first = self.first.load(Ordering::Relaxed);
        let mut untried = (0..count).map(|index| (first + index) % count);
        let left = deadline.saturating_duration_since(Instant::now());
        let head_start = (left / 4).min(LONGEST_HEAD_START);
        let mut attempts: Vec<Attempt<'_>> = Vec::new();
        let mut next_at = Box::pin(sleep(head_start));
        let mut failure = Failure::lost("its name has no address");
        std::future::poll_fn(move |context| {
            let _entered = self.runtime.enter();
            loop {
                let mut opened = None;
                attempts.retain_mut(|attempt| match attempt.as_mut().poll(context) {
                    Poll::Ready((index, Ok(connection))) => {
                        opened = Some((index, connection));
                        false
                    }
                    Poll::Ready((_, Err(error))) => {
                        failure = error;
                        false
                    }
                    Poll::Pending => true,
                });
                if let Some((index, connection)) = opened {
                    self.first.store(index, Ordering::Relaxed);
                    return Poll::Ready(Ok(connection));
                }
                let is_next = attempts.is_empty() || next_at.as_mut().poll(context).is_ready();
                match if is_next { untried.next() } else { None } {
                    Some(index) => attempts.push(Box::pin(self.attempt(index, deadline))),
                    None if attempts.is_empty() => return Poll::Ready(Err(failure.clone())),
                    None => return Poll::Pending,
                }
                next_at.as_mut().reset(tokio::time::Instant::now() + head_start);
            }
        })
        .await
    }

    async fn attempt(
        &self,
        index: usize,
        deadline: Instant,
    ) -> (usize, Result<Box<Connection>, Failure>) {
        let opened = async {
            let stream = TcpStream::connect(self.addresses[index]).await.map_err(Failure::lost)?;
            stream.set_nodelay(true).map_err(Failure::lost)?;
            let mut stream = stream;
            probe(&mut stream).await?;
            Ok(Box::new(Connection::new(stream, deadline)))
        };
        (index, opened.await)
    }
}

/// Puts addresses of the two families in turn: all of one may be unreachable.
fn alternate_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(is_first) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    let (same, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_first);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut alternating = Vec::new();
    loop {
        let before = alternating.len();
        alternating.extend(same.next());
        alternating.extend(other.next());
        if alternating.len() == before {
            return alternating;
        }
    }
}
