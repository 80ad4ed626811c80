//! Keys that a server must remove. Those that it cannot be told now are remembered, and told when it is back.

use std::sync::Arc;
use std::time::Instant;

use super::{Priority, Server};
use crate::tier::remote::memcached::RemoteError;
use crate::tier::remote::memcached::command::{Command, CommandResult};
use crate::tier::remote::memcached::join::{BoxedFuture, join_all};

impl Server {
    /// Remembers what the server has to be told.
    fn owe(&self, key: &Arc<str>) {
        // Where it is ejected, there is somebody who mends it.
        let is_first = self.debts.is_empty() && self.health.in_rotation();
        if is_first {
            self.health.schedule(0);
        }
        if !self.debts.remember(key) {
            self.fence(None);
        } else if is_first {
            self.mend_in_background();
        }
    }
}

/// Keys that a server must remove, all in the time of one exchange. If it cannot be told, also because the
/// call that wants it is dropped, the server is not asked for these keys before it was told.
pub(in crate::tier::remote::memcached) struct HintedRemoval<'s> {
    server: &'s Server,
    keys: Vec<Arc<str>>,
    is_told: bool,
}

impl<'s> HintedRemoval<'s> {
    pub(in crate::tier::remote::memcached) fn new(
        server: &'s Server,
        keys: Vec<Arc<str>>,
    ) -> HintedRemoval<'s> {
        HintedRemoval { server, keys, is_told: false }
    }

    /// Tells the server.
    ///
    /// # Errors
    /// The server could not be told; it will be when it answers again.
    pub(in crate::tier::remote::memcached) async fn send(
        mut self,
        deadline: Instant,
    ) -> Result<(), RemoteError> {
        let server = self.server;
        #[cfg(feature = "testing")]
        server.recover_if_in_memory().await;
        if !server.health.in_rotation() {
            return Err(server.ejected());
        }
        let pipeline = server.any_pipeline(Priority::Foreground)?;
        let delete = |key: &Arc<str>| Command::Delete { key: Arc::clone(key), unchanged: None };
        let now = Instant::now();
        let tell = |key| -> BoxedFuture<'_, CommandResult> {
            Box::pin(pipeline.ask(delete(key), now, deadline))
        };
        // At once, and each on its own: behind a batch other callers would wait.
        for answer in join_all(self.keys.iter().map(tell).collect()).await {
            server.changed(answer)?;
        }
        self.is_told = true;
        Ok(())
    }
}

impl Drop for HintedRemoval<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.keys.iter().for_each(|key| self.server.owe(key));
        }
    }
}
