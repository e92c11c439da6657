//! Byte tables of the wire: the one source of offsets and sizes.
//!
//! A structure declares its fields once with `wire_table!`; encoder, decoder and the test that reads PROTOCOL.md use that
//! declaration. Invariant, checked by the compiler: the fields of a table follow each other without gap or overlap
//! and end at its size.

use std::net::{IpAddr, Ipv6Addr};

pub use layout::field::{Field, Table};

/// Stops the compilation when fields overlap, leave a gap or do not end at the table's size.
pub(crate) const fn assert_contiguous(table: &Table) {
    let mut index = 0;
    let mut next = 0;
    while index < table.fields.len() {
        assert!(table.fields[index].offset == next, "fields of a wire table follow each other");
        next += table.fields[index].bytes;
        index += 1;
    }
    assert!(next == table.bytes, "the fields of a wire table end at its size");
}

/// Declares a structure: its table and one constant per field, in a module of its own.
macro_rules! wire_table {
    ($(#[$meta:meta])* $module:ident = $structure:literal, $total:literal;
     $($field:ident = $name:literal, $offset:literal, $bytes:literal;)+) => {
        $(#[$meta])*
        pub(crate) mod $module {
            use crate::field::{Field, Table};
            pub(crate) const BYTES: usize = $total;
            $(pub(crate) const $field: Field = Field { name: $name, offset: $offset, bytes: $bytes };)+
            pub(crate) const TABLE: Table =
                Table { structure: $structure, bytes: $total, fields: &[$($field),+] };
            const _: () = crate::field::assert_contiguous(&TABLE);
        }
    };
}
pub(crate) use wire_table;

/// Every table of the protocol: what the test that reads PROTOCOL.md compares it with.
pub fn tables() -> Vec<&'static Table> {
    let mut all = vec![&crate::frame::header::TABLE];
    all.extend(crate::request::hello_tables());
    all.extend(crate::request::read_tables());
    all.extend(crate::request::write_tables());
    all.extend(crate::reply::tables());
    all.extend(crate::route::tables());
    all.extend(crate::peer::tables());
    all.extend(crate::cold::tables());
    all.extend(crate::redirect::tables());
    all
}

/// An address as it stands on the wire: IPv6 in network order, IPv4 a.b.c.d as ::ffff:a.b.c.d.
pub(crate) fn ip_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The address of these bytes.
pub(crate) fn ip_of(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

/// Reads fields of a structure whose bytes are all there: the caller has cut `bytes` to the table's size.
pub(crate) trait Read {
    /// One byte.
    fn u8(&self, field: Field) -> u8;
    /// Two bytes, little-endian.
    fn u16(&self, field: Field) -> u16;
    /// Four bytes, little-endian.
    fn u32(&self, field: Field) -> u32;
    /// Eight bytes, little-endian.
    fn u64(&self, field: Field) -> u64;
    /// The field's bytes.
    fn bytes<const N: usize>(&self, field: Field) -> [u8; N];
    /// True when all bytes of the field are zero, as reserved ones must be.
    fn is_zero(&self, field: Field) -> bool;
}

impl<const TOTAL: usize> Read for [u8; TOTAL] {
    #[inline]
    fn u8(&self, field: Field) -> u8 {
        self[field.offset]
    }
    #[inline]
    fn u16(&self, field: Field) -> u16 {
        u16::from_le_bytes(self.bytes(field))
    }
    #[inline]
    fn u32(&self, field: Field) -> u32 {
        u32::from_le_bytes(self.bytes(field))
    }
    #[inline]
    fn u64(&self, field: Field) -> u64 {
        u64::from_le_bytes(self.bytes(field))
    }
    #[inline]
    fn bytes<const N: usize>(&self, field: Field) -> [u8; N] {
        self[field.offset..field.offset + field.bytes]
            .try_into()
            .expect("the wire table gives the field this size")
    }
    #[inline]
    fn is_zero(&self, field: Field) -> bool {
        self[field.offset..field.offset + field.bytes].iter().all(|byte| *byte == 0)
    }
}

/// Writes fields of a structure.
pub(crate) trait Write: Sized {
    /// The structure with the field set; `value` has exactly its size.
    fn set<const N: usize>(self, field: Field, value: [u8; N]) -> Self;
}

impl<const TOTAL: usize> Write for [u8; TOTAL] {
    #[inline]
    fn set<const N: usize>(mut self, field: Field, value: [u8; N]) -> Self {
        assert!(N == field.bytes, "the wire table gives the field this size");
        self[field.offset..field.offset + N].copy_from_slice(&value);
        self
    }
}

/// Where an encoder writes.
pub trait Sink {
    /// Appends the bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A caller's slice, filled from the front. It never allocates; the caller has made room for `encoded_bytes()`.
#[derive(Debug)]
pub struct SliceSink<'a> {
    out: &'a mut [u8],
    used: usize,
}

impl<'a> SliceSink<'a> {
    /// Fills `out` from its first byte.
    pub fn new(out: &'a mut [u8]) -> SliceSink<'a> {
        SliceSink { out, used: 0 }
    }

    /// Bytes written so far.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Bytes left.
    pub fn room(&self) -> usize {
        self.out.len() - self.used
    }

    /// Overwrites bytes written before: counts that are known only at the end.
    pub(crate) fn patch(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.used, "only written bytes are patched");
        self.out[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Sink for SliceSink<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }
}
