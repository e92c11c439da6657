//! Life of a get that memory cannot answer: the tables whose filter says maybe, newest first, one block each.

use super::zone::ReadError;
use super::{Reader, Table};
use crate::core::Shard;
use layout::key::Key;
use layout::table_block::{Block, Record};
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
        let Some(block) = table.block_of(key.time, &reader.key, hash) else { continue };
        if redirect
            && place + 1 == tables.len()
            && shard.state.borrow().tables.cached(table, block).is_none()
            && let Some(elsewhere) = table.redirect(table.handle(block))
        {
            ioengine::sometimes!("a get is told where its record lies");
            shard.counters.gets_redirected.add(1);
            found = Ok(Told::Elsewhere(elsewhere));
            break;
        }
        found = ask(shard, table, block, hash, reader).await;
        if !matches!(found, Ok(Told::Absent)) {
            break;
        }
    }
    // Let go of the tables now: their extents may be waited for.
    reader.tables = tables;
    reader.tables.clear();
    found
}

/// Look for `reader.key`, of this hash, in a block of a table.
async fn ask(
    shard: &Shard,
    table: &Table,
    block: u32,
    hash: u64,
    reader: &mut Reader,
) -> Result<Told, ReadError> {
    let corrupt = |corrupt| ReadError::Corrupt { table: table.place.id, corrupt };
    if let Some(kept) = shard.state.borrow().tables.cached(table, block) {
        let record = kept.get(&reader.key, hash).map_err(corrupt)?;
        return Ok(taken(record, &mut reader.value));
    }
    let handle = table.handle(block);
    reader.stored.clear();
    table.read_data(handle.offset, handle.stored_bytes as usize, &mut reader.stored).await?;
    reader.raw.clear();
    table.unpack(handle.offset, &reader.stored, &mut reader.unpack, &mut reader.raw)?;
    shard.state.borrow_mut().tables.keep(table, block, &reader.raw);
    let record = Block::parse(&reader.raw).and_then(|block| block.get(&reader.key)).map_err(corrupt)?;
    Ok(taken(record, &mut reader.value))
}

/// A record, its value in `out`.
fn taken(record: Option<Record<'_>>, out: &mut Vec<u8>) -> Told {
    let Some(Record { version, expiry_us, value }) = record else {
        ioengine::sometimes!("a filter said maybe, and it was not there");
        return Told::Absent;
    };
    out.clear();
    out.extend_from_slice(value.unwrap_or_default());
    Told::Record(Fetched { version, expiry_us, is_tombstone: value.is_none() })
}
