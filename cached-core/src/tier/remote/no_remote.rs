//! The store type of a build without the feature `memcached`. Such a build has no remote tier: no
//! value of the type exists, so its methods are compiled but never run.
//!
//! This module also contains stand-ins for keys, encoded values and frames. The real modules for
//! them are needed only by a remote store.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    BackgroundWriteFn, IfMissing, Item, ReadHandler, ReadOutcome, RemoteError, RemoteStore,
    TtlLimits, WriteOutcome, WritePermit,
};
use crate::config::Config;
use crate::event::EventDispatcher;
use crate::flight::LeaderMonitor;
use crate::stats::ServerStats;

/// A type without values. It is private, so that the compiler does not report unreachable code in
/// the rest of the crate.
enum Never {}

/// The store of a build without a remote tier.
pub(crate) struct NoRemote(Never);

impl NoRemote {
    pub(crate) fn new(_: &Config, _: &EventDispatcher) -> Option<NoRemote> {
        None
    }

    pub(crate) fn program_id(_: &Config) -> Option<u64> {
        None
    }
}

impl RemoteStore for NoRemote {
    type Permit = NoRemote;

    const LIMITS: TtlLimits =
        TtlLimits { ttl_granularity: Duration::ZERO, longest_ttl: Duration::MAX };

    async fn read<H: ReadHandler>(
        self: &Arc<Self>,
        _: &Key,
        _: &H,
        _: IfMissing,
    ) -> Result<ReadOutcome<H::Decoded, NoRemote>, RemoteError> {
        match self.0 {}
    }

    async fn read_many<H: ReadHandler>(
        self: &Arc<Self>,
        _: &[(Key, &H)],
    ) -> Vec<Option<Item<H::Decoded, NoRemote>>> {
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

    fn run_in_background(&self, _: usize, _: BackgroundWriteFn) -> bool {
        match self.0 {}
    }

    async fn flush(&self) {
        match self.0 {}
    }

    fn servers(&self) -> Vec<ServerStats> {
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

    fn remove_item(self) {}

    fn in_background(self) -> NoRemote {
        self
    }

    fn renew_while(&self, _: LeaderMonitor) {
        match self.0 {}
    }

    fn renew_here(&self) {
        match self.0 {}
    }

    fn is_store_full(&self) -> bool {
        match self.0 {}
    }

    fn is_claim_abandoned(&self, _: Duration) -> bool {
        match self.0 {}
    }
}

/// A stand-in for the key of an entry. It contains only the function's cache name.
pub(crate) struct Key(&'static str);

impl Key {
    pub(crate) fn new(_: Option<Arc<str>>, name: &'static str, _: &[u8]) -> Key {
        Key(name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

pub(crate) mod encoded {
    use crate::round_trip::RoundTripCheck;
    use crate::unstorable::Unstorable;

    #[derive(Clone, Copy)]
    pub(crate) struct EncodedView<'f> {
        pub(crate) payload: &'f [u8],
    }

    impl EncodedView<'_> {
        pub(crate) fn with_program(self, _: Option<u64>) -> Option<Self> {
            Some(self)
        }

        pub(crate) fn is_safe_to_read(&self, _: Option<u64>) -> bool {
            true
        }
    }

    pub(crate) struct EncodedValue;

    impl EncodedValue {
        pub(crate) fn view(&self) -> EncodedView<'_> {
            EncodedView { payload: &[] }
        }
    }

    pub(crate) fn write<V: 'static>(
        value: &V,
        check: RoundTripCheck,
    ) -> Result<EncodedValue, Unstorable> {
        check.compare(value, value, false, || None)?;
        Err(Unstorable::new("has no remote tier"))
    }

    pub(crate) fn read<V>(_: EncodedView<'_>) -> Option<V> {
        None
    }
}

pub(crate) mod frame {
    use super::encoded::EncodedView;

    pub(crate) enum OpenedFrame<'f> {
        Stored(EncodedView<'f>),
        Foreign,
        Corrupt,
    }

    pub(crate) fn open<'f>(_: &[u8], _: &'f [u8]) -> OpenedFrame<'f> {
        OpenedFrame::Corrupt
    }

    pub(crate) fn encode(_: &[u8], _: EncodedView<'_>) -> Option<Vec<u8>> {
        None
    }
}
