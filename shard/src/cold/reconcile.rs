//! What a disk has forgotten that it freed: the entry of a file was lost, or is older than what was told, or the request to free met a header that
//! nobody could read. The two others remember.
//!
//! Must never free by the silence of a machine, nor by the word of one alone. Invariant: a number is freed here once both others have said that it does not
//! count: it is freed in this life of the file there, or they have begun a later one.

use super::ColdError;
use super::agreed::Agreed;
use super::core::{ColdCore, Spindle};
use super::mend::Counting;
use super::repair::NotMended;
use net::cold::ColdFilesOf;
use std::rc::Rc;

/// The other machines of a group.
const OTHERS: usize = 2;

impl Agreed {
    /// Does the machine that says this remember that a section does not count?
    fn has_freed(&self, generation: u32, number: u32) -> bool {
        let has = |run: &net::cold::ColdReservedRun| {
            let numbers = run.number..run.number.saturating_add(run.section_count);
            run.file_generation == generation && numbers.contains(&number)
        };
        // It began the file anew only when all of it was free.
        let is_freed = self.generation > generation
            || self.generation == generation && number < self.section_count && self.is_freed(number);
        is_freed && !self.reserved().iter().any(has)
    }
}

/// Free what counts here of a file and both others have freed: how many sections that were.
///
/// # Errors
/// [`NotMended`]: nothing is freed.
pub(super) async fn forget(
    core: &ColdCore,
    spindle: &Spindle,
    file: u32,
    counting: &Counting,
) -> Result<usize, NotMended> {
    let superblock = &spindle.superblock;
    let of = ColdFilesOf { group: superblock.group, disk: superblock.disk, file, limit: 1, freed: true };
    let generation = counting.generation();
    let mut numbers: Vec<u32> = counting.numbers().collect();
    if numbers.is_empty() || core.others.count() != OTHERS || ioengine::canary("remember_what_was_freed") {
        return Ok(0);
    }
    for node in 0..OTHERS {
        let (_, files) = core.others.files(node, &of, &superblock.geometry).await?;
        let said = files.into_iter().find(|(said, _)| *said == file).map(|(_, agreed)| agreed);
        numbers.retain(|number| said.as_ref().is_some_and(|said| said.has_freed(generation, *number)));
    }
    let count = numbers.len();
    if count > 0 {
        ioengine::sometimes!("a section that the others have freed is freed");
        tracing::warn!(
            disk = superblock.disk,
            file,
            count,
            "sections are freed that the two others freed before"
        );
        spindle.counters.forgotten.add(count as u64);
        spindle.free(core.io.now(), file, generation, numbers).await?;
    }
    Ok(count)
}

/// Files that had to be walked by a start. Their entries are written again only when the others have been heard: until then each start walks them again, and
/// asks.
pub(super) async fn run(core: Rc<ColdCore>, spindle: Rc<Spindle>, walked: Vec<u32>) {
    for file in walked {
        while let Err(error) = look_at(&core, &spindle, file).await {
            let disk = spindle.superblock.disk;
            tracing::warn!(disk, file, %error, "what a file's entry has lost is not known yet");
            core.io.sleep(core.limits.repair_retry).await;
        }
    }
}

async fn look_at(core: &ColdCore, spindle: &Spindle, file: u32) -> Result<(), NotMended> {
    let counting = spindle.counting(core.io.now(), file).await?;
    forget(core, spindle, file, &counting).await?;
    Ok(spindle.mend_entry(core.io.now(), file).await?)
}

impl super::disk::ColdDisk {
    /// Write the entry of a file again that had to be walked, so that no later start has to.
    ///
    /// # Errors
    /// [`ColdError::Disk`], [`ColdError::Arena`].
    pub async fn mend_entry(&mut self, file: u32) -> Result<(), ColdError> {
        // A state goes to the slot that does not hold the one before: two of them mend both.
        for _slot in 0..2 {
            let state = self.state(file).await?;
            if !self.is_entry_known(file).await? && state.generation > 0 {
                ioengine::sometimes!("an entry of a cold disk's file table is written again");
                self.store(file, state).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net::cold::{ColdAnswer, ColdFileSaid, ColdFilesHead, ColdReservedRun, encode_files};
    use net::reply::{Answer, Reply};

    fn heard(generation: u32, section_count: u32, freed: u8, reserved: &[(u32, u32, u32)]) -> Agreed {
        let run = |&(file_generation, number, section_count): &(u32, u32, u32)| ColdReservedRun {
            file_generation,
            number,
            section_count,
        };
        let (head, freed) = (section_count * 4_096, if freed == 0 { vec![] } else { vec![freed] });
        let reserved = reserved.iter().map(run).collect();
        let said = ColdFileSaid { file: 0, generation, head, section_count, freed, reserved };
        let head = ColdFilesHead { is_filling: false, file_count: 1, file_bytes: 65_536, more: None };
        let mut out = vec![0; 4_096];
        let bytes = encode_files(&mut out, &head, &[said]);
        let reply = Reply::decode(net::Operation::ColdFiles, &out[..bytes]).expect("it was just encoded");
        let Answer::Cold(ColdAnswer::Files(files)) = reply.answer else { panic!("files") };
        Agreed::of(&files.iter().next().expect("one file"))
    }

    #[test]
    fn only_what_is_said_to_be_freed_is() {
        let numbers = |of: &Agreed, generation| -> Vec<u32> {
            (0..8).filter(|number| of.has_freed(generation, *number)).collect()
        };
        assert_eq!(numbers(&heard(3, 6, 0b10_0101, &[]), 3), [0, 2, 5]);
        assert_eq!(numbers(&heard(3, 6, 0b10_0101, &[]), 4), [0u32; 0], "it has not begun that life yet");
        assert_eq!(numbers(&heard(4, 1, 0, &[]), 3), [0, 1, 2, 3, 4, 5, 6, 7], "that life has ended");
        assert_eq!(
            numbers(&heard(3, 6, 0b10_0101, &[(3, 5, 1), (4, 0, 2)]), 3),
            [0, 2],
            "what is reserved may be sealed yet"
        );
    }
}
