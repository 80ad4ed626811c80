//! The part of the programs `deploy_old` and `deploy_new` that they share. The other programs of this
//! package share nothing.

#[doc(hidden)]
pub mod deploy;
