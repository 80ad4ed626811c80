//! The commands that wait for a pipeline: how many there may be, and which travel next.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::command::{Answer, Command, Failure};

/// The most commands in a batch.
pub(super) const BATCH: usize = 512;
/// The most bytes in a batch. A larger command travels alone.
const BATCH_BYTES: usize = 256 << 10;
/// What a command takes beside its frame: in memory, and at most on its way.
const COMMAND_BYTES: usize = 320;
/// The most bytes that wait. Beyond that a command is refused at once.
const WAITING_BYTES: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Queue {
    commands: VecDeque<Waiting>,
    bytes: usize,
    /// How long the last batch was under way.
    pub(super) exchange_time: Duration,
}

struct Waiting {
    command: Command,
    waiter: Waiter,
    deadline: Instant,
}

/// Who is told a command's answer; `None` if nobody waits for it.
pub(super) type Waiter = Option<oneshot::Sender<Answer>>;

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

    /// Puts a command at the end, where there is room.
    pub(super) fn push(
        &mut self,
        command: Command,
        deadline: Instant,
    ) -> Option<oneshot::Receiver<Answer>> {
        if self.bytes + size(&command) > WAITING_BYTES {
            return None;
        }
        let (waiter, receiver) = oneshot::channel();
        self.bytes += size(&command);
        self.commands.push_back(Waiting { command, waiter: Some(waiter), deadline });
        Some(receiver)
    }

    /// Puts a command first that nobody waits for: it gives something back that others wait for.
    pub(super) fn push_give_back(&mut self, command: Command, deadline: Instant) {
        self.bytes += size(&command);
        self.commands.push_front(Waiting { command, waiter: None, deadline });
    }

    /// Takes the commands that travel next. One whose waiter is gone, or could not be answered in
    /// time, does not: its waiter is told at once. A removal travels all the same, since the entry is
    /// wrong whether or not somebody waits.
    pub(super) fn next_batch(&mut self, now: Instant) -> Batch {
        let mut batch = Batch::default();
        let mut bytes = 0;
        let answered_at = now + self.exchange_time;
        while batch.commands.len() < BATCH {
            let Some(next) = self.commands.pop_front() else { break };
            let size = size(&next.command);
            if !batch.commands.is_empty() && bytes + size > BATCH_BYTES {
                self.commands.push_front(next);
                break;
            }
            self.bytes -= size;
            let Waiting { command, waiter, deadline } = next;
            let is_gone = waiter.as_ref().is_some_and(oneshot::Sender::is_closed);
            let is_late = deadline < answered_at;
            if (is_gone || is_late) && !command.is_removal() {
                if let Some(waiter) = waiter {
                    // Nobody is there if this fails.
                    let _ = waiter.send(Err(Failure::too_late()));
                }
                continue;
            }
            bytes += size;
            batch.commands.push(command);
            batch.waiters.push(waiter);
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

    fn keys(batch: &Batch) -> Vec<&str> {
        batch.commands.iter().map(|command| &**command.key()).collect()
    }

    #[test]
    fn a_command_that_would_be_answered_too_late_does_not_travel_and_its_waiter_knows_at_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.exchange_time = Duration::from_millis(10);
        let mut late = queue.push(read("late"), now + Duration::from_millis(9)).expect("room");
        let mut early = queue.push(read("early"), now + Duration::from_millis(20)).expect("room");
        let removal = Command::Delete { key: "removal".into(), unchanged: None };
        drop(queue.push(removal, now).expect("room"));
        drop(queue.push(read("gone"), now + Duration::from_millis(20)).expect("room"));
        let batch = queue.next_batch(now);
        assert_eq!(keys(&batch), ["early", "removal"]);
        assert!(matches!(late.try_recv(), Ok(Err(failure)) if failure == Failure::too_late()));
        assert!(early.try_recv().is_err());
        assert_eq!((queue.len(), queue.bytes), (0, 0));
    }

    #[test]
    fn what_waits_is_bounded_by_its_bytes() {
        let (mut queue, deadline) = (Queue::default(), Instant::now() + Duration::from_secs(9));
        let mut receivers = Vec::new();
        while let Some(receiver) = queue.push(read("key"), deadline) {
            receivers.push(receiver);
        }
        assert!(receivers.len() > 200_000, "{}", receivers.len());
        assert_eq!(queue.next_batch(Instant::now()).commands.len(), BATCH);
        assert!(queue.push(read("key"), deadline).is_some());
    }

    #[test]
    fn a_batch_is_bounded_by_its_bytes_and_a_larger_command_travels_alone() {
        let (mut queue, deadline) = (Queue::default(), Instant::now() + Duration::from_secs(9));
        let mut receivers = Vec::new();
        for length in [100 << 10, 100 << 10, 100 << 10, 1 << 20, 1] {
            let (frame, condition) = (vec![0; length].into(), super::super::Condition::Always);
            let write = Command::Write { key: "key".into(), frame, seconds: 9, condition };
            receivers.push(queue.push(write, deadline).expect("room"));
        }
        let mut sizes = Vec::new();
        while queue.len() > 0 {
            sizes.push(queue.next_batch(Instant::now()).commands.len());
        }
        assert_eq!(sizes, [2, 1, 1, 1]);
    }
}
