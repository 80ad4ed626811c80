//! Types whose `Deserialize` panics on some inputs that their `Serialize` did not write. In the
//! tests, two builds of a program share memcached, and so read the values of each other's types.

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of seconds that serializes as text such as `"7s"`. Decoding any other text panics.
#[derive(Debug, Clone, PartialEq)]
pub struct Stamp(pub u64);

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}s", self.0))
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Stamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
        Ok(Stamp(seconds.unwrap_or_else(|| panic!("`{text}` is not a stamp"))))
    }
}

/// A text of three letters. Decoding any other text panics. If the deserializer returns an error,
/// decoding panics too.
#[derive(Debug, Clone, PartialEq)]
pub struct Currency(pub String);

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Currency, D::Error> {
        let text = String::deserialize(deserializer).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(text.len(), 3, "`{text}` is not a currency");
        Ok(Currency(text))
    }
}

/// A number up to 100. Decoding a greater number panics.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percent(pub u8);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Percent, D::Error> {
        let number = u8::deserialize(deserializer)?;
        assert!(number <= 100, "{number} is not a percentage");
        Ok(Percent(number))
    }
}

/// A number or a text of one letter. Its `Deserialize` calls `deserialize_any`, as that of
/// `rust_decimal::Decimal` does. Decoding any other text or a unit panics.
#[derive(Debug, Clone, PartialEq)]
pub enum NumberOrLetter {
    /// Any number.
    Number(u64),
    /// One letter.
    Text(String),
}

impl Serialize for NumberOrLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            NumberOrLetter::Number(number) => serializer.serialize_u64(*number),
            NumberOrLetter::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for NumberOrLetter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NumberOrLetter, D::Error> {
        struct ScalarVisitor;
        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = NumberOrLetter;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text")
            }
            fn visit_u64<E>(self, number: u64) -> Result<NumberOrLetter, E> {
                Ok(NumberOrLetter::Number(number))
            }
            fn visit_str<E>(self, text: &str) -> Result<NumberOrLetter, E> {
                assert_eq!(text.len(), 1, "`{text}` is not a letter");
                Ok(NumberOrLetter::Text(text.into()))
            }
            fn visit_unit<E>(self) -> Result<NumberOrLetter, E> {
                panic!("nothing is not a scalar")
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// The other build's versions of types above. They have the same names.
pub mod other {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    /// A number of seconds that serializes as a number. Decoding a time after the year 2100 panics.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Stamp(pub u64);

    impl Serialize for Stamp {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(serializer)
        }
    }

    impl<'de> Deserialize<'de> for Stamp {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Stamp, D::Error> {
            let seconds = u64::deserialize(deserializer)?;
            assert!(seconds < 4_102_444_800, "{seconds} is not a stamp");
            Ok(Stamp(seconds))
        }
    }
}
