//! A client of a parcel carrier's JSON API, as services write one: a trait behind `Arc<dyn …>` with
//! `#[async_trait]`, an implementation with `reqwest`, and errors of `anyhow`. Every reading method
//! is cached.
//!
//! | module | what is in it |
//! |---|---|
//! | [`api`] | [`CarrierApi`]: what the program needs of a carrier. It does not mention the cache. |
//! | [`http`](HttpCarrier) | [`HttpCarrier`]: the carrier over HTTP. All attributes are here. |
//! | [`model`] | The answers of the API: tagged and untagged enums, flattened fields, absent fields. |
//! | [`desk`](ParcelDesk) | [`ParcelDesk`]: the part of the program that holds an `Arc<dyn CarrierApi>`. |
//!
//! # Where the attribute is
//! It is on the methods of `impl CarrierApi for HttpCarrier`, below `#[async_trait]`:
//!
//! ```text
//! #[async_trait]                                  // first: it makes each method return a future
//! impl CarrierApi for HttpCarrier {
//!     #[coordinator_cached(name = "carrier_search", …)]   // then: it wraps the body of this method
//!     async fn search(&self, query: &str, page: u32) -> Result<Page<Parcel>> { … }
//! ```
//!
//! There it has three advantages over the functions of [`ParcelDesk`]:
//!
//! - Everyone who holds an `Arc<dyn CarrierApi>` is answered from the cache.
//! - The key can have `self.base_url` in it. That field is not visible behind `dyn CarrierApi`, so
//!   a function there would mix up the answers of two carriers.
//! - A fake carrier in a test is another `impl`, and is not cached.
//!
//! Three methods are methods of `HttpCarrier` itself: `token`, `fetch_tracking` and
//! `fetch_recipient`. The program changes their entries, so they have companions
//! (`entry = tracking_entry`). A companion is a second method, and an `impl` of a trait cannot have
//! methods that the trait lacks. The trait's methods `tracking` and `recipient` call
//! `fetch_tracking` and `fetch_recipient`.
//!
//! # Errors
//! An `anyhow::Error` is not `Clone`. For the calls that waited for a failed fetch, `share_error =
//! copy_error` makes a second error. A carrier that is down is therefore asked once, however many
//! calls wait. The calls still find the [`CarrierError`] with `downcast_ref`.
//!
//! # An example
//!
//! ```no_run
//! use std::sync::Arc;
//! use cached_core::Cache;
//! use parcel_client::{HttpCarrier, ParcelDesk};
//!
//! # async fn run() -> anyhow::Result<()> {
//! // In development a cache in memory; with CACHE_URL=memcache://… one that services share.
//! Cache::from_env().await?.install()?;
//! let carrier = HttpCarrier::new("http://carrier.example/v2", "shop")?;
//! let desk = ParcelDesk::new(Arc::new(carrier));
//! println!("{:?}", desk.page("7", 2).await?);
//! # Ok(())
//! # }
//! ```

pub mod api;
mod desk;
mod http;
pub mod model;

pub use api::CarrierApi;
pub use desk::{ParcelDesk, ParcelPage};
pub use http::{CarrierError, HttpCarrier};
