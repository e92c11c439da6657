//! The three copies of what is sunk: the disks of one machine lie about them while there is trouble, and at peace they decay; in the end the bytes
//! of all three media are the same.
//!
//! Must never touch two machines: what the two others hold is proven. Invariant: what is compared is what the disks hold, not what a node says.

use super::Run;
use super::trouble::Nemesis;
use crate::sim::cold::FILE_BYTES;
use ioengine::sim::{DiskFaults, DiskHandle, DiskImage, Random};
use layout::cold_disk::ColdGeometry;
use layout::cold_section::{SECTION_HEADER_BYTES, SECTION_MAGIC};
use net::cold::{ColdKept, ColdPlace};
use std::time::Duration;

/// Within this, once trouble has ended, the copies are the same.
const SAME: Duration = Duration::from_secs(240);
/// Of a million sections on the machine whose disks lie, so many decay once all else is at peace.
const DECAY_PPM: u32 = 200_000;
/// Of these, so many cannot be read any more; of the others a bit is another.
const UNREADABLE_PPM: u32 = 300_000;
/// Of a million headers in so many files so many rot at once, while there is trouble.
const ROTTEN_PPM: u32 = 50_000;
const ROTTEN_FILES: u32 = 3;
/// So many decay in their header.
const HEADER_PPM: u32 = 300_000;

fn geometry(disk: &DiskHandle) -> ColdGeometry {
    ColdGeometry::plan(disk.bytes(), FILE_BYTES, u32::MAX).expect("it was formatted so")
}

/// Faults of a disk that lies, within its files: what names them has copies of its own, and is tortured where nothing else is.
pub(super) fn lying(disk: &DiskHandle, random: &mut Random) -> DiskFaults {
    let geometry = geometry(disk);
    let files = (0..geometry.file_count).map(|file| {
        let at = geometry.file_offset(file).0;
        at..at + geometry.file_bytes
    });
    DiskFaults { latent_error_ppm: 0, lies_within: files.collect(), ..DiskFaults::lying(random) }
}

/// Of the headers of sections in the files that are written first some rot: those of sections that count, and of others.
pub(super) fn rot(disk: &DiskHandle, random: &mut Random) {
    let (geometry, image) = (geometry(disk), disk.snapshot());
    for file in 0..geometry.file_count.min(ROTTEN_FILES) {
        let at = geometry.file_offset(file).0;
        let bytes = image.get(at, geometry.file_bytes as usize);
        let headers =
            bytes.windows(SECTION_MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == SECTION_MAGIC);
        for (header, _) in headers {
            if random.chance(ROTTEN_PPM) {
                disk.rot(at + header as u64 + random.below(SECTION_HEADER_BYTES as u64));
            }
        }
    }
}

fn offset(geometry: &ColdGeometry, place: &ColdPlace) -> u64 {
    geometry.file_offset(place.file).0 + u64::from(place.offset)
}

impl Run<'_> {
    /// What decays on the machine whose disks have lied is mended, and the three machines hold the same, byte for byte.
    pub(super) fn settle_copies(&mut self, nemesis: &mut Nemesis<'_>) {
        if self.plan.colds.as_ref().is_some_and(|colds| colds.lies) {
            self.decay();
        }
        let until = self.scene.world.now().after(SAME);
        while let Some(text) = self.copies_differ() {
            if self.scene.world.now() >= until {
                return self.wrong(format!("{SAME:?} after all trouble {text}"));
            }
            let on = self.scene.world.now().after(Duration::from_secs(2));
            while self.scene.world.now() < on {
                self.run_on(nemesis, on);
            }
        }
    }

    /// Some sections of the first machine decay.
    fn decay(&self) {
        let mut random = Random::new(self.plan.seed).fork("decay of what is sunk", 0);
        let Ok(listed) = self.listed_by(0) else { return };
        for (_, place) in listed.into_iter().filter(|(kept, _)| *kept == ColdKept::Sealed) {
            if !random.chance(DECAY_PPM) {
                continue;
            }
            let disk = &self.scene.colds[0].disks[usize::from(place.disk)];
            let within =
                if random.chance(HEADER_PPM) { SECTION_HEADER_BYTES as u32 } else { place.content_bytes };
            let at = offset(&geometry(disk), &place) + random.below(u64::from(within));
            if random.chance(UNREADABLE_PPM) {
                disk.make_unreadable(at);
            } else {
                disk.rot(at);
            }
        }
    }

    /// What is not the same on all three, if anything.
    fn copies_differ(&self) -> Option<String> {
        let mut first: Option<Vec<(ColdKept, ColdPlace)>> = None;
        for number in 0..self.scene.colds.len() {
            let mut listed = match self.listed_by(number) {
                Ok(listed) => listed,
                Err(text) => return Some(format!("cold node {number} holds {text}")),
            };
            listed.sort_by_key(|(_, place)| (place.disk, place.file, place.offset));
            if first.as_ref().is_some_and(|first| *first != listed) {
                return Some(format!("cold node {number} has other places than cold node 0"));
            }
            first.get_or_insert(listed);
        }
        let listed = first?;
        // Cheap: they share what nobody has written since.
        let images = |number: usize| -> Vec<DiskImage> {
            self.scene.colds[number].disks.iter().map(DiskHandle::snapshot).collect()
        };
        let (one, others) = (images(1), [(0, images(0)), (2, images(2))]);
        for (_, place) in &listed {
            let disk = usize::from(place.disk);
            let at = offset(&geometry(&self.scene.colds[0].disks[disk]), place);
            let of = |images: &[DiskImage]| images[disk].get(at, place.content_bytes as usize);
            if let Some((number, _)) = others.iter().find(|(_, images)| of(images) != of(&one)) {
                return Some(format!("cold node {number} has other bytes than cold node 1 for {place:?}"));
            }
        }
        None
    }
}
