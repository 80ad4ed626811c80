//! A memcached that refuses every command. The process keeps its values as if there were no memcached.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cached_core::{Cache, coordinator_cached};
use cached_tests::{Down, Upstream, free_port};

/// A memcached process that asks for a password, which the library does not have.
struct WithPassword(Child);

impl WithPassword {
    fn start(port: u16) -> WithPassword {
        let passwords = std::env::temp_dir().join(format!("cached-passwords-{port}"));
        std::fs::write(&passwords, "user:secret\n").expect("the file can be written");
        let mut command = Command::new("memcached");
        command.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody", "-p", &port.to_string()]);
        command.arg("-Y").arg(&passwords).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("scripts/test installs memcached");
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = std::fs::remove_file(passwords);
        WithPassword(child)
    }
}

impl Drop for WithPassword {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[coordinator_cached(name = "invoice", version = state, skip(upstream), ttl = "10m")]
async fn invoice(upstream: &Upstream, state: &str) -> Result<usize, Down> {
    upstream.fetch().await
}

#[tokio::test]
async fn a_refusing_memcached_shortens_no_ttl() {
    let port = free_port();
    let _memcached = WithPassword::start(port);
    let builder = Cache::builder().memcached([format!("127.0.0.1:{port}")]);
    let cache = builder.build().await.expect("the settings are valid");
    let upstream = Upstream::default();
    for state in ["sent", "paid"] {
        cache.scope(invoice(&upstream, state)).await.expect("the call succeeds");
    }
    tokio::time::sleep(Duration::from_millis(6100)).await;
    for state in ["sent", "paid"] {
        cache.scope(invoice(&upstream, state)).await.expect("the call succeeds");
    }
    assert_eq!(upstream.fetches(), 2);
}
