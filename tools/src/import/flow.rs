//! Many rows on their way at once, and what became of each.
//!
//! Owns the window and the counts. Must never have two rows of one key on their way: the earlier line decides first.
//! Invariant: read = stored + duplicate + conflict + refused, at every moment, because a row counts as read when its
//! fate is known.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use ioengine::Queue;
use ioengine::sync::Notify;
use net::client::blocking::Client;
use serde::Serialize;

use super::place::{Fate, OnConflict, Patience, place};
use crate::input::Row;

/// Rows on their way at most. At 100 µs a row and 50 µs of parsing a full window keeps the server busy.
const ROW_COUNT_MAX: usize = 1024;
/// Bytes of rows on their way at most.
const ROW_BYTES_MAX: usize = 32 << 20;

/// What became of the rows so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// Rows whose fate is known.
    pub(super) read: u64,
    /// Rows that are records now and were not before.
    pub(super) stored: u64,
    /// Rows whose record was there with the same value.
    pub(super) duplicate: u64,
    /// Rows that met another value.
    pub(super) conflict: u64,
    /// Rows that cannot be records.
    pub(super) refused: u64,
}

impl Counts {
    /// Counts a row.
    pub(super) fn add(&mut self, fate: &Fate) {
        match fate {
            Fate::Stored => self.stored += 1,
            Fate::Duplicate => self.duplicate += 1,
            Fate::Conflict(_) => self.conflict += 1,
            Fate::Refused(_) => self.refused += 1,
            Fate::Failed(_) => return,
        }
        self.read += 1;
    }
}

type RowKey = (u16, Vec<u8>, u64);

fn key_of(row: &Row) -> RowKey {
    (row.space, row.stream.clone(), row.time_us)
}

fn bytes_of(row: &Row) -> usize {
    row.stream.len() + row.value.len() + 256
}

#[derive(Default)]
struct State {
    keys: BTreeSet<RowKey>,
    bytes: usize,
    done: VecDeque<Fate>,
}

/// The rows on their way.
pub(super) struct Flow {
    client: Rc<Client>,
    on_conflict: OnConflict,
    patience: Rc<Patience>,
    state: Rc<RefCell<State>>,
    changed: Rc<Notify>,
}

impl Flow {
    pub(super) fn new(client: Rc<Client>, on_conflict: OnConflict, patience: Duration) -> Flow {
        let patience = Rc::new(Patience::new(patience, client.client().io().now()));
        Flow { client, on_conflict, patience, state: Rc::default(), changed: Rc::new(Notify::new()) }
    }

    /// Sends a row on its way; waits first while the window is full or a row of the same key is on its way.
    pub(super) fn submit(&self, row: Row) {
        let key = key_of(&row);
        let bytes = bytes_of(&row);
        self.wait(|state| {
            !state.keys.contains(&key) && state.keys.len() < ROW_COUNT_MAX && state.bytes < ROW_BYTES_MAX
        });
        {
            let mut state = self.state.borrow_mut();
            state.bytes += bytes;
            state.keys.insert(key.clone());
        }
        let (client, state, changed) =
            (self.client.client().clone(), Rc::clone(&self.state), Rc::clone(&self.changed));
        let (on_conflict, patience) = (self.on_conflict, Rc::clone(&self.patience));
        self.client.client().io().spawn(Queue::Foreground, async move {
            let fate = place(&client, &row, on_conflict, &patience).await;
            if !matches!(fate, Fate::Failed(_)) {
                patience.moved(client.io().now());
            }
            let mut state = state.borrow_mut();
            state.bytes -= bytes;
            state.keys.remove(&key);
            state.done.push_back(fate);
            changed.notify();
        });
    }

    /// Waits until `fits`. When it has to wait at all, it lets half of the window empty, so that the connection works
    /// in large bursts.
    fn wait(&self, fits: impl Fn(&State) -> bool) {
        if fits(&self.state.borrow()) {
            return;
        }
        self.run_until(|state| fits(state) && state.keys.len() <= ROW_COUNT_MAX / 2);
    }

    /// Waits until nothing is on its way. Called before a read that may take its time: nothing moves meanwhile.
    pub(super) fn settle(&self) {
        self.run_until(|state| state.keys.is_empty());
    }

    fn run_until(&self, condition: impl Fn(&State) -> bool) {
        self.client.run(async {
            while !condition(&self.state.borrow()) {
                self.changed.notified().await;
            }
        });
    }

    /// The fate of some row that is not on its way any more.
    pub(super) fn take(&self) -> Option<Fate> {
        self.state.borrow_mut().done.pop_front()
    }
}
