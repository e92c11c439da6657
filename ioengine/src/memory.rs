//! Memory beside the arena of buffers: how large tables that are laid out at start are mapped. Changes no content and
//! never fails: what the system refuses is only slower. The same under both back ends.

/// Smallest table that is worth asking for, bytes: one huge page of this machine's kind holds it.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// What `madvise` takes ranges in, bytes.
const PAGE_BYTES: usize = 4096;

/// Ask for huge pages under a table, its spare capacity included. To be called before it is touched: what has its
/// pages keeps them. A table of hundreds of megabytes read at random misses the processor's address cache at every
/// read otherwise, and on a virtual machine such a miss costs more than the read.
pub fn prefer_huge_pages<T>(table: &mut Vec<T>) {
    let bytes = table.capacity() * size_of::<T>();
    if bytes < HUGE_PAGE_BYTES {
        return;
    }
    let start = table.as_mut_ptr() as usize;
    let first = start.next_multiple_of(PAGE_BYTES);
    let whole = (start + bytes - first) / PAGE_BYTES * PAGE_BYTES;
    // SAFETY: the range lies within the table's own allocation, and this advice changes no content.
    let refused = unsafe { libc::madvise(first as *mut libc::c_void, whole, libc::MADV_HUGEPAGE) };
    if refused != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), bytes, "no huge pages under a table");
    }
}

/// Ask the processor to bring the line of element `index` near. Only a hint; nothing beyond the end.
#[inline]
pub fn prefetch<T>(elements: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(element) = elements.get(index) {
        let pointer: *const T = element;
        // SAFETY: a prefetch has no effect on memory, and the pointer is that of an element.
        unsafe { std::arch::x86_64::_mm_prefetch(pointer.cast(), std::arch::x86_64::_MM_HINT_T0) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (elements, index);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_small_tables_are_left_alone() {
        let mut large = vec![7_u64; HUGE_PAGE_BYTES];
        prefer_huge_pages(&mut large);
        assert!(large.iter().all(|&word| word == 7));
        let mut spare: Vec<u8> = Vec::with_capacity(3 * HUGE_PAGE_BYTES + 5);
        prefer_huge_pages(&mut spare);
        spare.resize(3 * HUGE_PAGE_BYTES, 1);
        assert!(spare.iter().all(|&byte| byte == 1));
        prefer_huge_pages(&mut Vec::<u8>::new());
    }
}
