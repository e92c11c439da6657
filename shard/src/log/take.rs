//! Taking a copy of a tablet from a peer: what this replica had of it goes, in one edit of the manifest.
//!
//! Order, and what a crash between two steps leaves: parts fetched into a run, the run durable (before: nothing has changed);
//! the tablet's state replaced in memory at a freeze, with the votes said again behind it; one edit with the new run, without
//! the old tables, with the state of all tablets (before: the start finds what it had, and asks for a copy again); shown, and
//! the log goes on behind the last entry of the copy. Must never let the log move while the copy is on its way.

use super::give::PART_HEAD_BYTES;
use super::{Logs, drive, wire};
use crate::apply::State as Core;
use crate::core::Shard;
use crate::lsm::copy::{Made, TakeError, Taken, Taking};
use crate::tablet::Tablet;
use ioengine::Queue;
use ioengine::sync::{Either, Notify, race};
use layout::Corrupt;
use layout::units::{self, TabletIndex};
use paxos::{Chosen, Input, Node};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// How long a part may take before it is asked for again.
const PART_WAIT: Duration = Duration::from_millis(300);
/// How often a part is asked for.
const TRIES: u32 = 10;
/// How long to wait before another peer is asked for a copy.
const AGAIN: Duration = Duration::from_millis(300);
/// How often it is looked whether nobody is at work on the tablet's tables.
const HELD_POLL: Duration = Duration::from_millis(20);

/// A part that has come.
struct Part {
    number: u32,
    is_last: bool,
    bytes: Vec<u8>,
}

/// A copy that is being taken.
pub(super) struct TakeSession {
    tablet: TabletIndex,
    id: Cell<u64>,
    part: RefCell<Option<Part>>,
    refused: Cell<bool>,
    called: Notify,
    /// It waits for a freeze.
    ready: RefCell<Option<Taken>>,
    /// The last entry in it, from the freeze on.
    copied: Cell<Option<Chosen>>,
    /// From the freeze until the edit: the run.
    install: RefCell<Option<Install>>,
    done: Cell<bool>,
}

/// A copy that replaces a tablet with the next edit.
pub(crate) struct Install {
    pub(crate) tablet: TabletIndex,
    pub(crate) made: Option<Made>,
    chosen: Chosen,
}

/// The session that a message names first.
fn session_of(body: &[u8]) -> Result<u64, Corrupt> {
    let wrong = Corrupt { structure: "part of a copy", field: "session", at: 0 };
    body.first_chunk::<8>().map(|id| u64::from_le_bytes(*id)).ok_or(wrong)
}

/// A part has come.
pub(super) fn part(logs: &Logs, tablet: TabletIndex, body: &[u8]) -> Result<(), Corrupt> {
    let wrong = Corrupt { structure: "part of a copy", field: "number", at: 0 };
    let id = session_of(body)?;
    let (head, bytes) = body.split_first_chunk::<PART_HEAD_BYTES>().ok_or(wrong)?;
    let number = u32::from_le_bytes(head[8..12].try_into().expect("4 bytes"));
    if let Some(session) = logs.taking_of(tablet, id) {
        *session.part.borrow_mut() = Some(Part { number, is_last: head[12] != 0, bytes: bytes.to_vec() });
        session.called.notify();
    }
    Ok(())
}

/// The peer gives no copy.
pub(super) fn refused(logs: &Logs, tablet: TabletIndex, body: &[u8]) -> Result<(), Corrupt> {
    let id = session_of(body)?;
    if let Some(session) = logs.taking_of(tablet, id) {
        session.refused.set(true);
        session.called.notify();
    }
    Ok(())
}

/// The tablet needs a copy: begin to take one, unless one is being taken.
pub(super) fn begin(shard: &Rc<Shard>, logs: &Logs, tablet: TabletIndex) {
    if logs.taking.borrow().is_some() || shard.failed.get() || shard.journal.is_none() {
        return;
    }
    let session = Rc::new(TakeSession {
        tablet,
        id: Cell::new(0),
        part: RefCell::new(None),
        refused: Cell::new(false),
        called: Notify::new(),
        ready: RefCell::new(None),
        copied: Cell::new(None),
        install: RefCell::new(None),
        done: Cell::new(false),
    });
    *logs.taking.borrow_mut() = Some(Rc::clone(&session));
    drive(shard, logs, tablet, Input::GiveUp);
    let shard = Rc::clone(shard);
    shard.clone().io.spawn(Queue::Maintenance, async move {
        run(&shard, &session).await;
        shard.keeper.work.release(session.tablet);
        if let Some(logs) = &shard.logs {
            *logs.taking.borrow_mut() = None;
            logs.wake.notify();
        }
    });
}

async fn run(shard: &Rc<Shard>, session: &TakeSession) {
    let Some(log) = shard.logs.as_ref().and_then(|logs| logs.tablet(session.tablet)) else { return };
    let (own, members) = {
        let log = log.borrow();
        (log.replica.node().0, log.members.clone())
    };
    let count = u8::try_from(members.len()).expect("members are few");
    while !shard.keeper.work.hold(session.tablet) {
        shard.io.sleep(HELD_POLL).await;
    }
    shard.keeper.agreeing.forget(shard, session.tablet);
    // Each life begins with another peer.
    let first = shard.io.random() % u64::from(count);
    for turn in 0..count {
        let peer = Node((u8::try_from(first).expect("members are few") + turn) % count);
        // Who cannot be reached costs all tries of a part.
        if peer.0 == own || !shard.links.is_up(members[peer.place()]) {
            continue;
        }
        match fetch(shard, session, peer).await {
            Ok(Some(taken)) => return install(shard, session, taken).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, tablet = session.tablet.get(), "a copy was not taken"),
        }
    }
    shard.io.sleep(AGAIN).await;
}

/// Fetch a copy from a peer; `None` if it gives none, or stops.
async fn fetch(shard: &Rc<Shard>, session: &TakeSession, peer: Node) -> Result<Option<Taken>, TakeError> {
    session.id.set(shard.io.random());
    session.refused.set(false);
    let mut taking = Taking::new(shard, session.tablet);
    let mut number = 0u32;
    loop {
        let Some(part) = ask(shard, session, peer, number).await else { return Ok(None) };
        taking.take(&part.bytes).await?;
        if part.is_last {
            ioengine::sometimes!("a tablet is copied");
            // The peer need not keep it any longer, and has room for the next.
            tell_ask(shard, session, peer, number + 1);
            let fresh = Tablet::new(&shard.io, &shard.limits);
            return taking.finish(shard, fresh).await.map(Some);
        }
        number += 1;
    }
}

fn tell_ask(shard: &Shard, session: &TakeSession, peer: Node, number: u32) {
    if let Some(log) = shard.logs.as_ref().and_then(|logs| logs.tablet(session.tablet)) {
        let (id, number) = (session.id.get().to_le_bytes(), number.to_le_bytes());
        log.borrow().tell(shard, peer, wire::COPY_ASK, &[&id, &number]);
    }
}

/// Ask for a part until it is here.
async fn ask(shard: &Shard, session: &TakeSession, peer: Node, number: u32) -> Option<Part> {
    for _ in 0..TRIES {
        let called = session.called.notified();
        tell_ask(shard, session, peer, number);
        let waited = race(called, shard.io.sleep(PART_WAIT)).await;
        if session.refused.get() || shard.failed.get() {
            return None;
        }
        let part = session.part.borrow_mut().take().filter(|part| part.number == number);
        if part.is_some() {
            return part;
        }
        if waited == Either::First(()) {
            // An answer to an earlier question: the right one is on its way.
            shard.io.sleep(HELD_POLL).await;
        }
    }
    None
}

/// Wait for the freeze and the edit that put the copy in place.
async fn install(shard: &Shard, session: &TakeSession, taken: Taken) {
    let Some(log) = shard.logs.as_ref().and_then(|logs| logs.tablet(session.tablet)) else { return };
    // A copy may be of a peer that is behind what is known here: the log never goes back. Failing history otherwise: an entry
    // between the two is known to be chosen, and neither in the copy nor ever fetched.
    let known = log.borrow().replica.state().chosen.index;
    let is_fine = !log.borrow().is_wrong && shard.state.borrow().tablet(session.tablet).damage.is_none();
    if taken.chosen.index <= known && is_fine {
        log.borrow_mut().needs_copy = false;
        return;
    }
    if taken.chosen.index < known {
        return shard.io.sleep(AGAIN).await;
    }
    *session.ready.borrow_mut() = Some(taken);
    while !session.done.get() && !shard.failed.get() {
        if session.ready.borrow().is_some() {
            shard.keeper.flush_wanted.set(true);
            shard.staged.notify();
        }
        shard.io.sleep(HELD_POLL).await;
    }
}

impl Logs {
    fn taking_of(&self, tablet: TabletIndex, id: u64) -> Option<Rc<TakeSession>> {
        let taking = self.taking.borrow();
        taking.as_ref().filter(|session| session.tablet == tablet && session.id.get() == id).cloned()
    }

    /// Is a copy of this tablet being taken?
    pub(super) fn is_taking(&self, tablet: TabletIndex) -> bool {
        self.taking.borrow().as_ref().is_some_and(|session| session.tablet == tablet)
    }

    /// The last entry of a copy of this tablet that a freeze has begun to put in place.
    pub(super) fn copied(&self, tablet: TabletIndex) -> Option<Chosen> {
        let taking = self.taking.borrow();
        taking.as_ref().filter(|session| session.tablet == tablet)?.copied.get()
    }

    /// A memtable is frozen now: a copy that waits becomes the tablet's state.
    pub(crate) fn begin_install(&self, core: &mut Core) {
        let taking = self.taking.borrow();
        let Some(session) = taking.as_ref() else { return };
        let log = self.tablet(session.tablet).expect("copies are of own tablets").borrow();
        // Nothing of the log may be on its way: it would be applied to what it is not for.
        if log.replica.is_writing().is_some() {
            return;
        }
        let known = log.replica.state().chosen.index;
        if session.ready.borrow().as_ref().is_some_and(|taken| taken.chosen.index < known) {
            session.ready.borrow_mut().take();
            session.done.set(true);
            return;
        }
        let Some(Taken { chosen, tablet, made }) = session.ready.borrow_mut().take() else { return };
        let tablet = Tablet { awaits_tables: !ioengine::canary("read_half_a_copy"), ..tablet };
        core.tablets[session.tablet.index()] = Some(tablet);
        ioengine::fact("begun", (u64::from(session.tablet.get()) << 56) | chosen.index.0, 0);
        session.copied.set(Some(chosen));
        *session.install.borrow_mut() = Some(Install { tablet: session.tablet, made, chosen });
    }

    /// The tablet whose records in the frozen memtable a copy replaces.
    pub(crate) fn installing(&self) -> Option<TabletIndex> {
        let taking = self.taking.borrow();
        taking.as_ref().filter(|session| session.copied.get().is_some()).map(|session| session.tablet)
    }

    /// The copy for the next edit.
    pub(crate) fn take_install(&self) -> Option<Install> {
        self.taking.borrow().as_ref()?.install.borrow_mut().take()
    }

    /// The edit was not made: it is tried again.
    pub(crate) fn give_install_back(&self, install: Option<Install>) {
        if let Some(session) = self.taking.borrow().as_ref() {
            *session.install.borrow_mut() = install;
        }
    }

    /// The copy is in place and can be read: the log goes on behind its last entry.
    pub(crate) fn installed(&self, shard: &Shard, install: Install) {
        let Install { tablet, chosen, .. } = install;
        ioengine::sometimes!("a copy is installed");
        shard.counters.copies_taken.add(1);
        {
            let mut log = self.tablet(tablet).expect("copies are of own tablets").borrow_mut();
            log.applied = chosen;
            log.durable = chosen.index;
            log.told = chosen.index;
            log.journaled = None;
            log.fetch = None;
            log.needs_copy = false;
            log.is_wrong = false;
            log.gone_count = 0;
        }
        let index = units::LogIndex(chosen.index.0);
        {
            let mut state = shard.state.borrow_mut();
            state.tablet_mut(tablet).awaits_tables = false;
            state.versions.set_coherent_index(tablet, index);
        }
        if let Some(session) = self.taking.borrow().as_ref() {
            session.copied.set(None);
            session.done.set(true);
        }
        drive(shard, self, tablet, Input::Fetched(chosen));
    }
}
