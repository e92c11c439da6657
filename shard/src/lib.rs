//! One core: journal, memtable, version cache, requests, recovery.

pub mod journal;
pub mod memtable;
mod positions;
pub mod recent;
pub mod requests;
pub mod versions;
