//! `thermocline inspect manifest|table|section|state`: what a shard holds in tables, also when it is damaged. Reads only.
//!
//! Owns the way from what is asked for to its bytes. Must never trust a manifest further than to know where to look.
//! Invariant: places are those on the device, but for edits, which stand in the bodies of records.

use clap::Args;
use layout::inspect::Line;
use layout::inspect_manifest::manifest as manifest_text;
use layout::inspect_section::section as section_text;
use layout::inspect_table::{TableShown, state as state_text, table as table_text};
use layout::manifest::{AddTable, ExtentRange, TableKind};
use layout::superblock::Superblock;
use layout::units::{BLOCK_BYTES, BucketIndex, DiskOffset, TableId};
use shard::examine::{NamedTable, Names, Site};
use shard::manifest::{Reading, Verdict, read_image};

use super::{Dump, OfDisk, OfShards, any_superblock, piece, shards};
use crate::disk::Offline;
use crate::failure::{Exit, Failure};

/// Bytes of the largest table, and of the largest state, that is taken into memory.
const BYTES_MAX: u64 = 4 << 30;

/// Arguments of `inspect table`.
#[derive(Debug, Args)]
pub(super) struct TableArgs {
    #[command(flatten)]
    of: OfDisk,
    /// Number of the table
    table: Option<u64>,
    /// The table that a byte of the device belongs to
    #[arg(long, value_name = "OFFSET", conflicts_with = "table")]
    at: Option<u64>,
    /// Only of this shard
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
    /// Show its records, too
    #[arg(long)]
    records: bool,
    /// Most records shown
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u64,
}

/// Arguments of `inspect section`.
#[derive(Debug, Args)]
pub(super) struct SectionArgs {
    #[command(flatten)]
    of: OfDisk,
    /// Number of the table
    table: u64,
    /// Bucket, from 0 to 131071
    #[arg(value_parser = clap::value_parser!(u32).range(..i64::from(layout::units::BUCKET_COUNT)))]
    bucket: u32,
    /// Only of this shard
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
    /// Most records shown
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u64,
}

/// Arguments of `inspect state`.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    #[command(flatten)]
    of: OfShards,
    /// Show each request id and each key written lately, too
    #[arg(long)]
    all: bool,
}

/// What was read of a shard's manifest.
struct Found {
    shard: u16,
    site: Site,
    reading: Reading,
    /// The halves, by copy, then by half.
    halves: [[Vec<u8>; 2]; 2],
    /// What it says; else why that cannot be understood.
    names: Result<Names, layout::Corrupt>,
}

/// Reads a shard's manifest. What the device cannot read is shown, and counts as damaged.
fn read(offline: &Offline, superblock: &Superblock, shard: u16, dump: &mut Dump) -> Result<Found, Failure> {
    let site = Site::new(superblock, shard);
    let half_bytes = site.manifest().half_bytes();
    let mut half = |copy, half| -> Result<Vec<u8>, Failure> {
        let offset = site.manifest().offset(copy, half, 0);
        let mut bytes = piece(offline, offset, half_bytes, dump)?;
        // What was cut off is not zero: that would mean never written.
        bytes.resize(usize::try_from(half_bytes).expect("at most 64 MiB"), 0xff);
        Ok(bytes)
    };
    let halves = [[half(0, 0)?, half(0, 1)?], [half(1, 0)?, half(1, 1)?]];
    let reading = read_image(site.manifest(), halves.clone());
    let names = site.names(&reading);
    Ok(Found { shard, site, reading, halves, names })
}

/// What the four halves say together.
fn verdict(reading: &Reading) -> String {
    let Reading { sequence, half, edits, single_count, incarnation_max, .. } = reading;
    let what = match reading.verdict {
        Verdict::Fresh => return "never written".to_owned(),
        Verdict::Whole => "whole".to_owned(),
        Verdict::Damaged { what, at } => format!("DAMAGED at {at}: {what}; what follows is an older state"),
    };
    format!(
        "half {half} is in force, sequence {sequence}, incarnation {incarnation_max}, {} edits behind the snapshot, {single_count} records in one copy only: {what}",
        edits.len()
    )
}

/// `inspect manifest`.
pub(super) fn manifest(args: &OfShards) -> Result<Exit, Failure> {
    let offline = Offline::open(&args.of.disk, true)?;
    let superblock = any_superblock(&offline)?;
    let mut dump = Dump::new(&args.of);
    let mut exit = Exit::Done;
    for shard in shards(&superblock, args.shard)? {
        let found = read(&offline, &superblock, shard, &mut dump)?;
        let zones = found.site.manifest();
        for (copy, half) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (offset, twin) = (zones.offset(copy, half, 0), zones.offset(1 - copy, half, 0));
            let bytes = &found.halves[copy][half];
            let state = match (found.reading.sequence.0 > 0, half == found.reading.half) {
                (true, true) => "in force",
                _ => "not in force",
            };
            let title = format!("manifest of shard {shard}, copy {copy}, half {half}");
            dump.title(&format!("{title}: {} bytes at {offset}, {state}", bytes.len()))?;
            for line in manifest_text(zones.identity, offset, twin, bytes) {
                dump.line(&line)?;
            }
        }
        dump.title(&format!("manifest of shard {shard}: {}", verdict(&found.reading)))?;
        names(&found, &mut dump)?;
        if matches!(found.reading.verdict, Verdict::Damaged { .. }) || found.names.is_err() {
            exit = Exit::No;
        }
    }
    dump.out.finish()?;
    Ok(exit)
}

/// What the manifest says, one line each.
fn names(found: &Found, dump: &mut Dump) -> Result<(), Failure> {
    let names = match &found.names {
        Ok(names) => names,
        Err(corrupt) => return dump.line(&wrong(corrupt.at, "edits", corrupt.to_string())),
    };
    let start = names.start;
    let text =
        format!("at {} behind sequence {}, incarnation {}", start.at, start.sequence, start.incarnation);
    dump.line(&plain(0, "journal start", text))?;
    dump.line(&plain(0, "next table", names.next_table.to_string()))?;
    if let Some(state) = &names.state {
        let text =
            format!("number {}, {} bytes in extents {}", state.blob, state.bytes, extents(&state.ranges));
        dump.line(&plain(address(&found.site, &state.ranges, 0), "state", text))?;
    }
    names.tables.values().try_for_each(|named| summary(found, named, dump))
}

fn plain(at: u64, name: &str, value: String) -> Line {
    Line { at, name: name.to_owned(), value, wrong: None }
}

fn wrong(at: u64, name: &str, why: String) -> Line {
    Line { wrong: Some(why), ..plain(at, name, "unreadable".to_owned()) }
}

fn extents(ranges: &[ExtentRange]) -> String {
    let texts: Vec<_> = ranges.iter().map(|range| format!("{}+{}", range.first, range.count)).collect();
    texts.join(" ")
}

/// Device offset of a byte of what lies in these extents; 0 when it lies in none.
fn address(site: &Site, ranges: &[ExtentRange], offset: u64) -> u64 {
    site.place(ranges, offset).map_or(0, |(at, _)| at.0)
}

fn summary(found: &Found, named: &NamedTable, dump: &mut Dump) -> Result<(), Failure> {
    let facts = &named.facts;
    let window = || {
        let AddTable { window_from, window_to, window_generation, .. } = facts;
        format!("window from {window_from} to before {window_to}, generation {window_generation}")
    };
    let kind = match facts.kind {
        TableKind::Run => format!("run, level {}", facts.level),
        TableKind::Sealed => format!("sealed {}", window()),
        TableKind::Sunk => format!("sunk {}", window()),
    };
    let text = format!(
        "number {} of tablet {}, {kind}, {} records, {} tombstones, times {} to {}, log indexes {} to {}, {} bytes in extents {}",
        facts.table,
        facts.tablet,
        facts.record_count,
        facts.tombstone_count,
        facts.time_min,
        facts.time_max,
        facts.log_index_min,
        facts.log_index_max,
        facts.bytes,
        extents(&named.ranges)
    );
    dump.line(&plain(address(&found.site, &named.ranges, 0), "table", text))
}

/// `inspect table`.
pub(super) fn table(args: &TableArgs) -> Result<Exit, Failure> {
    let offline = Offline::open(&args.of.disk, true)?;
    let superblock = any_superblock(&offline)?;
    let mut dump = Dump::new(&args.of);
    let mut shown = false;
    let all = args.table.is_none() && args.at.is_none();
    for shard in shards(&superblock, args.shard)? {
        let found = read(&offline, &superblock, shard, &mut dump)?;
        if all {
            dump.title(&format!("tables of shard {shard}: manifest: {}", verdict(&found.reading)))?;
        }
        let names = match &found.names {
            Ok(names) => names,
            Err(corrupt) => {
                dump.line(&wrong(corrupt.at, "manifest", corrupt.to_string()))?;
                continue;
            }
        };
        let asked = |named: &&NamedTable| match (args.table, args.at) {
            (Some(number), _) => named.facts.table == TableId(number),
            (None, Some(at)) => holds(&found.site, &named.ranges, DiskOffset(at)),
            (None, None) => true,
        };
        for named in names.tables.values().map(AsRef::as_ref).filter(asked) {
            shown = true;
            if all {
                summary(&found, named, &mut dump)?;
            } else {
                let part = Part::Whole { records_max: if args.records { args.limit } else { 0 } };
                show(&offline, &found, named, &part, &mut dump)?;
            }
        }
        if let (false, Some(at)) = (shown, args.at) {
            shown = elsewhere(&found, names, DiskOffset(at), &mut dump)?;
        }
    }
    if !shown && !all {
        dump.title("the manifests name no such table")?;
    }
    dump.out.finish()?;
    Ok(if shown || all { Exit::Done } else { Exit::No })
}

fn holds(site: &Site, ranges: &[ExtentRange], at: DiskOffset) -> bool {
    let is_in =
        |range: &ExtentRange, extent: u32| extent >= range.first && extent - range.first < range.count;
    site.extent_at(at).is_some_and(|extent| ranges.iter().any(|range| is_in(range, extent)))
}

/// An address that is in no table: what else it is in.
fn elsewhere(found: &Found, names: &Names, at: DiskOffset, dump: &mut Dump) -> Result<bool, Failure> {
    let Some(extent) = found.site.extent_at(at) else { return Ok(false) };
    let state = names.state.as_ref().filter(|state| holds(&found.site, &state.ranges, at));
    let what = match state {
        Some(state) => format!("state {} lies there: thermocline inspect state", state.blob),
        None => "free, whatever stands there".to_owned(),
    };
    dump.line(&plain(at.0, "extent", format!("{extent} of shard {}: {what}", found.shard)))?;
    Ok(true)
}

/// The bytes of what lies in these extents. What the device cannot read is shown, and counts as damaged.
fn bytes_of(
    offline: &Offline,
    site: &Site,
    ranges: &[ExtentRange],
    bytes: u64,
    dump: &mut Dump,
) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    while (out.len() as u64) < bytes.min(BYTES_MAX) {
        let from = out.len() as u64;
        let Some((at, together)) = site.place(ranges, from) else {
            dump.line(&wrong(0, "extents", format!("byte {from} of {bytes} lies in none")))?;
            break;
        };
        // Extents are whole blocks, and `from` is at the start of a range or of a piece.
        let count = together.min(bytes - from).min(super::PIECE_BYTES_MAX);
        let whole = count.next_multiple_of(BLOCK_BYTES as u64);
        let mut read = piece(offline, at, whole, dump)?;
        read.resize(usize::try_from(whole).expect("at most 64 MiB"), 0xff);
        read.truncate(usize::try_from(count).expect("at most 64 MiB"));
        out.extend_from_slice(&read);
    }
    Ok(out)
}

/// What is shown of a table.
enum Part {
    Whole { records_max: u64 },
    Section { bucket: BucketIndex, records_max: u64 },
}

fn show(
    offline: &Offline,
    found: &Found,
    named: &NamedTable,
    part: &Part,
    dump: &mut Dump,
) -> Result<(), Failure> {
    let facts = &named.facts;
    dump.title(&format!("table {} of tablet {}, shard {}", facts.table, facts.tablet, found.shard))?;
    summary(found, named, dump)?;
    if facts.bytes > BYTES_MAX {
        let what =
            format!("table {} has {} bytes, more than are taken into memory", facts.table, facts.bytes);
        return Err(Failure::failed(what, "thermocline fsck reads it block by block"));
    }
    let bytes = bytes_of(offline, &found.site, &named.ranges, facts.bytes, dump)?;
    let identity = found.site.table_identity(facts);
    let extent_bytes = found.site.extent_bytes();
    let shown = |records_max| TableShown { extent_bytes, records_max };
    let lines = match *part {
        Part::Whole { records_max } => table_text(&identity, &bytes, shown(records_max)),
        Part::Section { bucket, records_max } => section_text(&identity, &bytes, bucket, shown(records_max)),
    };
    let (mut records, mut of_block) = (0_u64, 0_u64);
    for mut line in lines {
        if line.name.trim() == "record" {
            records += 1;
        } else if line.name == "block" {
            of_block += 1;
            line.value = format!("byte {} of the table, {}", line.at, line.value);
        }
        line.at = address(&found.site, &named.ranges, line.at);
        dump.line(&line)?;
    }
    let end = format!("{of_block} blocks, {records} of {} records shown", facts.record_count);
    dump.title(&end)
}

/// `inspect section`.
pub(super) fn section(args: &SectionArgs) -> Result<Exit, Failure> {
    let offline = Offline::open(&args.of.disk, true)?;
    let superblock = any_superblock(&offline)?;
    let mut dump = Dump::new(&args.of);
    let bucket = BucketIndex::new(args.bucket).expect("the option has this range");
    let part = Part::Section { bucket, records_max: args.limit };
    let mut shown = false;
    for shard in shards(&superblock, args.shard)? {
        let found = read(&offline, &superblock, shard, &mut dump)?;
        let names = match &found.names {
            Ok(names) => names,
            Err(corrupt) => {
                dump.line(&wrong(corrupt.at, "manifest", corrupt.to_string()))?;
                continue;
            }
        };
        if let Some(named) = names.tables.get(&args.table) {
            shown = true;
            show(&offline, &found, named, &part, &mut dump)?;
        }
    }
    if !shown {
        dump.title("the manifests name no such table")?;
    }
    dump.out.finish()?;
    Ok(if shown { Exit::Done } else { Exit::No })
}

/// `inspect state`.
pub(super) fn state(args: &StateArgs) -> Result<Exit, Failure> {
    let of = &args.of.of;
    let offline = Offline::open(&of.disk, true)?;
    let superblock = any_superblock(&offline)?;
    let mut dump = Dump::new(of);
    let mut shown = false;
    for shard in shards(&superblock, args.of.shard)? {
        let found = read(&offline, &superblock, shard, &mut dump)?;
        let state = match &found.names {
            Ok(names) => names.state.as_ref(),
            Err(corrupt) => {
                dump.line(&wrong(corrupt.at, "manifest", corrupt.to_string()))?;
                continue;
            }
        };
        let Some(state) = state else {
            dump.title(&format!("state of shard {shard}: none, nothing was flushed yet"))?;
            continue;
        };
        shown = true;
        let at = address(&found.site, &state.ranges, 0);
        dump.title(&format!("state {} of shard {shard}: {} bytes at {at}", state.blob, state.bytes))?;
        let bytes = bytes_of(&offline, &found.site, &state.ranges, state.bytes, &mut dump)?;
        let identity = found.site.state_identity(state.blob);
        for mut line in state_text(&identity, &bytes, args.all) {
            if line.name == "checksum" && line.value != format!("{:032x}", state.checksum) {
                line.wrong = Some(format!("expected {:032x} by the manifest", state.checksum));
            }
            line.at = address(&found.site, &state.ranges, line.at);
            dump.line(&line)?;
        }
    }
    dump.out.finish()?;
    Ok(if shown { Exit::Done } else { Exit::No })
}
