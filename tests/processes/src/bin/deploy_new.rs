//! The program of the test `deploys` as it is after a deploy.

cached_process_tests::build! { new }
