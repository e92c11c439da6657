//! Cold nodes behind a real group: how they are started, and what goes wrong with them. They are killed, alone or all at once, stand still,
//! drain, and find bits of the sections of one machine flipped, or zeros there, while they run.
//!
//! Must never damage two machines: what the two others hold is what the third is mended from. Invariant: each trouble carries the moment
//! of its end.

use super::beside::Beside;
use super::scene::{LOOK, START_PATIENCE, Scene, free_address};
use super::{RealError, Report, peace};
use crate::sim::cold::{list, listed_is_counted};
use crate::sim::history::Violation;
use ioengine::sim::Random;
use ioengine::{Instant, Io};
use layout::cold_disk::ColdGeometry;
use layout::units::BLOCK_BYTES;
use net::client::{ClientConfig, ColdNode};
use net::cold::{ColdKept, ColdPlace};
use serde_json::Value;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Cold nodes of a group.
const COUNT: u16 = 3;
/// Number of the first.
const FIRST_ID: u16 = 201;
const GROUP: u16 = 2;
/// Disks of each.
const DISKS: u16 = 2;
const DISK_BYTES: u64 = 64 << 20;
const FILE_BYTES: u64 = 1 << 20;
/// Within this, once trouble has ended, the three machines hold the same, and go on holding it for a while.
const SETTLED: Duration = Duration::from_secs(90);
const STAYS: Duration = Duration::from_secs(8);
/// A place must not be read that was given again meanwhile: longer than any request of this harness.
const REUSE_DELAY: &str = "8s";

/// A cold node.
pub(super) struct Cold {
    pub(super) side: Beside,
    disks: Vec<PathBuf>,
}

impl Cold {
    /// Three of them at free addresses, that know each other; their disks are not formatted.
    pub(super) fn some(io: &Io, folder: &Path) -> Result<Vec<Cold>, RealError> {
        let address = |place: u16| free_address(io, 110 + usize::from(place));
        let addresses = (0..COUNT).map(address).collect::<Result<Vec<_>, _>>()?;
        let one = |(place, &address): (usize, &SocketAddr)| {
            let disk = |number: u16| folder.join(format!("cold-{}-{number}.img", place + 1));
            let disks: Vec<PathBuf> = (0..DISKS).map(disk).collect();
            let quoted: Vec<String> = disks.iter().map(|disk| format!("\"{}\"", disk.display())).collect();
            let others = addresses.iter().filter(|other| **other != address);
            let peers: Vec<String> = others.map(|other| format!("\"{other}\"")).collect();
            let settings = vec![
                "node.role=cold".to_owned(),
                format!("cold.disks=[{}]", quoted.join(", ")),
                format!("cold.peers=[{}]", peers.join(", ")),
                format!("cold.reuse_delay={REUSE_DELAY}"),
                "cold.request_deadline=4s".to_owned(),
                "cold.arena_bytes=24MiB".to_owned(),
                "cold.waiting_bytes_max=4MiB".to_owned(),
                "cold.scrub_period=8s".to_owned(),
                "cold.repair_retry=500ms".to_owned(),
            ];
            Cold { side: Beside::new(format!("cold-{}", place + 1), address, folder, settings), disks }
        };
        Ok(addresses.iter().enumerate().map(one).collect())
    }

    /// What stores are told of them.
    pub(super) fn settings(colds: &[Cold]) -> Vec<String> {
        if colds.is_empty() {
            return Vec::new();
        }
        let nodes: Vec<String> = colds.iter().map(|cold| format!("\"{}\"", cold.side.address)).collect();
        vec![
            format!("sink.nodes=[{}]", nodes.join(", ")),
            format!("sink.group={GROUP}"),
            format!("sink.disks={DISKS}"),
            "sink.after=1s".to_owned(),
            "limits.sink_patience=3s".to_owned(),
            "limits.sweep_every=2s".to_owned(),
        ]
    }

    /// Format their disks for a cluster.
    pub(super) fn format(colds: &[Cold], binary: &Path, cluster: &str) -> Result<(), RealError> {
        for (cold, node) in colds.iter().zip(FIRST_ID..) {
            for (disk, number) in cold.disks.iter().zip(0..) {
                let mut command = Command::new(binary);
                command.args(["disk", "format", "--cold", "--yes", "--cluster", cluster]).arg(disk);
                let numbers = [
                    ("--node", u64::from(node)),
                    ("--group", GROUP.into()),
                    ("--disk", number),
                    ("--file", FILE_BYTES),
                    ("--create", DISK_BYTES),
                ];
                numbers.iter().for_each(|(name, number)| {
                    command.args([name, number.to_string().as_str()]);
                });
                let output = command.output().map_err(RealError::io(format!("{}", binary.display())))?;
                if !output.status.success() {
                    let said = String::from_utf8_lossy(&output.stderr);
                    return Err(RealError::Tool(format!("{command:?}: {said}")));
                }
            }
        }
        Ok(())
    }

    /// Bits flip, or zeros stand, in the files of one of its disks, while it may be reading or writing there. Where.
    fn damage(&self, random: &mut Random) -> Result<String, RealError> {
        let disk = random.pick(&self.disks);
        let wrong = || RealError::io(format!("{}", disk.display()));
        let geometry = ColdGeometry::plan(DISK_BYTES, FILE_BYTES, u32::MAX).expect("it was formatted so");
        let device = OpenOptions::new().read(true).write(true).open(disk).map_err(wrong())?;
        let written = |block: &u64| -> bool {
            let mut bytes = [0; BLOCK_BYTES];
            device.read_exact_at(&mut bytes, *block).is_ok() && bytes.iter().any(|byte| *byte != 0)
        };
        let first = geometry.file_offset(0).0;
        let end = geometry.file_offset(geometry.file_count - 1).0 + FILE_BYTES;
        let blocks: Vec<u64> = (first..end).step_by(BLOCK_BYTES).filter(written).collect();
        if blocks.is_empty() {
            return Ok("nothing is written yet".to_owned());
        }
        let mut hurt = Vec::new();
        for _ in 0..1 + random.below(6) {
            let block = *random.pick(&blocks);
            if random.coin() {
                device.write_all_at(&[0; BLOCK_BYTES], block).map_err(wrong())?;
            } else {
                let at = block + random.below(BLOCK_BYTES as u64);
                let mut byte = [0];
                device.read_exact_at(&mut byte, at).map_err(wrong())?;
                device.write_all_at(&[byte[0] ^ 1 << random.below(8)], at).map_err(wrong())?;
            }
            hurt.push(block);
        }
        Ok(format!("{} blocks {hurt:?}", disk.display()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Kill,
    KillAll,
    Pause,
    Drain,
    Damage,
}

/// Each with its weight.
const TROUBLES: [(Trouble, u64); 5] = [
    (Trouble::Kill, 5),
    (Trouble::KillAll, 1),
    (Trouble::Pause, 3),
    (Trouble::Drain, 1),
    (Trouble::Damage, 4),
];

/// What ends a trouble of a cold node, by its place.
#[derive(Clone, Copy)]
enum Step {
    Start(usize),
    Resume(usize),
}

/// Troubles of cold nodes, on a generator of their own.
pub(super) struct ColdTrouble {
    io: Io,
    random: Random,
    next: Instant,
    due: Vec<(Instant, Step)>,
}

impl ColdTrouble {
    pub(super) fn new(io: &Io, random: Random) -> ColdTrouble {
        // They have something to lose by then.
        ColdTrouble { io: io.clone(), random, next: io.now().after(Duration::from_secs(5)), due: Vec::new() }
    }

    fn later(&mut self, ms: std::ops::Range<u64>, step: Step) {
        let wait = Duration::from_millis(self.random.within(&ms));
        self.due.push((self.io.now().after(wait), step));
    }

    /// What is due, and now and then something new.
    pub(super) fn turn(&mut self, scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
        watch(scene, report)?;
        let now = self.io.now();
        let due: Vec<(Instant, Step)> = self.due.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, step) in due {
            let (_, colds, stage) = scene.sides();
            match step {
                Step::Start(place) if !colds[place].side.runs() => colds[place].side.start(&stage)?,
                // Started by another trouble meanwhile.
                Step::Start(_) => {}
                Step::Resume(place) => colds[place].side.resume(),
            }
        }
        if now >= self.next && !scene.colds.is_empty() {
            self.strike(scene, report)?;
            self.next = now.after(Duration::from_millis(self.random.within(&(500..3_000))));
        }
        Ok(())
    }

    fn strike(&mut self, scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
        let mut left = self.random.below(TROUBLES.iter().map(|one| one.1).sum());
        let drawn = TROUBLES.into_iter().find(|one| {
            let is_it = left < one.1;
            left = left.saturating_sub(one.1);
            is_it
        });
        let trouble = drawn.expect("less than the sum was drawn").0;
        let place = self.random.index(scene.colds.len());
        let name = match trouble {
            Trouble::Kill => {
                scene.colds[place].side.kill();
                self.later(0..2_000, Step::Start(place));
                "kill a cold node"
            }
            Trouble::KillAll => {
                for place in 0..scene.colds.len() {
                    scene.colds[place].side.kill();
                    self.later(0..2_000, Step::Start(place));
                }
                "kill all cold nodes"
            }
            Trouble::Pause => {
                scene.colds[place].side.pause();
                let most = 200 << self.random.below(5);
                self.later(50..50 + most, Step::Resume(place));
                "a cold node stands still"
            }
            Trouble::Drain => {
                scene.colds[place].side.drain();
                "drain a cold node"
            }
            Trouble::Damage => {
                let where_ = scene.colds[0].damage(&mut self.random)?;
                report.story.push(format!("cold node 1: damage {where_}"));
                "damage sections"
            }
        };
        *report.troubles.entry(name).or_insert(0) += 1;
        Ok(())
    }
}

/// Who has ended, which only a drain may do: started again.
fn watch(scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
    let (_, colds, stage) = scene.sides();
    for cold in colds {
        if cold.side.watch(report) {
            cold.side.start(&stage)?;
        }
    }
    Ok(())
}

/// All cold nodes begin to run.
pub(super) fn start_all(scene: &mut Scene) -> Result<(), RealError> {
    let (_, colds, stage) = scene.sides();
    colds.iter_mut().try_for_each(|cold| cold.side.start(&stage))
}

fn wrong(report: &mut Report, text: String) {
    report.violations.push(Violation { checker: "cold", text });
}

/// All cold nodes serve; sinks have ended, damage is mended, what is nobody's is freed: the three machines hold the same, nothing is reserved, and so
/// it stays. Whether it comes to that.
pub(super) async fn settle(io: &Io, scene: &mut Scene, report: &mut Report) -> Result<bool, RealError> {
    let until = io.now().after(START_PATIENCE);
    let (_, colds, stage) = scene.sides();
    for cold in colds {
        if !cold.side.serves(io, &stage, until, report).await? {
            return Ok(false);
        }
    }
    let until = io.now().after(SETTLED);
    let (mut same, mut since): (Result<Vec<ColdPlace>, String>, Instant) = (Err(String::new()), io.now());
    loop {
        let now = held_by_all(io, scene).await;
        if now != same {
            (same, since) = (now, io.now());
        }
        match &same {
            Ok(places) if io.now() >= since.after(STAYS) => {
                report.sunk_runs = places.len() as u64;
                return Ok(true);
            }
            Err(what) if io.now() >= until => {
                wrong(report, format!("{SETTLED:?} after all trouble {what}"));
                return Ok(false);
            }
            Ok(_) if io.now() >= until => {
                wrong(report, format!("{SETTLED:?} after all trouble cold nodes still take and free places"));
                return Ok(false);
            }
            _ => io.sleep(LOOK * 25).await,
        }
    }
}

/// What all three hold; what is not the same, or not done.
async fn held_by_all(io: &Io, scene: &Scene) -> Result<Vec<ColdPlace>, String> {
    let mut first: Option<Vec<ColdPlace>> = None;
    for (place, cold) in scene.colds.iter().enumerate() {
        let config = ClientConfig { deadline: Duration::from_secs(5), ..ClientConfig::default() };
        let way = ColdNode::new(io, cold.side.address, &config);
        let mut held = Vec::new();
        for disk in 0..DISKS {
            let listed = list(&way, GROUP, disk, 0).await;
            let listed =
                listed.ok_or_else(|| format!("cold node {} does not list disk {disk}", place + 1))?;
            let counted = listed_is_counted(&way, (GROUP, disk), &listed).await;
            counted.map_err(|what| format!("cold node {}: {what}", place + 1))?;
            for (kept, at) in listed {
                if kept == ColdKept::Reserved {
                    return Err(format!("cold node {} keeps {at:?}, which nobody wants", place + 1));
                }
                held.push(at);
            }
        }
        held.sort_by_key(|at| (at.disk, at.file, at.offset));
        match &first {
            None => first = Some(held),
            Some(first) if *first == held => {}
            Some(_) => return Err(format!("cold node {} holds other places than cold node 1", place + 1)),
        }
    }
    Ok(first.unwrap_or_default())
}

/// All end as they should. Then `fsck --rebuild-links` finds every section sound, on three disks, linked by a store, and what stores link on three.
pub(super) async fn end(io: &Io, scene: &mut Scene, report: &mut Report) -> Result<(), RealError> {
    if scene.colds.is_empty() {
        return Ok(());
    }
    for cold in &mut scene.colds {
        cold.side.end(io, report).await?;
    }
    let mut command = Command::new(&scene.binary);
    command.args(["fsck", "--rebuild-links", "--json"]);
    command.args(scene.colds.iter().flat_map(|cold| &cold.disks));
    command.args(scene.nodes.iter().map(|node| &node.disk));
    let log = scene.folder.join("fsck.log");
    peace::run_to_end(io, command, &log).await?;
    let text = peace::read(&log)?;
    let text = String::from_utf8_lossy(&text);
    let said: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |part: &'static str| said.iter().filter(move |line| line["part"] == part);
    let Some(links) = of("links").next() else {
        wrong(report, format!("fsck says nothing of links, see {}", log.display()));
        return Ok(());
    };
    let count = |name: &str| links[name].as_u64().unwrap_or(u64::MAX);
    report.linked_sections = count("linked");
    let (lacked, unlinked) = (count("wrong"), count("unlinked"));
    let on_fewer =
        of("link").filter(|link| link["on"].as_array().map(Vec::len) != Some(COUNT.into())).count();
    let damages: u64 =
        of("verdict").filter_map(|line| line["damages"].as_u64()).take(cold_disk_count()).sum();
    if (lacked, unlinked, on_fewer, damages) != (0, 0, 0, 0) {
        wrong(
            report,
            format!(
                "fsck finds {lacked} links wrong, {unlinked} sections that nobody links, {on_fewer} links on fewer than three disks, {damages} damages of \
                 cold disks, see {}",
                log.display()
            ),
        );
    }
    Ok(())
}

fn cold_disk_count() -> usize {
    usize::from(COUNT * DISKS)
}

/// A run in which nothing sinks, is read where it went, or is mended says nothing of cold nodes.
pub(super) fn unreached(report: &mut Report) {
    let of = |name: &str| report.answers.get(name).copied().unwrap_or(0);
    let ways = [
        ("a section that a store links", report.linked_sections),
        ("an answer of a cold node to a client", of("Ok of a cold node")),
    ];
    for (what, _) in ways.iter().filter(|(_, count)| *count == 0) {
        wrong(report, format!("nobody ever had {what}"));
    }
}
