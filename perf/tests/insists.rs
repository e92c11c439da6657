//! A load that insists is done whole, however small the server's memory: what was answered `Busy` is asked again when the server
//! said, and nothing else is. One that does not insist is told so.

use perf::load::wire::thermocline::ThermoclineWire;
use perf::load::{Mode, Plan, run};
use perf::target::{InProcess, NodePlan};
use perf::workloads::get_memory::GetMemory;
use shard::limits::Limits;
use std::time::Duration;

const CLIENT: u64 = 7;
const RECORDS: u64 = 12_000;

#[test]
fn what_is_busy_is_asked_again_until_all_is_written() {
    let folder = tempfile::tempdir().unwrap();
    // Memtables of a few thousand records, and flushes as slow as a disk under other load.
    let plan = NodePlan {
        dir: folder.path().to_owned(),
        journal_bytes: 8 << 20,
        table_bytes: 256 << 20,
        limits: Limits { memtable_record_count_max: 2048, ..Limits::small() },
        host: ioengine::HostKind::Own,
        spin_us: 0,
        cpu: None,
    };
    let node = InProcess::start(&plan).unwrap();
    let load = |insists: bool| {
        let plan = Plan {
            address: node.target().address,
            connection_count: 4,
            mode: Mode::Closed { depth: 4 },
            warm_up: Duration::ZERO,
            window: None,
            server: node.target().cpu.clone(),
            cpu: None,
            insists,
        };
        let gets = GetMemory::new(RECORDS, 3);
        let (measured, _) = run(&plan, |_| ThermoclineWire::new(CLIENT, 4), gets.history(CLIENT)).unwrap();
        (measured.meter.outcomes(), measured.meter.retry_count())
    };
    let mut refused = 0;
    for _ in 0..20 {
        let (outcomes, retries) = load(false);
        assert_eq!(retries, 0, "who does not insist asks once");
        refused = outcomes.get("Busy").copied().unwrap_or(0);
        if refused > 0 {
            break;
        }
    }
    assert!(refused > 0, "the server is quicker than its memtables are full: this test shows nothing");
    let (outcomes, retries) = load(true);
    assert!(outcomes.keys().eq(["Ok"].iter()), "{outcomes:?}");
    assert!(retries > 0, "it was never busy");
    // What was written is there, each record.
    let plan = Plan {
        address: node.target().address,
        connection_count: 4,
        mode: Mode::Closed { depth: 8 },
        warm_up: Duration::ZERO,
        window: Some(Duration::from_millis(500)),
        server: node.target().cpu.clone(),
        cpu: None,
        insists: true,
    };
    let (measured, _) = run(&plan, |_| ThermoclineWire::new(0, 8), GetMemory::new(RECORDS, 3)).unwrap();
    assert!(measured.meter.outcomes().keys().eq(["Ok"].iter()), "{:?}", measured.meter.outcomes());
}
