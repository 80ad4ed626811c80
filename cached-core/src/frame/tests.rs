//! Tests frames: the bytes in which memcached holds an encoded value.
//!
//! A frame must open only if it is intact, and only under the key that it was written for. Golden
//! frames are fixed bytes that every later version must still write and read.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::*;
use crate::round_trip::RoundTripCheck;
use crate::{encoded, outline};

const ENTRIES: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 2];

fn encoded_view(codec: Codec) -> EncodedView<'static> {
    let program = if codec == Codec::Named { 9 } else { 0 };
    EncodedView { codec, shape: 7, outline: Outline::new(ENTRIES), payload: b"payload", program }
}

fn encoded_frame(codec: Codec) -> Vec<u8> {
    encode(b"key", encoded_view(codec)).expect("the frame fits")
}

const CODECS: [Codec; 2] = [Codec::Positional, Codec::Named];

#[test]
fn a_frame_opens_only_under_its_key() {
    for codec in CODECS {
        let frame = encoded_frame(codec);
        assert_eq!(open(b"key", &frame), OpenedFrame::Stored(encoded_view(codec)));
        assert_eq!(open(b"kez", &frame), OpenedFrame::Corrupt);
        assert_eq!(open(b"", &frame), OpenedFrame::Corrupt);
    }
}

#[test]
fn every_truncation_and_flipped_bit_is_detected() {
    for frame in CODECS.map(encoded_frame) {
        for length in 0..frame.len() {
            assert_eq!(
                open(b"key", &frame[..length]),
                OpenedFrame::Corrupt,
                "a cut at byte {length} is not detected"
            );
        }
        for bit in 0..frame.len() * 8 {
            let mut garbled = frame.clone();
            garbled[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !matches!(open(b"key", &garbled), OpenedFrame::Stored(_)),
                "a flip of bit {bit} is not detected"
            );
        }
    }
}

#[test]
fn a_frame_of_format_1_is_foreign() {
    let golden = b"cc\x01\0\0\0\0\0\0\0\x07payload\x71\x76\x16\xe1\xea\x92\xc1\xb8";
    assert_eq!(open(b"key", golden), OpenedFrame::Foreign);
}

#[test]
fn an_outline_longer_than_its_frame_is_corrupt() {
    let mut frame = encoded_frame(Codec::Positional);
    let body = frame.len() - CHECKSUM;
    frame[OUTLINE_COUNT] = 1;
    let sum = checksum(b"key", &frame[..PROGRAM], b"");
    frame[body..].copy_from_slice(&sum);
    assert_eq!(open(b"key", &frame), OpenedFrame::Corrupt);
}

#[test]
fn an_outline_with_too_many_entries_is_refused() {
    let entries = vec![0; (usize::from(u16::MAX) + 1) * ENTRY_BYTES];
    let outline = Outline::new(&entries);
    assert_eq!(encode(b"key", EncodedView { outline, ..encoded_view(Codec::Positional) }), None);
}

#[test]
fn a_frame_of_any_other_format_is_foreign() {
    let formats = [FORMAT_POSITIONAL, FORMAT_NAMED];
    for format in (0..=u8::MAX).filter(|format| !formats.contains(format)) {
        let mut frame = encoded_frame(Codec::Positional);
        frame[2] = format;
        assert_eq!(open(b"key", &frame), OpenedFrame::Foreign, "format {format}");
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

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks that this build writes and reads the same frame as earlier builds.
fn check_golden_frame<V>(value: V, frame: &str)
where
    V: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + 'static,
{
    let check = RoundTripCheck::ANY;
    let written = encoded::write(&value, check).expect("the value can be stored");
    let encoded = encode(b"key", written.view()).expect("the frame fits");
    assert_eq!(hexadecimal(&encoded), frame, "the frame of {value:?} has changed");
    let bytes: Vec<u8> = (0..frame.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&frame[at..at + 2], 16).expect("hexadecimal"))
        .collect();
    let OpenedFrame::Stored(stored) = open(b"key", &bytes) else {
        panic!("{value:?} cannot be read any more");
    };
    let EncodedView { codec, outline, payload, .. } = stored;
    assert_eq!(outline::decode_matching(codec, outline, payload).as_ref(), Some(&value));
    assert_eq!(encoded::read(stored), Some(value));
}

/// The expected frames must never change, because entries in memcached outlive a build.
#[test]
fn golden_frames() {
    check_golden_frame(
        7u32,
        "636302689e604d4750f6efd66499607de615a600026392fa77d9ad748e07e2925a3925313950",
    );
    check_golden_frame(
        Some("text".to_owned()),
        "6363025f90900462c22c46395153aedb6a9573000348fc58fe757c0a22a692690d010474657874a1b77df96b112d35",
    );
    check_golden_frame(
        payment(State::Open),
        "636302a5a957e6f074b217c7c1dd4d6d279ade001908bfdf66091438931dc60aa31ef0356b2c7fd06d2d775d6332366f1532b8081439c73a7e3c1c60d346dd5691904193c49ab19a68a36fdde4a9c454ebaeefb931b52dd355b806a332ba56e46cd210cb5ddd399c97ef77e13fefe79490fa2efa4afae7b2f00137fb570200020001000000000000f83f020101780200c3a95b86c80e0505c929",
    );
    check_golden_frame(
        payment(State::Paid { at: 1_700_000_000 }),
        "63630283a9b45a579d458e9fd2f07eca24ba5d001b08bfdf6609143893092a01a01dc60aa31ef0356b2c7fd06d2d775d6332366f1532b808143c1c60d346dd5691904193c49ab19a68a36fdde4a9c454ebab08fb27aeefb931b52dd355ba56e46cbe28c80fd210cb5ddd399c97ef77e13fefe79490f1f287cefa2efa4afae7b2f00137fb570201fc00f15365020001000000000000f83f020101780200c3a9561a4c2c2586aebd",
    );
    check_golden_frame(
        payment(State::Refunded(7, u128::MAX)),
        "636302e98f77ffbccd679bfe0d5eae327fbaab001c08bfdf66091438930c98be4e1dc60aa31ef0356b2c7fd06d2d775d6332366f1532b808143c1c60d346dd569160d434b8904193c49ab19a68a36fdde4a7d3d363a9c454ebaeefb931b52dd355ba56e46cd210cb5ddd399c97ef77e13fefe79490f154fda3f804d8c4fa2efa4afae7b2f00137fb57020207feffffffffffffffffffffffffffffffff020001000000000000f83f020101780200c3a934263dc8969e96a5",
    );
    check_golden_frame(
        payment(State::Failed("no".into())),
        "636302387577246ff4bec27ce84a5f74e9003d001a08bfdf66091438931dc60aa31ef0356b2c7fd06d2d775d6332366f1532b808143c1c60d346dd56915e70e026904193c49ab19a68a36fdde4a832a120a9c454ebaeefb931b52dd355ba56e46cd210cb5ddd399c97ef77e13fefe79490f57f1113fa2efa4afae7b2f00137fb570203026e6f020001000000000000f83f020101780200c3a946f98f2910d66ed9",
    );
}

/// A type that only the codec with field names can write, because of its serde attributes.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Delivery {
    state: Delivered,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, i32>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Delivered {
    Not,
    At { seconds: u64, weight: f32 },
}

#[test]
fn golden_frames_of_the_named_codec() {
    let rest = || BTreeMap::from([("a".to_owned(), -300), ("b".to_owned(), 7)]);
    check_golden_frame(
        Delivery { state: Delivered::Not, note: None, rest: rest() },
        "636303f3069d5d3f25bcad83515959cd4badbe000900000000000000002f51a5314883437ca945d5f0ae2823dcafd29332ea25babbefad6ac0f1e6e25cf940cc5683a57374617465c0a161d1fed4a162076293097ba34bd7b4",
    );
    let state = Delivered::At { seconds: 1_700_000_000, weight: 1.5 };
    check_golden_frame(
        Delivery { state, note: Some("é".into()), rest: rest() },
        "636303b87def994f2f5d809e750bb23661151a000e00000000000000002f51a53131e2dd7b4883437c48fc58fe564689b3757c0a22a945d5f0ae2823dcafd29332b48cbefeea25babbefad6ac0f1e6e25cf940cc5684a5737461746582a77365636f6e6473ce6553f100a6776569676874ca3fc00000a46e6f7465a2c3a9a161d1fed4a162075f635933c727f3b6",
    );
}
