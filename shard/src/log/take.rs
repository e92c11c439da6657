//! Taking copies of tablets from peers: what this replica had of them goes, in one edit of the manifest for all that are ready.
//!
//! Order, and what a crash between two steps leaves: sealed tables taken as files, from all peers at once, those first, because
//! they take long and do not grow old; the rest, without what they have, from one peer, in parts, into a run; all of it durable
//! by one flush (before: nothing has changed, and extents that nobody names are free at the next start); the tablet's state replaced
//! in memory at a freeze, with the votes said again behind it; the version cells of before disbelieved; one edit with the new tables, without
//! the old ones, with the state of all tablets (before: the start finds what it had, and asks for a copy again); shown, and
//! the log goes on behind the last entry of the copy. Must never let the log move while the copy is on its way, nor put a table in
//! place that the state of the copy does not call sealed (decision 0051).

use super::give::PART_HEAD_BYTES;
use super::tablet::TabletLog;
use super::{Logs, drive, files, wire};
use crate::apply::State as Core;
use crate::core::Shard;
use crate::lsm::build::BuildError;
use crate::lsm::copy::{Made, SealedTables, TakeError, Taken, Taking};
use crate::lsm::{self, Table};
use crate::tablet::Tablet;
use ioengine::sync::{Either, Notify, race};
use ioengine::{Instant, Queue};
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
/// How long to wait before another peer is asked for a copy, and at least from one try to the next: in between the log may move. Failing
/// history otherwise: a voter whose tables are wrong knows one entry more than the only other voter, of whom it takes copies that it cannot
/// use, one after the other; while it does, it tells that one nothing, which so never learns of the entry.
const AGAIN: Duration = Duration::from_millis(300);
/// Copies that are taken at once, and those of them whose records are on their way.
const TAKEN_MAX: usize = 8;
const STREAMS_MAX: usize = 3;
/// How often all peers are asked before what was taken as files is given up.
const ROUNDS: usize = 4;
/// How long a copy waits for others to be put in place with.
const READY_WAIT: Duration = Duration::from_millis(500);
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
    /// Bytes of the manifest for the tables that were taken as files.
    edit_bytes: Cell<u64>,
    /// It waits for a freeze.
    ready: RefCell<Option<Taken>>,
    /// Since when it does, or did.
    ready_at: Cell<Option<Instant>>,
    /// The last entry in it, from the freeze on.
    copied: Cell<Option<Chosen>>,
    /// From the freeze until the edit: the run.
    install: RefCell<Option<Install>>,
    done: Cell<bool>,
}

/// A copy that replaces a tablet with the next edit.
pub(crate) struct Install {
    pub(crate) tablet: TabletIndex,
    run: Option<Made>,
    files: SealedTables,
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
    files::no_list(logs, id);
    if let Some(session) = logs.taking_of(tablet, id) {
        session.refused.set(true);
        session.called.notify();
    }
    Ok(())
}

/// The tablet needs a copy: begin to take one, unless one is being taken, or as many as may be.
pub(super) fn begin(shard: &Rc<Shard>, logs: &Logs, tablet: TabletIndex) {
    let count = logs.taking.borrow().len();
    let count_max = if logs.narrow.get() { 1 } else { TAKEN_MAX };
    if logs.is_taking(tablet) || count >= count_max || shard.failed.get() || shard.journal.is_none() {
        return;
    }
    if count > 0 {
        ioengine::sometimes!("copies of several tablets are taken at once");
    }
    let session = Rc::new(TakeSession {
        tablet,
        id: Cell::new(0),
        part: RefCell::new(None),
        refused: Cell::new(false),
        called: Notify::new(),
        edit_bytes: Cell::new(0),
        ready: RefCell::new(None),
        ready_at: Cell::new(None),
        copied: Cell::new(None),
        install: RefCell::new(None),
        done: Cell::new(false),
    });
    logs.taking.borrow_mut().push(Rc::clone(&session));
    drive(shard, logs, tablet, Input::GiveUp);
    let shard = Rc::clone(shard);
    shard.clone().io.spawn(Queue::Maintenance, async move {
        let Some(logs) = &shard.logs else { return };
        if let Err(error) = run(&shard, logs, &session).await {
            if matches!(error, TakeError::Build(BuildError::Space)) {
                ioengine::sometimes!("a copy finds no space");
                logs.narrow.set(true);
            }
            tracing::warn!(%error, tablet = session.tablet.get(), "a copy was not taken");
        }
        if let Some(log) = logs.tablet(session.tablet) {
            let wait = AGAIN + Duration::from_nanos(shard.io.random() % AGAIN.as_nanos() as u64);
            log.borrow_mut().copy_at = shard.io.now().after(wait);
        }
        shard.keeper.work.release(session.tablet);
        logs.taking.borrow_mut().retain(|one| !Rc::ptr_eq(one, &session));
        logs.wake.notify();
    });
}

async fn run(shard: &Rc<Shard>, logs: &Logs, session: &TakeSession) -> Result<(), TakeError> {
    let Some(log) = logs.tablet(session.tablet) else { return Ok(()) };
    let (own, count) = {
        let log = log.borrow();
        (log.replica.node().0, u8::try_from(log.members.len()).expect("members are few"))
    };
    while !shard.keeper.work.hold(session.tablet) {
        shard.io.sleep(HELD_POLL).await;
    }
    shard.keeper.agreeing.forget(shard, session.tablet);
    // Each life begins with another peer.
    let first = shard.io.random() % u64::from(count);
    let turn = |turn: u8| Node((u8::try_from(first).expect("members are few") + turn) % count);
    let peers: Vec<Node> = (0..count).map(turn).filter(|peer| peer.0 != own).collect();
    // A start asks before its links are up: nobody could be asked for files, and all would go record by record.
    let is_up = |peer: &Node| shard.links.is_up(log.borrow().members[peer.place()]);
    while !peers.iter().any(is_up) && !shard.failed.get() {
        shard.io.sleep(HELD_POLL).await;
    }
    let mut files = take_files(shard, logs, session, &peers).await?;
    let mut behind: Vec<Node> = Vec::new();
    'rounds: for round in 1..=ROUNDS {
        for &peer in &peers {
            // Who cannot be reached costs all tries of a part. Who brings everything is asked last.
            let gives_files = logs.who_gives_files(shard, session.tablet);
            let is_last = round == ROUNDS || gives_files.iter().all(|peer| behind.contains(peer));
            let is_up = shard.links.is_up(log.borrow().members[peer.place()]);
            if !is_up || behind.contains(&peer) || !(gives_files.contains(&peer) || is_last) {
                continue;
            }
            match Box::pin(stream(shard, logs, session, peer, &mut files)).await {
                Ok(Some(taken)) if is_ahead(shard, &log.borrow(), &taken) => {
                    install(shard, logs, session, taken).await;
                    return Ok(());
                }
                // Failing history otherwise: two replicas are behind, and of all peers only the other one gives files. Each takes the copy of the
                // other again and again.
                Ok(Some(_)) => {
                    ioengine::sometimes!("a copy is behind what is known here");
                    behind.push(peer);
                    if ioengine::canary("ask_one_for_a_copy") {
                        break 'rounds;
                    }
                }
                Ok(None) => {}
                Err(error @ TakeError::Build(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, tablet = session.tablet.get(), "a peer gives no right copy")
                }
            }
        }
        if shard.failed.get() {
            return Ok(());
        }
        shard.io.sleep(AGAIN).await;
    }
    if !behind.is_empty() && is_fine(shard, &log.borrow()) {
        log.borrow_mut().needs_copy = false;
    }
    Ok(())
}

/// Nothing that is here of the tablet is wrong or missing.
fn is_fine(shard: &Shard, log: &TabletLog) -> bool {
    !log.is_wrong && shard.state.borrow().tablet(log.tablet).damage.is_none()
}

/// Does a copy bring more than is known here, or what is here is wrong? A peer may be behind, and the log never goes back. Failing history
/// otherwise: an entry between the two is known to be chosen, and neither in the copy nor ever fetched.
fn is_ahead(shard: &Shard, log: &TabletLog, taken: &Taken) -> bool {
    let known = log.replica.state().chosen.index;
    taken.chosen.index > known || taken.chosen.index == known && !is_fine(shard, log)
}

/// The sealed tables of the tablet: those that are here and whole, the others as files from all peers that have them. None where nobody
/// speaks of files: then all comes record by record.
async fn take_files(
    shard: &Shard,
    logs: &Logs,
    session: &TakeSession,
    peers: &[Node],
) -> Result<SealedTables, TakeError> {
    let (mut files, mut list) = (SealedTables::default(), Vec::new());
    for &peer in peers {
        if logs.who_gives_files(shard, session.tablet).contains(&peer)
            && let Some(found) = logs.ask_files(shard, session.tablet, peer).await
        {
            list = found;
            break;
        }
    }
    for file in list {
        if let Some(table) = held(shard, session.tablet, file.checksum) {
            if lsm::is_whole(&table).await.is_ok_and(|is_whole| is_whole) {
                ioengine::sometimes!("a sealed table is here already");
                shard.counters.files_kept.add(1);
                files.kept.push(table);
                continue;
            }
            ioengine::sometimes!("a sealed table that is here is not whole");
        }
        if let Some(made) = lsm::take_file(shard, logs, session.tablet, &file).await? {
            ioengine::sometimes!("a sealed table is taken as a file");
            shard.counters.files_taken.add(1);
            shard.counters.file_taken_bytes.add(file.bytes);
            let bytes = session.edit_bytes.get() + made.edit().encoded_bytes() as u64;
            session.edit_bytes.set(bytes);
            files.taken.push(made);
        }
    }
    let edits: u64 = logs.taking.borrow().iter().map(|session| session.edit_bytes.get()).sum();
    if !files.taken.is_empty() && !shard.keeper.has_room_for_edit(edits, logs.own().count()) {
        ioengine::sometimes!("the manifest has no room for files");
        session.edit_bytes.set(0);
        files.taken.clear();
    }
    Ok(files)
}

/// The sealed table with this checksum, if this replica has it in place.
fn held(shard: &Shard, tablet: TabletIndex, checksum: u128) -> Option<Rc<Table>> {
    let state = shard.state.borrow();
    let is_it = |table: &&Rc<Table>| table.place.checksum == checksum && !table.is_broken();
    state.tables.windows(tablet).iter().find(is_it).cloned()
}

/// Fetch state and records from a peer, few tablets at a time; `None` if it gives none, or stops. What `files` have it leaves out, if
/// it speaks of files: then they go with what was taken.
async fn stream(
    shard: &Rc<Shard>,
    logs: &Logs,
    session: &TakeSession,
    peer: Node,
    files: &mut SealedTables,
) -> Result<Option<Taken>, TakeError> {
    while logs.streams.get() >= STREAMS_MAX {
        shard.io.sleep(HELD_POLL).await;
    }
    logs.streams.set(logs.streams.get() + 1);
    let taken = if logs.who_gives_files(shard, session.tablet).contains(&peer) {
        fetch(shard, session, peer, Some(files)).await
    } else {
        fetch(shard, session, peer, None).await
    };
    logs.streams.set(logs.streams.get() - 1);
    taken
}

async fn fetch(
    shard: &Rc<Shard>,
    session: &TakeSession,
    peer: Node,
    files: Option<&mut SealedTables>,
) -> Result<Option<Taken>, TakeError> {
    session.id.set(shard.io.random());
    session.refused.set(false);
    let fresh = Tablet::new(&shard.io, &shard.limits);
    let mut taking = Taking::new(shard, session.tablet, fresh);
    let none = SealedTables::default();
    let had = files.as_deref();
    let left_out: Option<Vec<u8>> =
        had.map(|files| files.tables().flat_map(|table| table.place.checksum.to_le_bytes()).collect());
    let mut number = 0u32;
    loop {
        let first = left_out.as_deref().filter(|_| number == 0);
        let Some(part) = ask(shard, session, peer, number, first).await else { return Ok(None) };
        taking.take(shard, &part.bytes, had.unwrap_or(&none)).await?;
        if part.is_last {
            break;
        }
        number += 1;
    }
    ioengine::sometimes!("a tablet is copied");
    if files.is_some() {
        ioengine::sometimes!("a tablet is copied by files");
    } else {
        ioengine::sometimes!("a tablet is copied record by record");
    }
    // The peer need not keep it any longer, and has room for the next.
    tell_ask(shard, session, peer, number + 1, None);
    let files = files.map(std::mem::take).unwrap_or_default();
    taking.finish(shard, files).await.map(Some)
}

/// Ask for a part; with `left_out` for the first one of a copy without what tables with these checksums have.
fn tell_ask(shard: &Shard, session: &TakeSession, peer: Node, number: u32, left_out: Option<&[u8]>) {
    let Some(log) = shard.logs.as_ref().and_then(|logs| logs.tablet(session.tablet)) else { return };
    let (id, number) = (session.id.get().to_le_bytes(), number.to_le_bytes());
    match left_out {
        Some(left_out) => log.borrow().tell(shard, peer, wire::REST_ASK, &[&id, left_out]),
        None => log.borrow().tell(shard, peer, wire::COPY_ASK, &[&id, &number]),
    }
}

/// Ask for a part until it is here.
async fn ask(
    shard: &Shard,
    session: &TakeSession,
    peer: Node,
    number: u32,
    left_out: Option<&[u8]>,
) -> Option<Part> {
    for _ in 0..TRIES {
        let called = session.called.notified();
        tell_ask(shard, session, peer, number, left_out);
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
async fn install(shard: &Shard, logs: &Logs, session: &TakeSession, taken: Taken) {
    // What is being given stays as it is; from here on nothing of it is.
    while logs.is_giving(session.tablet) && !shard.failed.get() {
        shard.io.sleep(HELD_POLL).await;
    }
    *session.ready.borrow_mut() = Some(taken);
    session.ready_at.set(Some(shard.io.now()));
    while !session.done.get() && !shard.failed.get() {
        if session.ready.borrow().is_some() && logs.is_worth_a_flush(shard.io.now()) {
            shard.keeper.flush_wanted.set(true);
            shard.staged.notify();
        }
        shard.io.sleep(HELD_POLL).await;
    }
}

impl Install {
    /// New tables: the run, and what was taken as files.
    pub(crate) fn made(&self) -> impl Iterator<Item = &Made> {
        self.run.iter().chain(&self.files.taken)
    }

    /// Does the tablet go on with this table?
    pub(crate) fn keeps(&self, table: &Rc<Table>) -> bool {
        self.files.kept.iter().any(|kept| Rc::ptr_eq(kept, table))
    }

    /// All that the tablet has: the run, and its windows.
    pub(crate) fn tables(&self) -> (Option<Rc<Table>>, Vec<Rc<Table>>) {
        let run = self.run.as_ref().map(|made| Rc::clone(&made.table));
        (run, self.files.tables().cloned().collect())
    }
}

impl Logs {
    fn session(&self, tablet: TabletIndex) -> Option<Rc<TakeSession>> {
        self.taking.borrow().iter().find(|session| session.tablet == tablet).cloned()
    }

    fn taking_of(&self, tablet: TabletIndex, id: u64) -> Option<Rc<TakeSession>> {
        self.session(tablet).filter(|session| session.id.get() == id)
    }

    /// Is a copy of this tablet being taken?
    pub(super) fn is_taking(&self, tablet: TabletIndex) -> bool {
        self.taking.borrow().iter().any(|session| session.tablet == tablet)
    }

    /// Has a copy of this tablet come, so that it soon replaces what is here?
    pub(super) fn is_installing(&self, tablet: TabletIndex) -> bool {
        self.session(tablet).is_some_and(|session| {
            session.ready.borrow().is_some()
                || session.copied.get().is_some()
                || session.install.borrow().is_some()
        })
    }

    /// The last entry of a copy of this tablet that a freeze has begun to put in place.
    pub(super) fn copied(&self, tablet: TabletIndex) -> Option<Chosen> {
        self.session(tablet)?.copied.get()
    }

    /// Copies wait for a freeze: are they enough, or is nothing else to come, or have they waited for long? A flush writes the state of
    /// all tablets, and is the same work for one copy as for many.
    fn is_worth_a_flush(&self, now: Instant) -> bool {
        let taking = self.taking.borrow();
        let waiting = || taking.iter().filter(|session| session.ready.borrow().is_some());
        let is_coming = |session: &Rc<TakeSession>| session.ready_at.get().is_none();
        let oldest = waiting().filter_map(|session| session.ready_at.get()).min();
        let is_late = oldest.is_some_and(|at| now.since(at) >= READY_WAIT);
        waiting().count() >= TAKEN_MAX / 2 || is_late || !taking.iter().any(is_coming)
    }

    /// A memtable is frozen now: copies that wait become their tablets' state.
    pub(crate) fn begin_install(&self, core: &mut Core) {
        let taking = self.taking.borrow();
        for session in taking.iter() {
            let log = self.tablet(session.tablet).expect("copies are of own tablets").borrow();
            // Nothing of the log may be on its way: it would be applied to what it is not for.
            if log.replica.is_writing().is_some() {
                continue;
            }
            let known = log.replica.state().chosen.index;
            if session.ready.borrow().as_ref().is_some_and(|taken| taken.chosen.index < known) {
                session.ready.borrow_mut().take();
                session.done.set(true);
                continue;
            }
            let Some(Taken { chosen, tablet, made: run, files }) = session.ready.borrow_mut().take() else {
                continue;
            };
            let tablet = Tablet { awaits_tables: !ioengine::canary("read_half_a_copy"), ..tablet };
            core.tablets[session.tablet.index()] = Some(tablet);
            ioengine::fact("begun", (u64::from(session.tablet.get()) << 56) | chosen.index.0, 0);
            session.copied.set(Some(chosen));
            *session.install.borrow_mut() = Some(Install { tablet: session.tablet, run, files, chosen });
        }
        if taking.iter().filter(|session| session.copied.get().is_some()).count() > 1 {
            ioengine::sometimes!("copies of several tablets are put in place at once");
        }
    }

    /// The tablets whose records in the frozen memtable copies replace, one bit each.
    pub(crate) fn installing(&self) -> u64 {
        let taking = self.taking.borrow();
        let installing = taking.iter().filter(|session| session.copied.get().is_some());
        installing.fold(0, |bits, session| bits | 1 << session.tablet.index())
    }

    /// The copies for the next edit.
    pub(crate) fn take_installs(&self) -> Vec<Install> {
        self.taking.borrow().iter().filter_map(|session| session.install.borrow_mut().take()).collect()
    }

    /// The edit was not made: it is tried again.
    pub(crate) fn give_installs_back(&self, installs: Vec<Install>) {
        for install in installs {
            let session = self.session(install.tablet).expect("a session waits for its copy");
            *session.install.borrow_mut() = Some(install);
        }
    }

    /// The copy is in place and can be read: the log goes on behind its last entry.
    pub(crate) fn installed(&self, shard: &Shard, install: Install) {
        let Install { tablet, chosen, .. } = install;
        ioengine::sometimes!("a copy is installed");
        shard.counters.copies_taken.add(1);
        self.narrow.set(false);
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
        if let Some(session) = self.session(tablet) {
            session.copied.set(None);
            session.done.set(true);
        }
        drive(shard, self, tablet, Input::Fetched(chosen));
    }
}
