//! A process of the test `fleet`, in the build after a deploy.

#[path = "../fleet_member.rs"]
mod fleet_member;

/// The fields of `fleet_old` in another order.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Payment {
    number: u64,
    fee: u64,
    version: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    fleet_member::main()
}
