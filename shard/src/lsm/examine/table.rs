//! One table: its footer, index, filter, sections and dictionary, every block, and what they say of each other. Reads only.

use super::super::names::NamedTable;
use super::super::open::Ground;
use super::super::zone::{ReadError, Zone};
use super::{Examined, FINDINGS_MAX, Finding, Grade, fit, title};
use layout::Corrupt;
use layout::inspect_table::{block_fault, footer as footer_text};
use layout::manifest::ExtentRange;
use layout::table::{
    BlockChecksum, BlockHandle, BlockKind, ContentChecksum, Decompressor, Dictionary, FOOTER_BYTES, Filter,
    Footer, Index, Sections, TableIdentity, open_block, open_dictionary, open_filter, open_index,
    open_sections,
};
use layout::table_check::{TableCheck, compare_facts};
use layout::table_sunk::{SunkSections, open_sunk_sections};
use layout::units::{DiskOffset, TableId};

/// Bytes read at once.
const WINDOW_BYTES: u64 = 512 << 10;

/// A table's bytes, read from front to back.
struct Window<'a> {
    zone: &'a Zone,
    table: TableId,
    ranges: &'a [ExtentRange],
    table_bytes: u64,
    from: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// Bytes of the table, which lie within it.
    async fn get(&mut self, offset: u64, bytes: u64) -> Result<&[u8], ReadError> {
        let end = self.from + self.bytes.len() as u64;
        if offset < self.from || offset + bytes > end {
            let most = WINDOW_BYTES.max(bytes).min(self.table_bytes - offset);
            // All at once; if the device cannot read something in it, what is wanted alone.
            for wanted in [most, bytes] {
                self.bytes.clear();
                self.from = offset;
                let wanted =
                    usize::try_from(wanted).expect("a window, or a part of a table that was checked");
                let read = self.zone.read(self.table, self.ranges, offset, wanted, &mut self.bytes).await;
                match read {
                    Ok(()) => break,
                    Err(error) if wanted as u64 == bytes => {
                        self.bytes.clear();
                        return Err(error);
                    }
                    Err(_) => {}
                }
            }
        }
        let at = (offset - self.from) as usize;
        Ok(&self.bytes[at..at + bytes as usize])
    }
}

/// Check a table that the manifest names.
pub(super) async fn examine(examined: &mut Examined, zone: &Zone, ground: &Ground, named: &NamedTable) {
    let facts = &named.facts;
    let part = title(facts.table, facts.tablet);
    examined.coverage.table_count += 1;
    examined.coverage.bytes_in_use += facts.bytes;
    if !fit(examined, &part, zone, &named.ranges, facts.bytes) {
        return;
    }
    let identity = ground.owner.named(facts);
    let window = Window {
        zone,
        table: facts.table,
        ranges: &named.ranges,
        table_bytes: facts.bytes,
        from: 0,
        bytes: Vec::new(),
    };
    let mut pass = Pass {
        named,
        checksum: BlockChecksum::new(&identity),
        identity,
        window,
        unpack: Decompressor::new(),
        dictionary: None,
        sunk: None,
        content: ContentChecksum::new(),
        hole: false,
        read_bytes: 0,
        block_count: 0,
        record_count: 0,
        found: Vec::new(),
        more: 0,
    };
    pass.run().await;
    examined.sunk.extend(pass.sunk.take());
    examined.coverage.bytes_read += pass.read_bytes;
    examined.coverage.block_count += pass.block_count;
    examined.coverage.record_count += pass.record_count;
    if pass.more > 0 {
        let what = format!("and {} more like these", pass.more);
        pass.found.push((what, None));
    }
    let findings = pass.found.into_iter().map(|(what, offset)| {
        let at = offset.and_then(|offset| zone.place(&named.ranges, offset)).map(|(at, _)| DiskOffset(at));
        Finding { grade: Grade::Damage, part: part.clone(), what, at }
    });
    examined.findings.extend(findings);
}

/// One way through a table.
struct Pass<'a> {
    named: &'a NamedTable,
    identity: TableIdentity,
    checksum: BlockChecksum,
    window: Window<'a>,
    unpack: Decompressor,
    /// Of the table, when it has one that can be read.
    dictionary: Option<Dictionary>,
    /// Where its sections stand, when it is a sunk one.
    sunk: Option<SunkSections>,
    /// Of everything up to here, unless something could not be read.
    content: ContentChecksum,
    hole: bool,
    read_bytes: u64,
    block_count: u64,
    record_count: u64,
    /// What is wrong, and where in the table.
    found: Vec<(String, Option<u64>)>,
    more: u64,
}

impl Pass<'_> {
    fn wrong(&mut self, offset: u64, what: String) {
        if self.found.len() < FINDINGS_MAX {
            self.found.push((what, Some(offset)));
        } else {
            self.more += 1;
        }
    }

    async fn run(&mut self) {
        let footer = self.footer().await;
        let (mut filter, mut index, mut sections) = (None, None, None);
        if let Some(footer) = &footer {
            sections = self.sections(footer).await;
            self.dictionary = self.dictionary(footer).await;
            filter = self.filter(footer).await;
            index = self.index(footer).await;
            for disagreement in compare_facts(&self.named.facts, footer) {
                self.wrong(disagreement.at, disagreement.to_string());
            }
        }
        let end = match (&footer, &index) {
            // Its blocks are on cold disks; whether these are whole, they say themselves.
            (Some(footer), _) if footer.is_sunk => 0,
            (Some(footer), Some(index)) => {
                let check = TableCheck::new(Some(self.named.facts.tablet), footer, index, filter.as_ref());
                self.blocks(footer, index, check.with_sections(sections.as_ref())).await
            }
            _ => 0,
        };
        self.rest(end, footer.as_ref()).await;
    }

    /// The footer, by the manifest's word for where it stands.
    async fn footer(&mut self) -> Option<Footer> {
        let bytes = self.named.facts.bytes;
        let Some(at) = bytes.checked_sub(FOOTER_BYTES as u64) else {
            self.wrong(0, format!("footer: {bytes} bytes are too few for one"));
            return None;
        };
        let stored: [u8; FOOTER_BYTES] = match self.window.get(at, FOOTER_BYTES as u64).await {
            Ok(stored) => stored.try_into().expect("a footer's bytes"),
            Err(error) => {
                self.wrong(at, format!("footer: {error}"));
                return None;
            }
        };
        if let Ok(footer) = Footer::decode(&self.identity, bytes, &stored) {
            return Some(footer);
        }
        let lines = footer_text(&self.identity, bytes, &stored);
        for line in lines.iter().filter(|line| line.wrong.is_some()) {
            self.wrong(
                line.at,
                format!("footer: field {} is not what it can be here: {}", line.name, line.value),
            );
        }
        None
    }

    async fn filter(&mut self, footer: &Footer) -> Option<Filter> {
        let (at, bytes) = (footer.filter_offset(), footer.filter_bytes);
        let opened = match self.window.get(at, bytes).await {
            Ok(part) => open_filter(&self.checksum, footer, part, &mut self.unpack)
                .map_err(|corrupt| fault(&self.checksum, at, part, &corrupt)),
            Err(error) => Err(error.to_string()),
        };
        opened.map_err(|what| self.wrong(at, format!("filter: {what}"))).ok()
    }

    async fn index(&mut self, footer: &Footer) -> Option<Index> {
        let (at, bytes) = (footer.index_offset(), footer.index_bytes);
        let opened = match self.window.get(at, bytes).await {
            Ok(part) => open_index(&self.checksum, footer, part, &mut self.unpack)
                .map_err(|corrupt| fault(&self.checksum, at, part, &corrupt)),
            Err(error) => Err(error.to_string()),
        };
        opened.map_err(|what| self.wrong(at, format!("index: {what}"))).ok()
    }

    async fn sections(&mut self, footer: &Footer) -> Option<Sections> {
        let (at, bytes) = (footer.sections_offset(), footer.sections_bytes);
        let opened = match self.window.get(at, bytes).await {
            Ok(part) if footer.is_sunk => open_sunk_sections(&self.checksum, footer, part, &mut self.unpack)
                .map(|sunk| {
                    self.sunk = Some(sunk);
                    None
                })
                .map_err(|corrupt| fault(&self.checksum, at, part, &corrupt)),
            Ok(part) => open_sections(&self.checksum, footer, part, &mut self.unpack)
                .map_err(|corrupt| fault(&self.checksum, at, part, &corrupt)),
            Err(error) => Err(error.to_string()),
        };
        opened.map_err(|what| self.wrong(at, format!("sections: {what}"))).ok().flatten()
    }

    async fn dictionary(&mut self, footer: &Footer) -> Option<Dictionary> {
        let (at, bytes) = (footer.dictionary_offset(), footer.dictionary_bytes);
        let opened = match self.window.get(at, bytes).await {
            Ok(part) => open_dictionary(&self.checksum, footer, part, &mut self.unpack)
                .map_err(|corrupt| fault(&self.checksum, at, part, &corrupt)),
            Err(error) => Err(error.to_string()),
        };
        opened.map_err(|what| self.wrong(at, format!("dictionary: {what}"))).ok().flatten()
    }

    /// Every data block, and the zeros between them. Answers where they end.
    async fn blocks(&mut self, footer: &Footer, index: &Index, mut check: TableCheck<'_>) -> u64 {
        let mut raw = Vec::new();
        let mut end = 0;
        for number in 0..index.block_count() {
            let handle = index.handle(number).expect("a block below the count");
            self.padding(end, handle.offset, u64::from(footer.extent_bytes)).await;
            if self.block(number, handle, &mut raw).await {
                self.block_count += 1;
                check.block(number, handle, &raw);
            } else {
                check.skip();
            }
            end = handle.end();
        }
        self.record_count += check.record_count();
        for disagreement in check.finish() {
            self.wrong(disagreement.at, disagreement.to_string());
        }
        end
    }

    async fn block(&mut self, number: u32, handle: BlockHandle, raw: &mut Vec<u8>) -> bool {
        let at = handle.offset;
        let what = match self.window.get(at, u64::from(handle.stored_bytes)).await {
            Ok(stored) => {
                self.content.add(stored);
                self.read_bytes += stored.len() as u64;
                let (checksum, dictionary) = (&self.checksum, self.dictionary.as_ref());
                match open_block(checksum, at, BlockKind::Data, stored, dictionary, &mut self.unpack, raw) {
                    Ok(()) => return true,
                    Err(corrupt) => fault(&self.checksum, at, stored, &corrupt),
                }
            }
            Err(error) => {
                self.hole = true;
                error.to_string()
            }
        };
        self.wrong(at, format!("block {number}, {} records: {what}", handle.record_count));
        false
    }

    /// What fills up an extent.
    async fn padding(&mut self, from: u64, to: u64, extent: u64) {
        if from == to {
            return;
        }
        if to - from >= extent || !to.is_multiple_of(extent) {
            self.wrong(from, format!("index: {} bytes between two blocks belong to none", to - from));
        }
        if !self.add(from, to).await {
            self.wrong(from, "padding: expected zeros, found others".to_owned());
        }
    }

    /// Add what stands between two places to the sum of the whole. Is it all zero?
    async fn add(&mut self, from: u64, to: u64) -> bool {
        let mut at = from;
        let mut zero = true;
        while at < to {
            let count = (to - at).min(WINDOW_BYTES);
            match self.window.get(at, count).await {
                Ok(bytes) => {
                    self.content.add(bytes);
                    self.read_bytes += count;
                    zero &= bytes.iter().all(|byte| *byte == 0);
                }
                Err(error) => {
                    if !self.hole {
                        self.wrong(at, error.to_string());
                    }
                    self.hole = true;
                }
            }
            at += count;
        }
        zero
    }

    /// What stands behind `from`, and the checksums of the whole.
    async fn rest(&mut self, from: u64, footer: Option<&Footer>) {
        let facts = self.named.facts;
        let footer_at = facts.bytes.saturating_sub(FOOTER_BYTES as u64).max(from);
        self.add(from, footer_at).await;
        let content = self.content.finish();
        self.add(footer_at, facts.bytes).await;
        if self.hole {
            return;
        }
        let whole = self.content.finish();
        // A part that is wrong was named, and with it why the sums are.
        let explained = !self.found.is_empty();
        if let Some(footer) = footer.filter(|footer| footer.content_checksum != content && !explained) {
            let said = footer.content_checksum;
            self.wrong(0, format!("checksum of the content: expected {said:032x}, found {content:032x}"));
        }
        if facts.checksum != whole && !explained {
            let said = facts.checksum;
            self.wrong(
                0,
                format!("checksum of the table: expected {said:032x} by the manifest, found {whole:032x}"),
            );
        }
    }
}

/// What is wrong with a stored part: its sum, or what else.
fn fault(checksum: &BlockChecksum, at: u64, stored: &[u8], corrupt: &Corrupt) -> String {
    format!("{} ({corrupt})", block_fault(checksum, at, stored, corrupt))
}
