//! Tests that the in-memory stand-in for memcached replies as a real memcached does.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::tier::remote::RemoteErrorKind;
use crate::tier::remote::contract_tests::MemcachedProcess;
use crate::tier::remote::memcached::client::ServerClient;
use crate::tier::remote::memcached::identity::ServerIdentity;

/// A random command on one of three keys. The first field is the index of the key.
///
/// In a `Read`, the option asks for a lease, the right to fill a missing item. It holds how many
/// seconds memcached keeps a placeholder for the missing item, and whether the read treats every
/// item as due for a refresh.
///
/// In the other commands, a boolean says whether the command passes the item's current CAS (version
/// number) or a wrong CAS. A `Write` without a boolean is unconditional (`None`), or demands that
/// the key has no item (`Some(None)`).
#[derive(Debug, Clone)]
enum GeneratedCommand {
    Read(usize, Option<(u32, bool)>),
    Write(usize, u8, Option<Option<bool>>),
    Delete(usize, Option<bool>),
    ReleaseRefresh(usize, bool),
    Renew(usize, bool),
}

fn generated_command() -> impl Strategy<Value = GeneratedCommand> {
    let lease = prop::option::of((100u32..200, any::<bool>()));
    prop_oneof![
        4 => (0..3usize, lease).prop_map(|(key, lease)| GeneratedCommand::Read(key, lease)),
        3 => (0..3usize, any::<u8>(), any::<Option<Option<bool>>>())
            .prop_map(|(key, value, condition)| GeneratedCommand::Write(key, value, condition)),
        1 => (0..3usize, any::<Option<bool>>()).prop_map(|(key, cas)| GeneratedCommand::Delete(key, cas)),
        1 => (0..3usize, any::<bool>()).prop_map(|(key, current)| GeneratedCommand::ReleaseRefresh(key, current)),
        1 => (0..3usize, any::<bool>()).prop_map(|(key, current)| GeneratedCommand::Renew(key, current)),
    ]
}

const MARKER: LeaseMarker =
    LeaseMarker { nonce: 7, elapsed: Duration::from_secs(1), expected: Duration::from_secs(2) };

/// One of the servers whose replies are compared, with the newest CAS that the server has shown for
/// each key.
struct ComparedServer {
    client: Arc<ServerClient>,
    /// True if each command is sent in a batch with other commands.
    is_batched: bool,
    newest_cas: [Cas; 3],
}

impl ComparedServer {
    fn command(&self, step: &GeneratedCommand, keys: &[Arc<str>]) -> Command {
        let cas = |key: usize, current: bool| match current {
            true => self.newest_cas[key],
            false => Cas { number: 1 << 60, ..self.newest_cas[key] },
        };
        match *step {
            GeneratedCommand::Read(key, lease) => Command::Read {
                key: Arc::clone(&keys[key]),
                lease: lease.map(|(seconds, is_due)| LeaseRequest {
                    seconds,
                    // Either every item is due for a refresh, or none is.
                    claim_below_seconds: if is_due { 100_000 } else { 0 },
                }),
            },
            GeneratedCommand::Write(key, value, condition) => Command::Write {
                key: Arc::clone(&keys[key]),
                frame: Arc::from(&[value; 3][..]),
                seconds: 1000,
                condition: match condition {
                    None => WriteCondition::Always,
                    Some(None) => WriteCondition::Absent,
                    Some(Some(current)) => WriteCondition::Unchanged(cas(key, current)),
                },
            },
            GeneratedCommand::Delete(key, current) => Command::Delete {
                key: Arc::clone(&keys[key]),
                only_if: current.map(|current| cas(key, current)),
            },
            GeneratedCommand::Renew(key, current) => Command::Renew {
                key: Arc::clone(&keys[key]),
                marker: Arc::from(&MARKER.encode()[..]),
                seconds: 3,
                cas: cas(key, current),
            },
            GeneratedCommand::ReleaseRefresh(key, current) => {
                Command::ReleaseRefresh { key: Arc::clone(&keys[key]), cas: cas(key, current) }
            }
        }
    }

    /// Runs one command, and describes the reply without CAS numbers and without exact times.
    async fn run(&mut self, step: &GeneratedCommand, keys: &[Arc<str>]) -> String {
        let now = Instant::now();
        let command = self.command(step, keys);
        let other = || Command::Read { key: "other".into(), lease: None };
        let commands = match self.is_batched {
            true => vec![other(), command, other()],
            false => vec![command],
        };
        let (deadline, mut answers) = (now + Duration::from_secs(30), Vec::new());
        let mut answered = |answer| answers.push(answer);
        let exchange = self.client.exchange(&commands, now, deadline, &mut answered);
        assert!(exchange.await.is_ok(), "the server answers");
        assert_eq!(answers.len(), commands.len());
        let reply = answers.swap_remove(commands.len() / 2);
        let mut see = |cas: Cas| match *step {
            GeneratedCommand::Read(key, _) | GeneratedCommand::Renew(key, _) => {
                self.newest_cas[key] = cas
            }
            _ => panic!("this step shows no CAS"),
        };
        match reply.expect("the server answers") {
            Reply::Renewed(cas) => {
                cas.map(&mut see);
                format!("renewed: {}", cas.is_some())
            }
            Reply::Applied(applied) => format!("applied: {applied}"),
            Reply::Read(ReadReply::Nothing) => "nothing".to_owned(),
            Reply::Read(ReadReply::Lease(cas)) => {
                see(cas);
                "the lease".to_owned()
            }
            Reply::Read(ReadReply::Busy(BusyLease { cas, marker, expires })) => {
                see(cas.expect("the reply has a CAS"));
                format!("busy: {marker:?}, ends: {}", expires.is_some())
            }
            Reply::Read(ReadReply::Item(item)) => {
                see(item.cas);
                let left = item.removable_from.saturating_duration_since(now).as_secs();
                format!("{:?}, won: {}, about {} s left", item.frame, item.is_claimed, left / 100)
            }
        }
    }
}

#[test]
fn the_replies_match_memcached() {
    let memcached = MemcachedProcess::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the runtime starts");
    let count = std::cell::Cell::new(0);
    proptest!(ProptestConfig::with_cases(200), |(steps in vec(generated_command(), 1..40))| {
        count.set(count.get() + 1);
        let keys = |way: &str| -> Vec<Arc<str>> {
            (0..3).map(|key| format!("{way}:{}:{key}", count.get()).into()).collect()
        };
        let memory = Arc::new(InMemoryServer::new(Clock::default()));
        runtime.block_on(async {
            let address = memcached.address();
            let identity = Arc::new(ServerIdentity::new(|| (), || ()));
            let real = ServerClient::resolve(&address, &identity, 1).await.expect("memcached is up");
            let real = Arc::new(real);
            let compared = |client, is_batched| ComparedServer { client, is_batched, newest_cas: [0.into(); 3] };
            let mut memory = compared(Arc::new(ServerClient::InMemory(memory)), false);
            let mut real = [false, true].map(|is_batched| (compared(real.clone(), is_batched), is_batched));
            for step in &steps {
                let memory = memory.run(step, &keys("memory")).await;
                for (real, is_batched) in &mut real {
                    let real = real.run(step, &keys(if *is_batched { "many" } else { "one" })).await;
                    assert_eq!(real, memory, "{step:?} of {steps:?}, batched: {is_batched}");
                }
            }
        });
    });
}

#[test]
fn items_expire_by_the_tests_clock() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().expect("the runtime starts");
    let clock = Clock::default();
    let memory = InMemoryServer::new(clock.clone());
    let key: Arc<str> = "key".into();
    let write = Command::Write {
        key: Arc::clone(&key),
        frame: Arc::from(&b"frame"[..]),
        seconds: 60,
        condition: WriteCondition::Always,
    };
    runtime.block_on(memory.run(vec![write]));
    clock.advance(Duration::from_secs(58));
    assert!(memory.holds(&key));
    clock.advance(Duration::from_secs(2));
    assert!(!memory.holds(&key));
}

#[test]
fn large_items_are_refused_as_by_memcached() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().expect("the runtime starts");
    let memory = InMemoryServer::default();
    let write = |length: usize| Command::Write {
        key: "key".into(),
        frame: vec![1; length].into(),
        seconds: 60,
        condition: WriteCondition::Always,
    };
    let replies = runtime.block_on(memory.run(vec![write(ITEM_LIMIT), write(ITEM_LIMIT + 1)]));
    assert!(matches!(replies[..], [Ok(Reply::Applied(true)), Err(ref failure)]
            if failure.kind == RemoteErrorKind::TooLarge));
}
