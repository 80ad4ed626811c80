//! Tests of the remote tier, memcached. They use memcached processes, and the in-memory server of
//! the module `cached_core::testing`.
#![allow(missing_docs)]

mod agreement;
mod changes;
mod counters;
mod entries;
mod full_servers;
mod functions;
mod limits;
mod lost_runtimes;
mod metrics;
mod misses;
mod old_servers;
mod on_call;
mod one_fetch;
mod outages;
mod paused;
mod refresh;
mod refresh_with;
mod restarts;
mod several_servers;
mod sharing;
mod short_ttls;
mod spans;
mod stale;
mod testing;
mod unshared;
mod value_rules;
mod worth;
