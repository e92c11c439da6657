//! The state of the tablets as it was when a memtable was frozen: what replay needs beside records. It is copied tablet
//! by tablet, each before the next entry of that tablet is applied or when the flush comes to it, whichever is first: so
//! that a freeze costs no request more than the copy of its own tablet.

use crate::apply::State;
use crate::proof::Damage;
use crate::requests::{AppliedRequest, Outcome};
use crate::tablet::Tablet;
use layout::tablet_state::{StateItem, StateReader, StateRecent, StateRequest, StateWriter, TabletHead};
use layout::units::{LogIndex, LogTime, TABLET_COUNT, TabletIndex};

/// One tablet, as it was.
pub(crate) struct CapturedTablet {
    head: TabletHead,
    requests: Vec<StateRequest>,
    recent: Vec<StateRecent>,
}

/// The tablets of a shard, as they were or still are.
pub(crate) struct Capture {
    tablets: Vec<Option<CapturedTablet>>,
    /// Tablets not copied yet, one bit each.
    pending: u64,
    count: usize,
}

fn copy(index: TabletIndex, tablet: &Tablet) -> CapturedTablet {
    let request = |request: &AppliedRequest| StateRequest {
        id: request.id,
        log_time: request.log_time,
        status: request.outcome.status,
        version: request.outcome.version,
    };
    let requests: Vec<_> = tablet.requests.entries().map(request).collect();
    let recent: Vec<_> =
        tablet.recent.entries().map(|(key_hash, log_index)| StateRecent { key_hash, log_index }).collect();
    let recent_newest = recent.last().map_or(tablet.recent.floor(), |last| last.log_index);
    let head = TabletHead {
        tablet: index,
        applied: tablet.applied,
        log_time: tablet.log_time,
        damage: tablet.damage.map(|damage| (damage.from, damage.to)),
        request_floor: tablet.requests.floor(),
        request_count: u32::try_from(requests.len()).expect("a table is bounded"),
        recent_floor: tablet.recent.floor(),
        recent_newest,
        recent_count: u32::try_from(recent.len()).expect("a list is bounded"),
    };
    CapturedTablet { head, requests, recent }
}

impl CapturedTablet {
    /// Write it to the blob.
    pub(crate) fn write(&self, writer: &mut StateWriter) {
        writer.begin_tablet(&self.head);
        self.requests.iter().for_each(|request| writer.request(request));
        self.recent.iter().for_each(|recent| writer.recent(recent));
    }
}

impl State {
    /// A memtable was frozen: the tablets as they are now are wanted.
    pub(crate) fn begin_capture(&mut self) {
        let own = TabletIndex::all().filter(|tablet| self.tablets[tablet.index()].is_some());
        let pending = own.fold(0, |bits, tablet| bits | 1u64 << tablet.index());
        let tablets = (0..TABLET_COUNT).map(|_| None).collect();
        self.capture = Some(Capture { tablets, pending, count: pending.count_ones() as usize });
    }

    /// Before anything of a tablet changes: copy it if that is wanted.
    #[inline]
    pub(crate) fn capture(&mut self, index: TabletIndex) {
        let Some(capture) = &mut self.capture else { return };
        let bit = 1 << index.index();
        if capture.pending & bit != 0 && !ioengine::canary("capture_too_late") {
            capture.pending &= !bit;
            let tablet = self.tablets[index.index()].as_ref().expect("only own tablets are pending");
            capture.tablets[index.index()] = Some(copy(index, tablet));
        }
    }

    /// Tablets that the capture is of.
    pub(crate) fn capture_count(&self) -> usize {
        self.capture.as_ref().map_or(0, |capture| capture.count)
    }

    /// A tablet of the capture, copied now if it has not changed since the freeze. `None` for those of other cores.
    pub(crate) fn captured(&mut self, index: TabletIndex) -> Option<CapturedTablet> {
        self.tablets[index.index()].as_ref()?;
        let capture = self.capture.as_mut().expect("a flush has begun one");
        let bit = 1 << index.index();
        if capture.pending & bit == 0 {
            // Kept: a flush that finds no space is tried again.
            let kept = capture.tablets[index.index()].as_ref().expect("what is not pending is copied");
            let CapturedTablet { head, requests, recent } = kept;
            return Some(CapturedTablet { head: *head, requests: requests.clone(), recent: recent.clone() });
        }
        let tablet = self.tablets[index.index()].as_ref().expect("just seen");
        Some(copy(index, tablet))
    }

    /// The blob is durable.
    pub(crate) fn end_capture(&mut self) {
        self.capture = None;
    }
}

/// Why a blob is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Corrupt(#[from] layout::Corrupt),
    #[error("the state's blob ends early, or is not the one that the manifest names")]
    Other,
}

/// Give tablets that have applied nothing the state that a blob holds. `checksum` is what the manifest says of it.
pub(crate) fn restore(
    mut reader: StateReader,
    bytes: &[u8],
    checksum: u128,
    tablets: &mut [Option<Tablet>],
) -> Result<(), StateError> {
    let mut input = bytes;
    let mut current: Option<TabletIndex> = None;
    loop {
        let item = reader.next(&mut input)?.ok_or(StateError::Other)?;
        let own = current.and_then(|index| tablets[index.index()].as_mut());
        match item {
            StateItem::Tablet(head) => {
                current = Some(head.tablet);
                let tablet = tablets[head.tablet.index()].as_mut().ok_or(StateError::Other)?;
                begin(tablet, &head);
            }
            StateItem::Request(StateRequest { id, log_time, status, version }) => {
                let tablet = own.ok_or(StateError::Other)?;
                tablet.requests.restore(AppliedRequest {
                    id,
                    log_time,
                    outcome: Outcome { status, version },
                });
            }
            StateItem::Recent(StateRecent { key_hash, log_index }) => {
                own.ok_or(StateError::Other)?.recent.note(key_hash, log_index);
            }
            StateItem::End { checksum: found } if found == checksum => return Ok(()),
            StateItem::End { .. } => return Err(StateError::Other),
        }
    }
}

fn begin(tablet: &mut Tablet, head: &TabletHead) {
    tablet.applied = head.applied;
    tablet.log_time = head.log_time;
    tablet.damage = head.damage.map(|(from, to)| Damage { from, to });
    tablet.requests.begin_at(head.request_floor);
    tablet.recent.begin_at(head.recent_floor);
}

/// Nothing is known of these tablets, though part of a blob may have been read that is not believed. What it said of
/// requests and recent keys stays: a damaged tablet takes no writes, and nothing else asks.
pub(crate) fn forget(tablets: &mut [Option<Tablet>]) {
    for tablet in tablets.iter_mut().flatten() {
        tablet.applied = LogIndex(0);
        tablet.log_time = LogTime(0);
        tablet.damage = Some(Damage { from: LogIndex(1), to: None });
    }
}
