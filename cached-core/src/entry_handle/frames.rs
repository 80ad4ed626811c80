//! Encodes values as *frames*, the bytes that the remote tier stores, and decodes frames.

use super::EntryHandle;
use crate::event::Event;
use crate::frame::{self, FrameContents};
use crate::key::{KeyBytes, canonical_bytes};
use crate::tier::remote::{DecodedFrame, ReadHandler, RemoteError};
use crate::value::Value;

impl EntryHandle {
    fn canonical_bytes(&self) -> KeyBytes {
        canonical_bytes(self.declaration.name(), &self.key)
    }

    /// Encodes a value as a frame, and checks that the bytes decode to the same value.
    ///
    /// # Errors
    /// The reason why the remote tier cannot store the value.
    pub(crate) fn seal(&self, value: &Value) -> Result<Vec<u8>, &'static str> {
        let not_storable = |why: &'static str| {
            if self.declaration.unstorable_reason.set(why).is_ok() {
                self.cache.emit(Event::NotStorable { declaration: self.declaration, why });
            }
            why
        };
        let encoded = (self.value_type.write)(value).map_err(not_storable)?;
        frame::seal(&self.canonical_bytes(), encoded.view())
            .ok_or_else(|| not_storable("the value's type is too large to be described"))
    }
}

impl ReadHandler for EntryHandle {
    /// A value, and its weight in the local tier. The weight is 0 if the declaration does not use
    /// the local tier.
    type Value = (Value, usize);

    fn decode(&self, frame: &[u8]) -> DecodedFrame<(Value, usize)> {
        match frame::open(&self.canonical_bytes(), frame) {
            FrameContents::Corrupt => DecodedFrame::Corrupt,
            FrameContents::Foreign => DecodedFrame::Foreign,
            FrameContents::Stored(encoded) => match (self.value_type.read)(encoded) {
                Some(value) => {
                    let weight = self.local_tier().map_or(0, |_| self.weight(&value));
                    DecodedFrame::Value((value, weight))
                }
                None => DecodedFrame::Foreign,
            },
        }
    }

    fn read_failed(&self, error: &RemoteError) {
        self.report_failure(error);
    }

    fn lease_held_elsewhere(&self) {
        self.emit(|entry| Event::LeaseBusy { entry });
    }
}
