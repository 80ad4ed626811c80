//! The answers of the upstream services. The services send the answers as JSON, and the cache
//! stores the decoded values.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The state of a payment. The state is the *version* in the cache key of a payment, so each state
/// of a payment has its own cache entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PaymentState {
    Created,
    Processing,
    Paid,
}

impl fmt::Display for PaymentState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            PaymentState::Created => "created",
            PaymentState::Processing => "processing",
            PaymentState::Paid => "paid",
        })
    }
}

/// A payment in one state. Its `number` is the number of the order that it pays for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Payment {
    pub(crate) number: String,
    pub(crate) state: PaymentState,
    pub(crate) amount_cents: u64,
    pub(crate) currency: String,
    pub(crate) method: String,
}

/// An order at one revision. The revision is 1 after the order was placed, and 2 after it was paid.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) number: String,
    pub(crate) revision: u32,
    pub(crate) user: String,
    pub(crate) course: String,
}

/// A course as one edition of the catalogue describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Course {
    pub(crate) slug: String,
    pub(crate) title: String,
    pub(crate) price_cents: u64,
    pub(crate) description: String,
}

/// The profile of a user. A profile has no version, and the user may change it at any time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) email: String,
}
