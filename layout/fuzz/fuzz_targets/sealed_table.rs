//! Fuzz target of the body `sealed_table` in ../bodies_tables.rs.
#![no_main]

#[path = "../bodies_tables.rs"]
#[allow(dead_code, reason = "each target runs one of the bodies")]
mod bodies_tables;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bodies_tables::sealed_table(data);
});
