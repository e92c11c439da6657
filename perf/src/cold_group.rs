//! Three cold nodes as processes of the running program: `thermocline serve` with the role cold, on disks that were named or on files.
//! Owns the processes, the files, and what stands on the disks from their format to their end.
//!
//! Must never write to a disk before `disk format` has taken it: what that refuses is refused here. Invariant: disks that were named are
//! as blank at the end as they were at the beginning.

use crate::group::{Clock, free_addresses};
use crate::outside::{self, Beside};
use crate::target::TargetError;
use ioengine::disk::DiskOpen;
use ioengine::uring::Runtime;
use ioengine::{CoreConfig, Disk, DiskError, Io};
use layout::cold_disk::ColdSuperblock;
use layout::units::{BLOCK_BYTES, Uuid};
use net::client::{COPIES, ClientConfig, ColdNode, ColdReply};
use net::cold::{ColdAnswer, ColdFilesOf, ColdRequest, ColdReservedRun};
use net::reply::Answer;
use serde_json::Value;
use shard::cold::open;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Machines of a cold group.
pub(crate) const MACHINES: usize = COPIES;
/// Number of the group, and of its first node.
pub(crate) const GROUP: u16 = 0;
const FIRST_NODE: usize = 201;
/// How long a node may take to serve its disks.
const START: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// How long a node may take to answer what is asked here.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes looked at by `disk format` at either end of a disk.
const END_BYTES: u64 = 1 << 20;
/// Bytes of a read or a write of a disk.
const PIECE_BYTES: u64 = 1 << 20;
/// Buffers of the bench itself: connections, and pieces of disks.
const ARENA_BYTES: usize = 96 << 20;

fn failed(error: impl std::fmt::Display) -> TargetError {
    TargetError(format!("cold nodes: {error}"))
}

/// What the group is made of.
pub(crate) struct ColdPlan<'a> {
    /// Folder for what is made.
    pub(crate) dir: &'a Path,
    /// Disks to take, one of each machine, then the next of each; none: a file for each machine.
    pub(crate) named: &'a [PathBuf],
    /// Bytes of such a file.
    pub(crate) disk_bytes: u64,
    /// Bytes of a file of a disk.
    pub(crate) file_bytes: u64,
    /// Cluster of the group.
    pub(crate) cluster: Uuid,
    /// Settings of each node beside its place.
    pub(crate) settings: &'a [&'a str],
}

/// A file of a cold disk, as its node tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSaid {
    pub(crate) file: u32,
    pub(crate) generation: u32,
    /// Bytes written.
    pub(crate) head: u32,
    section_count: u32,
    freed: Vec<u8>,
    reserved: Vec<ColdReservedRun>,
}

/// A cold group.
pub(crate) struct ColdNodes {
    // Before the runtime, so that connections are closed before their core goes.
    ways: [Option<ColdNode>; MACHINES],
    nodes: [Option<Beside>; MACHINES],
    pub(crate) clock: Clock,
    program: String,
    folder: PathBuf,
    cluster: Uuid,
    settings: Vec<String>,
    pub(crate) addresses: [SocketAddr; MACHINES],
    /// By machine, then by number.
    disks: [Vec<PathBuf>; MACHINES],
    /// Those that were named, and hold what we wrote.
    taken: Vec<PathBuf>,
    /// Something is wrong with them that somebody has to look at.
    stays: bool,
}

impl ColdNodes {
    /// Format disks for a group of which no node runs yet.
    pub(crate) fn format(plan: &ColdPlan<'_>) -> Result<ColdNodes, TargetError> {
        if !plan.named.len().is_multiple_of(MACHINES) {
            return Err(failed(format!(
                "{} disks: name as many for each of the three machines, 3 or 6 or 9",
                plan.named.len()
            )));
        }
        let folder = plan.dir.join(format!("cold-group-{}", std::process::id()));
        outside::remove_folder(&folder);
        outside::make_folder(&folder).map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?.display().to_string();
        let (addresses, _) = free_addresses::<MACHINES>()?;
        let config = CoreConfig { arena_bytes: ARENA_BYTES, ..CoreConfig::small("cold bench", 0) };
        let clock = Clock(Runtime::new(config).map_err(failed)?);
        let disks = std::array::from_fn(|machine| match plan.named {
            [] => vec![folder.join(format!("disk-{}", machine + 1))],
            named => named.iter().skip(machine).step_by(MACHINES).cloned().collect(),
        });
        let mut this = ColdNodes {
            ways: Default::default(),
            nodes: Default::default(),
            clock,
            program,
            folder,
            cluster: plan.cluster,
            settings: plan.settings.iter().map(|setting| (*setting).to_owned()).collect(),
            addresses,
            disks,
            taken: Vec::new(),
            stays: false,
        };
        for machine in 0..MACHINES {
            for number in 0..this.disk_count() {
                this.format_disk(plan, machine, number)?;
            }
        }
        Ok(this)
    }

    fn format_disk(&mut self, plan: &ColdPlan<'_>, machine: usize, number: u16) -> Result<(), TargetError> {
        let disk = self.disk(machine, number).to_owned();
        let (path, cluster) = (disk.display().to_string(), self.cluster.to_string());
        let numbers =
            [node_of(machine), usize::from(GROUP), usize::from(number)].map(|number| number.to_string());
        let (file, bytes) = (plan.file_bytes.to_string(), plan.disk_bytes.to_string());
        let mut words = vec!["disk", "format", &path, "--cold", "--cluster", &cluster];
        words.extend(["--node", &numbers[0], "--group", &numbers[1], "--disk", &numbers[2]]);
        words.extend(["--file", &file, "--yes"]);
        if plan.named.is_empty() {
            words.extend(["--create", &bytes]);
        }
        outside::run(&self.program, &words).map_err(failed)?;
        if !plan.named.is_empty() {
            self.taken.push(disk);
        }
        Ok(())
    }

    /// Disks of each machine.
    pub(crate) fn disk_count(&self) -> u16 {
        u16::try_from(self.disks[0].len()).expect("disks that were named on a command line are few")
    }

    /// The disk of a machine with this number.
    pub(crate) fn disk(&self, machine: usize, number: u16) -> &Path {
        &self.disks[machine][usize::from(number)]
    }

    pub(crate) fn io(&self) -> &Io {
        self.clock.io()
    }

    /// Start the node of a machine, until it serves all of its disks. Gives its command.
    pub(crate) fn start(&mut self, machine: usize) -> Result<String, TargetError> {
        let quoted = |items: &mut dyn Iterator<Item = String>| {
            items.map(|item| format!("\"{item}\"")).collect::<Vec<String>>().join(", ")
        };
        let disks = quoted(&mut self.disks[machine].iter().map(|disk| disk.display().to_string()));
        let own = self.addresses[machine];
        let others = self.addresses.iter().filter(|other| **other != own);
        let peers = quoted(&mut others.map(SocketAddr::to_string));
        let settings = [
            "node.role=cold".to_owned(),
            format!("network.listen={own}"),
            format!("cold.disks=[{disks}]"),
            format!("cold.peers=[{peers}]"),
        ];
        let mut command = vec![self.program.clone(), "serve".to_owned()];
        for setting in settings.iter().chain(&self.settings) {
            command.extend(["--set".to_owned(), setting.clone()]);
        }
        let log = self.log(machine);
        self.nodes[machine] = Some(Beside::start_told(&command, &log).map_err(failed)?);
        self.until_served(machine)?;
        Ok(command.join(" "))
    }

    fn until_served(&mut self, machine: usize) -> Result<(), TargetError> {
        let begun = self.io().now();
        let mut last = "it has not listened".to_owned();
        while self.io().now().since(begun) < START {
            let config = ClientConfig { deadline: ANSWER, cluster: self.cluster, ..ClientConfig::default() };
            // A way that has failed would wait before it tries again.
            self.ways[machine] = Some(ColdNode::new(self.io(), self.addresses[machine], &config));
            match self.status(machine) {
                Ok(status) => {
                    let is_there =
                        |number: u16| status["disks"][number.to_string()]["counters"]["files"].is_u64();
                    if (0..self.disk_count()).all(is_there) {
                        return Ok(());
                    }
                    last = format!("it serves without all of its disks: {status}");
                }
                Err(error) => last = error.0,
            }
            self.clock.rest(POLL);
        }
        let (node, said) = (node_of(machine), outside::told(&self.log(machine)));
        Err(failed(format!("node {node} does not come to serve within {START:?}: {last}; it said: {said}")))
    }

    fn log(&self, machine: usize) -> PathBuf {
        self.folder.join(format!("node-{}.log", node_of(machine)))
    }

    /// End the node of a machine at once.
    pub(crate) fn end(&mut self, machine: usize) {
        self.ways[machine] = None;
        self.nodes[machine] = None;
    }

    /// Process of a machine's node.
    pub(crate) fn pid(&self, machine: usize) -> Option<u32> {
        self.nodes[machine].as_ref().map(Beside::pid)
    }

    /// Processes of those that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        (0..MACHINES).filter_map(|machine| self.pid(machine)).collect()
    }

    fn ask<'a, T>(
        &'a self,
        machine: usize,
        asked: impl AsyncFnOnce(&'a ColdNode) -> Result<ColdReply, net::client::ClientError>,
        understood: impl FnOnce(Answer<'_>) -> Option<T>,
    ) -> Result<T, TargetError> {
        let node = node_of(machine);
        let Some(way) = &self.ways[machine] else { return Err(failed(format!("node {node} does not run"))) };
        let reply = self.clock.block_on(asked(way));
        let wrong = |what: String| failed(format!("node {node} at {}: {what}", way.address()));
        let reply = reply.map_err(|error| wrong(error.to_string()))?;
        let text = format!("{:?}", reply.answer());
        understood(reply.answer()).ok_or_else(|| wrong(format!("an answer that was not asked for: {text}")))
    }

    /// What a node says of itself. An error names what it said last when it has ended.
    pub(crate) fn status(&mut self, machine: usize) -> Result<Value, TargetError> {
        if self.nodes[machine].as_mut().is_some_and(Beside::has_ended) {
            let (node, said) = (node_of(machine), outside::told(&self.log(machine)));
            return Err(failed(format!("node {node} has ended: {said}")));
        }
        let understood = |answer: Answer<'_>| match answer {
            Answer::Status(text) => serde_json::from_str(text).ok(),
            _ => None,
        };
        self.ask(machine, async |way| way.status().await, understood)
    }

    /// What a node says of the files of a disk.
    pub(crate) fn files(&self, machine: usize, disk: u16) -> Result<Vec<FileSaid>, TargetError> {
        let (mut all, mut next) = (Vec::new(), Some(0));
        while let Some(file) = next {
            let of = ColdFilesOf { group: GROUP, disk, file, limit: 0, freed: true };
            let understood = |answer: Answer<'_>| {
                let Answer::Cold(ColdAnswer::Files(files)) = answer else { return None };
                all.extend(files.iter().map(|said| FileSaid {
                    file: said.file,
                    generation: said.generation,
                    head: said.head,
                    section_count: said.section_count,
                    freed: said.freed.to_vec(),
                    reserved: said.reserved().collect(),
                }));
                Some(files.head.more)
            };
            next = self.ask(machine, async |way| way.ask(&ColdRequest::Files(of)).await, understood)?;
        }
        Ok(all)
    }

    /// What a disk says it is.
    pub(crate) fn superblock(&self, machine: usize, number: u16) -> Result<ColdSuperblock, TargetError> {
        let disk = self.open(self.disk(machine, number), true)?;
        self.clock.block_on(open::read(self.io(), &disk)).map_err(failed)
    }

    fn open(&self, disk: &Path, read_only: bool) -> Result<Disk, TargetError> {
        self.io().open_disk(&disk.display().to_string(), DiskOpen { read_only }).map_err(failed)
    }

    /// A machine loses a disk: its node ends, and the disk that takes the lost one's place is blank, but for that it is to be filled.
    /// `upto`: what stands behind is nobody's.
    pub(crate) fn lose(&mut self, machine: usize, number: u16, upto: u64) -> Result<(), TargetError> {
        let middle = self.superblock(machine, number)?.geometry.copy_offset(1).0;
        self.end(machine);
        let path = self.disk(machine, number).to_owned();
        self.blank(&path, &[0..upto, middle..middle + BLOCK_BYTES as u64])?;
        let from = self.addresses[(machine + 1) % MACHINES].to_string();
        let (path, node, number) =
            (path.display().to_string(), node_of(machine).to_string(), number.to_string());
        let words = [
            "disk", "replace", &path, "--cold", "--node", &node, "--disk", &number, "--from", &from, "--yes",
        ];
        outside::run(&self.program, &words).map(drop).map_err(failed)
    }

    /// Zeros in parts of a disk of ours, and at its end.
    fn blank(&self, path: &Path, parts: &[std::ops::Range<u64>]) -> Result<(), TargetError> {
        let disk = self.open(path, false)?;
        let bytes = disk.geometry().bytes;
        let tail = bytes.saturating_sub(END_BYTES)..bytes;
        for part in parts.iter().chain([&tail]) {
            let done = self.clock.block_on(zeros(self.io(), &disk, part.start..part.end.min(bytes)));
            done.map_err(failed)?;
        }
        self.clock.block_on(disk.flush()).map_err(failed)
    }

    /// The first byte of a part of two disks that is not the same on both.
    pub(crate) fn first_difference(
        &self,
        one: &Path,
        other: &Path,
        part: std::ops::Range<u64>,
    ) -> Result<Option<u64>, TargetError> {
        let (one, other) = (self.open(one, true)?, self.open(other, true)?);
        self.clock.block_on(first_difference(self.io(), &one, &other, part)).map_err(failed)
    }

    /// Leave disks and files as they are at the end.
    pub(crate) fn keep(&mut self) {
        self.stays = true;
    }

    /// End the group. Disks that were named are blank again.
    pub(crate) fn close(mut self) -> Result<(), TargetError> {
        self.give_back()
    }

    fn give_back(&mut self) -> Result<(), TargetError> {
        (0..MACHINES).for_each(|machine| self.end(machine));
        if self.stays {
            return Ok(());
        }
        let taken = std::mem::take(&mut self.taken);
        let blank = |path: &PathBuf| self.blank(path, std::slice::from_ref(&(0..END_BYTES)));
        taken.iter().map(blank).fold(Ok(()), Result::and)
    }
}

impl Drop for ColdNodes {
    fn drop(&mut self) {
        // Who could tell has called `close`; after another failure, that one is what is told.
        let _ = self.give_back();
        if !self.stays {
            outside::remove_folder(&self.folder);
        }
    }
}

fn node_of(machine: usize) -> usize {
    FIRST_NODE + machine
}

fn buffer(io: &Io) -> Result<ioengine::Buf, String> {
    io.buffer(PIECE_BYTES as usize).ok_or_else(|| format!("no buffer of {PIECE_BYTES} bytes is left"))
}

fn pieces(part: std::ops::Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    let end = part.end;
    part.step_by(PIECE_BYTES as usize).map(move |at| (at, (end - at).min(PIECE_BYTES) as usize))
}

async fn zeros(io: &Io, disk: &Disk, part: std::ops::Range<u64>) -> Result<(), String> {
    let mut piece = buffer(io)?;
    piece.fill(0);
    for (at, bytes) in pieces(part) {
        let (done, back) = disk.write(piece, at, bytes).await;
        done.map_err(|error: DiskError| error.to_string())?;
        piece = back;
    }
    Ok(())
}

async fn first_difference(
    io: &Io,
    one: &Disk,
    other: &Disk,
    part: std::ops::Range<u64>,
) -> Result<Option<u64>, String> {
    let (mut left, mut right) = (buffer(io)?, buffer(io)?);
    for (at, bytes) in pieces(part) {
        let ((done, one), (also_done, other)) =
            ioengine::sync::join(one.read(left, at, bytes), other.read(right, at, bytes)).await;
        done.and(also_done).map_err(|error: DiskError| error.to_string())?;
        (left, right) = (one, other);
        if left[..bytes] != right[..bytes] {
            let same = left[..bytes].iter().zip(&right[..bytes]).take_while(|(one, other)| one == other);
            return Ok(Some(at + same.count() as u64));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ioengine::uring::create_file;

    #[test]
    fn one_byte_that_differs_is_found_and_what_lies_beside_is_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new(CoreConfig::small("differs", 0)).unwrap();
        let io = runtime.io();
        let paths = ["one", "other"].map(|name| folder.path().join(name));
        let [one, other] = paths.each_ref().map(|path| {
            create_file(path, 4 << 20).unwrap();
            io.open_disk(&path.display().to_string(), DiskOpen::default()).unwrap()
        });
        let differs = |part| runtime.block_on(first_difference(io, &one, &other, part)).unwrap();
        assert_eq!(differs(0..4 << 20), None);
        let at = (2 << 20) + 12_345_u64;
        runtime.block_on(async {
            let mut block = io.buffer(4096).unwrap();
            block.fill(0);
            block[at as usize % 4096] = 1;
            other.write(block, at / 4096 * 4096, 4096).await.0.unwrap();
        });
        assert_eq!(differs(0..4 << 20), Some(at));
        assert_eq!(differs(4096..3 << 20), Some(at));
        assert_eq!([differs(0..at / 4096 * 4096), differs((at / 4096 + 1) * 4096..4 << 20)], [None, None]);
        runtime.block_on(zeros(io, &other, 1 << 20..3 << 20)).unwrap();
        assert_eq!(differs(0..4 << 20), None);
    }
}
