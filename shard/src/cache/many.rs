//! Multi-gets of a core of a cache node: their keys are fetched one by one, and the answer leaves when the last is there.
//!
//! Must never hold more than the budget of its core. Invariant: each key of one is answered once, so its answer has as many items
//! as it has keys.

use super::core::{Asker, Cache, Waiter};
use super::get::{self, Shown};
use crate::budget::Held;
use crate::front::Front;
use crate::reply::ReplyTo;
use layout::units::LogTime;
use net::outcome::{Limit, Outcome};
use net::reply::{
    MultiGetWriter, encode_outcome, patch_multi_get_head, reply_bytes_get_ok, reply_bytes_multi_get,
    reply_bytes_outcome,
};
use net::request::MultiGet;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A multi-get that is not whole yet.
pub(super) struct Many {
    to: ReplyTo,
    count: usize,
    left: usize,
    /// Reply body so far: room for the head, then items.
    body: Vec<u8>,
    held: Held,
    refused: Option<Outcome>,
}

/// The multi-gets of a core, by a number that is never used again.
#[derive(Default)]
pub(super) struct Manys {
    next: u64,
    open: BTreeMap<u64, Many>,
}

/// A multi-get arrives; room for a small answer is reserved.
pub(super) fn ask(cache: &Rc<Cache>, to: &ReplyTo, many: &MultiGet<'_>) {
    let head = reply_bytes_multi_get(0, 0);
    let Some(held) = cache.waiting.take(head) else {
        let busy = Outcome::Busy { limit: Limit::Queue, hint_ms: 5 };
        return cache.tell(to, |out| encode_outcome(out, LogTime(0), &busy));
    };
    let count = many.count();
    let open = Many { to: *to, count, left: count, body: vec![0; head], held, refused: None };
    let number = cache.manys.borrow_mut().add(open);
    let since = cache.io.now();
    for (index, one) in (0..).zip(many.gets()) {
        get::ask(cache, &one.key, Waiter { asker: Asker::Of(number, index), if_newer: one.if_newer, since });
    }
}

impl Manys {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn add(&mut self, many: Many) -> u64 {
        self.next += 1;
        self.open.insert(self.next, many);
        self.next
    }

    /// What became of one of its keys; the multi-get when it was the last.
    pub(super) fn take(
        &mut self,
        number: u64,
        index: u16,
        log_time: LogTime,
        shown: Shown<'_>,
    ) -> Option<Many> {
        let many = self.open.get_mut(&number).expect("each key is answered once");
        many.left -= 1;
        many.push(index, log_time, shown);
        if many.left > 0 { None } else { self.open.remove(&number) }
    }
}

impl Many {
    fn push(&mut self, index: u16, log_time: LogTime, shown: Shown<'_>) {
        let result = match shown {
            Shown::Record { value, .. } => reply_bytes_get_ok(value.len()),
            Shown::Not(outcome) => reply_bytes_outcome(&outcome),
        };
        let bytes = reply_bytes_multi_get(1, result) - reply_bytes_multi_get(0, 0);
        let begin = self.body.len();
        if begin + bytes > self.to.frame_bytes as usize {
            self.refused = Some(Outcome::TooLarge { limit: Limit::Frame });
        }
        if self.refused.is_some() {
            return;
        }
        if !self.held.grow(bytes) {
            ioengine::sometimes!("a cache has no room for a multi-get");
            self.refused = Some(Outcome::Busy { limit: Limit::Queue, hint_ms: 20 });
            return;
        }
        self.body.resize(begin + bytes, 0);
        let mut writer = MultiGetWriter::items_only(&mut self.body[begin..]);
        let fits = match shown {
            Shown::Record { version, expiry, value } => {
                writer.record(index, log_time, version, expiry, value)
            }
            Shown::Not(outcome) => writer.outcome(index, log_time, &outcome),
        };
        assert!(fits && writer.finish() == bytes, "an item is as long as was measured");
    }

    /// Answer it.
    pub(super) fn finish(mut self, cache: &Cache) {
        if let Some(outcome) = self.refused {
            return cache.tell(&self.to, |out| encode_outcome(out, LogTime(0), &outcome));
        }
        patch_multi_get_head(&mut self.body, self.count);
        cache.write(&self.to, self.body.len(), |out| {
            out.copy_from_slice(&self.body);
            self.body.len()
        });
    }
}
