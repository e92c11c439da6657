//! A window of a tablet as all its replicas know it: sealed, or being sealed. Part of the [state blob](crate::tablet_state).
//!
//! Owns its bytes. Must never name anything of a device. Invariant: what decodes encodes to the same bytes.

use crate::field::{Field, Table, byte_table};
use crate::seal_operation::SealOptions;
use crate::units::{LogIndex, LogTime};

/// Bytes of a window in a state blob.
pub const WINDOW_BYTES: usize = 80;

byte_table! {
    /// Byte table of a window in a state blob.
    WINDOW_TABLE = "tablet window", WINDOW_BYTES;
    W_FROM = "from", 0, 8;
    W_TO = "to", 8, 8;
    W_INDEX = "index", 16, 8;
    W_LOG_TIME = "log_time", 24, 8;
    W_CHECKSUM = "checksum", 32, 16;
    W_OVER_AT = "over_at", 48, 8;
    W_GENERATION = "generation", 56, 4;
    W_CODEC = "codec", 60, 4;
    W_BLOCK_BYTES = "block_bytes", 64, 4;
    W_DICTIONARY_BYTES = "dictionary_bytes", 68, 4;
    W_LEVEL = "level", 72, 1;
    W_FLAGS = "flags", 73, 1;
    W_RESERVED = "reserved", 74, 6;
}

const FLAG_SEALED: u8 = 1;

/// A window that is sealed, or is being sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TabletWindow {
    /// First time.
    pub from: u64,
    /// First time behind it.
    pub to: u64,
    /// Of the seal.
    pub generation: u32,
    /// Index of the seal in the log: its table has what was written up to there.
    pub index: LogIndex,
    /// Log time at that entry: what has expired then is not in it.
    pub log_time: LogTime,
    /// How its table is made.
    pub options: SealOptions,
    /// Checksum of its table; `None` while there is none that is agreed on.
    pub checksum: Option<u128>,
    /// Log time from which nothing in it can be seen; 0 = never.
    pub over_at: u64,
}

impl TabletWindow {
    /// Does the time fall in it?
    #[must_use]
    pub fn holds(&self, time: u64) -> bool {
        (self.from..self.to).contains(&time)
    }

    /// Do the two have a time in common?
    #[must_use]
    pub fn meets(&self, from: u64, to: u64) -> bool {
        self.from < to && from < self.to
    }

    pub(crate) fn encode(&self) -> [u8; WINDOW_BYTES] {
        let mut bytes = [0; WINDOW_BYTES];
        W_FROM.put(&mut bytes, self.from.to_le_bytes());
        W_TO.put(&mut bytes, self.to.to_le_bytes());
        W_INDEX.put(&mut bytes, self.index.0.to_le_bytes());
        W_LOG_TIME.put(&mut bytes, self.log_time.0.to_le_bytes());
        W_CHECKSUM.put(&mut bytes, self.checksum.unwrap_or(0).to_le_bytes());
        W_OVER_AT.put(&mut bytes, self.over_at.to_le_bytes());
        W_GENERATION.put(&mut bytes, self.generation.to_le_bytes());
        W_CODEC.put(&mut bytes, self.options.codec.to_le_bytes());
        W_BLOCK_BYTES.put(&mut bytes, self.options.block_bytes.to_le_bytes());
        W_DICTIONARY_BYTES.put(&mut bytes, self.options.dictionary_bytes.to_le_bytes());
        W_LEVEL.put(&mut bytes, [self.options.level]);
        W_FLAGS.put(&mut bytes, [if self.checksum.is_some() { FLAG_SEALED } else { 0 }]);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; WINDOW_BYTES]) -> Result<TabletWindow, Field> {
        let flags = W_FLAGS.u8(bytes);
        let checksum = u128::from_le_bytes(W_CHECKSUM.array(bytes));
        let is_sealed = flags == FLAG_SEALED;
        let window = TabletWindow {
            from: W_FROM.u64(bytes),
            to: W_TO.u64(bytes),
            generation: W_GENERATION.u32(bytes),
            index: LogIndex(W_INDEX.u64(bytes)),
            log_time: LogTime(W_LOG_TIME.u64(bytes)),
            options: SealOptions {
                codec: W_CODEC.u32(bytes),
                block_bytes: W_BLOCK_BYTES.u32(bytes),
                dictionary_bytes: W_DICTIONARY_BYTES.u32(bytes),
                level: W_LEVEL.u8(bytes),
            },
            checksum: is_sealed.then_some(checksum),
            over_at: W_OVER_AT.u64(bytes),
        };
        let right = [
            (W_TO, window.from < window.to),
            (W_INDEX, window.index.0 < 1 << 48),
            (W_FLAGS, flags <= FLAG_SEALED),
            (W_CHECKSUM, is_sealed != (checksum == 0)),
            (W_OVER_AT, is_sealed || window.over_at == 0),
            (W_BLOCK_BYTES, (512..=65_536).contains(&window.options.block_bytes)),
            (W_DICTIONARY_BYTES, window.options.dictionary_bytes <= 512 << 10),
            (W_LEVEL, window.options.level <= 19),
            (W_RESERVED, W_RESERVED.is_zero(bytes)),
        ];
        right.into_iter().find_map(|(field, right)| (!right).then_some(Err(field))).unwrap_or(Ok(window))
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 1] = [WINDOW_TABLE];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_round_trip_and_wrong_fields_are_named() {
        let options = SealOptions { codec: 1, block_bytes: 512, dictionary_bytes: 4, level: 19 };
        let open = TabletWindow {
            from: 1,
            to: 2,
            generation: 3,
            index: LogIndex(4),
            log_time: LogTime(5),
            options,
            checksum: None,
            over_at: 0,
        };
        let sealed = TabletWindow { checksum: Some(u128::MAX), over_at: 6, ..open };
        for window in [open, sealed] {
            assert_eq!(TabletWindow::decode(&window.encode()), Ok(window));
        }
        let cases =
            [(W_TO, 1), (W_FLAGS, 2), (W_OVER_AT, 1), (W_CHECKSUM, 1), (W_LEVEL, 20), (W_RESERVED, 1)];
        for (field, value) in cases {
            let mut bytes = open.encode();
            bytes[field.offset] = value;
            assert_eq!(TabletWindow::decode(&bytes).map_err(|field| field.name), Err(field.name));
        }
        let mut bytes = sealed.encode();
        W_CHECKSUM.put(&mut bytes, [0; 16]);
        assert_eq!(TabletWindow::decode(&bytes).map_err(|field| field.name), Err("checksum"));
    }
}
