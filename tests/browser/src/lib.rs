//! Helpers of the browser tests: a small WebDriver client, and a server of the console,
//! the web page under test.

mod browser;
mod console_server;

pub use browser::{Browser, Emulation};
pub use console_server::{ConsoleServer, TOKEN};
