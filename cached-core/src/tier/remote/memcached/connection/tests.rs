//! These tests check that each command gets its own complete reply, however the bytes arrive.

use std::io::{Read as _, Write as _};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Wake, Waker};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::tier::remote::RemoteErrorKind;
use crate::tier::remote::memcached::command::Reply;
use crate::tier::remote::memcached::item::ReadReply;
use crate::tier::remote::memcached::protocol::MAX_FRAME_BYTES;

/// The reply that makes the client use a server. It answers the *probe*, the client's first request
/// on each connection.
const PROBE_REPLY: &[u8] = b"VERSION 1.6.18\r\nNF c0\r\nEND\r\nMN\r\n";

async fn connect(address: &str) -> ConnectionPool {
    let identity = Arc::new(ServerIdentity::new(|| (), || ()));
    ConnectionPool::resolve(address, &identity, 4).await.expect("the address is valid")
}

/// How the scripted server reacts to a request.
#[derive(Clone, Copy)]
enum ServerAction {
    /// Sends the reply in pieces of this many bytes.
    Reply(&'static [u8], usize),
    ReplyAndClose(&'static [u8]),
    /// Sends the first bytes as the reply, and the second bytes 100 ms later.
    ReplyTwice(&'static [u8], &'static [u8]),
    Ignore,
}

/// Runs `test` with connections to a server. The server performs one of the actions, in their
/// order, for each request after the probe. All connections share the list of actions.
fn with_server<F: Future<Output = ()>>(
    actions: Vec<ServerAction>,
    test: impl FnOnce(ConnectionPool) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the runtime starts").block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("the listener has an address").to_string();
        let actions = Arc::new(Mutex::new(actions.into_iter()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&actions)));
            }
        });
        test(connect(&address).await).await;
    });
}

async fn serve(mut stream: TcpStream, actions: Arc<Mutex<std::vec::IntoIter<ServerAction>>>) {
    stream.set_nodelay(true).expect("the socket is open");
    let Ok(1..) = stream.read(&mut [0; 4096]).await else { return };
    stream.write_all(PROBE_REPLY).await.expect("the client reads");
    while let Ok(1..) = stream.read(&mut [0; 4096]).await {
        let action = lock(&actions).next().expect("the test has an action for each request");
        let (bytes, piece) = match action {
            ServerAction::Reply(bytes, piece) => (bytes, piece),
            ServerAction::ReplyAndClose(bytes) | ServerAction::ReplyTwice(bytes, _) => {
                (bytes, bytes.len())
            }
            ServerAction::Ignore => continue,
        };
        for piece in bytes.chunks(piece) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match action {
            ServerAction::ReplyAndClose(_) => return,
            ServerAction::ReplyTwice(_, more) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let _ = stream.write_all(more).await;
            }
            _ => {}
        }
    }
}

fn read() -> Command {
    Command::Read { key: "key".into(), lease: None }
}

fn delete() -> Command {
    Command::Delete { key: "key".into(), only_if: None }
}

const LONG_TIMEOUT: Duration = Duration::from_secs(30);

async fn run(
    connections: &ConnectionPool,
    command: &Command,
    timeout: Duration,
) -> Result<Reply, CommandError> {
    let (now, mut answer) = (Instant::now(), None);
    let commands = std::slice::from_ref(command);
    let mut on_result = |result| answer = Some(result);
    match connections.exchange(commands, now, now + timeout, &mut on_result).await {
        Ok(()) => answer.expect("the command has a result"),
        Err(ExchangeError::Failed(failure)) => Err(failure),
        Err(ExchangeError::TimedOut(_)) => Err(CommandError::timed_out()),
    }
}

async fn read_frame(connections: &ConnectionPool) -> Result<Vec<u8>, CommandError> {
    match run(connections, &read(), LONG_TIMEOUT).await? {
        Reply::Read(ReadReply::Item(item)) => Ok(item.frame),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reply_in_pieces_is_read_whole() {
    const ANSWER: &[u8] = b"VA 8 c7 t60\r\na\r\nVA 1 \r\n";
    let actions = (1..=ANSWER.len()).map(|piece| ServerAction::Reply(ANSWER, piece)).collect();
    with_server(actions, |connections| async move {
        for _ in 1..=ANSWER.len() {
            assert_eq!(read_frame(&connections).await, Ok(b"a\r\nVA 1 ".to_vec()));
            assert_eq!(connections.idle().len(), 1);
        }
    });
}

#[test]
fn a_returned_refresh_claim_is_recognized() {
    let reply: [&[u8]; 2] = [b"VA 1 c1 t9 W\r\nx\r\n", b"VA 1 c1 t9 W X\r\nx\r\n"];
    let actions = reply.map(|reply| ServerAction::Reply(reply, reply.len())).into();
    with_server(actions, |connections| async move {
        for given_back in [false, true] {
            match run(&connections, &read(), LONG_TIMEOUT).await {
                Ok(Reply::Read(ReadReply::Item(item))) => {
                    assert_eq!((item.is_claimed, item.was_given_back), (true, given_back));
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_huge_time_to_live_is_capped() {
    let reply: &[u8] = b"VA 1 c1 t9223372036854775807\r\nx\r\n";
    with_server(vec![ServerAction::Reply(reply, reply.len())], |connections| async move {
        assert_eq!(read_frame(&connections).await, Ok(b"x".to_vec()));
    });
}

#[test]
fn a_malformed_reply_ends_its_connection() {
    let long: &[u8] = vec![b'x'; 5000].leak();
    let (lost, refused) = (RemoteErrorKind::Unreachable, RemoteErrorKind::Refused);
    let cases: [(Command, &[u8], RemoteErrorKind); 16] = [
        (read(), b"SERVER_ERROR out of memory\r\n", refused),
        (read(), b"CLIENT_ERROR bad command line format\r\n", refused),
        (read(), b"ERROR\r\n", refused),
        (read(), b"VA\r\n", lost),
        (read(), b"VA x c1\r\n", lost),
        (read(), b"VA 99999999999 c1\r\n", lost),
        (read(), b"VA 3 cx\r\nabc\r\n", lost),
        (read(), b"VA 3 c1\r\nabcde", lost),
        (read(), b"VA 3 c1\r\nabc\r\nVA 3 c1\r\nabc\r\n", lost),
        (read(), b"EN\r\nEN\r\n", lost),
        (read(), b"NF\r\n", lost),
        (read(), long, lost),
        (read(), b"HD\r\n", lost),
        (delete(), b"EN\r\n", lost),
        (delete(), b"VA 2 c1 t9\r\nhi\r\n", lost),
        (delete(), b"MN\r\n", lost),
    ];
    for (command, reply, kind) in cases {
        let actions = vec![
            ServerAction::Reply(reply, reply.len()),
            ServerAction::Reply(b"VA 1 c1 t9\r\nx\r\n", 99),
        ];
        with_server(actions, |connections| async move {
            let reply = String::from_utf8_lossy(reply);
            match run(&connections, &command, LONG_TIMEOUT).await {
                Err(failure) => assert_eq!(failure.kind, kind, "{reply}"),
                other => panic!("{other:?} for {reply}"),
            }
            assert!(connections.idle().is_empty(), "the connection is closed after {reply}");
            assert_eq!(read_frame(&connections).await, Ok(b"x".to_vec()));
        });
    }
}

#[test]
fn a_readable_idle_connection_is_not_used() {
    let actions = vec![
        ServerAction::ReplyAndClose(b"VA 1 c1 t9\r\nx\r\n"),
        ServerAction::ReplyTwice(b"VA 1 c1 t9\r\nx\r\n", b"VA 1 c1 t9\r\nz\r\n"),
        ServerAction::Reply(b"VA 1 c1 t9\r\ny\r\n", 99),
    ];
    with_server(actions, |connections| async move {
        for expected in [b"x", b"x", b"y"] {
            assert_eq!(read_frame(&connections).await, Ok(expected.to_vec()));
            assert_eq!(connections.idle().len(), 1);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

#[test]
fn a_dropped_exchange_closes_its_connection() {
    let actions = vec![ServerAction::Ignore, ServerAction::Reply(b"VA 1 c1 t9\r\nx\r\n", 99)];
    with_server(actions, |connections| async move {
        let timeout = Duration::from_millis(50);
        assert!(tokio::time::timeout(timeout, read_frame(&connections)).await.is_err());
        assert!(connections.idle().is_empty());
        assert_eq!(read_frame(&connections).await, Ok(b"x".to_vec()));
    });
}

#[test]
fn a_reused_connection_keeps_each_deadline() {
    const FOUND: ServerAction = ServerAction::Reply(b"VA 1 c1 t9\r\nx\r\n", 99);
    for (before, pause, timeout) in [(30_000, 0, 60), (40, 0, 160), (40, 80, 160)] {
        let [before, pause, timeout] = [before, pause, timeout].map(Duration::from_millis);
        with_server(vec![FOUND, ServerAction::Ignore, FOUND], |connections| async move {
            assert!(run(&connections, &read(), before).await.is_ok());
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            assert_eq!(
                run(&connections, &read(), timeout).await.err(),
                Some(CommandError::timed_out())
            );
            assert!(began.elapsed() >= timeout, "{:?} of {timeout:?}", began.elapsed());
            assert!(began.elapsed() < LONG_TIMEOUT / 10, "{:?} of {timeout:?}", began.elapsed());
            assert!(connections.idle().is_empty());
            assert_eq!(read_frame(&connections).await, Ok(b"x".to_vec()));
        });
    }
}

/// Starts a server that announces a reply of the largest size, and then sends bytes as fast as the
/// client reads them. Returns the server's address and a receiver. The receiver gets the number of
/// bytes that the server had sent when the client closed the connection.
fn flooding_server() -> (String, Receiver<usize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("the listener has an address").to_string();
    let (sender, sent) = channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client connects");
        let _ = stream.read(&mut [0; 4096]).expect("the client sends the probe");
        stream.write_all(PROBE_REPLY).expect("the client reads");
        stream.read_exact(&mut [0; 2]).expect("the client sends a command");
        let head = format!("VA {MAX_FRAME_BYTES} c1 t9\r\n");
        stream.write_all(head.as_bytes()).expect("the client reads");
        let piece = vec![b'x'; 1 << 20];
        let mut total = 0;
        while stream.write_all(&piece).is_ok() {
            total += piece.len();
        }
        sender.send(total).expect("the test waits");
    });
    (address, sent)
}

#[test]
fn an_endless_reply_is_read_until_the_deadline() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the runtime starts");
    // The test is about a client that never waits for bytes. A client that waits is easy to stop,
    // because its timer fires. Five rounds make it likely that the client never waits in one of
    // them.
    for _ in 0..5 {
        let (address, sent) = flooding_server();
        runtime.block_on(async {
            let connections = connect(&address).await;
            let answer = run(&connections, &read(), Duration::from_millis(60)).await;
            assert_eq!(answer.err(), Some(CommandError::timed_out()));
        });
        assert!(sent.recv().expect("the server ends") < MAX_FRAME_BYTES / 2);
    }
}

/// A waker that counts its wakes, and passes them on to another waker.
struct CountingWaker(Waker, AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<CountingWaker>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.wake_by_ref();
    }
}

#[test]
fn a_past_exchanges_timer_wakes_no_task() {
    const FOUND: ServerAction = ServerAction::Reply(b"VA 1 c1 t9\r\nx\r\n", 1);
    with_server(vec![FOUND], |connections| async move {
        let task = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        let counted = Arc::new(CountingWaker(task, AtomicUsize::new(0)));
        let timeout = Duration::from_millis(250);
        let command = read();
        let mut reading = pin!(run(&connections, &command, timeout));
        let waker = Waker::from(Arc::clone(&counted));
        let found = poll_fn(|_| reading.as_mut().poll(&mut Context::from_waker(&waker))).await;
        assert!(found.is_ok() && !connections.idle().is_empty());
        let woken = counted.1.load(Ordering::SeqCst);
        assert!(woken > 0, "the task is woken while it waits for the server");
        tokio::time::sleep(timeout * 3).await;
        assert_eq!(counted.1.load(Ordering::SeqCst), woken);
    });
}

#[test]
fn replies_may_arrive_after_the_deadline() {
    with_server(
        vec![ServerAction::ReplyTwice(b"EN\r\nEN\r\n", b"EN\r\n")],
        |connections| async move {
            let commands = [read(), read(), read()];
            let now = Instant::now();
            let mut count = 0;
            let mut on_result = |answer: CommandResult| {
                assert!(matches!(answer, Ok(Reply::Read(ReadReply::Nothing))), "{answer:?}");
                count += 1;
            };
            let deadline = now + Duration::from_millis(50);
            let stopped = connections.exchange(&commands, now, deadline, &mut on_result).await;
            let Err(ExchangeError::TimedOut(connection)) = stopped else {
                panic!("the exchange must time out")
            };
            assert_eq!(connection.stream.answered(), 2);
            connections
                .finish_late(connection, &commands, now, now + LONG_TIMEOUT, &mut on_result)
                .await;
            assert_eq!((count, connections.idle().len()), (3, 1));
        },
    );
}

#[test]
fn only_an_unsynced_error_ends_the_exchange() {
    let cases: [(&[u8], &[Option<RemoteErrorKind>]); 2] = [
        (
            b"SERVER_ERROR object too large for cache\r\nSTORED\r\nEN\r\n",
            &[Some(RemoteErrorKind::TooLarge), None, None],
        ),
        // After this error, the server might read a part of the value as a command. The next line
        // might then be the reply to that command.
        (b"CLIENT_ERROR bad data chunk\r\nSTORED\r\nEN\r\n", &[]),
    ];
    for (reply, expected) in cases {
        with_server(vec![ServerAction::Reply(reply, reply.len())], |connections| async move {
            let write = || Command::Write {
                key: "key".into(),
                frame: b"x"[..].into(),
                seconds: 9,
                condition: crate::tier::remote::memcached::WriteCondition::Always,
            };
            let (now, mut kinds) = (Instant::now(), Vec::new());
            let mut on_result =
                |result: CommandResult| kinds.push(result.err().map(|error| error.kind));
            let commands = [write(), write(), read()];
            let done =
                connections.exchange(&commands, now, now + LONG_TIMEOUT, &mut on_result).await;
            assert_eq!(done.is_ok(), !expected.is_empty());
            assert_eq!(kinds, expected);
            assert!(connections.idle().is_empty(), "the connection is closed");
        });
    }
}
