//! What a disk has forgotten that it freed: the entry of a file was lost, or is older than what was told, or the request to free met a header that
//! nobody could read. The two others remember.
//!
//! Must never free by the silence of a machine, nor by the word of one alone. Invariant: a number is freed here once both others have said that it does not
//! count: it is freed in this life of the file there, or they have begun a later one; or, where nothing of it stands here, they have never heard of it.

use super::agreed::Agreed;
use super::core::{ColdCore, Spindle};
use super::mend::Counting;
use super::repair::NotMended;
use layout::cold_section::SectionPlace;
use net::cold::ColdFilesOf;
use std::rc::Rc;

/// The other machines of a group.
const OTHERS: usize = 2;

/// What a machine says of a section that counts here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// It does not count any more.
    Freed,
    /// No such number was ever given out.
    Unheard,
    /// It counts, or may yet.
    Counts,
}

impl Agreed {
    /// What the machine that says this knows of a section.
    fn word(&self, generation: u32, number: u32) -> Word {
        let has = |run: &net::cold::ColdReservedRun| {
            let numbers = run.number..run.number.saturating_add(run.section_count);
            run.file_generation == generation && numbers.contains(&number)
        };
        match () {
            () if self.reserved().iter().any(has) => Word::Counts,
            // It began the file anew only when all of it was free.
            () if self.generation > generation => Word::Freed,
            () if self.generation < generation || number >= self.section_count => Word::Unheard,
            () if self.is_freed(number) => Word::Freed,
            () => Word::Counts,
        }
    }
}

/// What both others say of the numbers of a file that count here: those that they have freed, and those that one of them has never heard of and the other
/// does not count, either.
async fn asked(
    core: &ColdCore,
    spindle: &Spindle,
    file: u32,
    (generation, numbers): (u32, Vec<u32>),
) -> Result<(Vec<u32>, Vec<u32>), NotMended> {
    let superblock = &spindle.superblock;
    let of = ColdFilesOf { group: superblock.group, disk: superblock.disk, file, limit: 1, freed: true };
    let (mut freed, mut unheard) = (numbers, Vec::new());
    for node in 0..OTHERS {
        let said = core.others.files(node, &of, &superblock.geometry).await?;
        let of_file = said.items.into_iter().find(|(of, _)| *of == file).map(|(_, agreed)| agreed);
        let word = |number: &u32| match &of_file {
            // A disk that is being filled has not heard of much.
            Some(agreed) if agreed.word(generation, *number) != Word::Unheard || !said.is_filling => {
                agreed.word(generation, *number)
            }
            _ => Word::Counts,
        };
        unheard.retain(|number| word(number) != Word::Counts);
        unheard.extend(freed.iter().filter(|number| word(number) == Word::Unheard));
        freed.retain(|number| word(number) == Word::Freed);
    }
    Ok((freed, unheard))
}

/// Free what counts here of a file and both others have freed, and numbers under which nothing stands here and nobody holds anything: how many that were.
///
/// Failing history otherwise: a number that was never written on the two others is given up here, and the entry that said so is lost. Nothing shows it to who
/// looks for what is nobody's, and the file is never begun anew.
///
/// # Errors
/// [`NotMended`]: nothing is freed.
pub(super) async fn forget(
    core: &ColdCore,
    spindle: &Spindle,
    file: u32,
    counting: &Counting,
) -> Result<usize, NotMended> {
    let generation = counting.generation();
    let numbers: Vec<u32> = counting.numbers().collect();
    if numbers.is_empty() || core.others.count() != OTHERS || ioengine::canary("remember_what_was_freed") {
        return Ok(0);
    }
    let (mut numbers, mut unheard) = asked(core, spindle, file, (generation, numbers)).await?;
    if !unheard.is_empty() && !ioengine::canary("count_what_nobody_has_heard_of") {
        let (stand, gaps) = spindle.reader.walk_all(file).await?;
        let is_it = |at: &SectionPlace, number| (at.file_generation, at.number) == (generation, number);
        let stands = |number: &u32| stand.iter().any(|section| is_it(&section.place, *number));
        unheard.retain(|number| gaps == 0 && !stands(number));
        if !unheard.is_empty() {
            ioengine::sometimes!("a number that nobody has heard of is freed");
        }
        numbers.append(&mut unheard);
    }
    let count = numbers.len();
    if count > 0 {
        ioengine::sometimes!("a section that the others have freed is freed");
        tracing::warn!(
            disk = spindle.superblock.disk,
            file,
            count,
            "sections are freed that the two others freed before, or have never heard of"
        );
        spindle.counters.forgotten.add(count as u64);
        spindle.free(core.io.now(), file, generation, numbers).await?;
    }
    Ok(count)
}

/// Files whose entry is lost, in a slot or both: by the word of a start, which walked them, or found since. Their entries are written again only when the
/// others have been heard: until then each start walks them again, and asks.
pub(super) async fn run(core: Rc<ColdCore>, spindle: Rc<Spindle>) {
    loop {
        let lost = spindle.entry_lost.notified();
        let files: Vec<u32> = spindle.lost_entries.borrow().iter().copied().collect();
        if files.is_empty() {
            lost.await;
            continue;
        }
        for file in files {
            spindle.watch.is_back().await;
            if let Err(error) = look_at(&core, &spindle, file).await {
                let disk = spindle.superblock.disk;
                tracing::warn!(disk, file, %error, "what a file's entry has lost is not known yet");
            }
        }
        if !spindle.lost_entries.borrow().is_empty() {
            core.io.sleep(core.limits.repair_retry).await;
        }
    }
}

async fn look_at(core: &ColdCore, spindle: &Spindle, file: u32) -> Result<(), NotMended> {
    if spindle.is_due(file) && !spindle.is_filling() {
        let agreed = of_both(core, spindle, file).await?;
        spindle.learn(core.io.now(), file, agreed).await?;
    }
    if !spindle.is_due(file) {
        let counting = spindle.counting(core.io.now(), file).await?;
        forget(core, spindle, file, &counting).await?;
    }
    Ok(spindle.mend_entry(core.io.now(), file).await?)
}

/// What both others hold of a file together.
async fn of_both(core: &ColdCore, spindle: &Spindle, file: u32) -> Result<Agreed, NotMended> {
    if core.others.count() != OTHERS {
        return Err(NotMended::Alone { file });
    }
    let superblock = &spindle.superblock;
    let of = ColdFilesOf { group: superblock.group, disk: superblock.disk, file, limit: 1, freed: true };
    let mut joined = Agreed::default();
    for node in 0..OTHERS {
        let said = core.others.files(node, &of, &superblock.geometry).await?;
        match said.items.iter().find(|(of, _)| *of == file) {
            Some((_, agreed)) => joined.join(agreed),
            // It says nothing of a file that it does not know itself.
            None if said.is_filling => return Err(NotMended::Filling),
            None => {}
        }
    }
    Ok(joined)
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
        let words = |of: &Agreed, generation| -> String {
            let letter = |number| match of.word(generation, number) {
                Word::Freed => 'f',
                Word::Unheard => '-',
                Word::Counts => 'c',
            };
            (0..8).map(letter).collect()
        };
        assert_eq!(words(&heard(3, 6, 0b10_0101, &[]), 3), "fcfccf--");
        assert_eq!(words(&heard(3, 6, 0b10_0101, &[]), 4), "--------", "it has not begun that life yet");
        assert_eq!(words(&heard(4, 1, 0, &[]), 3), "ffffffff", "that life has ended");
        let reserved = heard(3, 6, 0b10_0101, &[(3, 5, 2), (4, 0, 2)]);
        assert_eq!(words(&reserved, 3), "fcfcccc-", "what is reserved may be sealed yet");
        assert_eq!(words(&reserved, 4), "cc------");
    }
}
