//! Shared memory that survives the process (never a loss of power): an array of 64-bit words, read and written
//! one word at a time, so that the simulator can kill the process between any two stores.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a region could not be mapped.
#[derive(Debug, thiserror::Error)]
#[error("cannot map shared memory {name} ({bytes} bytes): {what}; {mend}")]
pub struct RegionError {
    /// Name of the region.
    pub name: String,
    /// Size asked for, in bytes.
    pub bytes: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

/// Decides, in the simulator, whether a store still happens: a process killed between two stores makes no more.
pub(crate) trait StoreHook {
    fn alive(&self) -> bool;
}

/// Stores that still happen.
struct StoresLeft(Cell<u64>);

impl StoreHook for StoresLeft {
    fn alive(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }
}

/// A mapped region. Words keep their value over a kill of the process.
#[derive(Clone)]
pub struct Region {
    words: *const AtomicU64,
    count: usize,
    existed: bool,
    hook: Option<Rc<dyn StoreHook>>,
    /// Keeps the mapping alive.
    _owner: Rc<dyn std::any::Any>,
}

impl Region {
    /// # Safety
    /// `words` points to `count` aligned words that live as long as `owner` and are only accessed atomically.
    pub(crate) unsafe fn new(
        words: *const AtomicU64,
        count: usize,
        existed: bool,
        hook: Option<Rc<dyn StoreHook>>,
        owner: Rc<dyn std::any::Any>,
    ) -> Region {
        Region { words, count, existed, hook, _owner: owner }
    }

    /// A region in this process's own memory, to test what lives in one: as if an earlier process had left
    /// `words` (zeros are as good as none). Only the first `stores_max` stores take effect: it is killed then.
    #[must_use]
    pub fn in_memory(words: &[u64], stores_max: u64) -> Region {
        let owner: Rc<Vec<AtomicU64>> = Rc::new(words.iter().map(|word| AtomicU64::new(*word)).collect());
        let existed = words.iter().any(|word| *word != 0);
        let hook = Rc::new(StoresLeft(Cell::new(stores_max)));
        // SAFETY: the words are those of the vector, which is never changed and lives as long as its owner.
        unsafe { Region::new(owner.as_ptr(), words.len(), existed, Some(hook), Rc::clone(&owner) as _) }
    }

    /// Size in words of 8 bytes.
    #[must_use]
    pub fn word_count(&self) -> usize {
        self.count
    }

    /// It was there before, with this size: its words are what an earlier process left.
    #[must_use]
    pub fn existed(&self) -> bool {
        self.existed
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: in range, and alive and atomic by the contract of `new`.
        unsafe { &*self.words.add(index) }
    }

    /// Read word `index`.
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        // Relaxed: one thread uses a region at a time; the next process maps it after this one has ended.
        self.word(index).load(Ordering::Relaxed)
    }

    /// Write word `index`. Stores reach the memory in program order.
    pub fn store(&self, index: usize, value: u64) {
        if let Some(hook) = &self.hook
            && !hook.alive()
        {
            return;
        }
        // Release keeps the order of stores for whoever maps the region after a kill.
        self.word(index).store(value, Ordering::Release);
    }

    /// Ask the processor to bring the line of word `index` near. Only a hint.
    pub fn prefetch(&self, index: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            let word: *const AtomicU64 = self.word(index);
            // SAFETY: a prefetch has no effect on memory; the address is in range.
            unsafe { std::arch::x86_64::_mm_prefetch(word.cast(), std::arch::x86_64::_MM_HINT_T0) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = self.word(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_after_the_kill_do_not_happen() {
        let region = Region::in_memory(&[7, 8, 9], 2);
        assert!(region.existed() && region.word_count() == 3);
        (0..3).for_each(|word| region.store(word, 1));
        assert_eq!([0, 1, 2].map(|word| region.load(word)), [1, 1, 9]);
        assert!(!Region::in_memory(&[0; 3], 0).existed());
    }
}
