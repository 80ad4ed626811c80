//! A server for the browser tests. It serves the routes of a program, such as those of the cache's
//! console, over HTTP on a loopback port.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The token that the tests' consoles accept.
pub const TOKEN: &str = "a-token-that-only-the-tests-know";

/// A running server of the console. Dropping this value ends it.
#[derive(Debug)]
pub struct ConsoleServer {
    /// The address as `127.0.0.1:port`.
    pub address: String,
    server: JoinHandle<()>,
}

impl ConsoleServer {
    /// Serves these routes on a free port.
    ///
    /// # Panics
    /// Panics if no port is free.
    pub async fn serve(routes: Router) -> ConsoleServer {
        ConsoleServer::serve_on(0, routes).await.expect("a port is free")
    }

    /// Serves these routes on this port. Returns `None` if the port is in use.
    pub async fn serve_on(port: u16, routes: Router) -> Option<ConsoleServer> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let address = listener.local_addr().ok()?.to_string();
        let service = routes.into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move {
            // `axum::serve` retries a failed `accept`, so it ends only with the task.
            let _ = axum::serve(listener, service).await;
        });
        Some(ConsoleServer { address, server })
    }

    /// Returns the URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the port.
    ///
    /// # Panics
    /// Never: the address has a port.
    #[must_use]
    pub fn port(&self) -> u16 {
        let port = self.address.rsplit(':').next();
        port.and_then(|port| port.parse().ok()).expect("an address has a port")
    }

    /// Ends the server. The port is free once this method has returned.
    pub async fn end(mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }
}

impl Drop for ConsoleServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}
