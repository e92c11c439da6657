//! A lost cold disk is filled from the two other machines: how fast, beside what fio reads from the one and writes to the other.
//!
//! Must never call a disk filled that was not compared, file by file, with one it was filled from. Invariant: before each round the
//! disk is blank wherever anything of the round before could stand.

use super::BenchError;
use super::sections::{BYTES_PER_RECORD, DAY_US, SECTION_RECORDS, WINDOW_FROM_US, run_bytes, section};
use super::session::{OWN, Session, Side};
use crate::cold_group::{ColdNodes, ColdPlan, FileSaid, GROUP, MACHINES};
use crate::cpu::{Cpu, CpuOf};
use crate::group::CLUSTER;
use crate::peers::fio;
use crate::report::{About, Aim, Figures};
use crate::target::TargetError;
use crate::workloads::numbers::StreamName;
use ioengine::sync::join;
use ioengine::{Instant, Io};
use layout::cold_disk::ColdGeometry;
use layout::cold_section::MadeSection;
use layout::key::bucket_of;
use layout::units::Space;
use net::cold::ColdPlace;
use serde_json::Value;
use shard::limits::Limits;
use shard::{Agreed, ColdGroup, Done, SinkSettings};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

const NAME: &str = "rebuild";
/// The machine and the disk that is lost.
const TARGET: usize = MACHINES - 1;
const LOST: u16 = 0;
/// Level of zstd: the values do not become smaller by a higher one.
const LEVEL: i32 = 1;
/// Sections of a run at most, so that it has about the 4 MiB that a sinker writes at once.
const RUN_SECTIONS: u64 = 12;
/// Runs of a small fill, so that it has several files, too.
const RUNS_MIN: u64 = 16;
/// Bytes of a section at most.
const SECTION_BYTES: u64 = SECTION_RECORDS * BYTES_PER_RECORD;
const FILE_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=256 << 20;
/// Superblocks, file table and kept places of a disk.
const AROUND_BYTES: u64 = 8 << 20;
/// How often all three are asked for a place, or one is asked to write, with this between.
const TRIES: u32 = 20;
const WAIT: Duration = Duration::from_millis(200);
/// A fill of which more than one part of so many was done at the first look counts from the start of its process.
const MISSED_PART: u64 = 10;
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(20);
/// A fill that gets no further for so long has failed.
const STUCK: Duration = Duration::from_secs(120);
/// No bound of our own: what the devices give is measured.
const SETTINGS: [&str; 2] = ["cold.rebuild_bytes_per_second=1 TiB", "cold.scrub_period=0 s"];

/// What all three machines hold.
struct Content {
    /// Files of the disk that is lost, as its machine tells of them before.
    files: Vec<FileSaid>,
    geometry: ColdGeometry,
}

impl Content {
    /// From the first file to the end of the last, for fio.
    fn part(&self) -> Range<u64> {
        let first = self.files.iter().map(|file| file.file).min().expect("something was filled in");
        let last = self.files.iter().max_by_key(|file| file.file).expect("as above");
        let begin = self.geometry.file_offset(first).0;
        let end = self.geometry.file_offset(last.file).0 + u64::from(last.head);
        // A file has room for one request of fio.
        begin..end.max(begin + FILE_BYTES.start())
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| u64::from(file.head)).sum()
    }
}

/// How far a fill was, and what it had taken until then.
struct Moment {
    at: Instant,
    bytes: u64,
    target: Cpu,
    sources: Cpu,
}

/// See the head of the file.
pub(super) fn rebuild(session: &mut Session<'_>) -> Result<(), BenchError> {
    if !session.wants(NAME) {
        return Ok(());
    }
    let args = session.args;
    let stream_count = args.records.div_ceil(SECTION_RECORDS).max(RUNS_MIN);
    let run_sections = (stream_count / RUNS_MIN).clamp(1, RUN_SECTIONS);
    let content_bytes = stream_count * SECTION_BYTES;
    let file_bytes = (content_bytes / 8).next_power_of_two().clamp(*FILE_BYTES.start(), *FILE_BYTES.end());
    // A run that does not fit what is left of a file goes to the next.
    let used = file_bytes - (run_sections * SECTION_BYTES).min(file_bytes / 2);
    let disk_bytes = content_bytes / used * file_bytes + 3 * file_bytes + AROUND_BYTES;
    let plan = ColdPlan {
        dir: &args.dir,
        named: &args.disks,
        disk_bytes: disk_bytes.next_multiple_of(1 << 20),
        file_bytes,
        cluster: CLUSTER,
        settings: &SETTINGS,
    };
    let mut nodes = ColdNodes::format(&plan)?;
    let commands = (0..MACHINES).map(|machine| nodes.start(machine)).collect::<Result<Vec<_>, _>>()?;
    let content = fill(&nodes, stream_count, run_sections, args.seed)?;
    session.note(format!(
        "{NAME}: {stream_count} sections in runs of {run_sections}, on each machine {} of {file_bytes} bytes with {:.1} MB in {} on the \
         disk that is lost",
        count(nodes.disk_count().into(), "disk"),
        content.bytes() as f64 / 1e6,
        count(content.files.len(), "file"),
    ))?;
    let own = About {
        command: format!("three of: {}; then `disk replace` of the last one's first disk", commands[0]),
        durability: "each file proven, written and flushed before its entry is written; compared byte for byte afterwards".to_owned(),
        ..session.own_about("")
    };
    session.peer_about(&format!("{OWN}, {NAME}"), &own);
    let part = content.part();
    let jobs = [("read", nodes.disk(0, LOST)), ("write", nodes.disk(TARGET, LOST))]
        .map(|(job, disk)| fio::sequential_command(disk, job, part.clone()));
    let nodes = RefCell::new(nodes);
    let mut sides = vec![Side::new(OWN, |_| one_fill(&mut nodes.borrow_mut(), &content)).about(own)];
    match fio::version() {
        Ok(version) => {
            let both = jobs.each_ref().map(|job| job.join(" ")).join("; fio ");
            let durability = "what is written is flushed (fsync) at the end";
            let about = fio::about(&version, &[both], durability);
            session.peer_about(&format!("fio, {NAME}"), &about);
            sides.push(Side::new("fio", |_| limit(&jobs)).about(about));
        }
        Err(missing) => session.note(missing.to_string())?,
    }
    let load = format!(
        "The disk of one of three cold nodes is lost, {:.1} MB in {}; a blank one takes its place and is filled from the two others, then compared \
         with one of them. From the first answer of the node to the end of the fill. fio, one after the other: what stands there read from a source, \
         and as much written to the target, 1 MiB each, 8 in flight; the slower of both is the limit.",
        content.bytes() as f64 / 1e6,
        count(content.files.len(), "file"),
    );
    session.alternate_for(NAME, &load, sides, vec![Aim::least("fio", "mb_per_second", 0.9)])?;
    Ok(nodes.into_inner().close()?)
}

/// "1 file", "2 files".
fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// What the devices give for the same.
fn limit(jobs: &[Vec<String>; 2]) -> Result<Figures, BenchError> {
    let [read, write] = jobs;
    let read = fio::run_sequential(read).map_err(BenchError::Peer)? / 1e6;
    let write = fio::run_sequential(write).map_err(BenchError::Peer)? / 1e6;
    Ok(Figures::from([
        ("mb_per_second".to_owned(), read.min(write)),
        ("read_mb_per_second".to_owned(), read),
        ("write_mb_per_second".to_owned(), write),
    ]))
}

/// The disk is lost, replaced, filled and compared.
fn one_fill(nodes: &mut ColdNodes, content: &Content) -> Result<Figures, BenchError> {
    // Of a file that fills differently, too: all that it has room for.
    let last = content.files.iter().map(|file| file.file).max().expect("something was filled in");
    let upto = content.geometry.file_offset(last).0 + content.geometry.file_bytes;
    nodes.lose(TARGET, LOST, upto)?;
    let begun = nodes.io().now();
    let sources_before = cpu_of_sources(nodes)?;
    nodes.start(TARGET)?;
    let (mut counters, first) = look(nodes)?;
    let (mut progress, mut since) = (first.bytes, nodes.io().now());
    let last = loop {
        if counters.of("rebuilding") == 0 {
            break look(nodes)?.1;
        }
        let now = nodes.io().now();
        if counters.of("rebuild_bytes") != progress {
            (progress, since) = (counters.of("rebuild_bytes"), now);
        } else if now.since(since) >= STUCK {
            let what = format!("the fill got no further for {STUCK:?}: {}", counters.0);
            return Err(BenchError::Target(TargetError(what)));
        }
        nodes.clock.rest(LOOK);
        counters = look(nodes)?.0;
    };
    // Much was done before it could be asked: then all of its life counts, its start included.
    let first = if first.bytes * MISSED_PART > last.bytes {
        Moment { at: begun, bytes: 0, target: Cpu::default(), sources: sources_before }
    } else {
        first
    };
    if let Err(error) = is_whole(&counters).and_then(|()| compare(nodes, content)) {
        nodes.keep();
        return Err(error);
    }
    nodes.end(TARGET);
    let (bytes, seconds) = (last.bytes - first.bytes, last.at.since(first.at).as_secs_f64());
    let (gigabytes, life) = (bytes as f64 / 1e9, last.at.since(begun).as_secs_f64());
    let (target, sources) = (last.target - first.target, last.sources - first.sources);
    Ok(Figures::from([
        ("seconds".to_owned(), seconds),
        ("mb_per_second".to_owned(), bytes as f64 / 1e6 / seconds),
        // What was under way at the first answer is in the one and not in the other.
        ("mb_per_second_of_its_life".to_owned(), last.bytes as f64 / 1e6 / life),
        ("target_cpu_s".to_owned(), target.seconds()),
        ("sources_cpu_s".to_owned(), sources.seconds()),
        ("target_cpu_s_per_gb".to_owned(), target.seconds() / gigabytes),
        ("sources_cpu_s_per_gb".to_owned(), sources.seconds() / gigabytes),
        ("filled_bytes".to_owned(), bytes as f64),
        ("sections_mended".to_owned(), counters.of("rebuild_mended") as f64),
    ]))
}

/// Nothing was left out.
fn is_whole(counters: &Counters) -> Result<(), BenchError> {
    let lacks =
        ["rebuild_left_out", "rebuild_waiting_files"].into_iter().filter(|name| counters.of(name) > 0);
    let lacks: Vec<String> = lacks.map(|name| format!("{name} = {}", counters.of(name))).collect();
    if lacks.is_empty() {
        return Ok(());
    }
    Err(BenchError::Differs(format!("{NAME}: the fill ended with {}", lacks.join(", "))))
}

/// Counters of the disk that is filled.
struct Counters(Value);

impl Counters {
    fn of(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or(0)
    }
}

fn look(nodes: &mut ColdNodes) -> Result<(Counters, Moment), BenchError> {
    let mut status = nodes.status(TARGET)?;
    let counters = Counters(status["disks"][LOST.to_string()]["counters"].take());
    if !counters.0["rebuilding"].is_u64() {
        let what = format!("the status of the node says nothing of the fill: {status}");
        return Err(BenchError::Target(TargetError(what)));
    }
    let moment = Moment {
        at: nodes.io().now(),
        bytes: counters.of("rebuild_bytes"),
        target: cpu_of(nodes, TARGET)?,
        sources: cpu_of_sources(nodes)?,
    };
    Ok((counters, moment))
}

fn cpu_of(nodes: &ColdNodes, machine: usize) -> Result<Cpu, BenchError> {
    let time = nodes.pid(machine).and_then(|pid| CpuOf::Process(pid).now());
    time.ok_or_else(|| {
        let what = format!(
            "the processor time of cold node {} of {MACHINES} is not known: it has ended",
            machine + 1
        );
        BenchError::Target(TargetError(what))
    })
}

fn cpu_of_sources(nodes: &ColdNodes) -> Result<Cpu, BenchError> {
    (0..TARGET).try_fold(Cpu::default(), |sum, machine| Ok(sum.plus(cpu_of(nodes, machine)?)))
}

/// The filled disk and one that it was filled from hold the same, and all say the same of it.
fn compare(nodes: &ColdNodes, content: &Content) -> Result<(), BenchError> {
    for machine in 0..MACHINES {
        let said = nodes.files(machine, LOST)?;
        if said != content.files {
            let all = said.iter().zip(&content.files).find(|(said, was)| said != was);
            let what = match all {
                Some((said, was)) => format!("it says {said:?}, and it was {was:?}"),
                None => format!("it says of {}, and there were {}", said.len(), content.files.len()),
            };
            return Err(BenchError::Differs(format!("{NAME}: files of machine {}: {what}", machine + 1)));
        }
    }
    let (filled, source) = (nodes.disk(TARGET, LOST), nodes.disk(0, LOST));
    for file in &content.files {
        let from = content.geometry.file_offset(file.file).0;
        if let Some(at) = nodes.first_difference(filled, source, from..from + u64::from(file.head))? {
            let (filled, source) = (filled.display(), source.display());
            let what = format!(
                "{NAME}: file {}, byte {} of {}: {filled} is not as {source}, from which it was filled",
                file.file,
                at - from,
                file.head
            );
            return Err(BenchError::Differs(what));
        }
    }
    Ok(())
}

/// A run that is being made.
struct Run {
    window_from: u64,
    sections: Vec<MadeSection>,
}

/// Write sections to all three machines, as a store's sinker does.
fn fill(nodes: &ColdNodes, stream_count: u64, run_sections: u64, seed: u64) -> Result<Content, BenchError> {
    let settings = SinkSettings {
        nodes: nodes.addresses,
        group: GROUP,
        disk_count: nodes.disk_count(),
        after: Duration::ZERO,
    };
    let io = nodes.io();
    let cold = ColdGroup::new(io, &settings, CLUSTER, &Limits::default())
        .map_err(|error| BenchError::Target(TargetError(error)))?;
    let filling = async {
        let (mut runs, mut next_window) = (BTreeMap::<u16, Run>::new(), WINDOW_FROM_US);
        for stream in 0..stream_count {
            let bucket = bucket_of(Space::DEFAULT, StreamName::of(stream).bytes());
            let disk = cold.disk_of(bucket);
            // A window has one section of a bucket.
            let is_full = |run: &Run| {
                run.sections.len() as u64 == run_sections
                    || run.sections.iter().any(|section| section.identity.bucket == bucket)
            };
            if runs.get(&disk).is_some_and(is_full) {
                let run = runs.remove(&disk).expect("it was just looked at");
                Box::pin(place(io, &cold, disk, run)).await?;
            }
            let run = runs.entry(disk).or_insert_with(|| {
                let window_from = next_window;
                next_window += DAY_US;
                Run { window_from, sections: Vec::new() }
            });
            run.sections.push(section(CLUSTER, stream, run.window_from, seed, LEVEL));
        }
        for (disk, run) in runs {
            Box::pin(place(io, &cold, disk, run)).await?;
        }
        Ok(())
    };
    nodes.clock.block_on(filling).map_err(|error: String| BenchError::Target(TargetError(error)))?;
    let (files, superblock) = (nodes.files(TARGET, LOST)?, nodes.superblock(TARGET, LOST)?);
    if files.iter().all(|file| file.head == 0) {
        let what = format!(
            "no section went to the disk that is to be lost: ask for more than {} --records",
            stream_count * SECTION_RECORDS
        );
        return Err(BenchError::Target(TargetError(what)));
    }
    Ok(Content { files, geometry: superblock.geometry })
}

/// A run to the same place on three machines, all at once.
async fn place(io: &Io, cold: &ColdGroup, disk: u16, mut run: Run) -> Result<(), String> {
    run.sections.sort_by_key(|section| section.identity.bucket);
    let first = run.sections.first().ok_or("a run without sections")?.identity;
    let content: u64 = run.sections.iter().map(MadeSection::bytes).sum();
    let content_bytes =
        u32::try_from(content).map_err(|_| format!("a run of {content} bytes is too long"))?;
    let whom = ColdGroup::whom(first.bucket, first.window_from, first.window_days, first.window_generation);
    let section_count = u32::try_from(run.sections.len()).expect("a run has few");
    let wanted = ColdPlace {
        group: GROUP,
        disk,
        whom,
        file: 0,
        file_generation: 0,
        offset: 0,
        content_bytes,
        number: 0,
        section_count,
    };
    let mut tries = 0;
    let found = loop {
        match cold.agree(&wanted).await {
            Agreed::Yes(place) => break place,
            Agreed::NotNow if tries < TRIES => tries += 1,
            Agreed::NotNow | Agreed::Full => {
                return Err(format!(
                    "the cold nodes give no place for {content_bytes} bytes on disk {disk}: take larger disks or fewer --records"
                ));
            }
            Agreed::Never => {
                return Err(format!("a run of {content_bytes} bytes fits no file of disk {disk}"));
            }
        }
        io.sleep(WAIT).await;
    };
    let bytes = run_bytes(&mut run.sections, &found);
    let checksum = layout::checksum::long(&bytes);
    let write = async |node: usize| {
        for _ in 0..TRIES {
            match cold.write(node, &found, &bytes, checksum).await {
                Done::Yes => return Ok(()),
                Done::NotNow => io.sleep(WAIT).await,
                Done::Lost => {
                    return Err(format!("cold node {} keeps the place {found:?} no more", node + 1));
                }
            }
        }
        Err(format!("cold node {} does not take {content_bytes} bytes for disk {disk}", node + 1))
    };
    let (one, (other, third)) = Box::pin(join(write(0), join(write(1), write(2)))).await;
    one.and(other).and(third)
}
