//! Measures remote hits. This library, the memcached client alone and a plain connection read the
//! same items from one memcached.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use memcache::exp::{AsyncMetaClient, GetStatus};
use tokio::runtime::{Builder, Runtime};

use crate::harness::{Results, measured, measured_notes, median, race, sequence};
use crate::memcached::Memcached;
use crate::payment::{FetchError, Payment, State, numbers, shared_upstream};
use crate::report::Report;
use crate::{child, plot};

const BARE: &str = "the bare client's get";
const OURS: &str = "cached-core";
const PIPELINING: &str = "raw pipelining";
const KEYS: usize = 1_000;
/// The number of runs with one caller. The results differ from run to run, so the report shows
/// their median. Each run has a new memcached.
const RUNS: usize = 9;

/// A function without a local tier, so each call reads from memcached.
#[coordinator_cached(name = "remote", version = state, local = false, entry = ours_entry)]
async fn ours(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    shared_upstream(number, state).await
}

/// The time of each get in microseconds, and the number of gets per second.
#[derive(Default)]
struct GetTimes {
    took: Vec<f64>,
    per_second: f64,
}

impl GetTimes {
    fn p99(&self) -> f64 {
        let mut took = self.took.clone();
        took.sort_by(f64::total_cmp);
        took[took.len() * 99 / 100]
    }
}

fn get_all<F>(runtime: &Runtime, callers: usize, gets: usize, get: impl Fn(usize) -> F) -> GetTimes
where
    F: Future<Output = ()> + Send + 'static,
{
    let each = gets / callers;
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let mut keys = sequence(KEYS);
            let futures: Vec<F> = keys.by_ref().skip(caller * each).take(each).map(&get).collect();
            runtime.spawn(async move {
                let mut took = Vec::with_capacity(each);
                for future in futures {
                    let began = Instant::now();
                    future.await;
                    took.push(began.elapsed().as_nanos() as f64 / 1_000.0);
                }
                took
            })
        })
        .collect();
    let took: Vec<f64> = runtime.block_on(async {
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.expect("no thread panics"));
        }
        all
    });
    GetTimes { per_second: took.len() as f64 / began.elapsed().as_secs_f64(), took }
}

/// Writes `depth` gets before it reads the first answer. Returns the microseconds for each get.
fn pipelined(stream: &mut BufReader<TcpStream>, keys: &[String], depth: usize) -> f64 {
    let began = Instant::now();
    let mut commands = Vec::new();
    for key in keys.iter().cycle().take(depth) {
        commands.extend_from_slice(format!("mg {key} v\r\n").as_bytes());
    }
    stream.get_mut().write_all(&commands).expect("memcached reads the commands");
    let (mut line, mut value) = (String::new(), Vec::new());
    for _ in 0..depth {
        line.clear();
        stream.read_line(&mut line).expect("memcached answers");
        let length: usize = line[3..].trim_end().parse().expect("VA and a length");
        value.resize(length + 2, 0);
        stream.read_exact(&mut value).expect("a value");
    }
    began.elapsed().as_nanos() as f64 / 1_000.0 / depth as f64
}

/// The title of a figure, and a function that returns the name under which a contender's results
/// for this figure are stored.
type FigureSource = (&'static str, fn(&str) -> String);

const FIGURES: [FigureSource; 2] = [("time over all", str::to_owned), ("99th percentile", p99_of)];

pub fn report(report: &mut Report) {
    let runs: Vec<Results> = (0..RUNS).map(|_| child::run("remote", "1")).collect();
    for (figure, row_of) in FIGURES {
        let title = format!("A remote hit, one caller, {figure}");
        let over_runs = |of: &dyn Fn(&Results) -> f64| median(runs.iter().map(of).collect());
        let mut rows = Vec::new();
        let mut bars = Vec::new();
        for name in [BARE, OURS] {
            let took = over_runs(&|run| run.median(&row_of(name)));
            let ratio = over_runs(&|run| run.ratio(&row_of(name), &row_of(BARE)));
            rows.push(vec![name.to_owned(), plot::short(took), format!("{ratio:.2}")]);
            bars.push((name.to_owned(), took));
        }
        let mut ratios: Vec<f64> =
            runs.iter().map(|run| run.ratio(&row_of(OURS), &row_of(BARE))).collect();
        ratios.sort_by(f64::total_cmp);
        let (lowest, highest) = (ratios[0], ratios[RUNS - 1]);
        let note = format!("Medians of {RUNS} runs; the ratios were {lowest:.2} to {highest:.2}.");
        let head = [String::new(), "µs".to_owned(), format!("× {BARE}")];
        report.table(&title, &note, &head, &rows);
        report.plot(&title, plot::bars(&title, "µs", &bars));
    }
    for callers in [64, 256] {
        let run = child::run("remote", &callers.to_string());
        for (figure, row_of) in FIGURES {
            let results = run.select(&[BARE, OURS, PIPELINING], row_of);
            let title = format!("A remote hit, {callers} callers, {figure}");
            report.race(&title, "µs", BARE, &results);
        }
    }
}

fn p99_of(name: &str) -> String {
    format!("{name}, 99th percentile")
}

/// Measures all contenders with this number of callers, in a child process with a new memcached.
pub fn measure(callers: &str) -> Results {
    let callers: usize = callers.parse().expect("a number of callers");
    let memcached = Memcached::start();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = &runtime.expect("the runtime starts");
    let address = format!("127.0.0.1:{}", memcached.port);
    let numbers: &'static [String] = numbers(KEYS).leak();
    let (cache, client, keys) = runtime.block_on(async {
        let cache = Cache::builder()
            .memcached([&address])
            .remote_timeout(Duration::from_secs(2))
            .build()
            .await
            .expect("the settings are valid");
        let mut keys = Vec::new();
        for number in numbers {
            cache.scope(ours(number, State::Paid)).await.expect("the call succeeds");
            keys.push(
                cache.scope(async { ours_entry(number, State::Paid).key().to_string() }).await,
            );
        }
        cache.flush().await;
        let client = AsyncMetaClient::builder()
            .max_connections(Some(32))
            .connect_async(&address[..])
            .await
            .expect("memcached accepts the connection");
        (cache, Arc::new(client), keys)
    });
    let keys: &'static [String] = keys.leak();
    let bare = move |key: usize| {
        let client = Arc::clone(&client);
        async move {
            let got = client.get(&keys[key]).send().await.expect("memcached answers");
            assert_eq!(got.status, GetStatus::Hit);
        }
    };
    let served = |key: usize| {
        let cache = cache.clone();
        async move {
            let call = cache.scope(async move { ours(&numbers[key], State::Paid).await });
            assert!(call.await.is_ok());
        }
    };
    let late = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];
    let note = |at: usize, gets: GetTimes| {
        late[at].lock().expect("no thread panics while it holds the lock").push(gets.p99());
        1e6 / gets.per_second
    };
    let mut contenders = vec![
        measured(BARE, |count| note(0, get_all(runtime, callers, count, &bare))),
        measured(OURS, |count| note(1, get_all(runtime, callers, count, served))),
    ];
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, memcached.port))
        .expect("memcached accepts the connection");
    stream.set_nodelay(true).expect("the socket is open");
    let mut stream = BufReader::with_capacity(1 << 16, stream);
    if callers > 1 {
        contenders.push(measured(PIPELINING, move |_| {
            median((0..20).map(|_| pipelined(&mut stream, keys, 512)).collect())
        }));
    }
    let gets = if callers == 1 { 2_000 } else { 20_000 };
    let mut results = race(9, gets, contenders);
    for (name, late) in [BARE, OURS].into_iter().zip(late) {
        results.push(
            p99_of(name),
            measured_notes(late.into_inner().expect("no thread panics while it holds the lock")),
        );
    }
    let stats = cache.stats().get("remote").expect("the function was called");
    assert_eq!(stats.fetches, KEYS as u64, "everything else was a remote hit");
    results
}
