//! Disks that a node must not start on, each refused as a value that says what, where and what to do. On real files: a
//! tool or a hand cuts those.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "the test damages files from outside")]

use ioengine::disk::DiskOpen;
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Disk, Io};
use layout::FORMAT_VERSION;
use layout::checksum::Crc;
use layout::superblock_copies::ChooseError;
use layout::units::Uuid;
use shard::format::{FormatError, FormatPlan, format, look, read};
use std::path::PathBuf;

const DISK_BYTES: u64 = 32 << 20;

struct Bench {
    runtime: Runtime,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let runtime = Runtime::new(CoreConfig::small("test", 0)).unwrap();
        Bench { runtime, folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    fn file(&self, bytes: u64) -> PathBuf {
        let path = self.folder.path().join(format!("disk-{bytes}"));
        ioengine::uring::create_file(&path, bytes).unwrap();
        path
    }

    /// Runs `work` with the disk.
    fn with<T, F: Future<Output = T>>(&self, path: &std::path::Path, work: impl FnOnce(Io, Disk) -> F) -> T {
        let io = self.runtime.io().clone();
        let disk = io.open_disk(path.to_str().unwrap(), DiskOpen::default()).unwrap();
        self.runtime.block_on(work(io, disk))
    }
}

fn plan(anew: bool) -> FormatPlan {
    let (journal_bytes, segment_bytes) = (Some(4 << 20), 1 << 20);
    FormatPlan {
        cluster: Uuid([7; 16]),
        node: 1,
        shard_count: 2,
        journal_bytes,
        segment_bytes,
        recovers: false,
        anew,
    }
}

#[test]
fn a_disk_smaller_than_its_superblocks_is_refused() {
    let bench = Bench::new();
    for size in [4096, 8192, 12288] {
        let path = bench.file(size);
        bench.with(&path, |io, disk| async move {
            let refused = |error: FormatError| {
                assert!(matches!(error, FormatError::TooSmall { bytes, .. } if bytes == size), "{error}");
                assert!(error.to_string().contains("16384"), "{error}");
            };
            refused(read(&io, &disk).await.unwrap_err());
            refused(look(&io, &disk).await.unwrap_err());
            refused(format(&io, &disk, &plan(true)).await.unwrap_err());
        });
    }
    let path = bench.file(16384);
    bench.with(&path, |io, disk| async move {
        assert!(
            matches!(read(&io, &disk).await, Err(FormatError::Superblock { .. })),
            "zeros, but room enough"
        );
    });
}

#[test]
fn a_disk_that_was_cut_is_refused_and_not_written() {
    let bench = Bench::new();
    let path = bench.file(DISK_BYTES);
    let formatted =
        bench.with(&path, |io, disk| async move { format(&io, &disk, &plan(false)).await.unwrap() });
    let whole = std::fs::read(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(DISK_BYTES - 4096).unwrap();
    bench.with(&path, |io, disk| async move {
        let error = look(&io, &disk).await.unwrap_err();
        assert!(
            matches!(error, FormatError::Cut { bytes, formatted, .. } if (bytes, formatted) == (DISK_BYTES - 4096, DISK_BYTES)),
            "{error}"
        );
        assert!(error.to_string().contains("bring back what was cut off"), "{error}");
    });
    assert!(std::fs::read(&path).unwrap() == whole[..whole.len() - 4096], "no start was counted");
    // Longer than recorded is no harm: nothing of ours lies there.
    file.set_len(DISK_BYTES + 4096).unwrap();
    bench.with(&path, |io, disk| async move {
        assert_eq!(look(&io, &disk).await.unwrap().current.device, formatted.device);
    });
}

#[test]
fn a_disk_of_another_version_is_refused_also_by_format() {
    let bench = Bench::new();
    let path = bench.file(DISK_BYTES);
    bench.with(&path, |io, disk| async move { format(&io, &disk, &plan(false)).await.unwrap() });
    let mut bytes = std::fs::read(&path).unwrap();
    for copy in bytes.chunks_mut(4096).take(2) {
        copy[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        let sum = Crc::with(&copy[..4092]).finish();
        copy[4092..].copy_from_slice(&sum.to_le_bytes());
    }
    std::fs::write(&path, &bytes).unwrap();
    bench.with(&path, |io, disk| async move {
        for error in
            [look(&io, &disk).await.unwrap_err(), format(&io, &disk, &plan(false)).await.unwrap_err()]
        {
            let FormatError::Superblock { source: ChooseError::Version { copies: 2 }, .. } = &error else {
                panic!("{error}")
            };
            assert!(
                error.to_string().contains(&format!("another format version than {FORMAT_VERSION}")),
                "{error}"
            );
        }
        format(&io, &disk, &plan(true)).await.unwrap();
        look(&io, &disk).await.unwrap().begin(&io, &disk, None, 0).await.unwrap();
    });
    // Rot in the field is rot, not another version.
    let mut bytes = std::fs::read(&path).unwrap();
    for copy in bytes.chunks_mut(4096).take(2) {
        copy[8] ^= 4;
    }
    std::fs::write(&path, &bytes).unwrap();
    bench.with(&path, |io, disk| async move { look(&io, &disk).await.map(drop).unwrap() });
}
