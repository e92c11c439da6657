//! Every setting of a node: its name, its default, its reason, how its text is read.
//!
//! One table, so that the file, the environment, the flags, `config print` and the errors cannot disagree. Names of
//! limits are those that the node's own messages use.

use std::net::SocketAddr;
use std::time::Duration;

use ioengine::HostKind;
use net::peer::PeerVersions;
use shard::limits::Limits;

use super::cluster::{self, Cluster};
use super::cold::{self, Cold};
use super::sink::{self, Sink};
use crate::map::{recent_argument, recent_text, share_argument, share_text};
use crate::units::{duration_argument, duration_text, size_argument, size_text};

/// Where clients find a node unless told otherwise.
pub(crate) const LISTEN_DEFAULT: &str = "127.0.0.1:7420";

/// All settings of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What the node does.
    pub(crate) role: Role,
    /// Value rings of each core of a cache node, bytes.
    pub(crate) cache_bytes: u64,
    /// Path of the disk; empty = not given.
    pub(crate) disk_path: String,
    /// Disks of a cold node, and its bounds.
    pub(crate) cold: Cold,
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// What clients are told; none = where it listens.
    pub(crate) advertise: Option<SocketAddr>,
    /// The group.
    pub(crate) cluster: Cluster,
    /// The cold group.
    pub(crate) sink: Sink,
    /// What it speaks with the other nodes.
    pub(crate) versions: PeerVersions,
    /// Core i runs on processor i only.
    pub(crate) pin: bool,
    /// How long an idle core looks for work before it sleeps.
    pub(crate) spin: Duration,
    /// Who runs the tasks.
    pub(crate) host: HostKind,
    /// Bounds of each core.
    pub(crate) limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            role: Role::Store,
            cache_bytes: 256 << 20,
            disk_path: String::new(),
            cold: Cold::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], net::frame::PORT_DEFAULT)),
            advertise: None,
            cluster: Cluster::default(),
            sink: Sink::default(),
            versions: PeerVersions::ALL,
            pin: false,
            spin: Duration::ZERO,
            host: HostKind::Own,
            limits: Limits::default(),
        }
    }
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Keeps records on its disk.
    Store,
    /// Keeps what was read in memory, and asks the store whether it is still the newest.
    Cache,
    /// Keeps sealed windows on disks of its own.
    Cold,
}

impl Role {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Store => "store",
            Role::Cache => "cache",
            Role::Cold => "cold",
        }
    }
}

/// How a value is written in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// "text", also sizes and durations.
    Text,
    /// 123
    Count,
    /// true, false
    Switch,
    /// [ ... ]
    List,
}

/// One setting.
pub(crate) struct Setting {
    /// Section of the file.
    pub(crate) section: &'static str,
    /// Name in the section.
    pub(crate) key: &'static str,
    /// How it is written.
    pub(crate) kind: Kind,
    /// Why it is there and why its default is what it is.
    pub(crate) reason: &'static str,
    /// Its value as text.
    pub(crate) get: fn(&Settings) -> String,
    /// Reads its text. Errors: what is wrong and how it is written.
    pub(crate) set: fn(&mut Settings, &str) -> Result<(), String>,
}

impl Setting {
    /// Name of the environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("THERMOCLINE_{}_{}", self.section, self.key).to_uppercase()
    }

    /// `section.key`
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The value as TOML has it.
    pub(crate) fn toml_value(&self, settings: &Settings) -> String {
        let text = (self.get)(settings);
        match self.kind {
            Kind::List if text.is_empty() => "[]".to_owned(),
            Kind::Text => toml::Value::String(text).to_string(),
            Kind::Count | Kind::Switch | Kind::List => text,
        }
    }
}

fn count<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let number: Option<u64> = text.replace('_', "").parse().ok();
    number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("\"{text}\" is no count here: write a plain integer"))
}

fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("\"{text}\" is neither true nor false"))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no address: write IP:PORT, such as {LISTEN_DEFAULT}"))
}

fn host(text: &str) -> Result<HostKind, String> {
    match text {
        "own" => Ok(HostKind::Own),
        "glommio" => Ok(HostKind::Glommio),
        _ => Err(format!("\"{text}\" is no host: write own or glommio")),
    }
}

fn host_text(host: HostKind) -> &'static str {
    match host {
        HostKind::Own => "own",
        HostKind::Glommio => "glommio",
    }
}

/// A limit whose text is a size.
macro_rules! size {
    (cold $key:ident, $reason:literal) => {
        size!(@ "cold", cold.limits, $key, $reason)
    };
    ($key:ident, $reason:literal) => {
        size!(@ "limits", limits, $key, $reason)
    };
    (@ $section:literal, $($of:ident).+, $key:ident, $reason:literal) => {
        Setting {
            section: $section,
            key: stringify!($key),
            kind: Kind::Text,
            reason: $reason,
            get: |settings| size_text(settings.$($of).+.$key as u64),
            set: |settings, text| {
                let too_large = |_| format!("\"{text}\" is more than this setting can hold");
                settings.$($of).+.$key = size_argument(text)?.try_into().map_err(too_large)?;
                Ok(())
            },
        }
    };
}

/// A limit that is counted.
macro_rules! count {
    (cold $key:ident, $reason:literal) => {
        count!(@ "cold", cold.limits, $key, $reason)
    };
    ($key:ident, $reason:literal) => {
        count!(@ "limits", limits, $key, $reason)
    };
    (@ $section:literal, $($of:ident).+, $key:ident, $reason:literal) => {
        Setting {
            section: $section,
            key: stringify!($key),
            kind: Kind::Count,
            reason: $reason,
            get: |settings| settings.$($of).+.$key.to_string(),
            set: |settings, text| {
                settings.$($of).+.$key = count(text)?;
                Ok(())
            },
        }
    };
}

/// A limit of time.
macro_rules! duration {
    (cold $key:ident, $reason:literal) => {
        duration!(@ "cold", cold.limits, $key, $reason)
    };
    ($key:ident, $reason:literal) => {
        duration!(@ "limits", limits, $key, $reason)
    };
    (@ $section:literal, $($of:ident).+, $key:ident, $reason:literal) => {
        Setting {
            section: $section,
            key: stringify!($key),
            kind: Kind::Text,
            reason: $reason,
            get: |settings| duration_text(settings.$($of).+.$key),
            set: |settings, text| {
                settings.$($of).+.$key = duration_argument(text)?;
                Ok(())
            },
        }
    };
}

/// All settings, section by section.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        section: "node",
        key: "role",
        kind: Kind::Text,
        reason: "store: keeps records on its disk. cache: answers gets from memory, after asking the store; needs no disk. \
                 cold: keeps sealed windows on the disks of [cold]",
        get: |settings| settings.role.name().to_owned(),
        set: |settings, text| {
            settings.role = match text {
                "store" => Role::Store,
                "cache" => Role::Cache,
                "cold" => Role::Cold,
                _ => return Err(format!("\"{text}\" is no role: write store, cache or cold")),
            };
            Ok(())
        },
    },
    Setting {
        section: "node",
        key: "pin",
        kind: Kind::Switch,
        reason: "core i runs on processor i only. Off: other programs may need the processors, too",
        get: |settings| settings.pin.to_string(),
        set: |settings, text| {
            settings.pin = switch(text)?;
            Ok(())
        },
    },
    Setting {
        section: "node",
        key: "spin",
        kind: Kind::Text,
        reason: "how long an idle core looks for work before it sleeps. 20 us saves wake-ups where processors are its own",
        get: |settings| duration_text(settings.spin),
        set: |settings, text| {
            settings.spin = duration_argument(text)?;
            Ok(())
        },
    },
    Setting {
        section: "node",
        key: "host",
        kind: Kind::Text,
        reason: "who runs the tasks of a core: own or glommio",
        get: |settings| host_text(settings.host).to_owned(),
        set: |settings, text| {
            settings.host = host(text)?;
            Ok(())
        },
    },
    Setting {
        section: "disk",
        key: "path",
        kind: Kind::Text,
        reason: "the disk: a device by its stable name (/dev/disk/by-id/...), or a file. It has no default",
        get: |settings| settings.disk_path.clone(),
        set: |settings, text| {
            settings.disk_path = text.to_owned();
            Ok(())
        },
    },
    Setting {
        section: "network",
        key: "listen",
        kind: Kind::Text,
        reason: "where clients connect. This machine only, until you say who may reach it: there is no authentication yet",
        get: |settings| settings.listen.to_string(),
        set: |settings, text| {
            settings.listen = address(text)?;
            Ok(())
        },
    },
    Setting {
        section: "network",
        key: "advertise",
        kind: Kind::Text,
        reason: "the address that the cluster map names; empty = the one listened on. Needed when listening on all interfaces",
        get: |settings| settings.advertise.map_or_else(String::new, |address| address.to_string()),
        set: |settings, text| {
            settings.advertise = if text.is_empty() { None } else { Some(address(text)?) };
            Ok(())
        },
    },
    Setting {
        section: "cluster",
        key: "nodes",
        kind: Kind::List,
        reason: "all nodes of the group, this one too, the same list at each; empty = a node that is its own group",
        get: |settings| cluster::nodes_text(&settings.cluster.nodes),
        set: |settings, text| {
            settings.cluster.nodes = cluster::nodes(text)?;
            Ok(())
        },
    },
    Setting {
        section: "cluster",
        key: "caches",
        kind: Kind::List,
        reason: "cache nodes before the group, each with an id of its own, the same list at each node of the group; empty = none",
        get: |settings| cluster::nodes_text(&settings.cluster.caches),
        set: |settings, text| {
            settings.cluster.caches = cluster::nodes(text)?;
            Ok(())
        },
    },
    Setting {
        section: "cluster",
        key: "recent",
        kind: Kind::Text,
        reason: "gets of records younger than this go to the caches, none or all, until `thermocline map set` says otherwise",
        get: |settings| recent_text(settings.cluster.recent_us),
        set: |settings, text| {
            settings.cluster.recent_us = recent_argument(text)?;
            Ok(())
        },
    },
    Setting {
        section: "cluster",
        key: "cache_share",
        kind: Kind::Text,
        reason: "part of the streams whose recent records are asked of the caches, until `thermocline map set` says otherwise",
        get: |settings| share_text(settings.cluster.cache_share),
        set: |settings, text| {
            settings.cluster.cache_share = share_argument(text)?;
            Ok(())
        },
    },
    Setting {
        section: "tier",
        key: "cache_bytes",
        kind: Kind::Text,
        reason: "value rings of each core of a cache node, in shared memory; slots take a sixteenth more",
        get: |settings| size_text(settings.cache_bytes),
        set: |settings, text| {
            settings.cache_bytes = size_argument(text)?;
            Ok(())
        },
    },
    Setting {
        section: "cold",
        key: "disks",
        kind: Kind::List,
        reason: "the disks of a cold node, devices by their stable names (/dev/disk/by-id/...) or files; `disk format --cold` makes them. \
                 They say which node and which cold group this is",
        get: |settings| cold::disks_text(&settings.cold.disks),
        set: |settings, text| {
            settings.cold.disks = cold::disks(text)?;
            Ok(())
        },
    },
    Setting {
        section: "cold",
        key: "peers",
        kind: Kind::List,
        reason: "the two other machines of the cold group, where they listen: what is damaged here is written anew from them. Empty = nothing is mended",
        get: |settings| cold::peers_text(&settings.cold.peers),
        set: |settings, text| {
            settings.cold.peers = cold::peers(text)?;
            Ok(())
        },
    },
    Setting {
        section: "cold",
        key: "cores",
        kind: Kind::Count,
        reason: "cores of a cold node, each with its part of the disks. 0: as many as it has disks, and the machine processors",
        get: |settings| settings.cold.cores.to_string(),
        set: |settings, text| {
            settings.cold.cores = count(text)?;
            Ok(())
        },
    },
    size!(cold arena_bytes, "aligned buffers of a core of a cold node, for reads and writes of its disks and for connections"),
    count!(cold operation_count_max, "operations of disk and network in flight per core; a connection uses two"),
    count!(cold connection_count_max, "connections per core; more are turned away"),
    size!(cold frame_bytes_max, "body of a frame; a larger one writes sections in fewer pieces"),
    count!(cold in_flight_max, "requests in flight on one connection; more are Busy"),
    size!(cold outbox_bytes_max, "answers that may wait for one slow reader; then its requests are not read on"),
    size!(cold waiting_bytes_max, "requests of a core that wait for its disks; more are Busy"),
    count!(cold read_count_max, "reads that wait for one disk; more are Busy"),
    count!(cold reads_in_flight, "reads of one disk under way at once: the disk puts them in an order of its own"),
    count!(cold work_count_max, "reservations, writes, seals and the like that wait for one disk; more are Busy"),
    duration!(cold work_patience, "how long these wait at most while there are reads"),
    count!(cold forward_count_max, "requests on their way to one other core; more are Busy"),
    count!(cold reserved_max, "places of a disk that are reserved and not sealed; more are Busy"),
    count!(cold repair_count_max, "damaged places of a disk that are remembered for repair"),
    duration!(cold repair_retry, "how long a damaged place that could not be mended waits for the next try; twice as long each time"),
    duration!(cold disk_hang_after, "a disk on which nothing ends for so long is set aside, and probed until it is well; 0 s = no disk ever is"),
    duration!(cold disk_service, "what an operation of a disk may take, besides its bytes; a disk that takes ten times that for seconds is set aside"),
    duration!(cold aside_min, "how long a disk is set aside at least; twice as long each time if it was a short while ago"),
    duration!(cold aside_max, "the same at most, however often it was"),
    duration!(cold scrub_period, "in which time every section of a disk is read and checked; 0 s = never"),
    size!(cold scrub_bytes_per_second, "what the scrub of a disk reads at most in a second, if it is behind"),
    size!(cold rebuild_bytes_per_second, "what the filling of a disk that took another's place writes at most in a second; it waits for reads anyhow"),
    duration!(cold rebuild_alone_after, "how long another machine may be silent before a disk is filled from the third alone"),
    duration!(cold request_deadline, "longest wait of a request before it is answered Timeout"),
    duration!(cold reuse_delay, "how long an emptied file stays as it is: longer than any request that may still read it"),
    duration!(cold hello_deadline, "how long a connection may stay without hello"),
    duration!(cold drain_deadline, "how long a stop waits for what is in flight"),
    Setting {
        section: "cluster",
        key: "replicas",
        kind: Kind::Count,
        reason: "nodes that hold each record: 3 on 3, 5 or 6 nodes, 5 on 5 or 6. One may fail with 3, two with 5",
        get: |settings| settings.cluster.replicas.to_string(),
        set: |settings, text| {
            settings.cluster.replicas = count(text)?;
            Ok(())
        },
    },
    Setting {
        section: "cluster",
        key: "epoch",
        kind: Kind::Count,
        reason: "version of the list: one more with each change. Nodes with different ones do not talk to each other",
        get: |settings| settings.cluster.epoch.to_string(),
        set: |settings, text| {
            settings.cluster.epoch = count(text)?;
            Ok(())
        },
    },
    Setting {
        section: "cluster",
        key: "peer_version",
        kind: Kind::Count,
        reason: "newest version of the messages between nodes that this one speaks; nodes use the highest that both speak. Lower it \
                 before a build is put back that speaks less",
        get: |settings| settings.versions.newest().to_string(),
        set: |settings, text| {
            let newest = PeerVersions::ALL.newest();
            let versions = PeerVersions::up_to(count(text)?);
            settings.versions =
                versions.ok_or(format!("this build speaks the versions from 1 to {newest}"))?;
            Ok(())
        },
    },
    Setting {
        section: "sink",
        key: "nodes",
        kind: Kind::List,
        reason: "the three nodes of the cold group that sealed windows are sunk to, where they listen, the same list at each node of the \
                 store; empty = nothing is sunk",
        get: |settings| sink::nodes_text(&settings.sink.nodes),
        set: |settings, text| {
            settings.sink.nodes = sink::nodes(text)?;
            Ok(())
        },
    },
    Setting {
        section: "sink",
        key: "group",
        kind: Kind::Count,
        reason: "number of the cold group: `disk format --group` of its disks",
        get: |settings| settings.sink.group.to_string(),
        set: |settings, text| {
            settings.sink.group = count(text)?;
            Ok(())
        },
    },
    Setting {
        section: "sink",
        key: "disks",
        kind: Kind::Count,
        reason: "how many disks each node of the cold group has, with the numbers from 0 on; 0 = not given",
        get: |settings| settings.sink.disks.to_string(),
        set: |settings, text| {
            settings.sink.disks = count(text)?;
            Ok(())
        },
    },
    Setting {
        section: "sink",
        key: "after",
        kind: Kind::Text,
        reason: "cold age: a sealed window is sunk once its end is older than this, by the time of the log. The last ninety days stay \
                 on the disk of the node",
        get: |settings| duration_text(settings.sink.after),
        set: |settings, text| {
            settings.sink.after = duration_argument(text)?;
            Ok(())
        },
    },
    size!(arena_bytes, "aligned buffers of a core, for connections and journal records"),
    count!(operation_count_max, "operations of disk and network in flight per core; a connection uses two"),
    size!(memtable_bytes, "the two memtables of a core: while one is written to tables, the other is filled"),
    count!(
        memtable_record_count_max,
        "records in the two memtables of a core; their indexes are laid out at start"
    ),
    size!(block_cache_bytes, "blocks of tables of a core that were read lately, decompressed"),
    count!(block_bytes, "a block of a table before compression: what one get from the disk reads"),
    count!(run_level, "level of zstd for the blocks of runs; 0 = not compressed"),
    duration!(
        seal_age,
        "how old records are when their window may be sealed: a week of late writes comes before that"
    ),
    size!(
        window_bytes,
        "a sealed window before compression: large enough that a tablet has few, small enough to be written again"
    ),
    count!(
        sealed_block_bytes,
        "a block of a sealed window before compression: larger ones compress better and cost a get more"
    ),
    count!(
        sealed_level,
        "level of zstd for sealed windows: written seldom and kept for long, they are worth more than runs"
    ),
    size!(
        sealed_dictionary_bytes,
        "a dictionary that a sealed window makes of its own records, if it pays, and keeps in memory; 0 = none"
    ),
    size!(sealed_cache_bytes, "blocks of sealed windows of a core that were read lately, decompressed"),
    count!(
        merge_fan_in,
        "runs of one level that become one of the next: more means less rewriting and more to ask"
    ),
    duration!(scrub_period, "in which time everything in use on the disk is read and checked; 0 s = never"),
    duration!(verify_period, "how often the replicas of each tablet compare what they hold; 0 s = never"),
    duration!(sink_patience, "how long the sink of a window may take until another replica takes it up"),
    duration!(sweep_every, "how often a core looks whether cold disks hold what is nobody's"),
    size!(scrub_bytes_per_second, "what the scrub of a core reads at most in a second, if it is behind"),
    count!(
        runs_per_tablet_max,
        "runs of one tablet: a flush waits for merges before it makes more, and writes are Busy when memory is full"
    ),
    count!(
        windows_per_tablet_max,
        "sealed windows of one tablet: beyond that the thinnest become one; each takes memory for its index and filter"
    ),
    size!(
        maintenance_bytes_per_second,
        "what merges and seals of a core may read and write at least; more when writes bring more, any amount when they lag"
    ),
    duration!(
        maintenance_every,
        "how often a core that is idle looks whether anything has expired or is old enough to be sealed"
    ),
    count!(reader_count, "requests of a core that read the disk at once"),
    count!(parked_count_max, "requests of a core that wait to read the disk; more are Busy"),
    size!(
        waiting_bytes_max,
        "requests of a core that wait for its disk, and multi-gets that wait for other cores; more are Busy"
    ),
    size!(
        log_tail_bytes,
        "the last entries of a core's logs: who is further behind in a group gets a copy of the tablet instead"
    ),
    count!(version_row_count, "rows of 64 bytes and 4 keys in the version cache of a core; a power of two"),
    count!(connection_count_max, "connections per core; more are turned away"),
    count!(in_flight_max, "requests in flight on one connection; more are Busy"),
    size!(frame_bytes_max, "body of a frame; a value and its request fit into 4 MiB many times"),
    size!(outbox_bytes_max, "answers that may wait for one slow reader; then its requests are not read on"),
    size!(staging_bytes, "writes that wait together for the journal of a core; more are Busy"),
    count!(staging_count_max, "writes that wait together for the journal of a core; more are Busy"),
    size!(
        record_bytes_max,
        "one journal record; holds staging_bytes and 5 % more, and fits a journal segment"
    ),
    count!(request_count_max, "request ids kept per tablet, so that a retry finds its outcome"),
    duration!(request_horizon, "how long a request id is kept: a retry within it is applied once"),
    duration!(request_horizon_min, "how early an id may go when the table is full"),
    count!(recent_count, "keys per tablet whose last write is remembered for compare-and-set"),
    size!(ring_bytes, "each ring between two cores"),
    count!(forward_count_max, "requests on their way to one other core; more are Busy"),
    duration!(request_deadline, "longest wait of a request before it is answered UnknownOutcome or Timeout"),
    duration!(hello_deadline, "how long a connection may stay without hello"),
    duration!(
        time_ahead_max,
        "how far in the future a record's time may lie: a window there would never close"
    ),
    duration!(mark_after, "quiet time after which the journal says that all before it is flushed"),
    duration!(drain_deadline, "how long a stop waits for what is in flight"),
];

/// The names of the sections.
pub(crate) const SECTIONS: [&str; 8] =
    ["node", "disk", "tier", "cold", "network", "cluster", "sink", "limits"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_address_is_one_everywhere() {
        assert_eq!(LISTEN_DEFAULT.parse(), Ok(Settings::default().listen));
    }

    #[test]
    fn every_setting_reads_its_own_text_back() {
        let nodes = [1, 2, 3].map(|last| SocketAddr::from(([10, 0, 0, last], 7420))).to_vec();
        let cold = Cold {
            disks: vec!["/dev/y".to_owned(), "a \"b\", c".to_owned()],
            peers: nodes[..2].to_vec(),
            ..Cold::default()
        };
        let sink = Sink { nodes, group: 9, disks: 65_535, after: Duration::from_secs(7) };
        let settings =
            Settings { disk_path: "/dev/x".to_owned(), role: Role::Cold, cold, sink, ..Settings::default() };
        let mut back = Settings::default();
        for setting in SETTINGS {
            assert!(SECTIONS.contains(&setting.section));
            (setting.set)(&mut back, &(setting.get)(&settings)).unwrap();
        }
        assert_eq!(back, settings);
    }

    #[test]
    fn every_limit_is_a_setting() {
        let counted = |section| SETTINGS.iter().filter(|setting| setting.section == section).count();
        let fields = format!("{:?}", Limits::default()).matches(": ").count();
        assert_eq!(counted("limits"), fields);
        let fields = format!("{:?}", Cold::default().limits).matches(": ").count();
        assert_eq!(counted("cold"), fields + 3, "and disks, peers, cores");
    }

    #[test]
    fn wrong_texts_are_refused_with_the_way_to_write_them() {
        let set = |key: &str, text: &str| {
            let setting = SETTINGS.iter().find(|setting| setting.key == key).unwrap();
            (setting.set)(&mut Settings::default(), text).unwrap_err()
        };
        assert!(set("listen", "localhost").contains("IP:PORT"));
        assert!(set("arena_bytes", "1 mib").contains("MiB"));
        assert!(set("frame_bytes_max", "8 GiB").contains("more than"));
        assert!(set("recent_count", "-1").contains("integer"));
        assert!(set("pin", "yes").contains("true"));
        assert!(set("host", "x").contains("glommio"));
        assert!(set("mark_after", "5").contains("ms"));
    }
}
