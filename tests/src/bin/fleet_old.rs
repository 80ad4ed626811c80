//! A process of the fleet, of the build before a deploy.

#[path = "../member.rs"]
mod member;

/// What the deploy changes: two fields of one type swap their places, which a positional codec
/// would read as each other.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Payment {
    number: u64,
    version: u64,
    fee: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    member::main()
}
