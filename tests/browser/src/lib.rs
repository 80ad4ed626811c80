//! Helpers of the browser tests: a small WebDriver client, and a program with a console.

mod browser;
mod program;

pub use browser::{Browser, Emulation};
pub use program::{Program, TOKEN};
