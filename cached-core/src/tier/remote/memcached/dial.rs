//! How a connection is opened: to which of a name's addresses, and only to a server that is found fit.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::command::CommandError;
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
    Pin<Box<dyn Future<Output = (usize, Result<Box<Connection>, CommandError>)> + Send + 'a>>;

impl Addresses {
    pub(super) async fn resolve(
        address: &str,
        runtime: &Handle,
    ) -> Result<Addresses, CommandError> {
        let addresses = lookup_host(address).await.map_err(CommandError::lost)?;
        Ok(Addresses::new(addresses.collect(), runtime))
    }

    pub(super) fn new(addresses: Vec<SocketAddr>, runtime: &Handle) -> Addresses {
        let (first, runtime) = (AtomicUsize::new(0), runtime.clone());
        Addresses { addresses: alternate_families(addresses), first, runtime }
    }

    /// Opens a connection to the address that answers first. They are tried one after the other, each
    /// with a head start (RFC 8305): an address may be silent, as that of a machine that is gone is.
    pub(super) async fn open(&self, deadline: Instant) -> Result<Box<Connection>, CommandError> {
        let opened = run_until(deadline, self.race(deadline)).await;
        opened.unwrap_or_else(|| Err(CommandError::timed_out()))
    }

    async fn race(&self, deadline: Instant) -> Result<Box<Connection>, CommandError> {
        let count = self.addresses.len();
        let first = self.first.load(Ordering::Relaxed);
        let mut untried = (0..count).map(|index| (first + index) % count);
        let left = deadline.saturating_duration_since(Instant::now());
        let head_start = (left / 4).min(LONGEST_HEAD_START);
        let mut attempts: Vec<Attempt<'_>> = Vec::new();
        let mut next_at = Box::pin(sleep(head_start));
        let mut failure = CommandError::lost("its name has no address");
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
    ) -> (usize, Result<Box<Connection>, CommandError>) {
        let opened = async {
            let stream =
                TcpStream::connect(self.addresses[index]).await.map_err(CommandError::lost)?;
            stream.set_nodelay(true).map_err(CommandError::lost)?;
            let mut stream = stream;
            let incarnation = probe(&mut stream).await?;
            Ok(Box::new(Connection::new(stream, incarnation, deadline)))
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// An address that takes no connection and refuses none, as that of a machine that is gone.
    async fn silent() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = socket.listen(1).expect("it listens");
        let address = listener.local_addr().expect("bound");
        let mut waiting = Vec::new();
        let patience = Duration::from_millis(50);
        while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
            waiting.push(stream.expect("its backlog takes it"));
        }
        (address, listener, waiting)
    }

    async fn fit() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 99]).await;
                let _ = stream.write_all(b"VERSION 1.6.18\r\nNF c0\r\nEND\r\nMN\r\n").await;
            }
        });
        address
    }

    #[tokio::test]
    async fn an_address_that_is_silent_does_not_keep_the_next_from_answering() {
        let (silent, _listener, _waiting) = silent().await;
        // This one accepts connections, and says nothing on them.
        let mute = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mute_address = mute.local_addr().expect("bound");
        let addresses = vec![silent, mute_address, fit().await];
        let addresses = Addresses::new(addresses, &Handle::current());
        let timeout = Duration::from_millis(800);
        let began = Instant::now();
        assert!(addresses.open(began + timeout).await.is_ok());
        assert!(began.elapsed() > timeout / 4, "the others had a head start");
        // The one that answered comes first from now on.
        let began = Instant::now();
        assert!(addresses.open(began + timeout).await.is_ok());
        assert!(began.elapsed() < timeout / 4, "{:?}", began.elapsed());
    }

    #[test]
    fn addresses_of_the_two_families_alternate() {
        let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        let [a, b, c] = ["[::1]:1", "[::2]:1", "[::3]:1"].map(address);
        let [x, y] = ["1.1.1.1:1", "1.1.1.2:1"].map(address);
        assert_eq!(alternate_families(vec![a, b, c, x]), [a, x, b, c]);
        assert_eq!(alternate_families(vec![x, y, a]), [x, a, y]);
    }
}
