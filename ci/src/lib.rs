//! Simulator scenarios, checkers, the torture from outside, and tidy.

pub mod tidy;
