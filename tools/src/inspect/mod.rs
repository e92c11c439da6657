//! `thermocline inspect`: what stands on a disk or in shared memory, field by field. Reads only.
//!
//! Must never stop at damage: what is wrong is marked and the rest is shown.

mod tables;
mod values;

use std::path::Path;

use clap::{Args, Subcommand};
use layout::inspect::{self, Line};
use layout::superblock::{SUPERBLOCK_BYTES, Superblock, copy_offset};
use layout::superblock_copies::choose;
use layout::units::{BLOCK_BYTES, DiskOffset, ShardIndex};
use layout::version_cell::{HEADER_BYTES, ROW_BYTES, Row};
use serde_json::json;
use shard::journal::identity;

use crate::disk::Offline;
use crate::failure::{Exit, Failure};
use crate::file;
use crate::output::Output;
use crate::version_caches;

/// Bytes of a journal looked at together, at most. Records do not span segments, so a segment is enough.
const PIECE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of the largest version file that is read.
const VERSIONS_BYTES_MAX: usize = 4 << 30;

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The four copies of the superblock, and which is in force; no when none is
    Superblock(OfDisk),
    /// The journals: records, entries, operations
    Journal(OfShards),
    /// The manifests: both copies, half by half, records and edits, and what they say together; no when one is damaged
    Manifest(OfShards),
    /// A table by its number, or by what stands at an address; without either, the tables that the manifests name
    Table(tables::TableArgs),
    /// One section of a sealed table: the records of a bucket, and whether their digest is the one that the table says
    Section(tables::SectionArgs),
    /// The state of the tablets as of the last flush
    State(tables::StateArgs),
    /// The version caches of a disk's shards in shared memory
    Versions(VersionsArgs),
    /// The value rings of cache nodes in shared memory: header, what each chain holds, entries; no when a cache would start empty
    Values(values::ValuesArgs),
}

#[derive(Debug, Args)]
struct OfDisk {
    /// Device or file
    disk: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct OfShards {
    #[command(flatten)]
    of: OfDisk,
    /// Only this shard's
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
}

#[derive(Debug, Args)]
struct VersionsArgs {
    #[command(flatten)]
    of: OfDisk,
    /// Only this shard's
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
    /// Show so many rows that are not empty, too
    #[arg(long, value_name = "N", default_value_t = 0)]
    rows: u64,
}

/// `thermocline inspect`.
///
/// # Errors
/// The disk cannot be read at all, or no copy of its superblock says where things are.
pub(crate) fn run(args: &InspectArgs) -> Result<Exit, Failure> {
    match &args.what {
        What::Superblock(of) => superblock(of),
        What::Journal(args) => journal(args),
        What::Manifest(args) => tables::manifest(args),
        What::Table(args) => tables::table(args),
        What::Section(args) => tables::section(args),
        What::State(args) => tables::state(args),
        What::Versions(args) => versions(args),
        What::Values(args) => values::values(args),
    }
}

/// Writes lines for programs or for people.
struct Dump {
    out: Output,
    json: bool,
}

impl Dump {
    fn new(of: &OfDisk) -> Dump {
        Dump { out: Output::new(), json: of.json }
    }

    fn title(&mut self, text: &str) -> Result<(), Failure> {
        if self.json { self.out.line(&json!({"part": text}).to_string()) } else { self.out.line(text) }
    }

    fn line(&mut self, line: &Line) -> Result<(), Failure> {
        if self.json {
            let Line { at, name, value, wrong } = line;
            let text = json!({"at": at, "name": name.trim(), "value": value, "wrong": wrong}).to_string();
            self.out.line(&text)
        } else {
            self.out.line(&line.to_string())
        }
    }
}

fn superblock(of: &OfDisk) -> Result<Exit, Failure> {
    let offline = Offline::open(&of.disk, true)?;
    let mut dump = Dump::new(of);
    for index in 0..layout::superblock::COPY_COUNT {
        let offset = copy_offset(index);
        dump.title(&format!("copy {index}"))?;
        match offline.read(offset.0, SUPERBLOCK_BYTES) {
            Ok(bytes) => {
                for line in inspect::superblock(&bytes, offset) {
                    dump.line(&line)?;
                }
            }
            Err(error) => dump.line(&unreadable(offset.0, "copy", &error.to_string()))?,
        }
    }
    let (verdict, exit) = match choose(&offline.copies()) {
        Ok(superblock) => {
            let facts = (superblock.sequence, superblock.incarnation);
            (format!("in force: sequence {}, incarnation {}", facts.0, facts.1), Exit::Done)
        }
        Err(error) => (format!("none is in force: {error}"), Exit::No),
    };
    dump.title(&verdict)?;
    dump.out.finish()?;
    Ok(exit)
}

fn unreadable(at: u64, name: &str, why: &str) -> Line {
    Line { at, name: name.to_owned(), value: "unreadable".to_owned(), wrong: Some(why.to_owned()) }
}

/// The superblock in force, or else the best copy there is: enough to know where to look.
fn any_superblock(offline: &Offline) -> Result<Superblock, Failure> {
    let copies = offline.copies();
    choose(&copies).or_else(|error| {
        let best = copies.into_iter().flatten().max_by_key(|copy| copy.sequence);
        best.ok_or_else(|| Failure::failed(error.to_string(), "no copy says where anything is"))
    })
}

/// The shards to show.
fn shards(superblock: &Superblock, asked: Option<u16>) -> Result<Vec<u16>, Failure> {
    match asked {
        None => Ok((0..superblock.shard_count).collect()),
        Some(shard) if shard < superblock.shard_count => Ok(vec![shard]),
        Some(shard) => {
            let what = format!("there is no shard {shard}: the disk is cut for {}", superblock.shard_count);
            Err(Failure::wrong_use(what, "shards count from 0"))
        }
    }
}

fn journal(args: &OfShards) -> Result<Exit, Failure> {
    let offline = Offline::open(&args.of.disk, true)?;
    let superblock = any_superblock(&offline)?;
    let mut dump = Dump::new(&args.of);
    for shard in shards(&superblock, args.shard)? {
        let range = superblock.shard_zones()[usize::from(shard)].journal;
        dump.title(&format!("journal of shard {shard}: {} bytes at {}", range.bytes, range.offset))?;
        let identity = identity(superblock.device, ShardIndex(shard), superblock.generation);
        let piece_bytes = superblock.segment_bytes.min(PIECE_BYTES_MAX);
        let mut zero_from = None;
        for at in (0..range.bytes).step_by(usize::try_from(piece_bytes).expect("at most 64 MiB")) {
            let offset = range.offset.plus(at);
            let piece = piece(&offline, offset, piece_bytes.min(range.bytes - at), &mut dump)?;
            if piece.iter().all(|byte| *byte == 0) {
                zero_from.get_or_insert(offset.0);
                continue;
            }
            zero_line(&mut dump, zero_from.take(), offset.0)?;
            for line in inspect::journal(identity, offset, &piece) {
                dump.line(&line)?;
            }
        }
        zero_line(&mut dump, zero_from, range.offset.plus(range.bytes).0)?;
    }
    dump.out.finish()?;
    Ok(Exit::Done)
}

fn zero_line(dump: &mut Dump, from: Option<u64>, to: u64) -> Result<(), Failure> {
    let Some(from) = from.filter(|from| *from < to) else { return Ok(()) };
    let value = format!("{} bytes, never written", to - from);
    dump.line(&Line { at: from, name: "zero".to_owned(), value, wrong: None })
}

/// A piece of the journal. Blocks that the device cannot read are shown as such and count as damaged.
fn piece(offline: &Offline, offset: DiskOffset, bytes: u64, dump: &mut Dump) -> Result<Vec<u8>, Failure> {
    let bytes = usize::try_from(bytes).expect("at most 64 MiB");
    if let Ok(piece) = offline.read(offset.0, bytes) {
        if piece.len() < bytes {
            let end = offset.0 + piece.len() as u64;
            dump.line(&unreadable(end, "journal", "the disk ends here: it was cut"))?;
        }
        return Ok(piece);
    }
    let mut piece = Vec::with_capacity(bytes);
    for at in (0..bytes).step_by(BLOCK_BYTES) {
        let block_at = offset.0 + at as u64;
        match offline.read(block_at, BLOCK_BYTES) {
            Ok(block) => piece.extend_from_slice(&block),
            Err(error) => {
                dump.line(&unreadable(block_at, "block", &error.to_string()))?;
                piece.resize(piece.len() + BLOCK_BYTES, 0xff);
            }
        }
    }
    Ok(piece)
}

fn versions(args: &VersionsArgs) -> Result<Exit, Failure> {
    let offline = Offline::open(&args.of.disk, true)?;
    let superblock = any_superblock(&offline)?;
    let mut dump = Dump::new(&args.of);
    let mut found = false;
    for shard in shards(&superblock, args.shard)? {
        let path = version_caches::of_shard(&args.of.disk, superblock.device, shard);
        dump.title(&format!("version cache of shard {shard}: {}", path.display()))?;
        if !file::exists(&path) {
            dump.title(
                "not there: no node has run since the machine started, or shared memory is elsewhere",
            )?;
            continue;
        }
        found = true;
        rows(&path, args.rows, &mut dump)?;
    }
    dump.out.finish()?;
    Ok(if found { Exit::Done } else { Exit::No })
}

fn rows(path: &Path, shown_max: u64, dump: &mut Dump) -> Result<(), Failure> {
    let bytes = file::bytes(path, VERSIONS_BYTES_MAX)?;
    let (header, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES));
    for line in inspect::version_header(header) {
        dump.line(&line)?;
    }
    let (mut used, mut torn, mut cells) = (0_u64, 0_u64, 0_u64);
    let (rows, _) = rest.as_chunks::<ROW_BYTES>();
    for (number, row) in (0_u64..).zip(rows.iter().map(Row::from_bytes)) {
        if row == Row::EMPTY {
            continue;
        }
        used += 1;
        match row.decode() {
            Ok(row) => cells += row.iter().count() as u64,
            Err(_) => torn += 1,
        }
        if used <= shown_max {
            for line in inspect::version_row(number, &row) {
                dump.line(&line)?;
            }
        }
    }
    dump.title(&format!("{} rows: {used} used with {cells} cells, {torn} torn", rows.len()))
}
