//! A program that the test `fleet` starts. It stands for the newer build, after a deploy.

#[path = "../fleet_member.rs"]
mod fleet_member;

/// The older build, `fleet_old`, declares this type with its fields in another order.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Payment {
    number: u64,
    fee: u64,
    version: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    fleet_member::main()
}
