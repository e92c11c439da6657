//! `thermocline inspect values`: what cache nodes keep in shared memory, also where it is damaged. Reads only.
//!
//! Owns which files are meant. Must never lock one: a cache may run on it, and what it writes meanwhile may be seen half done.

use std::path::{Path, PathBuf};

use clap::Args;
use ioengine::uring::region_files;
use layout::inspect::Line;
use layout::inspect_ring::{ChainCounts, chain, chain_parts, ring_header};
use layout::value_ring::{RING_HEADER_BYTES, RingHeader};
use serde_json::json;
use shard::cache::is_rings_name;

use super::Dump;
use crate::failure::{Exit, Failure};
use crate::file;
use crate::output::Output;

/// Damaged entries shown of one chain; all are counted.
const DAMAGED_MAX: u64 = 100;

/// Arguments of `inspect values`.
#[derive(Debug, Args)]
pub(super) struct ValuesArgs {
    /// Files of value rings; without any all that are in shared memory (THERMOCLINE_SHM_DIR, else /dev/shm)
    files: Vec<PathBuf>,
    /// Only this chain's
    #[arg(long, value_name = "N")]
    chain: Option<u16>,
    /// Show so many entries of each chain, oldest first, too; damaged ones are always shown
    #[arg(long, value_name = "N", default_value_t = 0)]
    entries: u64,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// `inspect values`. No when there is no file, or one that a cache would empty.
pub(super) fn values(args: &ValuesArgs) -> Result<Exit, Failure> {
    let mut dump = Dump { out: Output::new(), json: args.json };
    let found = region_files().into_iter().filter(|file| is_rings_name(&file.name)).map(|file| file.path);
    let files: Vec<PathBuf> = if args.files.is_empty() { found.collect() } else { args.files.clone() };
    if files.is_empty() {
        dump.title(
            "no value rings: no cache has run since the machine started, or shared memory is elsewhere",
        )?;
    }
    let mut all_whole = !files.is_empty();
    for path in &files {
        dump.title(&format!("value rings: {}", path.display()))?;
        all_whole &= rings(path, args, &mut dump)?;
    }
    dump.out.finish()?;
    Ok(if all_whole { Exit::Done } else { Exit::No })
}

/// Whether the next start of a cache would keep the file.
fn rings(path: &Path, args: &ValuesArgs, dump: &mut Dump) -> Result<bool, Failure> {
    let (file, bytes) = file::open(path)?;
    let front = file::part(&file, path, 0, RING_HEADER_BYTES as u64)?;
    for line in ring_header(&front) {
        dump.line(&line)?;
    }
    let Some(Ok(header)) = front.first_chunk::<RING_HEADER_BYTES>().map(RingHeader::decode) else {
        dump.title("the header cannot be believed: a cache starts empty here")?;
        return Ok(false);
    };
    let chain_count = header.geometry.chain_count;
    if let Some(wrong) = args.chain.filter(|chain| *chain >= chain_count) {
        let what = format!("there is no chain {wrong}: the file has {chain_count}");
        return Err(Failure::wrong_use(what, "chains count from 0"));
    }
    let (is, wanted) = (bytes.unwrap_or_default(), header.geometry.file_bytes());
    let mut all_whole = is == wanted;
    if !all_whole {
        dump.title(&format!("the file has {is} bytes in place of {wanted}: a cache starts empty here"))?;
    }
    for number in args.chain.map_or(0..chain_count, |chain| chain..chain + 1) {
        let (mut lines, mut shown, mut damaged) = (Vec::new(), 0, 0);
        let [slots, ring] = chain_parts(&header.geometry, number)
            .map(|(offset, bytes)| file::part(&file, path, offset, bytes));
        let counts = chain([&slots?, &ring?], &header, number, &mut |line: Line| {
            let (count, limit) =
                if line.wrong.is_some() { (&mut damaged, DAMAGED_MAX) } else { (&mut shown, args.entries) };
            *count += 1;
            if *count <= limit {
                lines.push(line);
            }
        });
        match counts {
            Some(counts) => dump.counts(number, &counts)?,
            None => {
                all_whole = false;
                dump.title(&format!("chain {number}: its head cannot be, or the file ends before it"))?;
            }
        }
        for line in &lines {
            dump.line(line)?;
        }
    }
    Ok(all_whole)
}

impl Dump {
    fn counts(&mut self, chain: u16, counts: &ChainCounts) -> Result<(), Failure> {
        let ChainCounts {
            head,
            written_bytes,
            named_count,
            named_bytes,
            absent_count,
            touched_count,
            superseded_count,
            superseded_bytes,
            damaged_count,
            damaged_bytes,
            filling_bytes,
            slot_count,
            stale_slot_count,
        } = counts;
        if self.json {
            let text = json!({
                "chain": chain, "head": head, "written_bytes": written_bytes,
                "named_count": named_count, "named_bytes": named_bytes,
                "absent_count": absent_count, "touched_count": touched_count,
                "superseded_count": superseded_count, "superseded_bytes": superseded_bytes,
                "damaged_count": damaged_count, "damaged_bytes": damaged_bytes,
                "filling_bytes": filling_bytes,
                "slot_count": slot_count, "stale_slot_count": stale_slot_count,
            });
            return self.out.line(&text.to_string());
        }
        self.out.line(&format!(
            "chain {chain}: head {head}, {written_bytes} bytes written; {named_count} entries with {named_bytes} bytes, \
             {absent_count} of them absences, {touched_count} read; {superseded_count} superseded with {superseded_bytes}; \
             {damaged_count} damaged with {damaged_bytes}; {filling_bytes} filling; {slot_count} slots used, \
             {stale_slot_count} stale"
        ))
    }
}
