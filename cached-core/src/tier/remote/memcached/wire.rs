//! One exchange over any stream: commands go out and replies come in, in order.
//!
//! Each poll writes and reads. A server stops reading while its replies are not read, so writing a long list of
//! commands before reading any reply could wait forever.
//!
//! An exchange is a state machine and not an `async fn`: its state stays in [`CommandStream`] from one exchange to the next,
//! and no nested futures are built for each.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::cas::Incarnation;
use super::command::{Command, CommandError, CommandResult};
use super::protocol::{ReplyLine, write_command};

/// The longest line of a reply, and the size of a read for one command.
const MAX_LINE_BYTES: usize = 4096;
/// The size of a read for several commands.
const BATCH_READ_BYTES: usize = 32 << 10;
/// A buffer with a larger capacity is freed after its exchange.
const MAX_KEPT_BYTES: usize = 256 << 10;
/// A buffer grows by at most this much before it is filled, because the announced length may be wrong.
const MAX_GROWTH_BYTES: usize = 1 << 20;

/// A stream to a server, and the buffers and progress of its current exchange.
pub(super) struct CommandStream<IO> {
    stream: IO,
    /// The server process at the other end. CAS numbers belong to it.
    incarnation: Incarnation,
    output: Vec<u8>,
    /// The length of the first command in `output`.
    first_command_bytes: usize,
    /// The bytes of `output` that were written.
    written: usize,
    input: Vec<u8>,
    /// The bytes of `input` that were parsed as replies.
    parsed: usize,
    /// The bytes of `input` that were read.
    filled: usize,
    /// The number of answered commands.
    answered: usize,
    /// False after a reply that the protocol does not allow, or an error line.
    is_reusable: bool,
}

/// How an exchange ended.
pub(super) enum ExchangeOutcome {
    /// Every command was answered.
    Complete,
    /// The server sent something that is not a reply.
    Failed(CommandError),
    Closed {
        error: io::Error,
        /// True if no command was sent whole, so that the server carried out none.
        nothing_sent: bool,
    },
    TimedOut,
}

impl CommandStream<TcpStream> {
    /// Returns true if the server has neither closed the connection nor sent anything. Makes a system call only if
    /// the runtime has seen either.
    pub(super) fn is_quiet(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> CommandStream<IO> {
    pub(super) fn new(stream: IO, incarnation: Incarnation) -> CommandStream<IO> {
        CommandStream {
            stream,
            incarnation,
            output: Vec::new(),
            first_command_bytes: 0,
            written: 0,
            input: Vec::new(),
            parsed: 0,
            filled: 0,
            answered: 0,
            is_reusable: true,
        }
    }

    /// Returns true if the connection can carry another exchange.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_reusable
    }

    /// Returns the number of the exchange's answered commands.
    pub(super) fn answered(&self) -> usize {
        self.answered
    }

    /// Begins an exchange: encodes its commands.
    pub(super) fn begin(&mut self, commands: &[Command]) {
        self.output.clear();
        (self.written, self.parsed, self.filled, self.answered) = (0, 0, 0, 0);
        let mut commands = commands.iter();
        if let Some(first) = commands.next() {
            write_command(first, self.incarnation, &mut self.output);
        }
        self.first_command_bytes = self.output.len();
        commands.for_each(|command| write_command(command, self.incarnation, &mut self.output));
    }

    /// Advances the exchange. `commands` must be those that [`begin`](Self::begin) got. Calls `on_result` with each
    /// result as soon as its reply is whole.
    ///
    /// This checks the deadline itself. A server may send as fast as it is read, and then the runtime's cooperative
    /// budget keeps timers from firing.
    pub(super) fn poll(
        &mut self,
        commands: &[Command],
        on_result: &mut impl FnMut(CommandResult),
        sent: Instant,
        deadline: Instant,
        context: &mut Context<'_>,
    ) -> Poll<ExchangeOutcome> {
        if let Err(error) = self.write(context) {
            let nothing_sent = self.written < self.first_command_bytes;
            return Poll::Ready(ExchangeOutcome::Closed { error, nothing_sent });
        }
        let mut has_read = false;
        loop {
            let needed = match self.parse_replies(commands, on_result, sent) {
                Ok(Some(needed)) => needed,
                Ok(None) => return Poll::Ready(ExchangeOutcome::Complete),
                Err(error) => {
                    self.is_reusable = false;
                    return Poll::Ready(ExchangeOutcome::Failed(error));
                }
            };
            if has_read && is_past(deadline) {
                return Poll::Ready(ExchangeOutcome::TimedOut);
            }
            let read_size = if commands.len() == 1 { MAX_LINE_BYTES } else { BATCH_READ_BYTES };
            match ready!(self.poll_read(needed.max(read_size), context)) {
                Ok(()) => has_read = true,
                Err(error) => {
                    return Poll::Ready(ExchangeOutcome::Closed { error, nothing_sent: false });
                }
            }
        }
    }

    /// Writes as much as the stream accepts now. The task is woken when it accepts more.
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

    /// Parses the replies that have arrived. Returns how many bytes the next reply needs, as far as is known, or
    /// `None` if every command was answered.
    fn parse_replies(
        &mut self,
        commands: &[Command],
        on_result: &mut impl FnMut(CommandResult),
        sent: Instant,
    ) -> Result<Option<usize>, CommandError> {
        while let Some(command) = commands.get(self.answered) {
            let input = &self.input[self.parsed..self.filled];
            let Some(line) = input.iter().position(|&byte| byte == b'\n') else {
                return match input.len() < MAX_LINE_BYTES {
                    true => Ok(Some(MAX_LINE_BYTES)),
                    false => Err(CommandError::lost("an answer that never ends")),
                };
            };
            let after_line = line + 1;
            let (result, whole) = match ReplyLine::parse(&input[..line]) {
                Ok(parsed) => {
                    let frame = parsed.frame_length.map_or(0, |length| length + 2);
                    let whole = after_line + frame;
                    if input.len() < whole {
                        return Ok(Some(whole));
                    }
                    // Nothing may follow the last reply.
                    let is_last = self.answered + 1 == commands.len();
                    let end = if is_last { input.len() } else { whole };
                    let following = &input[after_line..end];
                    (Ok(parsed.into_reply(following, command, sent, self.incarnation)?), whole)
                }
                Err(line) if line.is_in_sync => {
                    self.is_reusable = false;
                    (Err(line.error), after_line)
                }
                Err(line) => return Err(line.error),
            };
            self.parsed += whole;
            self.answered += 1;
            on_result(result);
        }
        Ok(None)
    }

    /// Reads what has arrived of a reply that needs `needed` bytes.
    fn poll_read(&mut self, needed: usize, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.parsed > 0 {
            self.input.copy_within(self.parsed..self.filled, 0);
            (self.parsed, self.filled) = (0, self.filled - self.parsed);
        }
        let size = needed.min(self.filled + MAX_GROWTH_BYTES);
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

    /// Frees the buffers of a large exchange.
    pub(super) fn shrink(&mut self) {
        for buffer in [&mut self.output, &mut self.input] {
            if buffer.capacity() > MAX_KEPT_BYTES {
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
    async fn replies_are_read_while_commands_are_written() {
        const COUNT: usize = 2000;
        let (ours, theirs) = duplex(512);
        // This server reads no command while its replies are not read.
        tokio::spawn(async move {
            let (read, mut write) = split(theirs);
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(_)) = lines.next_line().await {
                write.write_all(b"VA 20 c1 t9\r\nabcdefghijklmnopqrst\r\n").await.expect("read");
            }
        });
        let commands = vec![Command::Read { key: "key".into(), lease: None }; COUNT];
        let (mut wire, mut count) = (CommandStream::new(ours, Incarnation::UNKNOWN), 0);
        let now = Instant::now();
        let deadline = now + Duration::from_secs(30);
        wire.begin(&commands);
        let mut on_result = |result: CommandResult| {
            assert!(result.is_ok());
            count += 1;
        };
        let exchange = std::future::poll_fn(|context| {
            wire.poll(&commands, &mut on_result, now, deadline, context)
        });
        let end = tokio::time::timeout(Duration::from_secs(10), exchange).await;
        assert!(matches!(end, Ok(ExchangeOutcome::Complete)));
        assert!(wire.is_reusable() && count == COUNT);
    }
}
