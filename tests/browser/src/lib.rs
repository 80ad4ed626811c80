//! Helpers of the browser tests: a small WebDriver client, and a program that serves the console,
//! the web page under test.

mod browser;
mod program;

pub use browser::{Browser, Emulation};
pub use program::{Program, TOKEN};
