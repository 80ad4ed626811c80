//! The pipelines to one server. A *pipeline* sends commands to the server from one tokio runtime.
//! Each runtime has pipelines of its own, because a connection works only while the runtime that
//! opened it runs.

use std::future::pending;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::task::AbortHandle;

use super::endpoint::EndpointState;
use super::pipeline::CommandPipeline;
use crate::event::{Event, EventDispatcher};
use crate::sync::lock;
use crate::unwind::catch_panic;

/// The urgency of a command, which selects the command's pipeline and timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// A caller waits for the result.
    Foreground,
    /// No caller waits for the result.
    Background,
}

/// The pipelines to one server, grouped by runtime.
pub(super) struct ServerPipelines {
    endpoint: Arc<EndpointState>,
    events: EventDispatcher,
    by_runtime: Arc<Mutex<PipelinesByRuntime>>,
}

/// Each runtime with its pipelines, or with an error if the runtime lacks the timer or the I/O
/// driver.
type PipelinesByRuntime = Vec<(Id, Result<RuntimePipelines, &'static str>)>;

/// The two pipelines of one runtime. With two, foreground and background commands do not wait for
/// each other.
struct RuntimePipelines {
    foreground: Arc<CommandPipeline>,
    background: Arc<CommandPipeline>,
    /// The task that owns the runtime's [`RuntimeEndGuard`].
    guard_task: Option<AbortHandle>,
}

impl RuntimePipelines {
    fn new(endpoint: &Arc<EndpointState>, runtime: &Handle) -> RuntimePipelines {
        RuntimePipelines {
            foreground: CommandPipeline::new(endpoint, runtime),
            background: CommandPipeline::new(endpoint, runtime),
            guard_task: None,
        }
    }

    fn get(&self, priority: Priority) -> Arc<CommandPipeline> {
        Arc::clone(match priority {
            Priority::Foreground => &self.foreground,
            Priority::Background => &self.background,
        })
    }
}

/// Ends the guard task, which would otherwise wait until the runtime ends.
impl Drop for RuntimePipelines {
    fn drop(&mut self) {
        if let Some(task) = &self.guard_task {
            task.abort();
        }
    }
}

impl ServerPipelines {
    pub(super) fn new(endpoint: &Arc<EndpointState>, events: &EventDispatcher) -> ServerPipelines {
        let (endpoint, events) = (Arc::clone(endpoint), events.clone());
        ServerPipelines { endpoint, events, by_runtime: Arc::default() }
    }

    /// Returns the current runtime's pipeline for this priority.
    ///
    /// # Errors
    /// This thread is not in a tokio runtime, or the runtime lacks the timer or the I/O driver.
    pub(super) fn get(&self, priority: Priority) -> Result<Arc<CommandPipeline>, &'static str> {
        let runtime = Handle::try_current().map_err(|_| "there is no tokio runtime here")?;
        let id = runtime.id();
        if let Some(known) = self.find(id, priority) {
            return known;
        }
        let missing = match self.endpoint.is_in_memory() {
            true => None,
            false => missing_driver(id, &self.events),
        };
        let new = match missing {
            None => Ok(RuntimePipelines::new(&self.endpoint, &runtime)),
            Some(MissingDriver { error, .. }) => Err(error),
        };
        let pipeline = new.as_ref().map(|new| new.get(priority)).map_err(|error| *error);
        {
            let mut runtimes = lock(&self.by_runtime);
            // Another thread of this runtime might have added the pipelines in the meantime.
            if let Some(known) = find_in(&runtimes, id, priority) {
                return known;
            }
            runtimes.push((id, new));
        }
        // The lock must be free here. A runtime that is shutting down drops the task at once, and
        // the guard in the task takes the lock when it is dropped.
        let guard = RuntimeEndGuard { by_runtime: Arc::downgrade(&self.by_runtime), id };
        let task = runtime.spawn(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        let mut runtimes = lock(&self.by_runtime);
        if let Some((_, Ok(new))) = runtimes.iter_mut().find(|(known, _)| *known == id) {
            new.guard_task = Some(task.abort_handle());
        }
        pipeline
    }

    fn find(
        &self,
        id: Id,
        priority: Priority,
    ) -> Option<Result<Arc<CommandPipeline>, &'static str>> {
        find_in(&lock(&self.by_runtime), id, priority)
    }
}

fn find_in(
    runtimes: &PipelinesByRuntime,
    id: Id,
    priority: Priority,
) -> Option<Result<Arc<CommandPipeline>, &'static str>> {
    let (_, pipelines) = runtimes.iter().find(|(known, _)| *known == id)?;
    Some(pipelines.as_ref().map(|pipelines| pipelines.get(priority)).map_err(|error| *error))
}

/// A driver that a runtime lacks: the timer or the I/O driver. A connection needs both.
#[derive(Clone, Copy)]
struct MissingDriver {
    name: &'static str,
    error: &'static str,
}

const NO_TIME: MissingDriver =
    MissingDriver { name: "time", error: "the tokio runtime here has no time" };
const NO_IO: MissingDriver =
    MissingDriver { name: "I/O", error: "the tokio runtime here has no I/O" };

/// When the guard is dropped, it removes its runtime's pipelines. An idle task on the runtime owns
/// the guard, so the end of the runtime drops the guard.
struct RuntimeEndGuard {
    by_runtime: Weak<Mutex<PipelinesByRuntime>>,
    id: Id,
}

impl Drop for RuntimeEndGuard {
    fn drop(&mut self) {
        lock(&WITHOUT_DRIVERS).retain(|(id, _)| *id != self.id);
        let Some(runtimes) = self.by_runtime.upgrade() else { return };
        let ended: Vec<_> = lock(&runtimes).extract_if(.., |(id, _)| *id == self.id).collect();
        drop(ended);
    }
}

/// The runtimes that are known to lack the timer or the I/O driver.
static WITHOUT_DRIVERS: Mutex<Vec<(Id, MissingDriver)>> = Mutex::new(Vec::new());

fn known_missing_driver(runtime: Id) -> Option<MissingDriver> {
    lock(&WITHOUT_DRIVERS).iter().find(|(id, _)| *id == runtime).map(|(_, missing)| *missing)
}

/// Returns true if the runtime is known to lack the timer or the I/O driver.
pub(super) fn is_without_drivers(runtime: &Handle) -> bool {
    known_missing_driver(runtime.id()).is_some()
}

/// Returns the driver that the current runtime lacks, or `None` if the runtime has the timer and
/// the I/O driver.
///
/// tokio has no function for this check, and code that uses a missing driver panics. This function
/// therefore uses both drivers once, and catches the panic. The program's panic hook is still
/// called, once for each runtime that lacks a driver. A program that aborts on panics must enable
/// both drivers.
fn missing_driver(runtime: Id, events: &EventDispatcher) -> Option<MissingDriver> {
    if let Some(known) = known_missing_driver(runtime) {
        return Some(known);
    }
    let use_time = || drop(tokio::time::sleep(Duration::ZERO));
    let use_io = || {
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            && socket.set_nonblocking(true).is_ok()
        {
            drop(tokio::net::UdpSocket::from_std(socket));
        }
    };
    let missing = match catch_panic(use_time) {
        None => NO_TIME,
        Some(()) => catch_panic(use_io).is_none().then_some(NO_IO)?,
    };
    lock(&WITHOUT_DRIVERS).push((runtime, missing));
    events.emit(&Event::RuntimeWithoutDriver { missing: missing.name });
    Some(missing)
}
