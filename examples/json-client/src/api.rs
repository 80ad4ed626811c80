//! The methods that the program needs of a carrier.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use uuid::Uuid;

use crate::model::{CarrierConfig, Depot, Page, Parcel, Rate, Recipient, TrackingEvent};

/// A carrier of parcels.
///
/// The trait says nothing about caching. An implementation may cache, and a fake in a test does
/// not.
///
/// # Errors
/// Every method returns an error if the carrier does not answer, or if its answer does not have the
/// expected form. If the carrier answered with an error, `downcast_ref` finds a
/// [`CarrierError`](crate::CarrierError).
#[async_trait]
pub trait CarrierApi: Send + Sync {
    /// Returns a parcel at the given revision or a later one.
    async fn parcel(&self, number: &str, revision: u32) -> Result<Parcel>;

    /// Returns the events of a parcel, the oldest first.
    async fn tracking(&self, number: &str) -> Result<Vec<TrackingEvent>>;

    /// Returns the parcels in which the query occurs. The search ignores case.
    async fn search(&self, query: &str, page: u32) -> Result<Page<Parcel>>;

    /// Returns the depots of a country in one edition of the directory.
    async fn depots(&self, country: &str, edition: u32) -> Result<Vec<Depot>>;

    /// Returns the offers to carry a parcel of this weight.
    async fn rates(&self, from: &str, to: &str, weight_grams: u32) -> Result<Vec<Rate>>;

    /// Returns a recipient, or `None` if the carrier does not know the id.
    async fn recipient(&self, id: Uuid) -> Result<Option<Recipient>>;

    /// Returns the customs form, whose fields depend on the country.
    async fn customs_form(&self, number: &str) -> Result<serde_json::Value>;

    /// Returns the carrier's limits.
    async fn config(&self) -> Result<Arc<CarrierConfig>>;

    /// Sends a parcel to another depot.
    async fn redirect(&self, number: &str, depot: Uuid) -> Result<()>;

    /// Replaces a recipient's data, and returns them as the carrier has stored them.
    async fn update_recipient(&self, recipient: &Recipient) -> Result<Recipient>;
}
