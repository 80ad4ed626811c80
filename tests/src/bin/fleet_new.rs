//! A process of the fleet, of the build after a deploy.

#[path = "../member.rs"]
mod member;

/// The same fields in another order; see `fleet_old`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Payment {
    number: u64,
    fee: u64,
    version: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    member::main()
}
