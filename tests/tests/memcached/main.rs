//! The remote tier, on real memcached servers and on servers in memory.
#![allow(missing_docs)]

mod changes;
mod entries;
mod functions;
mod limits;
mod lost_runtimes;
mod old_servers;
mod one_fetch;
mod outages;
mod refresh;
mod restarts;
mod sharing;
mod stale;
mod testing;
mod unshared;
