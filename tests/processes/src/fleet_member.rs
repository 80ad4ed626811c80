//! The program of one process in the test `fleet`. The program calls a cached function again and
//! again. [`main`] reads commands from standard input and writes the answers to standard output. At
//! the first wrong value or failed call, the program ends with an error.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cached_core::{Cache, coordinator_cached};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::Payment;

/// The fee of every payment. In the test, processes of two builds of the program share memcached. A
/// build that misreads the bytes of the other build sees a different fee.
const FEE: u64 = 7_777_777;
const TASKS: usize = 8;

static FETCHES: AtomicU64 = AtomicU64::new(0);
/// The number of calls that each task has made.
static CALLS: [AtomicU64; TASKS] = [const { AtomicU64::new(0) }; TASKS];
static IS_ENDING: AtomicBool = AtomicBool::new(false);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Fetches the current version of a payment from the upstream.
async fn fetch_version(upstream: &str, number: u64) -> std::io::Result<u64> {
    let mut stream = BufReader::new(TcpStream::connect(upstream).await?);
    stream.get_mut().write_all(format!("{number}\n").as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    line.trim().parse().map_err(std::io::Error::other)
}

#[coordinator_cached(
    name = "rolled_payment",
    overwrite(reason = "a payment changes without a version in its key"),
    local = false,
    skip(upstream),
    entry = payment_entry
)]
async fn payment(upstream: &str, number: u64) -> Result<Payment, Arc<std::io::Error>> {
    FETCHES.fetch_add(1, Ordering::SeqCst);
    let version = fetch_version(upstream, number).await.map_err(Arc::new)?;
    Ok(Payment { number, version, fee: FEE })
}

/// Calls `payment` until the process ends. `oldest` holds the lowest version of each payment that
/// an answer may have. An answer with a lower version is an error.
async fn call_and_check(
    upstream: String,
    oldest: Arc<[AtomicU64]>,
    task: usize,
) -> Result<(), String> {
    let mut seed = u64::from(std::process::id()) << 8 | task as u64;
    while !IS_ENDING.load(Ordering::SeqCst) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = (seed >> 33) % oldest.len() as u64;
        let at_least = oldest[number as usize].load(Ordering::SeqCst);
        let payment =
            payment(&upstream, number).await.map_err(|e| format!("a call failed: {e}"))?;
        let Payment { number: actual, version, fee } = payment;
        if actual != number || fee != FEE || version < at_least {
            let right = format!("payment {number}, version {at_least} or later, fee {FEE}");
            return Err(format!(
                "a wrong value: payment {actual}, version {version}, fee {fee}; not {right}"
            ));
        }
        CALLS[task].fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn calls_by_task() -> [u64; TASKS] {
    std::array::from_fn(|task| CALLS[task].load(Ordering::SeqCst))
}

/// Waits until every call that is running now has ended.
///
/// The wait is needed because an invalidation by another process does not stop the fetches of this
/// process. A later call could join a fetch that began before the invalidation, and then return the
/// old value.
async fn wait_for_running_calls() {
    let before = calls_by_task();
    while calls_by_task().iter().zip(before).any(|(&now, before)| now == before) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn answer(line: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

/// The arguments are the upstream's address and the number of payments. Each line of standard input
/// is one command:
/// - `invalidate NUMBER VERSION` invalidates a payment. Afterwards this process must not see
///   versions below `VERSION`. The answer is `true` if memcached was reached.
/// - `oldest NUMBER VERSION …` says that other processes have invalidated these payments.
///   Afterwards this process must not see versions below these.
/// - `count` answers with three numbers: calls, fetches, and failures. Each of these failures
///   allows one more fetch.
/// - `end` ends the process.
#[tokio::main]
pub(crate) async fn main() -> Result<(), Error> {
    let [_, upstream, payments] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("usage: CACHE_URL=… fleet_old UPSTREAM PAYMENTS".into());
    };
    let cache = Cache::from_env().await?;
    cache.install()?;
    let oldest: Arc<[AtomicU64]> = (0..payments.parse()?).map(|_| AtomicU64::new(0)).collect();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let calls = call_and_check(upstream.clone(), Arc::clone(&oldest), task);
            tokio::spawn(async move {
                if let Err(error) = calls.await {
                    eprintln!("{error}");
                    std::process::exit(1);
                }
            })
        })
        .collect();
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    while let Some(line) = lines.recv().await {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["invalidate", number, version] => {
                let number: usize = number.parse()?;
                let invalidated = payment_entry(number as u64).invalidate().await;
                oldest[number].fetch_max(version.parse()?, Ordering::SeqCst);
                answer(&invalidated.is_ok().to_string())?;
            }
            ["oldest", ref changes @ ..] => {
                wait_for_running_calls().await;
                for change in changes.chunks_exact(2) {
                    let number: usize = change[0].parse()?;
                    oldest[number].fetch_max(change[1].parse()?, Ordering::SeqCst);
                }
                answer("noted")?;
            }
            ["count"] => {
                let stats = cache.stats().total();
                let failures = stats.remote_errors + stats.lease_timeouts + stats.fills_dropped;
                let (calls, fetches): (u64, _) =
                    (calls_by_task().iter().sum(), FETCHES.load(Ordering::SeqCst));
                answer(&format!("{calls} {fetches} {failures}"))?;
            }
            _ => break,
        }
    }
    IS_ENDING.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await?;
    }
    cache.flush().await;
    answer("ended")
}
