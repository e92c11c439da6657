//! Fuzz target of the body `value_ring` in ../bodies_rings.rs.
#![no_main]

#[path = "../bodies_rings.rs"]
mod bodies_rings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bodies_rings::value_ring(data);
});
