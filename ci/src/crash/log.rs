//! The recording: what qemu's `blklogwrites` driver writes. Owns its decoding; writes nothing.
//!
//! The format is that of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst), all
//! integers little-endian, everything aligned to the log's sector:
//!
//! ```text
//! sector 0    magic u64 | version u64 = 1 | entry count u64 | sector bytes u32
//! then each   sector u64 | sector count u64 | flags u64 | data bytes u64, rest of the sector zero
//!             followed by the data, unless it is a discard or a flush (whose sector count is 0)
//! flags       1 flush, 4 discard (2 force unit access and 8 mark exist in the format; blklogwrites writes neither,
//!             a forced write arrives here as a write and a flush)
//! ```
//!
//! Invariant: entries are in the order in which the operations completed.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::{CrashError, SECTOR_BYTES};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLAG_FLUSH: u64 = 1;
const FLAG_DISCARD: u64 = 4;

/// One operation of the recorded device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Bytes written at a byte offset; a multiple of [`SECTOR_BYTES`] of them.
    Write {
        /// Byte offset on the device.
        at: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Zeros written, or a discard: reads as zeros afterwards. Kept as a range, formatting writes many.
    Zeros {
        /// Byte offset on the device.
        at: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// An answered flush.
    Flush,
    /// The harness said something; see [`super::device::Recorder::mark`].
    Mark(u64),
}

/// Where the harness's own marks are written, a byte offset behind the end of the device under test.
#[derive(Debug, Clone, Copy)]
pub struct MarkArea(pub u64);

/// Reads a recording. Writes at or behind `marks` become [`Entry::Mark`] with the first eight bytes as number.
/// Errors: not such a recording, or cut short.
#[expect(clippy::disallowed_methods, reason = "reads what qemu recorded, outside the system under test")]
pub fn read(path: &Path, marks: MarkArea) -> Result<Vec<Entry>, CrashError> {
    let what = || format!("recording {}", path.display());
    let mut file = std::io::BufReader::new(std::fs::File::open(path).map_err(CrashError::io(what()))?);
    let mut head = [0u8; SECTOR_BYTES];
    file.read_exact(&mut head).map_err(CrashError::io(what()))?;
    let bad = |entry, message: &str| CrashError::Log { entry, message: message.to_owned() };
    if u64_at(&head, 0) != MAGIC || u64_at(&head, 8) != VERSION {
        return Err(bad(0, "no recording of blklogwrites, version 1"));
    }
    let entry_count = u64_at(&head, 16);
    let sector_bytes = u64::from(u32::from_le_bytes([head[24], head[25], head[26], head[27]]));
    if sector_bytes != SECTOR_BYTES as u64 {
        return Err(bad(0, "was not recorded with log-sector-size=512"));
    }
    let mut entries = Vec::new();
    for index in 0..entry_count {
        let index = usize::try_from(index).map_err(|_| bad(0, "more entries than fit in memory"))?;
        file.read_exact(&mut head).map_err(CrashError::io(what()))?;
        let (at, bytes) = (u64_at(&head, 0) * sector_bytes, u64_at(&head, 8) * sector_bytes);
        let flags = u64_at(&head, 16);
        if flags & !(FLAG_FLUSH | FLAG_DISCARD) != 0 {
            return Err(bad(index, "has flags that blklogwrites does not write"));
        }
        if flags & FLAG_DISCARD != 0 {
            entries.push(Entry::Zeros { at, bytes });
            continue;
        }
        if bytes > 0 {
            entries.push(read_data(&mut file, at, bytes, marks).map_err(CrashError::io(what()))?);
        }
        if flags & FLAG_FLUSH != 0 {
            entries.push(Entry::Flush);
        }
    }
    Ok(entries)
}

/// Reads the data of one write. A piece of zeros is read in steps, so that formatting gigabytes costs no memory.
fn read_data(file: &mut (impl Read + Seek), at: u64, bytes: u64, marks: MarkArea) -> std::io::Result<Entry> {
    const STEP: u64 = 1 << 20;
    let begin = file.stream_position()?;
    let mut step = vec![0u8; STEP.min(bytes) as usize];
    let mut left = bytes;
    let mut zeros = true;
    while left > 0 && zeros {
        let part = &mut step[..left.min(STEP) as usize];
        file.read_exact(part)?;
        zeros = part.iter().all(|byte| *byte == 0);
        left -= part.len() as u64;
    }
    if zeros && at < marks.0 {
        return Ok(Entry::Zeros { at, bytes });
    }
    file.seek(SeekFrom::Start(begin))?;
    let mut data = vec![0u8; usize::try_from(bytes).map_err(|_| std::io::ErrorKind::InvalidData)?];
    file.read_exact(&mut data)?;
    if at >= marks.0 {
        return Ok(Entry::Mark(u64_at(&data, 0)));
    }
    Ok(Entry::Write { at, data })
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test")]
mod tests {
    use super::*;

    fn sector(words: &[u64]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(SECTOR_BYTES, 0);
        bytes
    }

    /// A recording of six entries: write, flush, zeros, discard, mark, write.
    fn recording() -> Vec<u8> {
        let mut log = sector(&[MAGIC, VERSION, 6, 512]);
        log.extend(sector(&[8, 2, 0, 0]));
        log.extend(vec![7u8; 1024]);
        log.extend(sector(&[0, 0, FLAG_FLUSH, 0]));
        log.extend(sector(&[16, 1, 0, 0]));
        log.extend(vec![0u8; 512]);
        log.extend(sector(&[32, 100, FLAG_DISCARD, 0]));
        log.extend(sector(&[2048, 1, 0, 0]));
        log.extend(sector(&[42]));
        log.extend(sector(&[0, 1, 0, 0]));
        log.extend(vec![9u8; 512]);
        log
    }

    fn parse(bytes: &[u8]) -> Result<Vec<Entry>, CrashError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        std::fs::write(&path, bytes).expect("written");
        read(&path, MarkArea(1 << 20))
    }

    #[test]
    fn entries_are_decoded_in_order() {
        let entries = parse(&recording()).expect("decodes");
        assert_eq!(
            entries,
            [
                Entry::Write { at: 4096, data: vec![7; 1024] },
                Entry::Flush,
                Entry::Zeros { at: 8192, bytes: 512 },
                Entry::Zeros { at: 16384, bytes: 51200 },
                Entry::Mark(42),
                Entry::Write { at: 0, data: vec![9; 512] },
            ]
        );
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        let mut other = recording();
        other[0] ^= 1;
        assert!(matches!(parse(&other), Err(CrashError::Log { .. })));
        let mut flags = recording();
        flags[SECTOR_BYTES + 16] = 2;
        assert!(matches!(parse(&flags), Err(CrashError::Log { entry: 0, .. })));
        let whole = recording();
        assert!(matches!(parse(&whole[..whole.len() - 1]), Err(CrashError::Io { .. })));
    }
}
