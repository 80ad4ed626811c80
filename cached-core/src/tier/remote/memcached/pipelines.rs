//! The pipelines of each runtime that asks. A connection works only while its runtime is driven, so
//! each has its own, for as long as it lives.

use std::future::pending;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::task::AbortHandle;

use super::pipeline::Pipeline;
use super::server::{Priority, Server};
use crate::sync::lock;

/// The runtimes that use one server.
#[derive(Default)]
pub(super) struct Runtimes(Mutex<Vec<(Id, Option<Pipelines>)>>);

/// The pipelines of one runtime. Writes in the background have their own, so that neither keeps the
/// other from the server.
struct Pipelines {
    calls: Arc<Pipeline>,
    writes: Arc<Pipeline>,
    watch: Option<AbortHandle>,
}

impl Pipelines {
    fn with_priority(&self, priority: Priority) -> Arc<Pipeline> {
        Arc::clone(match priority {
            Priority::Foreground => &self.calls,
            Priority::Background => &self.writes,
        })
    }
}

/// The server is gone, and with it the reason to watch the runtime.
impl Drop for Pipelines {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

impl Runtimes {
    /// The pipeline of the running runtime.
    ///
    /// # Errors
    /// Says why there is none here.
    pub(super) fn pipeline(
        &self,
        server: &Weak<Server>,
        priority: Priority,
    ) -> Result<Arc<Pipeline>, &'static str> {
        let runtime = Handle::try_current().map_err(|_| "there is no tokio runtime here")?;
        let id = runtime.id();
        if let Some((_, known)) = self.list().iter().find(|(of, _)| *of == id) {
            return known.as_ref().map(|known| known.with_priority(priority)).ok_or(NO_DRIVERS);
        }
        let made = (is_in_memory(server) || has_drivers(id)).then(|| Pipelines {
            calls: Pipeline::new(Weak::clone(server), &runtime),
            writes: Pipeline::new(Weak::clone(server), &runtime),
            watch: None,
        });
        let pipeline = made.as_ref().map(|made| made.with_priority(priority)).ok_or(NO_DRIVERS);
        {
            let mut list = self.list();
            // Another thread of the runtime may have been faster.
            if let Some((_, known)) = list.iter().find(|(of, _)| *of == id) {
                return known.as_ref().map(|known| known.with_priority(priority)).ok_or(NO_DRIVERS);
            }
            list.push((id, made));
        }
        // With nothing locked: a runtime that is about to end drops the task at once.
        let end = RuntimeEnd { server: Weak::clone(server), id };
        let watch = runtime.spawn(async move {
            let _end = end;
            pending::<()>().await;
        });
        let watch = watch.abort_handle();
        if let Some((_, Some(made))) = self.list().iter_mut().find(|(of, _)| *of == id) {
            made.watch = Some(watch);
        }
        pipeline
    }

    fn list(&self) -> MutexGuard<'_, Vec<(Id, Option<Pipelines>)>> {
        lock(&self.0)
    }
}

/// Returns true if the server is one of a test's, which has no sockets.
#[cfg(feature = "testing")]
fn is_in_memory(server: &Weak<Server>) -> bool {
    server.upgrade().is_some_and(|server| server.network.is_some())
}

#[cfg(not(feature = "testing"))]
fn is_in_memory(_: &Weak<Server>) -> bool {
    false
}

const NO_DRIVERS: &str = "the tokio runtime here has no time or no I/O";

/// Held by a task that does nothing. The runtime drops it when it ends.
struct RuntimeEnd {
    server: Weak<Server>,
    id: Id,
}

impl Drop for RuntimeEnd {
    fn drop(&mut self) {
        without_drivers().retain(|id| *id != self.id);
        let Some(server) = self.server.upgrade() else { return };
        let ended: Vec<_> =
            server.runtimes.list().extract_if(.., |(id, _)| *id == self.id).collect();
        drop(ended);
    }
}

/// The runtimes that were found to have no time or no I/O.
static WITHOUT_DRIVERS: Mutex<Vec<Id>> = Mutex::new(Vec::new());

fn without_drivers() -> MutexGuard<'static, Vec<Id>> {
    lock(&WITHOUT_DRIVERS)
}

/// Returns true if the runtime was asked for a connection before, and could not have one.
pub(super) fn is_without_drivers(runtime: &Handle) -> bool {
    without_drivers().contains(&runtime.id())
}

/// Whether the running runtime has what a connection needs. tokio has no way to ask: whatever needs a
/// driver panics where there is none. So this panics once for such a runtime, where it is caught, and
/// not in the middle of a call. The program's panic hook sees it. A program that aborts on a panic
/// must enable both.
fn has_drivers(runtime: Id) -> bool {
    if without_drivers().contains(&runtime) {
        return false;
    }
    let probe = || {
        drop(tokio::time::sleep(Duration::ZERO));
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            && socket.set_nonblocking(true).is_ok()
        {
            drop(tokio::net::UdpSocket::from_std(socket));
        }
    };
    let has_drivers = std::panic::catch_unwind(probe).is_ok();
    if !has_drivers {
        without_drivers().push(runtime);
        log::warn!(
            "a tokio runtime has no time or no I/O, so that its calls do without memcached; build it with `enable_all()`"
        );
    }
    has_drivers
}
