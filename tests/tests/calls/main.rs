//! Calls, keys, options and entries, in programs without memcached for the most part.
#![allow(missing_docs)]

mod absent_values;
mod caching;
mod desugared;
mod entries;
mod functions;
mod futures;
mod keys;
mod ledger;
mod options;
mod request_changes;
mod requests;
mod single_flight;
mod type_arguments;
