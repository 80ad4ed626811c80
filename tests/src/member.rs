//! A process of the fleet under load. It is told what to do on its input, a line each, and answers
//! on its output; see `main`. It ends with an error at the first wrong value or failed call.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cached_core::{Cache, coordinator_cached};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::Payment;

/// Every payment's fee; a build that reads another's bytes would see something else.
const FEE: u64 = 7_777_777;
const TASKS: usize = 8;

static FETCHES: AtomicU64 = AtomicU64::new(0);
/// Of each task.
static CALLS: [AtomicU64; TASKS] = [const { AtomicU64::new(0) }; TASKS];
static ENDS: AtomicBool = AtomicBool::new(false);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Asks the upstream, which answers with the version that the payment had when it was asked.
async fn ask(upstream: &str, number: u64) -> std::io::Result<u64> {
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
    let version = ask(upstream, number).await.map_err(Arc::new)?;
    Ok(Payment { number, version, fee: FEE })
}

/// Calls, and checks each answer against the oldest version that may be seen by then.
async fn load(upstream: String, oldest: Arc<[AtomicU64]>, task: usize) -> Result<(), String> {
    let mut seed = u64::from(std::process::id()) << 8 | task as u64;
    while !ENDS.load(Ordering::SeqCst) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = (seed >> 33) % oldest.len() as u64;
        let at_least = oldest[number as usize].load(Ordering::SeqCst);
        let payment =
            payment(&upstream, number).await.map_err(|e| format!("a call failed: {e}"))?;
        let Payment { number: of, version, fee } = payment;
        if of != number || fee != FEE || version < at_least {
            let expected = format!("payment {number}, version {at_least} or later, fee {FEE}");
            return Err(format!(
                "a wrong value: {of}, version {version}, fee {fee}; not {expected}"
            ));
        }
        CALLS[task].fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn calls() -> [u64; TASKS] {
    std::array::from_fn(|task| CALLS[task].load(Ordering::SeqCst))
}

/// Waits until every call that is under way has ended, and with them the fetches: another process
/// cannot tell them that the payment has changed, and who joins one gets its answer.
async fn calls_under_way_have_ended() {
    let before = calls();
    while calls().iter().zip(before).any(|(&now, before)| now == before) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn say(line: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

/// `UPSTREAM PAYMENTS` on the command line; then, a line each:
/// - `invalidate NUMBER VERSION`: what is older than the version is not seen any more. `true` where
///   memcached was told.
/// - `oldest NUMBER VERSION …`: other processes have done so.
/// - `count`: calls, fetches, and what went wrong with memcached, so far.
/// - `end`.
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
            let load = load(upstream.clone(), Arc::clone(&oldest), task);
            tokio::spawn(async move {
                if let Err(error) = load.await {
                    eprintln!("{error}");
                    std::process::exit(1);
                }
            })
        })
        .collect();
    let (lines, mut line) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
    });
    while let Some(line) = line.recv().await {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["invalidate", number, version] => {
                let number: usize = number.parse()?;
                let told = payment_entry(number as u64).invalidate().await;
                oldest[number].fetch_max(version.parse()?, Ordering::SeqCst);
                say(&told.is_ok().to_string())?;
            }
            ["oldest", ref changes @ ..] => {
                calls_under_way_have_ended().await;
                for change in changes.chunks_exact(2) {
                    let number: usize = change[0].parse()?;
                    oldest[number].fetch_max(change[1].parse()?, Ordering::SeqCst);
                }
                say("noted")?;
            }
            ["count"] => {
                let stats = cache.stats().total();
                let amiss = stats.remote_errors + stats.lease_timeouts + stats.fills_dropped;
                let (calls, fetches): (u64, _) =
                    (calls().iter().sum(), FETCHES.load(Ordering::SeqCst));
                say(&format!("{calls} {fetches} {amiss}"))?;
            }
            _ => break,
        }
    }
    ENDS.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await?;
    }
    cache.flush().await;
    say("ended")
}
