//! The data that a parcel carrier's JSON API returns.
//!
//! memcached stores values of these types, except [`CarrierLimits`] and [`Token`]. The stored types
//! derive `PartialEq`, so the cache notices if serde loses a field of a value.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A parcel at one revision. Each change of the parcel adds one to its revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Parcel {
    pub number: String,
    pub revision: u32,
    pub state: ParcelState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The API writes length, width and weight beside the other fields.
    #[serde(flatten)]
    pub size: Size,
}

/// The stage of a parcel's journey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ParcelState {
    Announced,
    InTransit,
    Delivered,
}

/// The measures of a parcel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Size {
    pub length_mm: u32,
    pub width_mm: u32,
    pub weight_grams: u32,
}

/// Something that happened to a parcel. The field `kind` tells the variants apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum TrackingEvent {
    Announced { at: DateTime<Utc> },
    Scanned { at: DateTime<Utc>, depot: Uuid },
    Redirected { at: DateTime<Utc>, depot: Uuid },
    Delivered { at: DateTime<Utc>, signed_by: Option<String> },
}

/// One page of a longer list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The number of the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

/// A place where parcels are sorted and picked up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Depot {
    pub id: Uuid,
    pub name: String,
    pub country: String,
    pub opening_hours: BTreeMap<String, String>,
    /// Fields that this program does not know. It passes them on unchanged.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// An offer to carry a parcel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Rate {
    pub service: String,
    pub price: Price,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u8>,
}

/// A price: a number of cents, or an object that says whom to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Price {
    Cents(u64),
    OnRequest { contact: String },
}

/// A person who receives parcels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Recipient {
    pub id: Uuid,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The recipient's own settings, which have no schema.
    pub preferences: serde_json::Value,
}

/// The limits that the carrier sets for parcels. The program never encodes them as JSON, so the
/// type is not `Serialize`.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct CarrierLimits {
    pub max_weight_grams: u32,
    pub countries: Vec<String>,
}

/// A token that gives access to the API for a limited time.
#[derive(Clone, Deserialize)]
pub struct Token {
    pub(crate) access_token: String,
    expires_in: u64,
}

impl Token {
    /// Returns how long the token can be used. A request that is under way when the token expires
    /// would fail, so the last ten seconds are not used.
    pub(crate) fn usable_time(&self) -> Duration {
        Duration::from_secs(self.expires_in.saturating_sub(10))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Token(expires in {} s)", self.expires_in)
    }
}
