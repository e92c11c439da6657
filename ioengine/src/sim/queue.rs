//! Events to come, in a total order: time, then the order in which they were scheduled. Nothing else decides what
//! happens next, so one seed gives one history.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A place in a table whose places are used again: stale events find another generation there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// What happens at a point in time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// An awake core goes on.
    Step { core: u32 },
    /// A sleeping core's next timer may be due.
    Timer { core: u32 },
    /// A sleeping core's bell rings.
    Bell { core: u32 },
    /// A disk finishes an operation.
    Disk { disk: u32, operation: u32 },
    /// A connection request arrives.
    Syn { socket: Key },
    /// The answer to a connection request arrives.
    SynAck { socket: Key },
    /// A segment arrives, or is sent again.
    Segment { segment: u32 },
    /// A reset arrives.
    Reset { socket: Key },
    /// A sender hears that there is room again.
    Window { socket: Key },
}

struct Entry {
    time: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// Reversed: the heap gives the greatest first, and the earliest event must come first.
    fn cmp(&self, other: &Entry) -> Ordering {
        (other.time, other.sequence).cmp(&(self.time, self.sequence))
    }
}

/// The heap of events.
pub(crate) struct EventQueue {
    heap: BinaryHeap<Entry>,
    sequence: u64,
}

impl EventQueue {
    pub(crate) fn new() -> EventQueue {
        EventQueue { heap: BinaryHeap::with_capacity(1024), sequence: 0 }
    }

    pub(crate) fn push(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Entry { time, sequence: self.sequence, event });
    }

    /// The next event if it is due at `until` or before.
    pub(crate) fn pop_until(&mut self, until: u64) -> Option<(u64, Event)> {
        if self.heap.peek()?.time > until {
            return None;
        }
        self.heap.pop().map(|entry| (entry.time, entry.event))
    }

    /// When the next event is due; the end of time if there is none.
    pub(crate) fn next_time(&self) -> u64 {
        self.heap.peek().map_or(u64::MAX, |entry| entry.time)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}
