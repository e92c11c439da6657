//! A tablet as a whole, for a replica that has nothing, or nothing of use: at the giving end its state and records as a
//! stream of bytes, at the taking end a run of them.
//!
//! Owns the stream's bytes. The state, what the memtables have of the tablet and which tables there are is taken down in one turn: one
//! applied index holds for all of it. Must never give a record that a newer one hides. Invariant: records come in the order of
//! their keys, each once.
//!
//! Who has sealed tables already, of before or as files, names them: what they have is left out, and they come beneath the run. Only
//! tables that the state of the same turn calls sealed are left out, and only those are put in place: so both ends mean the same. Who
//! gives may have the sunk table of a window in the place of a sealed one that was named, or not have it in place yet: what a table that
//! comes beneath the run has is not taken up. Failing history otherwise (sink 64000455): a run had again what is in the sealed table
//! beneath it, that was sunk, and with what is sunk left out the replica seemed to differ from the others.
//!
//! ```text
//! | head 44: bytes of the blob 4, its checksum 16, last entry 8 + 16 | state blob | record | record | ..
//! record:  | key bytes 2, version 8, expiry 8, value bytes 4 | key | value |    value bytes 2^32 - 1: deleted
//! ```

use super::agree::is_named;
use super::build::{BuildError, Sink, TableBuilder};
use super::cursor::{Cursors, TableCursor};
use super::gather::time_of;
pub(crate) use super::publish::Made;
use super::publish::Written;
use super::room::Purpose;
use super::table::Table;
use super::window::Window;
use super::zone::ReadError;
use crate::core::Shard;
use crate::memtable::{Direction, Record};
use crate::seals::Seals;
use crate::tablet::Tablet;
use layout::Corrupt;
use layout::table_key::encode_key;
use layout::table_seal::{Compressor, Decompressor, TableIdentity};
use layout::tablet_state::{StateIdentity, StateReader, StateWriter};
use layout::tablet_window::TabletWindow;
use layout::units::{LogTime, ShardIndex, TableId, TabletIndex, Uuid, Version};
use layout::vote::{VALUE_ID_BYTES, decode_value_id, encode_value_id};
use paxos::{Chosen, LogIndex};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

const HEAD_BYTES: usize = 4 + 16 + 8 + VALUE_ID_BYTES;
const RECORD_BYTES: usize = 2 + 8 + 8 + 4;
/// Bytes of the value of a record that was deleted.
const DELETED: u32 = u32::MAX;
/// Level of the run: it is nobody's neighbour yet.
const LEVEL: u8 = 1;
/// Bytes of each table that are read at once.
const WINDOW_BYTES: u64 = 256 << 10;
/// Records between two looks at other work.
const STEP_COUNT: usize = 64;

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

fn identity(cluster: Uuid, tablet: TabletIndex) -> StateIdentity {
    StateIdentity {
        device: cluster,
        shard: ShardIndex(0),
        generation: 0,
        blob: TableId(u64::from(tablet.get())),
    }
}

/// A record that is in memory.
struct Held {
    version: Version,
    expiry_us: u64,
    value: Option<Box<[u8]>>,
}

/// A tablet as it was in one turn: the head of its stream, and what its records are read from.
pub(crate) struct TakenDown {
    head: Vec<u8>,
    held: BTreeMap<Vec<u8>, Held>,
    tables: Vec<Rc<Table>>,
    log_time: LogTime,
    seals: Rc<Seals>,
}

/// Sealed tables that a copy need not bring.
#[derive(Default)]
pub(crate) struct SealedTables {
    /// Had before, and found whole.
    pub(crate) kept: Vec<Rc<Table>>,
    /// Taken as files.
    pub(crate) taken: Vec<Made>,
}

impl SealedTables {
    /// All of them.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Rc<Table>> {
        self.kept.iter().chain(self.taken.iter().map(|made| &made.table))
    }

    /// Those that are the tables of sealed windows.
    fn of(mut self, seals: &Seals) -> SealedTables {
        self.kept.retain(|table| is_sealed(seals, table));
        self.taken.retain(|made| is_sealed(seals, &made.table));
        self
    }
}

/// Does the log name this table?
fn is_sealed(seals: &Seals, table: &Rc<Table>) -> bool {
    is_named(seals, table)
}

impl TakenDown {
    /// Without what was deleted and is kept for the sake of a seal that is not in place everywhere: what of that a replica has
    /// left is its own affair.
    pub(crate) fn bare(self) -> TakenDown {
        TakenDown { seals: Rc::default(), ..self }
    }
}

/// The giving end: a tablet as it was in one turn, on its way.
pub(crate) struct Giving {
    held: BTreeMap<Vec<u8>, Held>,
    cursors: Cursors,
    log_time: LogTime,
    seals: Rc<Seals>,
    unpack: Decompressor,
    key: Vec<u8>,
}

fn push_record(out: &mut Vec<u8>, key: &[u8], record: &Record<'_>) {
    let Record { version, expiry_us, value } = *record;
    let value_bytes = value.map_or(DELETED, |value| u32::try_from(value.len()).expect("a value is bounded"));
    out.extend_from_slice(&u16::try_from(key.len()).expect("a key is short").to_le_bytes());
    out.extend_from_slice(&version.0.to_le_bytes());
    out.extend_from_slice(&expiry_us.to_le_bytes());
    out.extend_from_slice(&value_bytes.to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value.unwrap_or_default());
}

impl Giving {
    /// Take down what the tablet is now; `chosen` is the last entry applied. What the sealed tables `left_out` have is left out.
    /// The stream begins in `out`.
    ///
    /// # Errors
    /// A table cannot be read.
    pub(crate) async fn begin(
        shard: &Shard,
        tablet: TabletIndex,
        chosen: Chosen,
        left_out: &[u128],
        out: &mut Vec<u8>,
    ) -> Result<Giving, ReadError> {
        Giving::open(Giving::take_down(shard, tablet, chosen, left_out), out).await
    }

    /// In one turn: what the tablet is now but for sealed tables with these checksums; `chosen` is the last entry applied.
    pub(crate) fn take_down(
        shard: &Shard,
        tablet: TabletIndex,
        chosen: Chosen,
        left_out: &[u128],
    ) -> TakenDown {
        let state = shard.state.borrow();
        let mut held = BTreeMap::new();
        // The active memtable has the newer version of a key that both have.
        for memtable in std::iter::once(&state.memtables.active).chain(state.memtables.frozen()) {
            for entry in memtable.range(tablet, Bound::Unbounded, Direction::Forward) {
                let mut key = Vec::new();
                encode_key(&mut key, entry.bucket, entry.key);
                let Record { version, expiry_us, value } = entry.record;
                held.entry(key).or_insert(Held { version, expiry_us, value: value.map(Box::from) });
            }
        }
        let own = state.tablet(tablet);
        // A window has two tables once it is sunk, with the same records.
        let is_had = |window: Window| {
            let name = (window.from, window.to, window.generation);
            left_out.iter().any(|checksum| own.seals.names(name, *checksum))
        };
        let is_given =
            |table: &&Rc<Table>| !is_sealed(&own.seals, table) || !table.window().is_some_and(is_had);
        let windows = state.tables.windows(tablet).iter().filter(is_given);
        let tables = state.tables.runs(tablet).iter().chain(windows).cloned().collect();
        let mut writer = StateWriter::new(&identity(shard.facts.cluster, tablet), 1);
        state.write_tablet(tablet, &mut writer);
        let summary = writer.finish();
        let bytes = u32::try_from(summary.bytes).expect("what one tablet remembers is bounded");
        let mut head = Vec::new();
        head.extend_from_slice(&bytes.to_le_bytes());
        head.extend_from_slice(&summary.checksum.to_le_bytes());
        head.extend_from_slice(&chosen.index.0.to_le_bytes());
        head.extend_from_slice(&encode_value_id(chosen.value));
        head.extend_from_slice(writer.pending());
        TakenDown { head, held, tables, log_time: own.log_time, seals: Rc::clone(&own.seals) }
    }

    /// Begin to give what was taken down. The stream begins in `out`.
    ///
    /// # Errors
    /// A table cannot be read.
    pub(crate) async fn open(taken: TakenDown, out: &mut Vec<u8>) -> Result<Giving, ReadError> {
        let TakenDown { mut head, held, tables, log_time, seals } = taken;
        out.append(&mut head);
        let mut unpack = Decompressor::new();
        let mut cursors = Cursors::new(tables.len(), Direction::Forward);
        for table in tables {
            let mut cursor = TableCursor::new(table, WINDOW_BYTES)?;
            cursor.seek_first(&mut unpack).await?;
            cursors.push(cursor);
        }
        Ok(Giving { held, cursors, log_time, seals, unpack, key: Vec::new() })
    }

    /// Append the next bytes of the stream, about `bytes`. True at its end.
    ///
    /// # Errors
    /// A table cannot be read.
    pub(crate) async fn next(&mut self, bytes: usize, out: &mut Vec<u8>) -> Result<bool, ReadError> {
        let mut count = 0;
        while out.len() < bytes {
            if !self.step(out).await? {
                return Ok(true);
            }
            count += 1;
            if count % STEP_COUNT == 0 {
                ioengine::sync::yield_now().await;
            }
        }
        Ok(false)
    }

    /// What is alive, and what hides something in a sealed table that comes beneath the copy.
    fn is_wanted(&self, key: &[u8], record: &Record<'_>) -> bool {
        let is_alive = record.value.is_some() && !self.log_time.has_expired(record.expiry_us);
        let time = time_of(key);
        let is_above =
            |window: &TabletWindow| window.holds(time) && record.version.log_index(0) > window.index;
        let hides = || self.seals.windows().any(is_above);
        is_alive || !ioengine::canary("copy_forgets_what_is_above") && hides()
    }

    /// The next record; false when there are no more.
    async fn step(&mut self, out: &mut Vec<u8>) -> Result<bool, ReadError> {
        let in_table = self.cursors.next(&[]).and_then(TableCursor::key);
        let in_memory = self.held.first_key_value().map(|(key, _)| key.as_slice());
        let from_memory = match (in_memory, in_table) {
            (None, None) => return Ok(false),
            (Some(memory), Some(table)) => memory <= table,
            (memory, None) => memory.is_some(),
            (None, Some(_)) => false,
        };
        self.key.clear();
        if from_memory {
            let (key, record) = self.held.pop_first().expect("just seen");
            let record = Record {
                version: record.version,
                expiry_us: record.expiry_us,
                value: record.value.as_deref(),
            };
            if self.is_wanted(&key, &record) {
                push_record(out, &key, &record);
            }
            self.key.extend_from_slice(&key);
        } else {
            let newest = self.cursors.next(&[]).expect("just seen");
            let entry = newest.entry()?.expect("the least key stands at a record");
            if self.is_wanted(entry.key, &entry.record) {
                push_record(out, entry.key, &entry.record);
            }
            self.key.extend_from_slice(entry.key);
        }
        self.cursors.advance(&self.key, &mut self.unpack).await?;
        Ok(true)
    }
}

/// Why a copy was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the state in it is not whole")]
    State,
}

/// The taking end: a run that grows, and what came before its records.
pub(crate) struct Taking {
    tablet: TabletIndex,
    id: TableId,
    identity: TableIdentity,
    output: Option<TableBuilder>,
    /// Bytes that are not a whole record yet.
    rest: Vec<u8>,
    /// Becomes the tablet of the copy.
    fresh: Option<Tablet>,
    /// The last entry in it, and what the tablet remembers.
    head: Option<(Chosen, Tablet)>,
    /// Windows whose tables come beneath the run.
    beneath: Vec<TabletWindow>,
    last_key: Vec<u8>,
}

/// A copy that was taken: durable, and named by nobody yet.
pub(crate) struct Taken {
    pub(crate) chosen: Chosen,
    /// What the tablet remembers.
    pub(crate) tablet: Tablet,
    pub(crate) made: Option<Made>,
    /// What comes beneath the run.
    pub(crate) files: SealedTables,
}

impl Taking {
    /// Nothing has come yet. `fresh` has applied nothing, and becomes the tablet of the copy.
    pub(crate) fn new(shard: &Shard, tablet: TabletIndex, fresh: Tablet) -> Taking {
        let keeper = &shard.keeper;
        let id = keeper.next_table();
        let identity = keeper.owner.run(tablet, id);
        let sink = Sink::new(Rc::clone(&keeper.zone), Purpose::Flush, 0);
        let options = keeper.options(&shard.limits);
        let output = TableBuilder::new(identity, options, Compressor::new(), sink, 0);
        let (rest, last_key) = (Vec::new(), Vec::new());
        let (output, fresh, beneath) = (Some(output), Some(fresh), Vec::new());
        Taking { tablet, id, identity, output, rest, fresh, head: None, beneath, last_key }
    }

    /// The next bytes of the stream, of a peer that has left out what `files` have.
    ///
    /// # Errors
    /// [`TakeError`]: what came cannot be understood, or there is no room for it.
    pub(crate) async fn take(
        &mut self,
        shard: &Shard,
        bytes: &[u8],
        files: &SealedTables,
    ) -> Result<(), TakeError> {
        self.rest.extend_from_slice(bytes);
        let mut rest = std::mem::take(&mut self.rest);
        let mut at = 0;
        let mut count = 0;
        while let Some(used) = self.item(shard, &rest[at..], files)? {
            at += used;
            count += 1;
            let output = self.output.as_mut().expect("a copy is finished once");
            if output.is_due() {
                output.write().await?;
            }
            if count % STEP_COUNT == 0 {
                ioengine::sync::yield_now().await;
            }
        }
        rest.drain(..at);
        self.rest = rest;
        Ok(())
    }

    /// Take the head or a record off the front; `None` when it is not whole.
    fn item(
        &mut self,
        shard: &Shard,
        input: &[u8],
        files: &SealedTables,
    ) -> Result<Option<usize>, TakeError> {
        if self.head.is_none() {
            return self.state(shard, input, files);
        }
        let wrong = |field| Corrupt { structure: "copy of a tablet", field, at: 0 };
        let Some(head) = input.first_chunk::<RECORD_BYTES>() else { return Ok(None) };
        let is_deleted = number(&head[18..]) == u64::from(DELETED);
        let value_bytes = if is_deleted { 0 } else { number(&head[18..]) as usize };
        let key_bytes = number(&head[..2]) as usize;
        let all = RECORD_BYTES + key_bytes + value_bytes;
        let Some(body) = input.get(RECORD_BYTES..all) else { return Ok(None) };
        let (key, value) = body.split_at(key_bytes);
        if key <= self.last_key.as_slice() {
            return Err(wrong("order of keys").into());
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        let record = Record {
            version: Version(number(&head[2..10])),
            expiry_us: number(&head[10..18]),
            value: (!is_deleted).then_some(value),
        };
        let time = time_of(key);
        let is_beneath =
            |window: &TabletWindow| window.holds(time) && record.version.log_index(0) <= window.index;
        if self.beneath.iter().any(is_beneath) {
            ioengine::sometimes!("a copy brings what a table beneath it has");
            return Ok(Some(all));
        }
        self.output.as_mut().expect("a copy is finished once").push(key, &record);
        Ok(Some(all))
    }

    /// Take the head and the state off the front; `None` when they are not whole.
    fn state(
        &mut self,
        shard: &Shard,
        input: &[u8],
        files: &SealedTables,
    ) -> Result<Option<usize>, TakeError> {
        let wrong = |field| Corrupt { structure: "copy of a tablet", field, at: 0 };
        let Some(head) = input.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let blob_bytes = number(&head[..4]) as usize;
        let Some(blob) = input.get(HEAD_BYTES..HEAD_BYTES + blob_bytes) else { return Ok(None) };
        let checksum = u128::from_le_bytes(head[4..20].try_into().expect("16 bytes"));
        let value = decode_value_id(head[28..].try_into().expect("16 bytes")).ok_or(wrong("value"))?;
        let chosen = Chosen { index: LogIndex(number(&head[20..28])), value };
        let mut tablets: Vec<Option<Tablet>> = TabletIndex::all().map(|_| None).collect();
        tablets[self.tablet.index()] = self.fresh.take();
        let reader = StateReader::new(&identity(shard.facts.cluster, self.tablet), blob.len() as u64);
        super::capture::restore(reader, blob, checksum, &mut tablets).map_err(|_| TakeError::State)?;
        let tablet = tablets[self.tablet.index()].take().ok_or(TakeError::State)?;
        if tablet.applied.0 != chosen.index.0 {
            return Err(TakeError::State);
        }
        let tables = files.tables().filter(|table| is_sealed(&tablet.seals, table));
        let windows: Vec<Window> = tables.filter_map(|table| table.window()).collect();
        let is_here = |window: &&TabletWindow| {
            let name = Window { from: window.from, to: window.to, generation: window.generation };
            windows.contains(&name)
        };
        self.beneath = tablet.seals.sealed.iter().filter(is_here).copied().collect();
        let sealed_to = windows.iter().map(|window| window.to).max();
        self.output.as_mut().expect("a copy is finished once").set_sealed_to(sealed_to.unwrap_or(0));
        self.head = Some((chosen, tablet));
        Ok(Some(HEAD_BYTES + blob_bytes))
    }

    /// The stream has ended: make the run, and the files beneath it, durable.
    ///
    /// # Errors
    /// [`TakeError`].
    pub(crate) async fn finish(mut self, shard: &Shard, files: SealedTables) -> Result<Taken, TakeError> {
        let output = self.output.take().expect("a copy is finished once");
        let (chosen, tablet) = self.head.take().filter(|_| self.rest.is_empty()).ok_or(TakeError::State)?;
        let files = files.of(&tablet.seals);
        let mut made = None;
        if !output.is_empty() {
            let (built, _) = output.finish().await?;
            let Taking { id, identity, .. } = self;
            let written = Written { id, tablet: self.tablet, level: LEVEL, identity, built };
            made = Some(written.open(&mut Decompressor::new()).await?);
        }
        shard.keeper.zone.disk().flush().await.map_err(BuildError::from)?;
        Ok(Taken { chosen, tablet, made, files })
    }
}
