//! Connections on which one command is asked at a time. Whoever is alone waits for everything that
//! is done between a question and its answer; so a command is written here as it travels, and an
//! answer read as it came, with one allocation: the frame.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Sleep, sleep_until, timeout_at};

use super::Condition;
use super::client::{Command, Failure, Read, Reply};
use super::marker::RENEWED_SECONDS;

/// A connection that was idle for longer may have been forgotten on its way.
const LONGEST_IDLE: Duration = Duration::from_secs(90);
/// What a connection reads into at first, and at most before it has seen the end of a line.
const BUFFER: usize = 4096;
/// A buffer that had to grow beyond this is not kept.
const LARGE: usize = 64 << 10;
/// A buffer grows by so much at most before it is filled: a length may be a lie.
const GROWTH: usize = 1 << 20;
/// The largest item that a memcached can be told to take.
const LONGEST_FRAME: usize = 1 << 30;

/// The connections to one server.
pub(super) struct Connections {
    addresses: Vec<SocketAddr>,
    /// So many are kept.
    most: usize,
    idle: Mutex<Vec<(Box<Connection>, Instant)>>,
}

/// In a box wherever it goes, so that it is not moved from where it was used last.
struct Connection {
    wire: Wire,
    timer: Timer,
}

/// One that is set to a time and left running when what it bounds is over: setting and stopping it
/// take a lock of the runtime's, and most exchanges are over long before. So it may end early, for
/// an exchange that is past, and is then set anew.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    waits: Arc<Waits>,
    /// Wakes who waits.
    waker: Waker,
}

/// Who waits for the timer, during an exchange. After it a timer that is still running wakes nobody.
#[derive(Default)]
struct Waits(Mutex<Option<Waker>>);

impl Waits {
    fn who(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waits {
    fn wake(self: Arc<Waits>) {
        let waker = self.who().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Wire {
    stream: TcpStream,
    command: Vec<u8>,
    /// So much of `command` was sent.
    sent: usize,
    answer: Vec<u8>,
    /// So much of `answer` was read.
    filled: usize,
    /// Of the exchange.
    deadline: Instant,
}

/// The first line of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    outcome: Outcome,
    /// Of the frame that follows.
    length: Option<usize>,
    read: Read,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// There is nothing to read.
    Miss,
    /// A condition did not hold.
    NotDone,
}

impl Connections {
    /// Resolves the name. Connections are opened when they are needed.
    pub(super) async fn to(address: &str, most: usize) -> io::Result<Connections> {
        let addresses = lookup_host(address).await?.collect();
        Ok(Connections { addresses, most, idle: Mutex::default() })
    }

    /// Asks one command. Dropped in the middle, it takes its connection with it, on which an answer
    /// may be under way.
    pub(super) async fn ask(
        &self,
        command: &Command,
        sent: Instant,
        deadline: Instant,
    ) -> Result<Reply, Failure> {
        loop {
            let idle = self.take(sent);
            let was_idle = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                // In a box, as it is rare, so that what holds it stays small.
                None => Box::pin(Connection::open(&self.addresses, deadline)).await?,
            };
            match connection.ask(command, sent, deadline).await {
                Asked::Answered(reply) => {
                    self.keep(connection, sent);
                    return Ok(reply);
                }
                // After anything but an answer a connection is not used again.
                Asked::Failed(failure) => return Err(failure),
                Asked::TooLate => return Err(Failure::too_late()),
                // The server closed it meanwhile. What is not sent whole is not carried out.
                Asked::Unsent(_) if was_idle => {}
                Asked::Unsent(error) => return Err(Failure::lost(error)),
            }
        }
    }

    fn take(&self, now: Instant) -> Option<Box<Connection>> {
        loop {
            let (connection, since) = self.idle().pop()?;
            if now.saturating_duration_since(since) < LONGEST_IDLE && connection.wire.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, mut connection: Box<Connection>, now: Instant) {
        connection.wire.trim();
        let mut idle = self.idle();
        if idle.len() < self.most {
            idle.push((connection, now));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Box<Connection>, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    async fn open(addresses: &[SocketAddr], deadline: Instant) -> Result<Box<Connection>, Failure> {
        let stream = timeout_at(deadline.into(), TcpStream::connect(addresses)).await;
        let stream = stream.map_err(|_| Failure::too_late())?.map_err(Failure::lost)?;
        stream.set_nodelay(true).map_err(Failure::lost)?;
        let (command, answer) = (Vec::new(), Vec::new());
        let wire = Wire { stream, command, sent: 0, answer, filled: 0, deadline };
        Ok(Box::new(Connection { wire, timer: Timer::new(deadline) }))
    }

    fn ask(
        &mut self,
        command: &Command,
        sent: Instant,
        deadline: Instant,
    ) -> impl Future<Output = Asked> {
        let Connection { wire, timer } = self;
        wire.begin(command, deadline);
        poll_fn(move |context| {
            let asked = match wire.poll(command, sent, context) {
                Poll::Pending => timer.poll(deadline, context).map(|()| Asked::TooLate),
                asked => asked,
            };
            if asked.is_ready() {
                *timer.waits.who() = None;
            }
            asked
        })
    }
}

impl Timer {
    fn new(deadline: Instant) -> Timer {
        let waits = Arc::new(Waits::default());
        let waker = Waker::from(Arc::clone(&waits));
        Timer { sleep: Box::pin(sleep_until(deadline.into())), waits, waker }
    }

    /// Ready at the deadline.
    fn poll(&mut self, deadline: Instant, context: &Context<'_>) -> Poll<()> {
        *self.waits.who() = Some(context.waker().clone());
        let (sleep, deadline) = (&mut self.sleep, deadline.into());
        let mut context = Context::from_waker(&self.waker);
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(&mut context));
            if sleep.deadline() == deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// What came of a command.
enum Asked {
    Answered(Reply),
    Failed(Failure),
    Unsent(io::Error),
    TooLate,
}

/// An exchange is polled by hand: what it waits with is in here, where it stays from one to the next,
/// and not in futures within futures that are made and walked through each time.
impl Wire {
    /// Whether the server has neither closed it nor said what it was not asked. Where the runtime
    /// has seen neither, this asks nobody.
    fn is_quiet(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn begin(&mut self, command: &Command, deadline: Instant) {
        self.command.clear();
        write(command, &mut self.command);
        (self.sent, self.filled, self.deadline) = (0, 0, deadline);
    }

    /// What comes of the command that was begun.
    fn poll(&mut self, command: &Command, sent: Instant, context: &mut Context<'_>) -> Poll<Asked> {
        while self.sent < self.command.len() {
            let unsent = &self.command[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, unsent)) {
                Ok(0) => return Poll::Ready(Asked::Unsent(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.sent += count,
                Err(error) => return Poll::Ready(Asked::Unsent(error)),
            }
        }
        let answer = ready!(self.poll_answer(command, sent, context));
        Poll::Ready(answer.map_or_else(Asked::Failed, Asked::Answered))
    }

    fn poll_answer(
        &mut self,
        command: &Command,
        sent: Instant,
        context: &mut Context<'_>,
    ) -> Poll<Result<Reply, Failure>> {
        let mut has_read = false;
        loop {
            let whole = match self.head()? {
                Some((head, begin)) => {
                    let whole = begin + head.length.map_or(0, |length| length + 2);
                    if self.filled >= whole {
                        return Poll::Ready(self.reply(head, begin, command, sent));
                    }
                    whole
                }
                None => BUFFER,
            };
            if has_read {
                self.in_time()?;
            }
            ready!(self.poll_read_towards(whole, context))?;
            has_read = true;
        }
    }

    /// The timer has no turn where a server sends as fast as it is read: the runtime bounds how much
    /// a task does at once, and then says of a timer too that it is not ready.
    #[cold]
    fn in_time(&self) -> Result<(), Failure> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(Failure::too_late()) }
    }

    /// The first line of the answer, once there is all of it, and where it ends.
    fn head(&self) -> Result<Option<(Head, usize)>, Failure> {
        match self.answer[..self.filled].iter().position(|&byte| byte == b'\n') {
            Some(line) => Ok(Some((Head::of(&self.answer[..line])?, line + 1))),
            None if self.filled >= BUFFER => Err(Failure::lost("an answer without an end")),
            None => Ok(None),
        }
    }

    /// What an answer means of which all was read. What follows its first line begins there.
    fn reply(
        &self,
        head: Head,
        begin: usize,
        command: &Command,
        sent: Instant,
    ) -> Result<Reply, Failure> {
        let Head { outcome, length, mut read } = head;
        let frame = match (length, &self.answer[begin..self.filled]) {
            (None, []) => None,
            (Some(length), whole) if whole.get(length..) == Some(b"\r\n") => Some(&whole[..length]),
            _ => return Err(Failure::lost("an answer of another length than it says")),
        };
        // A value is what a read that finds something is answered with, and nothing else is.
        match (command, outcome, frame) {
            (Command::Read { .. }, Outcome::Done, Some(frame)) => {
                read.frame = Some(frame.to_vec());
                Ok(Reply::Found(read.found(command, sent)))
            }
            (Command::Read { .. }, Outcome::Miss, None) => {
                Ok(Reply::Found(read.found(command, sent)))
            }
            (Command::Read { .. }, ..) | (_, Outcome::Miss, _) | (.., Some(_)) => {
                Err(Failure::other_command())
            }
            (Command::Renew { .. }, outcome, None) => {
                Ok(Reply::Renewed(read.cas.filter(|_| outcome == Outcome::Done)))
            }
            (_, outcome, None) => Ok(Reply::Applied(outcome == Outcome::Done)),
        }
    }

    /// Reads what there is, of an answer that is whole with so many bytes.
    fn poll_read_towards(
        &mut self,
        whole: usize,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        let room = whole.clamp(BUFFER, self.filled + GROWTH);
        if self.answer.len() < room {
            self.answer.resize(room, 0);
        }
        let mut into = ReadBuf::new(&mut self.answer[self.filled..]);
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut into));
        read.map_err(Failure::lost)?;
        Poll::Ready(match into.filled().len() {
            0 => Err(Failure::lost("it closed the connection")),
            read => {
                self.filled += read;
                Ok(())
            }
        })
    }

    fn trim(&mut self) {
        for buffer in [&mut self.command, &mut self.answer] {
            if buffer.len() > LARGE {
                *buffer = Vec::new();
            }
        }
    }
}

/// A command as it travels. Keys are of an alphabet and a length that memcached takes as they are.
fn write(command: &Command, into: &mut Vec<u8>) {
    let name = match command {
        Command::Read { .. } => "mg ",
        Command::Write { .. } | Command::Renew { .. } => "ms ",
        Command::Delete { .. } | Command::LetOthersWin { .. } => "md ",
    };
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(command.key().as_bytes());
    match command {
        Command::Read { lease, .. } => {
            into.extend_from_slice(b" v c t");
            if let Some(lease) = lease {
                write_number(into, b" N", lease.seconds);
                if lease.replace_before > 0 {
                    write_number(into, b" R", lease.replace_before);
                }
            }
        }
        Command::Write { frame, seconds, condition, .. } => {
            write_number(into, b" ", frame.len() as u64);
            write_number(into, b" T", *seconds);
            match condition {
                Condition::Absent => into.extend_from_slice(b" ME"),
                Condition::Unchanged(cas) => write_number(into, b" C", *cas),
                Condition::Always => {}
            }
            into.extend_from_slice(b"\r\n");
            into.extend_from_slice(frame);
        }
        Command::Renew { marker, cas, .. } => {
            write_number(into, b" ", marker.len() as u64);
            write_number(into, b" T", RENEWED_SECONDS);
            write_number(into, b" C", *cas);
            into.extend_from_slice(b" c\r\n");
            into.extend_from_slice(marker);
        }
        Command::Delete { unchanged: Some(cas), .. } => write_number(into, b" C", *cas),
        Command::Delete { unchanged: None, .. } => {}
        Command::LetOthersWin { cas, .. } => write_number(into, b" I C", *cas),
    }
    into.extend_from_slice(b"\r\n");
}

/// A number in decimal, after what says which. A formatter takes ten times as long, as a parser
/// does for [`number`].
fn write_number(into: &mut Vec<u8>, name: &[u8], number: impl Into<u64>) {
    let (mut digits, mut at, mut rest) = ([0; 20], 20, number.into());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    into.extend_from_slice(name);
    into.extend_from_slice(&digits[at..]);
}

impl Head {
    fn of(line: &[u8]) -> Result<Head, Failure> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        let (outcome, has_frame) = match words.next() {
            Some(b"VA") => (Outcome::Done, true),
            Some(b"HD") => (Outcome::Done, false),
            Some(b"EN") => (Outcome::Miss, false),
            Some(b"EX" | b"NF" | b"NS") => (Outcome::NotDone, false),
            _ => return Err(Failure::said(line)),
        };
        let unreadable = || Failure::lost("an answer that is not in its protocol");
        let length = match has_frame {
            true => {
                let length = words.next().and_then(number);
                let length = length.and_then(|length| usize::try_from(length).ok());
                Some(length.filter(|&length| length <= LONGEST_FRAME).ok_or_else(unreadable)?)
            }
            false => None,
        };
        let mut read = Read::default();
        for word in words {
            match word {
                [b'c', cas @ ..] => read.cas = Some(number(cas).ok_or_else(unreadable)?),
                b"t-1" => read.ttl = None,
                [b't', ttl @ ..] => read.ttl = Some(number(ttl).ok_or_else(unreadable)?),
                b"W" => read.won = true,
                b"Z" => read.busy = true,
                b"X" => read.given_back = true,
                _ => {}
            }
        }
        Ok(Head { outcome, length, read })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let add = |number: u64, digit: &u8| {
        let digit = digit.wrapping_sub(b'0');
        let number = number.checked_mul(10)?.checked_add(digit.into())?;
        (digit < 10).then_some(number)
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

#[cfg(test)]
mod tests;
