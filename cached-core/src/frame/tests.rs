use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::*;
use crate::{codec, shape};

#[test]
fn a_sealed_frame_opens_under_its_key_alone() {
    let frame = seal(b"key", 7, b"payload");
    assert_eq!(open(b"key", &frame), Opened::Payload { shape: 7, payload: b"payload" });
    assert_eq!(open(b"kez", &frame), Opened::Corrupt);
    assert_eq!(open(b"", &frame), Opened::Corrupt);
}

#[test]
fn every_truncation_and_every_flipped_bit_is_seen() {
    let frame = seal(b"key", 7, b"payload");
    for length in 0..frame.len() {
        assert_eq!(open(b"key", &frame[..length]), Opened::Corrupt, "cut at {length}");
    }
    for bit in 0..frame.len() * 8 {
        let mut garbled = frame.clone();
        garbled[bit / 8] ^= 1 << (bit % 8);
        assert!(!matches!(open(b"key", &garbled), Opened::Payload { .. }), "bit {bit}");
    }
}

/// A frame of format 1, kept for good: entries in memcached outlive a build.
#[test]
fn golden_frame() {
    let golden = b"cc\x01\0\0\0\0\0\0\0\x07payload\x71\x76\x16\xe1\xea\x92\xc1\xb8";
    assert_eq!(seal(b"key", 7, b"payload"), golden);
    assert_eq!(open(b"key", golden), Opened::Payload { shape: 7, payload: b"payload" });
}

#[test]
fn a_frame_of_another_format_is_left_to_the_build_that_writes_it() {
    for format in (0..=u8::MAX).filter(|format| *format != FORMAT) {
        let mut frame = seal(b"key", 7, b"payload");
        frame[2] = format;
        assert_eq!(open(b"key", &frame), Opened::Foreign, "format {format}");
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Payment {
    number: String,
    amount: i64,
    state: State,
    lines: Vec<Option<f64>>,
    by: BTreeMap<u8, (bool, char)>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum State {
    Open,
    Paid { at: u64 },
    Refunded(u8, u128),
    Failed(String),
}

fn payment(state: State) -> Payment {
    let by = BTreeMap::from([(1, (true, 'x')), (2, (false, 'é'))]);
    Payment { number: "7".into(), amount: -300, state, lines: vec![None, Some(1.5)], by }
}

/// What a build stores for a value, and that it reads what any build before it has stored.
fn golden<V: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: V, frame: &str) {
    let payload = codec::encode(&value).expect("the codec takes it");
    let shape = shape::of(&value).expect("it has a shape");
    let hexadecimal =
        |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hexadecimal(&seal(b"key", shape, &payload)), frame, "{value:?}");
    let bytes: Vec<u8> = (0..frame.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&frame[at..at + 2], 16).expect("hexadecimal"))
        .collect();
    let Opened::Payload { shape: stored, payload } = open(b"key", &bytes) else {
        panic!("{value:?} is not read any more");
    };
    let read: V = codec::decode(payload).expect("it decodes");
    assert_eq!(shape::of(&read), Ok(stored));
    assert_eq!(read, value);
}

/// Frames of whole values, kept for good.
#[test]
fn golden_frames_of_values() {
    golden(7u32, "636301689e604d4750f6ef072e247c41f45de587");
    golden(Some("text".to_owned()), "6363015f90900462c22c46010474657874b9b0ed7809b9291e");
    golden(
        payment(State::Open),
        "636301a5a957e6f074b2170137fb570200020001000000000000f83f020101780200c3a9266180c7716f4ef9",
    );
    golden(
        payment(State::Paid { at: 1_700_000_000 }),
        "63630183a9b45a579d458e0137fb570201fc00f15365020001000000000000f83f020101780200c3a988d714367ba4fc8c",
    );
    golden(
        payment(State::Refunded(7, u128::MAX)),
        "636301e98f77ffbccd679b0137fb57020207feffffffffffffffffffffffffffffffff020001000000000000f83f020101780200c3a9bb00e3b7a440f71d",
    );
    golden(
        payment(State::Failed("no".into())),
        "636301387577246ff4bec20137fb570203026e6f020001000000000000f83f020101780200c3a9c194741b01ca4dc6",
    );
}
