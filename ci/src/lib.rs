//! Simulator scenarios, checkers, the torture from outside, and tidy.

pub mod crash;
pub mod real;
pub mod sim;
pub mod sim_main;
pub mod tidy;
