//! The bytes of Thermocline: on disk and in shared memory.
//!
//! Owns every persistent format: offsets, sizes, magics, checksums and the identity they are bound
//! to. Must never do I/O, read a clock, or allocate while it encodes or decodes (the exceptions are
//! the caller's own `Vec` that a function fills, the plan of a new device in [`zone`], writing a
//! table and opening its index and filter, and the text of [`inspect`]). Invariant: every decoder is total. Any bytes at all give
//! a value or a [`Corrupt`], never a panic; what an encoder is given wrongly is our own bug and
//! stops the process.
//!
//! The byte tables stand in `layout/FORMAT.md`; a test compares them with the tables in the code.
#![forbid(unsafe_code)]

pub mod checksum;
mod codec_context;
pub mod cold_disk;
pub mod cold_file;
pub mod cold_kept;
pub mod cold_section;
pub mod field;
pub mod format_version;
pub mod inspect;
pub mod inspect_manifest;
pub mod inspect_ring;
pub mod inspect_section;
mod inspect_sunk;
pub mod inspect_table;
pub mod journal_frame;
pub mod journal_record;
pub mod key;
pub mod log_entry;
pub mod log_item;
pub mod log_message;
pub mod manifest;
pub mod manifest_record;
pub mod operation;
pub mod seal_operation;
pub mod sink_operation;
pub mod superblock;
pub mod superblock_copies;
pub mod superblock_peers;
pub mod superblock_reads;
pub mod table;
pub mod table_block;
pub mod table_check;
mod table_check_sections;
pub mod table_columns;
pub mod table_cursor;
mod table_dictionary;
pub mod table_directory;
pub mod table_filter;
pub mod table_footer;
mod table_held;
pub mod table_index;
pub mod table_key;
pub mod table_seal;
pub mod table_sections;
pub mod table_sunk;
pub mod tablet_sink;
pub mod tablet_state;
pub mod tablet_window;
pub mod tip;
pub mod units;
pub mod value_entry;
pub mod value_ring;
mod varint;
pub mod version_cell;
pub mod version_file;
pub mod vote;
pub mod zone;

pub use field::Corrupt;
pub use format_version::FORMAT_VERSION;

/// Every byte table of this crate, for the comparison with FORMAT.md.
#[must_use]
pub fn byte_tables() -> Vec<field::Table> {
    [
        superblock::TABLES.as_slice(),
        journal_frame::TABLES.as_slice(),
        journal_record::TABLES.as_slice(),
        manifest_record::TABLES.as_slice(),
        log_entry::TABLES.as_slice(),
        vote::TABLES.as_slice(),
        log_item::TABLES.as_slice(),
        log_message::TABLES.as_slice(),
        operation::TABLES.as_slice(),
        seal_operation::TABLES.as_slice(),
        sink_operation::TABLES.as_slice(),
        tip::TABLES.as_slice(),
        table_key::TABLES.as_slice(),
        table_block::TABLES.as_slice(),
        table_seal::TABLES.as_slice(),
        table_sections::TABLES.as_slice(),
        table_sunk::TABLES.as_slice(),
        table_index::TABLES.as_slice(),
        table_filter::TABLES.as_slice(),
        table_footer::TABLES.as_slice(),
        manifest::TABLES.as_slice(),
        tablet_state::TABLES.as_slice(),
        tablet_window::TABLES.as_slice(),
        tablet_sink::TABLES.as_slice(),
        version_file::TABLES.as_slice(),
        version_cell::TABLES.as_slice(),
        value_ring::TABLES.as_slice(),
        value_entry::TABLES.as_slice(),
        cold_disk::TABLES.as_slice(),
        cold_file::TABLES.as_slice(),
        cold_kept::TABLES.as_slice(),
        cold_section::TABLES.as_slice(),
    ]
    .concat()
}
