//! An example: a client of a parcel carrier's JSON API, in a form that many services use. The
//! client is a trait behind `Arc<dyn …>` with `#[async_trait]`. Its implementation uses `reqwest`,
//! and its errors are `anyhow::Error`. Every method that only reads is cached.
//!
//! | module | what is in it |
//! |---|---|
//! | [`api`] | [`CarrierApi`]: what the program needs of a carrier. It does not mention the cache. |
//! | [`http`](HttpCarrier) | [`HttpCarrier`]: the carrier over HTTP. All attributes are here. |
//! | [`model`] | The answers of the API: tagged and untagged enums, flattened fields, absent fields. |
//! | [`desk`](ParcelDesk) | [`ParcelDesk`]: the part of the program that holds an `Arc<dyn CarrierApi>`. |
//!
//! # Where the attribute is
//! The attribute is on the methods of `impl CarrierApi for HttpCarrier`, below `#[async_trait]`:
//!
//! ```text
//! #[async_trait]                                  // first: it makes each method return a future
//! impl CarrierApi for HttpCarrier {
//!     #[coordinator_cached(name = "carrier_search", …)]   // then: it wraps the body of this method
//!     async fn search(&self, query: &str, page: u32) -> Result<Page<Parcel>> { … }
//! ```
//!
//! The attribute could be on the functions of [`ParcelDesk`] instead. On the methods of
//! `HttpCarrier`, it has three advantages:
//!
//! - Everyone who holds an `Arc<dyn CarrierApi>` is answered from the cache.
//! - The key can contain `self.base_url`. That field is not visible behind `dyn CarrierApi`, so a
//!   cached function of `ParcelDesk` would mix up the answers of two carriers.
//! - A fake carrier in a test is another `impl`, and is not cached.
//!
//! Three methods are not in the trait, but are methods of `HttpCarrier` itself: `token`,
//! `fetch_tracking` and `fetch_recipient`. The program changes their cache entries. To do so, it
//! calls a *companion*, a second method that the attribute generates; `entry = tracking_entry`
//! names one. An `impl` of a trait cannot have methods that the trait lacks, so it cannot contain a
//! companion. The trait's methods `tracking` and `recipient` call `fetch_tracking` and
//! `fetch_recipient`.
//!
//! # Errors
//! An `anyhow::Error` is not `Clone`. If a fetch fails, each call that waited for it needs an error
//! too. The setting `share_error = copy_error` names the function that makes this copy. A carrier
//! that is down is therefore asked once, however many calls wait. Each of these calls can still
//! find the [`CarrierError`] with `downcast_ref`.
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
