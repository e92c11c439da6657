//! Crash states of a device whose writes and flushes were recorded. Owns the recording, the enumeration of what a
//! power cut may legally leave, and putting such a state on a file; must never judge: a checker that is handed in does.
//!
//! ```text
//!  program under test ── loop device ── FUSE file ── NBD ── qemu-storage-daemon ─┬─ image
//!                                            ▲                                   └─ log of writes and flushes
//!  harness: "record 17 was acknowledged" ────┘ (marks, behind the end of the loop device)
//!
//!  log:   w w F w w w F w ...      a flush that was answered makes everything before it durable
//!             └──┬──┘
//!       legal state = all before F, and any subset of the 512-byte sectors of these writes
//! ```
//!
//! Rules of what is legal, and why. A device with a volatile cache may, at a power cut, have kept any of the writes
//! since the last answered flush, in any order, each sector whole or not at all (the media assumption of FORMAT.md).
//! Enumerating at the end of each run of writes between two flushes covers every earlier instant too: a power cut
//! earlier leaves a subset of the same sectors and asks for fewer acknowledged records.
//!
//! What a recording cannot show: a write that was in flight beside a flush and completed before it stands before the
//! flush in the log, though the flush owed it nothing. States that lose such a write are not enumerated; the
//! simulator, which knows when each was issued, covers them.

pub mod campaign;
pub mod device;
pub mod engine;
pub mod history;

pub mod image;
pub mod log;
pub mod state;
pub mod writer;

/// Bytes of a sector: written whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What goes wrong with the harness itself, as opposed to with what it checks.
#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    /// A file or device could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// Which file, and what was done to it.
        what: String,
        /// The answer of the system.
        source: std::io::Error,
    },
    /// A program that the harness calls failed.
    #[error("{command}: {message}")]
    Tool {
        /// The program.
        command: String,
        /// What it printed.
        message: String,
    },
    /// The recording is not what qemu writes.
    #[error("recording, entry {entry}: {message}")]
    Log {
        /// Index of the entry.
        entry: usize,
        /// What is wrong with it.
        message: String,
    },
}

impl CrashError {
    /// Turns an error of the system into ours, with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> CrashError {
        let what = what.into();
        move |source| CrashError::Io { what, source }
    }
}
