//! What stands in for the rooms of the remote tier in a build without the feature `memcached`: of
//! each the names that the rest of the library uses, and nothing behind them.
//!
//! No [`Remote`](remote::Remote) can be made, so what is asked of one is never run; the path of a
//! call and the entries are the same code in every build. The compiler keeps this file true: what
//! the rest uses and is not here does not compile.

// Most of it is there for code that is compiled and never run.
#![allow(dead_code, clippy::extra_unused_type_parameters)]

use std::fmt;
use std::sync::Arc;

/// An entry's name, in place of its key in memcached.
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
    #[derive(Clone, Copy)]
    pub(crate) struct EncodedView<'f> {
        pub(crate) payload: &'f [u8],
    }

    pub(crate) struct EncodedValue;

    impl EncodedValue {
        pub(crate) fn view(&self) -> EncodedView<'_> {
            EncodedView { payload: &[] }
        }
    }

    pub(crate) fn write<V>(_: &V) -> Result<EncodedValue, &'static str> {
        Err("there is no remote tier")
    }

    pub(crate) fn read<V>(_: EncodedView<'_>) -> Option<V> {
        None
    }
}

pub(crate) mod frame {
    use super::encoded::EncodedView;

    pub(crate) enum FrameContents<'f> {
        Stored(EncodedView<'f>),
        Foreign,
        Corrupt,
    }

    pub(crate) fn open<'f>(_: &[u8], _: &'f [u8]) -> FrameContents<'f> {
        FrameContents::Corrupt
    }

    pub(crate) fn seal(_: &[u8], _: EncodedView<'_>) -> Option<Vec<u8>> {
        None
    }
}

pub(crate) mod remote {
    use std::fmt;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::Key;
    use crate::config::Config;
    use crate::event::Events;
    use crate::flight::Pulse;

    /// What there is none of. Only in here is it seen to be so: elsewhere the compiler takes the
    /// types around it for ordinary ones, and warns of nothing.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Never {}

    pub(crate) const LONGEST_TTL: Duration = Duration::MAX;

    pub(crate) fn whole_seconds(duration: Duration) -> u32 {
        u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
    }

    pub(crate) struct Remote(Never);

    impl Remote {
        pub(crate) fn new(_: &Config, _: &Events) -> Option<Remote> {
            None
        }

        pub(crate) fn locate(&self, _: &Key) -> Option<RemoteKey> {
            match self.0 {}
        }

        pub(crate) async fn read_many(
            &self,
            _: &[RemoteKey],
        ) -> Vec<Result<Option<Item>, RemoteError>> {
            match self.0 {}
        }

        pub(crate) fn request_lease(&self) -> (LeaseRequest, Duration) {
            match self.0 {}
        }

        pub(crate) fn is_lost(&self, _: &RemoteKey, _: Cas, _: Duration) -> bool {
            match self.0 {}
        }

        pub(crate) fn in_background(&self, _: usize, _: Write) -> bool {
            match self.0 {}
        }

        pub(crate) async fn flush(&self) {
            match self.0 {}
        }
    }

    pub(crate) type Write = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

    #[derive(Clone)]
    pub(crate) struct RemoteKey(Never);

    impl RemoteKey {
        pub(crate) fn in_background(self) -> RemoteKey {
            self
        }

        pub(crate) fn leases_end(&self) -> bool {
            match self.0 {}
        }

        pub(crate) fn lease_ends(&self) {
            match self.0 {}
        }

        pub(crate) fn doubt_lease(&self, _: Cas) {
            match self.0 {}
        }

        pub(crate) fn turns_to_gutter(&mut self, _: &RemoteError) -> bool {
            match self.0 {}
        }

        pub(crate) fn turns_to_second_slot(&mut self) -> bool {
            match self.0 {}
        }

        pub(crate) fn is_in_gutter(&self) -> bool {
            match self.0 {}
        }

        pub(crate) async fn read(&self) -> Result<Found, RemoteError> {
            match self.0 {}
        }

        pub(crate) async fn read_or_lease(
            &self,
            _: Duration,
            _: Duration,
        ) -> Result<Found, RemoteError> {
            match self.0 {}
        }

        pub(crate) async fn write(
            &self,
            _: Vec<u8>,
            _: Duration,
            _: Duration,
            _: Condition,
        ) -> Result<bool, RemoteError> {
            match self.0 {}
        }

        pub(crate) async fn forget(&self, _: Option<Instant>) -> Result<(), RemoteError> {
            match self.0 {}
        }
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Cas(Never);

    pub(crate) struct LeaseRequest(Never);

    pub(crate) struct Lease(Never);

    impl Lease {
        pub(crate) fn new(
            _: &Arc<Remote>,
            key: RemoteKey,
            _: Cas,
            _: Duration,
            _: Duration,
        ) -> Lease {
            match key.0 {}
        }

        pub(crate) fn remove_item(_: &Arc<Remote>, key: RemoteKey, _: Cas) {
            match key.0 {}
        }

        pub(crate) fn renew_here(&self) {
            match self.0 {}
        }

        pub(crate) fn follow(&self, _: Pulse) {
            match self.0 {}
        }

        pub(crate) fn of_item(_: &Arc<Remote>, key: RemoteKey, _: &Item) -> Lease {
            match key.0 {}
        }

        pub(crate) fn key(&self) -> &RemoteKey {
            match self.0 {}
        }

        pub(crate) async fn settle(&self) -> Option<Cas> {
            match self.0 {}
        }

        pub(crate) fn takes_its_item(self) {}

        pub(crate) fn used(&self) {}
    }

    // So that dropping one early reads as what it is.
    impl Drop for Lease {
        fn drop(&mut self) {}
    }

    pub(crate) enum Found {
        Item(Item),
        Lease(Cas),
        Busy(BusyLease),
        Nothing,
    }

    pub(crate) struct BusyLease {
        pub(crate) cas: Option<Cas>,
        pub(crate) marker: Option<LeaseMarker>,
    }

    #[derive(Clone, Copy)]
    pub(crate) struct LeaseMarker {
        pub(crate) elapsed: Duration,
        pub(crate) expected: Duration,
    }

    pub(crate) struct Item {
        pub(crate) frame: Vec<u8>,
        pub(crate) cas: Cas,
        pub(crate) gone: Instant,
        pub(crate) won: bool,
        pub(crate) given_back: bool,
        pub(crate) in_gutter: bool,
        never: Never,
    }

    #[derive(Clone, Copy)]
    pub(crate) enum Condition {
        Absent,
        Unchanged(Cas),
        Always,
    }

    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct RemoteError(pub(crate) String);

    impl RemoteError {
        pub(crate) fn is_too_large(&self) -> bool {
            false
        }

        pub(crate) fn is_refusal(&self) -> bool {
            false
        }
    }

    impl fmt::Display for RemoteError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }
}
