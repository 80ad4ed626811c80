//! Opens connections to a memcached server. The server's host name can have several addresses. A
//! new connection is used only if the server passes the *probe*, a test that the server understands
//! this library's commands.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;

use super::cas::Incarnation;
use super::command::CommandError;
use super::identity::ServerIdentity;
use super::probe::{ServerProcess, probe};
use super::timer::run_until;

/// The longest time that one address has to answer before the next address is tried as well. RFC
/// 8305 recommends this value.
const MAX_HEAD_START: Duration = Duration::from_millis(250);

/// Opens connections to the addresses of one host name.
pub(super) struct Dialer {
    addresses: Vec<SocketAddr>,
    /// Remembers the address of the newest connection to the server. [`dial`](Self::dial) tries
    /// this address first.
    identity: Arc<ServerIdentity>,
}

/// An open stream to a server that has passed the probe.
pub(super) struct ProbedStream {
    pub(super) stream: TcpStream,
    /// The incarnation of the server: one run of its process.
    pub(super) incarnation: Incarnation,
}

/// An address that has answered, the stream to it, and the memcached process there.
type DialedConnection = (SocketAddr, TcpStream, ServerProcess);

/// An attempt to connect to one address.
type DialAttempt = Pin<Box<dyn Future<Output = Result<DialedConnection, CommandError>> + Send>>;

impl Dialer {
    pub(super) async fn resolve(
        address: &str,
        identity: Arc<ServerIdentity>,
    ) -> Result<Dialer, CommandError> {
        let addresses = lookup_host(address).await.map_err(CommandError::unreachable)?;
        Ok(Dialer::new(addresses.collect(), identity))
    }

    fn new(addresses: Vec<SocketAddr>, identity: Arc<ServerIdentity>) -> Dialer {
        Dialer { addresses: dial_order(addresses), identity }
    }

    /// Connects to the first address that answers, and tells [`ServerIdentity`] which memcached
    /// process runs there. If an address has not answered after a short time, the next address is
    /// tried as well (RFC 8305), because a machine that is gone never answers.
    ///
    /// The caller must poll this future on the runtime that drives the connections.
    pub(super) async fn dial(&self, deadline: Instant) -> Result<ProbedStream, CommandError> {
        let dialed = run_until(deadline, self.race(deadline)).await;
        let (address, stream, process) =
            dialed.unwrap_or_else(|| Err(CommandError::timed_out()))?;
        self.identity.observe(address, process);
        Ok(ProbedStream { stream, incarnation: process.incarnation })
    }

    async fn race(&self, deadline: Instant) -> Result<DialedConnection, CommandError> {
        let count = self.addresses.len();
        let preferred = self.identity.preferred_address();
        let is_preferred = |address: &SocketAddr| Some(*address) == preferred;
        let preferred = self.addresses.iter().position(is_preferred).unwrap_or(0);
        let mut untried = (0..count).map(|index| (preferred + index) % count);
        let time_left = deadline.saturating_duration_since(Instant::now());
        let head_start = (time_left / 4).min(MAX_HEAD_START);
        let mut attempts: Vec<DialAttempt> = Vec::new();
        let mut next_at = Box::pin(sleep(head_start));
        let mut last_error = CommandError::unreachable("the host name has no address");
        std::future::poll_fn(move |context| {
            loop {
                let mut dialed = None;
                attempts.retain_mut(|attempt| match attempt.as_mut().poll(context) {
                    Poll::Ready(Ok(answered)) => {
                        dialed = Some(answered);
                        false
                    }
                    Poll::Ready(Err(error)) => {
                        last_error = error;
                        false
                    }
                    Poll::Pending => true,
                });
                if let Some(dialed) = dialed {
                    return Poll::Ready(Ok(dialed));
                }
                let is_next = attempts.is_empty() || next_at.as_mut().poll(context).is_ready();
                match if is_next { untried.next() } else { None } {
                    Some(index) => attempts.push(Box::pin(attempt(self.addresses[index]))),
                    None if attempts.is_empty() => return Poll::Ready(Err(last_error.clone())),
                    None => return Poll::Pending,
                }
                next_at.as_mut().reset(tokio::time::Instant::now() + head_start);
            }
        })
        .await
    }
}

async fn attempt(address: SocketAddr) -> Result<DialedConnection, CommandError> {
    let mut stream = TcpStream::connect(address).await.map_err(CommandError::unreachable)?;
    stream.set_nodelay(true).map_err(CommandError::unreachable)?;
    let mut process = probe(&mut stream).await?;
    if process.incarnation == Incarnation::UNKNOWN {
        process.incarnation = Incarnation::of_address(address);
    }
    Ok((address, stream, process))
}

/// Reorders the addresses so that IPv6 and IPv4 alternate, because all addresses of one family
/// might be unreachable. Within a family, the addresses are sorted, so that all processes try them
/// in the same order. A name server can list them in a different order for each process.
fn dial_order(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(is_ipv6_first) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    addresses.sort_unstable();
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_ipv6_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut alternating = Vec::new();
    loop {
        let before = alternating.len();
        alternating.extend(first.next());
        alternating.extend(second.next());
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

    /// Returns an address that neither accepts nor refuses connections, as if its machine were
    /// gone.
    async fn silent_address() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().expect("the socket opens");
        socket.bind("127.0.0.1:0".parse().expect("the address is valid")).expect("a port is free");
        let listener = socket.listen(1).expect("the socket listens");
        let address = listener.local_addr().expect("the listener has an address");
        let mut backlog = Vec::new();
        let timeout = Duration::from_millis(50);
        while let Ok(stream) = tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            backlog.push(stream.expect("the backlog has room"));
        }
        (address, listener, backlog)
    }

    async fn memcached_address() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("the listener has an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 99]).await;
                let _ = stream.write_all(b"VERSION 1.6.18\r\nNF c0\r\nEND\r\nMN\r\n").await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_silent_address_does_not_block_the_next() {
        let (silent, _listener, _backlog) = silent_address().await;
        // This server accepts connections and never answers.
        let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let mute_address = mute.local_addr().expect("the listener has an address");
        let addresses = vec![silent, mute_address, memcached_address().await];
        let identity = Arc::new(ServerIdentity::new(|| (), || ()));
        // `Dialer::new` would sort the addresses, but this test needs them in this order.
        let dialer = Dialer { addresses: addresses.clone(), identity: Arc::clone(&identity) };
        let timeout = Duration::from_millis(800);
        let began = Instant::now();
        assert!(dialer.dial(began + timeout).await.is_ok());
        assert!(began.elapsed() > timeout / 4, "each earlier address has a head start");
        // From now on, every dialer with this identity starts with the address that answered.
        let other = Dialer { addresses, identity };
        for dialer in [dialer, other] {
            let began = Instant::now();
            assert!(dialer.dial(began + timeout).await.is_ok());
            assert!(began.elapsed() < timeout / 4, "dialing took {:?}", began.elapsed());
        }
    }

    #[test]
    fn address_families_alternate_in_a_fixed_order() {
        let address = |text: &str| -> SocketAddr { text.parse().expect("the address is valid") };
        let [a, b, c] = ["[::1]:1", "[::2]:1", "[::3]:1"].map(address);
        let [x, y] = ["1.1.1.1:1", "1.1.1.2:1"].map(address);
        assert_eq!(dial_order(vec![c, a, x, b]), [a, x, b, c]);
        assert_eq!(dial_order(vec![y, x, a]), [x, a, y]);
    }
}
