//! Remote hits: the same frames in the same memcached, read by this library, by the bare client, and
//! by hand over one connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cached_core::{Cache, coordinator_cached};
use memcache::exp::{AsyncMetaClient, GetStatus};
use tokio::runtime::{Builder, Runtime};

use crate::harness::{Results, measured, median, race, sequence};
use crate::memcached::Memcached;
use crate::payment::{FetchError, Payment, State, numbers, shared_upstream};

pub const BARE: &str = "the bare client's get";
const OURS: &str = "cached-core";
const KEYS: usize = 1_000;

/// Asks memcached each time.
#[coordinator_cached(name = "remote", version = state, local = false, entry = ours_entry)]
async fn ours(number: &str, state: State) -> Result<Arc<Payment>, FetchError> {
    shared_upstream(number, state).await
}

/// How long each get took, in microseconds, and how many were made in a second.
#[derive(Default)]
struct Gets {
    took: Vec<f64>,
    per_second: f64,
}

impl Gets {
    fn p99(&self) -> f64 {
        let mut took = self.took.clone();
        took.sort_by(f64::total_cmp);
        took[took.len() * 99 / 100]
    }
}

fn get_all<F>(runtime: &Runtime, callers: usize, gets: usize, get: impl Fn(usize) -> F) -> Gets
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
            all.extend(task.await.expect("it does not panic"));
        }
        all
    });
    Gets { per_second: took.len() as f64 / began.elapsed().as_secs_f64(), took }
}

/// So many gets are written before the first answer is read.
fn pipelined(stream: &mut BufReader<TcpStream>, keys: &[String], depth: usize) -> f64 {
    let began = Instant::now();
    let mut asked = Vec::new();
    for key in keys.iter().cycle().take(depth) {
        asked.extend_from_slice(format!("mg {key} v\r\n").as_bytes());
    }
    stream.get_mut().write_all(&asked).expect("it takes them");
    let (mut line, mut value) = (String::new(), Vec::new());
    for _ in 0..depth {
        line.clear();
        stream.read_line(&mut line).expect("it answers");
        let length: usize = line[3..].trim_end().parse().expect("VA and a length");
        value.resize(length + 2, 0);
        stream.read_exact(&mut value).expect("a value");
    }
    began.elapsed().as_nanos() as f64 / 1_000.0 / depth as f64
}

pub fn run() -> Vec<(String, Results)> {
    let memcached = Memcached::start();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = &runtime.expect("a runtime");
    let address = format!("127.0.0.1:{}", memcached.port);
    let numbers: &'static [String] = numbers(KEYS).leak();
    let (cache, client, keys) = runtime.block_on(async {
        let cache = Cache::builder()
            .memcached([&address])
            .remote_timeout(Duration::from_secs(2))
            .build()
            .await
            .expect("it fits");
        let mut keys = Vec::new();
        for number in numbers {
            cache.scope(ours(number, State::Paid)).await.expect("it answers");
            keys.push(
                cache.scope(async { ours_entry(number, State::Paid).key().to_string() }).await,
            );
        }
        cache.flush().await;
        let client = AsyncMetaClient::builder()
            .max_connections(Some(32))
            .connect_async(&address[..])
            .await
            .expect("it connects");
        (cache, Arc::new(client), keys)
    });
    let keys: &'static [String] = keys.leak();
    let bare = move |key: usize| {
        let client = Arc::clone(&client);
        async move {
            let got = client.get(&keys[key]).send().await.expect("it answers");
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
    let mut tables = Vec::new();
    for callers in [1, 64, 256] {
        let gets = if callers == 1 { 2_000 } else { 20_000 };
        let late = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];
        let note = |at: usize, gets: Gets| {
            late[at].lock().expect("nobody panics").push(gets.p99());
            1e6 / gets.per_second
        };
        let mut contenders = vec![
            measured(BARE, |_| note(0, get_all(runtime, callers, gets, &bare))),
            measured(OURS, |_| note(1, get_all(runtime, callers, gets, served))),
        ];
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, memcached.port)).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let mut stream = BufReader::with_capacity(1 << 16, stream);
        if callers > 1 {
            contenders.push(measured("raw pipelining", move |_| {
                median((0..20).map(|_| pipelined(&mut stream, keys, 512)).collect())
            }));
        }
        let results = race(9, 1, contenders);
        tables.push((format!("A remote hit, {callers} callers, time over all"), results));
        let [one, other] = late.map(|late| late.into_inner().expect("nobody panics"));
        let late = Results::of([(BARE, one), (OURS, other)]);
        tables.push((format!("A remote hit, {callers} callers, 99th percentile"), late));
    }
    let stats = cache.stats().get("remote").expect("it was called");
    assert_eq!(stats.fetches, KEYS as u64, "everything else was a remote hit");
    tables
}
