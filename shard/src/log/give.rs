//! Giving a copy of a tablet to a peer: in parts, each when it is asked for.
//!
//! A session is a task and a part that may be asked for again. Bounded in number and in time. Must never begin at a replica
//! whose own tablet is not whole.

use super::{Logs, bulk_bytes, wire};
use crate::core::Shard;
use crate::lsm::copy::Giving;
use ioengine::Queue;
use ioengine::sync::{Either, Notify, race};
use layout::Corrupt;
use layout::units::TabletIndex;
use paxos::Node;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Copies given at once.
const COUNT_MAX: usize = 2;
/// How long the next question may take.
const ASK_DEADLINE: Duration = Duration::from_secs(3);
/// How long the entries behind a copy are kept for who installs it.
const AFTER: Duration = Duration::from_secs(10);

/// A copy that is being given.
pub(super) struct GiveSession {
    tablet: TabletIndex,
    to: Node,
    id: u64,
    /// Sealed tables that it has already.
    left_out: Vec<u128>,
    /// The part that was made last.
    number: Cell<u32>,
    part: RefCell<Vec<u8>>,
    /// The next part is asked for.
    wanted: Cell<bool>,
    called: Notify,
}

/// Session, in every question.
const SESSION_BYTES: usize = 8;
/// Session and number.
pub(super) const ASK_BYTES: usize = 12;
/// Those, and whether it is the last.
pub(super) const PART_HEAD_BYTES: usize = 13;

/// A peer asks for a part.
pub(super) fn asked(shard: &Rc<Shard>, tablet: TabletIndex, from: Node, body: &[u8]) -> Result<(), Corrupt> {
    let Some(logs) = &shard.logs else { return Ok(()) };
    let wrong = Corrupt { structure: "question for a copy", field: "session", at: 0 };
    let body: &[u8; ASK_BYTES] = body.try_into().map_err(|_| wrong)?;
    let id = u64::from_le_bytes(body[..8].try_into().expect("8 bytes"));
    let number = u32::from_le_bytes(body[8..].try_into().expect("4 bytes"));
    serve(shard, logs, tablet, from, (id, number), &[]);
    Ok(())
}

/// A peer asks for the first part of a copy without what these sealed tables have.
pub(super) fn asked_rest(
    shard: &Rc<Shard>,
    tablet: TabletIndex,
    from: Node,
    body: &[u8],
) -> Result<(), Corrupt> {
    let Some(logs) = &shard.logs else { return Ok(()) };
    let wrong = |field| Corrupt { structure: "question for the rest of a copy", field, at: 0 };
    let (session, list) = body.split_first_chunk::<SESSION_BYTES>().ok_or(wrong("session"))?;
    let (checksums, rest) = list.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(wrong("checksums"));
    }
    let left_out: Vec<u128> = checksums.iter().map(|bytes| u128::from_le_bytes(*bytes)).collect();
    serve(shard, logs, tablet, from, (u64::from_le_bytes(*session), 0), &left_out);
    Ok(())
}

/// Give a part that is there, make the next one, or begin.
fn serve(
    shard: &Rc<Shard>,
    logs: &Logs,
    tablet: TabletIndex,
    from: Node,
    (id, number): (u64, u32),
    left_out: &[u128],
) {
    let session = logs.giving.borrow().iter().find(|one| one.id == id && one.tablet == tablet).cloned();
    match session {
        Some(session) if session.number.get() == number && !session.part.borrow().is_empty() => {
            send(shard, &session);
        }
        Some(session) if session.number.get() + 1 == number => {
            session.wanted.set(true);
            session.called.notify();
        }
        Some(_) => {}
        None if number == 0 && logs.gives(shard, tablet) && logs.giving.borrow().len() < COUNT_MAX => {
            begin(shard, tablet, from, id, left_out.to_vec());
        }
        None => {
            let log = logs.tablet(tablet).expect("the caller has looked").borrow();
            log.tell(shard, from, wire::COPY_NOT, &[&id.to_le_bytes()]);
        }
    }
}

impl Logs {
    /// Is a copy of this tablet being given?
    pub(super) fn is_giving(&self, tablet: TabletIndex) -> bool {
        self.giving.borrow().iter().any(|session| session.tablet == tablet)
    }
}

fn begin(shard: &Rc<Shard>, tablet: TabletIndex, to: Node, id: u64, left_out: Vec<u128>) {
    let Some(logs) = &shard.logs else { return };
    let session = Rc::new(GiveSession {
        tablet,
        to,
        id,
        left_out,
        number: Cell::new(0),
        part: RefCell::default(),
        wanted: Cell::new(false),
        called: Notify::new(),
    });
    logs.giving.borrow_mut().push(Rc::clone(&session));
    let shard = Rc::clone(shard);
    shard.clone().io.spawn(Queue::Maintenance, async move {
        shard.counters.copies_given.add(1);
        hold(&shard, tablet, true);
        if let Err(error) = give(&shard, &session).await {
            tracing::error!(%error, tablet = tablet.get(), "a copy cannot be given: a table cannot be read");
        }
        let is_it = |one: &Rc<GiveSession>| Rc::ptr_eq(one, &session);
        if let Some(logs) = &shard.logs {
            logs.giving.borrow_mut().retain(|one| !is_it(one));
        }
        shard.io.sleep(AFTER).await;
        let others = shard.logs.as_ref().is_some_and(|logs| logs.is_giving(tablet));
        hold(&shard, tablet, others);
    });
}

fn hold(shard: &Shard, tablet: TabletIndex, is_held: bool) {
    if let Some(log) = shard.logs.as_ref().and_then(|logs| logs.tablet(tablet)) {
        log.borrow_mut().tail.hold(is_held);
    }
}

async fn give(shard: &Shard, session: &GiveSession) -> Result<(), crate::lsm::ReadError> {
    let Some(log) = shard.logs.as_ref().and_then(|logs| logs.tablet(session.tablet)) else { return Ok(()) };
    let chosen = log.borrow().applied;
    let mut bytes = Vec::new();
    let mut giving = Giving::begin(shard, session.tablet, chosen, &session.left_out, &mut bytes).await?;
    let mut number = 0;
    let part_bytes = bulk_bytes(&shard.limits);
    loop {
        let is_last = giving.next(part_bytes, &mut bytes).await?;
        // A large state, or record, is more than one part.
        let rest = if bytes.len() > part_bytes { bytes.split_off(part_bytes) } else { Vec::new() };
        let is_last = is_last && rest.is_empty();
        let mut part = session.id.to_le_bytes().to_vec();
        part.extend_from_slice(&u32::to_le_bytes(number));
        part.push(u8::from(is_last));
        part.append(&mut bytes);
        bytes = rest;
        session.number.set(number);
        *session.part.borrow_mut() = part;
        send(shard, session);
        number += 1;
        session.wanted.set(false);
        let called = session.called.notified();
        let waited = race(called, shard.io.sleep(ASK_DEADLINE)).await;
        if is_last || (waited == Either::Second(()) && !session.wanted.get()) {
            return Ok(());
        }
    }
}

fn send(shard: &Shard, session: &GiveSession) {
    if let Some(log) = shard.logs.as_ref().and_then(|logs| logs.tablet(session.tablet)) {
        let part = session.part.borrow();
        log.borrow().tell(shard, session.to, wire::COPY_PART, &[&part]);
    }
}
