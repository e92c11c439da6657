//! From a sealed table to the sections that go to cold disks, and the sunk table that stays.
//!
//! Owns the way through the sealed table's records. Must never depend on how they lie in its blocks. Invariant: the same records, sink and
//! links give the same bytes at whoever makes them, if the compressor is of the same build.

use crate::core::Shard;
use crate::lsm::{MergeError, Table, TableCursor};
use layout::cold_section::{MadeSection, SectionWriter};
use layout::table::TableSummary;
use layout::table_seal::{Decompressor, TableIdentity};
use layout::table_sections::bucket_of_key;
use layout::table_sunk::{SunkWriter, section_identity};
use layout::tablet_sink::{ColdLink, TabletSink};
use layout::units::{BucketIndex, TabletIndex};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Records between two looks at other work, and bytes of them: what one block of a section takes to compress is a millisecond.
const STEP_COUNT: u32 = 256;
const STEP_BYTES: usize = 16 << 10;
/// Bytes of the sealed table that are read at once.
const WINDOW_BYTES: u64 = 256 << 10;

/// A section that was made, by its place among those of the table.
pub(super) type Numbered = (usize, MadeSection);

/// Makes one section after another.
pub(super) struct Maker {
    identity: TableIdentity,
    sink: TabletSink,
    cursor: TableCursor,
    is_begun: bool,
    unpack: Decompressor,
    writer: SunkWriter,
}

impl Maker {
    /// Of a sealed table whose records can be read.
    pub(super) fn new(
        shard: &Shard,
        tablet: TabletIndex,
        table: &Rc<Table>,
        sink: &TabletSink,
    ) -> Result<Maker, MergeError> {
        let window = table.window().expect("only sealed tables are sunk");
        let identity = shard.keeper.owner.sunk(tablet, window);
        Ok(Maker {
            identity,
            sink: *sink,
            cursor: TableCursor::new(Rc::clone(table), WINDOW_BYTES)?,
            is_begun: false,
            unpack: Decompressor::new(),
            writer: SunkWriter::new(identity, sink.generation, i32::from(sink.level)),
        })
    }

    /// The next section, buckets ascending.
    pub(super) async fn next(&mut self) -> Result<Option<Numbered>, MergeError> {
        if !std::mem::replace(&mut self.is_begun, true) {
            self.cursor.seek_first(&mut self.unpack).await?;
        }
        let mut open: Option<(BucketIndex, SectionWriter)> = None;
        let (mut count, mut bytes) = (0, 0);
        while let Some(entry) = self.cursor.entry()? {
            let bucket = bucket_of_key(entry.key).expect("the keys of a table are encoded");
            if open.as_ref().is_some_and(|(open, _)| *open != bucket) {
                break;
            }
            let (generation, level) = (self.sink.generation, i32::from(self.sink.level));
            let (_, section) = open.get_or_insert_with(|| {
                let identity = section_identity(&self.identity, generation, bucket)
                    .expect("only windows of whole days are sunk");
                (bucket, SectionWriter::new(identity, level))
            });
            let record = &entry.record;
            section.push(entry.key, record.version, record.expiry_us, record.value);
            self.writer.record(entry.key, record.version, record.expiry_us, record.value);
            count += 1;
            bytes += entry.key.len() + record.value.map_or(0, <[u8]>::len);
            self.cursor.next(&mut self.unpack).await?;
            if count >= STEP_COUNT || bytes >= STEP_BYTES {
                (count, bytes) = (0, 0);
                ioengine::sync::yield_now().await;
            }
        }
        let made = open.map(|(_, section)| section.finish());
        Ok(made.map(|made| (self.writer.section(&made), made)))
    }

    /// These sections stand there.
    pub(super) fn link(&mut self, sections: &[usize], link: ColdLink) {
        self.writer.link(sections, link);
    }

    /// Links so far.
    pub(super) fn links(&self) -> &[ColdLink] {
        self.writer.links()
    }

    /// The sunk table, once all sections are made and linked.
    pub(super) async fn finish(mut self) -> (Vec<u8>, TableSummary, TableIdentity) {
        while self.writer.step() {
            ioengine::sync::yield_now().await;
        }
        let (bytes, summary) = self.writer.finish();
        (bytes, summary, self.identity)
    }
}

/// Make the sunk table of links that are known, without writing any section; `None` when they do not fit the records.
pub(super) async fn rebuild(
    shard: &Shard,
    tablet: TabletIndex,
    table: &Rc<Table>,
    sink: &TabletSink,
    links: &[ColdLink],
) -> Result<Option<(Vec<u8>, TableSummary, TableIdentity)>, MergeError> {
    let Some(cold) = &shard.cold else { return Ok(None) };
    let mut maker = Maker::new(shard, tablet, table, sink)?;
    // A disk's links come in the order of its sections.
    let mut of_disk: BTreeMap<u16, Vec<(usize, u64)>> = BTreeMap::new();
    while let Some((number, made)) = maker.next().await? {
        of_disk.entry(cold.disk_of(made.identity.bucket)).or_default().push((number, made.bytes()));
    }
    for link in links {
        let Some(sections) = of_disk.get_mut(&link.disk) else { return Ok(None) };
        let count = link.section_count as usize;
        if sections.len() < count {
            return Ok(None);
        }
        let own: Vec<(usize, u64)> = sections.drain(..count).collect();
        if own.iter().map(|(_, bytes)| bytes).sum::<u64>() != u64::from(link.content_bytes) {
            return Ok(None);
        }
        let numbers: Vec<usize> = own.into_iter().map(|(number, _)| number).collect();
        maker.link(&numbers, *link);
    }
    if of_disk.values().any(|sections| !sections.is_empty()) {
        return Ok(None);
    }
    Ok(Some(maker.finish().await))
}
