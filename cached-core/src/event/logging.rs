//! Writes log lines for events. Only events that an operator of the program should know about get
//! a line of the level `info` or above. Some others get a line of the level `debug`.
//!
//! The lines go to the crate `log`. With the feature `tracing`, they go to the thread's `tracing`
//! subscriber instead, if there is one. A line about a server then has the server's address as a
//! field.

#[cfg(feature = "memcached")]
use std::sync::atomic::{AtomicBool, Ordering};

use super::miss_report::{MISS_TARGET, MissReport};
use super::{BypassReason, Event, EventSubject};
use crate::telemetry::write_line;
use crate::tier::remote::RemoteErrorKind;

/// Logs a call that neither the request tier nor the local tier could answer.
pub(super) fn log_miss(entry: EventSubject<'_>, report: &MissReport) {
    write_line!(debug, target = MISS_TARGET, "miss of `{entry:?}`: {report}");
}

/// Logs an event, if an operator should know about it.
pub(super) fn log(event: &Event<'_>) {
    match event {
        // The text of `reason` omits the message of the error that made the key fail, because the
        // message can contain an argument of the call.
        Event::Bypassed { declaration, reason: reason @ BypassReason::Key(_) }
            if declaration.key_error_warned.set(()).is_ok() =>
        {
            write_line!(
                warn,
                "`{}` ({}) is not cached for this call: {reason}; `invalidate` of its entry returns \
                 that error",
                declaration.name(),
                declaration.function()
            );
        }
        Event::Bypassed { declaration, reason } => {
            write_line!(
                debug,
                target = MISS_TARGET,
                "`{}` is not cached for this call: {reason}",
                declaration.name()
            );
        }
        Event::RemoteFailed { entry, error } => {
            let declaration = entry.declaration();
            // Other values of the function are probably too large as well, so one warning is
            // enough.
            if error.kind() == RemoteErrorKind::TooLarge
                && declaration.too_large_warned.set(()).is_ok()
            {
                write_line!(
                    warn,
                    "a value of `{}` ({}) is kept in this process only, and other large values may be too: {error}",
                    declaration.name(),
                    declaration.function()
                );
            } else {
                write_line!(debug, "{error}");
            }
        }
        Event::NotStorable { declaration, value } => write_line!(
            warn,
            "values of `{}` ({}) are kept in this process only: {value}",
            declaration.name(),
            declaration.function()
        ),
        Event::Cleared { function: Some(function), entries } => {
            write_line!(
                info,
                "{entries} entries of `{}` are removed from this process",
                function.name()
            );
        }
        Event::Cleared { function: None, entries } => {
            write_line!(info, "{entries} entries are removed from this process");
        }
        Event::ScopeLost { declaration } if declaration.lost_scope_warned.set(()).is_ok() => {
            write_line!(
                warn,
                "`{}` ({}) is called in a task that is outside of every `Cache::scope`, and no \
                 cache is installed: the call shares no entries with the scopes; spawn the task \
                 with `tokio::spawn(cached_core::in_scope(…))`, or install a cache",
                declaration.name(),
                declaration.function()
            );
        }
        #[cfg(feature = "memcached")]
        Event::ServerEjected { address, error } => {
            write_line!(
                warn,
                server = *address,
                "{error}; the server is ejected after several failures in a row"
            );
        }
        #[cfg(feature = "memcached")]
        Event::ServerBack { address } => {
            write_line!(
                warn,
                server = *address,
                "memcached at {address} answers again and is back in rotation"
            );
        }
        #[cfg(feature = "memcached")]
        Event::RecoveryFailed { error } => write_line!(debug, "{error}"),
        #[cfg(feature = "memcached")]
        Event::LeaseNotRenewed { error } => write_line!(debug, "a lease was not renewed: {error}"),
        #[cfg(feature = "memcached")]
        Event::RuntimeWithoutDriver { missing } => {
            static IS_WARNED: AtomicBool = AtomicBool::new(false);
            // A program that has one runtime without a driver often starts many of them, so only
            // the first gets a warning.
            let line = format_args!(
                "a tokio runtime has no {missing}, so calls on it do not use memcached; build it with `enable_all()`"
            );
            match IS_WARNED.swap(true, Ordering::Relaxed) {
                false => write_line!(warn, "{line}"),
                true => write_line!(debug, "{line}"),
            }
        }
        #[cfg(feature = "memcached")]
        Event::ServerStoresNothing { function, error } => write_line!(
            warn,
            "{error}; the server answers, but has stored no value of `{function}` for a while, so this process keeps such values for their whole local ttl"
        ),
        #[cfg(feature = "memcached")]
        Event::ServerReplaced { address } => write_line!(
            warn,
            server = *address,
            "memcached at {address} is another process than before, and may have missed some removals, so its older items are ignored; if the name has several addresses, all of them must lead to one memcached"
        ),
        #[cfg(feature = "memcached")]
        Event::ServerFenced { address } => {
            write_line!(
                debug,
                server = *address,
                "memcached at {address} may have missed some removals, so its older items are ignored"
            );
        }
        _ => {}
    }
}
