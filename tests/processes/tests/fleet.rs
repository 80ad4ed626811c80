//! Tests a *fleet*: processes of two builds of a program, which share three memcached servers. The
//! processes make calls all the time. Meanwhile, the new build replaces the old one, payments are
//! invalidated during fetches, and servers are suspended, killed and restarted. The test checks
//! that no call fails or sees a wrong value, and that the number of fetches is bounded.
//!
//! The test is a separate test binary, so that no other test runs while it counts fetches.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cached_tests::Memcached;

const PAYMENTS: u64 = 60;
const FETCH_TIME: Duration = Duration::from_millis(15);

/// The service from which the processes fetch. A fetch returns the version that the payment had
/// when the fetch began.
struct Upstream {
    address: String,
    versions: Arc<Vec<AtomicU64>>,
}

impl Upstream {
    fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("the listener has an address").to_string();
        let versions: Arc<Vec<_>> = Arc::new((0..PAYMENTS).map(|_| AtomicU64::new(1)).collect());
        let served = Arc::clone(&versions);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let served = Arc::clone(&served);
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    stream.read_line(&mut line).ok()?;
                    let number: usize = line.trim().parse().ok()?;
                    let version = served[number].load(Ordering::SeqCst);
                    std::thread::sleep(FETCH_TIME);
                    stream.get_mut().write_all(format!("{version}\n").as_bytes()).ok()
                });
            }
        });
        Upstream { address, versions }
    }

    fn change(&self, number: u64) -> u64 {
        self.versions[number as usize].fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// A process of the fleet.
struct FleetMember {
    process: Child,
    output: BufReader<ChildStdout>,
}

/// The numbers that a member reports when it is asked to `count`.
#[derive(Debug, Clone, Copy)]
struct MemberCounters {
    calls: u64,
    fetches: u64,
    /// The number of failures that the member has seen. Each failure failures one fetch of a value
    /// that another process has or is fetching.
    failures: u64,
}

impl FleetMember {
    fn start(program: &str, url: &str, upstream: &Upstream) -> FleetMember {
        let mut process = Command::new(program)
            .args([&upstream.address, &PAYMENTS.to_string()])
            .env("CACHE_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let output = BufReader::new(process.stdout.take().expect("the stream is piped"));
        FleetMember { process, output }
    }

    fn request(&mut self, line: &str) -> String {
        self.send(line);
        self.answer()
    }

    fn send(&mut self, line: &str) {
        let input = self.process.stdin.as_mut().expect("the stream is piped");
        writeln!(input, "{line}").expect("the process reads its input");
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("the process answers");
        assert!(!answer.is_empty(), "the process runs; if it has ended, its error is above");
        answer.trim().to_owned()
    }

    fn invalidate(&mut self, number: u64, version: u64) -> bool {
        self.request(&format!("invalidate {number} {version}")) == "true"
    }

    fn count(&mut self) -> MemberCounters {
        let counted = self.request("count");
        let mut numbers =
            counted.split(' ').map(|number| number.parse().expect("the text is a number"));
        let mut next = || numbers.next().expect("the answer has three numbers");
        MemberCounters { calls: next(), fetches: next(), failures: next() }
    }

    /// Waits until the member has made `calls` more calls.
    fn wait_for_calls(&mut self, calls: u64) {
        let until = self.count().calls + calls;
        let give_up = Instant::now() + Duration::from_secs(60);
        while self.count().calls < until {
            assert!(Instant::now() < give_up, "the process makes calls: {:?}", self.count());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(mut self) -> MemberCounters {
        let count = self.count();
        assert_eq!(self.request("end"), "ended");
        assert!(self.process.wait().expect("the process ends").success());
        count
    }
}

impl Drop for FleetMember {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Changes payments. For each payment, one member invalidates the entry. From then on, all members
/// must see the new versions.
fn change_everywhere(
    upstream: &Upstream,
    members: &mut [FleetMember],
    numbers: impl IntoIterator<Item = u64>,
) {
    let mut changes = "oldest".to_owned();
    for number in numbers {
        let version = upstream.change(number);
        let by = number as usize % members.len();
        let give_up = Instant::now() + Duration::from_secs(30);
        while !members[by].invalidate(number, version) {
            assert!(Instant::now() < give_up, "memcached is reached within 30 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        changes += &format!(" {number} {version}");
    }
    members.iter_mut().for_each(|member| member.send(&changes));
    members.iter_mut().for_each(|member| assert_eq!(member.answer(), "noted"));
}

/// Checks that the members' calls fetch nothing, except where a failure failures a fetch.
fn assert_no_fetches(members: &mut [FleetMember]) {
    let before: Vec<MemberCounters> = members.iter_mut().map(FleetMember::count).collect();
    members.iter_mut().for_each(|member| member.wait_for_calls(300));
    for (before, member) in before.into_iter().zip(members) {
        let after = member.count();
        let (fetched, failures) =
            (after.fetches - before.fetches, after.failures - before.failures);
        assert!(
            fetched <= failures,
            "a failure failures each fetch: {fetched}, {failures} failures"
        );
    }
}

/// Changes and invalidates payments while a server is out of reach. A member must not see the old
/// version of a payment after it has invalidated that payment, even if the server was not reached.
fn change_during_outage(upstream: &Upstream, members: &mut [FleetMember]) {
    let mut unreached = 0;
    for number in 0..PAYMENTS / 2 {
        let by = number as usize % members.len();
        unreached += usize::from(!members[by].invalidate(number, upstream.change(number)));
    }
    assert!(unreached > 0, "some invalidations do not reach the server");
    members.iter_mut().for_each(|member| member.wait_for_calls(200));
}

/// Waits until every member uses every server again.
fn wait_for_recovery(upstream: &Upstream, members: &mut [FleetMember]) {
    for number in 0..PAYMENTS {
        let version = upstream.change(number);
        let give_up = Instant::now() + Duration::from_secs(30);
        for member in members.iter_mut() {
            while !member.invalidate(number, version) {
                assert!(Instant::now() < give_up, "each server is used again within 30 s");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    // Each member has invalidated each payment, so no member may see an older version from now on.
    members.iter_mut().for_each(|member| member.wait_for_calls(500));
}

#[test]
fn a_fleet_under_failures_answers_correctly() {
    let (old, new) = (env!("CARGO_BIN_EXE_fleet_old"), env!("CARGO_BIN_EXE_fleet_new"));
    let mut servers: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let url = format!("memcache://{}?namespace=fleet&timeout=300ms", addresses.join(","));
    let upstream = Upstream::start();

    // Together, four processes of the old build fetch each payment only once.
    let mut fleet: Vec<FleetMember> =
        (0..4).map(|_| FleetMember::start(old, &url, &upstream)).collect();
    fleet.iter_mut().for_each(|member| member.wait_for_calls(600));
    let counts: Vec<MemberCounters> = fleet.iter_mut().map(FleetMember::count).collect();
    let fetches: u64 = counts.iter().map(|count| count.fetches).sum();
    let failures: u64 = counts.iter().map(|count| count.failures).sum();
    assert!(
        (PAYMENTS..=PAYMENTS + failures).contains(&fetches),
        "each payment is fetched once: {fetches} fetches, {failures} failures"
    );
    // Four members invalidate the same payments again and again, during fetches.
    for _ in 0..15 {
        change_everywhere(&upstream, &mut fleet, 0..10);
    }
    fleet.iter_mut().for_each(|member| member.wait_for_calls(300));
    assert_no_fetches(&mut fleet);

    // The new build replaces half of the fleet, and does not disturb the other half.
    fleet.drain(2..).for_each(|member| assert!(member.end().calls > 0));
    let mut rolled: Vec<FleetMember> =
        (0..2).map(|_| FleetMember::start(new, &url, &upstream)).collect();
    rolled.iter_mut().for_each(|member| member.wait_for_calls(200));
    assert_no_fetches(&mut fleet);
    // Members of either build invalidate payments.
    change_everywhere(&upstream, &mut rolled, 10..20);
    change_everywhere(&upstream, &mut fleet, 20..30);
    rolled.iter_mut().chain(&mut fleet).for_each(|member| member.wait_for_calls(100));
    // The new build replaces the other half.
    fleet.into_iter().for_each(|member| assert!(member.end().calls > 0));
    rolled.extend((0..2).map(|_| FleetMember::start(new, &url, &upstream)));
    let mut fleet = rolled;
    change_everywhere(&upstream, &mut fleet, 0..PAYMENTS);
    fleet.iter_mut().for_each(|member| member.wait_for_calls(500));
    assert_no_fetches(&mut fleet);

    // A server is suspended. When it continues, it still has its old items.
    servers[0].suspend();
    change_during_outage(&upstream, &mut fleet);
    servers[0].resume();
    fleet.iter_mut().for_each(|member| member.wait_for_calls(300));
    wait_for_recovery(&upstream, &mut fleet);
    assert_no_fetches(&mut fleet);

    // Another server is killed, and comes back empty.
    let port = servers[1].port();
    servers[1].kill();
    change_during_outage(&upstream, &mut fleet);
    servers[1] = Memcached::start_on(port).expect("the port is free");
    wait_for_recovery(&upstream, &mut fleet);
    assert_no_fetches(&mut fleet);

    // A process is killed, perhaps during a fetch. The other processes do not wait for that fetch.
    let mut killed = fleet.remove(0);
    killed.process.kill().expect("the process runs");
    change_everywhere(&upstream, &mut fleet, 0..PAYMENTS);
    fleet.iter_mut().for_each(|member| member.wait_for_calls(300));
    let calls: u64 = fleet.into_iter().map(|member| member.end().calls).sum();
    assert!(calls > 3000, "the fleet makes many calls: {calls}");
}
