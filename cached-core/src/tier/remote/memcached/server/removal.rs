//! The removal of keys from one server. If the server does not confirm the removal, the keys become
//! *hints*: this process tells the server to remove the keys once the server answers again.

use std::sync::Arc;
use std::time::Instant;

use super::{Priority, Server};
use crate::tier::remote::memcached::RemoteError;
use crate::tier::remote::memcached::command::{Command, CommandResult};
use crate::tier::remote::memcached::run_all::{BoxedFuture, run_all};

/// Keys that a server must remove. If this value is dropped before the server has removed all keys,
/// for example because a call is cancelled, every key becomes a hint.
pub(in crate::tier::remote::memcached) struct KeyRemoval<'s> {
    server: &'s Server,
    keys: Vec<Arc<str>>,
    is_done: bool,
}

impl<'s> KeyRemoval<'s> {
    pub(in crate::tier::remote::memcached) fn new(
        server: &'s Server,
        keys: Vec<Arc<str>>,
    ) -> KeyRemoval<'s> {
        KeyRemoval { server, keys, is_done: false }
    }

    /// Sends a delete for each key.
    ///
    /// # Errors
    /// The server has not confirmed every delete. In this case, all keys become hints.
    pub(in crate::tier::remote::memcached) async fn send(
        mut self,
        deadline: Instant,
    ) -> Result<(), RemoteError> {
        let server = self.server;
        #[cfg(feature = "testing")]
        server.recover_if_in_memory().await;
        if !server.in_rotation() {
            return Err(server.not_served_error());
        }
        let pipeline = server.any_pipeline(Priority::Foreground)?;
        let now = Instant::now();
        let delete = |key: &Arc<str>| -> BoxedFuture<'_, CommandResult> {
            let delete = Command::Delete { key: Arc::clone(key), only_if: None };
            Box::pin(pipeline.run(delete, now, deadline))
        };
        // All deletes start at once as separate commands, because one batch of many deletes would
        // delay the commands of other callers.
        let exchange = match &self.keys[..] {
            [key] => server.begin_exchange("delete", Some(key), 1, true),
            keys => server.begin_exchange(
                "BATCH delete",
                keys.first().map(|key| &**key),
                keys.len(),
                true,
            ),
        };
        let results = exchange.polled(run_all(self.keys.iter().map(delete).collect())).await;
        let removed = results.into_iter().try_for_each(|result| server.applied(result).map(drop));
        exchange.end(&removed, |()| "applied");
        removed?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for KeyRemoval<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.keys.iter().for_each(|key| self.server.add_hint(key));
        }
    }
}
