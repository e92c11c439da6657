//! Cold disks and sections for the tests of the binary, and a client that sinks and reads them.

use std::net::SocketAddr;

use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Io};
use layout::cold_kept::KeptFor;
use layout::cold_section::{
    SECTION_HEADER_BYTES, SectionHeader, SectionIdentity, SectionPlace, SectionWriter, open_section_index,
};
use layout::key::{Key, bucket_of};
use layout::table::encode_key;
use layout::table_index::Index;
use layout::table_seal::Decompressor;
use layout::units::{Space, Uuid, Version};
use net::client::{ClientConfig, ColdNode, ColdReply};
use net::cold::{ColdAnswer, ColdBlocks, ColdKept, ColdPlace, ColdRequest};
use net::outcome::Outcome;
use net::reply::Answer;

use super::{Folder, Said, Server, run};

pub(crate) const CLUSTER: Uuid = Uuid([0xc1; 16]);
pub(crate) const GROUP: u16 = 3;
const SPACE: Space = Space(2);
const DAY_US: u64 = 86_400_000_000;

pub(crate) fn core() -> Runtime {
    Runtime::new(CoreConfig::small("test", 0)).unwrap()
}

/// `disk format` of disk `disk` of node `node`, with what else is said.
pub(crate) fn format(folder: &Folder, name: &str, node: u32, disk: u16, more: &[&str]) -> Said {
    let [cluster, node, disk] = [CLUSTER.to_string(), node.to_string(), disk.to_string()];
    let group = GROUP.to_string();
    let mut arguments = vec!["disk", "format", name, "--cold", "--cluster", &cluster, "--node", &node];
    arguments.extend(["--group", &group, "--disk", &disk]);
    if !more.contains(&"--file") {
        arguments.extend(["--file", "256 KiB"]);
    }
    arguments.extend(more);
    run(folder, &arguments)
}

/// A disk of 80 MiB with files of 32 MiB.
pub(crate) fn make_large_disk(folder: &Folder, name: &str) {
    format(folder, name, 4, 1, &["--file", "32 MiB", "--create", "80 MiB", "--yes"]).done();
}

/// Makes a file of 4 MiB and formats it.
pub(crate) fn make_disk(folder: &Folder, name: &str, node: u32, disk: u16) {
    format(folder, name, node, disk, &["--create", "4 MiB", "--yes"]).done();
}

/// `serve` of a cold node on these disks of its folder.
pub(crate) fn serve(disks: &[&str]) -> Vec<String> {
    let list =
        format!("cold.disks=[{}]", disks.iter().map(|disk| format!("\"{disk}\", ")).collect::<String>());
    let settings = [
        "node.role=cold",
        "network.listen=127.0.0.1:0",
        "cold.arena_bytes=16MiB",
        "cold.waiting_bytes_max=8MiB",
    ];
    let all = settings.iter().map(|setting| (*setting).to_owned()).chain([list]);
    std::iter::once("serve".to_owned()).chain(all.flat_map(|setting| ["--set".to_owned(), setting])).collect()
}

pub(crate) fn start(folder: &Folder, disks: &[&str]) -> Server {
    let arguments = serve(disks);
    Server::start(folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Sections of one run, and how to ask for their records.
pub(crate) struct Sunk {
    pub(crate) place: ColdPlace,
    sections: Vec<Section>,
}

struct Section {
    place: ColdPlace,
    bytes: Vec<u8>,
    stream: Vec<u8>,
    /// Time, value.
    records: Vec<(u64, Vec<u8>)>,
}

impl Sunk {
    /// Places of its sections, by themselves.
    pub(crate) fn places(&self) -> impl Iterator<Item = ColdPlace> {
        self.sections.iter().map(|section| section.place)
    }

    /// Records of all its sections.
    pub(crate) fn record_count(&self) -> usize {
        self.sections.iter().map(|section| section.records.len()).sum()
    }
}

/// A client of the node at `endpoint`.
pub(crate) fn way(io: &Io, endpoint: &str) -> ColdNode {
    way_of(io, endpoint, &ClientConfig::default())
}

/// One with other settings.
pub(crate) fn way_of(io: &Io, endpoint: &str, config: &ClientConfig) -> ColdNode {
    let address: SocketAddr = endpoint.parse().unwrap();
    ColdNode::new(io, address, config)
}

async fn ask(way: &ColdNode, request: ColdRequest<'_>) -> ColdReply {
    way.ask(&request).await.unwrap()
}

/// One section of records whose values do not compress.
pub(crate) async fn sink_large(way: &ColdNode, disk: u16, record_count: u64, value_bytes: usize) -> Sunk {
    sink_of(way, disk, (1, 1, record_count), value_bytes).await
}

/// Reserves a place for `section_count` sections of `record_count` records each, writes and seals them.
pub(crate) async fn sink(
    way: &ColdNode,
    disk: u16,
    window_generation: u32,
    section_count: u32,
    record_count: u64,
) -> Sunk {
    sink_of(way, disk, (window_generation, section_count, record_count), 0).await
}

/// The same, with so many bytes more in each value, which do not compress.
pub(crate) async fn sink_of(
    way: &ColdNode,
    disk: u16,
    (window_generation, section_count, record_count): (u32, u32, u64),
    more_bytes: usize,
) -> Sunk {
    let mut random = 0x9e37_79b9_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as u8
    };
    let window_from = DAY_US * 20_000;
    let window_days = 1;
    let mut made = Vec::new();
    for number in 0..section_count {
        let stream = format!("stream-{disk}-{number}").into_bytes();
        let bucket = bucket_of(SPACE, &stream);
        let identity =
            SectionIdentity { cluster: CLUSTER, bucket, window_from, window_days, window_generation };
        let mut writer = SectionWriter::new(identity, 1);
        let records: Vec<(u64, Vec<u8>)> = (0..record_count)
            .map(|at| {
                let mut value = format!("value {number} {}", at * 7919 % 1013).into_bytes();
                value.extend((0..more_bytes).map(|_| next()));
                (window_from + at * 1000, value)
            })
            .collect();
        for (time, value) in &records {
            let mut key = Vec::new();
            encode_key(&mut key, bucket, Key { space: SPACE, stream: &stream, time: *time });
            writer.push(&key, Version((time - window_from + 1) << 16), 0, Some(value));
        }
        made.push((bucket, stream, records, writer.finish()));
    }
    made.sort_by_key(|made| made.0);
    let content_bytes = made.iter().map(|made| made.3.bytes()).sum::<u64>() as u32;
    let whom = |bucket| KeptFor { tablet_group: 1, bucket, window_from, window_days, window_generation };
    let wanted = ColdPlace {
        group: GROUP,
        disk,
        whom: whom(made[0].0),
        file: 0,
        file_generation: 0,
        offset: 0,
        content_bytes,
        number: 0,
        section_count,
    };
    let reply = ask(way, ColdRequest::Reserve { place: wanted, exactly: false }).await;
    let Answer::Cold(ColdAnswer::Reserved(ColdKept::New, place)) = reply.answer() else {
        panic!("{:?}", reply.answer())
    };
    let (mut bytes, mut sections) = (Vec::new(), Vec::new());
    for (number, (bucket, stream, records, mut section)) in (place.number..).zip(made) {
        let offset = place.offset + bytes.len() as u32;
        let at = SectionPlace {
            group: GROUP,
            disk,
            file: place.file,
            file_generation: place.file_generation,
            offset,
            number,
        };
        let own = section.at(at).to_vec();
        bytes.extend_from_slice(&own);
        let content_bytes = own.len() as u32;
        let place =
            ColdPlace { whom: whom(bucket), offset, content_bytes, number, section_count: 1, ..place };
        sections.push(Section { place, bytes: own, stream, records });
    }
    for (piece, at) in bytes.chunks(64 << 10).zip((0..).step_by(64 << 10)) {
        let reply = ask(way, ColdRequest::Write { place, at, bytes: piece }).await;
        assert!(matches!(reply.answer(), Answer::Cold(ColdAnswer::Written)), "{:?}", reply.answer());
    }
    let checksum = layout::checksum::long(&bytes);
    let reply = ask(way, ColdRequest::Seal { place, checksum }).await;
    assert!(
        matches!(reply.answer(), Answer::Cold(ColdAnswer::Sealed(found)) if found == checksum),
        "{:?}",
        reply.answer()
    );
    Sunk { place, sections }
}

/// Gets every record of it: how many were as they were sunk, and how many answers were Corrupt. Anything else ends the test.
pub(crate) async fn get_all(way: &ColdNode, sunk: &Sunk) -> (usize, usize) {
    let (mut right, mut corrupt) = (0, 0);
    for section in &sunk.sections {
        for (time, value) in &section.records {
            let key = Key { space: SPACE, stream: &section.stream, time: *time };
            let reply = ask(way, ColdRequest::Get { blocks: block_of(section, key), key }).await;
            match reply.answer() {
                Answer::Record { value: found, .. } if found == value => right += 1,
                Answer::Not(Outcome::Corrupt) => corrupt += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    (right, corrupt)
}

/// The one block in which the section's index says that a record is: what a store would remember.
fn block_of(section: &Section, key: Key<'_>) -> ColdBlocks {
    let mut encoded = Vec::new();
    encode_key(&mut encoded, section.place.whom.bucket, key);
    let (_, handle) = index_of(section).find(&encoded).unwrap();
    blocks_of(section, handle.offset as u32, handle.stored_bytes)
}

fn index_of(section: &Section) -> Index {
    let ColdPlace { group, disk, file, offset, .. } = section.place;
    let header = section.bytes.first_chunk::<SECTION_HEADER_BYTES>().unwrap();
    let header = SectionHeader::decode(header, CLUSTER, (group, disk), (file, offset)).unwrap();
    let stored = &section.bytes[SECTION_HEADER_BYTES + header.data_bytes as usize..];
    open_section_index(&header.identity.checksum(), &header, stored, &mut Decompressor::new()).unwrap()
}

fn blocks_of(section: &Section, block_offset: u32, block_bytes: u32) -> ColdBlocks {
    let ColdPlace { group, disk, whom, file, file_generation, offset, .. } = section.place;
    let KeptFor { bucket, window_from, window_days, window_generation, .. } = whom;
    ColdBlocks {
        group,
        disk,
        bucket,
        window_from,
        window_days,
        window_generation,
        file,
        file_generation,
        offset,
        block_offset,
        block_bytes,
    }
}

/// The blocks of its sections in runs of at most `bytes_max` bytes, each with the bytes that were written there.
pub(crate) fn runs(sunk: &Sunk, bytes_max: u32) -> Vec<(ColdBlocks, &[u8])> {
    let mut all = Vec::new();
    for section in &sunk.sections {
        let index = index_of(section);
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for handle in (0..index.block_count()).map(|number| index.handle(number).unwrap()) {
            match runs.last_mut() {
                Some((_, bytes)) if *bytes + handle.stored_bytes <= bytes_max => {
                    *bytes += handle.stored_bytes
                }
                _ => runs.push((handle.offset as u32, handle.stored_bytes)),
            }
        }
        all.extend(runs.into_iter().map(|(at, bytes)| {
            let from = SECTION_HEADER_BYTES + at as usize;
            (blocks_of(section, at, bytes), &section.bytes[from..from + bytes as usize])
        }));
    }
    all
}

/// Asks for blocks as they are stored.
pub(crate) async fn read(way: &ColdNode, blocks: ColdBlocks) -> ColdReply {
    ask(way, ColdRequest::Read { blocks }).await
}

/// All sections that a disk holds, by its own word.
pub(crate) async fn list(way: &ColdNode, disk: u16) -> Vec<ColdPlace> {
    let (mut all, mut from) = (Vec::new(), (0, 0));
    loop {
        let request = ColdRequest::List { group: GROUP, disk, file: from.0, offset: from.1, limit: 2 };
        let reply = ask(way, request).await;
        let Answer::Cold(ColdAnswer::Listed(listed)) = reply.answer() else { panic!("{:?}", reply.answer()) };
        all.extend(listed.iter().filter(|(kept, _)| *kept == ColdKept::Sealed).map(|(_, place)| place));
        match listed.more {
            Some(more) => from = more,
            None => return all,
        }
    }
}
