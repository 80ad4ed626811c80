//! A program that the test `deploys` starts. It stands for the newer build, after a deploy.

cached_process_tests::build! { new }
