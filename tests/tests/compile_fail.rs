//! What the attribute refuses, and what it says; and what it must accept.
//!
//! Each file in `ui` is named for one rule and calls the function that it annotates, so that an error
//! which the attribute's own cause is seen. After a change to a message, look at every difference that
//! `TRYBUILD=overwrite cargo test -p cached-tests --test compile_fail` makes before it is committed.

#[test]
fn attribute() {
    let tests = trybuild::TestCases::new();
    tests.pass("ui/pass/*.rs");
    tests.compile_fail("ui/*.rs");
}
