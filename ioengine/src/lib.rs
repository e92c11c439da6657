//! The only door to the outside: disk, network, clock, cross-core rings, shared memory, randomness, tasks.
//!
//! Two back ends with one behaviour: the real one (io_uring, one ring per core) and the simulated one (virtual
//! time, one thread, one seed, faults). The numbered contract both keep is `ioengine/README.md`, and
//! `tests/conformance` runs the same suite on both. Everything above takes an [`Io`] and cannot tell which it got.
//!
//! Shape: an [`Io`] is one core. It owns an [`buffer::Arena`] of aligned buffers, a table of operations in
//! flight, timers, and a host that runs tasks. A driver behind it starts operations and reports completions.
//! An operation owns its buffer until its completion was seen, also when whoever asked has gone away.

pub mod buffer;
pub mod clock;
pub mod disk;
mod driver;
mod executor;
#[cfg(all(feature = "glommio", not(target_env = "musl")))]
mod glommio_host;
mod io;
mod launch;
pub mod marks;
pub mod memory;
mod operation;
pub mod region;
pub mod ring;
pub mod signal;
pub mod sim;
pub mod stream;
pub mod sync;
mod timer;
pub mod uring;

pub use buffer::Buf;
pub use clock::Instant;
pub use disk::{Disk, DiskError};
pub use executor::{LocalFuture, Queue};
pub use io::Io;
pub use launch::{CoreConfig, CoreHandle, HostKind, LaunchError, Launcher};
pub use marks::{canary, collects_facts, fact};
pub use operation::Errno;
pub use region::Region;
pub use stream::{Listener, NetError, Stream};
pub use timer::{Sleep, TimedOut};
