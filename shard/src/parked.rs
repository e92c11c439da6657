//! Requests that memory alone cannot answer: they leave the turn that took them, wait for one of a fixed number of
//! readers, and are answered out of order. Bounded: with all places taken the answer is `Busy`.
//!
//! Owns the places and who is answered. Must never answer twice, or keep somebody waiting for a disk that hangs beyond
//! the deadline. Invariant: a place that is taken has room reserved for a small answer, as every late answer has.

use crate::budget::{Budget, Held};
use crate::core::Shard;
use crate::door;
use crate::gather::{self, NoPart};
use crate::late;
use crate::lsm::Reader;
use crate::reply::ReplyTo;
use ioengine::Instant;
use ioengine::sync::Notify;
use layout::units::LogTime;
use net::outcome::{Limit, Outcome};
use net::reply::encode_outcome;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Largest body that is kept to be used again: a get's, a scan's, a part of a few keys.
const SPARE_BYTES_MAX: usize = 512;

/// What a parked request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A request's body.
    Request,
    /// Keys of a multi-get, of a gather of this core or of another.
    Part,
}

/// A request that waits for the disk.
pub(crate) struct Parked {
    pub(crate) to: ReplyTo,
    pub(crate) work: Work,
    pub(crate) body: Vec<u8>,
    /// The bytes of the body.
    held: Held,
    since: Instant,
}

/// A reader's place: what it works on, until somebody has answered it.
struct Place {
    at_work: Cell<Option<(ReplyTo, Work, Instant)>>,
    called: Notify,
}

/// The requests of a core that wait for its disk.
pub(crate) struct Parking {
    waiting: RefCell<VecDeque<Parked>>,
    waiting_max: usize,
    places: Vec<Place>,
    /// Readers without work.
    idle: RefCell<Vec<usize>>,
    /// Small bodies to be used again.
    spare: RefCell<Vec<Vec<u8>>>,
    budget: Rc<Budget>,
    /// Those that wait for something else first.
    held_count: Cell<usize>,
}

impl Parking {
    /// `reader_count` requests are worked on at once, and `waiting_max` wait.
    /// Their bodies are of `budget`.
    pub(crate) fn new(reader_count: usize, waiting_max: usize, budget: Rc<Budget>) -> Parking {
        let place = || Place { at_work: Cell::new(None), called: Notify::new() };
        Parking {
            waiting: RefCell::new(VecDeque::with_capacity(waiting_max)),
            waiting_max,
            places: (0..reader_count).map(|_| place()).collect(),
            idle: RefCell::new(Vec::with_capacity(reader_count)),
            spare: RefCell::new(Vec::new()),
            budget,
            held_count: Cell::new(0),
        }
    }

    /// Is there a place for one more, with a body of this many bytes?
    pub(crate) fn has_room(&self, body_bytes: usize) -> bool {
        self.waiting.borrow().len() + self.held_count.get() < self.waiting_max && self.budget.has(body_bytes)
    }

    /// Park a request; `fill` writes its body. The caller has asked for room for it, and reserved the answer's.
    pub(crate) fn park(&self, to: ReplyTo, work: Work, now: Instant, fill: impl FnOnce(&mut Vec<u8>)) {
        let parked = self.hold(to, work, now, fill);
        self.resume(parked);
    }

    /// Take a request that waits for something else before it may be worked on: to be resumed, or dropped.
    pub(crate) fn hold(
        &self,
        to: ReplyTo,
        work: Work,
        now: Instant,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Parked {
        let mut body = self.spare.borrow_mut().pop().unwrap_or_default();
        body.clear();
        fill(&mut body);
        let held = self.budget.take(body.len()).expect("the caller has asked");
        self.held_count.set(self.held_count.get() + 1);
        Parked { to, work, body, held, since: now }
    }

    /// A request that was held has been answered.
    pub(crate) fn drop_held(&self, parked: Parked) {
        self.held_count.set(self.held_count.get() - 1);
        self.forget(parked);
    }

    /// A request that was held may be worked on.
    pub(crate) fn resume(&self, parked: Parked) {
        self.held_count.set(self.held_count.get() - 1);
        let mut waiting = self.waiting.borrow_mut();
        assert!(waiting.len() < self.waiting_max, "who let it be held has asked for its place");
        waiting.push_back(parked);
        drop(waiting);
        if let Some(reader) = self.idle.borrow_mut().pop() {
            self.places[reader].called.notify();
        }
    }

    /// Requests that are not answered yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.held_count.get() == 0
            && self.waiting.borrow().is_empty()
            && self.places.iter().all(|place| place.at_work.get().is_none())
    }

    /// A parked request is done with.
    fn forget(&self, parked: Parked) {
        let Parked { body, held, .. } = parked;
        drop(held);
        if body.capacity() <= SPARE_BYTES_MAX {
            self.spare.borrow_mut().push(body);
        }
    }

    /// The answer of a reader's work is due to `to`, unless it was given already: from now on the reader alone answers.
    pub(crate) fn claim(&self, reader: usize) -> bool {
        self.places[reader].at_work.take().is_some()
    }
}

/// A reader: works on what is parked until the core ends.
pub(crate) async fn work(shard: Rc<Shard>, number: usize) {
    let mut reader = Reader::new(number);
    let parking = &shard.parking;
    loop {
        let called = parking.places[number].called.notified();
        let next = parking.waiting.borrow_mut().pop_front();
        let Some(parked) = next else {
            parking.idle.borrow_mut().push(number);
            called.await;
            continue;
        };
        parking.places[number].at_work.set(Some((parked.to, parked.work, parked.since)));
        late::serve(&shard, &parked, &mut reader).await;
        parking.places[number].at_work.set(None);
        parking.forget(parked);
        shard.settled.notify();
    }
}

/// Answer what has waited for too long. A read may be asked again; a write that waits here was never staged.
pub(crate) fn answer_overdue(shard: &Shard, now: Instant) {
    let is_overdue = |since: Instant| now.since(since) > shard.limits.request_deadline;
    let parking = &shard.parking;
    for place in &parking.places {
        if let Some((to, work, since)) = place.at_work.get()
            && is_overdue(since)
        {
            ioengine::sometimes!("a disk read is overdue");
            place.at_work.set(None);
            answer(shard, &to, work);
        }
    }
    loop {
        let mut waiting = parking.waiting.borrow_mut();
        if !waiting.front().is_some_and(|parked| is_overdue(parked.since)) {
            return;
        }
        let parked = waiting.pop_front().expect("just seen");
        drop(waiting);
        answer(shard, &parked.to, parked.work);
        parking.forget(parked);
    }
}

fn answer(shard: &Shard, to: &ReplyTo, work: Work) {
    if work == Work::Part {
        return gather::give_no_part(shard, to, NoPart::Busy);
    }
    let outcome = if to.operation.is_write() {
        Outcome::Busy { limit: Limit::Queue, hint_ms: 100 }
    } else {
        Outcome::Timeout
    };
    door::tell(shard, to, |out| encode_outcome(out, LogTime(0), &outcome));
}
