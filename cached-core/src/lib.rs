#![doc = include_str!("guide/links.md")]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(test)]
mod auto_traits;
mod cache;
mod call;
mod clock;
#[cfg(feature = "memcached")]
mod codec;
mod config;
#[cfg(feature = "console")]
#[cfg_attr(docsrs, doc(cfg(feature = "console")))]
pub mod console;
mod current;
mod declaration;
#[cfg(feature = "memcached")]
mod encoded;
mod entry;
mod entry_handle;
mod error;
pub mod event;
mod fetch_pauses;
mod flight;
#[cfg(feature = "memcached")]
mod frame;
#[cfg(any(doc, doctest, test))]
pub mod guide;
#[cfg(test)]
mod in_time;
mod key;
mod outcome;
#[cfg(feature = "memcached")]
mod outline;
#[doc(hidden)]
#[allow(missing_docs)]
pub mod private;
#[cfg(feature = "memcached")]
mod program;
mod refresh;
mod refresh_claims;
mod round_trip;
#[cfg(feature = "memcached")]
mod shape;
#[cfg(feature = "memcached")]
mod stable_hash;
mod stats;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod tier;
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub mod tower;
mod ttl;
mod unstorable;
mod unwind;
mod value;
mod weight;

#[cfg(not(feature = "memcached"))]
use tier::remote::no_remote::{encoded, frame};

pub use cache::Cache;
#[cfg(feature = "metrics")]
pub use cache::MetricsPublisher;
/// Caches the results of an `async fn` in a tiered cache.
///
/// The [guide](crate::guide::options) lists the options. The attribute's name refers to a
/// *coordinator*, a service that answers a request by calling other services.
///
/// The attribute goes on a free function, a method or a method of a trait impl, generic or not. The
/// function returns a `Result`, an `Option`, or one of the standard types that implement
/// [`Returned`]. With the option `infallible`, the function may return any type. A plain `fn` whose
/// body is one `async` block and a method under `#[async_trait]` may have the attribute too.
///
/// The body runs in the caller's task, so the body may borrow. With `refresh_ahead`, a background
/// task also runs the body to refresh a value. The function must then own its parameters or declare
/// `refresh_with`.
///
/// # Cancellation
/// Dropping the future of a call drops the body. If other calls wait for the same key, one of them
/// then runs its own body.
///
/// ```
/// # use cached_core::coordinator_cached;
/// #[coordinator_cached(
///     name = "attribute_doc",
///     version = edition,
///     // The cache keeps a course only if its edition is the requested one.
///     cache_if = |course| course.ends_with(&format!("edition {edition}"))
/// )]
/// async fn course(id: u32, edition: u8) -> Result<String, std::io::Error> {
///     Ok(format!("course {id}, edition {edition}"))
/// }
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// assert_eq!(course(1, 2).await?, course(1, 2).await?);
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
pub use cached_macros::coordinator_cached;
pub use config::CacheBuilder;
pub use current::{StaticCache, in_scope, with_outcome, with_outcomes};
pub use declaration::{Declaration, Finding, Ledger, LedgerDrift, LedgerDriftKind, ledger};
pub use entry::{
    CacheEntry, CachedResponse, EntryOf, MayOverwrite, Overwritable, WriteOnce, first_found,
};
pub use error::{
    CacheError, ConfigError, ConfigErrorKind, InstallError, KeyError, RemoteError, RemoteErrorKind,
    UnknownNameError,
};
pub use event::{Event, Observer};
#[cfg(feature = "memcached")]
pub use key::{Digest, Key};
pub use outcome::{CallResult, Outcome, Outcomes, outcomes};
pub use stats::{
    DeclarationStats, DurationHistogram, Health, LocalStats, ObserverStats, ServerState,
    ServerStats, Stats,
};
pub use tier::Tier;
pub use tier::request::RequestScope;
pub use value::{CachedValue, Returned};
