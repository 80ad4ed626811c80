//! Encodes values as *frames*, and decodes frames. A frame is the bytes that the remote tier
//! (memcached) stores for a value.

use super::EntryHandle;
use crate::event::Event;
use crate::frame::{self, OpenedFrame};
use crate::key::{KeyBytes, canonical_bytes};
use crate::round_trip::DEBUG_DIFFERS;
use crate::tier::remote::{DecodedFrame, ReadHandler, RemoteError, Store};
use crate::unstorable::{Unstorable, UnstorableValue};
use crate::value::Value;

const UNKNOWN_PROGRAM: &str = "is untagged, internally or adjacently tagged, or flattened, so only the same program \
    may read it, and this program could not be identified";

impl EntryHandle {
    fn canonical_bytes(&self) -> KeyBytes {
        canonical_bytes(self.declaration.name(), &self.key)
    }

    /// Encodes a value as a frame, and checks that the bytes decode to the same value.
    ///
    /// # Errors
    /// Returns the reason why the remote tier cannot store the value.
    pub(crate) fn encode_frame(&self, value: &Value) -> Result<Vec<u8>, &'static str> {
        let config = self.cache.config();
        let is_test = config.round_trip_failures.is_some();
        let check = self.round_trip_check.for_test(is_test);
        let encoded = (self.value_operations.write)(value, check)
            .map_err(|reason| self.report_not_storable(reason))?;
        let encoded = encoded
            .view()
            .with_program(Store::program_id(config))
            .ok_or_else(|| self.report_not_storable(Unstorable::new(UNKNOWN_PROGRAM)))?;
        frame::encode(&self.canonical_bytes(), encoded).ok_or_else(|| {
            self.report_not_storable(Unstorable::new("has too many parts to be described"))
        })
    }

    /// Reports that the remote tier cannot store a value of this function. The event is emitted
    /// only once for each function. Returns the reason as text.
    fn report_not_storable(&self, reason: Unstorable) -> &'static str {
        let declaration = self.declaration;
        let value = UnstorableValue { type_name: (self.value_operations.name)(), reason };
        if let Some(failures) = &self.cache.config().round_trip_failures
            && reason == DEBUG_DIFFERS
        {
            failures.add(format!("`{}` ({}): {value}", declaration.name(), declaration.function()));
        }
        if declaration.unstorable_value.set(value).is_ok()
            && let Some(value) = declaration.unstorable_value.get()
        {
            self.cache.emit(Event::NotStorable { declaration, value });
        }
        reason.why
    }
}

impl ReadHandler for EntryHandle {
    /// A value and its weight in the local tier. The weight is 0 if the function does not use the
    /// local tier.
    type Decoded = (Value, usize);

    fn decode(&self, frame: &[u8]) -> DecodedFrame<(Value, usize)> {
        let program = Store::program_id(self.cache.config());
        match frame::open(&self.canonical_bytes(), frame) {
            OpenedFrame::Corrupt => DecodedFrame::Corrupt,
            OpenedFrame::Foreign => DecodedFrame::Foreign,
            OpenedFrame::Stored(encoded) if !encoded.is_safe_to_read(program) => {
                DecodedFrame::Foreign
            }
            OpenedFrame::Stored(encoded) => match (self.value_operations.read)(encoded) {
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
