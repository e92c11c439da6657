//! Gets from a cold disk: one read of the device each, beside fio's reads of the same size from the same file.

use super::BenchError;
use super::sections::{BYTES_PER_RECORD, SECTION_RECORDS, VALUE_BYTES, WINDOW_FROM_US, key_of, section};
use super::session::{OWN, Session, Side};
use crate::cpu;
use crate::outside;
use crate::peers::fio;
use crate::report::Figures;
use crate::target::TargetError;
use crate::workloads::numbers::{StreamName, hash};
use hdrhistogram::Histogram;
use ioengine::disk::DiskOpen;
use ioengine::uring::{Runtime, create_file};
use ioengine::{CoreConfig, Instant, Io, Queue};
use layout::cold_disk::FILE_BYTES_DEFAULT;
use layout::cold_kept::KeptFor;
use layout::cold_section::{
    MadeSection, SECTION_HEADER_BYTES, SectionHeader, SectionIdentity, SectionPlace, open_section_index,
};
use layout::table::{Block, Index, encode_key};
use layout::table_seal::Decompressor;
use layout::units::{BLOCK_BYTES, Uuid};
use shard::cold::ColdError;
use shard::cold::disk::{ColdBlock, ColdDisk, ColdLimits, ColdReader};
use shard::cold::kept::run_of;
use shard::cold::open::{ColdFormat, format};
use shard::cold::table::Wanted;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Sections written as one run.
const RUN_SECTIONS: u64 = 8;
/// Level of zstd.
const LEVEL: i32 = 6;
const CLUSTER: Uuid = Uuid([0xcd; 16]);
/// Reads in flight.
const DEPTHS: [usize; 2] = [1, 32];

/// A section, as the store would know it.
struct Link {
    identity: SectionIdentity,
    place: SectionPlace,
    index: Index,
    /// Number of its stream.
    stream: u64,
    bytes: u64,
}

struct Filled {
    reader: ColdReader,
    links: Vec<Link>,
    /// Where on the device they begin.
    from: u64,
}

/// What the readers have done.
struct Done {
    gets: Cell<u64>,
    asked_bytes: Cell<u64>,
    unpack_ns: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
    failed: RefCell<Option<String>>,
}

/// A file that goes with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        outside::remove(&self.0);
    }
}

/// Fill a cold disk in a file, then read records of it at random.
pub(super) fn cold(session: &mut Session<'_>) -> Result<(), BenchError> {
    let records = session.args.records.max(SECTION_RECORDS);
    let failed = |what: String| BenchError::Target(TargetError(what));
    outside::make_folder(&session.args.dir)?;
    let scratch = Scratch(session.args.dir.join(format!("cold-{}.disk", std::process::id())));
    let bytes = records * BYTES_PER_RECORD + 2 * FILE_BYTES_DEFAULT + (1 << 20);
    create_file(&scratch.0, bytes.next_multiple_of(BLOCK_BYTES as u64))
        .map_err(|error| failed(error.to_string()))?;
    let config = CoreConfig { arena_bytes: 256 << 20, ..CoreConfig::small("cold", 0) };
    let runtime = Runtime::new(config).map_err(|error| failed(error.to_string()))?;
    let path = scratch.0.display().to_string();
    let filled = runtime.block_on(filled(runtime.io(), &path, records, session.args.seed));
    let filled = Rc::new(filled.map_err(|error| failed(error.to_string()))?);
    let blocks = || filled.links.iter().map(|link| u64::from(link.index.block_count()));
    let data: u64 = filled.links.iter().map(|link| link.bytes).sum();
    let index: usize = filled.links.iter().map(|link| link.index.memory_bytes()).sum();
    session.note(format!(
        "cold: {records} records in {} sections of {} KiB, {:.1} blocks each; stored {:.1} bytes per record, index in memory {:.2} bytes per record",
        filled.links.len(),
        (data >> 10) / filled.links.len() as u64,
        blocks().sum::<u64>() as f64 / filled.links.len() as f64,
        data as f64 / records as f64,
        index as f64 / records as f64,
    ))?;
    let read_bytes = (data / blocks().sum::<u64>()).next_multiple_of(BLOCK_BYTES as u64);
    let version = fio::version();
    if let Err(missing) = &version {
        session.note(missing.to_string())?;
    }
    for depth in DEPTHS {
        let (seconds, warm_up) = (session.args.seconds, session.args.warm_up);
        let (own, runtime) = (Rc::clone(&filled), &runtime);
        let mut sides = vec![Side::new(OWN, move |round| {
            measure(runtime, &own, depth, u64::from(round), [warm_up, seconds])
        })];
        if let Ok(version) = &version {
            let command =
                fio::random_command(&scratch.0, seconds, depth, read_bytes, filled.from..filled.from + data);
            session.peer(&format!("fio {depth}"), format!("{version}; fio {}", command.join(" ")));
            sides.push(Side::new("fio", move |_| {
                fio::run_reads(&command).map(|reads| reads.figures("get")).map_err(BenchError::Peer)
            }));
        }
        let load = format!(
            "{depth} gets in flight of uniformly chosen records, each by the index in memory and one block of the disk, \
             checked, unpacked and searched; fio: random reads of {read_bytes} bytes from the same file."
        );
        session.alternate(&format!("cold {depth}"), &load, sides)?;
    }
    Ok(())
}

async fn filled(io: &Io, path: &str, records: u64, seed: u64) -> Result<Filled, ColdError> {
    let open = || io.open_disk(path, DiskOpen::default());
    let wanted = ColdFormat {
        cluster: CLUSTER,
        node: 1,
        group: 1,
        disk: 1,
        file_bytes: FILE_BYTES_DEFAULT,
        file_count_max: u32::MAX,
        fills: false,
        anew: false,
    };
    format(io, &open()?, &wanted).await?;
    let limits = ColdLimits { reserved_max: 1, reuse_delay: Duration::from_secs(60) };
    let mut disk = ColdDisk::open(io, open()?, limits).await?;
    let count = records / SECTION_RECORDS;
    let mut links = Vec::new();
    for first in (0..count).step_by(RUN_SECTIONS as usize) {
        let streams = first..(first + RUN_SECTIONS).min(count);
        let mut sections: Vec<MadeSection> =
            streams.clone().map(|stream| section(CLUSTER, stream, WINDOW_FROM_US, seed, LEVEL)).collect();
        let content: u64 = sections.iter().map(MadeSection::bytes).sum();
        let SectionIdentity { bucket, window_from, window_days, window_generation, .. } =
            sections[0].identity;
        let whom = KeptFor { tablet_group: 0, bucket, window_from, window_days, window_generation };
        let run = run_of(&disk.reserve(whom, content as u32, sections.len() as u32, Wanted::From(0)).await?);
        let mut bytes = Vec::with_capacity(run.bytes as usize);
        for ((stream, section), number) in streams.zip(&mut sections).zip(run.number..) {
            let offset = run.offset + bytes.len() as u32;
            let (group, disk) = (wanted.group, wanted.disk);
            let place = SectionPlace {
                group,
                disk,
                file: run.file,
                file_generation: run.file_generation,
                offset,
                number,
            };
            let own = section.at(place);
            links.push(link(own, place, stream).expect("it was just made"));
            bytes.extend_from_slice(own);
        }
        bytes.resize(run.bytes as usize, 0);
        for (number, piece) in bytes.chunks(1 << 20).enumerate() {
            let mut buffer = io.buffer(piece.len()).ok_or(ColdError::Arena { bytes: piece.len() })?;
            buffer[..piece.len()].copy_from_slice(piece);
            disk.write(&whom, &run, (number << 20) as u32, buffer, piece.len()).await?;
        }
        disk.seal(&whom, &run, content as u32, None).await?;
    }
    let from = disk.superblock().geometry.file_offset(0).0;
    Ok(Filled { reader: disk.reader(), links, from })
}

fn link(bytes: &[u8], place: SectionPlace, stream: u64) -> Option<Link> {
    let header = bytes.first_chunk::<SECTION_HEADER_BYTES>()?;
    let (group, file) = ((place.group, place.disk), (place.file, place.offset));
    let header = SectionHeader::decode(header, CLUSTER, group, file).ok()?;
    let stored = &bytes[SECTION_HEADER_BYTES + header.data_bytes as usize..];
    let index =
        open_section_index(&header.identity.checksum(), &header, stored, &mut Decompressor::new()).ok()?;
    Some(Link { identity: header.identity, place, index, stream, bytes: bytes.len() as u64 })
}

/// Load for the seconds of warming up, then for those that count.
fn measure(
    runtime: &Runtime,
    filled: &Rc<Filled>,
    depth: usize,
    seed: u64,
    seconds: [f64; 2],
) -> Result<Figures, BenchError> {
    let mut figures = Figures::new();
    for seconds in seconds {
        let done = Rc::new(Done {
            gets: Cell::new(0),
            asked_bytes: Cell::new(0),
            unpack_ns: Cell::new(0),
            latency: RefCell::new(
                Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("a minute in nanoseconds"),
            ),
            failed: RefCell::new(None),
        });
        let (cpu, read, began) = (cpu::of_this_thread(), outside::device_read_bytes(), runtime.io().now());
        runtime.block_on(load(runtime.io(), filled, depth, seed, Duration::from_secs_f64(seconds), &done));
        if let Some(error) = done.failed.take() {
            return Err(BenchError::Peer(error));
        }
        let (took, gets) = (runtime.io().now().since(began).as_secs_f64(), done.gets.get() as f64);
        let used = cpu::of_this_thread().total_ns - cpu.total_ns;
        let latency = done.latency.borrow();
        figures = Figures::from([
            ("per_second".to_owned(), gets / took),
            ("cpu_us_per_get".to_owned(), used as f64 / 1e3 / gets),
            (
                "unpack_and_search_share_of_cpu_percent".to_owned(),
                100.0 * done.unpack_ns.get() as f64 / used as f64,
            ),
            ("get_latency_us_p50".to_owned(), latency.value_at_quantile(0.5) as f64 / 1e3),
            ("get_latency_us_p99".to_owned(), latency.value_at_quantile(0.99) as f64 / 1e3),
        ]);
        if let Some((before, after)) = read.zip(outside::device_read_bytes()) {
            let ratio = (after - before) as f64 / done.asked_bytes.get() as f64;
            figures.insert("device_bytes_per_byte_of_one_read".to_owned(), ratio);
        }
    }
    Ok(figures)
}

async fn load(io: &Io, filled: &Rc<Filled>, depth: usize, seed: u64, span: Duration, done: &Rc<Done>) {
    let until = io.now().after(span);
    let ended = Rc::new(Cell::new(0));
    for lane in 0..depth as u64 {
        let (io, filled, done, ended) = (io.clone(), Rc::clone(filled), Rc::clone(done), Rc::clone(&ended));
        io.clone().spawn(Queue::Foreground, async move {
            if let Err(error) = gets(&io, &filled, hash(seed + 1, lane), until, &done).await {
                done.failed.borrow_mut().get_or_insert(error);
            }
            ended.set(ended.get() + 1);
        });
    }
    while ended.get() < depth {
        io.sleep(Duration::from_millis(2)).await;
    }
}

/// One get after the other.
async fn gets(io: &Io, filled: &Filled, seed: u64, until: Instant, done: &Done) -> Result<(), String> {
    let (mut unpack, mut out, mut key) = (Decompressor::new(), Vec::new(), Vec::new());
    for number in 0.. {
        let began = io.now();
        if began >= until {
            break;
        }
        let random = hash(seed, number);
        let link = &filled.links[(random % filled.links.len() as u64) as usize];
        let name = StreamName::of(link.stream);
        key.clear();
        encode_key(
            &mut key,
            link.identity.bucket,
            key_of(&name, WINDOW_FROM_US, (random >> 32) % SECTION_RECORDS),
        );
        let (_, handle) =
            link.index.find(&key).ok_or("the index has no block for a record that it covers")?;
        let wanted = ColdBlock { identity: link.identity, place: link.place, handle };
        let stored = filled.reader.stored(&wanted).await.map_err(|error| error.to_string())?;
        let arrived = io.now();
        wanted.open(&stored, &mut unpack, &mut out).map_err(|corrupt| corrupt.to_string())?;
        let found = Block::parse(&out)
            .and_then(|block| Ok(block.get(&key)?.and_then(|record| record.value.map(<[u8]>::len))));
        if found != Ok(Some(VALUE_BYTES)) {
            return Err(format!("a record of stream {} is not what was written: {found:?}", link.stream));
        }
        let now = io.now();
        done.unpack_ns.set(done.unpack_ns.get() + (now.ns - arrived.ns));
        done.latency.borrow_mut().saturating_record(now.ns - began.ns);
        done.gets.set(done.gets.get() + 1);
        done.asked_bytes.set(done.asked_bytes.get() + stored.device_bytes() as u64);
    }
    Ok(())
}
