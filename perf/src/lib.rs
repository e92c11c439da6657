//! How fast: a load generator, workloads, upper bounds, peers, and reports that are kept.
//!
//! Owns `thermocline bench`. Must never be linked into what serves, and never assert a time: machines are shared. What
//! is compared runs in one process run, alternating, and is reported as medians, spread and ratio.

mod args;
mod bench;
pub mod cache_target;
mod cold_group;
mod cpu;
mod group;
mod limits;
pub mod load;
mod machine;
mod micro;
mod outside;
mod peers;
mod report;
pub mod target;
pub mod workloads;

pub use args::{BenchArgs, BenchName, HostChoice};
pub use bench::{BenchError, bench_main};
