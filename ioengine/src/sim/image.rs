//! Bytes of a simulated disk: sparse, in pages of 4096 bytes shared between copies until written. Cloning costs a
//! few words per 2 MiB, so snapshots and thousands of crash images are cheap. A page never written reads as zero.

use std::rc::Rc;

/// Bytes that a device writes at once, or not at all.
pub const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;
const CHUNK_PAGES: usize = 512;
const CHUNK_BYTES: usize = PAGE_BYTES * CHUNK_PAGES;

type Page = Rc<[u8; PAGE_BYTES]>;

#[derive(Clone)]
struct Chunk {
    pages: [Option<Page>; CHUNK_PAGES],
}

/// Contents of a whole disk.
#[derive(Clone)]
pub struct DiskImage {
    bytes: u64,
    chunks: Vec<Option<Rc<Chunk>>>,
    stored_pages: u64,
}

impl DiskImage {
    /// An empty disk of this size.
    #[must_use]
    pub fn new(bytes: u64) -> DiskImage {
        let chunk_count = usize::try_from(bytes.div_ceil(CHUNK_BYTES as u64)).expect("a disk fits memory");
        DiskImage { bytes, chunks: vec![None; chunk_count], stored_pages: 0 }
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that were ever written, in whole pages.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.stored_pages * PAGE_BYTES as u64
    }

    fn place(offset: u64) -> (usize, usize, usize) {
        let offset = usize::try_from(offset).expect("a disk fits memory");
        (offset / CHUNK_BYTES, offset % CHUNK_BYTES / PAGE_BYTES, offset % PAGE_BYTES)
    }

    fn page(&self, offset: u64) -> Option<&Page> {
        let (chunk, page, _) = DiskImage::place(offset);
        self.chunks[chunk].as_ref()?.pages[page].as_ref()
    }

    fn slot(&mut self, offset: u64) -> &mut Option<Page> {
        let (chunk, page, _) = DiskImage::place(offset);
        let chunk =
            self.chunks[chunk].get_or_insert_with(|| Rc::new(Chunk { pages: [const { None }; CHUNK_PAGES] }));
        &mut Rc::make_mut(chunk).pages[page]
    }

    /// Whether the page around `offset` was ever written.
    #[must_use]
    pub fn is_stored(&self, offset: u64) -> bool {
        self.page(offset).is_some()
    }

    /// Fill `to` from `offset`. Any range within the disk.
    pub fn read(&self, offset: u64, to: &mut [u8]) {
        assert!(offset + to.len() as u64 <= self.bytes, "read within the disk");
        let mut done = 0;
        while done < to.len() {
            let at = offset + done as u64;
            let within = DiskImage::place(at).2;
            let count = (PAGE_BYTES - within).min(to.len() - done);
            match self.page(at) {
                Some(page) => to[done..done + count].copy_from_slice(&page[within..within + count]),
                None => to[done..done + count].fill(0),
            }
            done += count;
        }
    }

    /// The bytes at `offset`, copied.
    #[must_use]
    pub fn get(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.read(offset, &mut out);
        out
    }

    /// Store `from` at `offset`. Any range within the disk.
    pub fn write(&mut self, offset: u64, from: &[u8]) {
        assert!(offset + from.len() as u64 <= self.bytes, "write within the disk");
        let mut done = 0;
        while done < from.len() {
            let at = offset + done as u64;
            let within = DiskImage::place(at).2;
            let count = (PAGE_BYTES - within).min(from.len() - done);
            let part = &from[done..done + count];
            let slot = self.slot(at);
            let fresh = slot.is_none();
            // Shared with a snapshot and wholly replaced: nothing of the old page is worth copying.
            let keep = slot.as_mut().is_some_and(|page| count < PAGE_BYTES || Rc::get_mut(page).is_some());
            if let Some(page) = slot.as_mut().filter(|_| keep) {
                Rc::make_mut(page)[within..within + count].copy_from_slice(part);
            } else {
                let mut page = [0; PAGE_BYTES];
                page[within..within + count].copy_from_slice(part);
                *slot = Some(Rc::new(page));
            }
            self.stored_pages += u64::from(fresh);
            done += count;
        }
    }

    /// Take the pages that touch a range from `other`, which has the same size.
    pub(crate) fn share(&mut self, other: &DiskImage, offset: u64, bytes: u64) {
        let mut at = offset - offset % PAGE_BYTES as u64;
        while at < offset + bytes {
            let page = other.page(at).cloned();
            let slot = self.slot(at);
            let (before, after) = (slot.is_some(), page.is_some());
            *slot = page;
            self.stored_pages = self.stored_pages + u64::from(after) - u64::from(before);
            at += PAGE_BYTES as u64;
        }
    }

    /// Flip one bit.
    pub(crate) fn flip(&mut self, offset: u64, bit: u32) {
        let mut byte = [0];
        self.read(offset, &mut byte);
        byte[0] ^= 1 << (bit % 8);
        self.write(offset, &byte);
    }

    /// Start of some stored page, chosen by `choose` from a count; `None` when nothing is stored.
    pub(crate) fn some_page(&self, choose: impl FnOnce(u64) -> u64) -> Option<u64> {
        if self.stored_pages == 0 {
            return None;
        }
        let mut left = choose(self.stored_pages);
        for (chunk_index, chunk) in self.chunks.iter().enumerate() {
            let Some(chunk) = chunk else { continue };
            for (page_index, _) in chunk.pages.iter().enumerate().filter(|(_, page)| page.is_some()) {
                if left == 0 {
                    return Some((chunk_index * CHUNK_BYTES + page_index * PAGE_BYTES) as u64);
                }
                left -= 1;
            }
        }
        None
    }
}

impl std::fmt::Debug for DiskImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskImage({} of {} bytes stored)", self.stored_bytes(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    #[test]
    fn an_image_is_an_array_of_bytes_and_clones_do_not_see_each_other() {
        let bytes = 3 * CHUNK_BYTES / 2;
        let mut random = Random::new(3);
        let mut image = DiskImage::new(bytes as u64);
        let mut model = vec![0u8; bytes];
        let mut kept: Vec<(DiskImage, Vec<u8>)> = Vec::new();
        for round in 0..400 {
            let length = 1 + random.index(3 * PAGE_BYTES);
            let offset = random.index(bytes - length);
            let data: Vec<u8> = (0..length).map(|_| random.bits() as u8).collect();
            image.write(offset as u64, &data);
            model[offset..offset + length].copy_from_slice(&data);
            if round % 100 == 50 {
                kept.push((image.clone(), model.clone()));
            }
        }
        assert_eq!(image.get(0, bytes), model);
        for (image, model) in kept {
            assert_eq!(image.get(0, bytes), model);
        }
    }

    #[test]
    fn sharing_takes_whole_pages_and_counts_them() {
        let (mut a, mut b) = (DiskImage::new(1 << 20), DiskImage::new(1 << 20));
        a.write(5000, &[7; 100]);
        b.write(0, &[9; 4096]);
        b.share(&a, 0, 8192);
        assert_eq!(b.get(0, 8192), a.get(0, 8192));
        assert_eq!(b.stored_bytes(), 4096);
        assert_eq!(b.some_page(|count| count - 1), Some(4096));
    }
}
