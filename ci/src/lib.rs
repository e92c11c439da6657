//! Simulator scenarios, checkers and tidy.
