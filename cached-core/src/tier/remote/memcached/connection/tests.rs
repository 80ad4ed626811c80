//! What is promised of a connection: that an answer is whole and its own, however it comes.

use std::io::{Read as _, Write as _};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Wake, Waker};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::tier::remote::memcached::command::Reply;
use crate::tier::remote::memcached::protocol::LONGEST_FRAME;
use crate::tier::remote::memcached::{Found, RemoteErrorKind};

/// The answer to the probe of a connection that is new.
const FIT: &[u8] = b"VERSION 1.6.18\r\nNF c0\r\nEND\r\nMN\r\n";

async fn connect(address: &str) -> ConnectionPool {
    ConnectionPool::resolve(address, 4, &Handle::current()).await.expect("an address")
}

/// What a server does with each command in turn, on whichever connection it comes.
#[derive(Clone, Copy)]
enum Act {
    /// It says this in pieces of so many bytes.
    Says(&'static [u8], usize),
    SaysAndCloses(&'static [u8]),
    /// It says something, and more when that has been read.
    SaysMore(&'static [u8], &'static [u8]),
    Nothing,
}

/// A server that answers by the script; `ask` is given connections to it.
fn with_server<F: Future<Output = ()>>(acts: Vec<Act>, ask: impl FnOnce(ConnectionPool) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let acts = Arc::new(Mutex::new(acts.into_iter()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&acts)));
            }
        });
        ask(connect(&address).await).await;
    });
}

async fn serve(mut stream: TcpStream, acts: Arc<Mutex<std::vec::IntoIter<Act>>>) {
    stream.set_nodelay(true).expect("a socket");
    let Ok(1..) = stream.read(&mut [0; 4096]).await else { return };
    stream.write_all(FIT).await.expect("it is read");
    while let Ok(1..) = stream.read(&mut [0; 4096]).await {
        let act = acts.lock().expect("nobody panics with it").next().expect("it is asked no more");
        let (bytes, piece) = match act {
            Act::Says(bytes, piece) => (bytes, piece),
            Act::SaysAndCloses(bytes) | Act::SaysMore(bytes, _) => (bytes, bytes.len()),
            Act::Nothing => continue,
        };
        for piece in bytes.chunks(piece) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match act {
            Act::SaysAndCloses(_) => return,
            Act::SaysMore(_, more) => {
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
    Command::Delete { key: "key".into(), unchanged: None }
}

const LONG: Duration = Duration::from_secs(30);

async fn ask(
    connections: &ConnectionPool,
    command: &Command,
    timeout: Duration,
) -> Result<Reply, CommandError> {
    let (now, mut answer) = (Instant::now(), None);
    let commands = std::slice::from_ref(command);
    let mut answered = |its| answer = Some(its);
    match connections.exchange(commands, now, now + timeout, &mut answered).await {
        Ok(()) => answer.expect("it was answered"),
        Err(ExchangeError::Failed(failure)) => Err(failure),
        Err(ExchangeError::TimedOut(_)) => Err(CommandError::timed_out()),
    }
}

async fn frame(connections: &ConnectionPool) -> Result<Vec<u8>, CommandError> {
    match ask(connections, &read(), LONG).await? {
        Reply::Found(Found::Item(item)) => Ok(item.frame),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_in_pieces_is_read_whole_and_the_connection_kept() {
    const ANSWER: &[u8] = b"VA 8 c7 t60\r\na\r\nVA 1 \r\n";
    let acts = (1..=ANSWER.len()).map(|piece| Act::Says(ANSWER, piece)).collect();
    with_server(acts, |connections| async move {
        for _ in 1..=ANSWER.len() {
            assert_eq!(frame(&connections).await, Ok(b"a\r\nVA 1 ".to_vec()));
            assert_eq!(connections.idle().len(), 1);
        }
    });
}

#[test]
fn a_right_that_somebody_has_given_back_is_told_from_a_new_one() {
    let said: [&[u8]; 2] = [b"VA 1 c1 t9 W\r\nx\r\n", b"VA 1 c1 t9 W X\r\nx\r\n"];
    let acts = said.map(|said| Act::Says(said, said.len())).into();
    with_server(acts, |connections| async move {
        for given_back in [false, true] {
            match ask(&connections, &read(), LONG).await {
                Ok(Reply::Found(Found::Item(item))) => {
                    assert_eq!((item.is_claimed, item.was_given_back), (true, given_back));
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_time_to_live_beyond_all_clocks_is_the_longest_there_is() {
    let said: &[u8] = b"VA 1 c1 t9223372036854775807\r\nx\r\n";
    with_server(vec![Act::Says(said, said.len())], |connections| async move {
        assert_eq!(frame(&connections).await, Ok(b"x".to_vec()));
    });
}

#[test]
fn what_is_no_answer_is_lost_or_refused_and_its_connection_not_used_again() {
    let long: &[u8] = vec![b'x'; 5000].leak();
    let (lost, refused) = (false, true);
    let cases: [(Command, &[u8], bool); 16] = [
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
    for (command, said, is_refused) in cases {
        let acts = vec![Act::Says(said, said.len()), Act::Says(b"VA 1 c1 t9\r\nx\r\n", 99)];
        with_server(acts, |connections| async move {
            let said = String::from_utf8_lossy(said);
            match ask(&connections, &command, LONG).await {
                Err(failure) => {
                    let kind =
                        if is_refused { RemoteErrorKind::Refused } else { RemoteErrorKind::Lost };
                    assert_eq!(failure.kind, kind, "{said}");
                }
                other => panic!("{other:?} of {said}"),
            }
            assert!(connections.idle().is_empty(), "{said}");
            assert_eq!(frame(&connections).await, Ok(b"x".to_vec()));
        });
    }
}

#[test]
fn a_connection_that_was_closed_or_spoke_while_idle_is_not_used() {
    let acts = vec![
        Act::SaysAndCloses(b"VA 1 c1 t9\r\nx\r\n"),
        Act::SaysMore(b"VA 1 c1 t9\r\nx\r\n", b"VA 1 c1 t9\r\nz\r\n"),
        Act::Says(b"VA 1 c1 t9\r\ny\r\n", 99),
    ];
    with_server(acts, |connections| async move {
        for expected in [b"x", b"x", b"y"] {
            assert_eq!(frame(&connections).await, Ok(expected.to_vec()));
            assert_eq!(connections.idle().len(), 1);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

#[test]
fn who_goes_away_in_the_middle_takes_the_connection_along() {
    let acts = vec![Act::Nothing, Act::Says(b"VA 1 c1 t9\r\nx\r\n", 99)];
    with_server(acts, |connections| async move {
        let patience = Duration::from_millis(50);
        assert!(tokio::time::timeout(patience, frame(&connections)).await.is_err());
        assert!(connections.idle().is_empty());
        assert_eq!(frame(&connections).await, Ok(b"x".to_vec()));
    });
}

#[test]
fn an_exchange_ends_at_its_own_deadline_on_a_connection_that_had_others() {
    const FOUND: Act = Act::Says(b"VA 1 c1 t9\r\nx\r\n", 99);
    for (before, pause, timeout) in [(30_000, 0, 60), (40, 0, 160), (40, 80, 160)] {
        let [before, pause, timeout] = [before, pause, timeout].map(Duration::from_millis);
        with_server(vec![FOUND, Act::Nothing, FOUND], |connections| async move {
            assert!(ask(&connections, &read(), before).await.is_ok());
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            assert_eq!(
                ask(&connections, &read(), timeout).await.err(),
                Some(CommandError::timed_out())
            );
            assert!(began.elapsed() >= timeout, "{:?} of {timeout:?}", began.elapsed());
            assert!(began.elapsed() < LONG / 10, "{:?} of {timeout:?}", began.elapsed());
            assert!(connections.idle().is_empty());
            assert_eq!(frame(&connections).await, Ok(b"x".to_vec()));
        });
    }
}

/// A server that says that its answer is as long as any, and sends it as fast as it is read. Returns
/// its address, and how much was sent once the connection is closed.
fn flooding() -> (String, Receiver<usize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let (sent, was_sent) = channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it is dialled");
        let _ = stream.read(&mut [0; 4096]).expect("it is asked what it is");
        stream.write_all(FIT).expect("it is read");
        stream.read_exact(&mut [0; 2]).expect("it is asked");
        let head = format!("VA {LONGEST_FRAME} c1 t9\r\n");
        stream.write_all(head.as_bytes()).expect("it is read");
        let piece = vec![b'x'; 1 << 20];
        let mut total = 0;
        while stream.write_all(&piece).is_ok() {
            total += piece.len();
        }
        sent.send(total).expect("it is waited for");
    });
    (address, was_sent)
}

#[test]
fn an_answer_that_never_ends_is_read_until_the_deadline() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    // Where the server falls behind at times, a timer is enough.
    for _ in 0..5 {
        let (address, sent) = flooding();
        runtime.block_on(async {
            let connections = connect(&address).await;
            let answer = ask(&connections, &read(), Duration::from_millis(60)).await;
            assert_eq!(answer.err(), Some(CommandError::timed_out()));
        });
        assert!(sent.recv().expect("it ends") < LONGEST_FRAME / 2);
    }
}

/// A task whose own wakes are counted.
struct Counted(Waker, AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Counted>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.wake_by_ref();
    }
}

#[test]
fn a_timer_that_outlives_its_exchange_wakes_nobody() {
    const FOUND: Act = Act::Says(b"VA 1 c1 t9\r\nx\r\n", 1);
    with_server(vec![FOUND], |connections| async move {
        let task = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        let counted = Arc::new(Counted(task, AtomicUsize::new(0)));
        let timeout = Duration::from_millis(250);
        let command = read();
        let mut asked = pin!(ask(&connections, &command, timeout));
        let waker = Waker::from(Arc::clone(&counted));
        let found = poll_fn(|_| asked.as_mut().poll(&mut Context::from_waker(&waker))).await;
        assert!(found.is_ok() && !connections.idle().is_empty());
        let woken = counted.1.load(Ordering::SeqCst);
        assert!(woken > 0, "it waited");
        tokio::time::sleep(timeout * 3).await;
        assert_eq!(counted.1.load(Ordering::SeqCst), woken);
    });
}

#[test]
fn what_is_answered_at_the_deadline_is_kept_and_the_rest_may_come_later() {
    with_server(vec![Act::SaysMore(b"EN\r\nEN\r\n", b"EN\r\n")], |connections| async move {
        let commands = [read(), read(), read()];
        let now = Instant::now();
        let mut count = 0;
        let mut answered = |answer: CommandResult| {
            assert!(matches!(answer, Ok(Reply::Found(Found::Nothing))), "{answer:?}");
            count += 1;
        };
        let deadline = now + Duration::from_millis(50);
        let stopped = connections.exchange(&commands, now, deadline, &mut answered).await;
        let Err(ExchangeError::TimedOut(connection)) = stopped else { panic!("it is too late") };
        assert_eq!(connection.wire.answered(), 2);
        connections.finish_late(connection, &commands, now, now + LONG, &mut answered).await;
        assert_eq!((count, connections.idle().len()), (3, 1));
    });
}

#[test]
fn an_error_of_the_server_is_one_commands_and_a_line_it_did_not_understand_ends_the_exchange() {
    let cases: [(&[u8], &[Option<RemoteErrorKind>]); 2] = [
        (
            b"SERVER_ERROR object too large for cache\r\nSTORED\r\nEN\r\n",
            &[Some(RemoteErrorKind::TooLarge), None, None],
        ),
        // The next answer may be to a piece of the value.
        (b"CLIENT_ERROR bad data chunk\r\nSTORED\r\nEN\r\n", &[]),
    ];
    for (said, expected) in cases {
        with_server(vec![Act::Says(said, said.len())], |connections| async move {
            let write = || Command::Write {
                key: "key".into(),
                frame: b"x"[..].into(),
                seconds: 9,
                condition: crate::tier::remote::memcached::Condition::Always,
            };
            let (now, mut kinds) = (Instant::now(), Vec::new());
            let mut answered = |answer: CommandResult| kinds.push(answer.err().map(|its| its.kind));
            let commands = [write(), write(), read()];
            let done = connections.exchange(&commands, now, now + LONG, &mut answered).await;
            assert_eq!(done.is_ok(), !expected.is_empty());
            assert_eq!(kinds, expected);
            assert!(connections.idle().is_empty(), "it is not used again");
        });
    }
}
