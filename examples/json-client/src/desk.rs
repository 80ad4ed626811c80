//! The parcel desk, which asks a carrier (a delivery company) about parcels and prices.

use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::api::CarrierApi;
use crate::model::{Parcel, Price, Rate, TrackingEvent};

/// A desk that answers customers' questions. It does not know which carrier it asks, nor that there
/// is a cache.
#[derive(Clone)]
pub struct ParcelDesk {
    carrier: Arc<dyn CarrierApi>,
}

/// The page that a customer sees about a parcel.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct ParcelPage {
    pub parcel: Parcel,
    pub events: Vec<TrackingEvent>,
}

impl ParcelDesk {
    /// Returns a desk for one carrier.
    #[must_use]
    pub fn new(carrier: Arc<dyn CarrierApi>) -> ParcelDesk {
        ParcelDesk { carrier }
    }

    /// Returns the page of a parcel. The parcel on it has the given revision or a later one.
    ///
    /// # Errors
    /// Returns the errors of the [`CarrierApi`].
    pub async fn page(&self, number: &str, revision: u32) -> Result<ParcelPage> {
        let parcel = self.carrier.parcel(number, revision);
        let (parcel, events) = tokio::try_join!(parcel, self.carrier.tracking(number))?;
        Ok(ParcelPage { parcel, events })
    }

    /// Returns the cheapest offer with a price in cents, or `None` if no offer has one.
    ///
    /// # Errors
    /// Returns an error if the parcel is too heavy for the carrier, and the errors of the
    /// [`CarrierApi`].
    pub async fn cheapest(&self, from: &str, to: &str, weight_grams: u32) -> Result<Option<Rate>> {
        let limit = self.carrier.config().await?.max_weight_grams;
        ensure!(weight_grams <= limit, "the parcel weighs {weight_grams} g; {limit} g are allowed");
        let rates = self.carrier.rates(from, to, weight_grams).await?;
        let priced = rates.into_iter().filter_map(|rate| match rate.price {
            Price::Cents(cents) => Some((cents, rate)),
            Price::OnRequest { .. } => None,
        });
        Ok(priced.min_by_key(|(cents, _)| *cents).map(|(_, rate)| rate))
    }
}
