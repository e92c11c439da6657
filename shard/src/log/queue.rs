//! Votes and chosen entries of a core that wait for the journal, as bytes, in the order in which they must become durable.
//!
//! Owns that order. Invariant: of a tablet, what stands before an item says nothing newer than the item.

use layout::units::TabletIndex;
use paxos::{LogIndex, Token};
use std::collections::VecDeque;

/// One item on its way to the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    pub(crate) tablet: TabletIndex,
    bytes: usize,
    /// The state in it, which the replica waits for.
    pub(crate) token: Option<Token>,
    /// The entry in it.
    pub(crate) entry: Option<LogIndex>,
    /// It says that the log is chosen up to here: a start applies as much.
    pub(crate) told: LogIndex,
    /// It says again what the journal has before a freeze.
    pub(crate) restated: bool,
}

/// Items that wait.
#[derive(Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    items: VecDeque<Queued>,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Add an item; `fill` writes its bytes.
    pub(crate) fn push(
        &mut self,
        tablet: TabletIndex,
        token: Option<Token>,
        entry: Option<LogIndex>,
        told: LogIndex,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        let from = self.bytes.len();
        fill(&mut self.bytes);
        self.items.push_back(Queued {
            tablet,
            bytes: self.bytes.len() - from,
            token,
            entry,
            told,
            restated: false,
        });
    }

    /// All items say again what the journal has; how many.
    pub(crate) fn mark_restated(&mut self) -> usize {
        self.items.iter_mut().for_each(|item| item.restated = true);
        self.items.len()
    }

    /// Put all of `first` before what waits.
    pub(crate) fn put_first(&mut self, mut first: Queue) {
        first.bytes.append(&mut self.bytes);
        first.items.append(&mut self.items);
        *self = first;
    }

    /// Bytes of the items that the next record takes: as many as fit `room`, at least one.
    pub(crate) fn next_bytes(&self, room: usize) -> usize {
        let mut sum = 0;
        for (number, item) in self.items.iter().enumerate() {
            if number > 0 && sum + item.bytes > room {
                break;
            }
            sum += item.bytes;
        }
        sum
    }

    /// The bytes of the first items.
    pub(crate) fn head(&self, bytes: usize) -> &[u8] {
        &self.bytes[..bytes]
    }

    /// Take the items off whose bytes [`Queue::head`] showed.
    pub(crate) fn take(&mut self, bytes: usize, into: &mut Vec<Queued>) {
        let mut left = bytes;
        while left > 0 {
            let item = self.items.pop_front().expect("whole items were shown");
            left -= item.bytes;
            into.push(item);
        }
        self.bytes.drain(..bytes);
    }
}
