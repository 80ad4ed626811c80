//! Tests that the attribute refuses the programs in `ui`, and accepts those in `ui/pass`. The
//! `.stderr` file beside each refused program holds the expected output of the compiler. This test
//! runs cargo, so it is a test binary of its own.
//!
//! Each file in `ui` is named after one rule. The file calls the annotated function, so that an
//! error in the expansion would show. If you change an error message, run `TRYBUILD=overwrite cargo
//! test -p cached-tests --test compile_fail`, and read every difference before the commit.

#[test]
fn the_attribute_refuses_and_accepts_programs() {
    let tests = trybuild::TestCases::new();
    tests.pass("ui/pass/*.rs");
    tests.compile_fail("ui/*.rs");
}
