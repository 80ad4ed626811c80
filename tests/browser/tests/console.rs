//! The console: its answers over HTTP, and its page in a real browser.
//!
//! The tests of `page` need a Chromium. Without a Chromium, these tests print a message and pass.
//! If the variable `REQUIRE_BROWSER` is set, as by `scripts/test --browser`, they fail instead.

#[path = "console/http.rs"]
mod http;
#[path = "console/page.rs"]
mod page;
#[path = "console/shop.rs"]
mod shop;
