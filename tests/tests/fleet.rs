//! A fleet under load: processes of two builds, servers that are stopped, killed and started anew,
//! invalidations in the middle of fetches. No wrong value, no failed call, fetches as promised.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cached_tests::Memcached;

const PAYMENTS: u64 = 60;
const FETCH: Duration = Duration::from_millis(15);

/// What the processes fetch from: each payment's version, as it is when a fetch begins.
struct Upstream {
    address: String,
    versions: Arc<Vec<AtomicU64>>,
}

impl Upstream {
    fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
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
                    std::thread::sleep(FETCH);
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

struct Member {
    process: Child,
    output: BufReader<ChildStdout>,
}

/// What a member has counted.
#[derive(Debug, Clone, Copy)]
struct Count {
    calls: u64,
    fetches: u64,
    /// Whatever lets a call fetch though another has the value or the lease.
    amiss: u64,
}

impl Member {
    fn start(program: &str, url: &str, upstream: &Upstream) -> Member {
        let mut process = Command::new(program)
            .args([&upstream.address, &PAYMENTS.to_string()])
            .env("CACHE_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        Member { process, output }
    }

    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    fn tell(&mut self, line: &str) {
        let input = self.process.stdin.as_mut().expect("piped");
        writeln!(input, "{line}").expect("it listens: it has seen nothing wrong");
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("it answers");
        assert!(!answer.is_empty(), "it has ended: it says why above");
        answer.trim().to_owned()
    }

    fn invalidate(&mut self, number: u64, version: u64) -> bool {
        self.ask(&format!("invalidate {number} {version}")) == "true"
    }

    fn count(&mut self) -> Count {
        let counted = self.ask("count");
        let mut numbers = counted.split(' ').map(|number| number.parse().expect("a number"));
        let mut next = || numbers.next().expect("three numbers");
        Count { calls: next(), fetches: next(), amiss: next() }
    }

    /// Waits until it has made so many calls more.
    fn goes_on(&mut self, calls: u64) {
        let until = self.count().calls + calls;
        let give_up = Instant::now() + Duration::from_secs(60);
        while self.count().calls < until {
            assert!(Instant::now() < give_up, "it is stuck: {:?}", self.count());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(mut self) -> Count {
        let count = self.count();
        assert_eq!(self.ask("end"), "ended");
        assert!(self.process.wait().expect("it ends").success());
        count
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Each is said by one member, and as memcached is told, all hold to it.
fn change_everywhere(
    upstream: &Upstream,
    members: &mut [Member],
    numbers: impl IntoIterator<Item = u64>,
) {
    let mut changes = "oldest".to_owned();
    for number in numbers {
        let version = upstream.change(number);
        let by = number as usize % members.len();
        let give_up = Instant::now() + Duration::from_secs(30);
        while !members[by].invalidate(number, version) {
            assert!(Instant::now() < give_up, "memcached is not told");
            std::thread::sleep(Duration::from_millis(20));
        }
        changes += &format!(" {number} {version}");
    }
    members.iter_mut().for_each(|member| member.tell(&changes));
    members.iter_mut().for_each(|member| assert_eq!(member.answer(), "noted"));
}

/// Every member goes on, and nobody fetches but for what went amiss.
fn nobody_fetches(members: &mut [Member]) {
    let before: Vec<Count> = members.iter_mut().map(Member::count).collect();
    members.iter_mut().for_each(|member| member.goes_on(300));
    for (before, member) in before.into_iter().zip(members) {
        let after = member.count();
        let (fetched, amiss) = (after.fetches - before.fetches, after.amiss - before.amiss);
        assert!(fetched <= amiss, "{fetched} fetches, {amiss} times something was amiss");
    }
}

/// What one of them invalidates while a server is away, it never sees again.
fn change_meanwhile(upstream: &Upstream, members: &mut [Member]) {
    let mut untold = 0;
    for number in 0..PAYMENTS / 2 {
        let by = number as usize % members.len();
        untold += usize::from(!members[by].invalidate(number, upstream.change(number)));
    }
    assert!(untold > 0, "one of three servers is away");
    members.iter_mut().for_each(|member| member.goes_on(200));
}

/// Until every member uses every server again.
fn all_is_well(upstream: &Upstream, members: &mut [Member]) {
    for number in 0..PAYMENTS {
        let version = upstream.change(number);
        let give_up = Instant::now() + Duration::from_secs(30);
        for member in members.iter_mut() {
            while !member.invalidate(number, version) {
                assert!(Instant::now() < give_up, "a server is not used again");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    // All know that all was told: from here on nobody sees what is older.
    members.iter_mut().for_each(|member| member.goes_on(500));
}

#[test]
fn a_fleet_rolls_a_deploy_while_servers_fail_and_nobody_sees_a_wrong_value() {
    let (old, new) = (env!("CARGO_BIN_EXE_fleet_old"), env!("CARGO_BIN_EXE_fleet_new"));
    let mut servers: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let addresses: Vec<String> = servers.iter().map(Memcached::address).collect();
    let url = format!("memcache://{}?namespace=fleet&timeout=300ms", addresses.join(","));
    let upstream = Upstream::start();

    // Four processes of the old build: each payment is fetched once in total.
    let mut fleet: Vec<Member> = (0..4).map(|_| Member::start(old, &url, &upstream)).collect();
    fleet.iter_mut().for_each(|member| member.goes_on(600));
    let counts: Vec<Count> = fleet.iter_mut().map(Member::count).collect();
    let fetches: u64 = counts.iter().map(|count| count.fetches).sum();
    let amiss: u64 = counts.iter().map(|count| count.amiss).sum();
    assert!((PAYMENTS..=PAYMENTS + amiss).contains(&fetches), "{fetches}, amiss {amiss}");
    // In the middle of fetches: four invalidate the same payments again and again.
    for _ in 0..15 {
        change_everywhere(&upstream, &mut fleet, 0..10);
    }
    fleet.iter_mut().for_each(|member| member.goes_on(300));
    nobody_fetches(&mut fleet);

    // Half of the fleet is replaced by the new build, which disturbs the other half in nothing.
    fleet.drain(2..).for_each(|member| assert!(member.end().calls > 0));
    let mut rolled: Vec<Member> = (0..2).map(|_| Member::start(new, &url, &upstream)).collect();
    rolled.iter_mut().for_each(|member| member.goes_on(200));
    nobody_fetches(&mut fleet);
    // An invalidation of either build's.
    change_everywhere(&upstream, &mut rolled, 10..20);
    change_everywhere(&upstream, &mut fleet, 20..30);
    rolled.iter_mut().chain(&mut fleet).for_each(|member| member.goes_on(100));
    // The rest of it.
    fleet.into_iter().for_each(|member| assert!(member.end().calls > 0));
    rolled.extend((0..2).map(|_| Member::start(new, &url, &upstream)));
    let mut fleet = rolled;
    change_everywhere(&upstream, &mut fleet, 0..PAYMENTS);
    fleet.iter_mut().for_each(|member| member.goes_on(500));
    nobody_fetches(&mut fleet);

    // A server that is stopped, and goes on with what it had.
    servers[0].stop();
    change_meanwhile(&upstream, &mut fleet);
    servers[0].resume();
    fleet.iter_mut().for_each(|member| member.goes_on(300));
    all_is_well(&upstream, &mut fleet);
    nobody_fetches(&mut fleet);

    // One that is killed, and comes back with nothing.
    let port = servers[1].port();
    servers[1].kill();
    change_meanwhile(&upstream, &mut fleet);
    servers[1] = Memcached::start_on(port).expect("the port is free again");
    all_is_well(&upstream, &mut fleet);
    nobody_fetches(&mut fleet);

    // A process that is killed leaves nothing behind that others wait for longer than a lease.
    let mut killed = fleet.remove(0);
    killed.process.kill().expect("it runs");
    change_everywhere(&upstream, &mut fleet, 0..PAYMENTS);
    fleet.iter_mut().for_each(|member| member.goes_on(300));
    let calls: u64 = fleet.into_iter().map(|member| member.end().calls).sum();
    assert!(calls > 3000, "{calls} calls");
}
