#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cache;
mod call;
mod codec;
mod config;
mod current;
mod declaration;
mod entry;
mod error;
mod flight;
mod frame;
mod key;
#[doc(hidden)]
#[allow(missing_docs)]
pub mod private;
mod shape;
mod site;
mod stats;
mod tier;
mod value;

pub use cache::Cache;
pub use cached_macros::coordinator_cached;
pub use config::CacheBuilder;
pub use declaration::{Declaration, Finding, Ledger, ledger};
pub use entry::{CacheEntry, CachedResponse, MayOverwrite, Overwritable, WriteOnce, first_found};
pub use error::{CacheError, ConfigError, InstallError};
pub use key::{Digest, Key};
pub use stats::{DeclarationStats, Stats};
pub use tier::Tier;
pub use tier::request::RequestScope;
pub use value::{CachedValue, Returned};
