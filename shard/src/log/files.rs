//! Sealed tables between replicas as whole files: which ones a peer has, and pieces of them, asked of all peers that speak of files
//! at once.
//!
//! Owns what is asked, of whom, and what came; and at the giving end the line of pieces that are asked for. Must never judge a
//! table: who takes it compares the checksum of all of it. Invariant: the bytes that are asked for or have come and are not used yet
//! come out of one budget, and a peer is asked for a bounded number of pieces at once, however many tables are taken.
//!
//! ```text
//! taker                                 each peer
//!   | -- FILES_ASK ------------------------> |            of one of them
//!   | <------------- FILES: window, checksum |
//!   | -- PIECE_ASK PIECE_ASK PIECE_ASK ----> |  a line     of all of them, the least busy first
//!   | <------------------------ PIECE PIECE  |  read, then sent when little else waits
//! ```

use super::{Logs, wire};
use crate::budget::{Budget, Held};
use crate::core::Shard;
use crate::limits::Limits;
use crate::lsm::Table;
use ioengine::sync::{Notify, race};
use ioengine::{Instant, Queue};
use layout::Corrupt;
use layout::units::{BLOCK_BYTES, TabletIndex};
use paxos::Node;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Pieces that a peer is asked for at once, and those of one table.
const PIECES_PER_PEER: usize = 8;
const PIECES_PER_TABLE: usize = 8;
/// Pieces that are asked for, or came, at once: the memory that copies take at a taker.
const PIECES_MAX: usize = 24;
/// How long a piece may take before another peer is asked, and how often a peer may be so late until it counts as gone.
const PIECE_WAIT: Duration = Duration::from_millis(500);
const MISSES_MAX: u32 = 6;
/// How often it is looked whether a piece is late.
const PIECE_POLL: Duration = Duration::from_millis(50);
/// How long the list of tables may take before it is asked for again, and how often it is.
const LIST_WAIT: Duration = Duration::from_millis(300);
const LIST_TRIES: u32 = 5;
/// Pieces that wait to be given, and those that are being read at once.
const LINE_MAX: usize = 64;
const GIVEN_MAX: usize = 3;

/// How long to wait before a piece that found no room on its link is tried again.
const ROOM_RETRY: Duration = Duration::from_millis(5);

/// Checksum, offset, bytes.
const ASK_BYTES: usize = 28;
/// Checksum and offset.
const PIECE_HEAD_BYTES: usize = 24;
/// Window 16, generation 4, bytes 8, checksum 16.
const FILE_BYTES: usize = 44;

/// Bytes of a piece: 256 KiB, one write of a table, or what a frame carries eight times. Votes behind one wait for that long.
fn piece_bytes(limits: &Limits) -> usize {
    (limits.frame_bytes_max as usize / 8 / BLOCK_BYTES * BLOCK_BYTES).clamp(BLOCK_BYTES / 2, 256 << 10)
}

/// Bytes that pieces of tables take at most at a core that takes copies.
pub(crate) fn pieces_bytes_max(limits: &Limits) -> usize {
    PIECES_MAX * piece_bytes(limits)
}

/// A sealed table as a peer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) generation: u32,
    pub(crate) bytes: u64,
    pub(crate) checksum: u128,
}

/// Files on their way, both ways.
pub(super) struct Files {
    fetches: RefCell<Vec<Rc<Fetch>>>,
    memory: Budget,
    /// By node: pieces that it may be asked for yet.
    turns: RefCell<BTreeMap<u32, Budget>>,
    /// A piece came, or its place is free again.
    called: Notify,
    lists: RefCell<BTreeMap<u64, List>>,
    line: RefCell<VecDeque<Asked>>,
    giving: Cell<usize>,
}

impl Files {
    pub(super) fn new(limits: &Limits) -> Files {
        Files {
            fetches: RefCell::default(),
            memory: Budget::new(pieces_bytes_max(limits)),
            turns: RefCell::default(),
            called: Notify::new(),
            lists: RefCell::default(),
            line: RefCell::default(),
            giving: Cell::new(0),
        }
    }

    fn fetch_of(&self, tablet: TabletIndex, checksum: u128) -> Option<Rc<Fetch>> {
        let fetches = self.fetches.borrow();
        fetches.iter().find(|fetch| (fetch.tablet, fetch.file.checksum) == (tablet, checksum)).cloned()
    }

    fn is_awaited(&self, session: u64) -> bool {
        matches!(self.lists.borrow().get(&session), Some(List::Awaited))
    }

    fn hear(&self, session: u64, list: List) {
        if self.is_awaited(session) {
            self.lists.borrow_mut().insert(session, list);
            self.called.notify();
        }
    }
}

/// A piece of a table; its memory is free again when it goes.
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    _memory: Held,
}

/// A piece that is not here yet.
struct Open {
    /// Who was asked for it.
    sent: Option<Sent>,
    memory: Held,
}

struct Sent {
    from: Node,
    at: Instant,
    _turn: Held,
}

/// A peer that may have the table.
struct Source {
    node: Node,
    misses: u32,
    is_gone: bool,
}

/// A list of tables that a peer was asked for.
enum List {
    Awaited,
    Came(Vec<File>),
    None,
}

/// A piece that a peer asks for.
struct Asked {
    table: Rc<Table>,
    tablet: TabletIndex,
    from: Node,
    head: [u8; PIECE_HEAD_BYTES],
    offset: u64,
    count: usize,
}

/// A table that is being taken: what is asked for and what came, as long as a [`FileFetch`] waits for it.
pub(super) struct Fetch {
    tablet: TabletIndex,
    file: File,
    piece_bytes: u64,
    sources: RefCell<Vec<Source>>,
    /// Where the piece begins that is asked for next.
    next: Cell<u64>,
    /// Asked for, or to be asked for again, by where they begin.
    open: RefCell<BTreeMap<u64, Open>>,
    came: RefCell<BTreeMap<u64, Piece>>,
}

/// A fetch, for as long as somebody waits for it.
pub(crate) struct FileFetch<'a> {
    shard: &'a Shard,
    logs: &'a Logs,
    fetch: Rc<Fetch>,
    /// Where the next piece begins that is handed out.
    at: u64,
}

impl Drop for FileFetch<'_> {
    fn drop(&mut self) {
        self.logs.files.fetches.borrow_mut().retain(|fetch| !Rc::ptr_eq(fetch, &self.fetch));
        // Others may ask for theirs.
        self.fetch.open.borrow_mut().clear();
        self.fetch.came.borrow_mut().clear();
        self.logs.files.called.notify();
    }
}

impl FileFetch<'_> {
    /// The next piece, in order; `None` when no peer gives it.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        let (shard, files) = (self.shard, &self.logs.files);
        loop {
            let called = files.called.notified();
            let came = self.fetch.came.borrow_mut().remove(&self.at);
            if let Some(piece) = came {
                self.at += piece.bytes.len() as u64;
                return Some(piece);
            }
            if shard.failed.get() || !self.fetch.ask(shard, self.logs) {
                return None;
            }
            race(called, shard.io.sleep(PIECE_POLL)).await;
        }
    }
}

impl Fetch {
    fn piece_at(&self, offset: u64) -> usize {
        let left = self.file.bytes.saturating_sub(offset);
        usize::try_from(left.min(self.piece_bytes)).expect("a piece is small")
    }

    /// Ask for as much as may be on its way, again for what is late. False: nobody is left to ask.
    fn ask(&self, shard: &Shard, logs: &Logs) -> bool {
        let Some(log) = logs.tablet(self.tablet).map(RefCell::borrow) else { return false };
        self.find_late(shard, &log.members);
        let mut open = self.open.borrow_mut();
        let is_full = |open: &BTreeMap<u64, Open>| open.len() + self.came.borrow().len() >= PIECES_PER_TABLE;
        while !is_full(&open) && self.next.get() < self.file.bytes {
            // In order: whoever has memory has it also for the piece that is wanted first, so that no two tables wait for each other.
            let offset = self.next.get();
            let Some(memory) = logs.files.memory.take(self.piece_at(offset)) else { break };
            self.next.set(offset + self.piece_at(offset) as u64);
            open.insert(offset, Open { sent: None, memory });
        }
        for (&offset, open) in open.iter_mut().filter(|(_, open)| open.sent.is_none()) {
            let Some((node, turn)) = self.pick(&logs.files, &log.members) else { break };
            let count = u32::try_from(self.piece_at(offset)).expect("a piece is small");
            let ask = [&self.file.checksum.to_le_bytes()[..], &offset.to_le_bytes(), &count.to_le_bytes()];
            log.tell(shard, node, wire::PIECE_ASK, &ask);
            open.sent = Some(Sent { from: node, at: shard.io.now(), _turn: turn });
        }
        self.sources.borrow().iter().any(|source| !source.is_gone)
    }

    /// What is late, or was asked of a peer that is gone, is to be asked for again.
    fn find_late(&self, shard: &Shard, members: &[u32]) {
        let now = shard.io.now();
        for open in self.open.borrow_mut().values_mut() {
            let is_down = |sent: &Sent| !shard.links.is_up(members[sent.from.place()]);
            let late = open.sent.take_if(|sent| now.since(sent.at) >= PIECE_WAIT || is_down(sent));
            if let Some(sent) = late {
                ioengine::sometimes!("a piece of a table is asked for again");
                let is_down = is_down(&sent);
                self.source(sent.from, |source| {
                    source.misses += 1;
                    source.is_gone |= is_down || source.misses >= MISSES_MAX;
                });
            }
        }
    }

    fn source(&self, node: Node, change: impl FnOnce(&mut Source)) {
        let mut sources = self.sources.borrow_mut();
        if let Some(source) = sources.iter_mut().find(|source| source.node == node) {
            change(source);
        }
    }

    /// Who is asked for least, and is seldom late.
    fn pick(&self, files: &Files, members: &[u32]) -> Option<(Node, Held)> {
        let mut turns = files.turns.borrow_mut();
        let sources = self.sources.borrow();
        let mut best: Option<(usize, u32, Node)> = None;
        for source in sources.iter().filter(|source| !source.is_gone) {
            let turns = turns.entry(members[source.node.place()]);
            let left = turns.or_insert_with(|| Budget::new(PIECES_PER_PEER)).left();
            let key = (left, u32::MAX - source.misses, source.node);
            best = best.max(Some(key));
        }
        let (_, _, node) = best?;
        Some((node, turns[&members[node.place()]].take(1)?))
    }
}

impl Logs {
    /// Begin to take a table from the peers that speak of files, or from this one alone.
    pub(crate) fn fetch_file<'a>(
        &'a self,
        shard: &'a Shard,
        tablet: TabletIndex,
        file: File,
        only: Option<Node>,
    ) -> FileFetch<'a> {
        let nodes = self.who_gives_files(shard, tablet).into_iter();
        let source = |node| Source { node, misses: 0, is_gone: false };
        let sources = nodes.filter(|node| only.is_none_or(|only| only == *node)).map(source).collect();
        let fetch = Rc::new(Fetch {
            tablet,
            file,
            piece_bytes: piece_bytes(&shard.limits) as u64,
            sources: RefCell::new(sources),
            next: Cell::new(0),
            open: RefCell::default(),
            came: RefCell::default(),
        });
        self.files.fetches.borrow_mut().push(Rc::clone(&fetch));
        FileFetch { shard, logs: self, fetch, at: 0 }
    }

    /// Members of a tablet that can be asked for files now.
    pub(crate) fn who_gives_files(&self, shard: &Shard, tablet: TabletIndex) -> Vec<Node> {
        let Some(log) = self.tablet(tablet).map(RefCell::borrow) else { return Vec::new() };
        let own = log.replica.node();
        let places = (0u8..).zip(&log.members);
        let others = places.filter(|(place, _)| *place != own.0);
        let speak = others.filter(|(_, node)| shard.links.speaks(**node, wire::FILES_VERSION));
        speak.map(|(place, _)| Node(place)).collect()
    }

    /// Ask a peer which sealed tables it has of a tablet; `None` if it does not say.
    pub(crate) async fn ask_files(
        &self,
        shard: &Shard,
        tablet: TabletIndex,
        peer: Node,
    ) -> Option<Vec<File>> {
        let log = self.tablet(tablet)?;
        let session = shard.io.random();
        self.files.lists.borrow_mut().insert(session, List::Awaited);
        for _ in 0..LIST_TRIES {
            let mut called = self.files.called.notified();
            log.borrow().tell(shard, peer, wire::FILES_ASK, &[&session.to_le_bytes()]);
            let by = shard.io.now().after(LIST_WAIT);
            loop {
                if !self.files.is_awaited(session) || shard.io.now() >= by || shard.failed.get() {
                    break;
                }
                race(called, shard.io.sleep(by.since(shard.io.now()))).await;
                called = self.files.called.notified();
            }
            if !self.files.is_awaited(session) || shard.failed.get() {
                break;
            }
        }
        match self.files.lists.borrow_mut().remove(&session) {
            Some(List::Came(files)) => Some(files),
            _ => None,
        }
    }
}

/// A peer asks which sealed tables are here.
pub(super) fn listed(
    shard: &Shard,
    logs: &Logs,
    tablet: TabletIndex,
    from: Node,
    body: &[u8],
) -> Result<(), Corrupt> {
    let wrong = Corrupt { structure: "question for files", field: "session", at: 0 };
    let session: [u8; 8] = body.try_into().map_err(|_| wrong)?;
    let Some(log) = logs.tablet(tablet).map(RefCell::borrow) else { return Ok(()) };
    if !logs.gives(shard, tablet) {
        log.tell(shard, from, wire::COPY_NOT, &[&session]);
        return Ok(());
    }
    let mut list = Vec::new();
    for file in shard.state.borrow().tables.windows(tablet).iter().filter_map(file_of) {
        // What a frame does not carry goes with the rest, record by record.
        if list.len() + 2 * FILE_BYTES > shard.limits.frame_bytes_max as usize / 2 {
            break;
        }
        list.extend_from_slice(&file.from.to_le_bytes());
        list.extend_from_slice(&file.to.to_le_bytes());
        list.extend_from_slice(&file.generation.to_le_bytes());
        list.extend_from_slice(&file.bytes.to_le_bytes());
        list.extend_from_slice(&file.checksum.to_le_bytes());
    }
    log.tell(shard, from, wire::FILES, &[&session, &list]);
    Ok(())
}

fn file_of(table: &Rc<Table>) -> Option<File> {
    let window = table.window().filter(|_| !table.is_broken())?;
    let (bytes, checksum) = (table.place.bytes, table.place.checksum);
    Some(File { from: window.from, to: window.to, generation: window.generation, bytes, checksum })
}

/// A peer says which sealed tables it has.
pub(super) fn list(logs: &Logs, body: &[u8]) -> Result<(), Corrupt> {
    let wrong = |field| Corrupt { structure: "list of files", field, at: 0 };
    let (session, list) = body.split_first_chunk::<8>().ok_or(wrong("session"))?;
    let (files, rest) = list.as_chunks::<FILE_BYTES>();
    if !rest.is_empty() {
        return Err(wrong("bytes"));
    }
    let read = |bytes: &[u8; FILE_BYTES]| {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        File {
            from: number(0),
            to: number(8),
            generation: u32::from_le_bytes(bytes[16..20].try_into().expect("4 bytes")),
            bytes: number(20),
            checksum: u128::from_le_bytes(bytes[28..].try_into().expect("16 bytes")),
        }
    };
    let files = files.iter().map(read).collect();
    logs.files.hear(u64::from_le_bytes(*session), List::Came(files));
    Ok(())
}

/// A peer has no list.
pub(super) fn no_list(logs: &Logs, session: u64) {
    logs.files.hear(session, List::None);
}

/// A peer asks for a piece of a table: it waits in the line.
pub(super) fn asked(
    shard: &Rc<Shard>,
    logs: &Logs,
    tablet: TabletIndex,
    from: Node,
    body: &[u8],
) -> Result<(), Corrupt> {
    let wrong = |field| Corrupt { structure: "question for a piece", field, at: 0 };
    let body: &[u8; ASK_BYTES] = body.try_into().map_err(|_| wrong("checksum"))?;
    let head: [u8; PIECE_HEAD_BYTES] = *body.first_chunk().expect("28 bytes");
    let checksum = u128::from_le_bytes(body[..16].try_into().expect("16 bytes"));
    let offset = u64::from_le_bytes(body[16..24].try_into().expect("8 bytes"));
    let count = u32::from_le_bytes(body[24..].try_into().expect("4 bytes")) as usize;
    let Some(table) = shard.keeper.agreeing.table(shard, tablet, checksum) else {
        if let Some(log) = logs.tablet(tablet) {
            log.borrow().tell(shard, from, wire::PIECE, &[&head]);
        }
        return Ok(());
    };
    let is_inside = offset.checked_add(count as u64).is_some_and(|end| end <= table.place.bytes);
    if !is_inside || count == 0 || count > shard.limits.frame_bytes_max as usize / 2 {
        return Err(wrong("bytes"));
    }
    let files = &logs.files;
    if files.line.borrow().len() >= LINE_MAX {
        ioengine::sometimes!("too many pieces of tables are asked for");
        return Ok(());
    }
    files.line.borrow_mut().push_back(Asked { table, tablet, from, head, offset, count });
    if files.giving.get() < GIVEN_MAX {
        files.giving.set(files.giving.get() + 1);
        let shard = Rc::clone(shard);
        shard.clone().io.spawn(Queue::Maintenance, async move { give_line(&shard).await });
    }
    Ok(())
}

/// Give pieces until nobody asks for any.
async fn give_line(shard: &Rc<Shard>) {
    let Some(logs) = &shard.logs else { return };
    let mut bytes = Vec::new();
    loop {
        let asked = logs.files.line.borrow_mut().pop_front();
        let Some(asked) = asked else { break };
        give(shard, logs, &asked, &mut bytes).await;
        ioengine::sync::yield_now().await;
    }
    logs.files.giving.set(logs.files.giving.get() - 1);
}

async fn give(shard: &Shard, logs: &Logs, asked: &Asked, bytes: &mut Vec<u8>) {
    let Asked { table, tablet, from, head, offset, count } = asked;
    let Some(log) = logs.tablet(*tablet) else { return };
    bytes.clear();
    if let Err(error) = table.read(*offset, *count, bytes).await {
        // As if it were not here: another peer has it. What is wrong with it the scrub says, or whoever reads it.
        tracing::error!(%error, "a piece of a table cannot be given");
        log.borrow().tell(shard, *from, wire::PIECE, &[head]);
        return;
    }
    let node = log.borrow().members[from.place()];
    // Votes and entries first: a piece leaves when little else waits for that peer.
    while shard.links.until_idle(node).await {
        if shard.links.send(node, *tablet, wire::PIECE, &[head, bytes]) {
            return shard.counters.file_given_bytes.add(bytes.len() as u64);
        }
        ioengine::sometimes!("a piece of a table finds no room on a link");
        shard.io.sleep(ROOM_RETRY).await;
    }
}

/// A piece has come, or word that the table is not there.
pub(super) fn piece(logs: &Logs, tablet: TabletIndex, from: Node, body: &[u8]) -> Result<(), Corrupt> {
    let wrong = |field| Corrupt { structure: "piece of a table", field, at: 0 };
    let (head, bytes) = body.split_first_chunk::<PIECE_HEAD_BYTES>().ok_or(wrong("checksum"))?;
    let checksum = u128::from_le_bytes(head[..16].try_into().expect("16 bytes"));
    let offset = u64::from_le_bytes(head[16..].try_into().expect("8 bytes"));
    let Some(fetch) = logs.files.fetch_of(tablet, checksum) else { return Ok(()) };
    if bytes.is_empty() {
        ioengine::sometimes!("a peer does not have a piece of a table");
        fetch.source(from, |source| source.is_gone = true);
        for open in fetch.open.borrow_mut().values_mut() {
            open.sent.take_if(|sent| sent.from == from);
        }
    } else {
        if bytes.len() != fetch.piece_at(offset) {
            return Err(wrong("bytes"));
        }
        // It may have been asked for twice, or of another one in a try before this.
        let is_asked = fetch.sources.borrow().iter().any(|source| source.node == from);
        let open = if is_asked { fetch.open.borrow_mut().remove(&offset) } else { None };
        let Some(open) = open else { return Ok(()) };
        fetch.source(from, |source| source.misses = 0);
        fetch.came.borrow_mut().insert(offset, Piece { bytes: bytes.to_vec(), _memory: open.memory });
    }
    logs.files.called.notify();
    Ok(())
}
