//! Fuzz target of the body `table_columns` in ../bodies_tables.rs.
#![no_main]

#[path = "../bodies_tables.rs"]
#[allow(dead_code, reason = "each target runs one of the bodies")]
mod bodies_tables;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bodies_tables::table_columns(data);
});
