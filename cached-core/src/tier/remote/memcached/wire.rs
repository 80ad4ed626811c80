//! An exchange sends commands over a byte stream and reads their replies, which arrive in the same
//! order.
//!
//! Each poll both writes and reads. A server whose replies are not read stops reading commands, so
//! a client that first wrote a long list of commands could wait forever.
//!
//! An exchange is a state machine and not an `async fn`: its buffers stay in [`MemcachedStream`]
//! for the next exchange, and no nested futures are created.

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
/// The input buffer grows by at most this much at a time, because a reply might announce a wrong
/// length.
const MAX_GROWTH_BYTES: usize = 1 << 20;

/// A stream to a server, with the buffers and the progress of the current exchange.
pub(super) struct MemcachedStream<IO> {
    stream: IO,
    /// The incarnation of the server at the other end: one run of its process. The CAS numbers in
    /// replies belong to this incarnation.
    incarnation: Incarnation,
    /// The encoded commands.
    output: Vec<u8>,
    /// The length of the first command in `output`.
    first_command_bytes: usize,
    /// The number of bytes of `output` that were written.
    written: usize,
    /// The received bytes, followed by free space.
    input: Vec<u8>,
    /// The number of bytes of `input` that were parsed as replies.
    parsed: usize,
    /// The number of bytes of `input` that were received.
    filled: usize,
    /// The number of commands that have a result.
    answered: usize,
    /// False after a reply that the protocol does not allow, or after an error line.
    is_reusable: bool,
}

/// The way in which an exchange ended.
pub(super) enum ExchangeOutcome {
    /// Every command has a result.
    Complete,
    /// The server sent bytes that are not a reply, or an error line after which the next lines
    /// cannot be matched to commands.
    Failed(CommandError),
    /// The connection is closed, or writing or reading failed.
    Closed {
        error: io::Error,
        /// True if even the first command was not sent completely. The server has then carried out
        /// no command.
        nothing_sent: bool,
    },
    TimedOut,
}

impl MemcachedStream<TcpStream> {
    /// Returns true if the server has neither closed the connection nor sent anything since the
    /// last exchange. This function makes a system call only if the runtime has seen the socket
    /// become readable.
    pub(super) fn is_quiet(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> MemcachedStream<IO> {
    pub(super) fn new(stream: IO, incarnation: Incarnation) -> MemcachedStream<IO> {
        MemcachedStream {
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

    pub(super) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Returns true if the connection can carry another exchange.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_reusable
    }

    /// Returns how many commands of the exchange have a result.
    pub(super) fn answered(&self) -> usize {
        self.answered
    }

    /// Begins an exchange, and encodes its commands.
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

    /// Advances the exchange. `commands` must be the argument of [`begin`](Self::begin). Calls
    /// `on_result` with the result of each command as soon as the reply is complete.
    ///
    /// This function checks the deadline itself, because the caller's timer might not fire: tokio
    /// gives each task a cooperative budget, and tokio's timers do not fire for a task without
    /// budget. If a server sends without a pause, the reads use up the budget.
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

    /// Writes as many bytes as the stream accepts now. The task is woken when the stream accepts
    /// more.
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

    /// Parses the replies that have arrived. Returns how many bytes the next reply needs, or `None`
    /// if every command has a result. While the reply's first line is incomplete, the number is
    /// [`MAX_LINE_BYTES`].
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
                    false => Err(CommandError::unreachable("an answer that never ends")),
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
                    // Bytes after the last reply are an error: `into_reply` gets all of them, and
                    // rejects a wrong length.
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

    /// Reads bytes that have arrived. Before that, `input` grows to `needed` bytes, but by at most
    /// [`MAX_GROWTH_BYTES`].
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

    /// Frees the buffers that a large exchange has enlarged.
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
        // This server stops reading commands until the client reads the replies.
        tokio::spawn(async move {
            let (read, mut write) = split(theirs);
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(_)) = lines.next_line().await {
                write
                    .write_all(b"VA 20 c1 t9\r\nabcdefghijklmnopqrst\r\n")
                    .await
                    .expect("the client reads");
            }
        });
        let commands = vec![Command::Read { key: "key".into(), lease: None }; COUNT];
        let (mut wire, mut count) = (MemcachedStream::new(ours, Incarnation::UNKNOWN), 0);
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
