//! A whole section in memory that has been proven, and nothing else: what may be written over a damaged one.
//!
//! Must never hold bytes that nobody has looked at. Invariant: header, index, every block and the digest of the records agree, and the header is of
//! the place that it is for.

use layout::Corrupt;
use layout::cold_section::{SECTION_HEADER_BYTES, SectionHeader, walk_section};

/// A section that was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    header: SectionHeader,
    bytes: Vec<u8>,
}

impl Proven {
    /// Prove a section of this header: `bytes` are all of it; the header among them is written anew.
    ///
    /// # Errors
    /// [`Corrupt`]: it is not that section.
    pub fn of(header: SectionHeader, mut bytes: Vec<u8>) -> Result<Proven, Corrupt> {
        let wrong =
            Corrupt { structure: "cold section", field: "data_bytes", at: u64::from(header.place.offset) };
        header.encode(bytes.first_chunk_mut::<SECTION_HEADER_BYTES>().ok_or(wrong)?);
        if !ioengine::canary("repair_from_an_unproven_copy") {
            walk_section(&header, &bytes, |_| {})?;
        }
        Ok(Proven { header, bytes })
    }

    /// Which section it is, and where it stands.
    #[must_use]
    pub fn header(&self) -> &SectionHeader {
        &self.header
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of the file that it takes.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        let from = u64::from(self.header.place.offset);
        from..from + self.bytes.len() as u64
    }
}
