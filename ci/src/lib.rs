//! Simulator scenarios, checkers, the torture from outside, and tidy.

pub mod crash;
pub mod tidy;
