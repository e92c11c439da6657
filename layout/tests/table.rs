//! Tables as a whole, against a map: what is written is found, nothing else, in order both ways; damage is seen.

use std::collections::BTreeMap;

use layout::key::Key;
use layout::table::{
    Block, BlockChecksum, BlockEntry, BlockKind, Compressor, ContentChecksum, Cursor, Decompressor,
    Dictionary, FOOTER_BYTES, Filter, Footer, Index, Record, SectionReader, Sections, TableIdentity,
    TableOptions, TableSummary, TableWriter, encode_key, key_hash, open_block, open_dictionary, open_filter,
    open_index, open_sections,
};
use layout::table_check::TableCheck;
use layout::units::{BucketIndex, ShardIndex, Space, TableId, TabletIndex, Uuid, VALUE_BYTES_MAX, Version};
use proptest::prelude::*;

type Kept = (u64, u64, Option<Vec<u8>>);
type Model = BTreeMap<Vec<u8>, Kept>;

fn tablet() -> TabletIndex {
    TabletIndex::new(9).expect("below 64")
}

fn run(table: u64) -> TableIdentity {
    let device = Uuid([7; 16]);
    TableIdentity::Run {
        device,
        shard: ShardIndex(1),
        generation: 2,
        tablet: tablet(),
        table: TableId(table),
    }
}

fn sealed(window_generation: u32) -> TableIdentity {
    let cluster = Uuid([9; 16]);
    TableIdentity::Sealed { cluster, tablet: tablet(), window_from: 10, window_to: 20, window_generation }
}

const OPTIONS: TableOptions<'_> = TableOptions {
    block_bytes: 512,
    level: Some(1),
    extent_bytes: 1 << 14,
    dictionary: None,
    dictionary_bytes_max: 0,
};

fn write(identity: TableIdentity, options: TableOptions<'_>, model: &Model) -> (Vec<u8>, TableSummary) {
    let mut writer = TableWriter::new(identity, options, Compressor::new());
    let mut bytes = Vec::new();
    for (key, (version, expiry, value)) in model {
        writer.push(key, Version(*version), *expiry, value.as_deref());
        // As it comes: now a part, now all of it.
        while writer.work() && version % 3 > 0 {}
        // As a device takes it: whole sectors, the rest later.
        let whole = writer.pending().len() / 512 * 512;
        bytes.extend_from_slice(&writer.pending()[..whole]);
        writer.consume(whole);
    }
    let summary = writer.finish();
    bytes.extend_from_slice(writer.pending());
    assert_eq!(bytes.len() as u64, summary.bytes);
    (bytes, summary)
}

/// A table that is open, with all of its bytes in memory.
struct Open<'a> {
    bytes: &'a [u8],
    checksum: BlockChecksum,
    footer: Footer,
    index: Index,
    filter: Filter,
    sections: Option<Sections>,
    dictionary: Option<Dictionary>,
    decompressor: Decompressor,
}

impl<'a> Open<'a> {
    fn new(identity: TableIdentity, bytes: &'a [u8]) -> Result<Open<'a>, layout::Corrupt> {
        let footer_bytes = bytes.last_chunk::<FOOTER_BYTES>().expect("a table ends with its footer");
        let footer = Footer::decode(&identity, bytes.len() as u64, footer_bytes)?;
        let part = |offset: u64, length: u64| &bytes[offset as usize..(offset + length) as usize];
        let checksum = BlockChecksum::new(&identity);
        let mut decompressor = Decompressor::new();
        let section = part(footer.dictionary_offset(), footer.dictionary_bytes);
        let dictionary = open_dictionary(&checksum, &footer, section, &mut decompressor)?;
        let section = part(footer.index_offset(), footer.index_bytes);
        let index = open_index(&checksum, &footer, section, &mut decompressor)?;
        let section = part(footer.filter_offset(), footer.filter_bytes);
        let filter = open_filter(&checksum, &footer, section, &mut decompressor)?;
        let section = part(footer.sections_offset(), footer.sections_bytes);
        let sections = open_sections(&checksum, &footer, section, &mut decompressor)?;
        Ok(Open { bytes, checksum, footer, index, filter, sections, dictionary, decompressor })
    }

    fn block(&mut self, number: u32) -> Result<Vec<u8>, layout::Corrupt> {
        let handle = self.index.handle(number).expect("a block of the index");
        let stored = &self.bytes[handle.offset as usize..handle.end() as usize];
        let mut raw = Vec::new();
        let (checksum, dictionary) = (&self.checksum, self.dictionary.as_ref());
        let (kind, decompressor) = (BlockKind::Data, &mut self.decompressor);
        open_block(checksum, handle.offset, kind, stored, dictionary, decompressor, &mut raw)?;
        assert_eq!(Block::parse(&raw)?.entry_count(), handle.record_count as usize);
        Ok(raw)
    }

    /// As a get does it: filter, index, one block.
    fn get(&mut self, key: &[u8]) -> Option<Kept> {
        if !self.filter.contains(key_hash(key)) {
            return None;
        }
        let (number, _) = self.index.find(key)?;
        let raw = self.block(number).expect("a whole table");
        let record = Block::parse(&raw).expect("a block").get(key).expect("a whole block")?;
        Some(kept(&record))
    }

    /// All records, section by section.
    fn by_sections(&mut self) -> Result<Model, layout::Corrupt> {
        let mut model = Model::new();
        let sections: Vec<_> = self.sections.iter().flat_map(Sections::iter).collect();
        for section in sections {
            let mut reader = SectionReader::new(section);
            while let Some(number) = reader.wanted() {
                let raw = self.block(number)?;
                let each = |entry: &BlockEntry<'_>| {
                    model.insert(entry.key.to_vec(), kept(&entry.record));
                };
                reader.block(&Block::parse(&raw)?, each)?;
            }
            reader.finish()?;
        }
        Ok(model)
    }

    /// What a checker says.
    fn check(&mut self) -> Result<Vec<String>, layout::Corrupt> {
        let (footer, index, filter) = (self.footer, self.index.clone(), self.filter.clone());
        let sections = self.sections.clone();
        let mut check =
            TableCheck::new(None, &footer, &index, Some(&filter)).with_sections(sections.as_ref());
        for number in 0..index.block_count() {
            check.block(number, index.handle(number).expect("a block of the index"), &self.block(number)?);
        }
        Ok(check.finish().iter().map(ToString::to_string).collect())
    }

    fn all(&mut self) -> Result<Model, layout::Corrupt> {
        let mut model = Model::new();
        let mut cursor = Cursor::new();
        for number in 0..self.index.block_count() {
            let raw = self.block(number)?;
            let block = Block::parse(&raw)?;
            block.check()?;
            let mut found = cursor.seek_first(&block)?;
            while found {
                let entry = cursor.entry(&block)?.expect("at an entry");
                model.insert(entry.key.to_vec(), kept(&entry.record));
                found = cursor.next(&block)?;
            }
        }
        Ok(model)
    }
}

fn kept(record: &Record<'_>) -> Kept {
    (record.version.0, record.expiry_us, record.value.map(<[u8]>::to_vec))
}

fn encoded(bucket: u32, stream: &[u8], time: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let bucket = BucketIndex::new(bucket).expect("below 2^17");
    encode_key(&mut out, bucket, Key::new(Space(1), stream, time).expect("a valid stream"));
    out
}

/// Records of some streams, at many times, every third a tombstone or with an expiry.
fn example(count: u64) -> Model {
    (0..count)
        .map(|number| {
            let stream = format!("sensor-{}", number % 7);
            let key = encoded((number % 7) as u32 * 64 + 9, stream.as_bytes(), 1_000_000 + number * 1000);
            let value = format!("{{\"reading\": {}, \"unit\": \"celsius\"}}", number * 37 % 1000);
            let kept = match number % 9 {
                3 => ((5 + number) << 16, 0, None),
                4 => ((5 + number) << 16, 77 + number, Some(value.into_bytes())),
                _ => ((5 + number) << 16 | 3, 0, Some(value.into_bytes())),
            };
            (key, kept)
        })
        .collect()
}

fn models() -> impl Strategy<Value = Model> {
    let byte = prop_oneof![Just(0u8), Just(0xff), Just(b'a')];
    let key = (0u32..4, prop::collection::vec(byte, 1..5), 0u64..5)
        .prop_map(|(bucket, stream, time)| encoded(bucket, &stream, time));
    let length = prop_oneof![9 => 0usize..60, 1 => 400usize..3000];
    let value = prop::option::of((any::<u8>(), length).prop_map(|(byte, length)| vec![byte; length]));
    let kept = (1u64..1 << 40, 0u64..3, value)
        .prop_map(|(version, expiry, value)| (version, if value.is_some() { expiry } else { 0 }, value));
    prop::collection::btree_map(key, kept, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_table_answers_like_a_map(
        model in models(), block_bytes in prop_oneof![Just(1u32), Just(300), Just(4096)],
        level in prop::option::of(1i32..4), extent_bytes in prop_oneof![Just(256u32), Just(1024), Just(1 << 18)],
        with_dictionary: bool, dictionary_bytes_max in prop_oneof![Just(0u32), Just(300), Just(4000)],
        absent in prop::collection::vec((0u32..5, 0u64..9), 30),
    ) {
        let dictionary = with_dictionary.then_some(&b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..]);
        let options = TableOptions { block_bytes, level, extent_bytes, dictionary, dictionary_bytes_max };
        let (bytes, summary) = write(run(3), options, &model);
        let again = write(run(3), options, &model);
        prop_assert!(again == (bytes.clone(), summary), "the same input gives the same bytes");
        let mut open = Open::new(run(3), &bytes).expect("a whole table");
        prop_assert_eq!(open.footer, summary.footer);
        for (key, kept) in &model {
            prop_assert_eq!(open.get(key), Some(kept.clone()));
        }
        for (bucket, time) in absent {
            let key = encoded(bucket, b"aa", time);
            prop_assert_eq!(open.get(&key), model.get(&key).cloned());
        }
        prop_assert_eq!(open.all().expect("a whole table"), model.clone());
        prop_assert_eq!(open.check().expect("a whole table"), Vec::<String>::new());
        // The same records sealed: their sections hold all of them, and are found by their buckets.
        let (sealed_bytes, _) = write(sealed(1), options, &model);
        let mut whole = Open::new(sealed(1), &sealed_bytes).expect("a whole table");
        prop_assert_eq!(whole.by_sections().expect("a whole table"), model.clone());
        prop_assert_eq!(whole.check().expect("a whole table"), Vec::<String>::new());
        let digests = |open: &Open<'_>| -> Vec<_> {
            let sections = open.sections.iter().flat_map(Sections::iter);
            sections.map(|section| (section.bucket, section.record_count, section.digest)).collect()
        };
        let (other_bytes, _) = write(sealed(2), TableOptions { block_bytes: 999, ..OPTIONS }, &model);
        let other = Open::new(sealed(2), &other_bytes).expect("a whole table");
        prop_assert_eq!(digests(&whole), digests(&other), "whatever the blocks and the generation");
        prop_assert_eq!(open.index.first_key(), &model.first_key_value().expect("a record").0[..]);
        prop_assert_eq!(open.index.last_key(), &model.last_key_value().expect("a record").0[..]);
        let extent = u64::from(extent_bytes);
        for number in 0..open.index.block_count() {
            let handle = open.index.handle(number).expect("a block");
            let one = handle.offset / extent == (handle.end() - 1) / extent;
            prop_assert!(one || u64::from(handle.stored_bytes) > extent, "a block lies in one extent");
        }
        let footer = summary.footer;
        prop_assert_eq!(footer.record_count as usize, model.len());
        let count = |filter: fn(&Kept) -> bool| model.values().filter(|kept| filter(kept)).count() as u64;
        prop_assert_eq!(footer.tombstone_count, count(|kept| kept.2.is_none()));
        prop_assert_eq!(footer.expiring_count, count(|kept| kept.1 > 0));
        let indexes = || model.values().map(|kept| kept.0 >> 16);
        prop_assert_eq!(Some(footer.log_index_min.0), indexes().min());
        prop_assert_eq!(Some(footer.log_index_max.0), indexes().max());
        let times = || model.keys().map(|key| u64::from_be_bytes(*key.last_chunk().expect("a time")));
        prop_assert_eq!((Some(footer.time_min), Some(footer.time_max)), (times().min(), times().max()));
        let expiries = || model.values().map(|kept| kept.1).filter(|expiry| *expiry > 0);
        prop_assert_eq!(footer.expiry_min, expiries().min().unwrap_or(0));
        prop_assert_eq!(footer.expiry_max, expiries().max().unwrap_or(0));
    }
}

/// Everything that a reader and a checker look at.
fn read_all(identity: TableIdentity, bytes: &[u8]) -> Result<Model, layout::Corrupt> {
    let mut open = Open::new(identity, bytes)?;
    if open.sections.is_some() {
        assert_eq!(open.by_sections()?, open.all()?);
    }
    open.all()
}

/// A table that makes its own dictionary: the same bytes whenever its steps are done, smaller than without.
#[test]
fn a_dictionary_is_made_when_it_pays() {
    let model = example(9000);
    let options = TableOptions { block_bytes: 1000, dictionary_bytes_max: 2048, ..OPTIONS };
    let (bytes, summary) = write(sealed(1), options, &model);
    let (plain, _) = write(sealed(1), TableOptions { dictionary_bytes_max: 0, ..options }, &model);
    assert!((100..2100).contains(&summary.footer.dictionary_bytes), "{}", summary.footer.dictionary_bytes);
    assert!(bytes.len() < plain.len() / 10 * 9, "{} and {}", bytes.len(), plain.len());
    let mut writer = TableWriter::new(sealed(1), options, Compressor::new());
    for (key, (version, expiry, value)) in &model {
        writer.push(key, Version(*version), *expiry, value.as_deref());
    }
    assert!(writer.has_work() && writer.memory_bytes() > 16 * 2048);
    assert!(writer.pending().is_empty(), "nothing is written before it is decided");
    let same = writer.finish();
    assert!(writer.pending() == bytes && same == summary, "steps change nothing");
    let mut open = Open::new(sealed(1), &bytes).expect("a whole table");
    assert!(open.dictionary.as_ref().is_some_and(|dictionary| dictionary.memory_bytes() > 256));
    assert_eq!(open.all().expect("a whole table"), model);
    assert_eq!(open.by_sections().expect("a whole table"), model);
    // Other records behind the sample: the same dictionary.
    let mut longer = model.clone();
    longer.insert(encoded(131_017, b"behind", 1), (1 << 16, 0, Some(b"all the others".to_vec())));
    let (longer_bytes, longer_summary) = write(sealed(1), options, &longer);
    let dictionary = |bytes: &[u8], footer: &Footer| {
        let from = footer.dictionary_offset() as usize + 16;
        bytes[from..from + footer.dictionary_bytes as usize - 16].to_vec()
    };
    assert_eq!(dictionary(&bytes, &summary.footer), dictionary(&longer_bytes, &longer_summary.footer));
}

#[test]
fn no_dictionary_is_made_when_it_does_not_pay() {
    let options = TableOptions { block_bytes: 1000, dictionary_bytes_max: 2048, ..OPTIONS };
    let mut noise = example(3000);
    let mut state = 7u64;
    for kept in noise.values_mut() {
        kept.2 = Some(
            (0..60)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 40) as u8
                })
                .collect(),
        );
    }
    // Values of noise, few records, and no compression.
    for (model, options) in
        [(noise, options), (example(20), options), (example(9000), TableOptions { level: None, ..options })]
    {
        let (bytes, summary) = write(sealed(1), options, &model);
        assert_eq!(summary.footer.dictionary_bytes, 0);
        assert!(bytes == write(sealed(1), TableOptions { dictionary_bytes_max: 0, ..options }, &model).0);
    }
}

/// A dictionary that is not the table's gives an error, and not other bytes: zstd alone would not notice.
#[test]
fn a_block_is_refused_with_another_dictionary() {
    let model = example(400);
    let dictionary = b"{\"reading\": 100, \"unit\": \"celsius\"}sensor-";
    let options = TableOptions { dictionary: Some(dictionary), block_bytes: 900, ..OPTIONS };
    let (bytes, _) = write(sealed(1), options, &model);
    let mut other = dictionary.to_vec();
    other[12] ^= 3;
    let mut open = Open::new(sealed(1), &bytes).expect("a whole table");
    for (dictionary, field) in [(Dictionary::new(&other), "dictionary"), (None, "codec")] {
        open.dictionary = dictionary;
        let refused =
            (0..open.index.block_count()).map(|number| open.block(number).expect_err("a block").field);
        assert!(refused.into_iter().all(|refused| refused == field));
    }
    open.dictionary = Dictionary::new(dictionary);
    assert_eq!(open.all().expect("a whole table"), model);
}

/// Pieces of a table that belong to another: every check on its own passes, together they do not.
#[test]
fn sections_of_other_records_are_named() {
    let model = example(120);
    let mut other = model.clone();
    let at = model.keys().nth(60).expect("one of 120").clone();
    other.get_mut(&at).expect("one of 120").0 += 1;
    let (bytes, _) = write(sealed(1), OPTIONS, &model);
    let (other_bytes, _) = write(sealed(1), OPTIONS, &other);
    let mut open = Open::new(sealed(1), &bytes).expect("a whole table");
    open.sections = Open::new(sealed(1), &other_bytes).expect("a whole table").sections;
    let found = open.check().expect("a whole table");
    assert!(found.len() == 1 && found[0].starts_with("section: expected bucket"), "{found:?}");
    assert_eq!(open.by_sections().expect_err("others").field, "digest");
}

/// A flipped bit anywhere is found by who reads that part, or lies in padding, where only the checksum of the
/// whole table sees it.
#[test]
fn every_damaged_byte_is_found_or_harmless() {
    let model = example(120);
    let dictionary = b"{\"reading\": 100, \"unit\": \"celsius\"}sensor-";
    for (identity, dictionary) in [(run(5), None), (sealed(1), Some(&dictionary[..]))] {
        let options = TableOptions { extent_bytes: 1024, block_bytes: 700, dictionary, ..OPTIONS };
        let (bytes, summary) = write(identity, options, &model);
        let mut harmless = 0;
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1 << (index % 8);
            if let Ok(found) = read_all(identity, &damaged) {
                assert_eq!(found, model, "byte {index}");
                assert_eq!(bytes[index], 0, "byte {index} is padding");
                harmless += 1;
            }
            let mut whole = ContentChecksum::new();
            whole.add(&damaged);
            assert_ne!(whole.finish(), summary.checksum);
        }
        assert!(harmless < 1024, "{harmless} bytes of padding");
    }
}

#[test]
fn a_cut_table_is_refused() {
    let (bytes, _) = write(run(5), OPTIONS, &example(50));
    for cut in [1, 512, 1000] {
        assert!(Open::new(run(5), &bytes[..bytes.len() - cut]).is_err());
    }
}

#[test]
fn a_table_is_refused_under_every_other_identity() {
    let model = example(50);
    let device = Uuid([7; 16]);
    let (shard, tablet, table) = (ShardIndex(1), tablet(), TableId(5));
    let other_tablet = TabletIndex::new(10).expect("below 64");
    let others = [
        run(6),
        TableIdentity::Run { device: Uuid([8; 16]), shard, generation: 2, tablet, table },
        TableIdentity::Run { device, shard: ShardIndex(2), generation: 2, tablet, table },
        TableIdentity::Run { device, shard, generation: 3, tablet, table },
        TableIdentity::Run { device, shard, generation: 2, tablet: other_tablet, table },
        sealed(1),
    ];
    let (bytes, _) = write(run(5), OPTIONS, &model);
    let (sealed_bytes, _) = write(sealed(1), OPTIONS, &model);
    for other in others {
        assert!(other == sealed(1) || Open::new(other, &sealed_bytes).is_err(), "{other:?}");
        assert!(Open::new(other, &bytes).is_err(), "{other:?}");
        // Behind a right footer, as after a misdirected write: blocks say it themselves.
        let open = Open::new(run(5), &bytes).expect("a whole table");
        let handle = open.index.handle(0).expect("a block");
        let stored = &bytes[..handle.stored_bytes as usize];
        let mut raw = vec![1];
        for (identity, offset) in [(other, 0), (run(5), 512)] {
            let checksum = BlockChecksum::new(&identity);
            let mut decompressor = Decompressor::new();
            let opened =
                open_block(&checksum, offset, BlockKind::Data, stored, None, &mut decompressor, &mut raw);
            assert_eq!(opened.expect_err("another block").field, "checksum");
            assert!(raw.is_empty());
        }
    }
}

#[test]
fn the_largest_records_and_the_smallest() {
    let mut model = Model::new();
    model.insert(encoded(1, &[0; 128], 0), (1 << 16, 0, Some(vec![1; VALUE_BYTES_MAX])));
    model.insert(encoded(1, &[0xff; 128], u64::MAX), (u64::MAX, u64::MAX, Some(Vec::new())));
    model.insert(encoded(2, b"a", 5), (2 << 16, 0, None));
    let noise: Vec<u8> =
        (0..VALUE_BYTES_MAX as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    model.insert(encoded(3, b"b", 5), (3 << 16, 9, Some(noise)));
    for level in [None, Some(3)] {
        let (bytes, summary) = write(run(1), TableOptions { level, block_bytes: 4096, ..OPTIONS }, &model);
        let mut open = Open::new(run(1), &bytes).expect("a whole table");
        assert_eq!(open.all().expect("a whole table"), model);
        assert_eq!(open.footer, summary.footer);
        assert_eq!(summary.footer.block_count, 3, "the small ones share a block");
    }
}

/// Steps give the same filter as the end does at once; many blocks make an index of several parts.
#[test]
fn a_large_table_is_ended_in_steps() {
    let table = |steps: bool| {
        let mut writer = TableWriter::new(
            run(8),
            TableOptions {
                block_bytes: 64,
                level: None,
                extent_bytes: 1 << 18,
                dictionary: None,
                dictionary_bytes_max: 0,
            },
            Compressor::new(),
        );
        let mut stream = [b'x'; 100];
        for number in 0..200_000u32 {
            stream[50..54].copy_from_slice(&number.to_be_bytes());
            writer.push(&encoded(7, &stream, 1), Version(1 << 16), 0, Some(&stream[..8]));
        }
        let mut count = 0;
        while steps && writer.step() {
            count += 1;
        }
        let summary = writer.finish();
        (writer.pending().to_vec(), summary, count)
    };
    let (bytes, summary, count) = table(true);
    assert_eq!(count, 4);
    let (other, _, _) = table(false);
    assert!(bytes == other);
    assert!(summary.footer.index_bytes > 1 << 20);
    let mut open = Open::new(run(8), &bytes).expect("a whole table");
    assert!(open.index.memory_bytes() < 40 * summary.footer.block_count as usize);
    assert_eq!(open.all().expect("a whole table").len(), 200_000);
}

#[test]
#[should_panic(expected = "keys of a table ascend")]
fn keys_out_of_order_over_two_blocks_are_our_own_bug() {
    let mut writer = TableWriter::new(run(1), TableOptions { block_bytes: 1, ..OPTIONS }, Compressor::new());
    writer.push(&encoded(2, b"a", 5), Version(1), 0, None);
    writer.push(&encoded(1, b"a", 5), Version(2), 0, None);
}
