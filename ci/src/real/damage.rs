//! Damage to a disk file from outside, while no node uses it: bits flipped, two regions swapped, the end cut off.
//!
//! Owns what is done to the bytes. Must never touch a disk of a running node. Hits what is in use: of a file that is mostly empty
//! a random place would say nothing.

use super::RealError;
use ioengine::sim::Random;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What is looked at and swapped as one.
const PAGE_BYTES: usize = 4096;

/// Kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Flip,
    Swap,
    Truncate,
}

impl Damage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Damage::Flip => "flip bits",
            Damage::Swap => "swap regions",
            Damage::Truncate => "cut off the end",
        }
    }

    /// Do it; what was done, for messages.
    pub(super) fn hurt(self, disk: &Path, random: &mut Random) -> Result<String, RealError> {
        let name = format!("{}", disk.display());
        let file = OpenOptions::new().read(true).write(true).open(disk).map_err(RealError::io(&name))?;
        let pages = used(&file, &name)?;
        match self {
            Damage::Flip => {
                let mut places = Vec::new();
                for _ in 0..1 + random.below(4) {
                    let at = random.pick(&pages) * PAGE_BYTES as u64 + random.below(PAGE_BYTES as u64);
                    let mut byte = [0];
                    file.read_exact_at(&mut byte, at).map_err(RealError::io(&name))?;
                    byte[0] ^= 1 << random.below(8);
                    file.write_all_at(&byte, at).map_err(RealError::io(&name))?;
                    places.push(at);
                }
                Ok(format!("bits flipped at {places:?}"))
            }
            Damage::Swap => {
                let bytes = PAGE_BYTES << random.below(5);
                let (one, other) = (*random.pick(&pages), *random.pick(&pages));
                let (one, other) = (one * PAGE_BYTES as u64, other * PAGE_BYTES as u64);
                let read = |at| {
                    let mut piece = vec![0; bytes];
                    // Past the end there is nothing, which is zeros here.
                    let mut count = 0;
                    while count < bytes {
                        match file.read_at(&mut piece[count..], at + count as u64) {
                            Ok(0) => break,
                            Ok(more) => count += more,
                            Err(error) => return Err(error),
                        }
                    }
                    piece.truncate(count);
                    Ok(piece)
                };
                let (mine, yours) =
                    (read(one).map_err(RealError::io(&name))?, read(other).map_err(RealError::io(&name))?);
                let count = mine.len().min(yours.len());
                file.write_all_at(&yours[..count], one).map_err(RealError::io(&name))?;
                file.write_all_at(&mine[..count], other).map_err(RealError::io(&name))?;
                Ok(format!("{count} bytes at {one} and {other} swapped"))
            }
            Damage::Truncate => {
                let length = file.metadata().map_err(RealError::io(&name))?.len();
                let left = length / 2 + random.below(length / 2) / 4096 * 4096;
                file.set_len(left).map_err(RealError::io(&name))?;
                // Half of the time as long as before, and empty there.
                let whole = random.coin();
                if whole {
                    file.set_len(length).map_err(RealError::io(&name))?;
                }
                Ok(format!("cut off at {left}, {}", if whole { "zeros behind" } else { "nothing behind" }))
            }
        }
    }
}

/// Pages that hold anything.
fn used(file: &File, name: &str) -> Result<Vec<u64>, RealError> {
    let mut pages = Vec::new();
    let mut piece = vec![0u8; 256 * PAGE_BYTES];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut piece, at).map_err(RealError::io(name))?;
        if count == 0 {
            return Ok(pages);
        }
        for (number, page) in piece[..count].chunks(PAGE_BYTES).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                pages.push(at / PAGE_BYTES as u64 + number as u64);
            }
        }
        at += count as u64;
    }
}

/// A copy of a disk file under another name, in its place if there is one.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), RealError> {
    std::fs::copy(from, to).map(drop).map_err(RealError::io(format!(
        "copy {} to {}",
        from.display(),
        to.display()
    )))
}
