//! What machines of a group say of a file, taken together. No disk, no network, no clock.
//!
//! Must never take a section back that one of them has freed: a bit that is set was told by somebody, one that is not may have been forgotten. Invariant:
//! `join` is the least that is not less than any: the order in which they are heard does not matter, nor how often.

use super::table::FileFacts;
use layout::cold_file::ColdFile;
use net::cold::{ColdFileItem, ColdReservedRun};

/// A file as machines of its group know it together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Agreed {
    /// How often it was begun; 0 = never.
    pub(super) generation: u32,
    /// Byte up to which it is written.
    pub(super) head: u32,
    /// Numbers of sections given out.
    pub(super) section_count: u32,
    /// Bit n mod 8 of byte n / 8: section n does not count.
    freed: Vec<u8>,
    /// What is reserved, ascending.
    reserved: Vec<ColdReservedRun>,
}

impl Agreed {
    /// What one machine says.
    pub(super) fn of(said: &ColdFileItem<'_>) -> Agreed {
        let mut reserved: Vec<ColdReservedRun> = said.reserved().collect();
        reserved.sort_unstable();
        let (generation, head, section_count) = (said.generation, said.head, said.section_count);
        Agreed { generation, head, section_count, freed: said.freed.to_vec(), reserved }
    }

    /// And this, too.
    pub(super) fn join(&mut self, other: &Agreed) {
        if other.generation > self.generation {
            // All of the earlier one was free where the later one was begun.
            let reserved = std::mem::take(&mut self.reserved);
            *self = Agreed { generation: other.generation, reserved, ..Agreed::default() };
        }
        if other.generation == self.generation {
            self.head = self.head.max(other.head);
            self.section_count = self.section_count.max(other.section_count);
            if self.freed.len() < other.freed.len() {
                self.freed.resize(other.freed.len(), 0);
            }
            self.freed.iter_mut().zip(&other.freed).for_each(|(own, also)| *own |= also);
        }
        self.reserved.extend_from_slice(&other.reserved);
        self.reserved.sort_unstable();
        self.reserved.dedup();
    }

    pub(super) fn is_freed(&self, number: u32) -> bool {
        self.freed.get(number as usize / 8).is_some_and(|byte| byte & 1 << (number % 8) != 0)
    }

    /// Does it hold a section of this number that counts, by what was given out and freed?
    ///
    /// What is reserved somewhere and was not when the disk was lost does not count: it is nobody's without this disk's word.
    pub(super) fn counts(&self, number: u32) -> bool {
        let is_reserved = |run: &ColdReservedRun| {
            run.file_generation == self.generation
                && run.number <= number
                && number - run.number < run.section_count
        };
        number < self.section_count && !self.is_freed(number) && !self.reserved.iter().any(is_reserved)
    }

    /// Numbers of the sections that count.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..self.section_count).filter(|number| self.counts(*number))
    }

    /// What is reserved in it.
    pub(super) fn reserved(&self) -> &[ColdReservedRun] {
        &self.reserved
    }

    /// Nobody has ever begun it.
    pub(super) fn is_blank(&self) -> bool {
        self.generation == 0 && self.reserved.is_empty()
    }

    /// The same, as it is remembered of a file.
    pub(super) fn facts(&self, sequence: u64) -> FileFacts {
        FileFacts {
            sequence,
            generation: self.generation,
            head: self.head,
            section_count: self.section_count,
            freed_count: self.section_count - self.numbers().count() as u32,
            empty_until_ns: 0,
        }
    }

    /// Have the entry of a file say this.
    pub(super) fn write_to(&self, state: &mut ColdFile) {
        if state.generation < self.generation {
            state.begin(self.generation);
        }
        if state.generation == self.generation {
            state.head = state.head.max(self.head);
            state.section_count = state.section_count.max(self.section_count);
            let forgets = ioengine::canary("rebuild_forgets_what_is_freed_meanwhile");
            for number in (0..self.section_count).filter(|number| !self.counts(*number) && !forgets) {
                state.free(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net::cold::{ColdAnswer, ColdFileSaid, ColdFilesHead, encode_files};
    use net::reply::{Answer, Reply};
    use proptest::prelude::*;

    fn said(generation: u32, section_count: u32, freed: &[u8], reserved: &[(u32, u32, u32)]) -> ColdFileSaid {
        let run = |&(file_generation, number, section_count): &(u32, u32, u32)| ColdReservedRun {
            file_generation,
            number,
            section_count,
        };
        ColdFileSaid {
            file: 3,
            generation,
            head: section_count * 4_096,
            section_count,
            freed: freed.to_vec(),
            reserved: reserved.iter().map(run).collect(),
        }
    }

    fn joined(all: &[ColdFileSaid]) -> Agreed {
        let mut agreed = Agreed::default();
        for one in all {
            let head = ColdFilesHead { is_filling: false, file_count: 9, file_bytes: 65_536, more: None };
            let mut out = vec![0; 4_096];
            let bytes = encode_files(&mut out, &head, std::slice::from_ref(one));
            let reply = Reply::decode(net::Operation::ColdFiles, &out[..bytes]).expect("it was just encoded");
            let Answer::Cold(ColdAnswer::Files(files)) = reply.answer else { panic!("files") };
            files.iter().for_each(|item| agreed.join(&Agreed::of(&item)));
        }
        agreed
    }

    fn numbers(of: &Agreed) -> Vec<u32> {
        of.numbers().collect()
    }

    #[test]
    fn what_one_has_freed_is_free_and_what_one_holds_counts() {
        let both = joined(&[said(2, 4, &[0b0010], &[]), said(2, 5, &[0b0100], &[])]);
        assert_eq!((numbers(&both), both.head), (vec![0, 3, 4], 20_480));
        // Who began it later had freed all before.
        let later = joined(&[said(3, 1, &[], &[]), said(2, 5, &[], &[])]);
        assert_eq!((later.generation, numbers(&later)), (3, vec![0]));
        let reserved = joined(&[said(2, 4, &[], &[(2, 1, 2)]), said(2, 4, &[], &[])]);
        assert_eq!((numbers(&reserved), reserved.reserved().len()), (vec![0, 3], 1));
        assert!(joined(&[]).is_blank() && !joined(&[said(0, 0, &[], &[(1, 0, 1)])]).is_blank());
    }

    #[test]
    fn an_entry_says_what_is_agreed_and_keeps_what_it_freed() {
        let mut state = ColdFile::default();
        (state.generation, state.head, state.section_count) = (2, 12_288, 3);
        state.free(0);
        joined(&[said(2, 5, &[0b10], &[])]).write_to(&mut state);
        let freed =
            |state: &ColdFile| (0..state.section_count).filter(|n| state.is_freed(*n)).collect::<Vec<_>>();
        assert_eq!((state.head, freed(&state)), (20_480, vec![0, 1]));
        joined(&[said(4, 2, &[0b1], &[])]).write_to(&mut state);
        assert_eq!((state.generation, state.head, freed(&state)), (4, 8_192, vec![0]));
    }

    proptest! {
        #[test]
        fn the_order_in_which_they_are_heard_does_not_matter(
            all in prop::collection::vec((1u32..3, 8u32..12, 1u8..=255, 0u32..8), 1..4)
        ) {
            let all: Vec<ColdFileSaid> =
                all.into_iter().map(|(g, count, freed, run)| said(g, count, &[freed], &[(g, run, 1)])).collect();
            let mut other_way = all.clone();
            other_way.reverse();
            other_way.extend(all.clone());
            prop_assert_eq!(joined(&all), joined(&other_way));
        }
    }
}
