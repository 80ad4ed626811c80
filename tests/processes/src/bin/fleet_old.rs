//! A process of the test `fleet`, in the build before a deploy.

#[path = "../fleet_member.rs"]
mod fleet_member;

/// The deploy swaps the last two fields. A positional codec would read each as the other.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Payment {
    number: u64,
    version: u64,
    fee: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    fleet_member::main()
}
