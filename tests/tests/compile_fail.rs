//! In a program of its own, because it runs cargo: programs that the attribute must refuse, with the compiler's
//! output, and programs that it must accept.
//!
//! Each file in `ui` is named after one rule. It calls the annotated function, so that an error in the expansion would
//! show. After a change of a message, run `TRYBUILD=overwrite cargo test -p cached-tests --test compile_fail`, and read
//! every difference before the commit.

#[test]
fn attribute() {
    let tests = trybuild::TestCases::new();
    tests.pass("ui/pass/*.rs");
    tests.compile_fail("ui/*.rs");
}
