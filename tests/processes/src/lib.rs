//! Code that the programs `deploy_old` and `deploy_new` share. The other programs of this package
//! share nothing.

#[doc(hidden)]
pub mod deploy;
