//! Starts a memcached process for a test.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A memcached process on a free port of the loopback interface. Dropping this handle ends the
/// process.
pub(in crate::tier::remote) struct MemcachedProcess {
    child: Child,
    port: u16,
}

impl MemcachedProcess {
    pub(in crate::tier::remote) fn start() -> MemcachedProcess {
        // Another process might take the free port before memcached does. The next round then tries
        // another port.
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
            let port = free.expect("a port is free").port();
            let mut command = Command::new("memcached");
            command.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody", "-p", &port.to_string()]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let child = command.spawn().expect("memcached is installed by scripts/test");
            let mut process = MemcachedProcess { child, port };
            for _ in 0..500 {
                let connection = TcpStream::connect(("127.0.0.1", port));
                let answers = connection.and_then(|mut stream| stream.write(b"mn\r\n")).is_ok();
                if answers
                    && process.child.try_wait().expect("the child can be waited for").is_none()
                {
                    return process;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("memcached did not start");
    }

    pub(in crate::tier::remote) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for MemcachedProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
