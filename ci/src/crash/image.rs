//! The content of a device, sparse, in memory, and putting it on a file. Owns nothing else.
//!
//! Invariant: a sector that is not in the map reads as zeros.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::log::Entry;
use super::{CrashError, SECTOR_BYTES};

/// One sector.
pub type Sector = [u8; SECTOR_BYTES];
/// All zeros, what a fresh device reads.
pub const ZERO_SECTOR: Sector = [0; SECTOR_BYTES];

/// The content of a device by sector number.
#[derive(Debug, Clone, Default)]
pub struct Image {
    sectors: BTreeMap<u64, Sector>,
}

impl Image {
    /// The sector with this number (byte offset / 512).
    pub fn sector(&self, number: u64) -> &Sector {
        self.sectors.get(&number).unwrap_or(&ZERO_SECTOR)
    }

    /// Overwrites one sector.
    pub fn set(&mut self, number: u64, content: &Sector) {
        if *content == ZERO_SECTOR {
            self.sectors.remove(&number);
        } else {
            self.sectors.insert(number, *content);
        }
    }

    /// Applies a recorded write; a flush or a mark changes nothing.
    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Write { at, data } => {
                for (number, content) in sectors_of(*at, data) {
                    self.set(number, content);
                }
            }
            Entry::Zeros { at, bytes } => {
                let first = at / SECTOR_BYTES as u64;
                let behind = (at + bytes) / SECTOR_BYTES as u64;
                let gone: Vec<u64> = self.sectors.range(first..behind).map(|(number, _)| *number).collect();
                for number in gone {
                    self.sectors.remove(&number);
                }
            }
            Entry::Flush | Entry::Mark(_) => {}
        }
    }

    /// Count of sectors that are not zeros.
    pub fn sector_count(&self) -> usize {
        self.sectors.len()
    }

    /// Numbers of the sectors within `range` that are not zeros.
    pub fn occupied(&self, range: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        self.sectors.range(range).map(|(number, _)| *number)
    }

    /// Makes the file at `path` read as this image with `changes` laid over it, `bytes` long; whatever stood there
    /// before is gone. Errors: the file cannot be written.
    pub fn write_to(
        &self,
        path: &Path,
        bytes: u64,
        changes: &BTreeMap<u64, Sector>,
    ) -> Result<(), CrashError> {
        let what = || format!("crash state {}", path.display());
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(path)
            .map_err(CrashError::io(what()))?;
        file.set_len(bytes).map_err(CrashError::io(what()))?;
        let mut run = Vec::new();
        let mut run_begin = 0;
        // Both maps are in order: walk the base, and let the changes speak where they are.
        let mut base = self.sectors.iter().filter(|(number, _)| !changes.contains_key(number)).peekable();
        let mut laid_over = changes.iter().peekable();
        loop {
            let next = match (base.peek(), laid_over.peek()) {
                (Some((a, _)), Some((b, _))) if a < b => base.next(),
                (_, Some(_)) => laid_over.next(),
                (Some(_), None) => base.next(),
                (None, None) => None,
            };
            let follows =
                next.is_some_and(|(number, _)| *number == run_begin + (run.len() / SECTOR_BYTES) as u64);
            if !follows && !run.is_empty() {
                file.write_all_at(&run, run_begin * SECTOR_BYTES as u64).map_err(CrashError::io(what()))?;
                run.clear();
            }
            let Some((number, content)) = next else { return Ok(()) };
            if run.is_empty() {
                run_begin = *number;
            }
            run.extend_from_slice(content);
        }
    }
}

/// The sectors of a write, with their numbers. The recording holds whole sectors only.
pub fn sectors_of(at: u64, data: &[u8]) -> impl Iterator<Item = (u64, &Sector)> {
    let whole = at.is_multiple_of(SECTOR_BYTES as u64) && data.len().is_multiple_of(SECTOR_BYTES);
    assert!(whole, "qemu records whole sectors");
    let first = at / SECTOR_BYTES as u64;
    let (sectors, _) = data.as_chunks::<SECTOR_BYTES>();
    sectors.iter().enumerate().map(move |(index, sector)| (first + index as u64, sector))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test")]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_as_the_image_with_its_changes() {
        let mut image = Image::default();
        image.apply(&Entry::Write { at: 512, data: vec![1; 1536] });
        image.apply(&Entry::Zeros { at: 1024, bytes: 512 });
        image.apply(&Entry::Write { at: 8192, data: vec![2; 512] });
        assert_eq!(image.sector_count(), 3);
        let changes = BTreeMap::from([(2, [3; 512]), (3, ZERO_SECTOR), (17, [4; 512])]);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        std::fs::write(&path, [9; 20000]).expect("what stood there before");
        image.write_to(&path, 10240, &changes).expect("written");
        let bytes = std::fs::read(&path).expect("read");
        assert_eq!(bytes.len(), 10240);
        let firsts: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        assert_eq!(firsts, [0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 0, 0]);
    }
}
