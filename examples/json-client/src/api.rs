//! The trait of a parcel carrier, with the methods that this program calls.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use uuid::Uuid;

use crate::model::{CarrierLimits, Depot, Page, Parcel, Rate, Recipient, TrackingEvent};

/// A carrier of parcels.
///
/// The trait says nothing about caching. An implementation can cache the answers. A fake in a test
/// does not.
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

    /// Returns one page of the parcels whose data contain the query. The search ignores case.
    async fn search(&self, query: &str, page: u32) -> Result<Page<Parcel>>;

    /// Returns a country's depots, as one edition of the carrier's directory lists them.
    async fn depots(&self, country: &str, edition: u32) -> Result<Vec<Depot>>;

    /// Returns the carrier's offers for a parcel of this weight that goes from `from` to `to`.
    async fn rates(&self, from: &str, to: &str, weight_grams: u32) -> Result<Vec<Rate>>;

    /// Returns a recipient, or `None` if the carrier does not know the id.
    async fn recipient(&self, id: Uuid) -> Result<Option<Recipient>>;

    /// Returns a parcel's customs form. Its fields depend on the country.
    async fn customs_form(&self, number: &str) -> Result<serde_json::Value>;

    /// Returns the carrier's limits.
    async fn config(&self) -> Result<Arc<CarrierLimits>>;

    /// Sends a parcel to another depot.
    async fn redirect(&self, number: &str, depot: Uuid) -> Result<()>;

    /// Replaces a recipient's data. Returns the recipient as the carrier has stored it.
    async fn update_recipient(&self, recipient: &Recipient) -> Result<Recipient>;
}
