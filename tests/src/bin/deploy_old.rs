//! The program of the test `deploys` as it is before a deploy.

cached_tests::build! { old }
