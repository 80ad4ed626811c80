//! The program of the test `deploys` as it is before a deploy.

cached_process_tests::build! { old }
