//! Ctrl-C of a command that has something to say before it ends.
//!
//! The first SIGINT or SIGTERM sets a flag and breaks a blocking read; the next one ends the process as usual.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static HAPPENED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: nix::libc::c_int) {
    // Relaxed: a flag that stands alone.
    HAPPENED.store(true, Ordering::Relaxed);
}

/// From now on the first SIGINT or SIGTERM is noted.
pub(crate) fn watch() {
    // Without SA_RESTART, so that a blocking read returns; with SA_RESETHAND, so that the second one ends.
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESETHAND, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler stores to an atomic and does nothing else, which is safe at any instruction.
        unsafe { sigaction(signal, &action) }.expect("these signals can be handled");
    }
}

/// True when one came since [`watch`].
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::Relaxed)
}
