//! One core: journal, memtable, version cache, requests, recovery.

mod ahead;
mod apply;
mod budget;
mod commit;
mod connection;
mod core;
pub mod counters;
mod door;
pub mod format;
mod gather;
mod get;
pub mod journal;
mod late;
pub mod limits;
mod lsm;
pub mod manifest;
pub mod memtable;
mod memtables;
mod mesh;
pub mod node;
mod outbox;
mod parked;
mod positions;
pub mod proof;
mod put;
pub mod recent;
pub mod recover;
mod reply;
pub mod requests;
mod scan;
mod scrub;
mod staging;
mod status;
mod tablet;
pub mod versions;

pub use lsm::examine;
