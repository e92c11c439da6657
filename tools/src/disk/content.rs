//! What a disk holds before it is formatted: nothing, us, or somebody else.
//!
//! Must never call a disk empty that is not: every byte of both ends that is not zero belongs to somebody.

/// Bytes looked at, at either end of a disk: partition tables, file systems, volumes and RAID stand there.
pub(super) const END_BYTES: usize = 1 << 20;

/// What a disk holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Zeros at both ends.
    Empty,
    /// At least one superblock copy of a store's disk, good or bad.
    Store,
    /// At least one superblock copy of a cold disk at its ends, good or bad.
    Cold,
    /// Something else; its name where it is known.
    Foreign(&'static str),
}

/// Signatures near the start: where, what, whose.
const AT_START: [(usize, &[u8], &str); 14] = [
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (512, b"LABELONE", "an LVM volume"),
    (0, b"XFSB", "an XFS file system"),
    (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
    (4096, b"\xfc\x4e\x2b\xa9", "a RAID member (md)"),
    (0, b"\xfc\x4e\x2b\xa9", "a RAID member (md)"),
    (4086, b"SWAPSPACE2", "swap space"),
    (3, b"NTFS    ", "an NTFS file system"),
    (82, b"FAT32   ", "a FAT file system"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (510, b"\x55\xaa", "an MBR partition table or boot sector"),
];

/// The content, by the bytes of both ends.
pub(super) fn content(first: &[u8], last: &[u8]) -> Content {
    // Copies of ours stand at the first four blocks; their magic is the first field.
    let is_store = first.chunks(4096).take(4).any(|block| block.starts_with(b"TCLSUPER"));
    // Those of a cold disk at the first and the last whole block; `last` ends with the disk and begins with a block.
    let ends = [first.chunks(4096).next(), last.chunks_exact(4096).next_back()];
    let is_cold = ends.into_iter().flatten().any(|block| block.starts_with(b"TCLCOLDS"));
    if is_store || is_cold {
        return if is_store { Content::Store } else { Content::Cold };
    }
    let is = |&&(at, bytes, _): &&(usize, &[u8], &str)| {
        first.get(at..).is_some_and(|rest| rest.starts_with(bytes))
    };
    if let Some((_, _, name)) = AT_START.iter().find(is) {
        return Content::Foreign(name);
    }
    if last.len() >= 512 && last[last.len() - 512..].starts_with(b"EFI PART") {
        return Content::Foreign("the copy of a GPT partition table at its end");
    }
    if first.iter().chain(last).any(|byte| *byte != 0) {
        return Content::Foreign("data of an unknown kind");
    }
    Content::Empty
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut disk = vec![0; END_BYTES];
        disk[at..at + bytes.len()].copy_from_slice(bytes);
        disk
    }

    #[test]
    fn content_is_told_by_its_marks() {
        let zeros = vec![0; END_BYTES];
        assert_eq!(content(&zeros, &zeros), Content::Empty);
        assert_eq!(content(&zeros[..512], &zeros[..512]), Content::Empty);
        for copy in [0, 4096, 8192, 12288] {
            assert_eq!(content(&disk(copy, b"TCLSUPER"), &zeros), Content::Store);
        }
        let (magic, end) = (b"TCLCOLDS", END_BYTES - 4096);
        assert_eq!(content(&disk(0, magic), &zeros), Content::Cold);
        assert_eq!(content(&zeros, &disk(end, magic)), Content::Cold);
        assert_eq!(content(&zeros, &[&disk(end, magic)[..], &[0; 512]].concat()), Content::Cold);
        assert!(matches!(content(&disk(4096, magic), &zeros), Content::Foreign(_)));
        assert!(matches!(content(&zeros, &disk(end - 4096, magic)), Content::Foreign(_)));
        for (at, bytes, name) in AT_START {
            assert_eq!(content(&disk(at, bytes), &zeros), Content::Foreign(name));
        }
        assert!(matches!(content(&zeros, &disk(END_BYTES - 512, b"EFI PART")), Content::Foreign(_)));
        assert!(matches!(content(&disk(700_000, b"x"), &zeros), Content::Foreign(_)));
        assert!(matches!(content(&zeros, &disk(3, b"x")), Content::Foreign(_)));
    }
}
