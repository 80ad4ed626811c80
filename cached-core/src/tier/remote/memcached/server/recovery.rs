//! How a server that is out of rotation comes back: an attempt is made again and again, the server is told
//! what it missed, and only then is it asked again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::runtime::Handle;

use super::fence::Doubts;
use super::{Priority, Server};
use crate::event::Event;
use crate::tier::remote::memcached::command::{Command, Reply};
use crate::tier::remote::memcached::queue::BATCH;
use crate::tier::remote::memcached::{Condition, Found, RemoteError, RemoteErrorKind};

/// What is written to see whether a server answers. No entry's key looks like it.
const MARK: &str = "cached-core.mark";

impl Server {
    /// Sees to it that the server comes back and is told what it missed. Without a runtime it is
    /// left to a later caller, who finds it overdue.
    pub(super) fn mend_in_background(&self) {
        // A runtime without a clock is as good as none.
        if let (Ok(runtime), Ok(_)) =
            (Handle::try_current(), self.any_pipeline(Priority::Background))
        {
            runtime.spawn(mend(Weak::clone(&self.me)));
        }
    }

    pub(super) fn attempt_in_background(&self) {
        if let (Ok(runtime), Some(server)) = (Handle::try_current(), self.me.upgrade()) {
            runtime.spawn(async move {
                if let Err(error) = server.attempt().await {
                    log::debug!("{error}");
                }
            });
        }
    }

    /// A test that has moved the clock sees the attempt that is due made by its next call.
    #[cfg(feature = "testing")]
    pub(in crate::tier::remote::memcached) async fn recover_if_in_memory(&self) {
        if self.network.is_some()
            && !self.is_well()
            && self.health.begins_attempt()
            && self.attempt().await.is_err()
        {
            self.health.attempt_failed();
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.health.in_rotation() && self.debts.is_empty()
    }

    /// Tells the server what it missed, and puts it back in rotation.
    ///
    /// # Errors
    /// The server does not answer, or not with what it should.
    async fn attempt(&self) -> Result<(), RemoteError> {
        let marked = self.marked.load(Ordering::Acquire);
        let distrusted = self.debts.distrusted();
        let mark = self.mark().await?;
        if let Some(distrusted) = distrusted {
            // Unless there is a later mark: then the next attempt sees to what is distrusted yet.
            let (set, failed) = (Ordering::AcqRel, Ordering::Relaxed);
            if self.marked.compare_exchange(marked, mark, set, failed).is_ok() {
                self.debts.marked(distrusted);
            }
        } else if mark < marked {
            // It counts from the start again: it was started anew, and has nothing from before. Unless
            // there are doubts since, or another mark: then another attempt sees to it.
            let mut doubts = self.doubts();
            let (set, failed) = (Ordering::AcqRel, Ordering::Relaxed);
            if self.debts.distrusted().is_none()
                && self.marked.compare_exchange(marked, 0, set, failed).is_ok()
            {
                *doubts = Doubts::default();
            }
        }
        loop {
            let owed = self.debts.some(BATCH);
            if owed.is_empty() {
                break;
            }
            let deletes = owed
                .iter()
                .map(|(key, _)| Command::Delete { key: Arc::clone(key), unchanged: None });
            let deadline = Instant::now() + self.timeout();
            let pipeline = self.any_pipeline(Priority::Background)?;
            for answer in pipeline.ask_many(deletes.collect(), deadline).await {
                self.changed(answer)?;
            }
            self.debts.settle(&owed);
        }
        if self.debts.if_empty(|| self.health.reinstate()) == Some(true) {
            self.events.emit(&Event::ServerBack { address: &self.address });
        }
        Ok(())
    }

    /// The CAS of an item that is written now: what the server has is older, what it will have is
    /// younger.
    async fn mark(&self) -> Result<u64, RemoteError> {
        let pipeline = self.any_pipeline(Priority::Background)?;
        let key: Arc<str> = MARK.into();
        let (frame, condition) = ([1][..].into(), Condition::Always);
        let write = Command::Write { key: Arc::clone(&key), frame, seconds: 60, condition };
        let now = Instant::now();
        self.changed(pipeline.ask(write, now, now + self.timeout()).await)?;
        let read = Command::Read { key, lease: None };
        let now = Instant::now();
        match pipeline.ask(read, now, now + self.timeout()).await {
            Ok(Reply::Found(Found::Item(item))) => Ok(item.cas.number),
            Ok(_) => {
                Err(self.error(RemoteErrorKind::Refused, &"it does not keep what it is given"))
            }
            answer => Err(self.unanswered(answer)),
        }
    }
}

/// Makes an attempt whenever one is due, until the server is well, or gone.
async fn mend(server: Weak<Server>) {
    loop {
        let due_in = match server.upgrade() {
            Some(server) if !server.is_well() => server.health.due_in(),
            _ => return,
        };
        tokio::time::sleep(due_in).await;
        let Some(server) = server.upgrade() else { return };
        if !server.is_well()
            && server.health.begins_attempt()
            && let Err(error) = server.attempt().await
        {
            log::debug!("{error}");
            server.health.attempt_failed();
        }
    }
}
