//! The build that is deployed.

cached_tests::build! { new }
