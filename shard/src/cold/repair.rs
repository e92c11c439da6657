//! The task of a disk that mends what is damaged on it: one section after the other, from the other machines of the group.
//!
//! Must never write what was not proven, nor be in the way of a read. Invariant: what leaves the queue is whole on the device, or does not count any more,
//! or is a place where no section begins.
//!
//! | step | where |
//! |---|---|
//! | a place was found damaged; it waits its time | `damage.rs` |
//! | the section counts here, and is not whole | `look` |
//! | its header is damaged, too: the others say what stands there | `name` |
//! | a block that it shares cannot be read: those beside it are fetched, too | `beside` |
//! | one of the others gives it: every byte is proven | `others.rs: section`, `proven.rs` |
//! | the task that writes puts it in its place, flushes, reads back | `mend.rs: rewrite` |

use super::ColdError;
use super::core::{ColdCore, Spindle};
use super::damage::Suspect;
use super::mend::{Counting, Rewritten, block_of};
use super::others::{Named, NotGiven};
use super::proven::Proven;
use ioengine::Instant;
use ioengine::sync::race;
use layout::cold_section::SectionHeader;
use layout::units::BLOCK_BYTES;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Between two repairs of a disk: what is asked of it goes first.
const REST: Duration = Duration::from_millis(20);
/// How often reads of the disk are looked for.
const QUIET_POLL: Duration = Duration::from_millis(10);

/// Why a section could not be mended now.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMended {
    /// This disk.
    #[error(transparent)]
    Disk(#[from] ColdError),
    /// The other machines.
    #[error("no other machine gives it: {0}")]
    NotGiven(#[from] NotGiven),
    /// Nobody else is known.
    #[error(
        "the entry of file {file} is lost and not all of the file can be read: cold.peers has to name the two other machines, which know what it holds"
    )]
    Alone {
        /// File.
        file: u32,
    },
    /// One of the others has lost more.
    #[error(
        "the disk of another machine is being filled, or reads not all of its files: what it holds is not known yet"
    )]
    Filling,
    /// The other machines hold different sections in one place.
    #[error("the two other machines name different sections")]
    Disagree,
}

/// What came of a suspicion.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It was written anew.
    Mended { sections: usize, bytes: u64 },
    /// It is whole.
    Sound,
    /// No section that counts begins there.
    Gone,
}

/// Mend what is damaged, for as long as the core lives.
pub(super) async fn run(core: Rc<ColdCore>, spindle: Rc<Spindle>) {
    loop {
        let noted = spindle.damage_noted.notified();
        let next = spindle.damaged.lock().expect("no core panics with it").next();
        let now = core.io.now();
        let suspect = match next {
            None => {
                noted.await;
                continue;
            }
            Some((_, due_ns)) if due_ns > now.ns => {
                race(noted, core.io.sleep_until(Instant { ns: due_ns })).await;
                continue;
            }
            Some((suspect, _)) => suspect,
        };
        spindle.watch.is_back().await;
        quiet(&core, &spindle).await;
        let found = mend(&core, &spindle, &suspect).await;
        if let Err(NotMended::Disk(ColdError::Aside { .. })) = found {
            ioengine::sometimes!("a repair is broken off because its disk is set aside");
            continue;
        }
        settle(&core, &spindle, &suspect, found);
        core.io.sleep(REST).await;
    }
}

/// Until the disk has no reads to answer, for a while.
pub(super) async fn quiet(core: &ColdCore, spindle: &Spindle) {
    let until = core.io.now().after(core.limits.work_patience);
    while spindle.queue.borrow().read_count() > 0 && core.io.now() < until {
        core.io.sleep(QUIET_POLL).await;
    }
}

/// Count what came of it; what could not be mended waits.
fn settle(core: &ColdCore, spindle: &Spindle, suspect: &Suspect, found: Result<Found, NotMended>) {
    let (counters, disk, file, at) =
        (&spindle.counters, spindle.superblock.disk, suspect.file, suspect.offset);
    let mut damaged = spindle.damaged.lock().expect("no core panics with it");
    match found {
        Ok(Found::Mended { sections, bytes }) => {
            tracing::info!(disk, file, at, sections, bytes, "a section of a cold disk was written anew");
            ioengine::sometimes!("a section of a cold disk is mended");
            counters.repaired.add(sections as u64);
            counters.repaired_bytes.add(bytes);
            damaged.done(suspect);
        }
        Ok(found) => {
            if found == Found::Sound {
                ioengine::sometimes!("a section that was thought damaged is whole");
            }
            counters.repair_dropped.add(1);
            damaged.done(suspect);
        }
        Err(error) => {
            tracing::warn!(disk, file, at, %error, "a section of a cold disk cannot be mended now");
            ioengine::sometimes!("a section of a cold disk cannot be mended now");
            counters.repair_failed.add(1);
            damaged.later(suspect, core.io.now().ns, core.limits.repair_retry);
        }
    }
    counters.repair_queue.set(damaged.len() as u64);
}

async fn mend(core: &ColdCore, spindle: &Spindle, suspect: &Suspect) -> Result<Found, NotMended> {
    let counting = spindle.counting(core.io.now(), suspect.file).await?;
    if counting.generation() != suspect.generation {
        ioengine::sometimes!("a file was begun anew before its damage was mended");
        return Ok(Found::Gone);
    }
    let own = match spindle.reader.header(suspect.file, suspect.offset).await {
        Err(error @ ColdError::Aside { .. }) => return Err(error.into()),
        own => own.ok().flatten(),
    };
    let own = own.filter(|header| header.place.file_generation == suspect.generation);
    if own.is_some_and(|header| !counting.has(&header)) {
        return Ok(Found::Gone);
    }
    if let Some(header) = &own
        && is_whole(spindle, header).await?
    {
        return Ok(Found::Sound);
    }
    let named = match &own {
        Some(header) => Some(Named::of_header(header)),
        None => name(core, spindle, suspect).await?,
    };
    let Some(named) = named.filter(|named| counting.counts(named.number)) else {
        return give_up(core, spindle, suspect, &counting).await;
    };
    if let Some((run, whom)) = &suspect.unwanted
        && own.is_none()
        && named.is_of(whom)
        && run.number == named.number
    {
        // By the word of another machine it is whose it is said to be.
        let numbers = (run.number..run.number + run.section_count).collect();
        spindle.free(core.io.now(), suspect.file, suspect.generation, numbers).await?;
        return Ok(Found::Gone);
    }
    let (all, stands_beside) = beside(core, spindle, &counting, named).await?;
    let mut sections = Vec::new();
    for one in &all {
        sections.push(fetch(core, one).await?);
    }
    let rewritten = spindle.rewrite(core.io.now(), sections, stands_beside).await?;
    Ok(match rewritten {
        Rewritten::Yes(bytes) => Found::Mended { sections: all.len(), bytes },
        Rewritten::Gone => Found::Gone,
    })
}

/// No section begins there by the word of all three. What somebody wants freed, and neither of the others holds any more, goes here, too.
async fn give_up(
    core: &ColdCore,
    spindle: &Spindle,
    suspect: &Suspect,
    counting: &Counting,
) -> Result<Found, NotMended> {
    let Some((run, _)) = suspect.unwanted.filter(|(run, _)| counting.numbers().any(|number| run.has(number)))
    else {
        return Ok(Found::Gone);
    };
    let others = file_of_others(core, spindle, suspect.file).await?;
    let is_it = |one: &Named| one.blocks.file_generation == suspect.generation && run.has(one.number);
    if !others.iter().any(is_it) {
        ioengine::sometimes!("sections with a damaged header are freed after the others freed theirs");
        let numbers = (run.number..run.number + run.section_count).collect();
        spindle.free(core.io.now(), suspect.file, suspect.generation, numbers).await?;
    }
    Ok(Found::Gone)
}

/// Is every byte of it right, as this disk reads it?
pub(super) async fn is_whole(spindle: &Spindle, header: &SectionHeader) -> Result<bool, ColdError> {
    match spindle.reader.examine(header).await {
        Ok(wrong) => Ok(wrong.is_none()),
        Err(ColdError::Disk(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Which section begins there, by the word of the others: of both, where both answer. One that is silent may know of one.
async fn name(core: &ColdCore, spindle: &Spindle, suspect: &Suspect) -> Result<Option<Named>, NotMended> {
    let disk = (spindle.superblock.group, spindle.superblock.disk);
    let place = (suspect.file, suspect.generation, suspect.offset);
    let (mut found, mut silent): (Option<Named>, _) = (None, None);
    for node in core.others.order() {
        match core.others.named_at(node, disk, place).await {
            Ok(Some(named)) if found.is_some_and(|other| other != named) => return Err(NotMended::Disagree),
            Ok(named) => found = found.or(named),
            Err(error) => silent = Some(error),
        }
    }
    match (found, silent) {
        (None, Some(error)) => Err(error.into()),
        (found, _) => Ok(found),
    }
}

/// The section, from the first of the others that gives it.
async fn fetch(core: &ColdCore, named: &Named) -> Result<Proven, NotMended> {
    let mut last = None;
    for node in core.others.order() {
        match core.others.section(node, named).await {
            Ok(proven) => return Ok(proven),
            Err(error) => {
                ioengine::sometimes!("another machine has no whole copy either");
                last = Some(error);
            }
        }
    }
    Err(last.map_or(NotMended::Disagree, NotMended::NotGiven))
}

/// A section, and those that share with it a block that this disk does not read: all of them in order, and whether anything else may stand in such a
/// block.
async fn beside(
    core: &ColdCore,
    spindle: &Spindle,
    counting: &Counting,
    named: Named,
) -> Result<(Vec<Named>, bool), NotMended> {
    let file = named.blocks.file;
    let mut all = vec![named];
    let mut known: Option<Vec<Named>> = None;
    loop {
        let mut unread = Vec::new();
        for at in shared_blocks(&all.iter().map(Named::range).collect::<Vec<_>>()) {
            match block_of(&spindle.reader, file, at).await {
                Ok(_) => {}
                Err(ColdError::Disk(_)) => unread.push(at),
                Err(error) => return Err(error.into()),
            }
        }
        if unread.is_empty() {
            return Ok((all, true));
        }
        ioengine::sometimes!("a block that sections share cannot be read");
        let others = match &known {
            Some(others) => others,
            None => known.insert(file_of_others(core, spindle, file).await?),
        };
        let touches = |one: &&Named| {
            unread.iter().any(|at| one.range().start < at + BLOCK && *at < one.range().end)
                && one.blocks.file_generation == named.blocks.file_generation
                && counting.counts(one.number)
                && !all.contains(*one)
        };
        let more: Vec<Named> = others.iter().filter(touches).copied().collect();
        if more.is_empty() {
            return Ok((all, false));
        }
        all.extend(more);
        all.sort_by_key(|one| one.blocks.offset);
    }
}

/// The blocks of which these ranges, in order, take a part and not all.
fn shared_blocks(ranges: &[Range<u64>]) -> Vec<u64> {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Vec::new() };
    let is_shared = |at: &u64| {
        let taken = |range: &Range<u64>| range.end.min(at + BLOCK).saturating_sub(range.start.max(*at));
        ranges.iter().map(taken).sum::<u64>() < BLOCK
    };
    (first.start / BLOCK * BLOCK..last.end).step_by(BLOCK_BYTES).filter(is_shared).collect()
}

/// All that the two others hold in a file.
pub(super) async fn file_of_others(
    core: &ColdCore,
    spindle: &Spindle,
    file: u32,
) -> Result<Vec<Named>, NotMended> {
    let disk = (spindle.superblock.group, spindle.superblock.disk);
    let mut all: Vec<Named> = Vec::new();
    for node in 0..core.others.count() {
        for named in core.others.file(node, disk, file).await? {
            if !all.contains(&named) {
                all.push(named);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_shared_at_both_ends_and_in_gaps() {
        let of = |ranges: &[(u64, u64)]| {
            shared_blocks(&ranges.iter().map(|(from, end)| *from..*end).collect::<Vec<_>>())
        };
        assert_eq!((of(&[(0, 8_192)]), of(&[(100, 5_000)])), (vec![], vec![0, 4_096]));
        assert_eq!(of(&[(0, 5_000), (5_000, 12_288)]), [0u64; 0]);
        assert_eq!(of(&[(0, 5_000), (5_001, 12_288)]), [4_096]);
    }
}
