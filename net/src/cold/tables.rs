//! Byte tables of what is said to a node with cold disks. COLD.md is the document; a test compares the two.
//!
//! Must never hold a place of a byte that is not in the document. Invariant: the fields of a table lie back to back.

use crate::field::{Table, wire_table};

wire_table! {
    place = "cold place", 52;
    GROUP = "group", 0, 2;
    DISK = "disk", 2, 2;
    BUCKET = "bucket", 4, 4;
    WINDOW_FROM = "window_from", 8, 8;
    WINDOW_DAYS = "window_days", 16, 4;
    WINDOW_GENERATION = "window_generation", 20, 4;
    TABLET_GROUP = "tablet_group", 24, 2;
    RESERVED = "reserved", 26, 2;
    FILE = "file", 28, 4;
    FILE_GENERATION = "file_generation", 32, 4;
    OFFSET = "offset", 36, 4;
    CONTENT_BYTES = "content_bytes", 40, 4;
    NUMBER = "number", 44, 4;
    SECTION_COUNT = "section_count", 48, 4;
}
wire_table! {
    block = "cold block", 48;
    GROUP = "group", 0, 2;
    DISK = "disk", 2, 2;
    BUCKET = "bucket", 4, 4;
    WINDOW_FROM = "window_from", 8, 8;
    WINDOW_DAYS = "window_days", 16, 4;
    WINDOW_GENERATION = "window_generation", 20, 4;
    FILE = "file", 24, 4;
    FILE_GENERATION = "file_generation", 28, 4;
    OFFSET = "offset", 32, 4;
    BLOCK_OFFSET = "block_offset", 36, 4;
    BLOCK_BYTES = "block_bytes", 40, 4;
    RESERVED = "reserved", 44, 4;
}
wire_table! {
    reserve = "ColdReserve", 4;
    FLAGS = "flags", 0, 1;
    RESERVED = "reserved", 1, 3;
}
wire_table! {
    write = "ColdWrite", 8;
    AT = "at", 0, 4;
    RESERVED = "reserved", 4, 4;
}
wire_table! {
    seal = "ColdSeal", 16;
    CHECKSUM = "checksum", 0, 16;
}
wire_table! {
    get = "ColdGet", 16;
    SPACE = "space", 0, 2;
    STREAM_BYTES = "stream_bytes", 2, 1;
    RESERVED = "reserved", 3, 5;
    TIME = "time", 8, 8;
}
wire_table! {
    scan = "ColdScan", 32;
    SPACE = "space", 0, 2;
    STREAM_BYTES = "stream_bytes", 2, 1;
    FLAGS = "flags", 3, 1;
    RECORD_LIMIT = "record_limit", 4, 4;
    FROM = "from", 8, 8;
    TO = "to", 16, 8;
    BYTE_LIMIT = "byte_limit", 24, 4;
    RESERVED = "reserved", 28, 4;
}
wire_table! {
    list = "ColdList", 16;
    GROUP = "group", 0, 2;
    DISK = "disk", 2, 2;
    FILE = "file", 4, 4;
    OFFSET = "offset", 8, 4;
    LIMIT = "limit", 12, 4;
}
wire_table! {
    reserved = "ColdReserve reply", 4;
    STATE = "state", 0, 1;
    RESERVED = "reserved", 1, 3;
}
wire_table! {
    freed = "ColdFree reply", 8;
    COUNT = "count", 0, 4;
    RESERVED = "reserved", 4, 4;
}
wire_table! {
    listed = "ColdList reply", 16;
    COUNT = "count", 0, 4;
    MORE = "more", 4, 1;
    RESERVED = "reserved", 5, 3;
    FILE = "file", 8, 4;
    OFFSET = "offset", 12, 4;
}
wire_table! {
    item = "ColdList item", 4;
    STATE = "state", 0, 1;
    RESERVED = "reserved", 1, 3;
}
wire_table! {
    index = "ColdIndex reply", 32;
    RECORD_COUNT = "record_count", 0, 4;
    DATA_BYTES = "data_bytes", 4, 4;
    INDEX_BYTES = "index_bytes", 8, 4;
    NUMBER = "number", 12, 4;
    DIGEST = "digest", 16, 16;
}
wire_table! {
    read = "ColdRead reply", 8;
    BLOCK_BYTES = "block_bytes", 0, 4;
    RESERVED = "reserved", 4, 4;
}

wire_table! {
    files = "ColdFiles", 16;
    GROUP = "group", 0, 2;
    DISK = "disk", 2, 2;
    FILE = "file", 4, 4;
    LIMIT = "limit", 8, 4;
    FLAGS = "flags", 12, 1;
    RESERVED = "reserved", 13, 3;
}
wire_table! {
    filled = "ColdFiles reply", 20;
    COUNT = "count", 0, 4;
    MORE = "more", 4, 1;
    STATE = "state", 5, 1;
    RESERVED = "reserved", 6, 2;
    FILE = "file", 8, 4;
    FILE_COUNT = "file_count", 12, 4;
    FILE_BYTES = "file_bytes", 16, 4;
}
wire_table! {
    file = "ColdFiles item", 20;
    FILE = "file", 0, 4;
    GENERATION = "generation", 4, 4;
    HEAD = "head", 8, 4;
    SECTION_COUNT = "section_count", 12, 4;
    FREED_BYTES = "freed_bytes", 16, 2;
    RESERVED_COUNT = "reserved_count", 18, 2;
}
wire_table! {
    run = "ColdFiles run", 12;
    FILE_GENERATION = "file_generation", 0, 4;
    NUMBER = "number", 4, 4;
    SECTION_COUNT = "section_count", 8, 4;
}
wire_table! {
    copy = "ColdCopy", 24;
    GROUP = "group", 0, 2;
    DISK = "disk", 2, 2;
    FILE = "file", 4, 4;
    FILE_GENERATION = "file_generation", 8, 4;
    OFFSET = "offset", 12, 4;
    COUNT = "bytes", 16, 4;
    RESERVED = "reserved", 20, 4;
}
wire_table! {
    copied = "ColdCopy reply", 8;
    COUNT = "bytes", 0, 4;
    RESERVED = "reserved", 4, 4;
}

/// The tables of this file for the test that reads the document.
pub(crate) fn tables() -> [&'static Table; 20] {
    [
        &place::TABLE,
        &block::TABLE,
        &reserve::TABLE,
        &write::TABLE,
        &seal::TABLE,
        &get::TABLE,
        &scan::TABLE,
        &list::TABLE,
        &reserved::TABLE,
        &freed::TABLE,
        &listed::TABLE,
        &item::TABLE,
        &index::TABLE,
        &read::TABLE,
        &files::TABLE,
        &filled::TABLE,
        &file::TABLE,
        &run::TABLE,
        &copy::TABLE,
        &copied::TABLE,
    ]
}
