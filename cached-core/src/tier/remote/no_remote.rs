//! The store of a build without a remote tier. None can be made, so its methods are never run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    BackgroundWrite, EntryReader, IfMissing, Item, Limits, ReadOutcome, RemoteError, RemoteStore,
    WriteOutcome, WritePermit,
};
use crate::config::Config;
use crate::event::Events;
use crate::flight::LeaderMonitor;
use crate::key::Key;

/// Private, so that the compiler does not warn of unreachable code in the rest of the crate.
enum Never {}

pub(crate) struct NoRemote(Never);

impl NoRemote {
    pub(crate) fn new(_: &Config, _: &Events) -> Option<NoRemote> {
        None
    }
}

impl RemoteStore for NoRemote {
    type Permit = NoRemote;

    const LIMITS: Limits = Limits { ttl_granularity: Duration::ZERO, longest_ttl: Duration::MAX };

    async fn read<R: EntryReader>(
        self: &Arc<Self>,
        _: &Key,
        _: &R,
        _: IfMissing,
    ) -> Result<ReadOutcome<R::Value, NoRemote>, RemoteError> {
        match self.0 {}
    }

    async fn read_many<R: EntryReader>(
        self: &Arc<Self>,
        _: &[(Key, &R)],
    ) -> Vec<Option<Item<R::Value, NoRemote>>> {
        match self.0 {}
    }

    async fn overwrite(
        self: &Arc<Self>,
        _: &Key,
        _: Vec<u8>,
        _: Duration,
        _: Duration,
    ) -> Result<WriteOutcome, RemoteError> {
        match self.0 {}
    }

    async fn remove(self: &Arc<Self>, _: &Key, _: Option<Instant>) -> Result<(), RemoteError> {
        match self.0 {}
    }

    fn run_in_background(&self, _: usize, _: BackgroundWrite) -> bool {
        match self.0 {}
    }

    async fn flush(&self) {
        match self.0 {}
    }
}

impl WritePermit for NoRemote {
    async fn write(
        &self,
        _: Vec<u8>,
        _: Duration,
        _: Duration,
    ) -> Result<WriteOutcome, RemoteError> {
        match self.0 {}
    }

    fn discard(self) {}

    fn in_background(self) -> NoRemote {
        self
    }

    fn hold_while(&self, _: LeaderMonitor) {
        match self.0 {}
    }

    fn renew_here(&self) {
        match self.0 {}
    }

    fn is_claim_abandoned(&self, _: Duration) -> bool {
        match self.0 {}
    }
}
