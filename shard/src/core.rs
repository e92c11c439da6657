//! One core of a store: everything its tasks share. Tasks hold it by `Rc`; nothing in it leaves the thread but the
//! counters. Borrows of its cells never reach across an await.

use crate::apply::State;
use crate::budget::Budget;
use crate::cluster::{Calls, Disks, Group, Links, Maps};
use crate::connection::Connections;
use crate::counters::Counters;
use crate::gather::Gathers;
use crate::hot::HotKeys;
use crate::journal::Journal;
use crate::limits::Limits;
use crate::log::Logs;
use crate::lsm::Keeper;
use crate::mesh::Peers;
use crate::parked::Parking;
use crate::sink::ColdGroup;
use crate::sink_settings::SinkSettings;
use crate::staging::Batch;
use crate::tablet::Tablet;
use ioengine::Io;
use ioengine::sync::Notify;
use layout::key::Key;
use layout::units::{Incarnation, LogIndex, LogTime, TabletIndex, Uuid};
use net::peer::PeerVersions;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What all cores of a node know about it.
pub(crate) struct NodeFacts {
    pub(crate) node: u32,
    pub(crate) cluster: Uuid,
    pub(crate) incarnation: Incarnation,
    /// Cores, and shards, of the node.
    pub(crate) core_count: u16,
    /// Epoch of the settings that name the nodes of its group: the same at all of them.
    pub(crate) settings_epoch: u32,
    /// The versions of the messages between nodes that it speaks.
    pub(crate) versions: PeerVersions,
    /// Who holds which tablet.
    pub(crate) group: Group,
    /// What it says of its own disk, and which disks the other nodes have.
    pub(crate) disks: Disks,
    /// How often the other nodes have called.
    pub(crate) calls: Calls,
    /// The cluster map as replies carry it; begun before anyone listens, because it names the port.
    pub(crate) maps: Maps,
    /// Counters of each core, by its index.
    pub(crate) counters: Vec<Arc<Counters>>,
    /// How often a client has asked to have replicas compared: each core looks.
    pub(crate) verifies_asked: AtomicU64,
}

impl NodeFacts {
    /// Epoch of the cluster map.
    #[inline]
    pub(crate) fn map_epoch(&self) -> u32 {
        self.maps.epoch()
    }

    /// The core that owns a tablet.
    pub(crate) fn owner(&self, tablet: TabletIndex) -> u16 {
        tablet.shard(self.core_count).0
    }
}

/// Where a core is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Takes requests.
    Serving,
    /// Finishes what is in flight and takes nothing new.
    Draining,
}

/// One core.
pub(crate) struct Shard {
    pub(crate) io: Io,
    /// Index of this core and of its shard.
    pub(crate) index: u16,
    pub(crate) facts: Arc<NodeFacts>,
    pub(crate) limits: Limits,
    /// Where sealed windows are sunk to; `None`: they stay.
    pub(crate) sink: Option<SinkSettings>,
    /// The machines they are sunk to.
    pub(crate) cold: Option<Rc<ColdGroup>>,
    pub(crate) state: RefCell<State>,
    /// The logs of its tablets among the replicas; `None` for a node that is its own group.
    pub(crate) logs: Option<Logs>,
    /// `None` when nothing may be written: its end is damaged, and there is no group that has what is lost; or it has no room.
    pub(crate) journal: Option<Journal>,
    /// Writes that wait for the next record.
    pub(crate) batch: RefCell<Batch>,
    /// Writes whose record is on its way to the device.
    pub(crate) flying: RefCell<Batch>,
    /// Body bytes of the record on its way; 0 when there is none.
    pub(crate) flying_bytes: Cell<usize>,
    /// Everything applied so far stands before a mark.
    pub(crate) marked: Cell<bool>,
    /// A record finds no space on the device and is tried again.
    pub(crate) stuck: Cell<bool>,
    /// The device failed: nothing is written until restart.
    pub(crate) failed: Cell<bool>,
    /// Something was staged.
    pub(crate) staged: Notify,
    /// A record was applied, or the phase changed.
    pub(crate) settled: Notify,
    pub(crate) phase: Cell<Phase>,
    /// The clock as of this turn, microseconds: one look serves all requests that arrived together.
    pub(crate) turn_us: Cell<u64>,
    /// Tablets that want a tick, one bit each.
    pub(crate) ticks_wanted: Cell<u64>,
    pub(crate) connections: Connections,
    pub(crate) gathers: Gathers,
    /// For requests that wait for the disk, and multi-gets that wait for their parts.
    pub(crate) waiting: Rc<Budget>,
    pub(crate) peers: Peers,
    /// To the other nodes of the group.
    pub(crate) links: Links,
    pub(crate) parking: Parking,
    pub(crate) keeper: Keeper,
    pub(crate) counters: Arc<Counters>,
    /// Which keys are asked for most.
    pub(crate) hot: HotKeys,
}

impl Shard {
    /// A get of this key is answered.
    #[inline]
    pub(crate) fn count_get(&self, key: &Key<'_>) {
        self.counters.gets.add(1);
        self.hot.count(key);
    }

    /// True if this core owns the tablet.
    pub(crate) fn owns(&self, tablet: TabletIndex) -> bool {
        self.facts.owner(tablet) == self.index
    }

    /// A turn begins.
    pub(crate) fn look_at_clock(&self) {
        self.turn_us.set(self.io.turn_began().ns / 1000);
    }

    /// Nothing waits for the journal, and a mark says so.
    pub(crate) fn is_settled(&self) -> bool {
        let ended = self.journal.is_none() || self.failed.get();
        let logs_settled = self.logs.as_ref().is_none_or(Logs::is_settled);
        self.parking.is_empty()
            && (ended
                || (logs_settled
                    && self.batch.borrow().is_empty()
                    && self.flying_bytes.get() == 0
                    && self.marked.get()))
    }

    /// The stamp that an entry of the tablet would have now.
    pub(crate) fn clock(&self, tablet: &Tablet) -> LogTime {
        tablet.clock(self.io.wall_us(), || self.io.now().ns / 1000)
    }

    /// A read met a record that the wall clock has passed: let log time go on.
    pub(crate) fn want_tick(&self, tablet: TabletIndex) {
        let before = self.ticks_wanted.get();
        let after = before | 1 << tablet.index();
        if after != before && self.journal.is_some() {
            self.ticks_wanted.set(after);
            self.staged.notify();
        }
    }

    /// The tip of each tablet of this core. A copy that is being put in place tells none: until its edit is durable a start finds what was
    /// there before, and would miss what only the copy has. Failing history: a copy is begun, a mark names its last entry, the process ends
    /// before the edit; its start takes the tablet for damaged, and a replica that has forgotten nothing votes no more.
    pub(crate) fn tips(&self) -> Vec<(TabletIndex, LogIndex)> {
        let state = self.state.borrow();
        let tip = |tablet: TabletIndex| {
            let own = state.tablets[tablet.index()].as_ref()?;
            let is_copy = own.awaits_tables && own.damage.is_none();
            (!is_copy).then(|| (tablet, own.tip()))
        };
        TabletIndex::all().filter_map(tip).collect()
    }

    /// Bring the counters that are read off, not counted, up to date.
    pub(crate) fn publish_counters(&self) {
        let counters = &self.counters;
        self.hot.turn(self.io.now(), &counters.hot);
        counters.hot_sampled.set(self.hot.sampled());
        counters.hot_first_ppm.set(counters.hot.first_ppm());
        let state = self.state.borrow();
        let usage = state.memtables.usage();
        counters.memtable_records.set(usage.record_count as u64);
        counters.memtable_used_bytes.set(usage.used_bytes as u64);
        counters.memtable_bytes.set(self.limits.memtable_bytes as u64);
        let (tables, bytes, memory) = state.tables.sizes();
        counters.tables.set(tables);
        counters.table_bytes.set(bytes);
        counters.runs_most.set(state.tables.most().0 as u64);
        counters.windows_most.set(state.tables.windows_most() as u64);
        counters.space_short.set(u64::from(self.keeper.is_short()));
        counters.table_memory_bytes.set(memory);
        let (sunk, sunk_bytes, sunk_records) = state.tables.sunk_sizes();
        counters.sunk_tables.set(sunk);
        counters.sunk_bytes.set(sunk_bytes);
        counters.sunk_records.set(sunk_records);
        let (windows, bytes, records) = state.tables.sealed_sizes();
        counters.sealed_tables.set(windows);
        counters.sealed_bytes.set(bytes);
        counters.sealed_records.set(records);
        let (extents, free) = self.keeper.zone.extents().borrow().counts();
        counters.extents.set(u64::from(extents));
        counters.extents_free.set(u64::from(free));
        let (reads, written) = self.keeper.zone.counts();
        counters.disk_reads.set(reads);
        counters.table_written_bytes.set(written);
        if let Some(journal) = &self.journal {
            let (bytes, used) = journal.bytes();
            let (records, written) = journal.written();
            counters.journal_bytes.set(bytes);
            counters.journal_used_bytes.set(used);
            counters.journal_records.set(records);
            counters.journal_written_bytes.set(written);
        }
        counters.connections.set(self.connections.count() as u64);
        counters.peer_connections.set(self.connections.peer_count() as u64);
        if let Some(logs) = &self.logs {
            let (held, voting, behind) = logs.counts();
            counters.tablets_held.set(held);
            counters.tablets_voting.set(voting);
            counters.tablets_behind.set(behind);
        }
        counters.arena_used_bytes.set(self.io.arena_bytes().1 as u64);
        let damaged = state.tablets.iter().flatten().filter(|tablet| tablet.damage.is_some());
        let wall_us = self.io.wall_us();
        let ahead = state.tablets.iter().flatten().map(|tablet| tablet.log_time.0.saturating_sub(wall_us));
        counters.log_time_ahead_us.set(ahead.max().unwrap_or(0));
        counters.tablets_damaged.set(damaged.count() as u64);
    }
}
