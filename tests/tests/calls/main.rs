//! Tests that call cached functions. They check the keys, the options of the attribute, and the
//! handles of single cache entries. Most tests run without memcached.
#![allow(missing_docs)]

mod absent_values;
mod caching;
mod clearing;
mod desugared;
mod entries;
mod events;
mod failing_fetches;
mod functions;
mod futures;
mod keys;
mod ledger;
mod options;
mod outcomes;
mod plain_values;
mod request_changes;
mod requests;
mod scopes;
mod single_flight;
mod tower;
mod type_arguments;
mod value_rules;
