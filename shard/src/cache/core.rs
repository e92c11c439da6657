//! One core of a cache node: everything its tasks share, and how an answer finds who waits for it. Tasks hold it by `Rc`; nothing
//! in it leaves the thread but the counters. Borrows of its cells never reach across an await.

use super::counters::CacheCounters;
use super::fetch::Fetches;
use super::get::Shown;
use super::limits::CacheLimits;
use super::many::Manys;
use super::rings::Rings;
use super::{ahead, get, many, status};
use crate::budget::Budget;
use crate::door::payload_bytes_max;
use crate::front::{Connections, Front, FrontLimits};
use crate::hot::{self, HotKeys};
use crate::reply::ReplyTo;
use ioengine::sync::Notify;
use ioengine::{Instant, Io};
use layout::units::{LogTime, Uuid, Version};
use net::client::Client;
use net::outcome::Outcome;
use net::reply::{
    encode_echo, encode_get_ok, encode_map, encode_outcome, encode_status, reply_bytes_get_ok,
    reply_bytes_payload,
};
use net::request::Request;
use net::session::ServerIdentity;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
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
    pub(super) front: FrontLimits,
    pub(super) rings: RefCell<Rings>,
    pub(super) fetches: RefCell<Fetches<Waiter>>,
    /// Room for those who are being answered, used again for the next.
    pub(super) waited: Cell<Vec<Waiter>>,
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

impl Front for Cache {
    fn io(&self) -> &Io {
        &self.io
    }

    fn index(&self) -> u16 {
        self.index
    }

    fn front_limits(&self) -> &FrontLimits {
        &self.front
    }

    fn identity(&self) -> ServerIdentity {
        // A cache promises nothing that a later start must keep: it has no incarnations.
        ServerIdentity { cluster: self.facts.cluster, node: self.facts.node, incarnation: 1, features: 0 }
    }

    fn epoch(&self) -> u32 {
        self.client.epoch()
    }

    fn connections(&self) -> &Connections {
        &self.connections
    }

    fn refused(&self) {
        self.counters.connections_refused.add(1);
    }

    fn take(self: &Rc<Self>, to: &ReplyTo, request: &Request<'_>, _body: &[u8]) {
        take(self, to, request);
    }

    fn look_ahead(&self, input: &[u8]) -> usize {
        ahead::look(&self.rings.borrow(), input)
    }
}

fn take(cache: &Rc<Cache>, to: &ReplyTo, request: &Request<'_>) {
    match request {
        // A `local` get may be answered with less; what the store says is as good.
        Request::Get(one) => {
            let waiter = Waiter { asker: Asker::Get(*to), if_newer: one.if_newer, since: cache.io.now() };
            get::ask(cache, &one.key, waiter);
        }
        Request::MultiGet(all) => many::ask(cache, to, all),
        Request::Ping(echo) => {
            cache.write(to, reply_bytes_payload(echo.len()), |out| encode_echo(out, echo));
        }
        Request::Map(map) if map.known_epoch == cache.client.epoch() => {
            cache.tell(to, |out| encode_outcome(out, LogTime(0), &Outcome::NotModified));
        }
        Request::Map(_) => {
            let map = cache.client.known_map();
            let mut bytes = Vec::with_capacity(map.encoded_bytes());
            map.encode(&mut bytes);
            cache.write(to, reply_bytes_payload(bytes.len()), |out| encode_map(out, &bytes));
        }
        Request::Status => {
            let text = status::text(cache);
            cache.write(to, reply_bytes_payload(text.len()), |out| encode_status(out, &text));
        }
        Request::Hot => {
            let boards = cache.facts.counters.iter().map(|counters| &counters.hot);
            let text = hot::text(cache.facts.node, "cache", boards, payload_bytes_max(to));
            cache.write(to, reply_bytes_payload(text.len()), |out| encode_status(out, &text));
        }
        // No tablet is here: the map says where they are.
        _ => {
            let wrong = Outcome::WrongGroup { epoch: cache.client.epoch() };
            cache.tell(to, |out| encode_outcome(out, LogTime(0), &wrong));
        }
    }
}
