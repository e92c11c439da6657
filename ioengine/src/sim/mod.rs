//! The simulated back end: a world of nodes, disks and links in virtual time, on one thread, from one seed.
//!
//! What runs on a simulated core is the real code above `Io`; what it meets is decided by the seed alone, so that
//! every history can be played again. How to use it, and what it can do to whom, is in `README.md` beside this file.
//! Must never read a real clock, an address or the order of a randomly seeded map.

mod core;
mod disk;
mod disk_handle;
mod disk_io;
mod driver;
mod ending;
mod fault;
mod image;
mod link;
mod media;
mod network;
mod node;
mod queue;
mod random;
mod recording;
mod segment;
mod trace;
mod world;

pub use disk::{DiskArm, DiskConfig, DiskCounts, DiskLatency};
pub use disk_handle::{DiskHandle, Recorder};
pub use fault::{DiskFaults, Fault, FaultKind};
pub use image::{DiskImage, SECTOR_BYTES};
pub use link::LinkConfig;
pub use node::{NodeConfig, NodeHandle};
pub use random::{PPM, Random};
pub use recording::{CrashLimits, CrashState, CrashStates, Recorded, RecordedKind, Recording};
pub use world::{World, WorldConfig};
