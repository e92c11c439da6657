//! The three machines that sunk windows stand on, as one core of a store sees them.
//!
//! Owns the ways to them, which disk of the group a bucket's sections go to, and which files are passed over. Must never believe one machine alone that something is
//! gone. Invariant: what a read answers was proven by the machine that gave it, and is proven again by who asked.

use super::half_dead::FileLife;
use crate::limits::Limits;
use crate::sink_settings::SinkSettings;
use ioengine::Io;
use layout::cold_kept::KeptFor;
use layout::units::{BLOCK_BYTES, BucketIndex, Uuid};
use net::client::{
    CONNECTION_ARENA_BYTES, COPIES, ClientConfig, ClientError, ColdNode, ColdReply, copies_in_any_order,
    first_copy,
};
use net::cold::{ColdAnswer, ColdBlocks, ColdFilesOf, ColdKept, ColdPlace, ColdRequest};
use net::outcome::{Limit, Outcome};
use net::reply::Answer;
use net::route::BucketMap;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a machine may take to answer a read before the next one is asked.
const READ_WAIT: Duration = Duration::from_millis(1500);
/// Reads that passes, copies and comparisons have under way, each one at a time.
const BACKGROUND_READS: usize = 4;
/// How long one is waited for alone.
const HEDGE: Duration = Duration::from_millis(100);
/// How long it may take for everything else: it flushes, and reads back.
const WORK_WAIT: Duration = Duration::from_secs(10);
/// How long a machine that is gone is left alone, at most.
const PATIENCE: Duration = Duration::from_secs(1);
/// A block of a section is as large as the largest record and this, at most: a frame carries it.
const FRAME_BYTES_MORE: u32 = 96 << 10;
/// What the ways to the machines take of a core's arena: they have it beside what limits give to everything else.
pub(crate) const ARENA_BYTES: usize = COPIES * CONNECTION_ARENA_BYTES;
/// How often all three are asked for one place.
const ROUNDS: usize = 6;
/// How many files that are to be passed over may be offered one after the other.
const PASSED_MAX: usize = 16;
/// Store group of the tablets: there is one.
const STORE_GROUP: u16 = 0;

/// Why no copy gives what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ColdFailure {
    /// The settings name no cold nodes.
    #[error("its records are on cold disks, and the settings of this node name none")]
    NoGroup,
    /// No machine has answered in time, or could.
    #[error("none of the three cold nodes gives it now")]
    Unavailable,
    /// All of them say that it is another's by now.
    #[error("none of the three cold nodes has it any more")]
    Gone,
    /// As many reads wait for them as may.
    #[error("too many reads of cold disks are under way")]
    Crowded,
    /// It is not what was asked for.
    #[error("a cold node gave something else")]
    Wrong,
}

/// What came of asking the machines for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// All three keep it.
    Yes(ColdPlace),
    /// Somebody does not answer, or is busy.
    NotNow,
    /// Somebody has no room.
    Full,
    /// It is too large for any file.
    Never,
}

/// What came of asking one machine to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is done, and durable.
    Yes,
    /// Ask again.
    NotNow,
    /// The place is not kept for this any more.
    Lost,
}

/// Blocks were not given by a machine.
struct NotGiven {
    /// It says that they are another's by now.
    is_moved: bool,
}

fn bytes_of(reply: &ColdReply) -> Option<&[u8]> {
    match reply.answer() {
        Answer::Cold(ColdAnswer::Read(bytes)) => Some(bytes),
        _ => None,
    }
}

/// A cold group. Never leaves its core.
pub struct ColdGroup {
    io: Io,
    number: u16,
    nodes: [ColdNode; COPIES],
    disks: BucketMap,
    /// Bytes of one write.
    piece_bytes: usize,
    /// Reads under way, and how many may be: readers are left for what stands on the own disk.
    reading: Cell<usize>,
    reading_max: usize,
    /// Files of which most is dead: nothing goes there while others have room.
    half_dead: RefCell<BTreeSet<FileLife>>,
    /// By disk: files below this are passed over if they are in use, until it is known anew which are half-dead.
    passed: RefCell<BTreeMap<u16, u32>>,
}

impl ColdGroup {
    /// The group that the settings name. Its connections take buffers from the core's arena as they come to be.
    ///
    /// # Errors
    /// More disks than a map can have.
    pub fn new(
        io: &Io,
        settings: &SinkSettings,
        cluster: Uuid,
        limits: &Limits,
    ) -> Result<ColdGroup, String> {
        let disks = BucketMap::new(settings.disk_count).map_err(|error| format!("[sink] disks: {error}"))?;
        let config = ClientConfig {
            deadline: WORK_WAIT,
            patience: PATIENCE,
            frame_bytes: limits.frame_bytes_max + FRAME_BYTES_MORE,
            cluster,
            ..ClientConfig::default()
        };
        let piece = limits.frame_bytes_max as usize / 2 / BLOCK_BYTES * BLOCK_BYTES;
        Ok(ColdGroup {
            io: io.clone(),
            number: settings.group,
            nodes: std::array::from_fn(|node| ColdNode::new(io, settings.nodes[node], &config)),
            disks,
            piece_bytes: piece.clamp(BLOCK_BYTES, 256 << 10),
            reading: Cell::new(0),
            reading_max: limits.reader_count / 2 + BACKGROUND_READS,
            half_dead: RefCell::default(),
            passed: RefCell::default(),
        })
    }

    /// The disk of the group that a bucket's sections stand on.
    #[must_use]
    pub fn disk_of(&self, bucket: BucketIndex) -> u16 {
        self.disks.group_of(bucket)
    }

    /// Disks of the group.
    pub(super) fn disk_count(&self) -> u16 {
        self.disks.group_count()
    }

    /// Number of the group.
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Append stored blocks to `out`, from the first machine that gives them: one drawn anew, soon another one beside it if that is slow, and
    /// each in turn while they do not give them.
    ///
    /// # Errors
    /// [`ColdFailure`]: none does, or too much is being read.
    pub(crate) async fn read(&self, blocks: &ColdBlocks, out: &mut Vec<u8>) -> Result<(), ColdFailure> {
        if self.reading.get() >= self.reading_max {
            ioengine::sometimes!("too many reads of cold disks are under way");
            return Err(ColdFailure::Crowded);
        }
        self.reading.set(self.reading.get() + 1);
        let found = self.read_any(blocks, out).await;
        self.reading.set(self.reading.get() - 1);
        found
    }

    async fn read_any(&self, blocks: &ColdBlocks, out: &mut Vec<u8>) -> Result<(), ColdFailure> {
        match first_copy(&self.io, HEDGE, async |node: usize| self.ask_read(node, blocks).await).await {
            Ok(reply) => {
                out.extend_from_slice(bytes_of(&reply).expect("it was just looked at"));
                Ok(())
            }
            Err(nots) if nots.iter().all(|not| not.is_moved) => Err(ColdFailure::Gone),
            Err(_) => Err(ColdFailure::Unavailable),
        }
    }

    /// One machine is asked for blocks.
    async fn ask_read(&self, node: usize, blocks: &ColdBlocks) -> Result<ColdReply, NotGiven> {
        let reply = self.nodes[node].ask_within(&ColdRequest::Read { blocks: *blocks }, READ_WAIT).await;
        match reply {
            Ok(reply) if bytes_of(&reply).is_some_and(|bytes| bytes.len() == blocks.block_bytes as usize) => {
                Ok(reply)
            }
            Ok(reply) => {
                let is_moved = matches!(reply.answer(), Answer::Not(Outcome::Moved));
                tracing::warn!(node, answer = ?reply.answer(), ?blocks, "a cold node does not give blocks");
                Err(NotGiven { is_moved })
            }
            Err(error) => {
                tracing::warn!(node, %error, ?blocks, "a cold node does not give blocks");
                Err(NotGiven { is_moved: false })
            }
        }
    }

    /// Where the nodes serve.
    pub(crate) fn addresses(&self) -> [SocketAddr; COPIES] {
        std::array::from_fn(|node| self.nodes[node].address())
    }

    /// Whom a run of sections is for: its first bucket, and its window (first time in microseconds, days, generation).
    #[must_use]
    pub fn whom(bucket: BucketIndex, window_from: u64, window_days: u32, window_generation: u32) -> KeptFor {
        KeptFor { tablet_group: STORE_GROUP, bucket, window_from, window_days, window_generation }
    }

    /// Of these files most is dead.
    pub(super) fn set_half_dead(&self, files: BTreeSet<FileLife>) {
        self.half_dead.replace(files);
        self.passed.borrow_mut().clear();
    }

    fn is_half_dead(&self, place: &ColdPlace) -> bool {
        self.half_dead.borrow().contains(&(place.disk, place.file, place.file_generation))
    }

    /// Have the same place kept on all three. `wanted` names none. What is written to a file of which most is dead would soon be moved
    /// again: it is taken only when no other has room.
    pub async fn agree(&self, wanted: &ColdPlace) -> Agreed {
        let disk = wanted.disk;
        let mut passed = *wanted;
        passed.file = self.passed.borrow().get(&disk).copied().unwrap_or(0);
        for _ in 0..PASSED_MAX {
            match self.agree_once(&passed).await {
                Agreed::Yes(place) if self.is_half_dead(&place) => {
                    ioengine::sometimes!("a cold file of which most is dead is passed over");
                    for node in 0..COPIES {
                        if self.free(node, &place).await.is_none() {
                            return Agreed::NotNow;
                        }
                    }
                    passed.file = place.file.saturating_add(1);
                    self.passed.borrow_mut().insert(disk, passed.file);
                }
                Agreed::Full if passed.file > 0 => break,
                agreed => return agreed,
            }
        }
        ioengine::sometimes!("no cold file has room but those of which most is dead");
        self.passed.borrow_mut().remove(&disk);
        self.agree_once(wanted).await
    }

    async fn agree_once(&self, wanted: &ColdPlace) -> Agreed {
        let mut exact: Option<ColdPlace> = None;
        let order = copies_in_any_order(&self.io);
        for _round in 0..ROUNDS {
            let mut answers = Vec::new();
            for node in order {
                let request =
                    ColdRequest::Reserve { place: exact.unwrap_or(*wanted), exactly: exact.is_some() };
                let reply = self.nodes[node].ask(&request).await;
                match reply.as_ref().map(ColdReply::answer) {
                    Ok(Answer::Cold(ColdAnswer::Reserved(kept, found))) => {
                        answers.push((node, kept, found));
                        exact = exact.or(Some(found));
                    }
                    Ok(Answer::Not(Outcome::BadRequest { .. } | Outcome::TooLarge { .. })) => {
                        return Agreed::Never;
                    }
                    Ok(Answer::Not(Outcome::Busy { limit: Limit::Space, .. })) => return Agreed::Full,
                    _ => return Agreed::NotNow,
                }
            }
            let next = highest(wanted, answers.iter().map(|(_, _, found)| found));
            if answers.iter().all(|(_, kept, found)| *kept != ColdKept::Taken && *found == next) {
                return Agreed::Yes(next);
            }
            ioengine::sometimes!("the machines of a cold group keep different places");
            for (node, kept, found) in answers {
                if kept != ColdKept::Taken && found != next && self.free(node, &found).await.is_none() {
                    return Agreed::NotNow;
                }
            }
            exact = Some(next);
        }
        Agreed::NotNow
    }

    /// Write what is to stand in a place, and have it flushed and read back. `checksum`: xxh3-128 of the bytes.
    pub async fn write(&self, node: usize, place: &ColdPlace, bytes: &[u8], checksum: u128) -> Done {
        let way = &self.nodes[node];
        for (at, piece) in (0u32..).step_by(self.piece_bytes).zip(bytes.chunks(self.piece_bytes)) {
            let reply = way.ask(&ColdRequest::Write { place: *place, at, bytes: piece }).await;
            match reply.as_ref().map(ColdReply::answer) {
                Ok(Answer::Cold(ColdAnswer::Written)) => {}
                // It was sealed before, and that was not heard: the seal says so again.
                Ok(Answer::Not(Outcome::Moved)) => break,
                _ => return Done::NotNow,
            }
        }
        let reply = way.ask(&ColdRequest::Seal { place: *place, checksum }).await;
        match reply.as_ref().map(ColdReply::answer) {
            Ok(Answer::Cold(ColdAnswer::Sealed(found))) if found == checksum => Done::Yes,
            Ok(Answer::Not(Outcome::Moved)) => Done::Lost,
            _ => Done::NotNow,
        }
    }

    /// Give a place up on one machine. Sections that counted until then; `None`: it does not say.
    pub(super) async fn free(&self, node: usize, place: &ColdPlace) -> Option<u32> {
        let reply = self.nodes[node].ask(&ColdRequest::Free { place: *place }).await;
        match reply.as_ref().map(ColdReply::answer) {
            Ok(Answer::Cold(ColdAnswer::Freed(count))) => Some(count),
            _ => None,
        }
    }

    /// The next page of the files of a disk, as a machine knows them.
    ///
    /// # Errors
    /// [`ClientError`]: it does not say.
    pub(super) async fn files(&self, node: usize, disk: u16, file: u32) -> Result<ColdReply, ClientError> {
        let of = ColdFilesOf { group: self.number, disk, file, limit: 0, freed: false };
        self.nodes[node].ask(&ColdRequest::Files(of)).await
    }

    /// The next page of what a machine keeps and holds on a disk.
    ///
    /// # Errors
    /// [`ClientError`]: it does not say.
    pub(super) async fn list(
        &self,
        node: usize,
        disk: u16,
        (file, offset): (u32, u32),
    ) -> Result<ColdReply, ClientError> {
        let request = ColdRequest::List { group: self.number, disk, file, offset, limit: 0 };
        self.nodes[node].ask(&request).await
    }
}

/// The highest of the places, as one for what is wanted.
fn highest<'a>(wanted: &ColdPlace, places: impl Iterator<Item = &'a ColdPlace> + Clone) -> ColdPlace {
    let of = |place: &ColdPlace| (place.file, place.file_generation);
    let (file, file_generation) = places.clone().map(of).max().expect("all three have answered");
    let same = places.filter(|place| of(place) == (file, file_generation));
    let (offset, number) =
        same.fold((0, 0), |(offset, number), place| (place.offset.max(offset), place.number.max(number)));
    ColdPlace { file, file_generation, offset, number, ..*wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_of_three_places_is_behind_all_of_them() {
        let whom = ColdGroup::whom(BucketIndex::new(5).unwrap(), 0, 1, 2);
        let wanted = ColdPlace {
            group: 1,
            disk: 2,
            whom,
            file: 0,
            file_generation: 0,
            offset: 0,
            content_bytes: 100,
            number: 0,
            section_count: 3,
        };
        let at = |file, file_generation, offset, number| ColdPlace {
            file,
            file_generation,
            offset,
            number,
            ..wanted
        };
        let of = |places: [ColdPlace; 3]| highest(&wanted, places.iter());
        assert_eq!(of([at(1, 1, 4096, 2); 3]), at(1, 1, 4096, 2));
        assert_eq!(of([at(1, 1, 8192, 2), at(1, 1, 4096, 7), at(0, 9, 65_536, 9)]), at(1, 1, 8192, 7));
        assert_eq!(of([at(1, 2, 0, 0), at(1, 1, 8192, 7), at(1, 1, 4096, 3)]), at(1, 2, 0, 0));
    }
}
