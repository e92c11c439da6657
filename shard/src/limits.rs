//! Every bound of a core, in one place. Laid out at start, never grown; what reaches a bound is answered `Busy`.

use crate::lsm::SEALED_AT_ONCE;
use crate::memtable::MemtableConfig;
use crate::recent::RecentKeys;
use crate::requests::RequestLimits;
use layout::table::TableOptions;
use layout::units::{STREAM_BYTES_MAX, TABLET_COUNT, VALUE_BYTES_MAX};
use std::time::Duration;

/// Bounds of one core. `config print` shows each with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of aligned buffers: receive and send buffers of connections, and the journal's records.
    pub arena_bytes: usize,
    /// Operations of disk and network in flight.
    pub operation_count_max: usize,
    /// Bytes of the two memtables together: while one is written to tables, the other is filled.
    pub memtable_bytes: usize,
    /// Records in the two memtables together.
    pub memtable_record_count_max: usize,
    /// Bytes of the block cache: blocks of tables as they were read, decompressed.
    pub block_cache_bytes: usize,
    /// Bytes of a table's block before compression: what one get reads.
    pub block_bytes: u32,
    /// Level of zstd for the blocks of runs; 0 = not compressed.
    pub run_level: i32,
    /// How old records are, by log time, before their window may be sealed.
    pub seal_age: Duration,
    /// What a sealed window is expected to hold, bytes before compression.
    pub window_bytes: usize,
    /// Bytes of a block of a sealed table before compression.
    pub sealed_block_bytes: u32,
    /// Level of zstd for the blocks of sealed tables; 0 = not compressed.
    pub sealed_level: i32,
    /// Largest dictionary that a sealed table makes of its own records, bytes; 0 = none.
    pub sealed_dictionary_bytes: usize,
    /// Bytes of the cache for blocks of sealed tables.
    pub sealed_cache_bytes: usize,
    /// Runs of one level that are merged into one of the next.
    pub merge_fan_in: usize,
    /// In which time the scrub looks at everything in use; 0 = never.
    pub scrub_period: Duration,
    /// How often the replicas of a tablet are compared; 0 = never.
    pub verify_period: Duration,
    /// How long another replica's sink of a window may take until this one takes it up.
    pub sink_patience: Duration,
    /// How often it is looked whether cold disks hold what is nobody's.
    pub sweep_every: Duration,
    /// Bytes per second that the scrub reads at most.
    pub scrub_bytes_per_second: u64,
    /// Runs that a tablet may have: a flush waits for merges before it makes more.
    pub runs_per_tablet_max: usize,
    /// Sealed windows that a tablet may have: beyond that the thinnest become one.
    pub windows_per_tablet_max: usize,
    /// What merges and seals read and write at least, bytes per second, if there is so much to do. More when flushes bring
    /// more, and no bound when writers or space wait.
    pub maintenance_bytes_per_second: u64,
    /// How often the policies of merges and seals are asked when nothing is written.
    pub maintenance_every: Duration,
    /// Requests that read the disk at once.
    pub reader_count: usize,
    /// Requests that wait to read the disk.
    pub parked_count_max: usize,
    /// Bytes of requests that wait to read the disk, and of multi-gets that wait for other cores.
    pub waiting_bytes_max: usize,
    /// Bytes of the last entries of all logs, kept for replicas that are a little behind.
    pub log_tail_bytes: usize,
    /// Rows of 64 bytes in the version cache, 4 keys each; a power of two.
    pub version_row_count: usize,
    /// Connections.
    pub connection_count_max: usize,
    /// Requests in flight on a connection.
    pub in_flight_max: u32,
    /// Bytes of a frame's body.
    pub frame_bytes_max: u32,
    /// Bytes that may wait for one connection's far end.
    pub outbox_bytes_max: usize,
    /// Bytes of the writes that wait for the journal together.
    pub staging_bytes: usize,
    /// Writes that wait for the journal together.
    pub staging_count_max: usize,
    /// Bytes of a journal record.
    pub record_bytes_max: u64,
    /// Request ids kept per tablet.
    pub request_count_max: usize,
    /// How long a request id is kept, of log time.
    pub request_horizon: Duration,
    /// How early an id may go when the table is full, of log time.
    pub request_horizon_min: Duration,
    /// Keys per tablet whose last write is remembered for compare-and-set.
    pub recent_count: usize,
    /// Bytes of each ring between two cores.
    pub ring_bytes: usize,
    /// Requests on their way to one other core.
    pub forward_count_max: u32,
    /// Longest wait of a request before it is answered `UnknownOutcome` or `Timeout`.
    pub request_deadline: Duration,
    /// How long a connection may stay without hello.
    pub hello_deadline: Duration,
    /// How far ahead of log time a record's time may lie.
    pub time_ahead_max: Duration,
    /// Quiet time after which the journal says that all before it is flushed.
    pub mark_after: Duration,
    /// How long a drain waits for what is in flight.
    pub drain_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            arena_bytes: 128 << 20,
            operation_count_max: 8192,
            memtable_bytes: 512 << 20,
            memtable_record_count_max: 2 << 20,
            block_cache_bytes: 256 << 20,
            block_bytes: 4096,
            run_level: 1,
            seal_age: Duration::from_secs(7 * 24 * 3600),
            window_bytes: 64 << 20,
            sealed_block_bytes: 16 << 10,
            sealed_level: 6,
            sealed_dictionary_bytes: 64 << 10,
            sealed_cache_bytes: 64 << 20,
            merge_fan_in: 8,
            scrub_period: Duration::from_secs(7 * 24 * 3600),
            verify_period: Duration::from_secs(24 * 3600),
            sink_patience: Duration::from_secs(600),
            sweep_every: Duration::from_secs(600),
            scrub_bytes_per_second: 64 << 20,
            runs_per_tablet_max: 64,
            windows_per_tablet_max: 256,
            maintenance_bytes_per_second: 32 << 20,
            maintenance_every: Duration::from_secs(60),
            reader_count: 64,
            parked_count_max: 4096,
            waiting_bytes_max: 64 << 20,
            log_tail_bytes: 64 << 20,
            version_row_count: 1 << 18,
            connection_count_max: 4096,
            in_flight_max: 1024,
            frame_bytes_max: 4 << 20,
            outbox_bytes_max: 8 << 20,
            staging_bytes: 5 << 20,
            staging_count_max: 16_384,
            record_bytes_max: 8 << 20,
            request_count_max: 32_768,
            request_horizon: Duration::from_secs(600),
            request_horizon_min: Duration::from_secs(10),
            recent_count: 4096,
            ring_bytes: 8 << 20,
            forward_count_max: 8192,
            request_deadline: Duration::from_secs(5),
            hello_deadline: Duration::from_secs(5),
            time_ahead_max: Duration::from_secs(24 * 3600),
            mark_after: Duration::from_millis(200),
            drain_deadline: Duration::from_secs(10),
        }
    }
}

/// Bytes of the largest operation in staging: its fixed parts, stream and value.
const OPERATION_BYTES_MAX: usize = layout::log_entry::OPERATION_BYTES_MAX;
const _: () =
    assert!(OPERATION_BYTES_MAX > STREAM_BYTES_MAX + VALUE_BYTES_MAX, "an operation holds its parts");

impl Limits {
    /// A core small enough that a simulated world holds many, and that its bounds are reached.
    #[must_use]
    pub fn small() -> Limits {
        Limits {
            arena_bytes: 8 << 20,
            operation_count_max: 256,
            memtable_bytes: 2 << 20,
            memtable_record_count_max: 8192,
            block_cache_bytes: 32 << 10,
            block_bytes: 1024,
            window_bytes: 64 << 10,
            sealed_block_bytes: 2048,
            sealed_dictionary_bytes: 1024,
            sealed_cache_bytes: 32 << 10,
            reader_count: 4,
            parked_count_max: 32,
            waiting_bytes_max: 256 << 10,
            log_tail_bytes: 128 << 10,
            version_row_count: 256,
            connection_count_max: 64,
            in_flight_max: 64,
            frame_bytes_max: 64 << 10,
            outbox_bytes_max: 256 << 10,
            staging_bytes: 64 << 10,
            staging_count_max: 256,
            record_bytes_max: 128 << 10,
            request_count_max: 512,
            recent_count: 128,
            ring_bytes: 256 << 10,
            forward_count_max: 128,
            ..Limits::default()
        }
    }

    /// Relations between the bounds that everything else relies on.
    ///
    /// # Errors
    /// The bound that does not fit, and what to set it to.
    pub fn check(&self) -> Result<(), String> {
        let need = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        // An entry header for each of 64 tablets and the frame headers stand beside the operations.
        let overhead = 64 * layout::log_entry::ENTRY_HEADER_BYTES;
        let largest = crate::journal::record_bytes(self.staging_bytes + overhead);
        need(largest <= self.record_bytes_max, "record_bytes_max must hold staging_bytes and 5 % more")?;
        need(
            self.record_bytes_max as usize <= ioengine::buffer::BUFFER_BYTES_MAX,
            "record_bytes_max is at most 16 MiB, the largest buffer",
        )?;
        need(
            self.scrub_bytes_per_second > 0,
            "scrub_bytes_per_second is more than 0; scrub_period 0 ends the scrub",
        )?;
        need(self.record_bytes_max.is_multiple_of(4096), "record_bytes_max is a multiple of 4096")?;
        let frame = self.frame_bytes_max as usize + net::frame::HEADER_BYTES;
        need(self.outbox_bytes_max >= frame + (64 << 10), "outbox_bytes_max must hold a frame and 64 KiB")?;
        let answers = self.forward_count_max as usize * crate::mesh::SMALL_MESSAGE_BYTES;
        need(
            self.ring_bytes >= frame + answers + 4096,
            "ring_bytes must hold a frame and forward_count_max small answers",
        )?;
        need(
            self.arena_bytes as u64 >= 4 * self.record_bytes_max,
            "arena_bytes must hold four journal records, and the buffers of connections beside them",
        )?;
        // Large buffers come from three quarters of the arena: the commit task's record, and a frame received and one
        // answered, else a page that fills a frame can never be sent.
        let large = self.record_bytes_max.next_power_of_two() as usize + 2 * frame.next_power_of_two();
        // Two records of the manifest stay; a flush, a merge, a seal and a reader each have one piece in flight.
        let tables = 2 * crate::lsm::open::RECORD_BYTES_MAX + 4 * crate::lsm::build::WRITE_BYTES;
        need(
            self.arena_bytes / 4 * 3 >= large + tables,
            "three quarters of arena_bytes must hold a journal record, two frames, and 1152 KiB for tables",
        )?;
        // What was staged before a freeze is applied after it, uncharged deletes included.
        need(
            self.memtable_bytes / 2 >= 2 * self.staging_bytes,
            "memtable_bytes must hold staging_bytes four times",
        )?;
        need(
            self.memtable_record_count_max / 2 >= 2 * self.staging_count_max,
            "memtable_record_count_max must hold staging_count_max four times",
        )?;
        need((512..=65_536).contains(&self.block_bytes), "block_bytes is from 512 to 65,536")?;
        need((2..=32).contains(&self.merge_fan_in), "merge_fan_in is from 2 to 32")?;
        need(self.runs_per_tablet_max > self.merge_fan_in, "runs_per_tablet_max is more than merge_fan_in")?;
        let least = crate::lsm::WINDOWS_PER_TABLET_LEAST;
        need(self.windows_per_tablet_max >= least, "windows_per_tablet_max is at least 34")?;
        need(self.maintenance_every >= Duration::from_millis(1), "maintenance_every is at least 1 ms")?;
        need((0..=19).contains(&self.run_level), "run_level is from 0 to 19")?;
        need((512..=65_536).contains(&self.sealed_block_bytes), "sealed_block_bytes is from 512 to 65,536")?;
        need((0..=19).contains(&self.sealed_level), "sealed_level is from 0 to 19")?;
        need(self.sealed_dictionary_bytes <= 512 << 10, "sealed_dictionary_bytes is at most 512 KiB")?;
        need(self.window_bytes >= 1024, "window_bytes is at least 1 KiB")?;
        need(
            self.reader_count > 0 && self.parked_count_max > 0,
            "reader_count and parked_count_max are at least 1",
        )?;
        need(
            self.waiting_bytes_max >= 2 * self.frame_bytes_max as usize,
            "waiting_bytes_max must hold two frames: a multi-get, and its keys",
        )?;
        need(self.version_row_count.is_power_of_two(), "version_row_count is a power of two")?;
        need(
            self.request_horizon_min <= self.request_horizon,
            "request_horizon_min is at most request_horizon",
        )
    }

    /// Layout of one of the two memtables, but for its seed.
    pub(crate) fn memtable(&self) -> MemtableConfig {
        MemtableConfig {
            bytes: self.memtable_bytes / 2,
            record_count_max: self.memtable_record_count_max / 2,
            seed: 0,
        }
    }

    /// Largest blocks that the caches keep, of runs and of sealed tables: a block ends behind the record that fills it.
    pub(crate) fn block_slot_bytes(&self) -> (usize, usize) {
        (self.block_bytes as usize / 2 * 3, self.sealed_block_bytes as usize / 2 * 3)
    }

    /// What a reader holds at most: a page or the items of a multi-get, and a value.
    fn reader_bytes(&self) -> usize {
        self.frame_bytes_max as usize + VALUE_BYTES_MAX
    }

    /// Layout of a tablet's request ids.
    pub(crate) fn requests(&self) -> RequestLimits {
        RequestLimits {
            capacity: self.request_count_max,
            horizon_us: self.request_horizon.as_micros() as u64,
            horizon_min_us: self.request_horizon_min.as_micros() as u64,
        }
    }

    /// Bytes that one core lays out, by part, for `config check`.
    #[must_use]
    pub fn memory(&self, core_count: usize) -> Vec<(&'static str, usize)> {
        vec![
            ("buffers", self.arena_bytes),
            ("memtables", 2 * self.memtable().footprint_bytes()),
            ("block cache", self.block_cache_bytes),
            ("block cache of sealed windows", self.sealed_cache_bytes),
            (
                "samples for dictionaries of windows",
                TableOptions::dictionary_memory_bytes(self.sealed_dictionary_bytes, SEALED_AT_ONCE),
            ),
            ("version cache (shared memory)", self.version_row_count * 64),
            ("requests waiting for a disk or a core", self.waiting_bytes_max),
            ("last entries of the logs of a group", self.log_tail_bytes),
            ("pieces of sealed tables from other nodes", crate::log::pieces_bytes_max(self)),
            ("answers being read from the disk", self.reader_count * self.reader_bytes()),
            ("writes waiting for the journal", 2 * (self.staging_bytes + self.staging_count_max * 64)),
            ("request ids", self.requests().footprint_bytes() * TABLET_COUNT / core_count.max(1)),
            (
                "keys written lately",
                RecentKeys::footprint_bytes(self.recent_count) * TABLET_COUNT / core_count.max(1),
            ),
            ("rings from other cores", self.ring_bytes * core_count.saturating_sub(1)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_hold_together() {
        Limits::default().check().unwrap();
        Limits::small().check().unwrap();
    }

    #[test]
    fn a_bound_that_does_not_fit_is_named() {
        let limits = Limits { ring_bytes: 4096, ..Limits::default() };
        assert!(limits.check().unwrap_err().contains("ring_bytes"));
    }
}
