//! What a core counts. Written by its own thread, read by whichever core answers a status request.

use crate::hot::Board;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only goes up, or is set by its one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Add to it. Relaxed: one writer, and readers only want a recent value.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value as last written.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Serialize for Counter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

/// Counters of one core. Names end in their unit; those without one are counts.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// Gets answered from memory, `NotModified` included.
    pub gets: Counter,
    /// Gets answered `NotModified` from the version cache alone.
    pub gets_not_modified: Counter,
    /// Gets answered with where on cold disks their record lies.
    pub gets_redirected: Counter,
    /// Which keys these are of, for who asks with Hot.
    #[serde(skip)]
    pub(crate) hot: Board,
    /// Gets of which was looked at whose key it is.
    pub hot_sampled: Counter,
    /// Of these, in the last five seconds that are over, those of the key most asked for, parts per million.
    pub hot_first_ppm: Counter,
    /// Scans, heads and stream lists.
    pub scans: Counter,
    /// Writes that were staged.
    pub writes_staged: Counter,
    /// Writes that were applied.
    pub writes_applied: Counter,
    /// Retries answered with the first outcome.
    pub writes_repeated: Counter,
    /// Compare-and-sets that did not hold.
    pub writes_mismatched: Counter,
    /// Writes refused at the door.
    pub writes_refused: Counter,
    /// Writes answered `UnknownOutcome`.
    pub writes_unknown: Counter,
    /// Entries of replicated logs that were chosen and applied here.
    pub entries_chosen: Counter,
    /// Entries that were fetched from a peer.
    pub entries_fetched: Counter,
    /// Times that a peer was asked for entries.
    pub entry_fetches: Counter,
    /// Entries refused because their stamp was too far ahead of this node's clock.
    pub entries_ahead: Counter,
    /// Tip checks asked, a tablet's each.
    pub tip_checks: Counter,
    /// Strong reads sent to another replica.
    pub reads_not_current: Counter,
    /// Tablets whose missing entries are gone at the peers.
    pub copies_needed: Counter,
    /// Copies of tablets that were begun for peers.
    pub copies_given: Counter,
    /// Copies of tablets that were taken and put in place.
    pub copies_taken: Counter,
    /// Sealed tables that were taken as files for them, and their bytes.
    pub files_taken: Counter,
    /// Bytes of those.
    pub file_taken_bytes: Counter,
    /// Sealed tables that were here already, whole.
    pub files_kept: Counter,
    /// Bytes of pieces of sealed tables that were given to peers.
    pub file_given_bytes: Counter,
    /// Tablets whose replicas were found to hold the same.
    pub verify_equal: Counter,
    /// Tablets of which another replica differed from a majority that this one is of.
    pub verify_others: Counter,
    /// Tablets of which this replica was wrong, or could not be read: it takes a copy.
    pub verify_own: Counter,
    /// Tablets of which no majority of replicas held the same.
    pub verify_undecided: Counter,
    /// Comparisons begun by this node.
    pub verify_begun: Counter,
    /// Times that a client's wish to have all compared was heeded.
    pub verify_rounds: Counter,
    /// Comparisons that this node is to begin.
    pub verify_waiting: Counter,
    /// Comparisons begun by this node in which not all replicas said what they hold.
    pub verify_unanswered: Counter,
    /// Those that this replica could not take part in.
    pub verify_passed: Counter,
    /// Bytes that were looked at for it.
    pub verify_bytes: Counter,
    /// Requests passed to other cores.
    pub forwarded: Counter,
    /// Answers that found no room.
    pub replies_refused: Counter,
    /// Journal records written.
    pub journal_records: Counter,
    /// Bytes of the journal records written.
    pub journal_written_bytes: Counter,
    /// Bytes of the journal in use, and in all.
    pub journal_used_bytes: Counter,
    /// Size of the journal.
    pub journal_bytes: Counter,
    /// Records in the memtable, tombstones included.
    pub memtable_records: Counter,
    /// Bytes of the memtable in use.
    pub memtable_used_bytes: Counter,
    /// Size of the memtable.
    pub memtable_bytes: Counter,
    /// Tablets that lost part of their log.
    pub tablets_damaged: Counter,
    /// How far the log time of some tablet is ahead of the wall clock, which was set back; µs.
    pub log_time_ahead_us: Counter,
    /// 1 when the device under the journal has failed.
    pub device_ended: Counter,
    /// Connections now.
    pub connections: Counter,
    /// Connections taken.
    pub connections_accepted: Counter,
    /// Connections turned away.
    pub connections_refused: Counter,
    /// Connections closed for a time limit.
    pub connections_expired: Counter,
    /// Bytes received from clients.
    pub received_bytes: Counter,
    /// Bytes sent to clients.
    pub sent_bytes: Counter,
    /// Records replayed at start.
    pub replayed_records: Counter,
    /// Log entries replayed at start.
    pub replayed_entries: Counter,
    /// 1 when the version cache of an earlier process was kept.
    pub versions_kept: Counter,
    /// Memtables flushed.
    pub flushes: Counter,
    /// Merges done.
    pub merges: Counter,
    /// Seals done.
    pub seals: Counter,
    /// Tables, and their bytes on the device.
    pub tables: Counter,
    /// Runs of the tablet that has most.
    pub runs_most: Counter,
    /// Windows of the tablet that has most.
    pub windows_most: Counter,
    /// 1 while space for tables is short: writes are refused.
    pub space_short: Counter,
    /// Bytes of the tables.
    pub table_bytes: Counter,
    /// Of the tables, those that are sealed windows.
    pub sealed_tables: Counter,
    /// Bytes of the sealed windows.
    pub sealed_bytes: Counter,
    /// Records in the sealed windows.
    pub sealed_records: Counter,
    /// Sunk windows.
    pub sunk_tables: Counter,
    /// Bytes of their blocks on a cold disk.
    pub sunk_bytes: Counter,
    /// Records in them.
    pub sunk_records: Counter,
    /// Indexes and filters of the tables, in memory.
    pub table_memory_bytes: Counter,
    /// Extents free.
    pub extents_free: Counter,
    /// Extents in all.
    pub extents: Counter,
    /// Bytes written to tables, and to the state beside them.
    pub table_written_bytes: Counter,
    /// Of these, tables by flushes.
    pub flush_written_bytes: Counter,
    /// The state that goes with each flush.
    pub state_written_bytes: Counter,
    /// Tables by merges.
    pub merge_written_bytes: Counter,
    /// Sealed tables by seals.
    pub seal_written_bytes: Counter,
    /// Of these, tables of windows that had been sealed before.
    pub seal_again_written_bytes: Counter,
    /// Sections that sinks have written to cold disks, all three copies.
    pub sink_written_bytes: Counter,
    /// Sealed tables that have given way to sunk ones.
    pub sink_dropped_bytes: Counter,
    /// Sections on cold disks that were nobody's and were freed.
    pub sink_swept_sections: Counter,
    /// Sunk windows that have left cold files of which most is dead, as far as this core had told them to.
    pub sink_moved_windows: Counter,
    /// Sinks that this core began.
    pub sinks_begun: Counter,
    /// Those that came to their end.
    pub sinks: Counter,
    /// Those that did not.
    pub sinks_given_up: Counter,
    /// The run that a seal leaves beside its windows.
    pub seal_rest_written_bytes: Counter,
    /// Reads of tables, by gets and scans, flushes and merges.
    pub disk_reads: Counter,
    /// Requests that met a block that cannot be read.
    pub disk_read_errors: Counter,
    /// Gets that asked the disk.
    pub disk_gets: Counter,
    /// Passes of the scrub over everything in use.
    pub scrub_passes: Counter,
    /// Bytes that the scrub has read.
    pub scrub_bytes: Counter,
    /// Of the pass under way: bytes looked at.
    pub scrub_pass_bytes: Counter,
    /// Of the pass under way: bytes to look at.
    pub scrub_pass_total_bytes: Counter,
    /// Beginning of the last pass that looked at everything, wall clock in µs; 0 before the first has ended.
    pub scrub_covered_since_us: Counter,
    /// Places that the scrub found changed.
    pub scrub_corrupt: Counter,
    /// Places that the device refused to read.
    pub scrub_unreadable: Counter,
    /// What the scrub has written again from a copy or from memory.
    pub scrub_mended: Counter,
    /// Aligned buffers in use, bytes.
    pub arena_used_bytes: Counter,
    /// Tablets of the group that this core holds.
    pub tablets_held: Counter,
    /// Of them, those whose replica here votes.
    pub tablets_voting: Counter,
    /// Of them, those that lack entries and fetch them.
    pub tablets_behind: Counter,
    /// Messages put on links to other nodes.
    pub peer_sent: Counter,
    /// Bytes of the frames sent to other nodes.
    pub peer_sent_bytes: Counter,
    /// Messages to other nodes that were dropped: link down, or no room.
    pub peer_dropped: Counter,
    /// Messages of other nodes for tablets of this core.
    pub peer_received: Counter,
    /// Bytes of the frames of other nodes.
    pub peer_received_bytes: Counter,
    /// Messages of other nodes for which the ring to their core had no room.
    pub peer_not_relayed: Counter,
    /// Messages of tablets that their sender or this node does not hold.
    pub peer_misplaced: Counter,
    /// Messages that the log knows nothing of.
    pub peer_unexpected: Counter,
    /// Connections that other nodes hold to this core.
    pub peer_connections: Counter,
    /// Nodes that called and were refused.
    pub peers_refused: Counter,
    /// Connections of other nodes closed for wrong bytes.
    pub peers_broken: Counter,
    /// The links of this core to each other node of the group.
    pub peers: Vec<PeerCounters>,
}

/// Counters of the link of one core to one node.
#[derive(Debug, Default, Serialize)]
pub struct PeerCounters {
    /// The node.
    pub node: u32,
    /// 1 while the link is up.
    pub up: Counter,
    /// Which start of the node answered last.
    pub incarnation: Counter,
    /// How often the link went down.
    pub downs: Counter,
}

impl Counters {
    /// All 0, with links to these nodes.
    #[must_use]
    pub fn of(nodes: impl Iterator<Item = u32>) -> Counters {
        let peers = nodes.map(|node| PeerCounters { node, ..PeerCounters::default() }).collect();
        Counters { peers, ..Counters::default() }
    }
}
