//! The attribute refuses the programs in `ui`, and accepts those in `ui/pass`. The file `.stderr`
//! beside a refused program holds the compiler's output. The test is a program of its own because
//! it runs cargo.
//!
//! Each file in `ui` is named after one rule. The file calls the annotated function, so that an
//! error in the expansion would show. After a change of a message, run
//! `TRYBUILD=overwrite cargo test -p cached-tests --test compile_fail`, and read every difference
//! before the commit.

#[test]
fn the_attribute_refuses_and_accepts_programs() {
    let tests = trybuild::TestCases::new();
    tests.pass("ui/pass/*.rs");
    tests.compile_fail("ui/*.rs");
}
