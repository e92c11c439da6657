//! The `thermocline` binary.

fn main() {}
