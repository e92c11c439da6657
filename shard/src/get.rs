//! Life of a get on the core that owns its tablet: version cell, memtable, answer. Plain functions: no task, no wait,
//! no allocation.
//!
//! The version cell answers "has it changed?" alone; it is asked first, because later the record may lie on a disk.

use crate::apply::State;
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
}

/// The record of `key`, or why there is none to show.
pub(crate) fn look<'a>(
    state: &'a State,
    tablet: TabletIndex,
    key: Key<'_>,
    asked: Asked,
) -> Result<Visible<'a>, Outcome> {
    let own = state.tablet(tablet);
    if own.damage.is_some() && !asked.local {
        return Err(Outcome::Corrupt);
    }
    let hash = asked.hash.unwrap_or_else(|| state.memtable.key_hash(key));
    let record = state.memtable.get(hash, key);
    let visible = record.and_then(|record| visible(record, own.log_time));
    match (visible, asked.if_newer) {
        (None, Some(Version::ABSENT)) => Err(Outcome::NotModified),
        (None, _) => Err(Outcome::NotFound),
        (Some(visible), Some(asked)) if visible.version == asked => Err(Outcome::NotModified),
        (Some(visible), _) => Ok(visible),
    }
}

/// True if the version cell alone says that the record is unchanged. Cells hold no record that expires, so a cell
/// never outlives what it speaks of.
pub(crate) fn is_unmodified(state: &mut State, tablet: TabletIndex, key: Key<'_>, asked: Version) -> bool {
    if state.tablet(tablet).damage.is_some() {
        return false;
    }
    let place = state.versions.place(tablet, key);
    state.versions.lookup(&place) == Some(asked)
}

/// What a record looks like at log time `now`: a deleted or expired one is absent.
pub(crate) fn visible(record: crate::memtable::Record<'_>, now: LogTime) -> Option<Visible<'_>> {
    let expired = record.expiry_us != 0 && record.expiry_us <= now.0;
    match record.value {
        Some(value) if !expired => {
            Some(Visible { version: record.version, expiry_us: record.expiry_us, value })
        }
        _ => None,
    }
}

/// True if the record is shown although the tablet's next entry would find it expired: log time has stood still for
/// want of writes, and the tablet wants a tick.
pub(crate) fn wants_tick(visible: &Visible<'_>, clock: impl FnOnce() -> LogTime) -> bool {
    visible.expiry_us != 0 && visible.expiry_us <= clock().0
}
