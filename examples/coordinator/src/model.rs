//! What the upstream services answer. These values cross the network as JSON and are kept in the
//! cache as they are.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How far a payment has come. It is the *version* in the key of a payment: one entry for each
/// state.
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

/// A payment as it stood in one state. It has the number of its order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Payment {
    pub(crate) number: String,
    pub(crate) state: PaymentState,
    pub(crate) amount_cents: u64,
    pub(crate) currency: String,
    pub(crate) method: String,
}

/// An order at one revision: 1 when it is placed, 2 when it is paid.
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

/// A user's profile. The user may change it at any time, so it has no version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) email: String,
}
