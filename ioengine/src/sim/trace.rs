//! The trace: every event is mixed into one running hash, so that two runs can be compared by one number, and can
//! be kept as text to see where two runs part.

use super::random::mix;
use std::cell::{Cell, RefCell};

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tag {
    Poll = 1,
    Sleep,
    Bell,
    CoreStarts,
    CoreEnds,
    DiskSubmit,
    DiskDone,
    DiskContent,
    Connect,
    Accept,
    Segment,
    Receive,
    Send,
    Close,
    Reset,
    Kill,
    PowerCut,
    Pause,
    Resume,
    Signal,
    Fault,
}

/// Lines kept at most; the oldest half goes when there are more.
const LINE_COUNT_MAX: usize = 1 << 20;

pub(crate) struct Trace {
    hash: Cell<u64>,
    count: Cell<u64>,
    text: Option<RefCell<Vec<String>>>,
}

impl Trace {
    pub(crate) fn new(seed: u64, text: bool) -> Trace {
        Trace {
            hash: Cell::new(mix(0, seed)),
            count: Cell::new(0),
            text: text.then(|| RefCell::new(Vec::new())),
        }
    }

    #[inline]
    pub(crate) fn note(&self, time: u64, tag: Tag, subject: u64, detail: u64) {
        let hash = mix(self.hash.get(), time ^ ((tag as u64) << 56));
        self.hash.set(mix(hash, subject.rotate_left(32) ^ detail));
        self.count.set(self.count.get() + 1);
        if let Some(text) = &self.text {
            let mut text = text.borrow_mut();
            if text.len() == LINE_COUNT_MAX {
                text.drain(..LINE_COUNT_MAX / 2);
            }
            text.push(format!("{time:>15} {tag:?} {subject} {detail:#x}"));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.get()
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    pub(crate) fn take_text(&self) -> Vec<String> {
        self.text.as_ref().map(RefCell::take).unwrap_or_default()
    }
}
