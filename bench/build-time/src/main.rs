//! Measures how long a crate of 200 annotated functions takes to build. For comparison, three more
//! crates have the same functions in other forms:
//!
//! - `plain`: without a cache
//! - `hand`: with handwritten calls of `cached_core::private`, which the attribute's code calls too
//! - `cached`: with the attribute of the crate `cached`
//!
//! `cargo run --release` prints medians of five rounds and their ratios; `cargo run --release -- 9`
//! makes nine rounds. A round builds each crate in turn, without its dependencies and without
//! incremental compilation, so that other load on the machine affects all crates alike.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const FUNCTIONS: usize = 200;
/// The number of different return types. Several functions return the same type, as in a real
/// service.
const TYPES: usize = 20;
const CRATES: [(&str, fn(usize) -> String); 4] =
    [("plain", plain), ("hand", hand), ("ours", ours), ("cached", cached)];

/// Writes a function without a cache, as the baseline.
fn plain(number: usize) -> String {
    function("", number, &body(number))
}

fn ours(number: usize) -> String {
    let name = format!("name = \"payment-{number}\", version = state, skip(client)");
    function(&format!("#[cached_core::coordinator_cached({name})]"), number, &body(number))
}

fn hand(number: usize) -> String {
    let (returned, body) = (returned(number), body(number));
    let body = format!(
        "
    use cached_core::private;
    let call = private::begin!(private::lookup::<{returned}, _>(
        private::ErrorProbe::<{returned}>::NEW.sharing(),
        private::declare!(\"payment-{number}\", \"fetch_{number}\", {number}),
        (private::part(&order), private::part(&state)),
    ), begin);
    let fetch = async move {{{body}}};
    call.complete(std::pin::pin!(fetch)).await
"
    );
    function("", number, &body)
}

fn cached(number: usize) -> String {
    // Without `convert`, the key of `cached` would include all arguments, even `client`.
    let options = "max_size = 10_000, ttl_secs = 1800, key = \"(String, u8)\", \
        convert = r#\"{ (order.to_owned(), state) }\"#";
    function(&format!("#[cached::macros::cached({options})]"), number, &body(number))
}

fn function(attribute: &str, number: usize, body: &str) -> String {
    let returned = returned(number);
    format!(
        "{attribute}\npub async fn fetch_{number}(client: &Client, order: &str, state: u8) -> {returned} {{{body}}}\n"
    )
}

fn returned(number: usize) -> String {
    format!("Result<Payment{}, FetchError>", number % TYPES)
}

/// Writes the body of a function that makes a network call.
fn body(number: usize) -> String {
    format!(
        "
    let answer = client.get(\"/payments/{number}\", order, state).await?;
    if answer.is_empty() {{
        return Err(FetchError::NotFound);
    }}
    let amount = answer.len() as u64 + u64::from(state);
    Ok(Payment{} {{ number: order.to_owned(), state, amount, lines: vec![answer] }})
",
        number % TYPES
    )
}

fn library(written: fn(usize) -> String) -> String {
    let mut library = String::from(
        "#![allow(unused_imports)]
use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

pub struct Client;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FetchError {
    NotFound,
    Status(u16),
}

impl Client {
    pub async fn get(&self, path: &str, order: &str, state: u8) -> Result<String, FetchError> {
        if state == 0 { Err(FetchError::Status(500)) } else { Ok(format!(\"{path}/{order}\")) }
    }
}
",
    );
    for number in 0..TYPES {
        write!(
            library,
            "
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payment{number} {{
    pub number: String,
    pub state: u8,
    pub amount: u64,
    pub lines: Vec<String>,
}}
"
        )
        .expect("a String accepts every write");
    }
    (0..FUNCTIONS).for_each(|number| library.push_str(&written(number)));
    // The compiler generates code only for a future that is used.
    library.push_str("\npub fn polled(client: &'static Client) {\n");
    for number in 0..FUNCTIONS {
        writeln!(
            library,
            "    let _: Pin<Box<dyn Future<Output = {}> + Send>> = Box::pin(fetch_{number}(client, \"1\", 2));",
            returned(number)
        )
        .expect("a String accepts every write");
    }
    library.push_str("}\n");
    library
}

fn write_crates(crates: &Path) {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cached-core");
    let write = |path: PathBuf, text: &str| {
        std::fs::create_dir_all(path.parent().expect("the path has a parent"))
            .expect("the folder can be created");
        std::fs::write(path, text).expect("a file is written");
    };
    let members = CRATES.map(|(name, _)| name);
    write(
        crates.join("Cargo.toml"),
        &format!("[workspace]\nresolver = \"3\"\nmembers = {members:?}\n"),
    );
    for (name, written) in CRATES {
        let dependency = match name {
            "cached" => "cached = { version = \"4.1\", features = [\"async\"] }".to_owned(),
            _ => format!("cached-core.path = {core:?}"),
        };
        let manifest = format!(
            "[package]\nname = \"{name}-200\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
             [dependencies]\nserde = {{ version = \"1\", features = [\"derive\"] }}\n{dependency}\n"
        );
        write(crates.join(name).join("Cargo.toml"), &manifest);
        write(crates.join(name).join("src/lib.rs"), &library(written));
    }
}

/// Builds one crate, even if it was built before.
fn build(crates: &Path, command: &str, name: &str) -> Duration {
    let library = crates.join(name).join("src/lib.rs");
    let file = std::fs::File::options().append(true).open(&library).expect("the file exists");
    file.set_modified(std::time::SystemTime::now()).expect("the time can be set");
    let began = Instant::now();
    let status = Command::new(env!("CARGO"))
        .args([command, "--quiet", "--package", &format!("{name}-200")])
        .env("CARGO_INCREMENTAL", "0")
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(crates)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "`cargo {command}` of {name} failed");
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn main() {
    let rounds =
        std::env::args().nth(1).map_or(5, |rounds| rounds.parse().expect("the text is a number"));
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/crates");
    write_crates(&crates);
    println!("{FUNCTIONS} functions, {TYPES} types, the crate itself, median of {rounds} rounds\n");
    println!("          plain    hand    ours  cached   ours/hand  ours/cached");
    for command in ["check", "build"] {
        // These builds are not measured, because they also build the dependencies.
        for (name, _) in CRATES {
            build(&crates, command, name);
        }
        let mut times = CRATES.map(|_| Vec::new());
        for round in 0..rounds {
            for turn in 0..CRATES.len() {
                let which = (round + turn) % CRATES.len();
                times[which].push(build(&crates, command, CRATES[which].0));
            }
        }
        let [plain, hand, ours, cached] = times.map(median);
        println!(
            "{command:6} {plain:6.2} s {hand:5.2} s {ours:5.2} s {cached:5.2} s {:10.2} {:12.2}",
            ours / hand,
            ours / cached
        );
    }
}
