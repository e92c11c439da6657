//! Durable puts with three replicas on one machine, beside etcd with three members: the same generator, 64 connections, one put in
//! flight on each.

use super::BenchError;
use super::puts::{WRITERS, client_of};
use super::session::{CLIENT, OWN, Session, Side};
use crate::group::{Group, GroupPlan, first_replicas, free_addresses};
use crate::load::wire::etcd::EtcdWire;
use crate::load::wire::thermocline::ThermoclineWire;
use crate::load::{CpuOf, Measured, Mode, Plan, begin};
use crate::peers::etcd::Etcd;
use crate::report::{About, Aim, figures_of};
use crate::workloads::put_durable::{PutDurable, VALUE_BYTES};
use layout::zone::SEGMENT_BYTES_DEFAULT;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How long nodes may take to listen.
const CONNECT: Duration = Duration::from_secs(20);
/// Until members have found each other and been idle for a moment.
const REST: Duration = Duration::from_secs(2);

/// Settings of each node beside its place.
const SETTINGS: [&str; 3] = [
    "limits.memtable_bytes=256MiB",
    "limits.memtable_record_count_max=1000000",
    "limits.block_cache_bytes=16MiB",
];
/// Of each node: room for a round's puts, and for those of a smoke run.
const DISK_BYTES: u64 = 6 << 30;
const DISK_BYTES_SMOKE: u64 = 1536 << 20;
const JOURNAL_BYTES: u64 = 1 << 30;

/// See the head of the file.
pub(super) fn put_cluster(session: &mut Session<'_>) -> Result<(), BenchError> {
    const NAME: &str = "put-cluster";
    if !session.wants(NAME) {
        return Ok(());
    }
    let etcd = match Etcd::version() {
        Ok(version) => Some(version),
        Err(missing) => {
            session.note(missing.to_string())?;
            None
        }
    };
    let load = format!(
        "{} connections with one put of {VALUE_BYTES} bytes in flight each, acknowledged when a majority of three has flushed it; \
         all processes on one machine and one file system, fresh in each round, those of one side at a time. etcd: gRPC to \
         the leader. Ours: each connection puts what its node is the first replica of.",
        WRITERS.connection_count
    );
    let args = session.args;
    let (seed, client, dir) = (args.seed, session.client(), args.dir.clone());
    let plan = move |address: SocketAddr, connection_count: usize, server: CpuOf| Plan {
        insists: false,
        address,
        connection_count,
        mode: Mode::Closed { depth: WRITERS.depth },
        warm_up: Duration::from_secs_f64(args.warm_up),
        window: Some(Duration::from_secs_f64(args.seconds)),
        server,
        cpu: None,
    };
    // What is said of the sides: commands are known once they were started.
    let abouts = RefCell::new(BTreeMap::new());
    let own = session.own_about("");
    let keep = |side: &str, version: &str, command: &str, durability: &str| {
        let (version, command, durability) = (version.to_owned(), command.to_owned(), durability.to_owned());
        let about = About { version, command, durability };
        abouts.borrow_mut().entry(side.to_owned()).or_insert(about);
    };
    let mut sides = vec![Side::new(OWN, |round| {
        let (addresses, clock) = free_addresses::<3>()?;
        let plan_of_group = GroupPlan {
            dir: &dir,
            addresses: &addresses,
            shards: 1,
            disk_bytes: if args.smoke { DISK_BYTES_SMOKE } else { DISK_BYTES },
            journal_bytes: JOURNAL_BYTES,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
        };
        let mut group = Group::format(&plan_of_group)?;
        group.serve(&SETTINGS)?;
        let durability = "each write flushed (fdatasync) by a majority of the three before its answer";
        keep(OWN, &own.version, &format!("three of: {}", group.command()), durability);
        clock.rest(REST);
        let first = first_replicas(&group.addresses);
        let mut running = Vec::new();
        for (place, (address, pid)) in group.addresses.iter().zip(group.pids()).enumerate() {
            let count = (WRITERS.connection_count + 2 - place) / 3;
            let own = first.iter().enumerate().filter(|(_, node)| **node == place);
            let tablets = own.fold(0, |mask, (tablet, _)| mask | 1 << tablet);
            let client = client_of(client, round) ^ (place as u64) << 56;
            let puts = PutDurable::new(seed + u64::from(round), client).only(tablets);
            let plan = plan(*address, count, CpuOf::Process(pid));
            running.push(begin(&plan, CONNECT, |_| ThermoclineWire::new(CLIENT, 1), puts)?);
        }
        let parts = running.into_iter().map(|one| one.end().map(|(measured, _)| measured));
        let parts = parts.collect::<Result<Vec<Measured>, _>>()?;
        Ok(figures_of(&Measured::together(parts).expect("there are three")))
    })];
    if let Some(version) = &etcd {
        sides.push(Side::new("etcd", |round| {
            let (addresses, clock) = free_addresses::<6>()?;
            let etcd = Etcd::start(&dir, &addresses, |wait| clock.rest(wait))?;
            let durability =
                "each write flushed (fsync of its log) by a majority of the three before its answer";
            keep("etcd", version, &format!("three of: {}", etcd.command()), durability);
            clock.rest(REST);
            let plan = plan(etcd.leader, WRITERS.connection_count, CpuOf::Processes(etcd.pids()));
            let puts = PutDurable::new(seed + u64::from(round), client_of(client, round));
            let (measured, _) = begin(&plan, CONNECT, |_| EtcdWire::default(), puts)?.end()?;
            Ok(figures_of(&measured))
        }));
    }
    let put_p99 = "put_latency_us_p99";
    let aims = vec![Aim::least("etcd", "per_second", 20.0), Aim::most("etcd", put_p99, 1.0)];
    session.alternate_for(NAME, &load, sides, aims)?;
    for (side, about) in abouts.into_inner() {
        session.peer_about(&format!("{side}, {NAME}"), &about);
        session.tell(NAME, &side, about);
    }
    Ok(())
}
