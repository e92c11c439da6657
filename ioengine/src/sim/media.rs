//! What a simulated disk holds: the bytes that reads see, the bytes that are on stable media, and between them the
//! ordered log of completed writes that a crash may still lose. Knows nothing of time or faults.
//!
//! Invariant: `durable` with every logged write applied in order equals `current`.

use super::image::{DiskImage, SECTOR_BYTES};
use super::random::{PPM, Random};
use std::collections::VecDeque;
use std::rc::Rc;

/// A write that may land, sector by sector.
#[derive(Clone)]
pub(crate) struct Landing {
    pub(crate) offset: u64,
    pub(crate) data: Rc<[u8]>,
    /// Lands whole, come what may.
    pub(crate) forced: bool,
}

/// Apply `landings` in order to a copy of `base`; `decide(write, sector of the write)` says what lands of those
/// that are not forced. Also gives the number of sectors that did not land.
pub(crate) fn land(
    base: &DiskImage,
    landings: &[Landing],
    mut decide: impl FnMut(usize, usize) -> bool,
) -> (DiskImage, u64) {
    let mut image = base.clone();
    let mut lost = 0;
    for (index, landing) in landings.iter().enumerate() {
        if landing.forced {
            image.write(landing.offset, &landing.data);
            continue;
        }
        for (sector, bytes) in landing.data.chunks(SECTOR_BYTES).enumerate() {
            if decide(index, sector) {
                image.write(landing.offset + (sector * SECTOR_BYTES) as u64, bytes);
            } else {
                lost += 1;
            }
        }
    }
    (image, lost)
}

/// How a crash chooses among what it may lose. One uniform choice per sector would make long runs of whole writes,
/// which real caches give, next to impossible.
enum Style {
    All,
    Nothing,
    /// Whole writes up to one, that one in part, nothing after it.
    Prefix(usize),
    /// Each write on its own, whole.
    Writes(u32),
    /// Each sector on its own.
    Sectors(u32),
}

struct Logged {
    sequence: u64,
    landing: Landing,
    /// A flush that should have kept it failed: gone when the process ends.
    doomed: bool,
}

/// A write cache holds at most this much; the oldest write in it is made durable by the device itself then.
const CACHE_BYTES_MAX: usize = 64 << 20;

pub(crate) struct Media {
    volatile_cache: bool,
    current: DiskImage,
    /// Only kept up to date with a volatile cache.
    durable: DiskImage,
    log: VecDeque<Logged>,
    log_bytes: usize,
    sequence: u64,
}

impl Media {
    pub(crate) fn new(image: DiskImage, volatile_cache: bool) -> Media {
        Media {
            volatile_cache,
            durable: image.clone(),
            current: image,
            log: VecDeque::new(),
            log_bytes: 0,
            sequence: 0,
        }
    }

    /// What reads see.
    pub(crate) fn current(&self) -> &DiskImage {
        &self.current
    }

    /// What is on stable media for certain, and what may be there besides.
    pub(crate) fn crash_base(&self) -> (&DiskImage, Vec<Landing>) {
        if !self.volatile_cache {
            return (&self.current, Vec::new());
        }
        (&self.durable, self.log.iter().map(|logged| logged.landing.clone()).collect())
    }

    /// Replace everything, durably.
    pub(crate) fn replace(&mut self, image: DiskImage) {
        *self = Media::new(image, self.volatile_cache);
    }

    /// A write completes.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], durable: bool) {
        self.sequence += 1;
        self.current.write(offset, data);
        if !self.volatile_cache {
            return;
        }
        let landing = Landing { offset, data: Rc::from(data), forced: durable };
        self.log_bytes += data.len();
        self.log.push_back(Logged { sequence: self.sequence, landing, doomed: false });
        while self
            .log
            .front()
            .is_some_and(|front| front.landing.forced || self.log_bytes > CACHE_BYTES_MAX && !front.doomed)
        {
            self.settle();
        }
    }

    /// Make the oldest logged write durable.
    fn settle(&mut self) {
        let logged = self.log.pop_front().expect("the caller saw it");
        let Landing { offset, data, .. } = logged.landing;
        self.log_bytes -= data.len();
        if self.log.is_empty() {
            // Nothing newer anywhere: the pages may be shared instead of copied.
            self.durable.share(&self.current, offset, data.len() as u64);
        } else {
            self.durable.write(offset, &data);
        }
    }

    /// Number of the last completed write: what a flush that begins now covers.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Count of logged writes that a flush which began at `sequence` covers.
    pub(crate) fn logged_through(&self, sequence: u64) -> usize {
        self.log.iter().filter(|logged| logged.sequence <= sequence).count()
    }

    /// Places of the logged writes that a flush which began at `sequence` should keep.
    pub(crate) fn unkept(&self, sequence: u64) -> Vec<(u64, u64)> {
        let covered = self.log.iter().filter(|logged| logged.sequence <= sequence && !logged.landing.forced);
        covered.map(|logged| (logged.landing.offset, logged.landing.data.len() as u64)).collect()
    }

    /// A flush that began at `sequence` completes.
    pub(crate) fn flush(&mut self, sequence: u64) {
        while self.log.front().is_some_and(|front| front.sequence <= sequence) {
            self.settle();
        }
    }

    /// A flush failed: each write that it covered may be gone when the process ends.
    pub(crate) fn flush_failed(&mut self, random: &mut Random) {
        for logged in self.log.iter_mut().filter(|logged| !logged.landing.forced) {
            logged.doomed = random.coin();
        }
    }

    /// The process that wrote has ended: what a failed flush doomed falls back now. Returns lost sectors.
    pub(crate) fn process_ended(&mut self) -> u64 {
        if !self.log.iter().any(|logged| logged.doomed) {
            return 0;
        }
        let doomed: Vec<bool> = self.log.iter().map(|logged| logged.doomed).collect();
        let landings: Vec<Landing> = self.log.drain(..).map(|logged| logged.landing).collect();
        let (image, lost) = land(&self.durable, &landings, |write, _| !doomed[write]);
        self.log_bytes = 0;
        self.replace(image);
        lost
    }

    /// Power goes, with these writes in flight (in no order). Returns lost sectors of completed writes.
    pub(crate) fn crash(&mut self, in_flight: Vec<Landing>, torn: bool, random: &mut Random) -> u64 {
        let doomed: Vec<bool> = self.log.iter().map(|logged| logged.doomed).collect();
        let (base, mut landings) = self.crash_base();
        let completed = landings.len();
        for landing in in_flight {
            let at = completed + random.index(landings.len() + 1 - completed);
            landings.insert(at, landing);
        }
        let style = match random.below(if torn { 6 } else { 4 }) {
            0 => Style::All,
            1 => Style::Nothing,
            2 => Style::Prefix(random.index(landings.len() + 1)),
            3 => Style::Writes(random.below(u64::from(PPM)) as u32),
            _ => Style::Sectors(random.below(u64::from(PPM)) as u32),
        };
        let mut write_decided = (usize::MAX, false);
        let mut lost_completed = 0;
        let (image, _) = land(base, &landings, |write, _| {
            let lands = match style {
                Style::All => true,
                Style::Nothing => false,
                Style::Prefix(length) => write < length || torn && write == length && random.coin(),
                Style::Sectors(ppm) => random.chance(ppm),
                Style::Writes(ppm) => {
                    if write_decided.0 != write {
                        write_decided = (write, random.chance(ppm));
                    }
                    write_decided.1
                }
            };
            let lands = lands && !doomed.get(write).copied().unwrap_or(false);
            if !lands && write < completed {
                lost_completed += 1;
            }
            lands
        });
        self.replace(image);
        lost_completed
    }

    /// Flip bits of the sector at `offset`, on stable media and above.
    pub(crate) fn rot(&mut self, offset: u64, random: &mut Random) {
        let sector = offset - offset % SECTOR_BYTES as u64;
        for _ in 0..1 + random.below(3) {
            let at = sector + random.below(SECTOR_BYTES as u64);
            let bit = random.below(8) as u32;
            self.current.flip(at, bit);
            if self.volatile_cache {
                self.durable.flip(at, bit);
            }
        }
        // Logged versions of the sector are what the cache holds; they land over the rot, as on a real device.
    }
}
