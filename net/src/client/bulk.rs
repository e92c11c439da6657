//! Many calls in flight without a task of the caller for each: submit work, take what is done, in any order.
//!
//! Owns the window: work beyond it waits. Must never drop work: each ticket comes back exactly once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use ioengine::Queue;
use ioengine::sync::Notify;
use layout::key::Key;
use layout::units::{Space, Version};

use super::Client;
use super::error::ClientError;
use super::verbs::{BatchWritten, Compared, Found};
use crate::reply::Written;
use crate::request::BatchBody;

/// A key that owns its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedKey {
    /// Namespace.
    pub space: Space,
    /// The stream.
    pub stream: Vec<u8>,
    /// The time, µs.
    pub time: u64,
}

impl OwnedKey {
    /// The same key, borrowed.
    pub fn key(&self) -> Key<'_> {
        Key { space: self.space, stream: &self.stream, time: self.time }
    }
}

/// One piece of work.
#[derive(Debug, Clone)]
pub enum Work {
    /// [`Client::get`].
    Get(OwnedKey),
    /// [`Client::put`].
    Put {
        /// Which record.
        key: OwnedKey,
        /// When it expires, µs; 0 = never.
        expiry: u64,
        /// Its value.
        value: Vec<u8>,
    },
    /// [`Client::delete`].
    Delete(OwnedKey),
    /// [`Client::cas`].
    CompareAndSet {
        /// Which record.
        key: OwnedKey,
        /// The version it must have; 0 = absent.
        expected: Version,
        /// When it expires, µs; 0 = never.
        expiry: u64,
        /// Its value.
        value: Vec<u8>,
    },
    /// [`Client::batch`].
    Batch {
        /// Namespace.
        space: Space,
        /// The stream.
        stream: Vec<u8>,
        /// What to do.
        operations: BatchBody,
    },
}

/// What became of a piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Get.
    Found(Option<Found>),
    /// Put, Delete.
    Written(Written),
    /// CompareAndSet.
    Compared(Compared),
    /// Batch.
    Batch(BatchWritten),
}

struct State {
    window: usize,
    in_flight: Cell<usize>,
    next_ticket: Cell<u64>,
    done: RefCell<VecDeque<(u64, Result<Done, ClientError>)>>,
    changed: Notify,
}

/// A window of calls in flight.
pub struct Bulk {
    client: Client,
    state: Rc<State>,
}

impl Bulk {
    /// At most `window` calls in flight at once (at least 1).
    pub fn new(client: &Client, window: usize) -> Bulk {
        let state = State {
            window: window.max(1),
            in_flight: Cell::new(0),
            next_ticket: Cell::new(0),
            done: RefCell::default(),
            changed: Notify::new(),
        };
        Bulk { client: client.clone(), state: Rc::new(state) }
    }

    /// True when work can be submitted without waiting.
    pub fn has_room(&self) -> bool {
        self.state.in_flight.get() < self.state.window
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.get()
    }

    /// Starts work at once, whatever the window. Returns its ticket, 0, 1, 2, …
    pub fn start(&self, work: Work) -> u64 {
        let ticket = self.state.next_ticket.get();
        self.state.next_ticket.set(ticket + 1);
        self.state.in_flight.set(self.state.in_flight.get() + 1);
        let (client, state) = (self.client.clone(), Rc::clone(&self.state));
        self.client.io().spawn(Queue::Foreground, async move {
            let result = client.carry_out(work).await;
            state.in_flight.set(state.in_flight.get() - 1);
            state.done.borrow_mut().push_back((ticket, result));
            state.changed.notify();
        });
        ticket
    }

    /// Starts work once the window has room for it.
    pub async fn submit(&self, work: Work) -> u64 {
        while !self.has_room() {
            self.state.changed.notified().await;
        }
        self.start(work)
    }

    /// Something that is done, without waiting.
    pub fn try_next(&self) -> Option<(u64, Result<Done, ClientError>)> {
        self.state.done.borrow_mut().pop_front()
    }

    /// The next that is done; None when nothing is in flight or left to take.
    pub async fn next(&self) -> Option<(u64, Result<Done, ClientError>)> {
        loop {
            if let Some(done) = self.try_next() {
                return Some(done);
            }
            if self.in_flight() == 0 {
                return None;
            }
            self.state.changed.notified().await;
        }
    }

    /// Waits until at most `count` calls are in flight.
    pub async fn settle(&self, count: usize) {
        while self.in_flight() > count {
            self.state.changed.notified().await;
        }
    }
}

impl Client {
    /// Carries out one piece of work.
    ///
    /// # Errors
    /// As the call of its kind.
    pub async fn carry_out(&self, work: Work) -> Result<Done, ClientError> {
        match work {
            Work::Get(key) => self.get(key.key()).await.map(Done::Found),
            Work::Put { key, expiry, value } => self.put(key.key(), expiry, &value).await.map(Done::Written),
            Work::Delete(key) => self.delete(key.key()).await.map(Done::Written),
            Work::CompareAndSet { key, expected, expiry, value } => {
                self.cas(key.key(), expected, expiry, &value).await.map(Done::Compared)
            }
            Work::Batch { space, stream, operations } => {
                self.batch(space, &stream, &operations).await.map(Done::Batch)
            }
        }
    }
}
