//! Keeps track of the memcached process that the connections to one server reach.
//!
//! A server's address can lead to several memcached processes: a host name can have several
//! addresses, a load balancer can choose a process, and memcached can be restarted. An
//! *incarnation* is one run of such a process. A value that was removed from one incarnation might
//! still be in another.
//! Only one incarnation is therefore *current* at a time: the one that the newest connection has
//! reached. Connections to other incarnations are closed, and a removal that another incarnation
//! confirms does not count.
//!
//! When another incarnation becomes current, its items might be stale. The program then *fences*
//! the server: it ignores the items that the server has at this moment.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::cas::Incarnation;
use super::command::{Command, CommandError, CommandResult};
use super::probe::ServerProcess;
use crate::sync::lock;

/// A server reports its uptime in whole seconds.
const UPTIME_GRANULARITY: Duration = Duration::from_secs(1);

/// The process behind one server's address. All connections to the server share this struct.
pub(super) struct ServerIdentity {
    /// The current incarnation as a number, readable without the lock. The number changes only
    /// under the lock of `state`.
    current: AtomicU64,
    state: Mutex<IdentityState>,
    /// Fences the server. It is called when the server's items might be stale: another incarnation
    /// has become current, and that one might have been running already when this program last
    /// changed a key. `state` is locked during the call.
    raise_fence: Box<dyn Fn() + Send + Sync>,
    /// Called after `raise_fence`, with nothing locked.
    after_fence: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct IdentityState {
    /// `None` before the first connection.
    current: Option<Incarnation>,
    /// The time at which the server last confirmed a removal or an overwrite.
    last_change: Option<Instant>,
    /// The address of the newest connection.
    newest_address: Option<SocketAddr>,
}

impl ServerIdentity {
    pub(super) fn new(
        raise_fence: impl Fn() + Send + Sync + 'static,
        after_fence: impl Fn() + Send + Sync + 'static,
    ) -> ServerIdentity {
        ServerIdentity {
            current: AtomicU64::new(Incarnation::UNKNOWN.number()),
            state: Mutex::default(),
            raise_fence: Box::new(raise_fence),
            after_fence: Box::new(after_fence),
        }
    }

    /// Returns the address that a new connection tries first, so that all connections reach one
    /// process.
    pub(super) fn preferred_address(&self) -> Option<SocketAddr> {
        lock(&self.state).newest_address
    }

    /// Makes the process at the other end of a new connection the current incarnation. The caller
    /// must not use the connection before this call.
    ///
    /// If another process was current before, the new process might have items that were removed
    /// from the former one. This function then fences the server. If the new process has certainly
    /// started after the last removal, no fence is needed, because it started without items.
    pub(super) fn observe(&self, address: SocketAddr, process: ServerProcess) {
        let is_fenced = {
            let mut state = lock(&self.state);
            state.newest_address = Some(address);
            let former = state.current.replace(process.incarnation);
            self.current.store(process.incarnation.number(), Ordering::Release);
            let is_replaced = former.is_some_and(|former| former != process.incarnation);
            let missed_change = |change| !process.started_after(change, Instant::now());
            let is_fenced = is_replaced && state.last_change.is_some_and(missed_change);
            if is_fenced {
                (self.raise_fence)();
            }
            is_fenced
        };
        if is_fenced {
            (self.after_fence)();
        }
    }

    /// Returns true if a connection to this incarnation may be used.
    #[inline]
    pub(super) fn is_current(&self, incarnation: Incarnation) -> bool {
        self.current.load(Ordering::Acquire) == incarnation.number()
    }

    /// Checks a result that this incarnation has returned. If the incarnation is not current, a
    /// success becomes an error. Otherwise the result is returned unchanged, and the time of a
    /// confirmed removal or overwrite is recorded.
    pub(super) fn check(
        &self,
        command: &Command,
        incarnation: Incarnation,
        result: CommandResult,
    ) -> CommandResult {
        let counts = match &result {
            Ok(_) if command.is_unconditional_change() => self.confirm_change(incarnation),
            Ok(_) => self.is_current(incarnation),
            Err(_) => true,
        };
        match counts {
            true => result,
            false => Err(CommandError::unreachable("its address leads to another memcached now")),
        }
    }

    /// Records the time at which this incarnation has confirmed a removal or an overwrite. If the
    /// incarnation is not current, records nothing and returns false.
    fn confirm_change(&self, incarnation: Incarnation) -> bool {
        let mut state = lock(&self.state);
        let is_current = state.current == Some(incarnation);
        if is_current {
            state.last_change = Some(Instant::now());
        }
        is_current
    }
}

impl ServerProcess {
    /// Returns true if the process has certainly started after `time`. The process must have
    /// reported its uptime at `now`.
    fn started_after(&self, time: Instant, now: Instant) -> bool {
        self.uptime.is_some_and(|uptime| time + uptime + UPTIME_GRANULARITY < now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::tier::remote::memcached::command::Reply;

    fn process(number: u64, uptime_seconds: u64) -> ServerProcess {
        let incarnation = Incarnation::new(number, 1_700_000_000);
        ServerProcess { incarnation, uptime: Some(Duration::from_secs(uptime_seconds)) }
    }

    fn address() -> SocketAddr {
        "127.0.0.1:11211".parse().expect("the address is valid")
    }

    fn delete() -> Command {
        Command::Delete { key: "key".into(), only_if: None }
    }

    /// Returns an identity, and a counter of its calls of `raise_fence`.
    fn identity() -> (ServerIdentity, Arc<AtomicUsize>) {
        let fences = Arc::<AtomicUsize>::default();
        let raised = Arc::clone(&fences);
        let raise = move || {
            raised.fetch_add(1, Ordering::SeqCst);
        };
        (ServerIdentity::new(raise, || ()), fences)
    }

    #[test]
    fn a_process_that_missed_a_change_is_fenced() {
        let applied = || Ok(Reply::Applied(true));
        let (identity, fences) = identity();
        identity.observe(address(), process(1, 60));
        identity.observe(address(), process(2, 60));
        assert_eq!(
            fences.load(Ordering::SeqCst),
            0,
            "no process is fenced before a key is changed"
        );
        assert!(identity.check(&delete(), process(2, 0).incarnation, applied()).is_ok());
        identity.observe(address(), process(2, 60));
        assert_eq!(fences.load(Ordering::SeqCst), 0, "the current process is not fenced");
        identity.observe(address(), process(1, 60));
        assert_eq!(fences.load(Ordering::SeqCst), 1);
        let unknown = ServerProcess { uptime: None, ..process(3, 0) };
        identity.observe(address(), unknown);
        assert_eq!(fences.load(Ordering::SeqCst), 2, "a process of unknown age is fenced");
    }

    #[test]
    fn a_young_process_started_after_the_change() {
        let now = Instant::now();
        assert!(process(1, 2).started_after(now - Duration::from_secs(10), now));
        assert!(!process(1, 10).started_after(now - Duration::from_secs(10), now));
        assert!(!process(1, 60).started_after(now - Duration::from_secs(10), now));
    }

    #[test]
    fn only_the_current_process_confirms_a_change() {
        let applied = || Ok(Reply::Applied(true));
        let (identity, _) = identity();
        let [former, current] = [1, 2].map(|number| process(number, 60));
        for process in [former, current] {
            identity.observe(address(), process);
        }
        assert!(identity.check(&delete(), former.incarnation, applied()).is_err());
        assert!(identity.check(&delete(), current.incarnation, applied()).is_ok());
        assert!(!identity.is_current(former.incarnation));
    }
}
