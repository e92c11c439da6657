//! Aligned buffers of one core, laid out at start: one region, cut by a buddy allocator, registered with the ring
//! by the real driver. A [`Buf`] is the only way to its bytes; dropping it gives the room back. Never grows.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

/// Smallest buffer and alignment of all buffers, in bytes.
pub const BUFFER_ALIGN: usize = 4096;
/// Orders of size: 4 KiB << 0 ..= 4 KiB << 12 = 16 MiB.
const ORDER_COUNT: usize = 13;
/// Largest buffer, in bytes.
pub const BUFFER_BYTES_MAX: usize = BUFFER_ALIGN << (ORDER_COUNT - 1);

/// State of the block that begins at a page: free at an order, taken at an order, or inside another block.
const INSIDE: u8 = 0xff;
const TAKEN: u8 = 0x80;
/// End of a list of free blocks.
const NONE: u32 = u32::MAX;

/// What is known of a page. The links are those of the list of free blocks of its order.
struct Page {
    /// Order of the block that begins here, with `TAKEN` when handed out; `INSIDE` otherwise.
    state: u8,
    before: u32,
    after: u32,
}

/// Taking and giving back cost a few steps per order, whatever is free: the lists lie in the pages' own table, and
/// nothing is allocated after the start.
struct Buddy {
    /// First page of a free block, by order.
    free: [u32; ORDER_COUNT],
    pages: Vec<Page>,
    taken_bytes: usize,
}

impl Buddy {
    fn new(page_count: usize) -> Buddy {
        assert!(page_count < NONE as usize, "an arena is smaller than 16 TiB");
        let mut buddy = Buddy {
            free: [NONE; ORDER_COUNT],
            pages: (0..page_count).map(|_| Page { state: INSIDE, before: NONE, after: NONE }).collect(),
            taken_bytes: 0,
        };
        let mut page = 0;
        while page < page_count {
            // The largest aligned block that still fits.
            let order = (0..ORDER_COUNT)
                .rev()
                .find(|&order| page.is_multiple_of(1 << order) && page + (1 << order) <= page_count)
                .expect("one page always fits");
            buddy.put_free(page, order);
            page += 1 << order;
        }
        buddy
    }

    fn put_free(&mut self, page: usize, order: usize) {
        let number = u32::try_from(page).expect("pages fit u32");
        let after = std::mem::replace(&mut self.free[order], number);
        if after != NONE {
            self.pages[after as usize].before = number;
        }
        self.pages[page] = Page { state: order_state(order), before: NONE, after };
    }

    fn take_free(&mut self, page: usize, order: usize) {
        let Page { before, after, .. } = self.pages[page];
        match before {
            NONE => self.free[order] = after,
            before => self.pages[before as usize].after = after,
        }
        if after != NONE {
            self.pages[after as usize].before = before;
        }
    }

    fn take(&mut self, order: usize) -> Option<usize> {
        let from = (order..ORDER_COUNT).find(|&order| self.free[order] != NONE)?;
        let page = self.free[from] as usize;
        self.take_free(page, from);
        for split in (order..from).rev() {
            self.put_free(page + (1 << split), split);
        }
        self.pages[page].state = TAKEN | order_state(order);
        self.taken_bytes += BUFFER_ALIGN << order;
        Some(page)
    }

    fn give(&mut self, page: usize) {
        let state = self.pages[page].state;
        assert!(state & TAKEN != 0 && state != INSIDE, "page {page} was not taken");
        let mut order = usize::from(state & !TAKEN);
        let mut page = page;
        self.taken_bytes -= BUFFER_ALIGN << order;
        while order + 1 < ORDER_COUNT {
            let buddy = page ^ (1 << order);
            if buddy + (1 << order) > self.pages.len() || self.pages[buddy].state != order_state(order) {
                break;
            }
            self.take_free(buddy, order);
            self.pages[page.max(buddy)].state = INSIDE;
            page = page.min(buddy);
            order += 1;
        }
        self.put_free(page, order);
    }
}

fn order_state(order: usize) -> u8 {
    u8::try_from(order).expect("orders are few")
}

struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    buddy: RefCell<Buddy>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `base` came from mmap with this length, and the last owner is going.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The buffers of one core.
#[derive(Clone)]
pub(crate) struct Arena(Rc<Memory>);

impl Arena {
    /// Lay out `bytes` (rounded up to whole pages) of memory, untouched pages cost nothing yet.
    ///
    /// # Errors
    /// The system's error when the memory is not to be had.
    pub(crate) fn new(bytes: usize) -> std::io::Result<Arena> {
        let page_count = bytes.max(BUFFER_ALIGN).div_ceil(BUFFER_ALIGN);
        // Blocks are aligned to their size within the region; the region itself is page-aligned, which is what
        // direct I/O needs.
        let bytes = page_count * BUFFER_ALIGN;
        // SAFETY: a fresh anonymous private mapping; no other memory is involved.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("mmap never maps page zero by itself");
        Ok(Arena(Rc::new(Memory { base, bytes, buddy: RefCell::new(Buddy::new(page_count)) })))
    }

    pub(crate) fn take(&self, bytes: usize) -> Option<Buf> {
        if bytes > BUFFER_BYTES_MAX {
            return None;
        }
        let order = bytes.div_ceil(BUFFER_ALIGN).max(1).next_power_of_two().trailing_zeros() as usize;
        let page = self.0.buddy.borrow_mut().take(order)?;
        // SAFETY: the page lies within the mapping.
        let start = unsafe { self.0.base.add(page * BUFFER_ALIGN) };
        Some(Buf { memory: Rc::clone(&self.0), start, bytes: BUFFER_ALIGN << order, page })
    }

    /// Bytes in all, bytes taken.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.0.bytes, self.0.buddy.borrow().taken_bytes)
    }

    /// Where the region lies, for registration with the ring.
    pub(crate) fn region(&self) -> (*mut u8, usize) {
        (self.0.base.as_ptr(), self.0.bytes)
    }
}

/// An aligned buffer: a power of two of at least 4 KiB, at most 16 MiB. Derefs to its bytes.
pub struct Buf {
    memory: Rc<Memory>,
    start: NonNull<u8>,
    bytes: usize,
    page: usize,
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buddy allocator handed this range to this Buf alone; the mapping is zeroed at first, so
        // every byte is initialised; the kernel writes to it only while an operation owns the Buf.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.memory.buddy.borrow_mut().give(self.page);
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_given_back_can_be_taken_whole_again() {
        let arena = Arena::new(BUFFER_BYTES_MAX).unwrap();
        let mut taken = Vec::new();
        let mut size = 1;
        while let Some(buffer) = arena.take(size) {
            assert!(buffer.len() >= size && (buffer.as_ptr() as usize).is_multiple_of(BUFFER_ALIGN));
            taken.push(buffer);
            size = (size * 7 + 13) % 300_000;
        }
        assert!(taken.len() > 10);
        while !taken.is_empty() {
            taken.swap_remove(taken.len() * 5 / 7 % taken.len());
        }
        assert_eq!(arena.bytes().1, 0);
        assert!(arena.take(BUFFER_BYTES_MAX).is_some(), "buddies found each other again");
    }

    #[test]
    fn buffers_never_overlap() {
        let arena = Arena::new(1 << 20).unwrap();
        let mut taken: Vec<Buf> = (0..200).map_while(|n| arena.take(4096 * (1 + n % 3))).collect();
        for (n, buffer) in taken.iter_mut().enumerate() {
            buffer.fill(u8::try_from(n % 251).unwrap());
        }
        for (n, buffer) in taken.iter().enumerate() {
            assert!(buffer.iter().all(|&byte| usize::from(byte) == n % 251));
        }
        assert!(taken.len() > 80, "1 MiB holds 109 of 4, 8 and 16 KiB in turn when nothing is lost");
    }

    #[test]
    fn more_than_the_largest_is_refused() {
        assert!(Arena::new(4096).unwrap().take(BUFFER_BYTES_MAX + 1).is_none());
        assert!(Arena::new(4096).unwrap().take(8192).is_none());
    }
}
