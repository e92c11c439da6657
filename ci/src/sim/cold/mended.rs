//! Decay of what is sealed, and that it is mended: at peace all that is known stands on all three machines, byte for byte.
//!
//! Must never take the last good copy: a file of a disk decays on all machines but one. Invariant: what is compared are the bytes of the medium,
//! not what a node says of them.

use super::driver::{Known, Nodes};
use super::{NODES, PEACE, Stage};
use ioengine::Io;
use ioengine::sim::{DiskFaults, Random};
use layout::cold_disk::{ColdGeometry, FILE_ENTRY_BYTES};
use layout::cold_section::SECTION_HEADER_BYTES;
use net::reply::Answer;
use std::rc::Rc;
use std::time::Duration;

/// Within this, once trouble has ended, all that is damaged is mended.
const MENDED: Duration = Duration::from_secs(400);
/// How long between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// Writes that get lost while all is mended, so many of a million: they have to be read back.
const LOST_PPM: u32 = 200_000;
/// Sectors that decay together, at most.
const STRETCH: u64 = 40;
const SECTOR: u64 = 512;
/// Strokes of decay once all else is at peace, at most.
const DECAYS_AT_PEACE: u64 = 200;
/// Entries that decay then, at most.
const ENTRIES_AT_PEACE: u64 = 4;

impl Stage {
    pub(super) fn geometry(&self, disk: usize) -> ColdGeometry {
        let bytes = self.machines[0].disks[disk].bytes();
        ColdGeometry::plan(bytes, super::FILE_BYTES, u32::MAX).expect("it was formatted so")
    }

    /// May this machine's copy of a file decay? Another one's never does.
    fn may_decay(&self, machine: usize, disk: u64, file: u32) -> bool {
        if let Some(may) = self.may_decay_beside_a_lost_one(machine, disk, file) {
            return may;
        }
        let kept = match self.lies {
            // What the first machine holds is no copy to count on.
            true => 1 + (u64::from(file) + disk) % (NODES as u64 - 1),
            false => (u64::from(file) + disk) % NODES as u64,
        };
        kept != machine as u64
    }

    /// A section decays on one machine, or one of the copies of a disk's superblock.
    pub(super) fn decay(&mut self, random: &mut Random) {
        let machine = random.index(NODES);
        let disk = random.index(self.machines[machine].disks.len());
        let geometry = self.geometry(disk);
        let handle = &self.machines[machine].disks[disk];
        if random.chance(100_000) && !self.is_lost(machine, disk) {
            // Of three always the same one.
            return handle.rot(geometry.copy_offset(machine).0);
        }
        let known = self.nodes.known_on(disk as u16);
        let may = |known: &&Known| self.may_decay(machine, disk as u64, known.place.file);
        let known: Vec<&Known> = known.iter().filter(may).collect();
        if known.is_empty() {
            return;
        }
        let place = random.pick(&known).place;
        let from = geometry.file_offset(place.file).0 + u64::from(place.offset);
        let within = if random.chance(300_000) { SECTION_HEADER_BYTES as u32 } else { place.content_bytes };
        let at = from + random.below(u64::from(within));
        let end = geometry.file_offset(place.file).0 + geometry.file_bytes;
        let count = if random.chance(200_000) { 1 + random.below(STRETCH) } else { 1 };
        // A block that sections share and that cannot be read is mended by the word of both others, and one that lies may never start again.
        let has_no_other = self.lies && self.lost.as_ref().is_some_and(|lost| lost.is_of(disk));
        let is_unreadable = random.chance(300_000) && !has_no_other;
        for sector in (0..count).map(|number| at + number * SECTOR).filter(|sector| *sector < end) {
            if is_unreadable {
                handle.make_unreadable(sector);
            } else {
                handle.rot(sector);
            }
        }
    }

    /// A sector of a file's entry decays, or cannot be read. What its last write freed is known by both others, now or once they are asked by a scrub: of
    /// each file the entry decays on one machine, and where none lies or is new.
    pub(super) fn decay_an_entry(&mut self, random: &mut Random) {
        if self.lies || self.lost.is_some() || !self.scrubs {
            return;
        }
        let disk = random.index(self.machines[0].disks.len());
        let geometry = self.geometry(disk);
        let file = random.below(u64::from(geometry.file_count)) as u32;
        let machine = (file as usize + disk + 1) % NODES;
        let at = geometry.slot_offset(file, 0).0 + random.below(FILE_ENTRY_BYTES / SECTOR) * SECTOR;
        let handle = &self.machines[machine].disks[disk];
        if random.coin() { handle.make_unreadable(at) } else { handle.rot(at) }
    }

    /// Entries that were lost are written again.
    fn await_entries(&mut self) {
        let until = self.world.now().after(PEACE);
        loop {
            let lost: u64 = self.counted("lost_entries").into_iter().map(|count| count.unwrap_or(1)).sum();
            if lost == 0 {
                return;
            }
            if self.world.now() >= until {
                return self.wrong.push(format!(
                    "{lost} entries of files are not written again, {PEACE:?} after all trouble"
                ));
            }
            self.world.run_for(LOOK);
        }
    }

    /// All that is damaged is found by reading it, and mended, while some writes get lost.
    pub(super) fn mend_all(&mut self) {
        for machine in &self.machines {
            for (number, disk) in machine.disks.iter().enumerate() {
                let geometry = self.geometry(number);
                let files = (0..geometry.file_count).map(|file| {
                    let at = geometry.file_offset(file).0;
                    at..at + geometry.file_bytes
                });
                disk.set_faults(DiskFaults {
                    write_lost_ppm: LOST_PPM,
                    lies_within: files.collect(),
                    ..DiskFaults::default()
                });
            }
        }
        let mut random = self.random.fork("decay at peace", 0);
        for _ in 0..random.below(DECAYS_AT_PEACE) {
            self.decay(&mut random);
        }
        let mut random = self.random.fork("entries at peace", 0);
        for _ in 0..random.below(ENTRIES_AT_PEACE) {
            self.decay_an_entry(&mut random);
        }
        let until = self.world.now().after(MENDED);
        if self.scrubs {
            // One pass may be under way that has been there already.
            let begun = self.counted("scrub_passes");
            let is_due = |passes: &[Option<u64>]| {
                passes
                    .iter()
                    .zip(&begun)
                    .all(|(now, begun)| now.is_some_and(|now| now >= begun.unwrap_or(0) + 2))
            };
            while !is_due(&self.counted("scrub_passes")) {
                if self.world.now() >= until {
                    return self
                        .wrong
                        .push(format!("a scrub does not look at all, {MENDED:?} after all trouble"));
                }
                self.world.run_for(LOOK);
            }
        }
        // Read once: what is damaged waits from then on, and nobody looks at it again before it is said to be mended.
        while !self.scrubs
            && let Some(first) = self.places_not_shown().into_iter().find(|what| !what.contains("Corrupt"))
        {
            if self.world.now() >= until {
                return self.wrong.push(format!("{MENDED:?} after all trouble: {first}"));
            }
            self.world.run_for(LOOK);
        }
        // Who does not say may have some.
        let waiting = |stage: &mut Stage| -> u64 {
            stage.counted("repair_queue").into_iter().map(|count| count.unwrap_or(1)).sum()
        };
        while waiting(self) > 0 {
            if self.world.now() >= until {
                let (count, shown) = (waiting(self), self.places_not_shown());
                return self.wrong.push(format!(
                    "{count} places wait for repair, {MENDED:?} after all trouble: {:?}",
                    shown.first()
                ));
            }
            self.world.run_for(LOOK);
        }
        // What was mended outlives a loss of power, and what comes now is read by nobody else.
        for machine in &mut self.machines {
            machine.config.limits.scrub_period = Duration::ZERO;
            machine.disks.iter().for_each(|disk| disk.set_faults(DiskFaults::default()));
            machine.handle.power_cut();
        }
        self.mend(true);
        while !self.serves() && self.world.now() < until.after(PEACE) {
            self.mend(true);
            self.world.run_for(Duration::from_millis(20));
        }
        self.await_entries();
        self.compare_bytes();
    }

    /// A counter of all disks that do not lie, by the word of the machines.
    pub(super) fn counted(&mut self, name: &'static str) -> Vec<Option<u64>> {
        let mut all = Vec::new();
        for number in 0..NODES {
            let nodes = Rc::clone(&self.nodes);
            let status = self
                .world
                .block_on(&self.clients, PEACE, move |io: Io| async move { nodes.status(&io, number).await });
            let disks = 0..self.machines[number].disks.len();
            for disk in disks.filter(|disk| !self.machines[number].damaged[*disk]) {
                let of =
                    |status: &serde_json::Value| status["disks"][disk.to_string()]["counters"][name].as_u64();
                all.push(status.as_ref().and_then(of));
            }
        }
        all
    }

    /// A counter of one disk, by the word of its machine; 0 if it does not say.
    pub(super) fn counter_of(&mut self, number: usize, disk: usize, name: &'static str) -> u64 {
        let nodes = Rc::clone(&self.nodes);
        let status = self
            .world
            .block_on(&self.clients, PEACE, move |io: Io| async move { nodes.status(&io, number).await });
        let of = |status: &serde_json::Value| status["disks"][disk.to_string()]["counters"][name].as_u64();
        status.as_ref().and_then(of).unwrap_or(0)
    }

    /// What the machines do not show of what they should.
    fn places_not_shown(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for number in 0..NODES {
            let known: Vec<Known> = (0..self.machines[number].disks.len())
                .filter(|disk| !self.machines[number].damaged[*disk])
                .flat_map(|disk| self.nodes.known_on(disk as u16))
                .collect();
            let nodes = Rc::clone(&self.nodes);
            all.extend(self.world.block_on(&self.clients, PEACE, move |io: Io| async move {
                nodes.not_shown(&io, number, &known).await
            }));
        }
        all
    }

    /// The three machines hold the same bytes for all that is known.
    fn compare_bytes(&mut self) {
        for (number, machine) in self.machines.iter().enumerate() {
            for (disk, handle) in machine.disks.iter().enumerate().filter(|(disk, _)| !machine.damaged[*disk])
            {
                let (geometry, image) = (self.geometry(disk), handle.snapshot());
                let differs = |known: &Known| {
                    let at = geometry.file_offset(known.place.file).0 + u64::from(known.place.offset);
                    image.get(at, known.place.content_bytes as usize) != known.bytes()
                };
                let wrong = self.nodes.known_on(disk as u16).into_iter().find(differs);
                if let Some(known) = wrong {
                    let place = known.place;
                    self.wrong.push(format!("node {} disk {disk} has other bytes for {place:?}", number + 1));
                }
            }
        }
    }
}

impl Nodes {
    /// What a node says of itself.
    pub(super) async fn status(&self, io: &Io, node: usize) -> Option<serde_json::Value> {
        let reply = self.way(io, node).status().await.ok()?;
        match reply.answer() {
            Answer::Status(text) => serde_json::from_str(text).ok(),
            _ => None,
        }
    }

    /// Which of these sections a node does not show as they were written, index or blocks.
    async fn not_shown(&self, io: &Io, node: usize, all: &[Known]) -> Vec<String> {
        let way = self.way(io, node);
        let mut wrong = Vec::new();
        for known in all {
            if let Some(what) = self.wrong_index(&way, known).await {
                wrong.push(format!("node {}: {what}", node + 1));
            }
            if let Some(what) = self.wrong_stored(&way, known).await {
                wrong.push(format!("node {}: {what}", node + 1));
            }
        }
        wrong
    }
}
