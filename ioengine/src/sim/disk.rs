//! A simulated disk as the world keeps it: geometry, time, faults, operations in flight, and its media.

use super::fault::DiskFaults;
use super::image::DiskImage;
use super::media::Media;
use super::random::Random;
use super::recording::Recording;
use crate::disk::Geometry;
use crate::operation::OperationId;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How long a disk takes, in nanoseconds of virtual time.
#[derive(Clone, Debug)]
pub struct DiskLatency {
    /// A read, besides its bytes.
    pub read_ns: u64,
    /// A write, besides its bytes.
    pub write_ns: u64,
    /// A flush, or the durability of a durable write.
    pub flush_ns: u64,
    /// Each 4096 bytes moved; the disk moves one thing at a time.
    pub page_ns: u64,
    /// Added at random, up to this much.
    pub jitter_ns: u64,
    /// The disk has an arm and platters; without, any place is as near as any other.
    pub arm: Option<DiskArm>,
}

/// How long a spinning disk takes to get anywhere: settling and a part of a stroke that grows with the root of the distance, then on average
/// half a rotation. What follows what was moved last needs neither. While the arm is on its way nothing else is done.
#[derive(Clone, Copy, Debug)]
pub struct DiskArm {
    /// To come to rest, nanoseconds.
    pub settle_ns: u64,
    /// From one end to the other, besides that, nanoseconds.
    pub stroke_ns: u64,
    /// A whole rotation, nanoseconds.
    pub rotation_ns: u64,
}

impl DiskArm {
    /// How long until the first byte, over `distance` of `bytes`; `turn` is a number below a rotation.
    fn seek_ns(&self, distance: u64, bytes: u64, turn: u64) -> u64 {
        if distance == 0 {
            return 0;
        }
        let stroke = self.stroke_ns as f64 * (distance as f64 / bytes as f64).sqrt();
        self.settle_ns + stroke as u64 + turn
    }
}

impl Default for DiskLatency {
    /// A mid-range SSD: 70 µs reads, 20 µs writes, 60 µs flushes, 2 GB/s.
    fn default() -> DiskLatency {
        DiskLatency {
            read_ns: 60_000,
            write_ns: 15_000,
            flush_ns: 40_000,
            page_ns: 2_000,
            jitter_ns: 30_000,
            arm: None,
        }
    }
}

/// A disk to be added to a node.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Size in bytes, a multiple of the block size.
    pub bytes: u64,
    /// 512 or 4096.
    pub block_bytes: u32,
    /// Whether completed writes stay in a cache that a loss of power empties.
    pub volatile_cache: bool,
    /// How long it takes.
    pub latency: DiskLatency,
    /// What goes wrong.
    pub faults: DiskFaults,
}

impl DiskConfig {
    /// A disk of this size with blocks of 4096 bytes, a volatile cache and no faults.
    #[must_use]
    pub fn new(bytes: u64) -> DiskConfig {
        DiskConfig {
            bytes,
            block_bytes: 4096,
            volatile_cache: true,
            latency: DiskLatency::default(),
            faults: DiskFaults::default(),
        }
    }
}

/// What an operation in flight does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Read,
    Write {
        durable: bool,
    },
    /// Covers the writes up to this sequence.
    Flush {
        sequence: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    pub(crate) core: u32,
    pub(crate) id: OperationId,
    pub(crate) work: Work,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
    /// When it was submitted.
    pub(crate) since: u64,
    /// Events of the recording when it was submitted.
    pub(crate) recorded: usize,
}

impl Flight {
    pub(crate) fn overlaps(&self, offset: u64, bytes: u32) -> bool {
        self.offset < offset + u64::from(bytes) && offset < self.offset + u64::from(self.bytes)
    }
}

pub(crate) struct DiskState {
    pub(crate) node: u32,
    pub(crate) name: String,
    pub(crate) config: DiskConfig,
    pub(crate) random: Random,
    pub(crate) media: Media,
    pub(crate) in_flight: BTreeMap<u32, Flight>,
    pub(crate) next_operation: u32,
    /// Sectors that cannot be read until written.
    pub(crate) unreadable: BTreeSet<u64>,
    /// Where the arm will be then.
    pub(crate) head: u64,
    /// When the last transfer ends.
    pub(crate) free_at: u64,
    /// Nothing completes before; the end of time: until released.
    pub(crate) stalled_until: u64,
    /// When an operation last completed.
    pub(crate) completed_at: u64,
    /// The next operation ends so much later than it would.
    pub(crate) starve_ns: u64,
    /// When the last one that did so ends.
    pub(crate) starved_until: u64,
    /// Due but held by a stall without end.
    pub(crate) held: Vec<u32>,
    /// The process that has it open for writing.
    pub(crate) claim: Option<u32>,
    /// A flush or durable write failed: nobody opens it for writing before the process has ended.
    pub(crate) ended: bool,
    pub(crate) recording: Option<Rc<RefCell<Recording>>>,
    pub(crate) counts: DiskCounts,
}

/// Operations completed on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Reads.
    pub reads: u64,
    /// Writes, durable ones included.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
}

impl DiskState {
    pub(crate) fn new(
        node: u32,
        name: &str,
        config: DiskConfig,
        image: DiskImage,
        random: Random,
    ) -> DiskState {
        assert!(matches!(config.block_bytes, 512 | 4096), "block size of {name}");
        assert!(config.bytes.is_multiple_of(u64::from(config.block_bytes)), "whole blocks in {name}");
        assert!(image.bytes() == config.bytes, "the image of {name} has its size");
        DiskState {
            node,
            name: name.to_owned(),
            media: Media::new(image, config.volatile_cache),
            config,
            random,
            in_flight: BTreeMap::new(),
            next_operation: 0,
            unreadable: BTreeSet::new(),
            head: 0,
            free_at: 0,
            stalled_until: 0,
            completed_at: 0,
            starve_ns: 0,
            starved_until: 0,
            held: Vec::new(),
            claim: None,
            ended: false,
            recording: None,
            counts: DiskCounts::default(),
        }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        Geometry {
            bytes: self.config.bytes,
            block_bytes: self.config.block_bytes,
            volatile_cache: self.config.volatile_cache,
            block_device: true,
        }
    }

    /// When an operation submitted now will be done.
    pub(crate) fn finish_time(&mut self, now: u64, work: Work, offset: u64, bytes: u32) -> u64 {
        if let (Some(arm), Work::Read | Work::Write { .. }) = (self.config.latency.arm, work) {
            let distance = self.head.abs_diff(offset);
            let turn = self.random.below(arm.rotation_ns.max(1));
            let seek = arm.seek_ns(distance, self.config.bytes, turn);
            self.free_at = self.free_at.max(now) + seek * u64::from(self.config.faults.slow_percent) / 100;
            self.head = offset + u64::from(bytes);
        }
        let latency = &self.config.latency;
        let slow = |ns: u64| ns * u64::from(self.config.faults.slow_percent) / 100;
        let transfer = slow(latency.page_ns * u64::from(bytes.div_ceil(4096)));
        let base = match work {
            Work::Read => latency.read_ns,
            Work::Write { durable } => {
                latency.write_ns + if durable && self.config.volatile_cache { latency.flush_ns } else { 0 }
            }
            Work::Flush { .. } => latency.flush_ns,
        };
        self.free_at = self.free_at.max(now) + transfer;
        self.free_at + slow(base + self.random.below(latency.jitter_ns + 1)) + 1
    }
}
