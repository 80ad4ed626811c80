//! The removal of keys from one server, which becomes hints if the server cannot be told.

use std::sync::Arc;
use std::time::Instant;

use super::{Priority, Server};
use crate::tier::remote::memcached::RemoteError;
use crate::tier::remote::memcached::command::{Command, CommandResult};
use crate::tier::remote::memcached::join::{BoxedFuture, join_all};

/// Keys that a server must remove. If this is dropped before the server has removed all of them, for example with
/// the call that wanted it, every key becomes a hint.
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

    /// Sends the deletes.
    ///
    /// # Errors
    /// The server could not be told. It receives the hints when it answers again.
    pub(in crate::tier::remote::memcached) async fn send(
        mut self,
        deadline: Instant,
    ) -> Result<(), RemoteError> {
        let server = self.server;
        #[cfg(feature = "testing")]
        server.recover_if_in_memory().await;
        if !server.in_rotation() {
            return Err(server.ejection_error());
        }
        let pipeline = server.any_pipeline(Priority::Foreground)?;
        let now = Instant::now();
        let delete = |key: &Arc<str>| -> BoxedFuture<'_, CommandResult> {
            let delete = Command::Delete { key: Arc::clone(key), unchanged: None };
            Box::pin(pipeline.run(delete, now, deadline))
        };
        // Sent at once and separately: a batch would delay the callers behind it.
        for result in join_all(self.keys.iter().map(delete).collect()).await {
            server.applied(result)?;
        }
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
