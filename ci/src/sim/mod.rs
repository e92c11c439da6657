//! Scenarios in the simulated world and the checkers that judge them.
//!
//! A seed says everything (`plan`): the world, the node, what clients do (`load`), what goes wrong (`trouble`). What
//! clients sent and were told is the history; `checkers` read it and nothing else. One seed, one history.

pub mod campaign;
pub mod checkers;
pub(crate) mod client;
pub mod cluster;
pub mod cold;
pub mod crash_states;
pub mod history;
mod hostile;
mod lies;
pub(crate) mod load;
pub mod one_node;
pub mod plan;
pub mod report;
mod scene;
mod trouble;
pub(crate) mod wire;
