//! Where a key belongs: bucket → group → tablet → replica → shard.

mod balance;
mod bucket_map;

pub use bucket_map::{BucketMap, GROUP_COUNT_MAX, GroupCountWrong};

/// The tables of this folder for the test that reads the document.
pub(crate) fn tables() -> [&'static crate::field::Table; 0] {
    []
}
