//! The scrub of a cold disk: every section that counts is read and checked once in a period, slowly, so that damage is found that nobody has asked for.
//!
//! Must never hold up a request: it waits for reads, and reads no faster than it may. Invariant: `scrub_covered_since_us` is the beginning of a pass that has
//! looked at every section that counted then; what was not whole waits for repair.
//!
//! | step of a file | where |
//! |---|---|
//! | which sections count, by the file's entry | `errand.rs` |
//! | what the two others have freed does not | `reconcile.rs` |
//! | their headers, in the order of the disk | `walk.rs: sections_from` |
//! | each is read as a whole and proven | `walk.rs: examine` |
//! | one that counts and is not found: the two others say where it stands | `missing` |

use super::ColdError;
use super::core::{ColdCore, Spindle};
use super::damage::Suspect;
use super::mend::Counting;
use super::reconcile;
use super::repair::{file_of_others, is_whole, quiet};
use super::walk::sections_from;
use crate::scrub::pace::Pace;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of a file whose headers are looked for at once.
const PART_BYTES: u32 = 1 << 20;
/// Sections of a part.
const PART_COUNT: usize = 1024;
/// How often a disk that is being filled is looked at: its first pass begins when it is.
const FILLING_POLL: Duration = Duration::from_millis(500);
/// How long a pass waits that the arena had no room for.
const NO_ROOM: Duration = Duration::from_secs(1);

/// Look at all that counts, again and again, for as long as the core lives.
pub(super) async fn run(core: Rc<ColdCore>, spindle: Rc<Spindle>) {
    let files = spindle.superblock.geometry.file_count;
    // A process that ends within each pass would never reach the last files if each pass began with the same.
    let mut first = (core.io.random() % u64::from(files)) as u32;
    while spindle.is_filling() {
        core.io.sleep(FILLING_POLL).await;
    }
    loop {
        let limits = &core.limits;
        let mut pace = Pace::new(core.io.now(), limits.scrub_period, limits.scrub_bytes_per_second);
        let geometry = &spindle.superblock.geometry;
        let used = (u64::from(files) * geometry.file_bytes).saturating_sub(spindle.counters.room_bytes.get());
        // Headers are looked for in what is read again as sections.
        pace.begin(2 * used);
        let began_us = core.io.wall_us();
        let counters = &spindle.counters;
        counters.scrub_pass_sections.set(0);
        for file in (first..files).chain(0..first) {
            counters.scrub_file.set(u64::from(file));
            let mut pass = Pass { core: &core, spindle: &spindle, pace: &mut pace };
            while let Err(error) = pass.file(file).await {
                if matches!(error, ColdError::Aside { .. }) {
                    ioengine::sometimes!("a scrub waits for a disk that is set aside");
                    spindle.watch.is_back().await;
                    continue;
                }
                tracing::warn!(disk = spindle.superblock.disk, file, %error, "scrub: a file cannot be looked at now");
                core.io.sleep(NO_ROOM).await;
            }
        }
        first = 0;
        counters.scrub_passes.add(1);
        counters.scrub_covered_since_us.set(began_us);
        counters.scrub_ended_us.set(core.io.wall_us());
        ioengine::sometimes!("a scrub has looked at all of a cold disk");
        let until = pace.ends();
        core.io.sleep(until.since(core.io.now()).max(Duration::from_millis(1))).await;
    }
}

/// One pass over a disk.
struct Pass<'a> {
    core: &'a Rc<ColdCore>,
    spindle: &'a Rc<Spindle>,
    pace: &'a mut Pace,
}

impl Pass<'_> {
    /// Everything of a file that counts.
    ///
    /// The arena may have no room: then it is looked at anew.
    async fn file(&mut self, file: u32) -> Result<(), ColdError> {
        let (core, spindle) = (self.core, self.spindle);
        let Some(counting) = self.counting(file).await? else { return Ok(()) };
        let counting = match reconcile::forget(core, spindle, file, &counting).await {
            Ok(0) => counting,
            Ok(_) => match self.counting(file).await? {
                Some(counting) => counting,
                None => return Ok(()),
            },
            Err(error) => {
                tracing::debug!(disk = spindle.superblock.disk, file, %error, "scrub: the others do not say what they freed");
                counting
            }
        };
        if counting.numbers().next().is_none() || (ioengine::canary("scrub_skips_a_file") && file == 0) {
            return Ok(());
        }
        let (mut at, mut found) = (0, BTreeSet::new());
        while at < counting.head() {
            quiet(core, spindle).await;
            let until = at.saturating_add(PART_BYTES).min(counting.head());
            let has = |header: &_| counting.has(header);
            let (sections, next) = sections_from(&spindle.reader, file, at..until, PART_COUNT, has).await?;
            self.rest(u64::from(next.saturating_sub(at))).await;
            for header in sections {
                quiet(core, spindle).await;
                found.insert(header.place.number);
                if !is_whole(spindle, &header).await? {
                    self.suspect(&counting, header.place.file, header.place.offset);
                }
                spindle.counters.scrub_sections.add(1);
                spindle.counters.scrub_pass_sections.add(1);
                self.rest(header.bytes()).await;
            }
            at = next;
        }
        self.missing(file, &counting, &found).await
    }

    /// Which sections of a file count; `None` where its entry cannot be read.
    async fn counting(&self, file: u32) -> Result<Option<Counting>, ColdError> {
        match self.spindle.counting(self.core.io.now(), file).await {
            Err(ColdError::Disk(error)) => {
                tracing::warn!(disk = self.spindle.superblock.disk, file, %error, "scrub: the entry of a file cannot be read");
                Ok(None)
            }
            counting => counting.map(Some),
        }
    }

    /// So many bytes were read: count them, and wait as long as they may take.
    async fn rest(&mut self, bytes: u64) {
        let now = self.core.io.now();
        self.spindle.counters.scrub_bytes.add(bytes);
        self.pace.add(now, bytes);
        let (done, total) = self.pace.progress();
        self.spindle.counters.scrub_pass_bytes.set(done);
        self.spindle.counters.scrub_pass_total_bytes.set(total);
        self.core.io.sleep(self.pace.due().since(now)).await;
    }

    fn suspect(&self, counting: &Counting, file: u32, offset: u32) {
        tracing::warn!(
            disk = self.spindle.superblock.disk,
            file,
            offset,
            "scrub: a section of a cold disk is damaged"
        );
        ioengine::sometimes!("a scrub finds a damaged section");
        self.spindle.counters.scrub_found.add(1);
        let (generation, at) = (counting.generation(), u64::from(offset));
        self.spindle.suspect(Suspect { file, generation, offset, at, unwanted: None });
    }

    /// Sections that count, then and still, and whose headers are not found: the others say where they stand.
    async fn missing(&self, file: u32, counting: &Counting, found: &BTreeSet<u32>) -> Result<(), ColdError> {
        let (core, spindle) = (self.core, self.spindle);
        let is_missing = |number: &u32| !found.contains(number);
        if counting.numbers().all(|number| found.contains(&number)) {
            return Ok(());
        }
        let now = match spindle.counting(core.io.now(), file).await {
            Err(ColdError::Disk(_)) => return Ok(()),
            counting => counting?,
        };
        if now.generation() != counting.generation() {
            return Ok(());
        }
        let missing: BTreeSet<u32> =
            counting.numbers().filter(is_missing).filter(|number| now.counts(*number)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        ioengine::sometimes!("a scrub does not find a section that counts");
        spindle.counters.scrub_missing.add(missing.len() as u64);
        let others = match file_of_others(core, spindle, file).await {
            Ok(others) => others,
            Err(error) => {
                tracing::warn!(disk = spindle.superblock.disk, file, %error, "scrub: sections are missing, and the others do not say where they stand");
                return Ok(());
            }
        };
        let of_generation = others.iter().filter(|one| one.blocks.file_generation == counting.generation());
        for one in of_generation.filter(|one| missing.contains(&one.number)) {
            self.suspect(counting, file, one.blocks.offset);
        }
        Ok(())
    }
}
