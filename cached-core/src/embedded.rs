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
