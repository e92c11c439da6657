//! What an entry does, decided when it is applied: the same at every replica and at every replay, without reading a
//! disk. Order inside one write: version cell first, then the memtable makes it visible, then the outcome is
//! remembered.

use crate::lsm::{Capture, Tables};
use crate::memtables::Memtables;
use crate::recent::Answer;
use crate::requests::{Outcome, Seen};
use crate::seals::{Seals, Sinking};
use crate::tablet::Tablet;
use crate::versions::Versions;
use layout::Corrupt;
use layout::key::Key;
use layout::log_entry::{Change, Entry, Operation, Write};
use layout::units::{LogIndex, LogTime, RequestId, STREAM_BYTES_MAX, TabletIndex, Version};
use std::rc::Rc;

/// Everything a core's requests read and its entries change.
pub(crate) struct State {
    /// By tablet index; `None` for tablets of other cores.
    pub(crate) tablets: Vec<Option<Tablet>>,
    pub(crate) memtables: Memtables,
    pub(crate) tables: Tables,
    pub(crate) versions: Versions,
    /// By tablet: what was applied up to here is in tables.
    pub(crate) flushed: Vec<LogIndex>,
    /// The tablets as they were when a memtable was frozen, until they are written down.
    pub(crate) capture: Option<Capture>,
}

impl State {
    pub(crate) fn tablet(&self, index: TabletIndex) -> &Tablet {
        self.tablets[index.index()].as_ref().expect("routing sends a tablet's requests to its owner")
    }

    pub(crate) fn tablet_mut(&mut self, index: TabletIndex) -> &mut Tablet {
        self.tablets[index.index()].as_mut().expect("routing sends a tablet's requests to its owner")
    }
}

/// What became of one request of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// It took effect; its first operation has this version.
    Applied(Version),
    /// It took effect before; this was a retry.
    Repeated(Version),
    /// The record has another version than the client expects, or may have.
    Mismatch(Option<Version>),
    /// Its id is older than what is remembered: it may have been applied, and is not applied now.
    TooOld,
    /// Its id claims a log time that its tablet has never had.
    Ahead,
    /// No more ids can be remembered.
    IdsFull,
    /// A tick: log time went on.
    Ticked,
    /// The same, and the replicas compare what they hold.
    Verified,
    /// A seal begins or ends, or would have if nothing had come between.
    Sealed,
}

/// Statuses in the table of request ids.
const STATUS_WRITTEN: u8 = 1;
const STATUS_MISMATCH: u8 = 2;

impl From<Outcome> for Decided {
    /// What a retry is told: the outcome that was kept.
    fn from(kept: Outcome) -> Decided {
        match kept.status {
            STATUS_WRITTEN => Decided::Repeated(kept.version),
            STATUS_MISMATCH => Decided::Mismatch((!kept.version.is_absent()).then_some(kept.version)),
            other => panic!("no outcome has status {other}"),
        }
    }
}

/// Why an entry cannot be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// Its bytes are wrong, or it is not for this core.
    #[error("{0}")]
    Corrupt(#[from] Corrupt),
    /// The memtable is smaller than what the journal holds.
    #[error("the journal holds more than the memtable: raise memtable_bytes or memtable_record_count_max")]
    MemtableFull,
}

/// Apply one entry, the next of its tablet. `decided` hears of each request in order.
///
/// # Errors
/// [`ApplyError`]: possible while replaying only; at run time the door has checked the bytes and reserved the room.
pub(crate) fn apply(
    state: &mut State,
    entry: &Entry<'_>,
    decided: &mut impl FnMut(Decided),
) -> Result<(), ApplyError> {
    let header = entry.header;
    let tablet = state.tablets[header.tablet.index()].as_mut().ok_or(Corrupt {
        structure: "log entry",
        field: "tablet of another core",
        at: entry.body_at,
    })?;
    assert!(header.log_index > tablet.applied, "an entry is applied once");
    let log_time = tablet.log_time.max(header.stamp);
    let mut operations = entry.operations();
    let mut position = 0u16;
    loop {
        let group = operations.clone();
        let Some(first) = operations.next().transpose()? else { break };
        let mut count = 1u16;
        let mut more = first.atomic_with_next();
        while more {
            let Some(next) = operations.next().transpose()? else { break };
            more = next.atomic_with_next();
            count += 1;
        }
        let outcome = match first {
            Operation::Tick => Decided::Ticked,
            Operation::Verify => Decided::Verified,
            Operation::Seal(seal) => {
                let own = state.tablet_mut(header.tablet);
                Rc::make_mut(&mut own.seals).begin(&seal, header.log_index, log_time);
                Decided::Sealed
            }
            Operation::Sealed(sealed) => {
                let own = state.tablet_mut(header.tablet);
                let before = Rc::clone(&own.seals);
                Rc::make_mut(&mut own.seals).agree(&sealed, log_time);
                tell_sinks(header.tablet, &before, &own.seals);
                Decided::Sealed
            }
            Operation::Sink(step) => {
                let own = state.tablet_mut(header.tablet);
                let before = Rc::clone(&own.seals);
                Rc::make_mut(&mut own.seals).sink(&step);
                tell_sinks(header.tablet, &before, &own.seals);
                Decided::Sealed
            }
            Operation::Write(first) => {
                let at = At { index: header.log_index, position, log_time };
                let group = group.take(usize::from(count)).filter_map(|operation| match operation {
                    Ok(Operation::Write(write)) => Some(write),
                    Ok(_) | Err(_) => None,
                });
                apply_group(state, header.tablet, at, first.request, group)?
            }
        };
        decided(outcome);
        position = position.wrapping_add(count);
    }
    if ioengine::collects_facts() {
        let key = (u64::from(header.tablet.get()) << 56) | header.log_index.0;
        let stamped = header.stamp.0.to_le_bytes();
        let value = layout::checksum::short(entry.body) ^ layout::checksum::short(&stamped);
        ioengine::fact("applied", key, value);
    }
    let tablet = state.tablet_mut(header.tablet);
    tablet.applied = header.log_index;
    tablet.log_time = log_time;
    Ok(())
}

#[derive(Clone, Copy)]
struct At {
    index: LogIndex,
    position: u16,
    log_time: LogTime,
}

/// Tell who compares replicas which windows have sunk, and where to.
fn tell_sinks(tablet: TabletIndex, before: &Seals, now: &Seals) {
    if !ioengine::collects_facts() || before.sinks == now.sinks {
        return;
    }
    let key = |sinking: &Sinking| u64::from(tablet.get()) << 56 | u64::from(sinking.sink.generation);
    let has = |seals: &Seals, one: &Sinking| {
        seals
            .sinks
            .iter()
            .any(|other| other.sink.generation == one.sink.generation && other.sink.sunk.is_some())
    };
    let is_sunk = |sinking: &&Sinking| sinking.sink.sunk.is_some();
    for sinking in now.sinks.iter().filter(is_sunk).filter(|sinking| !has(before, sinking)) {
        let mut bytes = layout::tablet_sink::links_bytes(&sinking.links);
        bytes.extend_from_slice(&sinking.sink.sunk.unwrap_or_default().to_le_bytes());
        ioengine::fact("sunk", key(sinking), layout::checksum::short(&bytes));
    }
}

/// One request: a write, or an atomic batch of them.
fn apply_group<'a>(
    state: &mut State,
    tablet: TabletIndex,
    at: At,
    request: RequestId,
    group: impl Iterator<Item = Write<'a>> + Clone,
) -> Result<Decided, ApplyError> {
    let own = state.tablet_mut(tablet);
    match own.requests.check(request, at.log_time) {
        Seen::New => {}
        Seen::Applied(outcome) => return Ok(outcome.into()),
        Seen::Ahead => return Ok(Decided::Ahead),
        Seen::TooOld => return Ok(Decided::TooOld),
        Seen::Full => return Ok(Decided::IdsFull),
    }
    for write in group.clone() {
        if let Some(mismatch) = compare(own, &write, at.log_time) {
            let version = mismatch.unwrap_or(Version::ABSENT);
            own.requests.record(request, Outcome { status: STATUS_MISMATCH, version }, at.log_time);
            return Ok(Decided::Mismatch(mismatch));
        }
    }
    let first = Version::new(at.index, 0, at.position);
    for (number, write) in group.enumerate() {
        let position = at.position + u16::try_from(number).expect("an entry has at most 65,535 operations");
        apply_write(state, tablet, &write, Version::new(at.index, 0, position), at.index)?;
    }
    let own = state.tablet_mut(tablet);
    own.requests.record(request, Outcome { status: STATUS_WRITTEN, version: first }, at.log_time);
    Ok(Decided::Applied(first))
}

/// `None` when a write may go on; else why not: the version the record has, if known.
///
/// The proposer saw `observed` at `observed_index`. It still holds if nobody has written the key since; if the list
/// of recent writes does not reach back that far, that cannot be known, and the answer is no.
fn compare(tablet: &Tablet, write: &Write<'_>, log_time: LogTime) -> Option<Option<Version>> {
    let Change::CompareAndSet { expected, observed, observed_index, observed_expiry_us, .. } = write.change
    else {
        return None;
    };
    let found = if log_time.has_expired(observed_expiry_us) { Version::ABSENT } else { observed };
    match tablet.recent.written_since(compare_hash(write.key), observed_index) {
        // What was seen is current only if it was not overtaken.
        Answer::No if found != expected => Some(Some(found)),
        Answer::Yes | Answer::Unknown if found != expected => Some(None),
        _ if ioengine::canary("skip_compare") => None,
        Answer::No => None,
        Answer::Yes | Answer::Unknown => Some(None),
    }
}

fn apply_write(
    state: &mut State,
    tablet: TabletIndex,
    write: &Write<'_>,
    version: Version,
    index: LogIndex,
) -> Result<(), ApplyError> {
    let key: Key<'_> = write.key;
    let value = write.value();
    let place = state.versions.place(tablet, key);
    match (value, write.expiry_us) {
        // A deleted record has version 0 wherever it can be seen.
        (None, _) => state.versions.update(&place, Version::ABSENT),
        (Some(_), 0) if ioengine::canary("stale_version_cell") => {}
        (Some(_), 0) => state.versions.update(&place, version),
        (Some(_), _) if ioengine::canary("cell_outlives_expiry") => state.versions.update(&place, version),
        // A cell cannot say when it stops being true.
        (Some(_), _) => state.versions.forget(&place),
    }
    let hash = state.memtables.key_hash(key);
    state
        .memtables
        .active
        .put(tablet, key.bucket(), hash, key, version, write.expiry_us, value)
        .map_err(|_| ApplyError::MemtableFull)?;
    state.tablet_mut(tablet).recent.note(compare_hash(key), index);
    Ok(())
}

/// Hash of a key in the list of recent writes: without a seed, the same at every replica.
fn compare_hash(key: Key<'_>) -> u128 {
    let mut input = [0; 10 + STREAM_BYTES_MAX];
    let bytes = 10 + key.stream.len();
    input[..2].copy_from_slice(&key.space.0.to_le_bytes());
    input[2..10].copy_from_slice(&key.time.to_le_bytes());
    input[10..bytes].copy_from_slice(key.stream);
    xxhash_rust::xxh3::xxh3_128(&input[..bytes])
}
