//! Life of a get that memory cannot answer: the tables whose filter says maybe, newest first, one block each.

use super::zone::ReadError;
use super::{Reader, Table};
use crate::core::Shard;
use layout::key::Key;
use layout::table_block::Block;
use layout::table_index::BlockHandle;
use layout::table_key::{encode_key, key_hash};
use layout::units::Version;

/// The newest record that tables have of a key; its value is in `reader.value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) version: Version,
    pub(crate) expiry_us: u64,
    pub(crate) is_tombstone: bool,
}

/// Ask the tables listed in `reader` for a key.
pub(crate) async fn fetch(
    shard: &Shard,
    key: Key<'_>,
    reader: &mut Reader,
) -> Result<Option<Fetched>, ReadError> {
    reader.key.clear();
    encode_key(&mut reader.key, key.bucket(), key);
    let hash = key_hash(&reader.key);
    shard.counters.disk_gets.add(1);
    let tables = std::mem::take(&mut reader.tables);
    let mut found = Ok(None);
    for table in &tables {
        if table.is_broken() {
            found = Err(ReadError::Broken { table: table.place.id });
            break;
        }
        let Some((block, handle)) = table.block_of(key.time, &reader.key, hash) else { continue };
        found = ask(shard, table, block, handle, reader).await;
        if !matches!(found, Ok(None)) {
            break;
        }
    }
    // Let go of the tables now: their extents may be waited for.
    reader.tables = tables;
    reader.tables.clear();
    found
}

/// Look for `reader.key` in a block of a table.
async fn ask(
    shard: &Shard,
    table: &Table,
    block: u32,
    handle: BlockHandle,
    reader: &mut Reader,
) -> Result<Option<Fetched>, ReadError> {
    reader.raw.clear();
    let cached =
        shard.state.borrow().tables.cached(table, block).map(|raw| reader.raw.extend_from_slice(raw));
    if cached.is_none() {
        reader.stored.clear();
        table.read_data(handle.offset, handle.stored_bytes as usize, &mut reader.stored).await?;
        table.unpack(handle.offset, &reader.stored, &mut reader.unpack, &mut reader.raw)?;
        shard.state.borrow_mut().tables.keep(table, block, &reader.raw);
    }
    let corrupt = |corrupt| ReadError::Corrupt { table: table.place.id, corrupt };
    let Some(record) = Block::parse(&reader.raw).and_then(|block| block.get(&reader.key)).map_err(corrupt)?
    else {
        ioengine::sometimes!("a filter said maybe, and it was not there");
        return Ok(None);
    };
    reader.value.clear();
    reader.value.extend_from_slice(record.value.unwrap_or_default());
    Ok(Some(Fetched {
        version: record.version,
        expiry_us: record.expiry_us,
        is_tombstone: record.value.is_none(),
    }))
}
