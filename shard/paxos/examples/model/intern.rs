//! A set that numbers its members. Owns a vector and an open-addressing table over it; must never forget.
//!
//! Invariant: equal values have one number, the order of first arrival, the same in every run (the hash has no seed).

use std::hash::{Hash, Hasher};

/// Multiply and rotate, word by word.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517C_C1B7_2722_0A95);
    }
}

/// Numbered values.
pub(crate) struct Interner<T> {
    values: Vec<T>,
    /// Number + 1, 0 = free; a power of two long, at most half full.
    table: Vec<u32>,
}

impl<T: Hash + Eq> Interner<T> {
    pub(crate) fn new() -> Interner<T> {
        Interner { values: Vec::new(), table: vec![0; 1 << 10] }
    }

    /// The value's number, and whether it is new.
    pub(crate) fn number(&mut self, value: T) -> (u32, bool) {
        let place = self.place(&value);
        if self.table[place] != 0 {
            return (self.table[place] - 1, false);
        }
        let number = u32::try_from(self.values.len()).expect("fewer than 2^32 states fit in memory");
        self.table[place] = number + 1;
        self.values.push(value);
        if self.values.len() * 2 > self.table.len() {
            self.table = vec![0; self.table.len() * 2];
            for number in 0..self.values.len() {
                let place = self.place(&self.values[number]);
                self.table[place] = number as u32 + 1;
            }
        }
        (number, true)
    }

    pub(crate) fn get(&self, number: u32) -> &T {
        &self.values[number as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// Where the value stands, or the free place for it.
    fn place(&self, value: &T) -> usize {
        let mut hasher = Mix::default();
        value.hash(&mut hasher);
        let mask = self.table.len() - 1;
        let mut place = hasher.finish() as usize & mask;
        while self.table[place] != 0 && self.values[self.table[place] as usize - 1] != *value {
            place = (place + 1) & mask;
        }
        place
    }
}
