//! The commands that wait for a pipeline: how many there may be, and which travel next.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::command::{Command, CommandResult};

/// The most commands in a batch.
pub(super) const BATCH: usize = 512;
/// The most bytes in a batch. A larger command travels alone.
const BATCH_BYTES: usize = 256 << 10;
/// The bytes that a command takes beside its frame: in memory, and at most on its way.
const COMMAND_BYTES: usize = 320;
/// The most bytes that wait. Beyond that a command is refused at once.
const WAITING_BYTES: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Queue {
    commands: VecDeque<QueuedCommand>,
    bytes: usize,
}

struct QueuedCommand {
    command: Command,
    waiter: Waiter,
}

/// The sender that tells a command's answer; `None` if nobody waits for it.
pub(super) type Waiter = Option<oneshot::Sender<CommandResult>>;

/// Commands that travel together, with their waiters in the same order.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) commands: Vec<Command>,
    pub(super) waiters: Vec<Waiter>,
}

fn size(command: &Command) -> usize {
    COMMAND_BYTES + command.frame_bytes()
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Puts a command at the end, if there is room.
    pub(super) fn push(&mut self, command: Command) -> Option<oneshot::Receiver<CommandResult>> {
        if self.bytes + size(&command) > WAITING_BYTES {
            return None;
        }
        let (waiter, receiver) = oneshot::channel();
        self.bytes += size(&command);
        self.commands.push_back(QueuedCommand { command, waiter: Some(waiter) });
        Some(receiver)
    }

    /// Puts a command first that nobody waits for: it gives something back that others wait for.
    pub(super) fn push_give_back(&mut self, command: Command) {
        self.bytes += size(&command);
        self.commands.push_front(QueuedCommand { command, waiter: None });
    }

    /// Takes the commands that travel next. A command whose waiter has given up does not: its deadline
    /// has passed, or its caller is gone. A removal travels all the same, since the entry is wrong
    /// whether or not somebody waits.
    ///
    /// The waiter's word counts and not the clock: in a burst a task may be polled long after its
    /// deadline, and an answer that is there by then is as good as one in time.
    pub(super) fn next_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.commands.len() < BATCH {
            let Some(next) = self.commands.pop_front() else { break };
            let size = size(&next.command);
            if !batch.commands.is_empty() && bytes + size > BATCH_BYTES {
                self.commands.push_front(next);
                break;
            }
            self.bytes -= size;
            let QueuedCommand { command, waiter } = next;
            let is_gone = waiter.as_ref().is_some_and(oneshot::Sender::is_closed);
            if !is_gone || command.is_removal() {
                bytes += size;
                batch.commands.push(command);
                batch.waiters.push(waiter);
            }
        }
        batch
    }

    /// Lets go of everything; whoever waits is told that there is no answer.
    pub(super) fn take_all(&mut self) -> impl Sized + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.commands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str) -> Command {
        Command::Read { key: key.into(), lease: None }
    }

    #[test]
    fn a_command_whose_waiter_has_given_up_does_not_travel_unless_it_removes() {
        let mut queue = Queue::default();
        let awaited = queue.push(read("awaited")).expect("room");
        let removal = Command::Delete { key: "removal".into(), unchanged: None };
        drop(queue.push(removal).expect("room"));
        drop(queue.push(read("gone")).expect("room"));
        queue.push_give_back(Command::Delete { key: "lease".into(), unchanged: Some(7.into()) });
        let batch = queue.next_batch();
        let keys: Vec<&str> = batch.commands.iter().map(|command| &**command.key()).collect();
        assert_eq!(keys, ["lease", "awaited", "removal"]);
        assert_eq!((queue.len(), queue.bytes), (0, 0));
        drop(awaited);
    }

    #[test]
    fn what_waits_is_bounded_by_its_bytes() {
        let mut queue = Queue::default();
        let mut receivers = Vec::new();
        while let Some(receiver) = queue.push(read("key")) {
            receivers.push(receiver);
        }
        assert!(receivers.len() > 200_000, "{}", receivers.len());
        assert_eq!(queue.next_batch().commands.len(), BATCH);
        assert!(queue.push(read("key")).is_some());
    }

    #[test]
    fn a_batch_is_bounded_by_its_bytes_and_a_larger_command_travels_alone() {
        let mut queue = Queue::default();
        let mut receivers = Vec::new();
        for length in [100 << 10, 100 << 10, 100 << 10, 1 << 20, 1] {
            let (frame, condition) = (vec![0; length].into(), super::super::Condition::Always);
            let write = Command::Write { key: "key".into(), frame, seconds: 9, condition };
            receivers.push(queue.push(write).expect("room"));
        }
        let mut sizes = Vec::new();
        while queue.len() > 0 {
            sizes.push(queue.next_batch().commands.len());
        }
        assert_eq!(sizes, [2, 1, 1, 1]);
    }
}
