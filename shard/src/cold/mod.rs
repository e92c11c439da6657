//! The cold tier: raw disks, each to format and open, to keep places on, to write runs of sections to, to read a block of, to free and to walk; and
//! the node that serves them.
//!
//! Must never believe the file table more than what stands in the files. Owned by one core: one task writes and frees, others read.
//!
//! | file | what |
//! |---|---|
//! | `kept` | places that are kept for who asked, on the disk and in memory |
//! | `table` | which places are written, reserved, free: no disk, no clock |
//! | `open` | making a disk ours; finding out what it is and what is in it |
//! | `disk` | writes, reads and frees on it |
//! | `entry` | what a file's entry says, where the device does not read all of it, and how it is written again |
//! | `walk` | its sections, found by their headers alone |
//! | `examine` | whether every section that counts is sound |
//! | `damage`, `repair` | what was found damaged, and how it is mended from the two other machines |
//! | `scrub` | reads and checks all that counts, slowly |
//! | `rebuild`, `rebuild_file`, `rebuild_pull`, `rebuild_prove` | a disk that took another's place is filled from the two other machines |
//! | `agreed`, `fill` | what machines say of a file together; files that are still to be filled |
//! | `others`, `proven` | what stands on these at the same place; a section in memory that has been proven |
//! | `errand`, `mend` | what a disk's own tasks want of the one that writes; sections written anew where they stood |
//! | `gray` | whether a disk hangs, is slow or fails, and when it is well again: policy alone |
//! | `device`, `aside` | operations that are timed and not waited for once a disk is aside; who looks, probes, sets aside and back |
//! | `queue`, `serve`, `serve_files` | what waits for a disk, and how it is carried out |
//! | `core`, `node`, `limits` | a core of a cold node; its start and end; every bound |

mod agreed;
mod aside;
mod core;
mod damage;
mod device;
pub mod disk;
mod entry;
mod errand;
pub mod examine;
mod fill;
mod gray;
pub mod kept;
mod limits;
pub mod mend;
mod node;
pub mod open;
mod others;
pub mod proven;
mod queue;
mod rebuild;
mod rebuild_file;
mod rebuild_prove;
mod rebuild_pull;
mod reconcile;
mod repair;
mod scrub;
mod serve;
mod serve_files;
pub mod table;
pub mod walk;

pub use self::core::ColdCounters;
pub use limits::ColdNodeLimits;
pub use node::{ColdConfig, ColdNode, start_cold};

use ioengine::DiskError;
use ioengine::disk::DiskOpenError;
use layout::Corrupt;
use layout::cold_disk::{ColdChooseError, ColdPlanError};
use layout::cold_kept::KeptFor;
use layout::units::Uuid;
use table::{Refused, Run};

/// Why something on a cold disk did not work.
#[derive(Debug, thiserror::Error)]
pub enum ColdError {
    /// The device said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It is set aside, because it hangs, is slow or fails: it was not asked, or not waited for.
    #[error("disk {name} is set aside until it is well again: another copy has to answer")]
    Aside {
        /// Disk.
        name: String,
    },
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] DiskOpenError),
    /// No buffer.
    #[error("the arena has no room for {bytes} bytes: raise arena_bytes")]
    Arena {
        /// Bytes asked for.
        bytes: usize,
    },
    /// It cannot be cut.
    #[error("disk {name}: {source}")]
    Plan {
        /// Disk.
        name: String,
        /// What does not fit.
        source: ColdPlanError,
    },
    /// It is formatted already.
    #[error(
        "disk {name} is already formatted (cluster {cluster}, node {node}): start with it, or wipe it if its data may go"
    )]
    Formatted {
        /// Disk.
        name: String,
        /// Cluster it belongs to.
        cluster: Uuid,
        /// Node it belongs to.
        node: u32,
    },
    /// Its superblock cannot be believed.
    #[error("disk {name}: {source}")]
    Superblock {
        /// Disk.
        name: String,
        /// What its copies say.
        source: ColdChooseError,
    },
    /// Part of it is missing.
    #[error("disk {name} has {bytes} bytes and was formatted with {formatted}: bring back what was cut off")]
    Cut {
        /// Disk.
        name: String,
        /// Its size.
        bytes: u64,
        /// Its size when it was formatted.
        formatted: u64,
    },
    /// A place was not given.
    #[error("disk {name}: {source}")]
    Refused {
        /// Disk.
        name: String,
        /// Why.
        source: Refused,
    },
    /// It has forgotten what it kept.
    #[error(
        "disk {name}: {pages} pages of its kept places are damaged in both copies, so it gives no places: replace it, or format it anew"
    )]
    Forgotten {
        /// Disk.
        name: String,
        /// Pages.
        pages: u32,
    },
    /// What stands in a place is not what its sinker says that it wrote.
    #[error(
        "disk {name}: {run:?} holds {found:032x}, not what was written ({expected:032x}): write it again"
    )]
    Unequal {
        /// Disk.
        name: String,
        /// The place.
        run: Run,
        /// Checksum of what it holds.
        found: u128,
        /// Checksum that was expected.
        expected: u128,
    },
    /// What stands in a place are not the sections that it was reserved for.
    #[error(
        "disk {name}: {run:?} does not hold the sections it was reserved for, each in its place: write it again"
    )]
    Malformed {
        /// Disk.
        name: String,
        /// The place.
        run: Run,
    },
    /// A section that is whole stands where another one was to be written anew.
    #[error(
        "disk {name}, file {file}, offset {offset}: another section than the other machines hold there; it is left as it is"
    )]
    Differs {
        /// Disk.
        name: String,
        /// File.
        file: u32,
        /// Byte of the file.
        offset: u32,
    },
    /// What was written is not what is read back.
    #[error("disk {name}, file {file}, offset {offset}: what was written anew is not what is read back")]
    NotTaken {
        /// Disk.
        name: String,
        /// File.
        file: u32,
        /// Byte of the file.
        offset: u64,
    },
    /// Whose the section is that stands in a place is not known: its header is damaged.
    #[error("disk {name}: the header at {run:?} is damaged, so it is not known whose it is")]
    Unknown {
        /// Disk.
        name: String,
        /// Who names the place.
        whom: KeptFor,
        /// The place.
        run: Run,
    },
    /// It took another's place, and what is asked for is not there yet.
    #[error("disk {name} is being filled, and this is not there yet: another copy has it")]
    NotYet {
        /// Disk.
        name: String,
    },
    /// Somebody names a place that is not kept for it.
    #[error("disk {name}: {run:?} is not kept for who names it: reserve a place")]
    Unreserved {
        /// Disk.
        name: String,
        /// The place.
        run: Run,
    },
    /// What was read is not what was asked for: decayed, or misdirected.
    #[error("disk {name}: {source}; another copy has to answer")]
    Corrupt {
        /// Disk.
        name: String,
        /// What is wrong.
        source: Corrupt,
    },
    /// Another section stands there now, whole: the place was freed and used again.
    #[error(
        "disk {name}, file {file}, offset {offset}: another section stands there now; ask the store again"
    )]
    Moved {
        /// Disk.
        name: String,
        /// File.
        file: u32,
        /// Byte of the file.
        offset: u32,
    },
}
