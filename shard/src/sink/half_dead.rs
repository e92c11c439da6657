//! Sunk windows that live on in cold files of which most is dead: they are sealed again, and sunk to another place, so that those files
//! can be begun anew.
//!
//! ```text
//! a file:   | dead | A | dead .... | B | dead ...... | room |      A and B go elsewhere: all of it is room
//! ```
//!
//! A file of a cold disk is begun anew only when nothing in it counts. It is *half-dead* when more than half of what is written to it is
//! dead, and nothing in it is reserved. Of a window to be moved, with `all` bytes on one machine, let `held` be those in half-dead files,
//! and `emptied` what is written to those of them in which nothing else lives: it is moved when `4 held + emptied > 3 all`. So most of it
//! stands in such files, or it alone holds back much more than all of it is; each file's dead bytes shared among what lives there, at
//! least half of what is moved is freed.
//!
//! Must never say that a window is to be moved by the word of one machine, or where a sink could not end. Invariant: it ends. Take of each
//! file in use what is written to it, and four times the less of what lives there and half of what is written: what a window leaves lowers
//! the sum by `4 held + emptied` at least, the files that it is written to, none of them half-dead, raise it by `3 all`, and what dies
//! never raises it.

use super::group::ColdGroup;
use crate::core::Shard;
use crate::seals::{Seals, Sinking};
use layout::tablet_sink::ColdLink;
use layout::units::{BLOCK_BYTES, LogTime, TabletIndex};
use net::client::COPIES;
use net::cold::{ColdFileItem, ColdFilesHead, ColdPlace};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that one core has moved from one look to the next, unless one window is larger: the rest waits for the next look.
const MOVED_BYTES: u64 = 64 << 20;
/// Half-dead files that one look keeps in mind of each machine: more are found by a later one.
const FILES_MAX: usize = 65_536;
/// Of each disk, files with most room that are kept in mind.
const ROOMS_MAX: usize = 64;
/// Machines that must say so.
const SAY_SO: usize = 2;

/// How often a window may come back to files that it was to leave, since no other had room in the end, before it is left there.
const TRIES: u32 = 3;

/// A life of a file: disk, file, generation.
pub(super) type FileLife = (u16, u32, u32);
/// A window: tablet, and its first time.
type WindowName = (TabletIndex, u64);

fn life_of(link: &ColdLink) -> FileLife {
    (link.disk, link.file, link.file_generation)
}

/// Bytes of a run, padding included.
fn run_bytes(link: &ColdLink) -> u64 {
    u64::from(link.content_bytes).next_multiple_of(BLOCK_BYTES as u64)
}

/// A file, while the list of its disk is gone through.
#[derive(Debug)]
struct Counted {
    generation: u32,
    head: u32,
    /// Nothing in it is reserved.
    is_quiet: bool,
    /// Blocks with something that counts, and the first one behind them.
    live_blocks: u32,
    behind: u32,
}

impl Counted {
    fn live_bytes(&self) -> u64 {
        u64::from(self.live_blocks) * BLOCK_BYTES as u64
    }

    fn is_half_dead(&self) -> bool {
        self.is_quiet && self.live_blocks > 0 && self.live_bytes() * 2 < u64::from(self.head)
    }
}

/// One disk of one machine, while its list is gone through.
#[derive(Debug)]
pub(super) struct DiskCount {
    disk: u16,
    head: ColdFilesHead,
    files: BTreeMap<u32, Counted>,
}

impl DiskCount {
    /// Of a disk whose machine says this of it.
    pub(super) fn new(disk: u16, head: ColdFilesHead) -> DiskCount {
        DiskCount { disk, head, files: BTreeMap::new() }
    }

    /// The machine has this file.
    pub(super) fn add_file(&mut self, item: &ColdFileItem<'_>) {
        let (generation, head) = (item.generation, item.head);
        let is_quiet = item.reserved().next().is_none();
        let file = Counted { generation, head, is_quiet, live_blocks: 0, behind: 0 };
        self.files.insert(item.file, file);
    }

    /// It holds these sections, or keeps a place for them. In the order of its list.
    pub(super) fn add_listed(&mut self, place: &ColdPlace, is_sealed: bool) {
        let Some(file) = self.files.get_mut(&place.file) else { return };
        if !is_sealed || file.generation != place.file_generation {
            file.is_quiet = false;
            return;
        }
        let block = BLOCK_BYTES as u32;
        let end = place.offset.saturating_add(place.content_bytes).div_ceil(block);
        // Sections of a run share blocks.
        file.live_blocks += end.saturating_sub((place.offset / block).max(file.behind));
        file.behind = file.behind.max(end);
    }
}

/// A half-dead file.
#[derive(Clone, Copy, Debug)]
struct HalfDead {
    /// Bytes written to it, and those of them that count.
    head: u64,
    live_bytes: u64,
}

/// What a machine says in one look.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Disks of which all was heard.
    heard: BTreeSet<u16>,
    half_dead: BTreeMap<FileLife, HalfDead>,
    /// By disk: bytes left in files that are not half-dead, the most first.
    rooms: BTreeMap<u16, Vec<u32>>,
}

impl Said {
    /// All of a disk was heard.
    pub(super) fn add(&mut self, counted: DiskCount) {
        let DiskCount { disk, head, files } = counted;
        self.heard.insert(disk);
        // Of files that are not there yet it says nothing.
        if head.is_filling {
            return;
        }
        let never_begun = head.file_count.saturating_sub(u32::try_from(files.len()).unwrap_or(u32::MAX));
        let mut rooms = vec![head.file_bytes; (never_begun as usize).min(ROOMS_MAX)];
        for (file, counted) in files {
            if counted.is_half_dead() {
                if self.half_dead.len() < FILES_MAX {
                    let found = HalfDead { head: counted.head.into(), live_bytes: counted.live_bytes() };
                    self.half_dead.insert((disk, file, counted.generation), found);
                }
            } else {
                let is_empty = counted.live_blocks == 0 && counted.is_quiet;
                let used = if is_empty { 0 } else { counted.head };
                rooms.push(head.file_bytes.saturating_sub(used));
            }
        }
        rooms.sort_unstable_by(|a, b| b.cmp(a));
        rooms.truncate(ROOMS_MAX);
        self.rooms.insert(disk, rooms);
    }

    /// Should a window with these links be moved, by the word of this machine alone?
    fn says_so(&self, links: &[ColdLink]) -> bool {
        let mut own: BTreeMap<FileLife, u64> = BTreeMap::new();
        for link in links {
            *own.entry(life_of(link)).or_default() += run_bytes(link);
        }
        let all: u64 = own.values().sum();
        let held = || own.iter().filter_map(|(life, own)| self.half_dead.get(life).map(|file| (*own, file)));
        let held_bytes: u64 = held().map(|(own, _)| own).sum();
        let emptied = held().filter(|(own, file)| *own == file.live_bytes).map(|(_, file)| file.head);
        4 * held_bytes + emptied.sum::<u64>() > 3 * all && self.has_room(links)
    }

    /// Is there room on the same disks for as many runs as large as these, in files that are not half-dead?
    fn has_room(&self, links: &[ColdLink]) -> bool {
        let mut needs: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        for link in links {
            let (count, largest) = needs.entry(link.disk).or_default();
            (*count, *largest) = (*count + 1, run_bytes(link).max(*largest));
        }
        needs.iter().all(|(disk, (count, largest))| {
            let rooms = self.rooms.get(disk).into_iter().flatten();
            rooms.map(|room| u64::from(*room) / (*largest).max(1)).sum::<u64>() >= *count
        })
    }
}

/// Should a window with these links be moved? All three machines were heard, since a sink needs them, and two say so.
fn is_to_move(links: &[ColdLink], said: &[Said; COPIES]) -> bool {
    let is_heard = |said: &Said| links.iter().all(|link| said.heard.contains(&link.disk));
    said.iter().all(is_heard) && said.iter().filter(|said| said.says_so(links)).count() >= SAY_SO
}

/// Half-dead files, by the word of two machines.
fn half_dead(said: &[Said; COPIES]) -> BTreeSet<FileLife> {
    let all: BTreeSet<FileLife> = said.iter().flat_map(|said| said.half_dead.keys()).copied().collect();
    let is_agreed =
        |life: &FileLife| said.iter().filter(|said| said.half_dead.contains_key(life)).count() >= SAY_SO;
    all.into_iter().filter(is_agreed).collect()
}

/// A window that was to leave half-dead files.
#[derive(Debug)]
struct Try {
    /// Of the sink that stood there.
    generation: u32,
    left: BTreeSet<FileLife>,
    /// How often it was to leave these, and came back.
    count: u32,
}

/// Windows that were to leave half-dead files: so that none is moved for ever for nothing.
#[derive(Debug, Default)]
pub(super) struct Moves {
    tries: BTreeMap<WindowName, Try>,
    /// Windows that have left since this was taken.
    left: u64,
}

impl Moves {
    /// What has become of a window that was to leave: may it be told to leave again?
    fn may(&mut self, name: WindowName, sinking: &Sinking) -> bool {
        let Some(before) = self.tries.get(&name) else { return true };
        if before.generation == sinking.sink.generation {
            return true;
        }
        if sinking.links.iter().any(|link| before.left.contains(&life_of(link))) {
            ioengine::sometimes!("a window comes back to cold files that are mostly dead");
            return before.count < TRIES;
        }
        ioengine::sometimes!("a window has left cold files that are mostly dead");
        self.tries.remove(&name);
        self.left += 1;
        true
    }

    /// A window is told to leave.
    fn add(&mut self, name: WindowName, sinking: &Sinking, half_dead: &BTreeSet<FileLife>) {
        let generation = sinking.sink.generation;
        let one = self.tries.entry(name).or_insert(Try { generation: 0, left: BTreeSet::new(), count: 0 });
        if one.generation != generation {
            (one.generation, one.count) = (generation, one.count + 1);
        }
        one.left.extend(sinking.links.iter().map(life_of).filter(|life| half_dead.contains(life)));
    }

    /// Forget the windows of a tablet that are no more.
    fn forget(&mut self, tablet: TabletIndex, seals: &Seals) {
        self.tries.retain(|(own, from), _| {
            *own != tablet || seals.sealed.iter().any(|window| window.from == *from)
        });
    }
}

/// A window that is to be sealed again: first time, first time behind it, generation of its seal.
pub(crate) type Moving = (u64, u64, u32);

/// The sunk windows of a tablet that are to be moved, in order of time; of all tablets at most so many bytes, but one window at least.
fn pick(
    (tablet, seals, log_time): (TabletIndex, &Seals, LogTime),
    (said, half_dead): (&[Said; COPIES], &BTreeSet<FileLife>),
    moves: &mut Moves,
    picked_bytes: &mut u64,
) -> Vec<Moving> {
    let mut picked = Vec::new();
    moves.forget(tablet, seals);
    for window in seals.sealed.iter().filter(|window| !log_time.has_expired(window.over_at)) {
        let sinking = seals.sink_at(window.from);
        let is_sunk = |sinking: &&Sinking| sinking.sink.sunk.is_some() && sinking.is_of(window);
        let Some(sinking) = sinking.filter(is_sunk) else { continue };
        let name = (tablet, window.from);
        if !moves.may(name, sinking) || !is_to_move(&sinking.links, said) {
            continue;
        }
        let bytes: u64 = sinking.links.iter().map(run_bytes).sum();
        if *picked_bytes > 0 && *picked_bytes + bytes > MOVED_BYTES {
            continue;
        }
        *picked_bytes += bytes;
        moves.add(name, sinking, half_dead);
        picked.push((window.from, window.to, window.generation));
    }
    picked
}

/// All three machines were gone through: have the windows sealed again that are to be moved, of the tablets whose turn it is.
pub(super) fn look(
    shard: &Shard,
    cold: &ColdGroup,
    said: &[Said; COPIES],
    moves: &mut Moves,
    is_turn: impl Fn(TabletIndex) -> bool,
) {
    let half_dead = half_dead(said);
    let mut moving = BTreeMap::new();
    {
        let state = shard.state.borrow();
        let mut picked_bytes = 0;
        for tablet in TabletIndex::all().filter(|tablet| is_turn(*tablet)) {
            let own = state.tablets[tablet.index()].as_ref();
            let Some(own) = own.filter(|own| own.damage.is_none() && !own.awaits_tables) else { continue };
            let of = (tablet, &*own.seals, own.log_time);
            let picked = pick(of, (said, &half_dead), moves, &mut picked_bytes);
            if !picked.is_empty() {
                moving.insert(tablet, picked);
            }
        }
    }
    shard.counters.sink_moved_windows.add(std::mem::take(&mut moves.left));
    cold.set_half_dead(half_dead);
    if ioengine::canary("hold_back_what_is_dead") {
        return;
    }
    let is_any = !moving.is_empty();
    shard.keeper.agreeing.set_moving(moving);
    if is_any {
        shard.keeper.merge_due.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::seal_operation::SealOptions;
    use layout::tablet_sink::TabletSink;
    use layout::tablet_window::TabletWindow;
    use layout::units::{BucketIndex, LogIndex};
    use std::rc::Rc;

    const BLOCK: u32 = BLOCK_BYTES as u32;
    const FILE_BYTES: u32 = 64 * BLOCK;

    /// A run of so many blocks, with less than a block of padding.
    fn link(file: u32, block: u32, blocks: u32) -> ColdLink {
        ColdLink {
            group: 1,
            disk: 0,
            bucket: BucketIndex::new(5).unwrap(),
            file,
            file_generation: 3,
            offset: block * BLOCK,
            content_bytes: blocks * BLOCK - 100,
            number: block,
            section_count: 1,
        }
    }

    fn place(link: &ColdLink) -> ColdPlace {
        ColdPlace {
            group: link.group,
            disk: link.disk,
            whom: ColdGroup::whom(link.bucket, 0, 1, 2),
            file: link.file,
            file_generation: link.file_generation,
            offset: link.offset,
            content_bytes: link.content_bytes,
            number: link.number,
            section_count: link.section_count,
        }
    }

    /// A disk of so many files, of which these are written up to so many blocks, with these sections.
    fn disk(file_count: u32, heads: &[(u32, u32)], sections: &[ColdLink]) -> DiskCount {
        let head = ColdFilesHead { is_filling: false, file_count, file_bytes: FILE_BYTES, more: None };
        let files = heads.iter().map(|&(file, blocks)| {
            let head = blocks * BLOCK;
            (file, Counted { generation: 3, head, is_quiet: true, live_blocks: 0, behind: 0 })
        });
        let mut count = DiskCount { files: files.collect(), ..DiskCount::new(0, head) };
        sections.iter().for_each(|link| count.add_listed(&place(link), true));
        count
    }

    fn said(count: DiskCount) -> Said {
        let mut said = Said::default();
        said.add(count);
        said
    }

    #[test]
    fn a_file_is_half_dead_when_less_than_half_of_its_blocks_count() {
        let names = |count: DiskCount| said(count).half_dead.into_keys().collect::<Vec<_>>();
        assert_eq!(names(disk(2, &[(0, 10)], &[link(0, 2, 4)])), [(0, 0, 3)]);
        assert_eq!(names(disk(2, &[(0, 10)], &[link(0, 2, 5)])), [], "half of it counts");
        assert_eq!(names(disk(2, &[(0, 10)], &[])), [], "nothing counts: it can be begun anew");
        let small = |offset| ColdLink { offset, content_bytes: 900, ..link(0, 0, 1) };
        let shared = [small(0), small(900), small(1_800), small(3_500)];
        assert_eq!(names(disk(2, &[(0, 5)], &shared)), [(0, 0, 3)], "they share two blocks");
        assert_eq!(names(disk(2, &[(0, 4)], &shared)), []);
        let mut kept = disk(2, &[(0, 10)], &[link(0, 2, 2)]);
        kept.add_listed(&place(&link(0, 4, 1)), false);
        assert_eq!(names(kept), [], "somebody writes to it");
        let mut anew = disk(2, &[(0, 10)], &[link(0, 2, 2)]);
        anew.add_listed(&ColdPlace { file_generation: 4, ..place(&link(0, 0, 1)) }, true);
        assert_eq!(names(anew), [], "it was begun anew meanwhile");
        let mut filling = disk(2, &[(0, 10)], &[link(0, 2, 2)]);
        filling.head.is_filling = true;
        let filling = said(filling);
        assert!(filling.half_dead.is_empty() && filling.heard.contains(&0));
    }

    /// Files 0 and 1 are half-dead, and hold a block of another window; 2 is not, 3 was never begun.
    fn usual(own: &[ColdLink]) -> DiskCount {
        let heads = [(0, 40), (1, 40), (2, 40)];
        let mut sections = own.to_vec();
        sections.extend([link(0, 39, 1), link(1, 39, 1), link(2, 0, 40)]);
        sections.sort_by_key(|link| (link.file, link.offset));
        disk(4, &heads, &sections)
    }

    #[test]
    fn a_window_moves_when_most_of_it_stands_in_half_dead_files() {
        let moves = |own: &[ColdLink]| said(usual(own)).says_so(own);
        assert!(moves(&[link(0, 0, 4)]));
        assert!(moves(&[link(0, 0, 4), link(1, 8, 9)]));
        assert!(!moves(&[link(2, 0, 40)]));
        assert!(moves(&[link(0, 0, 7), link(2, 0, 2)]));
        assert!(!moves(&[link(0, 0, 6), link(2, 0, 2)]), "too much is left dead where it was not");
    }

    #[test]
    fn a_window_moves_when_it_alone_holds_back_more_than_it_is() {
        let moves = |own: &[ColdLink], others: &[ColdLink]| {
            let sections: Vec<ColdLink> = own.iter().chain(others).copied().collect();
            said(disk(4, &[(0, 60), (2, 40)], &sections)).says_so(own)
        };
        let own = [link(0, 0, 1), link(2, 0, 20)];
        assert!(moves(&own, &[]), "60 + 4 > 3 * 21");
        assert!(!moves(&own, &[link(0, 8, 1)]), "something else lives there, too");
        assert!(!moves(&[own[0], link(2, 0, 21)], &[]), "60 + 4 < 3 * 22");
    }

    #[test]
    fn two_machines_say_so_and_all_three_are_heard() {
        let own = [link(0, 0, 4)];
        let dead = || said(usual(&own));
        let lives = || said(usual(&[link(0, 0, 30)]));
        assert!(is_to_move(&own, &[dead(), lives(), dead()]));
        assert!(!is_to_move(&own, &[dead(), lives(), lives()]), "one has forgotten what counts");
        assert!(!is_to_move(&own, &[dead(), dead(), Said::default()]), "no sink comes to its end");
        assert!(half_dead(&[dead(), lives(), dead()]).contains(&(0, 0, 3)));
        assert!(!half_dead(&[dead(), lives(), lives()]).contains(&(0, 0, 3)));
    }

    #[test]
    fn nothing_moves_without_room_in_other_files() {
        let own = [link(0, 0, 4), link(0, 4, 4)];
        let with = |blocks: u32| {
            let others = disk(2, &[(0, 40), (1, blocks)], &[own[0], own[1], link(1, 0, blocks)]);
            said(others).says_so(&own)
        };
        assert!(with(56) && !with(57), "two runs of four blocks");
        assert!(said(disk(2, &[(0, 40), (1, 60)], &own)).says_so(&own), "the other can be begun anew");
        assert!(!said(disk(1, &[(0, 10)], &own[..1])).says_so(&own[..1]), "its own tail is no other place");
    }

    fn seals(generation: u32, links: &[ColdLink]) -> Seals {
        let options = SealOptions { codec: 1, block_bytes: 4096, dictionary_bytes: 0, level: 1 };
        let window = TabletWindow {
            from: 10,
            to: 20,
            generation: generation - 1,
            index: LogIndex(1),
            log_time: LogTime(1),
            options,
            checksum: Some(7),
            over_at: 90,
        };
        let sink = TabletSink {
            from: 10,
            to: 20,
            seal_generation: generation - 1,
            checksum: 7,
            generation,
            nonce: 1,
            codec: 1,
            level: 1,
            sunk: Some(8),
            link_count: 1,
        };
        let sinks = vec![Sinking { sink, links: Rc::new(links.to_vec()) }];
        Seals { begun: generation, sealed: vec![window], sinks, ..Seals::default() }
    }

    #[test]
    fn a_window_that_comes_back_is_not_moved_for_ever() {
        let own = [link(0, 0, 4)];
        let said = [said(usual(&own)), said(usual(&own)), said(usual(&own))];
        let dead = half_dead(&said);
        let tablet = TabletIndex::new(5).unwrap();
        let look = |moves: &mut Moves, seals: &Seals, log_time: u64| {
            !pick((tablet, seals, LogTime(log_time)), (&said, &dead), moves, &mut 0).is_empty()
        };
        let mut moves = Moves::default();
        assert!(!look(&mut moves, &seals(2, &own), 90), "it has expired");
        for _ in 0..10 {
            assert!(look(&mut moves, &seals(2, &own), 5), "until it is sealed again");
        }
        assert!((1..TRIES).all(|more| look(&mut moves, &seals(2 + 2 * more, &own), 5)));
        assert!(!look(&mut moves, &seals(20, &own), 5), "it came back each time");
        assert!(!look(&mut moves, &seals(22, &[link(2, 0, 4)]), 5) && moves.tries.is_empty(), "it has left");
        assert_eq!(moves.left, 1);
        let mut bytes = MOVED_BYTES;
        let picked = pick((tablet, &seals(2, &own), LogTime(5)), (&said, &dead), &mut moves, &mut bytes);
        assert!(picked.is_empty() && moves.tries.is_empty(), "enough for one look");
    }
}
