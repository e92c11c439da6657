//! A group of our nodes as processes of the running program: `thermocline serve`, one disk file each. Owns the processes and their
//! files, and ends and removes them.

use crate::cpu::CpuOf;
use crate::load::wire::thermocline::ThermoclineWire;
use crate::load::{Mode, Plan, run};
use crate::outside::{self, Beside};
use crate::target::TargetError;
use crate::workloads::numbers::{NAME_BYTES, StreamName};
use crate::workloads::{Workload, request_room};
use ioengine::uring::{Runtime, SHARED_MEMORY_VARIABLE};
use ioengine::{CoreConfig, Io};
use layout::key::Key;
use layout::units::{LogTime, Space, TABLET_COUNT, TabletIndex, Uuid};
use net::request::Put;
use net::request_id::RequestIds;
use net::route::{self, ClusterMap, Roles};
use net::{Operation, Request};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Cluster of what a bench starts.
pub(crate) const CLUSTER: Uuid = Uuid(*b"thermocline perf");
/// Until each tablet takes writes.
const CURRENT: Duration = Duration::from_secs(60);
const CURRENT_POLL: Duration = Duration::from_millis(100);

/// What a group is made of.
pub(crate) struct GroupPlan<'a> {
    /// Folder for what is made.
    pub(crate) dir: &'a Path,
    /// Where its nodes will listen.
    pub(crate) addresses: &'a [SocketAddr],
    /// Shards of each.
    pub(crate) shards: u16,
    /// Bytes of each one's disk, of the journal of each shard on it, and of a segment of that.
    pub(crate) disk_bytes: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) segment_bytes: u64,
}

/// A group of nodes.
pub(crate) struct Group {
    nodes: Vec<Beside>,
    program: String,
    folder: PathBuf,
    members: String,
    disks: Vec<String>,
    /// Where each listens.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Something is wrong that somebody has to look at.
    stays: bool,
}

fn failed(error: impl std::fmt::Display) -> TargetError {
    TargetError(format!("a group of nodes: {error}"))
}

impl Group {
    /// Makes disks below the folder of the plan. No node runs yet.
    pub(crate) fn format(plan: &GroupPlan<'_>) -> Result<Group, TargetError> {
        let folder = plan.dir.join("group");
        outside::remove_folder(&folder);
        outside::make_folder(&folder).map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?.display().to_string();
        let cluster = CLUSTER.to_string();
        let members: Vec<String> = (1..)
            .zip(plan.addresses)
            .map(|(id, address)| format!("{{ id = {id}, address = \"{address}\", zone = {id} }}"))
            .collect();
        let disk = |number: usize| folder.join(format!("disk-{number}")).display().to_string();
        let group = Group {
            nodes: Vec::new(),
            program,
            members: format!("cluster.nodes=[{}]", members.join(", ")),
            disks: (1..=plan.addresses.len()).map(disk).collect(),
            folder,
            addresses: plan.addresses.to_vec(),
            stays: false,
        };
        let (shards, bytes) = (plan.shards.to_string(), plan.disk_bytes.to_string());
        let (journal, segment) = (plan.journal_bytes.to_string(), plan.segment_bytes.to_string());
        for (number, disk) in (1..).zip(&group.disks) {
            let number: String = u32::to_string(&number);
            let mut words = vec!["disk", "format", disk, "--create", &bytes, "--shards", &shards];
            words.extend(["--journal", &journal, "--segment", &segment]);
            words.extend(["--node", &number, "--cluster", &cluster, "--found", "--yes"]);
            outside::run(&group.program, &words).map_err(failed)?;
        }
        Ok(group)
    }

    /// Starts a node on each disk, with these settings beside its place, until each tablet takes writes; those that run end first.
    pub(crate) fn serve(&mut self, settings: &[impl AsRef<str>]) -> Result<(), TargetError> {
        self.nodes.clear();
        // Beside the version caches of others on this machine.
        let memory = format!("{SHARED_MEMORY_VARIABLE}={}", self.folder.display());
        for (place, (disk, address)) in self.disks.iter().zip(&self.addresses).enumerate() {
            let own =
                [format!("disk.path={disk}"), format!("network.listen={address}"), self.members.clone()];
            let settings = own.iter().map(String::as_str).chain(settings.iter().map(AsRef::as_ref));
            let words =
                [self.program.as_str(), "serve"].into_iter().chain(settings.flat_map(|one| ["--set", one]));
            let command = ["env", &memory].into_iter().chain(words).map(str::to_owned);
            let node = Beside::start_told(&command.collect::<Vec<_>>(), &self.log(place));
            self.nodes.push(node.map_err(failed)?);
        }
        self.until_current()
    }

    fn log(&self, place: usize) -> PathBuf {
        self.folder.join(format!("node-{}.log", place + 1))
    }

    /// Wait until the first replica of each tablet takes a write.
    fn until_current(&mut self) -> Result<(), TargetError> {
        let clock = Clock::new()?;
        let first = first_replicas(&self.addresses);
        let begun = clock.io().now();
        for place in 0..self.addresses.len() {
            let own = first.iter().zip(TabletIndex::all()).filter(|(node, _)| **node == place);
            let own: Vec<TabletIndex> = own.map(|(_, tablet)| tablet).collect();
            loop {
                if self.nodes[place].has_ended() {
                    let said = outside::told(&self.log(place));
                    return Err(failed(format!("node {} has ended: {said}", place + 1)));
                }
                let plan = Plan {
                    insists: true,
                    address: self.addresses[place],
                    connection_count: 1,
                    mode: Mode::Closed { depth: 1 },
                    warm_up: Duration::ZERO,
                    window: None,
                    server: CpuOf::Unknown,
                    cpu: None,
                };
                let puts = OnePutEach::new(clock.io(), own.clone());
                let (measured, _) = run(&plan, |_| ThermoclineWire::new(1, 1), puts).map_err(failed)?;
                let outcomes = measured.meter.outcomes();
                if outcomes == BTreeMap::from([("Ok", own.len() as u64)]) {
                    break;
                }
                if clock.io().now().since(begun) >= CURRENT {
                    let said = outside::told(&self.log(place));
                    let node = place + 1;
                    return Err(failed(format!(
                        "of {} tablets node {node} does not take the writes within {CURRENT:?}, it answers {outcomes:?}; it said: {said}",
                        own.len()
                    )));
                }
                clock.rest(CURRENT_POLL);
            }
        }
        Ok(())
    }

    /// End all nodes at once.
    pub(crate) fn end(&mut self) {
        self.nodes.clear();
    }

    /// Leave disks and logs as they are at the end.
    pub(crate) fn keep(&mut self) {
        self.stays = true;
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Beside::pid).collect()
    }

    /// The command of the first node.
    pub(crate) fn command(&self) -> &str {
        &self.nodes[0].command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
        if !self.stays {
            outside::remove_folder(&self.folder);
        }
    }
}

/// One put to each of some tablets, of now.
struct OnePutEach {
    /// By tablet: a stream of it.
    streams: Vec<StreamName>,
    done: usize,
    ids: RequestIds,
    time: u64,
}

impl OnePutEach {
    fn new(io: &Io, tablets: Vec<TabletIndex>) -> OnePutEach {
        let mut streams = vec![None; TABLET_COUNT];
        for name in (0..).map(StreamName::of) {
            if tablets.iter().all(|tablet| streams[tablet.index()].is_some()) {
                break;
            }
            let key = Key { space: Space::DEFAULT, stream: name.bytes(), time: 0 };
            streams[key.tablet().index()].get_or_insert(name);
        }
        let streams = tablets.iter().filter_map(|tablet| streams[tablet.index()]).collect();
        OnePutEach { streams, done: 0, ids: RequestIds::new(io.random().max(1)), time: io.wall_us() }
    }
}

impl Workload for OnePutEach {
    fn operations(&self) -> &'static [Operation] {
        &[Operation::Put]
    }

    fn request_bytes_max(&self) -> usize {
        request_room(1, NAME_BYTES, 0)
    }

    fn next(&mut self) -> Option<Request<'_>> {
        let name = self.streams.get(self.done)?;
        self.done += 1;
        let key = Key { space: Space::DEFAULT, stream: name.bytes(), time: self.time };
        let id = self.ids.next(0, key.tablet());
        Some(Request::Put(Put { id, key, expiry: 0, value: &[] }))
    }

    fn learn(&mut self, tablet: TabletIndex, log_time: LogTime) {
        self.ids.learn(0, tablet, log_time);
    }
}

/// Which of `count` nodes, equal but for their number, clients try first for each tablet.
pub(crate) fn first_replicas(addresses: &[SocketAddr]) -> Vec<usize> {
    let node = |(id, &address): (u32, &SocketAddr)| route::Node {
        id,
        address,
        zone: u16::try_from(id).expect("nodes are few"),
        roles: Roles::STORE,
        shard_count: 1,
    };
    let nodes: Vec<route::Node> = (1u32..).zip(addresses).map(node).collect();
    let groups = vec![route::Group { replicas: 3, members: nodes.iter().map(|node| node.id).collect() }];
    let map = ClusterMap {
        epoch: 1,
        cluster: Uuid([7; 16]),
        revision: 0,
        recent_us: 0,
        cache_share: 0,
        nodes,
        groups,
    };
    let order = map.replica_order(0).expect("a map of three equals has an order");
    TabletIndex::all().map(|tablet| usize::from(order.of(tablet)[0])).collect()
}

/// A clock of a core that does nothing else.
pub(crate) struct Clock(pub(crate) Runtime);

impl Clock {
    /// One of its own, with few buffers.
    pub(crate) fn new() -> Result<Clock, TargetError> {
        Runtime::new(CoreConfig::small("clock", 0)).map(Clock).map_err(failed)
    }

    pub(crate) fn io(&self) -> &ioengine::Io {
        self.0.io()
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.block_on(future)
    }

    pub(crate) fn rest(&self, wait: Duration) {
        self.0.block_on(self.0.io().sleep(wait));
    }
}

/// Addresses that nobody listens on now.
pub(crate) fn free_addresses<const COUNT: usize>() -> Result<([SocketAddr; COUNT], Clock), TargetError> {
    let failed = |error: &dyn std::fmt::Display| TargetError(format!("no free port: {error}"));
    let runtime = Runtime::new(CoreConfig::small("port", 0)).map_err(|error| failed(&error))?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listeners = (0..COUNT)
        .map(|_| runtime.io().listen(any).map_err(|error| failed(&error)))
        .collect::<Result<Vec<_>, _>>()?;
    let addresses = std::array::from_fn(|at| listeners[at].address());
    drop(listeners);
    Ok((addresses, Clock(runtime)))
}
