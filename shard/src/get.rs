//! Life of a get on the core that owns its tablet: version cell, memtables, blocks of tables that are in memory, answer.
//! Plain functions: no task, no wait, no allocation. What lies on the disk only is left to `late`.
//!
//! The version cell answers "has it changed?" alone; it is asked first, because later the record may lie on a disk.

use crate::apply::State;
use crate::lsm::{Aim, Probe};
use crate::memtable::Record;
use layout::key::Key;
use layout::units::{LogTime, TabletIndex, Version};
use net::outcome::Outcome;

/// A record as a client may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Visible<'a> {
    pub(crate) version: Version,
    /// Microseconds, 0 = never.
    pub(crate) expiry_us: u64,
    pub(crate) value: &'a [u8],
}

/// How a read is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// A record of just this version is `NotModified`; 0 asks whether there is still none.
    pub(crate) if_newer: Option<Version>,
    /// Whatever this replica has will do, also if its log is damaged.
    pub(crate) local: bool,
    /// The memtable's hash of the key, where it is known already.
    pub(crate) hash: Option<u64>,
    /// Where tables have it, where that is known already.
    pub(crate) aim: Option<Aim>,
}

/// What memory says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked<'a> {
    /// It is there.
    Found(Visible<'a>),
    /// There is none to show, and this is why.
    Not(Outcome),
    /// The disk has to be asked.
    Disk,
}

/// The record of `key`, as far as memory knows.
#[inline]
pub(crate) fn look<'a>(state: &'a State, tablet: TabletIndex, key: Key<'_>, asked: Asked) -> Looked<'a> {
    let own = state.tablet(tablet);
    if own.damage.is_some() && !asked.local {
        return Looked::Not(Outcome::Corrupt);
    }
    if own.awaits_tables {
        return Looked::Not(Outcome::NotCurrent);
    }
    let hash = asked.hash.unwrap_or_else(|| state.memtables.key_hash(key));
    let record = match state.memtables.get(hash, key) {
        Some(record) => Some(record),
        None => match state.tables.look(tablet, key, asked.aim) {
            Probe::Absent => None,
            Probe::Record(record) => Some(record),
            Probe::Disk => return Looked::Disk,
        },
    };
    judge(record, own.log_time, asked.if_newer)
}

/// What a client that asks for `if_newer` is shown of the newest record of a key.
pub(crate) fn judge(record: Option<Record<'_>>, now: LogTime, if_newer: Option<Version>) -> Looked<'_> {
    match (record.and_then(|record| visible(record, now)), if_newer) {
        (None, Some(Version::ABSENT)) => Looked::Not(Outcome::NotModified),
        (None, _) => Looked::Not(Outcome::NotFound),
        (Some(visible), Some(asked)) if visible.version == asked => Looked::Not(Outcome::NotModified),
        (Some(visible), _) => Looked::Found(visible),
    }
}

/// True if the version cell alone says that the record is unchanged. Cells hold no record that expires, so a cell
/// never outlives what it speaks of.
pub(crate) fn is_unmodified(state: &mut State, tablet: TabletIndex, key: Key<'_>, asked: Version) -> bool {
    let own = state.tablet(tablet);
    if own.damage.is_some() || own.awaits_tables {
        return false;
    }
    let place = state.versions.place(tablet, key);
    state.versions.lookup(&place) == Some(asked)
}

/// What a record looks like at log time `now`: a deleted or expired one is absent.
pub(crate) fn visible(record: Record<'_>, now: LogTime) -> Option<Visible<'_>> {
    match record.value {
        Some(value) if !now.has_expired(record.expiry_us) => {
            Some(Visible { version: record.version, expiry_us: record.expiry_us, value })
        }
        _ => None,
    }
}

/// True if the record is shown although the tablet's next entry would find it expired: log time has stood still for
/// want of writes, and the tablet wants a tick.
pub(crate) fn wants_tick(visible: &Visible<'_>, clock: impl FnOnce() -> LogTime) -> bool {
    visible.expiry_us != 0 && clock().has_expired(visible.expiry_us)
}
