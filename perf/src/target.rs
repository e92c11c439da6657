//! What is measured: a node that this process starts on a disk of its own, or one that serves elsewhere. Owns the disk
//! file and the version cache, and removes them.

use crate::cpu::{self, CpuOf};
use crate::outside;
use ioengine::disk::DiskOpen;
use ioengine::uring::{Runtime, create_file, region_path};
use ioengine::{CoreConfig, HostKind, Launcher};
use layout::units::Uuid;
use shard::format::{FormatPlan, format};
use shard::limits::Limits;
use shard::node::{Event, Node, NodeConfig, start};
use shard::recover::region_name;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

/// A server to measure.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whose processor time is its own.
    pub cpu: CpuOf,
}

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TargetError(pub String);

fn failed(error: impl std::fmt::Display) -> TargetError {
    TargetError(error.to_string())
}

/// How an in-process node is laid out.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Folder of its disk.
    pub dir: PathBuf,
    /// Bytes of its journal.
    pub journal_bytes: u64,
    /// Bytes of its disk beside the journal: superblocks, manifest and tables.
    pub table_bytes: u64,
    /// Bounds of its core.
    pub limits: Limits,
    /// Who runs its tasks.
    pub host: HostKind,
    /// How long it looks for work before it sleeps, microseconds.
    pub spin_us: u64,
    /// Processor that its core keeps to; `None` leaves it to the system.
    pub cpu: Option<usize>,
}

/// Bytes of a journal segment.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A node of one core in this process.
pub struct InProcess {
    node: Option<Node>,
    disk: PathBuf,
    /// The version cache of its shard.
    versions: PathBuf,
    target: Target,
}

impl InProcess {
    /// Make a disk, format it and start a node on it.
    ///
    /// # Errors
    /// What could not be had.
    pub fn start(plan: &NodePlan) -> Result<InProcess, TargetError> {
        outside::make_folder(&plan.dir).map_err(failed)?;
        let disk = plan.dir.join(format!("bench-{}.disk", std::process::id()));
        outside::remove(&disk);
        create_file(&disk, plan.journal_bytes + plan.table_bytes).map_err(failed)?;
        let device = format_disk(&disk, plan.journal_bytes)?;
        let versions = region_path(&region_name(device, 0));
        let config = NodeConfig {
            disk: disk.display().to_string(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            map: None,
            without: Vec::new(),
            versions: net::peer::PeerVersions::ALL,
            core_count: 1,
            host: plan.host,
            pin: false,
            spin_us: plan.spin_us,
            limits: plan.limits.clone(),
            sink: None,
        };
        let before = cpu::threads();
        let (tell, told) = mpsc::channel();
        let node = start(&Launcher::Threads, &config, Arc::new(move |event| drop(tell.send(event))));
        let node = node.map_err(|error| {
            outside::remove(&disk);
            outside::remove(&versions);
            failed(error)
        })?;
        // Taken now, so that an early return drains it and removes the disk.
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut this =
            InProcess { node: Some(node), disk, versions, target: Target { address, cpu: CpuOf::Unknown } };
        this.target.address = loop {
            match told.recv() {
                Ok(Event::Serving(address)) => break address,
                Ok(Event::Recovered { .. }) => {}
                Ok(Event::Failed(text)) => return Err(TargetError(text)),
                Err(_) => return Err(TargetError("the node has ended while starting".to_owned())),
            }
        };
        let threads: Vec<u32> =
            cpu::threads().into_iter().filter(|thread| !before.contains(thread)).collect();
        if let Some(cpu) = plan.cpu {
            cpu::keep_to(&threads, cpu).map_err(failed)?;
        }
        this.target.cpu = CpuOf::Threads(threads);
        Ok(this)
    }

    /// Where it listens and whose time it uses.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            node.drain();
            node.join();
        }
        outside::remove(&self.disk);
        outside::remove(&self.versions);
    }
}

fn format_disk(disk: &Path, journal_bytes: u64) -> Result<Uuid, TargetError> {
    let runtime = Runtime::new(CoreConfig::small("format", 0)).map_err(failed)?;
    let io = runtime.io().clone();
    let plan = FormatPlan {
        cluster: Uuid(*b"thermocline perf"),
        node: 1,
        shard_count: 1,
        journal_bytes: Some(journal_bytes),
        segment_bytes: SEGMENT_BYTES.min(journal_bytes / 4),
        recovers: false,
        anew: true,
    };
    let name = disk.display().to_string();
    runtime.block_on(async move {
        let disk = io.open_disk(&name, DiskOpen::default()).map_err(failed)?;
        format(&io, &disk, &plan).await.map(|made| made.device).map_err(failed)
    })
}

/// Bounds of a core that is to hold `record_count` records of about `record_bytes` in one of its two memtables, and as many
/// more: nothing is flushed to tables.
#[must_use]
pub fn limits_for(record_count: u64, record_bytes: u64) -> Limits {
    let room = usize::try_from(4 * record_count).expect("records of a bench fit memory");
    let per_record = usize::try_from(record_bytes).expect("small") + 128;
    let limits = Limits::default();
    Limits {
        memtable_bytes: limits.memtable_bytes.max(room * per_record),
        memtable_record_count_max: limits.memtable_record_count_max.max(room),
        version_row_count: limits.version_row_count.max((room / 4).next_power_of_two()),
        ..limits
    }
}
