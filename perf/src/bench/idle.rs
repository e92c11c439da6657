//! What a node costs that nobody asks anything: alone, and with connections that are silent.

use super::BenchError;
use super::session::{OWN, Session, Shape, Side, measure_own};
use crate::load::Mode;
use crate::load::schedule::Spacing;
use crate::report::Figures;
use crate::target::limits_for;
use crate::workloads::get_memory::GetMemory;
use ioengine::CoreConfig;
use ioengine::uring::Runtime;
use std::time::Duration;

/// Silent connections.
const SILENT: Shape = Shape { connection_count: 1000, depth: 1 };
/// So few requests per second that all connections are silent.
const RATE: f64 = 1e-6;

/// Processor time of an idle node.
pub(super) fn idle(session: &mut Session<'_>) -> Result<(), BenchError> {
    let server = session.maker(256 << 20, limits_for(1 << 16, 128))?.make()?;
    let seconds = session.args.seconds;
    let cpu = server.target().cpu.clone();
    let alone = Side::new(OWN, |_| {
        let runtime = Runtime::new(CoreConfig::small("watch", 0))
            .map_err(|error| crate::target::TargetError(error.to_string()))?;
        let io = runtime.io().clone();
        let (started, before) = (io.now(), cpu.now());
        runtime.block_on(io.sleep(Duration::from_secs_f64(seconds)));
        let passed = io.now().since(started).as_secs_f64();
        let mut figures = Figures::from([("seconds".to_owned(), passed)]);
        if let Some((after, before)) = cpu.now().zip(before) {
            figures.insert("server_cpu_percent".to_owned(), 100.0 * (after - before).seconds() / passed);
        }
        Ok(figures)
    });
    session.alternate("idle", "No connection.", vec![alone])?;
    let mut plan = session.planner(SILENT)(server.target());
    plan.mode = Mode::Open { spacing: Spacing::Constant, rate: RATE, depth: 1, seed: 1 };
    let silent = Side::new(OWN, |_| {
        let mut figures = measure_own(&plan, GetMemory::new(64, 1))?;
        // Nothing was asked: these would say nothing, and 0 answers are right.
        figures.retain(|name, _| !name.contains("per_") && name != "answers");
        Ok(figures)
    });
    session.alternate(
        "idle silent",
        &format!("{} silent connections.", SILENT.connection_count),
        vec![silent],
    )
}
