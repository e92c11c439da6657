//! Byte tables: the one source of offsets and sizes, and the error of every decoder.
//!
//! A structure declares its fields once with `byte_table!`; encoder, decoder, `inspect` and the
//! test that reads FORMAT.md all use that declaration. Invariant, checked by the compiler: the
//! fields of a table follow each other without gap or overlap and end at its size.

use thiserror::Error;

/// Bytes that are not what they should be. A value, never a panic: the caller asks another copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("corrupt {structure}: field {field} at byte {at}")]
pub struct Corrupt {
    /// Name of the structure, as in FORMAT.md.
    pub structure: &'static str,
    /// Name of the first field found wrong, as in FORMAT.md.
    pub field: &'static str,
    /// Where that field starts: the offset on the device for structures that know their address,
    /// else the offset in the bytes given to the decoder.
    pub at: u64,
}

/// One field of a fixed structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Name in FORMAT.md and in `inspect`.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes it takes.
    pub bytes: usize,
}

/// All fields of a fixed structure, in order, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Name in FORMAT.md, in `inspect` and in [`Corrupt`].
    pub structure: &'static str,
    /// Bytes of the whole structure.
    pub bytes: usize,
    /// The fields by offset.
    pub fields: &'static [Field],
}

impl Table {
    /// Stops the compilation when fields overlap, leave a gap or do not end at the table's size.
    pub(crate) const fn assert_contiguous(&self) {
        let mut index = 0;
        let mut next = 0;
        while index < self.fields.len() {
            assert!(self.fields[index].offset == next, "fields of a byte table follow each other");
            next += self.fields[index].bytes;
            index += 1;
        }
        assert!(next == self.bytes, "the fields of a byte table end at its size");
    }

    /// The error for `field` of a structure that starts at `base`.
    pub(crate) fn corrupt(&self, field: Field, base: u64) -> Corrupt {
        Corrupt { structure: self.structure, field: field.name, at: base.saturating_add(field.offset as u64) }
    }
}

impl Field {
    /// The field's bytes. The caller has checked that `structure` holds the whole table.
    #[inline]
    pub(crate) fn slice(self, structure: &[u8]) -> &[u8] {
        &structure[self.offset..self.offset + self.bytes]
    }

    /// The field as an array; its size must be the table's, which only our own bug can break.
    #[inline]
    pub(crate) fn array<const N: usize>(self, structure: &[u8]) -> [u8; N] {
        self.slice(structure).try_into().expect("the byte table gives the field this size")
    }

    /// Reads a one-byte field.
    #[inline]
    pub(crate) fn u8(self, structure: &[u8]) -> u8 {
        self.array::<1>(structure)[0]
    }

    /// Reads a little-endian two-byte field.
    #[inline]
    pub(crate) fn u16(self, structure: &[u8]) -> u16 {
        u16::from_le_bytes(self.array(structure))
    }

    /// Reads a little-endian four-byte field.
    #[inline]
    pub(crate) fn u32(self, structure: &[u8]) -> u32 {
        u32::from_le_bytes(self.array(structure))
    }

    /// Reads a little-endian eight-byte field.
    #[inline]
    pub(crate) fn u64(self, structure: &[u8]) -> u64 {
        u64::from_le_bytes(self.array(structure))
    }

    /// Writes the field; `value` has exactly its size.
    #[inline]
    pub(crate) fn put<const N: usize>(self, structure: &mut [u8], value: [u8; N]) {
        assert!(N == self.bytes, "the byte table gives the field this size");
        structure[self.offset..self.offset + N].copy_from_slice(&value);
    }

    /// True when every byte of the field is zero, as reserved fields must be.
    pub(crate) fn is_zero(self, structure: &[u8]) -> bool {
        is_zero(self.slice(structure))
    }
}

/// True when all bytes are zero.
#[inline]
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Chunks of eight, so that a frame of zeros costs 64 compares and not 512.
    let (chunks, rest) = bytes.as_chunks::<8>();
    chunks.iter().all(|chunk| u64::from_le_bytes(*chunk) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Declares a structure: its table and one constant per field, checked at compile time.
macro_rules! byte_table {
    ($(#[$meta:meta])* $table:ident = $structure:literal, $total:expr;
     $($field:ident = $name:literal, $offset:expr, $bytes:expr;)+) => {
        $(pub(crate) const $field: $crate::field::Field =
            $crate::field::Field { name: $name, offset: $offset, bytes: $bytes };)+
        $(#[$meta])*
        pub const $table: $crate::field::Table =
            $crate::field::Table { structure: $structure, bytes: $total, fields: &[$($field),+] };
        const _: () = $table.assert_contiguous();
    };
}
pub(crate) use byte_table;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_set_bit_anywhere_is_not_zero() {
        for length in [0usize, 1, 7, 8, 9, 512] {
            let mut bytes = vec![0u8; length];
            assert!(is_zero(&bytes));
            for index in 0..length {
                bytes[index] = 0x80;
                assert!(!is_zero(&bytes), "byte {index} of {length}");
                bytes[index] = 0;
            }
        }
    }

    #[test]
    fn corrupt_names_structure_field_and_place() {
        let corrupt = Corrupt { structure: "journal frame", field: "checksum", at: 4096 };
        assert_eq!(corrupt.to_string(), "corrupt journal frame: field checksum at byte 4096");
    }
}
