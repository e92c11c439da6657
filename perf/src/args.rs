//! Arguments of `thermocline bench`. Owns names and defaults; says nothing of how a bench runs.

use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchName {
    /// The reference mix: 100 reads to 1 write, most of them of the last day; latency under an open load
    Timeline,
    /// Puts, then batches, of real data where it is there
    Ingest,
    /// Gets of records in memory, pipelined and not, beside a bare echo, a frame echo, redis and memcached
    GetMemory,
    /// Gets through a cache that asks the store about each, beside gets from the store and redis
    GetCache,
    /// Gets of records that lie in tables: reads of the device per get, what the records cost on it, beside fio and RocksDB
    GetDisk,
    /// Gets from a disk of the cold tier: one read of the device each, beside fio's reads of the same size
    Cold,
    /// Durable puts of 64 writers with one in flight each, beside fio's write + fdatasync, RocksDB and redis
    PutDurable,
    /// Durable puts with three replicas in three processes, beside etcd with three members
    PutCluster,
    /// Old windows of three stores that sink to three cold nodes, beside fio's sequential writes to the same disks
    Sink,
    /// A lost disk of one of three cold nodes, filled from the two others, beside fio's sequential reads and writes of their disks
    Rebuild,
    /// The worst wait while memtables are flushed, runs merged and windows sealed, beside a node with nothing to do and fio
    Background,
    /// The core workloads of YCSB, beside redis with its append-only file where it can do the same
    Ycsb,
    /// Scans of ranges of a stream, of sealed records, beside fio's reads in a row
    Scan,
    /// The upper bounds alone: bare echoes of 64 to 256 bytes, and the frame echo
    Limits,
    /// Instructions and cache misses of single steps, counted by valgrind: the same on a noisy machine
    Micro,
    /// All others in one run: redis, memcached, RocksDB, etcd, fio. Says what is missing and how to get it
    Peers,
    /// The hosts that can run a core's tasks, under the same load
    Hosts,
    /// Processor time of a node that nobody asks anything
    Idle,
    /// All of the above but put-cluster, sink and rebuild, one after the other
    All,
    /// Two runs that were kept: `bench compare A B`
    Compare,
}

/// Who runs the tasks of an in-process node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum HostChoice {
    /// Our own executor
    #[default]
    Own,
    /// glommio
    Glommio,
}

/// Where the gets of `timeline` go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ThroughChoice {
    /// All to a cache node
    Cache,
    /// All to the store
    Store,
    /// Those of the last day to a cache node, as a map would say
    Map,
}

/// One of the core workloads of YCSB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum YcsbChoice {
    /// Half reads, half updates
    A,
    /// 95 % reads, 5 % updates
    B,
    /// Reads
    C,
    /// 95 % reads of the latest, 5 % inserts
    D,
    /// 95 % short scans, 5 % inserts
    E,
    /// Half reads, half read-modify-writes
    F,
}

impl std::fmt::Display for ThroughChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ThroughChoice::Cache => "cache",
            ThroughChoice::Store => "store",
            ThroughChoice::Map => "map",
        })
    }
}

/// Arguments of `thermocline bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    pub name: BenchName,
    /// With `compare`: two reports as JSON, or folders that hold one
    #[arg(num_args = 0..=2)]
    pub reports: Vec<PathBuf>,
    /// Measure the node that serves here; without it one is started in this process on a file in --dir
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "in_process")]
    pub endpoint: Option<SocketAddr>,
    /// Process of the node at --endpoint, for its processor time
    #[arg(long, value_name = "PID", requires = "endpoint")]
    pub server_pid: Option<u32>,
    /// Start the node in this process (the default)
    #[arg(long)]
    pub in_process: bool,
    /// Measured seconds of each side in each round
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub seconds: f64,
    /// Seconds of load before the measured ones
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub warm_up: f64,
    /// How often each side gets its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Records to load before measuring
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u64).range(64..=1 << 32))]
    pub records: u64,
    /// Requests per second of the open load; without it, half of what a closed loop reaches
    #[arg(long, value_name = "PER_SECOND", value_parser = positive)]
    pub rate: Option<f64>,
    /// With `timeline`: put a cache node before the store and send gets so
    #[arg(long, value_enum, conflicts_with = "endpoint")]
    pub through: Option<ThroughChoice>,
    /// With `--through`: the store has its records in tables, with small memtables and a block cache for a 64th of them, and a version cell
    /// of 16 bytes for each; else it has all in memory
    #[arg(long, requires = "through")]
    pub in_tables: bool,
    /// With `ycsb`: only these workloads
    #[arg(long, value_enum)]
    pub workload: Vec<YcsbChoice>,
    /// Seed of keys, times, values and schedules
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Real data to ingest: NDJSON with stream, time_us and value, zstd-compressed
    #[arg(long, value_name = "FILE", default_value = "../shared/data/commits.ndjson.zst")]
    pub data: PathBuf,
    /// Folder for the disks that benches make, and remove
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub dir: PathBuf,
    /// With `rebuild` and `sink`: cold disks to take instead of files in --dir, one of each of three machines, then the next of each. They must be blank,
    /// as for `disk format`, and are blank again at the end: what they hold is written over
    #[arg(long, value_name = "DISK,DISK,DISK", value_delimiter = ',')]
    pub disks: Vec<PathBuf>,
    /// Who runs the tasks of the in-process node
    #[arg(long, value_enum, default_value_t)]
    pub host: HostChoice,
    /// How long an idle core of the in-process node looks for work before it sleeps, microseconds
    #[arg(long, default_value_t = 0)]
    pub spin_us: u64,
    /// Leave the choice of processors to the system, instead of one for the generator and one for the server
    #[arg(long)]
    pub no_pin: bool,
    /// Only cases whose name has this in it
    #[arg(long, value_name = "PART")]
    pub case: Option<String>,
    /// Only these sides, by their names in the report (thermocline, bare echo, redis, memcached, rocksdb, etcd, fio, ...)
    #[arg(long, value_name = "NAME")]
    pub side: Vec<String>,
    /// Write the figures here as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write the report here as markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write the report here as one page of HTML with charts, which needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Keep the run in this folder as DATE-HOST-COMMIT/NAME.json, .md and .html
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// With `micro`: instructions that each case may take; more is a failure
    #[arg(long, value_name = "FILE")]
    pub budgets: Option<PathBuf>,
    /// With `micro`: go through the cases without counting, as valgrind wants it
    #[arg(long, hide = true)]
    pub bare: bool,
    /// Few records and short rounds: shows that the benches work, not how fast anything is
    #[arg(long)]
    pub smoke: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("a number above 0 is wanted".to_owned()),
    }
}

impl BenchArgs {
    /// The arguments with the sizes of a smoke run where that was asked for.
    pub(crate) fn sized(mut self) -> BenchArgs {
        if self.smoke {
            self.seconds = self.seconds.min(0.3);
            self.warm_up = self.warm_up.min(0.1);
            // All peers together have a minute.
            let rounds = if self.name == BenchName::Peers { 1 } else { 2 };
            self.rounds = self.rounds.min(rounds);
            self.records = self.records.min(1 << 14);
        }
        self
    }
}
