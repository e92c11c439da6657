//! Signals of the process as a descriptor. SIGTERM, SIGINT and SIGHUP are blocked in every thread that runs a
//! core and in the one that launched it, so that they stay pending until a core reads them here.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

fn ours() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

/// Block the three signals in this thread and those it starts from now on.
pub(super) fn block() {
    ours().thread_block().expect("a set of known signals can be blocked");
}

/// The descriptor that the three signals arrive on. Not blocking: wait by polling it.
pub(super) fn open() -> nix::Result<SignalFd> {
    block();
    SignalFd::with_flags(&ours(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// The next pending signal's number; `None` when another reader was faster.
pub(super) fn read(fd: &SignalFd) -> nix::Result<Option<u32>> {
    Ok(fd.read_signal()?.map(|signal| signal.ssi_signo))
}
