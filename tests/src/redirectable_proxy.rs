//! A proxy in front of several memcached servers. A test chooses the server that later connections
//! reach, as if a host name had several addresses.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::Memcached;

/// A proxy on a loopback port. It runs until the test process ends.
#[derive(Debug)]
pub struct RedirectableProxy {
    address: String,
    target: Arc<AtomicU16>,
}

impl RedirectableProxy {
    /// Starts a proxy that forwards connections to `target`.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start(target: &Memcached) -> RedirectableProxy {
        RedirectableProxy::start_slow(target, Duration::ZERO)
    }

    /// Starts a proxy that forwards connections to `target`, and delays everything that it forwards
    /// to the server by `delay`.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start_slow(target: &Memcached, delay: Duration) -> RedirectableProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("the listener has an address").to_string();
        let target = Arc::new(AtomicU16::new(target.port()));
        let shared = Arc::clone(&target);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let target = (Ipv4Addr::LOCALHOST, shared.load(Ordering::SeqCst));
                let Ok(server) = TcpStream::connect(target) else { continue };
                forward(&client, &server, delay);
                forward(&server, &client, Duration::ZERO);
            }
        });
        RedirectableProxy { address, target }
    }

    /// Forwards later connections to `target`. Open connections keep their server.
    pub fn switch_to(&self, target: &Memcached) {
        self.target.store(target.port(), Ordering::SeqCst);
    }

    /// Returns the address as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }
}

/// Starts a thread that copies bytes from one socket to the other until a connection ends. The
/// thread sleeps for `delay` before it writes.
fn forward(from: &TcpStream, to: &TcpStream, delay: Duration) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("the socket can be cloned");
    let (mut from, mut to) = (clone(from), clone(to));
    to.set_nodelay(true).expect("the socket takes the option");
    std::thread::spawn(move || {
        let mut bytes = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            std::thread::sleep(delay);
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
