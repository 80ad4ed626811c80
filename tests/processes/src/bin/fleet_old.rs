//! A process of the test `fleet`, in the build before a deploy.

#[path = "../fleet_member.rs"]
mod fleet_member;

/// In the build after the deploy, the last two fields are swapped. A codec that stores no field
/// names would read each of them as the other.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Payment {
    number: u64,
    version: u64,
    fee: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    fleet_member::main()
}
