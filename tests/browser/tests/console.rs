//! The console: its answers over HTTP, and its page in a real browser.
//!
//! The tests of `page` need a Chromium. Without one they say so and pass, unless the variable
//! `REQUIRE_BROWSER` is set, as `scripts/test --browser` does.

#[path = "console/http.rs"]
mod http;
#[path = "console/page.rs"]
mod page;
#[path = "console/shop.rs"]
mod shop;
