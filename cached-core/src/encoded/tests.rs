//! Tests which codec is chosen for a value, and which error is returned if no codec can read the
//! value back. The *named* codec writes the names of fields, and the *positional* codec does not.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;
use crate::round_trip::RoundTripProbe;
use crate::unstorable::ValuePart;

/// Encodes a value, reads it back and compares both, as the code that the attribute generates does.
macro_rules! write {
    ($type:ty, $value:expr) => {{
        let value: $type = $value;
        let (are_equal, describe) =
            (RoundTripProbe::<$type>::NEW.are_equal(), RoundTripProbe::<$type>::NEW.describe());
        write(&value, RoundTripCheck::from((are_equal, describe)))
    }};
}

/// Checks that a value is written with this codec and read back.
fn check<V>(value: &V, codec: Codec)
where
    V: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + 'static,
{
    let encoded = write(value, RoundTripCheck::ANY).expect("the value can be stored");
    assert_eq!(encoded.codec, codec, "the codec of {value:?}");
    // The first read checks the type against the outline, a record of the type's structure that is
    // stored with the value. The second read skips this check, because `MATCHES` now has the
    // outline.
    MATCHES
        .write()
        .expect("the lock is not poisoned")
        .remove(&(TypeId::of::<V>(), encoded.view().outline.hash));
    for _ in 0..2 {
        assert_eq!(read::<V>(encoded.view()).as_ref(), Some(value));
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum UntaggedEnum {
    Number(i64),
    Text(String),
    Many(Vec<UntaggedEnum>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    lines: u32,
}

#[test]
fn the_positional_codec_comes_first() {
    check(&(7u8, "text".to_owned()), Codec::Positional);
    check(&UntaggedEnum::Number(7), Codec::Named);
    check(&UntaggedEnum::Many(vec![UntaggedEnum::Text("a".into())]), Codec::Named);
    check(&Note { text: Some("a".into()), lines: 1 }, Codec::Positional);
    check(&Note { text: None, lines: 1 }, Codec::Named);
    // The process has noted that `Note` may need the named codec, and now tries that codec first.
    check(&Note { text: Some("a".into()), lines: 1 }, Codec::Named);
}

/// Some values of the type need the named codec, and others need the positional one.
#[test]
fn one_type_may_use_both_codecs() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Value {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        twice: Option<Option<u8>>,
    }
    check(&Value { text: None, twice: Some(Some(1)) }, Codec::Named);
    // MessagePack writes `Some(None)` and `None` as the same `nil`.
    check(&Value { text: Some("a".into()), twice: Some(None) }, Codec::Positional);
}

/// Runs on a thread whose stack is as small as the stack of a runtime's worker thread.
#[test]
fn a_deeply_nested_value_is_written_or_refused() {
    let nested = |depth| {
        (1..depth).fold(UntaggedEnum::Many(Vec::new()), |inner, _| UntaggedEnum::Many(vec![inner]))
    };
    let run = move || {
        check(&nested(200), Codec::Named);
        assert!(write(&nested(300), RoundTripCheck::ANY).is_err());
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run);
    thread.expect("the thread starts").join().expect("nothing overflows");
}

/// Runs on a thread whose stack is as small as the stack of a runtime's worker thread.
#[test]
fn a_long_linked_list_is_refused() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Node {
        number: u64,
        next: Option<Box<Node>>,
    }
    // A long list is never freed, because dropping it overflows the stack.
    let list = |length: u64| -> &'static Node {
        let end = Node { number: 0, next: None };
        let push = |next, number| Node { number, next: Some(Box::new(next)) };
        Box::leak(Box::new((1..length).fold(end, push)))
    };
    let run = move || {
        assert!(write(list(200), RoundTripCheck::ANY).is_ok());
        for length in [600, 5_000, 100_000] {
            let error = write(list(length), RoundTripCheck::ANY).err().expect("it is refused");
            assert!(error.why.contains("nested too deeply"), "{error:?}");
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run);
    thread.expect("the thread starts").join().expect("nothing overflows");
}

#[test]
fn a_skipped_field_is_compared() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct SkippedField {
        amount: u8,
        #[serde(skip)]
        seen: bool,
    }
    assert!(write!(SkippedField, SkippedField { amount: 1, seen: false }).is_ok());
    let error = write!(SkippedField, SkippedField { amount: 1, seen: true })
        .err()
        .expect("the value is refused");
    assert!(error.why.contains("does not equal"), "the comparison is the reason: {error:?}");
    let nested = HashMap::from([(1, Some(SkippedField { amount: 1, seen: true }))]);
    assert!(write!(HashMap<u8, Option<SkippedField>>, nested).is_err());
}

#[test]
fn a_lossy_serialize_is_compared() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct RoundedAmount {
        #[serde(serialize_with = "whole")]
        amount: f64,
    }
    fn whole<S: Serializer>(amount: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(amount.trunc())
    }
    assert!(write!(RoundedAmount, RoundedAmount { amount: 2.0 }).is_ok());
    assert!(write!(RoundedAmount, RoundedAmount { amount: 2.5 }).is_err());
}

#[test]
fn values_unequal_to_themselves_are_compared_as_text() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Measurement {
        celsius: f64,
        by_place: HashMap<u32, f64>,
        #[serde(skip)]
        seen: bool,
    }
    let measured = |seen| Measurement {
        celsius: f64::NAN,
        by_place: (0..100).map(|place| (place, f64::NAN)).collect(),
        seen,
    };
    assert!(write!(Measurement, measured(false)).is_ok());
    assert!(write!(Measurement, measured(true)).is_err());
}

/// Both variants are written as a bare number, so `Order` reads back as `User`. Both values have
/// the same *shape* (a hash of the names and kinds of data), so only a comparison of the values
/// finds the difference.
#[test]
fn variants_that_look_alike_are_compared() {
    #[derive(Debug, Clone, Serialize, Deserialize)]
    #[serde(untagged)]
    enum AmbiguousId {
        User(u32),
        Order(u32),
    }
    assert!(write!(AmbiguousId, AmbiguousId::User(1)).is_ok());
    let error = write!(AmbiguousId, AmbiguousId::Order(1)).err().expect("the value is refused");
    assert!(error.why.contains("untagged"), "the untagged enum is the reason: {error:?}");
}

fn refusal<V>(value: &V) -> (&'static str, Option<ValuePart>)
where
    V: Serialize + DeserializeOwned + 'static,
{
    let error = write(value, RoundTripCheck::ANY).err().expect("the value is refused");
    (error.why, error.part)
}

#[test]
fn a_refusal_names_the_part() {
    /// A type that writes a number and reads a text.
    #[derive(Debug, Clone, Serialize)]
    struct UnreadablePart(u8);
    impl<'de> Deserialize<'de> for UnreadablePart {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UnreadablePart, D::Error> {
            String::deserialize(deserializer).map(|_| UnreadablePart(0))
        }
    }
    /// A type that fails to serialize.
    #[derive(Debug, Clone, Deserialize)]
    struct UnwritablePart;
    impl Serialize for UnwritablePart {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("it has no file"))
        }
    }
    /// An enum whose second variant reads back as the first.
    #[derive(Debug, Clone, Serialize, Deserialize)]
    #[serde(untagged)]
    enum AmbiguousPart {
        Any(BTreeMap<String, u8>),
        Named { a: u8 },
    }
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Holder<T> {
        lines: Vec<Line<T>>,
    }
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Line<T> {
        number: u8,
        part: T,
    }
    fn holder<T>(part: T) -> Holder<T> {
        Holder { lines: vec![Line { number: 1, part }] }
    }
    let part = |part: Option<ValuePart>| part.map(|part| (part.field, part.type_name));
    let (why, unreadable) = refusal(&holder(UnreadablePart(1)));
    assert!(why.contains("`Deserialize`"), "the reason names the trait: {why}");
    assert_eq!(part(unreadable), Some((Some("part"), std::any::type_name::<UnreadablePart>())));
    let (why, unwritable) = refusal(&holder(UnwritablePart));
    assert!(why.contains("`Serialize`"), "the reason names the trait: {why}");
    assert_eq!(part(unwritable), Some((Some("part"), std::any::type_name::<UnwritablePart>())));
    let (why, ambiguous) = refusal(&holder(AmbiguousPart::Named { a: 1 }));
    assert!(why.contains("read back"), "the value reads back changed: {why}");
    assert_eq!(part(ambiguous), Some((Some("part"), std::any::type_name::<AmbiguousPart>())));
}

/// serde reads an untagged enum into a buffer first, where no check can follow the type. Two builds
/// might read the buffer differently.
#[test]
fn only_the_same_program_reads_buffered_values() {
    #[derive(Serialize, Deserialize)]
    struct StructWithOptionalText {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    }
    let check = RoundTripCheck::ANY;
    let buffered = write(&UntaggedEnum::Number(7), check).expect("the value can be stored");
    let plain =
        write(&StructWithOptionalText { text: None }, check).expect("the value can be stored");
    assert_eq!((buffered.codec, plain.codec), (Codec::Named, Codec::Named));
    let own = Some(5);
    assert!(plain.view().with_program(None).is_some_and(|encoded| encoded.is_safe_to_read(None)));
    let written = buffered.view().with_program(own).expect("the program is known");
    assert!(written.is_safe_to_read(own));
    assert!(!written.is_safe_to_read(Some(6)));
    // A program that does not know its own fingerprint neither writes nor reads a buffered value.
    assert!(buffered.view().with_program(None).is_none());
    assert!(!written.is_safe_to_read(None));
}

/// Prints what each codec costs for an order of 20 lines. The guide's chapter on values has the
/// numbers.
///
/// `cargo test --release -p cached-core --lib -- --ignored --nocapture costs_of_the_codecs`
#[test]
#[ignore = "a measurement"]
fn costs_of_the_codecs() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
        customer: String,
        email: String,
        state: State,
        placed_at: u64,
        lines: Vec<Line>,
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum State {
        Open,
        Paid { at: u64 },
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Line {
        sku: String,
        title: String,
        count: u32,
        cents: i64,
        tags: Vec<String>,
    }
    /// Returns the time that `run` takes, in microseconds: the smallest of many runs.
    fn time<T>(mut run: impl FnMut() -> T) -> f64 {
        let run = |_| {
            let start = std::time::Instant::now();
            std::hint::black_box(run());
            start.elapsed()
        };
        (0..5_000).map(run).min().expect("there are runs").as_secs_f64() * 1e6
    }
    let line = |number: u32| Line {
        sku: format!("SKU-{number:06}"),
        title: format!("Ceramic mug with handle, colour {number}"),
        count: number,
        cents: i64::from(number) * 1_250,
        tags: vec!["kitchen".into(), "ceramic".into()],
    };
    let order = Order {
        id: 7_000_000_001,
        customer: "Ada Lovelace".into(),
        email: "ada@example.org".into(),
        state: State::Paid { at: 1_700_000_000 },
        placed_at: 1_699_999_000,
        lines: (0..20).map(line).collect(),
    };
    let check = RoundTripCheck::from((RoundTripProbe::<Order>::NEW.are_equal(), None));
    for codec in [Codec::Positional, Codec::Named] {
        let encoded =
            write_with(codec, &order, RoundTripCheck::ANY).expect("the value can be stored");
        let frame = crate::frame::encode(b"key", encoded.view()).expect("the frame fits");
        println!(
            "{codec:?}: payload {} bytes, frame {} bytes, encode {:.1} us, fill {:.1} us, with PartialEq {:.1} us, read {:.1} us",
            encoded.payload.len(),
            frame.len(),
            time(|| codec.encode(&order)),
            time(|| write_with(codec, &order, RoundTripCheck::ANY).is_ok()),
            time(|| write_with(codec, &order, check).is_ok()),
            time(|| read::<Order>(encoded.view())),
        );
    }
    println!(
        "PartialEq alone: {:.2} us",
        time(|| check.compare(&order, &order.clone(), false, || None).is_ok())
    );
    println!("clone alone: {:.2} us", time(|| order.clone()));
}
