//! Tests the console: its HTTP responses, and its web page in a real browser.
//!
//! The tests in the module `page` need the browser Chromium. Without Chromium, these tests print a
//! message and pass. If the environment variable `REQUIRE_BROWSER` is set, they fail instead. The
//! command `scripts/test --browser` sets this variable.

#[path = "console/http.rs"]
mod http;
#[path = "console/page.rs"]
mod page;
#[path = "console/shop.rs"]
mod shop;
