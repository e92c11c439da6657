//! The state of the tablets as it was when a memtable was frozen: what replay needs beside records. Nothing is copied then:
//! what a tablet remembers lies in rings, whose places are put aside one by one when they are written again (`kept`). A copy
//! of all tablets at once held the core for 46 ms.

use crate::apply::State;
use crate::proof::Damage;
use crate::requests::{AppliedRequest, Outcome};
use crate::seals::Seals;
use crate::tablet::Tablet;
use layout::tablet_state::{StateItem, StateReader, StateRecent, StateRequest, StateWriter, TabletHead};
use layout::units::{LogIndex, LogTime, TabletIndex};
use std::ops::Range;
use std::rc::Rc;

/// The tablets of a shard, as they were: their heads. Their ids and recent keys are kept by themselves.
pub(crate) struct Capture {
    heads: Vec<Option<Head>>,
}

/// A tablet as it was: what stands first, and its windows.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) head: TabletHead,
    pub(crate) seals: Rc<Seals>,
}

fn count(of: usize) -> u32 {
    u32::try_from(of).expect("what a tablet remembers is bounded")
}

fn sink_count(seals: &Seals) -> u16 {
    u16::try_from(seals.sinks.len()).expect("the windows of a tablet are bounded")
}

/// Write down the windows of a tablet, and their sinks.
pub(super) fn write_seals(seals: &Seals, writer: &mut StateWriter) {
    seals.windows().for_each(|window| writer.window(window));
    for sinking in &seals.sinks {
        writer.sink(&sinking.sink);
        sinking.links.iter().for_each(|link| writer.link(link));
    }
}

/// Take down what a tablet is now; what it remembers is kept until [`State::end_capture`].
fn keep(index: TabletIndex, tablet: &mut Tablet) -> Head {
    let request_count = count(tablet.requests.keep());
    let (recent_count, recent_newest) = tablet.recent.keep();
    let seals = Rc::clone(&tablet.seals);
    let head = TabletHead {
        tablet: index,
        applied: tablet.applied,
        log_time: tablet.log_time,
        damage: tablet.damage.map(|damage| (damage.from, damage.to)),
        request_floor: tablet.requests.floor(),
        request_count,
        recent_floor: tablet.recent.floor(),
        recent_newest,
        recent_count: count(recent_count),
        window_count: count(seals.windows().count()),
        sink_count: sink_count(&seals),
        seal_generation: seals.begun,
        sealed_generation: seals.agreed,
    };
    Head { head, seals }
}

impl State {
    /// Write down what a tablet is and remembers now.
    pub(crate) fn write_tablet(&self, index: TabletIndex, writer: &mut StateWriter) {
        let own = self.tablet(index);
        let recent_newest =
            own.recent.entries().last().map_or(own.recent.floor(), |(_, log_index)| log_index);
        writer.begin_tablet(&TabletHead {
            tablet: index,
            applied: own.applied,
            log_time: own.log_time,
            damage: None,
            request_floor: own.requests.floor(),
            request_count: count(own.requests.count()),
            recent_floor: own.recent.floor(),
            recent_newest,
            recent_count: count(own.recent.entries().count()),
            window_count: count(own.seals.windows().count()),
            sink_count: sink_count(&own.seals),
            seal_generation: own.seals.begun,
            sealed_generation: own.seals.agreed,
        });
        for &AppliedRequest { id, log_time, outcome: Outcome { status, version } } in own.requests.entries() {
            writer.request(&StateRequest { id, log_time, status, version });
        }
        for (key_hash, log_index) in own.recent.entries() {
            writer.recent(&StateRecent { key_hash, log_index });
        }
        write_seals(&own.seals, writer);
    }

    /// A memtable was frozen: the tablets as they are now are wanted.
    pub(crate) fn begin_capture(&mut self) {
        let heads = TabletIndex::all()
            .map(|index| self.tablets[index.index()].as_mut().map(|tablet| keep(index, tablet)))
            .collect();
        self.capture = Some(Capture { heads });
    }

    /// A start has judged its journal: what is lost of a tablet is lost, whenever its memtable was frozen. Failing history
    /// otherwise: shared memory alone knows of the loss; the flush writes down that all is well, and power goes.
    pub(crate) fn capture_damage(&mut self) {
        let Some(capture) = &mut self.capture else { return };
        for Head { head, .. } in capture.heads.iter_mut().flatten() {
            let own = self.tablets[head.tablet.index()].as_ref().expect("a head is of an own tablet");
            head.damage = own.damage.map(|damage| (damage.from, damage.to));
        }
    }

    /// Tablets that the capture is of.
    pub(crate) fn capture_count(&self) -> usize {
        self.capture.as_ref().map_or(0, |capture| capture.heads.iter().flatten().count())
    }

    /// What a tablet was at the freeze. `None` for those of other cores.
    pub(crate) fn captured(&mut self, index: TabletIndex) -> Option<Head> {
        if ioengine::canary("capture_too_late") {
            return self.tablets[index.index()].as_mut().map(|tablet| keep(index, tablet));
        }
        self.capture.as_ref().expect("a flush has begun one").heads[index.index()].clone()
    }

    /// Write down these of the ids that a tablet remembered at the freeze, by rank.
    pub(crate) fn write_requests(&self, index: TabletIndex, ranks: Range<usize>, writer: &mut StateWriter) {
        let requests = &self.tablet(index).requests;
        for AppliedRequest { id, log_time, outcome } in ranks.map(|rank| requests.kept(rank)) {
            let Outcome { status, version } = outcome;
            writer.request(&StateRequest { id, log_time, status, version });
        }
    }

    /// Write down these of its recent keys.
    pub(crate) fn write_recent(&self, index: TabletIndex, ranks: Range<usize>, writer: &mut StateWriter) {
        let recent = &self.tablet(index).recent;
        for (key_hash, log_index) in ranks.map(|rank| recent.kept(rank)) {
            writer.recent(&StateRecent { key_hash, log_index });
        }
    }

    /// How far a tablet had come at the freeze.
    pub(crate) fn captured_index(&self, index: TabletIndex) -> Option<LogIndex> {
        let capture = self.capture.as_ref()?;
        capture.heads[index.index()].as_ref().map(|Head { head, .. }| head.applied)
    }

    /// The blob is durable, and what was applied before the freeze is in tables.
    pub(crate) fn end_capture(&mut self) {
        for Head { head, .. } in self.capture.take().iter().flat_map(|capture| capture.heads.iter().flatten())
        {
            self.flushed[head.tablet.index()] = head.applied;
        }
        for tablet in self.tablets.iter_mut().flatten() {
            tablet.requests.let_go();
            tablet.recent.let_go();
        }
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
            StateItem::Window(window) => {
                let seals = Rc::make_mut(&mut own.ok_or(StateError::Other)?.seals);
                if !seals.restore(window) {
                    return Err(StateError::Other);
                }
            }
            StateItem::Sink(sink) => {
                let seals = Rc::make_mut(&mut own.ok_or(StateError::Other)?.seals);
                if !seals.restore_sink(sink) {
                    return Err(StateError::Other);
                }
            }
            StateItem::Link(link) => {
                let seals = Rc::make_mut(&mut own.ok_or(StateError::Other)?.seals);
                if !seals.restore_link(link) {
                    return Err(StateError::Other);
                }
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
    let (begun, agreed) = (head.seal_generation, head.sealed_generation);
    tablet.seals = Rc::new(Seals { begun, agreed, ..Seals::default() });
}

/// Nothing is known of these tablets, though part of a blob may have been read that is not believed. What it said of
/// requests and recent keys stays: a damaged tablet takes no writes, and nothing else asks.
pub(crate) fn forget(tablets: &mut [Option<Tablet>]) {
    for tablet in tablets.iter_mut().flatten() {
        tablet.applied = LogIndex(0);
        tablet.log_time = LogTime(0);
        tablet.seals = Rc::default();
        tablet.damage = Some(Damage { from: LogIndex(1), to: None });
    }
}
