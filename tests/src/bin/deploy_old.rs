//! The build that runs before a deploy.

cached_tests::build! { old }
