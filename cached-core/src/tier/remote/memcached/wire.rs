//! The bytes of one exchange: commands go out and answers come in, in order, over any stream.
//!
//! It writes and reads in the same poll. A server stops reading while nobody reads its answers, so
//! whoever wrote a long list of commands first and read after that could wait for ever.
//!
//! An exchange is polled by hand: its state stays in here from one to the next, and not in futures
//! within futures that are made and walked through each time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::cas::Incarnation;
use super::command::{Command, CommandError, CommandResult};
use super::protocol::{AnswerLine, write_command};

/// The longest line of an answer, and the size of a read for one command.
const LONGEST_LINE: usize = 4096;
/// The size of a read where many answers are awaited.
const LARGE_READ: usize = 32 << 10;
/// A buffer that had to grow beyond this is not kept.
const LARGEST_KEPT: usize = 256 << 10;
/// A buffer grows by so much at most before it is filled: a length may be a lie.
const GROWTH: usize = 1 << 20;

pub(super) struct Wire<S> {
    stream: S,
    /// Whose CAS numbers come and go on this stream.
    incarnation: Incarnation,
    output: Vec<u8>,
    /// The length of the first command in `output`.
    first_command: usize,
    /// How much of `output` was written.
    written: usize,
    input: Vec<u8>,
    /// How much of `input` was taken as answers.
    taken: usize,
    /// How much of `input` was read.
    filled: usize,
    /// How many commands were answered.
    answered: usize,
    /// True if the server answers as it should; else the connection is not used again.
    is_reusable: bool,
}

/// How an exchange ended.
pub(super) enum ExchangeOutcome {
    /// Every command was answered.
    Complete,
    /// The server said something that is not an answer.
    Failed(CommandError),
    Closed {
        error: io::Error,
        /// True if no command was sent whole. Such a one is not carried out.
        nothing_sent: bool,
    },
    TimedOut,
}

impl Wire<TcpStream> {
    /// Returns true if the server has neither closed the connection nor said anything unasked. It asks
    /// the operating system only if the runtime has seen one of them.
    pub(super) fn is_quiet(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, incarnation: Incarnation) -> Wire<S> {
        Wire {
            stream,
            incarnation,
            output: Vec::new(),
            first_command: 0,
            written: 0,
            input: Vec::new(),
            taken: 0,
            filled: 0,
            answered: 0,
            is_reusable: true,
        }
    }

    /// Returns true if the connection can carry another exchange.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_reusable
    }

    /// How many of the exchange's commands were answered.
    pub(super) fn answered(&self) -> usize {
        self.answered
    }

    pub(super) fn begin(&mut self, commands: &[Command]) {
        self.output.clear();
        (self.written, self.taken, self.filled, self.answered) = (0, 0, 0, 0);
        let mut commands = commands.iter();
        if let Some(first) = commands.next() {
            write_command(first, self.incarnation, &mut self.output);
        }
        self.first_command = self.output.len();
        commands.for_each(|command| write_command(command, self.incarnation, &mut self.output));
    }

    /// Goes on with the exchange of the commands that were begun, and passes on each answer as soon as
    /// it is whole. The runtime bounds how much a task does at once, and then says of a timer too that
    /// it is not ready; so the deadline is also looked at here, where a server sends as fast as it is
    /// read.
    pub(super) fn poll(
        &mut self,
        commands: &[Command],
        answered: &mut impl FnMut(CommandResult),
        sent: Instant,
        deadline: Instant,
        context: &mut Context<'_>,
    ) -> Poll<ExchangeOutcome> {
        if let Err(error) = self.write(context) {
            let nothing_sent = self.written < self.first_command;
            return Poll::Ready(ExchangeOutcome::Closed { error, nothing_sent });
        }
        let mut has_read = false;
        loop {
            let needed = match self.take_answers(commands, answered, sent) {
                Ok(Some(needed)) => needed,
                Ok(None) => return Poll::Ready(ExchangeOutcome::Complete),
                Err(failure) => {
                    self.is_reusable = false;
                    return Poll::Ready(ExchangeOutcome::Failed(failure));
                }
            };
            if has_read && is_past(deadline) {
                return Poll::Ready(ExchangeOutcome::TimedOut);
            }
            let read_size = if commands.len() == 1 { LONGEST_LINE } else { LARGE_READ };
            match ready!(self.poll_read(needed.max(read_size), context)) {
                Ok(()) => has_read = true,
                Err(error) => {
                    return Poll::Ready(ExchangeOutcome::Closed { error, nothing_sent: false });
                }
            }
        }
    }

    /// Writes what the stream takes now. The task is woken when it takes more.
    fn write(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.written < self.output.len() {
            let unwritten = &self.output[self.written..];
            match Pin::new(&mut self.stream).poll_write(context, unwritten) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.written += count,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Takes the answers that are there. Returns how many bytes the next one needs as far as is known,
    /// or `None` if every command was answered.
    fn take_answers(
        &mut self,
        commands: &[Command],
        answered: &mut impl FnMut(CommandResult),
        sent: Instant,
    ) -> Result<Option<usize>, CommandError> {
        while let Some(command) = commands.get(self.answered) {
            let input = &self.input[self.taken..self.filled];
            let Some(line) = input.iter().position(|&byte| byte == b'\n') else {
                return match input.len() < LONGEST_LINE {
                    true => Ok(Some(LONGEST_LINE)),
                    false => Err(CommandError::lost("an answer without an end")),
                };
            };
            let after_line = line + 1;
            let (answer, whole) = match AnswerLine::parse(&input[..line]) {
                Ok(parsed) => {
                    let frame = parsed.frame_length.map_or(0, |length| length + 2);
                    let whole = after_line + frame;
                    if input.len() < whole {
                        return Ok(Some(whole));
                    }
                    // Nothing may follow the last answer.
                    let is_last = self.answered + 1 == commands.len();
                    let end = if is_last { input.len() } else { whole };
                    let following = &input[after_line..end];
                    (Ok(parsed.reply(following, command, sent, self.incarnation)?), whole)
                }
                Err(error) if error.is_in_step => {
                    self.is_reusable = false;
                    (Err(error.failure), after_line)
                }
                Err(error) => return Err(error.failure),
            };
            self.taken += whole;
            self.answered += 1;
            answered(answer);
        }
        Ok(None)
    }

    /// Reads what there is, of an answer that needs so many bytes.
    fn poll_read(&mut self, needed: usize, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.taken > 0 {
            self.input.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, self.filled - self.taken);
        }
        let size = needed.min(self.filled + GROWTH);
        if self.input.len() < size {
            self.input.resize(size, 0);
        }
        let mut into = ReadBuf::new(&mut self.input[self.filled..]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut into))?;
        Poll::Ready(match into.filled().len() {
            0 => {
                let why = "the server closed the connection";
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
            }
            count => {
                self.filled += count;
                Ok(())
            }
        })
    }

    /// Lets go of buffers that a large exchange has left.
    pub(super) fn shrink(&mut self) {
        for buffer in [&mut self.output, &mut self.input] {
            if buffer.capacity() > LARGEST_KEPT {
                *buffer = Vec::new();
            }
        }
    }
}

#[cold]
fn is_past(deadline: Instant) -> bool {
    Instant::now() >= deadline
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, duplex, split};

    use super::*;

    #[tokio::test]
    async fn a_list_that_no_buffer_takes_is_written_while_its_answers_are_read() {
        const COUNT: usize = 2000;
        let (ours, theirs) = duplex(512);
        // It reads no more commands while nobody reads its answers.
        tokio::spawn(async move {
            let (read, mut write) = split(theirs);
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(_)) = lines.next_line().await {
                write.write_all(b"VA 20 c1 t9\r\nabcdefghijklmnopqrst\r\n").await.expect("read");
            }
        });
        let commands = vec![Command::Read { key: "key".into(), lease: None }; COUNT];
        let (mut wire, mut count) = (Wire::new(ours, Incarnation::UNKNOWN), 0);
        let now = Instant::now();
        let deadline = now + Duration::from_secs(30);
        wire.begin(&commands);
        let mut answered = |answer: CommandResult| {
            assert!(answer.is_ok());
            count += 1;
        };
        let exchange = std::future::poll_fn(|context| {
            wire.poll(&commands, &mut answered, now, deadline, context)
        });
        let end = tokio::time::timeout(Duration::from_secs(10), exchange).await;
        assert!(matches!(end, Ok(ExchangeOutcome::Complete)));
        assert!(wire.is_reusable() && count == COUNT);
    }
}
