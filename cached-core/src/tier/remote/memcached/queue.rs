//! The queue of a [`pipeline`](super::pipeline), which sends commands to one server in batches. The
//! queue holds the commands that are not sent yet. Its size in bytes is limited.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::command::{Command, CommandResult};

pub(super) const MAX_BATCH_COMMANDS: usize = 512;
/// The largest size of a batch. A larger command is sent alone.
const MAX_BATCH_BYTES: usize = 256 << 10;
/// The largest size of the queue. A command that would exceed the limit is refused.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// The memory that a command takes in addition to its frame (the encoded entry). On the wire, a
/// command takes fewer bytes.
const COMMAND_BYTES: usize = 320;

/// The commands of one pipeline that are not sent yet.
#[derive(Default)]
pub(super) struct CommandQueue {
    commands: VecDeque<QueuedCommand>,
    bytes: usize,
}

struct QueuedCommand {
    command: Command,
    sender: ResultSender,
}

/// The sender of a command's result; `None` if no caller waits for the result.
pub(super) type ResultSender = Option<oneshot::Sender<CommandResult>>;

/// Commands that are sent together, and the senders of their results in the same order.
#[derive(Default)]
pub(super) struct CommandBatch {
    pub(super) commands: Vec<Command>,
    pub(super) senders: Vec<ResultSender>,
}

fn size(command: &Command) -> usize {
    COMMAND_BYTES + command.frame_bytes()
}

impl CommandQueue {
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Appends a command, and returns the receiver of its result. Returns `None` if the queue is
    /// full.
    pub(super) fn push(&mut self, command: Command) -> Option<oneshot::Receiver<CommandResult>> {
        if self.bytes + size(&command) > MAX_QUEUED_BYTES {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.bytes += size(&command);
        self.commands.push_back(QueuedCommand { command, sender: Some(sender) });
        Some(receiver)
    }

    /// Puts the command at the front of the queue, even if the queue is full. The command must be
    /// one that gives back a lease (the exclusive right to fill a missing entry) or a refresh claim
    /// (the exclusive right to refresh an entry). Other callers might be waiting for this right.
    pub(super) fn push_release_first(&mut self, command: Command) {
        self.bytes += size(&command);
        self.commands.push_front(QueuedCommand { command, sender: None });
    }

    /// Removes the next batch from the queue and returns it. A command is dropped if its caller has
    /// given up. An unconditional delete is sent in any case, because it removes an outdated entry.
    ///
    /// A caller has given up when it has dropped its receiver. The queue does not look at
    /// deadlines: in a burst of calls, a caller's task might run long after its deadline. It can
    /// still use a result that has arrived by then.
    pub(super) fn next_batch(&mut self) -> CommandBatch {
        let mut batch = CommandBatch::default();
        let mut bytes = 0;
        while batch.commands.len() < MAX_BATCH_COMMANDS {
            let Some(next) = self.commands.pop_front() else { break };
            let size = size(&next.command);
            if !batch.commands.is_empty() && bytes + size > MAX_BATCH_BYTES {
                self.commands.push_front(next);
                break;
            }
            self.bytes -= size;
            let QueuedCommand { command, sender } = next;
            let has_given_up = sender.as_ref().is_some_and(oneshot::Sender::is_closed);
            if !has_given_up || command.is_removal() {
                bytes += size;
                batch.commands.push(command);
                batch.senders.push(sender);
            }
        }
        batch
    }

    /// Empties the queue, and returns its commands. They fail when the caller drops them.
    pub(super) fn take_all(&mut self) -> impl Sized + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.commands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::remote::memcached::item::WriteCondition;

    fn read(key: &str) -> Command {
        Command::Read { key: key.into(), lease: None }
    }

    #[test]
    fn an_abandoned_command_is_sent_if_it_deletes() {
        let mut queue = CommandQueue::default();
        let awaited = queue.push(read("awaited")).expect("the queue has room");
        let removal = Command::Delete { key: "removal".into(), only_if: None };
        drop(queue.push(removal).expect("the queue has room"));
        drop(queue.push(read("abandoned")).expect("the queue has room"));
        queue.push_release_first(Command::Delete { key: "lease".into(), only_if: Some(7.into()) });
        let batch = queue.next_batch();
        let keys: Vec<&str> = batch.commands.iter().map(|command| &**command.key()).collect();
        assert_eq!(keys, ["lease", "awaited", "removal"]);
        assert_eq!((queue.len(), queue.bytes), (0, 0));
        drop(awaited);
    }

    #[test]
    fn a_queue_is_bounded_by_bytes() {
        let mut queue = CommandQueue::default();
        let mut receivers = Vec::new();
        while let Some(receiver) = queue.push(read("key")) {
            receivers.push(receiver);
        }
        assert!(receivers.len() > 200_000, "{}", receivers.len());
        assert_eq!(queue.next_batch().commands.len(), MAX_BATCH_COMMANDS);
        assert!(queue.push(read("key")).is_some());
    }

    #[test]
    fn a_batch_is_bounded_by_bytes() {
        let mut queue = CommandQueue::default();
        let mut receivers = Vec::new();
        for length in [100 << 10, 100 << 10, 100 << 10, 1 << 20, 1] {
            let (frame, condition) = (vec![0; length].into(), WriteCondition::Always);
            let write = Command::Write { key: "key".into(), frame, seconds: 9, condition };
            receivers.push(queue.push(write).expect("the queue has room"));
        }
        let mut sizes = Vec::new();
        while queue.len() > 0 {
            sizes.push(queue.next_batch().commands.len());
        }
        assert_eq!(sizes, [2, 1, 1, 1]);
    }
}
