//! Upper bounds, measured like everything else: servers that do nothing but what no server can avoid, on the same
//! host with the same buffers. A *bare echo* gives back what came. A *frame echo* cuts, checks and decodes the frames
//! of our protocol and gives each the same answer.

mod serve;

use crate::cpu::{self, CpuOf};
use crate::target::{Target, TargetError};
use ioengine::{CoreConfig, CoreHandle, HostKind, Launcher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

/// What a server does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Sends the bytes back as they came.
    Same,
    /// Decodes each frame and answers it with a record of this many bytes.
    Record(usize),
}

/// A server that is an upper bound, on a thread of its own.
pub(crate) struct LimitServer {
    ends: Arc<AtomicBool>,
    core: Option<CoreHandle>,
    target: Target,
}

impl LimitServer {
    /// Start one on the processor `cpu`.
    pub(crate) fn start(answers: Answers, cpu: Option<usize>) -> Result<LimitServer, TargetError> {
        let config = CoreConfig {
            name: "echo".to_owned(),
            index: 0,
            cpu,
            arena_bytes: 128 << 20,
            operation_count_max: 8192,
            spin_us: 0,
            host: HostKind::Own,
        };
        let ends = Arc::new(AtomicBool::new(false));
        let (report, listening) = mpsc::channel();
        let of_core = Arc::clone(&ends);
        let before = cpu::threads();
        let core = Launcher::Threads
            .launch(config, move |io| serve::run(io, answers, of_core, report))
            .map_err(|error| TargetError(error.to_string()))?;
        let address: Result<SocketAddr, String> =
            listening.recv().unwrap_or_else(|_| Err("the echo has ended while starting".to_owned()));
        let address = address.map_err(TargetError)?;
        let threads = cpu::threads().into_iter().filter(|thread| !before.contains(thread)).collect();
        let target = Target { address, cpu: CpuOf::Threads(threads) };
        Ok(LimitServer { ends, core: Some(core), target })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }
}

impl Drop for LimitServer {
    fn drop(&mut self) {
        // Relaxed: the flag carries nothing else.
        self.ends.store(true, Ordering::Relaxed);
        if let Some(core) = self.core.take() {
            core.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::schedule::Spacing;
    use crate::load::wire::Wire;
    use crate::load::wire::echo::EchoWire;
    use crate::load::wire::thermocline::ThermoclineWire;
    use crate::load::{Measured, Mode, Plan, run};
    use crate::workloads::get_memory::GetMemory;
    use std::collections::BTreeMap;
    use std::time::Duration;

    const CLOSED: Mode = Mode::Closed { depth: 7 };
    const OPEN: Mode = Mode::Open { spacing: Spacing::Poisson, rate: 5_000.0, depth: 3, seed: 1 };

    fn load<W: Wire + 'static>(
        server: &LimitServer,
        mode: Mode,
        wire: impl Fn(usize) -> W + Send + 'static,
    ) -> Measured {
        let plan = Plan {
            insists: false,
            address: server.target().address,
            connection_count: 3,
            mode,
            warm_up: Duration::from_millis(20),
            window: Some(Duration::from_millis(200)),
            server: server.target().cpu.clone(),
            cpu: None,
        };
        run(&plan, wire, GetMemory::new(1000, 1)).unwrap().0
    }

    fn check(measured: &Measured) {
        let answers = measured.meter.answer_count();
        assert!(answers > 0 && measured.unanswered == 0, "{measured:?}");
        assert_eq!(measured.meter.outcomes(), BTreeMap::from([("Ok", answers)]));
        assert_eq!(measured.meter.latencies().map(|(_, all)| all.len()).sum::<u64>(), answers);
        assert!(measured.server.is_some_and(|cpu| cpu.total_ns > 0) && measured.generator.total_ns > 0);
    }

    #[test]
    fn both_bounds_answer_both_loads() {
        let same = LimitServer::start(Answers::Same, None).unwrap();
        let record = LimitServer::start(Answers::Record(100), None).unwrap();
        for mode in [CLOSED, OPEN] {
            check(&load(&same, mode, |_| EchoWire::new(64)));
            let measured = load(&record, mode, |_| ThermoclineWire::new(1, 8));
            check(&measured);
            // 72 bytes of request and 164 of answer each, give or take what straddles the ends of the window.
            let (sent, received) = measured.meter.bytes();
            assert!(received > sent, "{sent} {received}");
            assert_eq!(measured.meter.lateness().is_empty(), mode == CLOSED);
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let server = LimitServer::start(Answers::Same, None).unwrap();
        let address = server.target().address;
        drop(server);
        let plan = Plan {
            insists: false,
            address,
            connection_count: 1,
            mode: CLOSED,
            warm_up: Duration::ZERO,
            window: Some(Duration::ZERO),
            server: CpuOf::Unknown,
            cpu: None,
        };
        let error =
            crate::load::run_within(&plan, Duration::ZERO, |_| EchoWire::new(64), GetMemory::new(64, 1));
        let text = error.err().unwrap().to_string();
        assert!(text.contains(&address.to_string()), "{text}");
    }
}
