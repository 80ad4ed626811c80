//! A client of `chromedriver`, which drives a Chromium without a window.
//!
//! The client sends a few commands of the [WebDriver protocol](https://www.w3.org/TR/webdriver2/)
//! as JSON over HTTP. These commands need little code, and a crate for them would bring many
//! dependencies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// How long a test waits for the page to show something.
const PAGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Locked while a browser runs, because two browsers at a time would slow each other down.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A Chromium without a window. Dropping the value ends the Chromium.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    http: reqwest::Client,
    _turn: MutexGuard<'static, ()>,
}

/// The screen that the browser emulates.
#[derive(Debug, Clone, Copy)]
pub struct Emulation {
    /// The width of the viewport in pixels.
    pub width: u32,
    /// The height of the viewport in pixels.
    pub height: u32,
    /// True for the dark colour scheme.
    pub dark: bool,
}

impl Browser {
    /// Starts a browser.
    ///
    /// If `chromium` or `chromedriver` is not installed, this prints a line to stderr and returns
    /// `None`.
    ///
    /// # Panics
    /// Panics if an installed Chromium does not start. Also panics if one of the two programs is
    /// not installed and the environment variable `REQUIRE_BROWSER` is set.
    pub async fn start() -> Option<Browser> {
        let turn = ONE_AT_A_TIME.lock().await;
        let (Some(chromium), Some(driver)) = (find("chromium"), find("chromedriver")) else {
            let is_required = std::env::var_os("REQUIRE_BROWSER").is_some();
            assert!(!is_required, "chromium and chromedriver are installed");
            eprintln!("skipped: no Chromium is installed; `scripts/test --browser` installs it");
            return None;
        };
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver can be started");
        let mut output = BufReader::new(driver.stdout.take().expect("the output is piped"));
        let port = loop {
            let mut line = String::new();
            let read = output.read_line(&mut line).expect("chromedriver writes text");
            assert!(read > 0, "chromedriver says its port");
            if let Some((_, port)) =
                line.trim_end().trim_end_matches('.').rsplit_once(" started successfully on port ")
            {
                break port.parse().expect("a port is a number");
            }
        };
        // Discards all further output of the driver, which would block if nobody read its output.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let mut arguments =
            vec!["--headless=new", "--disable-gpu", "--hide-scrollbars", "--mute-audio"];
        arguments.extend(["--disable-dev-shm-usage", "--disable-extensions", "--no-first-run"]);
        arguments.extend(["--disable-background-networking", "--force-color-profile=srgb"]);
        // Chromium's sandbox does not work for root.
        arguments.push("--no-sandbox");
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));
        let http = http.build().expect("a client without TLS can always be built");
        let mut browser = Browser { driver, port, session: String::new(), http, _turn: turn };
        let session = browser.command_at("/session", capabilities).await;
        browser.session = session["sessionId"].as_str().expect("a session has an id").to_owned();
        Some(browser)
    }

    async fn command_at(&self, path: &str, body: Value) -> Value {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let answer = self.http.post(url).json(&body).send().await.expect("chromedriver answers");
        let mut answer: Value = answer.json().await.expect("chromedriver answers with JSON");
        let value = answer["value"].take();
        assert!(value.get("error").is_none(), "{path}: {value}");
        value
    }

    async fn command(&self, name: &str, body: Value) -> Value {
        self.command_at(&format!("/session/{}/{name}", self.session), body).await
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.command("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// Opens a page, and waits until it has loaded.
    pub async fn open(&self, url: &str) {
        self.command("url", json!({ "url": url })).await;
    }

    /// Runs `script` as the body of a JavaScript function, and returns the function's result.
    pub async fn run(&self, script: &str) -> Value {
        self.command("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Returns the value of a JavaScript expression.
    pub async fn value(&self, expression: &str) -> Value {
        self.run(&format!("return ({expression});")).await
    }

    /// Returns the text that an element shows.
    pub async fn text(&self, selector: &str) -> String {
        let text =
            self.value(&format!("document.querySelector({selector:?})?.innerText ?? ''")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a JavaScript expression is true.
    ///
    /// # Panics
    /// Panics after 20 s, with the text of the page.
    pub async fn wait_for(&self, expression: &str) {
        let started = Instant::now();
        while self.value(&format!("Boolean({expression})")).await != Value::Bool(true) {
            if started.elapsed() > PAGE_TIMEOUT {
                panic!("`{expression}` stays false on this page:\n{}", self.text("body").await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks on an element as a user's mouse does. A script's `click()` would also work on an
    /// element that is hidden or covered.
    pub async fn click(&self, selector: &str) {
        // The page's header stays in place and would cover an element at the upper edge.
        let center = "scrollIntoView({ block: 'center', behavior: 'instant' })";
        self.run(&format!("document.querySelector({selector:?}).{center}")).await;
        let element = self.element(selector).await;
        self.command(&format!("element/{element}/click"), json!({})).await;
    }

    /// Replaces the text of a field, as a user would type it.
    pub async fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.command(&format!("element/{element}/clear"), json!({})).await;
        self.command(&format!("element/{element}/value"), json!({ "text": text })).await;
    }

    async fn element(&self, selector: &str) -> String {
        let by = json!({ "using": "css selector", "value": selector });
        let element = self.command("element", by).await;
        let id = element.as_object().and_then(|ids| ids.values().next()?.as_str());
        id.expect("an element has an id").to_owned()
    }

    /// Presses a key. WebDriver gives special keys a character: `"\u{e004}"` is the Tab key.
    pub async fn press(&self, key: &str) {
        let pressed =
            json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": pressed });
        self.command("actions", json!({ "actions": [keyboard] })).await;
    }

    /// Sets the size of the viewport and the colour scheme.
    pub async fn emulate(&self, emulation: Emulation) {
        let Emulation { width, height, dark } = emulation;
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if dark { "dark" } else { "light" };
        let scheme = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": scheme })).await;
    }

    /// Returns a picture of the viewport as PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let picture = self.devtools("Page.captureScreenshot", json!({ "format": "png" })).await;
        decode_base64(picture["data"].as_str().expect("a picture has data"))
    }

    /// Returns a picture of the page as PNG, from its top down to 6,000 pixels.
    pub async fn screenshot_of_page(&self) -> Vec<u8> {
        let width = self.value("innerWidth").await;
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": 6_000, "scale": 1 });
        let picture = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.devtools("Page.captureScreenshot", picture).await;
        decode_base64(picture["data"].as_str().expect("a picture has data"))
    }

    /// Returns the errors and warnings in the browser's console since the last call. Among them are
    /// script errors, failed requests, and violations of the content security policy.
    pub async fn complaints(&self) -> Vec<String> {
        let lines = self.command("se/log", json!({ "type": "browser" })).await;
        let lines = lines.as_array().cloned().unwrap_or_default();
        let is_complaint = |line: &Value| line["level"] == "SEVERE" || line["level"] == "WARNING";
        lines
            .iter()
            .filter(|line| is_complaint(line))
            .map(|line| line["message"].to_string())
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A killed driver would leave its Chromium behind, so the driver ends the Chromium first.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let session = &self.session;
            let request = format!(
                "DELETE /session/{session} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read(&mut [0; 512]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Returns the path of a program, if it is in `PATH`.
fn find(program: &str) -> Option<String> {
    let folders = std::env::var("PATH").unwrap_or_default();
    let paths = folders.split(':').map(|folder| format!("{folder}/{program}"));
    paths.into_iter().find(|path| Path::new(path).is_file())
}

fn decode_base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    let group = |digits: &[u8]| {
        let bits = digits.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
        let bits = bits << (6 * (4 - digits.len()));
        bits.to_be_bytes()[1..digits.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::decode_base64;

    #[test]
    fn base64_is_decoded() {
        for (text, bytes) in
            [("TWFu", "Man"), ("TWE=", "Ma"), ("TQ==", "M"), ("TWFuTWFu", "ManMan")]
        {
            assert_eq!(decode_base64(text), bytes.as_bytes());
        }
    }
}
