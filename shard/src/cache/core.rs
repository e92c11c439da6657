//! One core of a cache node: everything its tasks share, and how an answer finds who waits for it. Tasks hold it by `Rc`; nothing
//! in it leaves the thread but the counters. Borrows of its cells never reach across an await.

use super::connection::Connections;
use super::counters::CacheCounters;
use super::fetch::Fetches;
use super::get::Shown;
use super::limits::CacheLimits;
use super::many::Manys;
use super::rings::Rings;
use crate::budget::Budget;
use crate::hot::HotKeys;
use crate::reply::{ReplyTo, SMALL_REPLY_BYTES};
use ioengine::sync::Notify;
use ioengine::{Instant, Io};
use layout::units::{LogTime, Uuid, Version};
use net::client::Client;
use net::frame::HEADER_BYTES;
use net::outcome::{Limit, Outcome};
use net::reply::{encode_get_ok, encode_outcome, reply_bytes_get_ok};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What all cores of a cache node know about it.
pub(super) struct CacheFacts {
    pub(super) node: u32,
    pub(super) cluster: Uuid,
    /// Counters of each core, by its index.
    pub(super) counters: Vec<Arc<CacheCounters>>,
}

/// Who hears an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asker {
    /// A get of a connection of this core.
    Get(ReplyTo),
    /// A key of a multi-get, by the multi-get's number, and its place in there.
    Of(u64, u16),
}

/// A get that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) asker: Asker,
    /// The version that the client has.
    pub(super) if_newer: Option<Version>,
    pub(super) since: Instant,
}

/// One core of a cache node.
pub(super) struct Cache {
    pub(super) io: Io,
    /// Index of this core.
    pub(super) index: u16,
    pub(super) facts: Arc<CacheFacts>,
    pub(super) limits: CacheLimits,
    pub(super) rings: RefCell<Rings>,
    pub(super) fetches: RefCell<Fetches<Waiter>>,
    /// Something was queued, or a batch has come back.
    pub(super) queued: Notify,
    /// The way to the store.
    pub(super) client: Client,
    /// Batches under way, by node.
    pub(super) batches: RefCell<BTreeMap<u32, usize>>,
    pub(super) connections: Connections,
    pub(super) manys: RefCell<Manys>,
    /// For multi-gets that are not whole yet.
    pub(super) waiting: Budget,
    pub(super) counters: Arc<CacheCounters>,
    /// Which keys are asked for most.
    pub(super) hot: HotKeys,
}

impl Cache {
    pub(super) fn batches_to(&self, node: u32) -> usize {
        self.batches.borrow().get(&node).copied().unwrap_or(0)
    }

    pub(super) fn batch_begins(&self, node: u32) {
        *self.batches.borrow_mut().entry(node).or_default() += 1;
    }

    pub(super) fn batch_ends(&self, node: u32) {
        *self.batches.borrow_mut().get_mut(&node).expect("it has begun") -= 1;
    }

    /// Nothing is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.fetches.borrow().count() == 0 && self.manys.borrow().is_empty()
    }

    /// Show those who wait what became of their key.
    pub(super) fn show(&self, waiters: &[Waiter], log_time: LogTime, shown: Shown<'_>) {
        for waiter in waiters {
            let shown = shown.to(waiter.if_newer);
            match waiter.asker {
                Asker::Get(to) => self.answer(&to, log_time, shown),
                Asker::Of(number, index) => {
                    let whole = self.manys.borrow_mut().take(number, index, log_time, shown);
                    if let Some(many) = whole {
                        many.finish(self);
                    }
                }
            }
        }
    }

    fn answer(&self, to: &ReplyTo, log_time: LogTime, shown: Shown<'_>) {
        match shown {
            Shown::Not(outcome) => self.tell(to, |out| encode_outcome(out, log_time, &outcome)),
            Shown::Record { version, expiry, value } => {
                let bytes = reply_bytes_get_ok(value.len());
                self.write(to, bytes, |out| encode_get_ok(out, log_time, version, expiry, value));
            }
        }
    }

    /// A small answer, whose room was reserved with the connection.
    pub(super) fn tell(&self, to: &ReplyTo, encode: impl FnOnce(&mut [u8]) -> usize) {
        self.tell_sized(to, SMALL_REPLY_BYTES - HEADER_BYTES, encode);
    }

    /// A small answer of at most `bytes`.
    fn tell_sized(&self, to: &ReplyTo, bytes: usize, encode: impl FnOnce(&mut [u8]) -> usize) {
        // Gone: the client has closed its connection, and learns nothing.
        let Some(connection) = self.connections.find(to) else { return };
        let mut outbox = connection.outbox.borrow_mut();
        outbox.release();
        let bytes = to.frame(self.client.epoch(), &mut outbox.room()[..HEADER_BYTES + bytes], encode);
        outbox.advance(bytes);
        drop(outbox);
        connection.answered(self);
    }

    /// An answer of just `bytes`; a small one in its place when it does not fit the frame agreed on, or there is no room.
    pub(super) fn write(&self, to: &ReplyTo, bytes: usize, encode: impl FnOnce(&mut [u8]) -> usize) {
        if bytes + HEADER_BYTES <= SMALL_REPLY_BYTES {
            return self.tell_sized(to, bytes, encode);
        }
        let Some(connection) = self.connections.find(to) else { return };
        let refusal = if bytes > to.frame_bytes as usize {
            Some(Outcome::TooLarge { limit: Limit::Frame })
        } else if !connection.outbox.borrow_mut().make_room(&self.io, HEADER_BYTES + bytes) {
            ioengine::sometimes!("a cache has no room for an answer");
            Some(Outcome::Busy { limit: Limit::ReplyBuffers, hint_ms: 20 })
        } else {
            None
        };
        if let Some(outcome) = refusal {
            return self.tell(to, |out| encode_outcome(out, LogTime(0), &outcome));
        }
        let mut outbox = connection.outbox.borrow_mut();
        let written = to.frame(self.client.epoch(), &mut outbox.room()[..HEADER_BYTES + bytes], encode);
        outbox.advance(written);
        outbox.release();
        drop(outbox);
        connection.answered(self);
    }

    /// End connections whose time is up, and say how things are.
    pub(super) fn expire(&self, now: Instant) {
        for connection in self.connections.all() {
            if connection.expired(now) {
                ioengine::sometimes!("a connection to a cache ran out of time");
                connection.end();
            }
        }
        self.counters.publish(self);
    }
}
