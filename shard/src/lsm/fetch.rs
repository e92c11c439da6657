//! Life of a get that memory cannot answer: the tables whose filter says maybe, newest first, one block each.

use super::zone::ReadError;
use super::{Reader, Table};
use crate::core::Shard;
use layout::key::Key;
use layout::table_block::Block;
use layout::table_index::BlockHandle;
use layout::table_key::{encode_key, key_hash};
use layout::units::Version;
use net::redirect::Redirect;

/// The newest record that tables have of a key; its value is in `reader.value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) version: Version,
    pub(crate) expiry_us: u64,
    pub(crate) is_tombstone: bool,
}

/// What tables say of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// This is its newest record.
    Record(Fetched),
    /// They have none.
    Absent,
    /// If there is one, it lies there.
    Elsewhere(Redirect),
}

/// Ask the tables listed in `reader` for a key. With `redirect` a block on cold disks that nothing lies beneath is named and not read.
pub(crate) async fn fetch(
    shard: &Shard,
    key: Key<'_>,
    redirect: bool,
    reader: &mut Reader,
) -> Result<Told, ReadError> {
    reader.key.clear();
    encode_key(&mut reader.key, key.bucket(), key);
    let hash = key_hash(&reader.key);
    shard.counters.disk_gets.add(1);
    let tables = std::mem::take(&mut reader.tables);
    let mut found = Ok(Told::Absent);
    let past = if redirect && ioengine::canary("redirect_past_what_is_newer") { tables.len() - 1 } else { 0 };
    for (place, table) in tables.iter().enumerate().skip(past) {
        if table.is_broken() {
            found = Err(ReadError::Broken { table: table.place.id });
            break;
        }
        let Some((block, handle)) = table.block_of(key.time, &reader.key, hash) else { continue };
        if redirect
            && place + 1 == tables.len()
            && shard.state.borrow().tables.cached(table, block).is_none()
            && let Some(elsewhere) = table.redirect(handle)
        {
            ioengine::sometimes!("a get is told where its record lies");
            shard.counters.gets_redirected.add(1);
            found = Ok(Told::Elsewhere(elsewhere));
            break;
        }
        found = ask(shard, table, block, handle, reader).await;
        if !matches!(found, Ok(Told::Absent)) {
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
) -> Result<Told, ReadError> {
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
        return Ok(Told::Absent);
    };
    reader.value.clear();
    reader.value.extend_from_slice(record.value.unwrap_or_default());
    Ok(Told::Record(Fetched {
        version: record.version,
        expiry_us: record.expiry_us,
        is_tombstone: record.value.is_none(),
    }))
}
