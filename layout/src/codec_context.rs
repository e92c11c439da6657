//! Contexts of zstd, which outlive who uses them: making one asks the processor what it can (in a virtual machine a trip to
//! the hypervisor) and takes fresh memory.
//!
//! Owns a few spare ones per thread. Must never keep more: what a thread had in use at once is not its to keep.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use zstd_safe::{CCtx, DCtx};

/// Spare contexts that a thread keeps of each kind.
const SPARE_MAX: usize = 4;

/// What compresses or decompresses. Each call begins anew, whatever the one before it did.
pub(crate) trait Context: Sized + 'static {
    fn make() -> Self;
    /// Do something with this thread's spare ones. `None` while the thread ends.
    fn with_spare<R>(act: impl FnOnce(&mut Vec<Self>) -> R) -> Option<R>;
}

thread_local! {
    static COMPRESSING: RefCell<Vec<CCtx<'static>>> = const { RefCell::new(Vec::new()) };
    static DECOMPRESSING: RefCell<Vec<DCtx<'static>>> = const { RefCell::new(Vec::new()) };
}

impl Context for CCtx<'static> {
    fn make() -> Self {
        CCtx::create()
    }

    fn with_spare<R>(act: impl FnOnce(&mut Vec<Self>) -> R) -> Option<R> {
        COMPRESSING.try_with(|spare| act(&mut spare.borrow_mut())).ok()
    }
}

impl Context for DCtx<'static> {
    fn make() -> Self {
        DCtx::create()
    }

    fn with_spare<R>(act: impl FnOnce(&mut Vec<Self>) -> R) -> Option<R> {
        DECOMPRESSING.try_with(|spare| act(&mut spare.borrow_mut())).ok()
    }
}

/// A context that goes back to its thread's spare ones.
pub(crate) struct Lent<C: Context>(Option<C>);

impl<C: Context> Lent<C> {
    pub(crate) fn new() -> Lent<C> {
        Lent(Some(C::with_spare(Vec::pop).flatten().unwrap_or_else(C::make)))
    }
}

impl<C: Context> Deref for Lent<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.0.as_ref().expect("it is taken only when it is dropped")
    }
}

impl<C: Context> DerefMut for Lent<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.0.as_mut().expect("it is taken only when it is dropped")
    }
}

impl<C: Context> Drop for Lent<C> {
    fn drop(&mut self) {
        let context = self.0.take();
        // Where there is no room, and where the thread ends, it goes.
        C::with_spare(|spare| {
            if spare.len() < SPARE_MAX {
                spare.extend(context);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compressed by a context that has seen other levels, other lengths and a failure.
    #[test]
    fn what_a_context_did_before_shows_in_no_bytes() {
        let raw: Vec<u8> = (0..20_000_u32).flat_map(|at| (at % 97).to_le_bytes()).collect();
        let pack = |context: &mut CCtx<'static>, raw: &[u8], level, room| {
            let mut out = vec![0; room];
            context.compress(&mut out[..], raw, level).map(|bytes| out[..bytes].to_vec())
        };
        let fresh = pack(&mut CCtx::create(), &raw, 6, raw.len()).expect("it has room");
        let mut used: Lent<CCtx<'static>> = Lent::new();
        assert!(pack(&mut used, &raw, 19, 8).is_err());
        pack(&mut used, &raw[..100], 1, 4_096).expect("it has room");
        drop(used);
        let kept = COMPRESSING.with_borrow(Vec::len);
        assert_eq!(kept, 1);
        let mut again: Lent<CCtx<'static>> = Lent::new();
        assert_eq!(COMPRESSING.with_borrow(Vec::len), 0);
        assert_eq!(pack(&mut again, &raw, 6, raw.len()).expect("it has room"), fresh);
    }

    #[test]
    fn no_more_are_kept_than_a_few() {
        let many: Vec<Lent<DCtx<'static>>> = (0..3 * SPARE_MAX).map(|_| Lent::new()).collect();
        drop(many);
        assert_eq!(DECOMPRESSING.with_borrow(Vec::len), SPARE_MAX);
    }
}
