//! Simulates 1,000 processes of a service that share 100 memcached servers, on one machine.
//!
//! Each process is a separate cache that uses the whole library: memory, single-flight, memcached,
//! leases (only one process fetches a missing value), and the ejection of failed servers. To
//! *fetch* is to run the cached function. Only the network is left out, and the simulation moves
//! the clock instead of waiting.
//!
//! The simulation counts the fetches of each key and version, the keys that move when a server is
//! removed, and the load of the busiest server. If the library breaks one of its promises, the
//! simulation fails.

mod fleet;
mod plot;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::fleet::{Fleet, FleetSize};
use crate::report::Report;

/// Simulates a fleet of processes with a pool of memcached servers, and prints a table.
#[derive(Parser)]
#[command(name = "fleet-simulation", version, max_term_width = 100)]
struct Arguments {
    /// The number of processes
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=5000))]
    processes: u32,
    /// The number of memcached servers
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1000))]
    servers: u32,
    /// The number of keys, which calls draw by Zipf's law
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// The number of calls in each phase
    #[arg(long, default_value_t = 300_000)]
    calls: u32,
    /// The file for the plots
    #[arg(long, value_name = "FILE", default_value = "fleet.svg")]
    svg: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { processes, servers, keys, calls, svg } = Arguments::parse();
    let size = FleetSize { processes, servers, keys, calls };
    // The clock is paused: it jumps ahead when every task waits, so that waiting takes no time.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = match runtime.enable_time().start_paused(true).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("fleet-simulation: cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let report = runtime.block_on(simulate(size));
    println!("{report}");
    if let Err(error) = plot::draw(&report, &svg) {
        eprintln!("fleet-simulation: cannot write {}: {error}", svg.display());
        return ExitCode::FAILURE;
    }
    println!("\nplots: {}", svg.display());
    let broken = report.broken_promises();
    broken.iter().for_each(|promise| eprintln!("fleet-simulation: {promise}"));
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn simulate(size: FleetSize) -> Report {
    let mut fleet = Fleet::new(size);
    let mut phases = vec![
        fleet.stampede().await,
        fleet.phase("cold", 1).await,
        fleet.phase("the same keys again", 1).await,
        fleet.phase("every key has a new version", 2).await,
    ];
    let load = fleet.loads();
    let before = fleet.homes();

    let lost = fleet.lose_a_server();
    phases.push(fleet.phase("a server is lost", 2).await);
    fleet.remove_server(&lost);
    phases.push(fleet.phase("the server is removed", 2).await);
    let moved = before.moved_until(&fleet.homes());

    fleet.half_an_hour_later();
    phases.push(fleet.phase("half an hour later", 2).await);
    Report { size, phases, load, moved, keys_of_lost_server: before.at(&lost) }
}
