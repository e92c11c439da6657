//! The places of a cold disk: what of each file is written, reserved and free. No disk and no clock.
//!
//! Must never give a place twice while it counts. Invariant: a file is begun anew only when none of its sections counts, nothing
//! in it is reserved, and it has been so for the delay within which somebody may still be reading it.
//!
//! What is reserved outlives the process (`kept`): a start says it again with `restore`. What was written is durable with its head before
//! anybody is told, so that three disks can agree on the highest of their heads.

use layout::cold_file::FILE_SECTION_COUNT_MAX;
use layout::units::BLOCK_BYTES;

/// Sections that stand back to back, written as one: from a block on, padded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// File of the disk.
    pub file: u32,
    /// Generation of that file.
    pub file_generation: u32,
    /// Byte of the file where it begins, a multiple of 4096.
    pub offset: u32,
    /// Bytes, padding included: a multiple of 4096.
    pub bytes: u32,
    /// Number of its first section in the file.
    pub number: u32,
    /// Sections, at least one.
    pub section_count: u32,
}

impl Run {
    /// The first byte behind it.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.offset + self.bytes
    }

    /// Is this number of its file one of its own?
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        (self.number..self.number + self.section_count).contains(&number)
    }

    /// Do they share a byte or a number of a file?
    #[must_use]
    pub fn overlaps(&self, other: &Run) -> bool {
        let apart = |a: &Run, b: &Run| a.end() <= b.offset && a.number + a.section_count <= b.number;
        self.file == other.file && !apart(self, other) && !apart(other, self)
    }
}

/// Which place is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The next that is free; files below this one that are in use are passed over.
    From(u32),
    /// This one and no other.
    Exactly(Run),
}

/// Why a place is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No file has room.
    #[error("no file has room for {bytes} bytes and {section_count} sections")]
    Full {
        /// Bytes asked for.
        bytes: u32,
        /// Sections asked for.
        section_count: u32,
    },
    /// It is in use, or not the disk's.
    #[error("the place is not free here; this disk would give {next:?}")]
    Taken {
        /// What it would give.
        next: Option<Run>,
    },
}

/// What is remembered of a file; which of its sections are free stands on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileFacts {
    /// Number of the state on the disk.
    pub sequence: u64,
    /// How often it was begun.
    pub generation: u32,
    /// Bytes up to which it is written.
    pub head: u32,
    /// Sections in it.
    pub section_count: u32,
    /// Those that are free.
    pub freed_count: u32,
    /// From when on it may be begun anew, if nothing in it counts: nanoseconds of the core's clock.
    pub empty_until_ns: u64,
}

impl FileFacts {
    fn is_empty(&self) -> bool {
        self.freed_count == self.section_count
    }
}

/// All files of a disk.
#[derive(Debug)]
pub struct FileTable {
    file_bytes: u32,
    files: Vec<FileFacts>,
    /// Files that are still to be filled, or of which not all is known: nothing is given in them.
    due: Vec<bool>,
    reserved: Vec<Run>,
    reserved_max: usize,
}

impl FileTable {
    /// With these files, and at most so many reservations at once.
    #[must_use]
    pub fn new(file_bytes: u32, files: Vec<FileFacts>, reserved_max: usize) -> FileTable {
        let due = vec![false; files.len()];
        FileTable { file_bytes, files, due, reserved: Vec::new(), reserved_max }
    }

    /// This file is still to be filled, or it is not known what it holds; or it is filled, or known.
    pub fn set_due(&mut self, file: u32, is_due: bool) {
        self.due[file as usize] = is_due;
    }

    /// Is this file still to be filled?
    #[must_use]
    pub fn is_due(&self, file: u32) -> bool {
        self.due.get(file as usize) == Some(&true)
    }

    /// Is any file still to be filled, or not known?
    #[must_use]
    pub fn is_any_due(&self) -> bool {
        self.due.contains(&true)
    }

    /// What is known of a file.
    #[must_use]
    pub fn file(&self, file: u32) -> Option<&FileFacts> {
        self.files.get(file as usize)
    }

    /// All of them, in order.
    #[must_use]
    pub fn files(&self) -> &[FileFacts] {
        &self.files
    }

    /// Places that are reserved.
    #[must_use]
    pub fn reserved(&self) -> &[Run] {
        &self.reserved
    }

    /// Behind all that is written to a file and reserved in it: generation, byte, number.
    fn end_of(&self, file: u32) -> (u32, u32, u32) {
        let facts = &self.files[file as usize];
        let mut end = (facts.generation, facts.head, facts.section_count);
        for run in self.reserved.iter().filter(|run| run.file == file) {
            let own = (run.file_generation, run.end(), run.number + run.section_count);
            // A reservation of a generation that is only about to begin leads.
            end = if own.0 > end.0 { own } else { (end.0, end.1.max(own.1), end.2.max(own.2)) };
        }
        end
    }

    fn fits(&self, (offset, number): (u32, u32), bytes: u32, section_count: u32) -> bool {
        let end = offset.checked_add(bytes);
        end.is_some_and(|end| end <= self.file_bytes) && number + section_count <= FILE_SECTION_COUNT_MAX
    }

    fn is_reserved_in(&self, file: u32) -> bool {
        self.reserved.iter().any(|run| run.file == file)
    }

    /// May it be begun anew?
    fn may_begin(&self, file: u32, now_ns: u64) -> bool {
        let facts = &self.files[file as usize];
        facts.is_empty()
            && !self.is_due(file)
            && !self.is_reserved_in(file)
            && (facts.generation == 0
                || facts.empty_until_ns <= now_ns
                || ioengine::canary("reuse_a_freed_place_at_once"))
    }

    /// Is there anything in it that counts, or will be?
    fn is_in_use(&self, file: u32) -> bool {
        !self.files[file as usize].is_empty() || self.is_reserved_in(file)
    }

    /// Where a run of so many bytes (content, before padding) and sections would go: behind what the first file has that is in use and has
    /// room, else at the start of the first that may be begun.
    #[must_use]
    pub fn next(&self, content_bytes: u32, section_count: u32, now_ns: u64) -> Option<Run> {
        self.next_passing(0, content_bytes, section_count, now_ns)
    }

    /// The same, with the files below `passed` left out of those in use: any may be begun.
    #[must_use]
    pub fn next_passing(
        &self,
        passed: u32,
        content_bytes: u32,
        section_count: u32,
        now_ns: u64,
    ) -> Option<Run> {
        self.next_from((passed, 0), content_bytes, section_count, now_ns)
    }

    /// Among the files in use from the first on, and those to be begun from the second on.
    fn next_from(
        &self,
        (used, begun): (u32, u32),
        content_bytes: u32,
        section_count: u32,
        now_ns: u64,
    ) -> Option<Run> {
        let bytes = content_bytes.checked_next_multiple_of(BLOCK_BYTES as u32)?;
        if bytes == 0 || section_count == 0 || !self.fits((0, 0), bytes, section_count) {
            return None;
        }
        let count = self.files.len() as u32;
        let goes_on = (used..count).find_map(|file| {
            let (generation, offset, number) = self.end_of(file);
            let fits = self.fits((offset, number), bytes, section_count)
                && self.is_in_use(file)
                && !self.is_due(file);
            fits.then_some((file, generation, offset, number))
        });
        let (file, file_generation, offset, number) = match goes_on {
            Some(found) => found,
            None => {
                let file = (begun..count).find(|&file| self.may_begin(file, now_ns))?;
                (file, self.files[file as usize].generation.checked_add(1)?, 0, 0)
            }
        };
        Some(Run { file, file_generation, offset, bytes, number, section_count })
    }

    /// Keep a place for who asks: until it is written or given back.
    ///
    /// # Errors
    /// [`Refused`]: then nothing is kept.
    pub fn reserve(&mut self, run: Run, now_ns: u64) -> Result<(), Refused> {
        let Run { bytes, section_count, .. } = run;
        if self.reserved.len() >= self.reserved_max {
            return Err(Refused::Full { bytes, section_count });
        }
        if self.is_due(run.file) {
            // The others would name this file again and again: a place behind it is as good for them.
            let behind = (run.file + 1, run.file + 1);
            return Err(Refused::Taken { next: self.next_from(behind, bytes, section_count, now_ns) });
        }
        let whole = run.offset.is_multiple_of(BLOCK_BYTES as u32)
            && bytes.is_multiple_of(BLOCK_BYTES as u32)
            && bytes > 0
            && section_count > 0;
        let known = (run.file as usize) < self.files.len() && whole;
        let is_free = known && self.fits((run.offset, run.number), bytes, section_count) && {
            let (generation, head, number) = self.end_of(run.file);
            let goes_on = generation == run.file_generation && head <= run.offset && number <= run.number;
            let begins = generation < run.file_generation && self.may_begin(run.file, now_ns);
            generation > 0 && goes_on || begins
        };
        if !is_free {
            return Err(Refused::Taken { next: self.next(bytes, section_count, now_ns) });
        }
        self.reserved.push(run);
        debug_assert!(self.reserved.iter().filter(|other| other.overlaps(&run)).count() == 1);
        Ok(())
    }

    /// A place that was kept in an earlier life of the process is kept still.
    pub fn restore(&mut self, run: Run) {
        self.reserved.push(run);
    }

    /// Is this place kept for who writes to it?
    #[must_use]
    pub fn is_reserved(&self, run: &Run) -> bool {
        self.reserved.contains(run)
    }

    /// A place is given back unwritten.
    pub fn give_back(&mut self, run: &Run) {
        self.reserved.retain(|other| other != run);
    }

    /// What a file will be once the run in it is durable.
    #[must_use]
    pub fn with(&self, run: &Run) -> FileFacts {
        let facts = self.files[run.file as usize];
        let begun = if facts.generation == run.file_generation {
            facts
        } else {
            FileFacts { sequence: facts.sequence, generation: run.file_generation, ..FileFacts::default() }
        };
        FileFacts {
            sequence: begun.sequence + 1,
            head: begun.head.max(run.end()),
            section_count: begun.section_count.max(run.number + run.section_count),
            ..begun
        }
    }

    /// This is on the disk now, or is what the others hold of a file that is still to be filled.
    pub fn set(&mut self, file: u32, facts: FileFacts) {
        self.files[file as usize] = facts;
    }

    /// Bytes that runs can still be given, now or once files may be begun, and those of all files.
    #[must_use]
    pub fn room(&self) -> (u64, u64) {
        let free = |file: u32| {
            let used = if self.is_in_use(file) { self.end_of(file).1 } else { 0 };
            u64::from(self.file_bytes - used)
        };
        let count = self.files.len() as u32;
        ((0..count).map(free).sum(), u64::from(count) * u64::from(self.file_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: u64 = 1_000_000;

    fn table(file_count: usize) -> FileTable {
        FileTable::new(64 << 10, vec![FileFacts::default(); file_count], 8)
    }

    /// As a disk does it: reserve, write.
    fn write(table: &mut FileTable, bytes: u32, count: u32) -> Run {
        let run = table.next(bytes, count, LATER).expect("there is room");
        table.reserve(run, LATER).expect("it was just offered");
        let facts = table.with(&run);
        table.set(run.file, facts);
        table.give_back(&run);
        run
    }

    #[test]
    fn runs_stand_one_behind_the_other_and_then_in_the_next_file() {
        let mut table = table(2);
        let first = write(&mut table, 5_000, 3);
        let (file, file_generation) = (0, 1);
        assert_eq!(
            first,
            Run { file, file_generation, offset: 0, bytes: 8_192, number: 0, section_count: 3 }
        );
        let second = write(&mut table, 40_960, 1);
        assert_eq!((second.offset, second.number, second.file), (8_192, 3, 0));
        let third = write(&mut table, 20_000, 1);
        assert_eq!((third.offset, third.number, third.file, third.file_generation), (0, 0, 1, 1));
        assert_eq!(table.next(60_000, 1, LATER), None);
        assert_eq!(table.room(), (65_536 - 49_152 + 65_536 - 20_480, 131_072));
    }

    #[test]
    fn a_place_is_given_once() {
        let mut table = table(2);
        let run = table.next(4_096, 2, 0).expect("there is room");
        table.reserve(run, 0).expect("it is free");
        let taken = table.reserve(run, 0);
        let next = Run { offset: 4_096, number: 2, ..run };
        assert_eq!(taken, Err(Refused::Taken { next: Some(next) }));
        // Another disk of the number may be ahead: a place further on is as good.
        let ahead = Run { offset: 12_288, number: 7, ..run };
        table.reserve(ahead, 0).expect("nothing is there");
        let inside = Run { offset: 8_192, number: 5, ..run };
        assert!(table.reserve(inside, 0).is_err(), "what lies between is lost, not given");
        let same_number = Run { offset: 16_384, number: 8, ..run };
        assert!(table.reserve(same_number, 0).is_err());
        for wrong in [
            Run { file: 2, ..run },
            Run { offset: 20_481, number: 30, ..run },
            Run { offset: 61_440, bytes: 8_192, number: 30, ..run },
            Run { offset: 20_480, number: FILE_SECTION_COUNT_MAX, ..run },
            Run { offset: 20_480, number: 30, section_count: 0, ..run },
        ] {
            assert!(table.reserve(wrong, 0).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_is_begun_again_only_when_all_of_it_is_free_for_a_while() {
        let mut table = table(1);
        let run = write(&mut table, 60_000, 2);
        assert_eq!(table.next(60_000, 1, LATER), None);
        let half = FileFacts { freed_count: 1, ..*table.file(0).expect("a file") };
        table.set(0, half);
        assert_eq!(table.next(8_192, 1, LATER), None);
        table.set(0, FileFacts { freed_count: 2, empty_until_ns: LATER, ..half });
        assert_eq!(table.next(4_096, 1, LATER - 1), None);
        let next = table.next(4_096, 1, LATER).expect("it may be begun");
        assert_eq!((next.file_generation, next.offset, next.number), (2, 0, 0));
        assert!(table.reserve(Run { file_generation: 1, ..run }, LATER).is_err(), "its old life has ended");
        // A disk that was begun more often elsewhere leads.
        table.reserve(Run { file_generation: 5, ..next }, LATER).expect("a later generation is as good");
        let facts = table.with(&table.reserved()[0]);
        assert_eq!((facts.generation, facts.head, facts.section_count, facts.freed_count), (5, 4_096, 1, 0));
    }

    #[test]
    fn a_file_that_is_to_be_filled_gives_nothing_and_one_behind_it_is_offered() {
        let mut table = table(3);
        let facts = FileFacts { generation: 4, head: 4_096, section_count: 1, ..FileFacts::default() };
        table.set(0, facts);
        table.set(1, FileFacts { freed_count: 1, ..facts });
        (0..2).for_each(|file| table.set_due(file, true));
        let next = table.next(4_096, 1, LATER).expect("there is room");
        assert_eq!((next.file, next.file_generation), (2, 1));
        for (file, file_generation) in [(0, 4), (0, 5), (1, 5)] {
            let wanted = Run { file, file_generation, offset: 4_096, number: 1, ..next };
            assert_eq!(table.reserve(wanted, LATER), Err(Refused::Taken { next: Some(next) }));
        }
        (0..2).for_each(|file| table.set_due(file, false));
        let next = table.next(4_096, 1, LATER).expect("there is room");
        assert_eq!((next.file, next.file_generation, next.offset, next.number), (0, 4, 4_096, 1));
        table.reserve(next, LATER).expect("it is free");
    }

    #[test]
    fn files_in_use_are_passed_over_and_any_other_may_be_begun() {
        let mut table = table(3);
        let facts = FileFacts { generation: 1, head: 4_096, section_count: 1, ..FileFacts::default() };
        (1..3).for_each(|file| table.set(file, facts));
        let place = |run: Option<Run>| run.map(|run| (run.file, run.file_generation, run.offset));
        let next = |table: &FileTable, passed| place(table.next_passing(passed, 4_096, 1, LATER));
        assert_eq!(next(&table, 0), Some((1, 1, 4_096)));
        assert_eq!(next(&table, 2), Some((2, 1, 4_096)));
        assert_eq!(next(&table, 3), Some((0, 1, 0)), "the first is not in use");
        table.set(0, facts);
        assert_eq!(next(&table, 0), Some((0, 1, 4_096)));
        assert_eq!(next(&table, 3), None);
        assert_eq!(next(&table, u32::MAX), None, "no such file");
    }

    #[test]
    fn reservations_are_bounded() {
        let mut table = table(4);
        for _ in 0..8 {
            let run = table.next(4_096, 1, 0).expect("there is room");
            table.reserve(run, 0).expect("it is free");
        }
        let run = table.next(4_096, 1, 0).expect("there is room");
        assert!(matches!(table.reserve(run, 0), Err(Refused::Full { .. })));
    }
}
