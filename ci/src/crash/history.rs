//! What was asked of the engine, what it acknowledged, and what it may hold after a power cut. Owns the model only.
//!
//! Each key has at most one operation in flight, so its operations are ordered. After a power cut a key holds the
//! outcome of its last acknowledged operation or of a later one that was sent; nothing else. Every value names its
//! operation, so a value of the wrong key, of a wrong operation or with a wrong byte is seen.

use std::collections::BTreeMap;

/// Keys of a history: few, so that each is written many times.
pub const KEY_COUNT: usize = 240;
/// Streams that the keys are spread over.
pub const STREAM_COUNT: usize = 24;

/// One operation, numbered by its place in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Which key, below [`KEY_COUNT`].
    pub key: usize,
    /// True: the record is deleted; false: it is put.
    pub delete: bool,
}

/// All operations sent so far, in order.
#[derive(Debug, Clone, Default)]
pub struct History {
    operations: Vec<Operation>,
}

impl History {
    /// Adds an operation that is about to be sent; its number.
    pub fn push(&mut self, operation: Operation) -> u64 {
        assert!(operation.key < KEY_COUNT, "keys are numbered below KEY_COUNT");
        self.operations.push(operation);
        self.operations.len() as u64 - 1
    }

    /// The operation with this number.
    pub fn operation(&self, number: u64) -> Operation {
        self.operations[number as usize]
    }

    /// Operations sent.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// True before the first operation.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// What is wrong with `found`, the values by key that an engine returned after a power cut before which the
    /// operations in `acknowledged` had been acknowledged. Empty where nothing is.
    pub fn complaints(&self, acknowledged: &[u64], found: &BTreeMap<usize, Vec<u8>>) -> Vec<String> {
        let mut last: BTreeMap<usize, u64> = BTreeMap::new();
        for &number in acknowledged {
            let key = self.operations[number as usize].key;
            let newest = last.entry(key).or_insert(number);
            *newest = number.max(*newest);
        }
        (0..KEY_COUNT)
            .filter_map(|key| self.complaint(key, last.get(&key).copied(), found.get(&key)))
            .collect()
    }

    fn complaint(&self, key: usize, last: Option<u64>, found: Option<&Vec<u8>>) -> Option<String> {
        let of_key = |number: &u64| self.operations.get(*number as usize).is_some_and(|op| op.key == key);
        match found {
            None => {
                // Absent is right where nothing was acknowledged, or a delete at or behind what was.
                let from = last?;
                let deleted = (from..self.operations.len() as u64)
                    .filter(of_key)
                    .any(|number| self.operations[number as usize].delete);
                (!deleted)
                    .then(|| format!("key {key}: operation {from} was acknowledged and nothing is there"))
            }
            Some(bytes) => {
                let number = bytes.first_chunk::<8>().map_or(u64::MAX, |head| u64::from_le_bytes(*head));
                if !of_key(&number) || self.operations[number as usize].delete || *bytes != value(key, number)
                {
                    return Some(format!("key {key}: {} bytes that nobody wrote there", bytes.len()));
                }
                let from = last?;
                (number < from).then(|| {
                    format!("key {key}: operation {from} was acknowledged, the value of operation {number} is there")
                })
            }
        }
    }
}

/// The stream of a key.
pub fn stream(key: usize) -> Vec<u8> {
    format!("stream-{:02}", key % STREAM_COUNT).into_bytes()
}

/// The time of a key, microseconds: one a second from the beginning of 2020.
pub fn time(key: usize) -> u64 {
    1_577_836_800_000_000 + (key / STREAM_COUNT) as u64 * 1_000_000
}

/// The key of a stream and a time, where there is one.
pub fn key_of(stream_bytes: &[u8], at: u64) -> Option<usize> {
    (0..KEY_COUNT).find(|&key| time(key) == at && stream(key) == stream_bytes)
}

/// The value that an operation writes: its number, then bytes that depend on number, key and place; 16 to 271 bytes,
/// one in sixteen up to 3,900, so that records end at every place of a sector.
pub fn value(key: usize, number: u64) -> Vec<u8> {
    let mix = (number ^ (key as u64) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = number.to_le_bytes().to_vec();
    let tail = 8 + (mix >> 56) as usize;
    let tail = if mix >> 40 & 15 == 0 { tail * 15 } else { tail };
    bytes.extend((0..tail).map(|at| (mix >> (at % 8 * 7)) as u8 ^ at as u8));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key 1 is put (0), put (1), deleted (2), put (3); key 2 is put (4).
    fn history() -> History {
        let mut history = History::default();
        for (key, delete) in [(1, false), (1, false), (1, true), (1, false), (2, false)] {
            history.push(Operation { key, delete });
        }
        history
    }

    fn count(acknowledged: &[u64], found: &[(usize, Vec<u8>)]) -> usize {
        history().complaints(acknowledged, &found.iter().cloned().collect()).len()
    }

    #[test]
    fn the_last_acknowledged_operation_or_a_later_one_is_right() {
        assert_eq!(count(&[], &[]), 0);
        assert_eq!(count(&[0], &[(1, value(1, 0))]), 0);
        assert_eq!(count(&[0], &[(1, value(1, 3))]), 0);
        assert_eq!(count(&[0], &[]), 0, "the delete may have happened");
        assert_eq!(count(&[4], &[(2, value(2, 4))]), 0);
    }

    #[test]
    fn an_older_a_lost_or_a_foreign_value_is_wrong() {
        assert_eq!(count(&[1], &[(1, value(1, 0))]), 1);
        assert_eq!(count(&[3], &[]), 1);
        assert_eq!(count(&[4], &[]), 1);
        assert_eq!(count(&[], &[(1, value(2, 4))]), 1, "a value of another key");
        assert_eq!(count(&[], &[(1, value(1, 2))]), 1, "the number of a delete");
        let mut rotten = value(1, 3);
        rotten[9] ^= 1;
        assert_eq!(count(&[], &[(1, rotten)]), 1);
        assert_eq!(count(&[], &[(1, vec![])]), 1);
    }

    #[test]
    fn keys_and_their_names_are_one_to_one() {
        for key in 0..KEY_COUNT {
            assert_eq!(key_of(&stream(key), time(key)), Some(key));
        }
    }
}
