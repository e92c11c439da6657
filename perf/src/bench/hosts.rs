//! The hosts that can run a core's tasks, on the real engine: gets, durable puts, idle.

use super::BenchError;
use super::gets::{HOSTS, SHAPES, load_own, sizes};
use super::puts::{self, WRITERS};
use super::session::{Session, Side, measure_own};
use crate::target::InProcess;
use crate::workloads::get_memory::GetMemory;
use crate::workloads::put_durable::PutDurable;
use ioengine::HostKind;

/// Every host that can be started, side by side.
pub(super) fn hosts(session: &mut Session<'_>) -> Result<(), BenchError> {
    if session.args.endpoint.is_some() {
        return session.note("hosts are compared in this process only: --endpoint is left out");
    }
    let gets = GetMemory::new(session.args.records, session.args.seed);
    let mut nodes = Vec::new();
    for (name, host) in HOSTS {
        let (journal, limits) = sizes(session.args.records);
        match InProcess::start(&session.node_plan(journal, limits, host)) {
            Ok(node) => {
                load_own(session, name, node.target(), &gets)?;
                nodes.push((name, host, node));
            }
            Err(error) if host != HostKind::Own => {
                session.note(format!("host {name} is left out: {error}"))?
            }
            Err(error) => return Err(error.into()),
        }
    }
    for (name, text, shape) in SHAPES {
        let sides = nodes.iter().map(|(host, _, node)| {
            let plan = session.planner(shape)(node.target());
            let gets = gets.clone();
            Side::new(*host, move |_| measure_own(&plan, gets.clone()))
        });
        let sides = sides.collect();
        session.alternate(&format!("hosts get {name}"), text, sides)?;
    }
    let kinds: Vec<(&str, HostKind)> = nodes.iter().map(|(name, host, _)| (*name, *host)).collect();
    drop(nodes);
    let (seed, client, plan) = (session.args.seed, session.client(), session.planner(WRITERS));
    let (journal, limits) = puts::sizes(session);
    let mut sides = Vec::new();
    for (name, host) in kinds {
        let (layout, plan) = (session.node_plan(journal, limits.clone(), host), &plan);
        sides.push(Side::new(name, move |round| {
            let node = InProcess::start(&layout)?;
            let puts = PutDurable::new(seed + u64::from(round), puts::client_of(client, round));
            measure_own(&plan(node.target()), puts)
        }));
    }
    session.alternate("hosts put", "64 writers with one durable put in flight each.", sides)
}
