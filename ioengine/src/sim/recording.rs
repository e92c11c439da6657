//! A disk's history as a device would see it, and every state a crash may leave behind: for each point between two
//! completions, what was durable then, plus any part of the rest. All parts where they are few, a sample otherwise.

use super::image::{DiskImage, SECTOR_BYTES};
use super::media::{Landing, land};
use super::random::{Random, hash_bytes, mix};
use crate::clock::Instant;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A completed operation.
#[derive(Clone)]
pub enum RecordedKind {
    /// `data` was written at `offset`.
    Write {
        /// First byte.
        offset: u64,
        /// What was written.
        data: Rc<[u8]>,
        /// On stable media from its completion on.
        durable: bool,
    },
    /// Everything that had completed when it began is durable.
    Flush,
}

/// A completed operation and when it was in flight.
#[derive(Clone)]
pub struct Recorded {
    /// When it completed.
    pub at: Instant,
    /// Count of operations that had completed when it began.
    pub began: usize,
    /// What it was.
    pub kind: RecordedKind,
}

/// Contents at the start, then every completed write and flush in order.
#[derive(Clone)]
pub struct Recording {
    base: DiskImage,
    events: Vec<Recorded>,
}

/// How many states to make at each point.
#[derive(Clone, Copy, Debug)]
pub struct CrashLimits {
    /// Up to this many undecided sectors (or whole writes) every subset is made: 2 to this power.
    pub subset_bits: u32,
    /// Beyond that, this many random subsets of sectors.
    pub sample_count: u32,
}

impl Default for CrashLimits {
    fn default() -> CrashLimits {
        CrashLimits { subset_bits: 6, sample_count: 16 }
    }
}

/// What a crash may leave.
#[derive(Clone, Debug)]
pub struct CrashState {
    /// Operations of the recording that had completed.
    pub cut: usize,
    /// The crash fell before this point in time (the next completion); `None`: after everything.
    pub before: Option<Instant>,
    /// Undecided sectors that fell back.
    pub lost_sectors: u64,
    /// Contents.
    pub image: DiskImage,
}

impl Recording {
    /// Nothing happened yet.
    #[must_use]
    pub fn new(base: DiskImage) -> Recording {
        Recording { base, events: Vec::new() }
    }

    /// Append a completed operation.
    pub fn push(&mut self, event: Recorded) {
        assert!(event.began <= self.events.len(), "it began before it completed");
        self.events.push(event);
    }

    /// The operations, in order of completion.
    #[must_use]
    pub fn events(&self) -> &[Recorded] {
        &self.events
    }

    /// Every legal state at every point, without repetitions.
    #[must_use]
    pub fn crash_states(&self, limits: CrashLimits, seed: u64) -> CrashStates<'_> {
        CrashStates::new(self, 0, self.events.len(), limits, seed)
    }

    /// Every legal state of a crash after everything that was recorded.
    #[must_use]
    pub fn final_crash_states(&self, limits: CrashLimits, seed: u64) -> CrashStates<'_> {
        CrashStates::new(self, self.events.len(), self.events.len(), limits, seed)
    }
}

/// Iterator over crash states.
pub struct CrashStates<'a> {
    recording: &'a Recording,
    limits: CrashLimits,
    random: Random,
    last_cut: usize,
    cut: usize,
    /// Every event below is in `settled`.
    settled_count: usize,
    settled: DiskImage,
    /// Hash of what `settled` changed, to tell states apart by content.
    settled_hash: u64,
    landings: Vec<Landing>,
    /// Which undecided sectors land, by choice yet to be made.
    choices: Vec<Vec<bool>>,
    seen: BTreeSet<u64>,
}

fn sector_hash(image: &DiskImage, offset: u64) -> u64 {
    let mut sector = [0; SECTOR_BYTES];
    image.read(offset, &mut sector);
    mix(offset, hash_bytes(&sector))
}

fn sectors(offset: u64, bytes: usize) -> impl Iterator<Item = u64> {
    (offset..offset + bytes as u64).step_by(SECTOR_BYTES)
}

impl<'a> CrashStates<'a> {
    fn new(
        recording: &'a Recording,
        first: usize,
        last: usize,
        limits: CrashLimits,
        seed: u64,
    ) -> CrashStates<'a> {
        let mut states = CrashStates {
            recording,
            limits,
            random: Random::new(seed),
            last_cut: last,
            cut: first,
            settled_count: 0,
            settled: recording.base.clone(),
            settled_hash: 0,
            landings: Vec::new(),
            choices: Vec::new(),
            seen: BTreeSet::new(),
        };
        states.plan();
        states
    }

    /// Lay out the choices of the point `self.cut`.
    fn plan(&mut self) {
        let events = &self.recording.events;
        let flushed = events[..self.cut]
            .iter()
            .filter(|event| matches!(event.kind, RecordedKind::Flush))
            .map(|event| event.began)
            .max()
            .unwrap_or(0);
        let forced = |index: usize| match &events[index].kind {
            RecordedKind::Flush => index < self.cut,
            RecordedKind::Write { durable, .. } => index < flushed || *durable && index < self.cut,
        };
        while self.settled_count < self.cut && forced(self.settled_count) {
            if let RecordedKind::Write { offset, data, .. } = &events[self.settled_count].kind {
                for sector in sectors(*offset, data.len()) {
                    self.settled_hash ^= sector_hash(&self.settled, sector);
                }
                self.settled.write(*offset, data);
                for sector in sectors(*offset, data.len()) {
                    self.settled_hash ^= sector_hash(&self.settled, sector);
                }
            }
            self.settled_count += 1;
        }
        self.landings.clear();
        for (index, event) in events.iter().enumerate().skip(self.settled_count) {
            // Completed before the cut, or in flight at it.
            if let RecordedKind::Write { offset, data, .. } = &event.kind
                && (index < self.cut || event.began <= self.cut)
            {
                let landing = Landing { offset: *offset, data: Rc::clone(data), forced: forced(index) };
                self.landings.push(landing);
            }
        }
        self.choices = self.choose();
    }

    /// Which of the undecided sectors land, state by state.
    fn choose(&mut self) -> Vec<Vec<bool>> {
        let lengths: Vec<usize> = self
            .landings
            .iter()
            .filter(|landing| !landing.forced)
            .map(|landing| landing.data.len().div_ceil(SECTOR_BYTES))
            .collect();
        let total: usize = lengths.iter().sum();
        let bits = self.limits.subset_bits as usize;
        if total <= bits {
            return (0..1_u64 << total)
                .map(|mask| (0..total).map(|bit| mask >> bit & 1 == 1).collect())
                .collect();
        }
        let by_write = |lands: &dyn Fn(usize) -> bool| -> Vec<bool> {
            lengths.iter().enumerate().flat_map(|(write, &length)| vec![lands(write); length]).collect()
        };
        let mut choices = Vec::new();
        if lengths.len() <= bits {
            for mask in 0..1_u64 << lengths.len() {
                choices.push(by_write(&|write| mask >> write & 1 == 1));
            }
        } else {
            for length in 0..=lengths.len() {
                choices.push(by_write(&|write| write < length));
                choices.push(by_write(&|write| write != length));
            }
        }
        // Each write torn once, with everything before it and nothing after it.
        let mut start = 0;
        for &length in &lengths {
            let torn = self.random.index(length.max(2) - 1) + 1;
            let from_end = self.random.coin();
            choices.push(
                (0..total)
                    .map(|sector| match sector.checked_sub(start) {
                        None => true,
                        Some(within) if within < length => (within < torn) != from_end,
                        Some(_) => false,
                    })
                    .collect(),
            );
            start += length;
        }
        for _ in 0..self.limits.sample_count {
            let ppm = *self.random.pick(&[50_000, 300_000, 500_000, 700_000, 950_000]);
            choices.push((0..total).map(|_| self.random.chance(ppm)).collect());
        }
        choices
    }

    fn state(&self, choice: &[bool]) -> (CrashState, u64) {
        let mut next = choice.iter();
        let (image, lost_sectors) = land(&self.settled, &self.landings, |_, _| {
            *next.next().expect("a choice for each undecided sector")
        });
        let touched: BTreeSet<u64> =
            self.landings.iter().flat_map(|landing| sectors(landing.offset, landing.data.len())).collect();
        let hash = touched.iter().fold(self.settled_hash, |hash, &sector| {
            hash ^ sector_hash(&self.settled, sector) ^ sector_hash(&image, sector)
        });
        let before = self.recording.events.get(self.cut).map(|event| event.at);
        (CrashState { cut: self.cut, before, lost_sectors, image }, hash)
    }
}

impl Iterator for CrashStates<'_> {
    type Item = CrashState;

    fn next(&mut self) -> Option<CrashState> {
        loop {
            let Some(choice) = self.choices.pop() else {
                if self.cut == self.last_cut {
                    return None;
                }
                self.cut += 1;
                self.plan();
                continue;
            };
            let (state, hash) = self.state(&choice);
            // The same bytes at a later cut are another case: more had been acknowledged by then.
            if self.seen.insert(mix(hash, self.cut as u64)) {
                return Some(state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64, byte: u8, sector_count: usize, began: usize) -> Recorded {
        let data = Rc::from(vec![byte; sector_count * SECTOR_BYTES]);
        let kind = RecordedKind::Write { offset, data, durable: false };
        Recorded { at: Instant { ns: 0 }, began, kind }
    }

    fn first_bytes(state: &CrashState, count: usize) -> Vec<u8> {
        (0..count).map(|sector| state.image.get((sector * SECTOR_BYTES) as u64, 1)[0]).collect()
    }

    #[test]
    fn before_a_flush_every_subset_and_after_it_one_state() {
        let mut recording = Recording::new(DiskImage::new(1 << 20));
        recording.push(write(0, 1, 2, 0));
        recording.push(write(512, 2, 1, 1));
        recording.push(Recorded { at: Instant { ns: 1 }, began: 2, kind: RecordedKind::Flush });
        let states: Vec<CrashState> = recording.crash_states(CrashLimits::default(), 1).collect();
        let at = |cut: usize| -> BTreeSet<Vec<u8>> {
            states.iter().filter(|state| state.cut == cut).map(|state| first_bytes(state, 2)).collect()
        };
        let all = |list: &[[u8; 2]]| list.iter().map(|pair| pair.to_vec()).collect::<BTreeSet<_>>();
        // Cut 0: only the first write was in flight.
        assert_eq!(at(0), all(&[[0, 0], [0, 1], [1, 0], [1, 1]]));
        assert_eq!(at(1), all(&[[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [1, 2]]));
        assert_eq!(at(2), at(1));
        assert_eq!(at(3), all(&[[1, 2]]));
        assert_eq!(states.len(), 4 + 6 + 6 + 1, "no state twice");
    }

    #[test]
    fn a_flush_covers_only_what_had_completed_when_it_began() {
        let mut recording = Recording::new(DiskImage::new(1 << 20));
        recording.push(write(0, 1, 1, 0));
        recording.push(write(512, 2, 1, 0));
        recording.push(Recorded { at: Instant { ns: 1 }, began: 1, kind: RecordedKind::Flush });
        let last: BTreeSet<Vec<u8>> = recording
            .final_crash_states(CrashLimits::default(), 1)
            .map(|state| first_bytes(&state, 2))
            .collect();
        assert_eq!(last, [vec![1, 0], vec![1, 2]].into_iter().collect());
    }

    #[test]
    fn many_writes_are_sampled_and_all_of_them_are_legal() {
        let mut recording = Recording::new(DiskImage::new(1 << 20));
        for index in 0..20_u8 {
            recording.push(write(u64::from(index) * 4096, index + 1, 8, usize::from(index)));
        }
        let states: Vec<CrashState> = recording.final_crash_states(CrashLimits::default(), 9).collect();
        assert!(states.len() > 50, "{}", states.len());
        for state in &states {
            for sector in 0..160_u64 {
                let byte = state.image.get(sector * 512, 1)[0];
                assert!(byte == 0 || u64::from(byte) == sector / 8 + 1);
            }
        }
        assert!(states.iter().any(|state| state.lost_sectors == 0));
        assert!(states.iter().any(|state| state.lost_sectors == 160));
        assert!(states.iter().any(|state| state.lost_sectors % 8 != 0), "torn ones too");
    }
}
