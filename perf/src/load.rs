//! The load generator: a core of its own with many connections, driven by ioengine.
//!
//! Two modes. *Closed*: each connection sends `depth` requests at once and waits for all answers: how much can be
//! done. *Open*: a schedule says when each request shall start, whatever the server does; latency counts from there:
//! how long does one wait. Owns the measured window: what happens before and after it is not counted.
//!
//! Must allocate nothing once the load has begun (the server would be measured beside a generator that stalls), and
//! must say what it used itself: a generator that was the limit has measured itself.

mod closed;
mod ground;
pub mod meter;
mod open;
pub mod schedule;
pub mod wire;

use crate::cpu::{Cpu, MACHINE_TICK_NS, MachineTicks, of_this_thread};
use crate::workloads::Workload;
use ground::{Ground, connect};
use ioengine::sync::race;
use ioengine::{CoreConfig, CoreHandle, HostKind, Io, Launcher, Queue};
use meter::Meter;
use schedule::Spacing;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;
use wire::Wire;

pub use crate::cpu::CpuOf;

/// How long what is in flight at the end may take to be answered.
const SETTLE: Duration = Duration::from_secs(10);
/// How long a server may take to listen.
const CONNECT: Duration = Duration::from_secs(10);

/// How load is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Each connection sends `depth` requests at once, waits for all answers, and again.
    Closed {
        /// Requests sent together, 1 = not pipelined.
        depth: usize,
    },
    /// Requests start by a schedule, on whichever connection has room.
    Open {
        /// How they are spaced.
        spacing: Spacing,
        /// Requests per second over all connections.
        rate: f64,
        /// Requests in flight on a connection at most; beyond, they wait here and their latency grows.
        depth: usize,
        /// Seed of the schedule.
        seed: u64,
    },
}

impl Mode {
    /// Requests in flight on a connection at most.
    #[must_use]
    pub fn depth(&self) -> usize {
        match *self {
            Mode::Closed { depth } | Mode::Open { depth, .. } => depth,
        }
    }
}

/// What to do to a server.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections.
    pub connection_count: usize,
    /// How load is made.
    pub mode: Mode,
    /// Load before the measured window.
    pub warm_up: Duration,
    /// The measured window; `None`: from the first request until the workload has no more.
    pub window: Option<Duration>,
    /// Whose processor time is the server's.
    pub server: CpuOf,
    /// Processor that the generator keeps to.
    pub cpu: Option<usize>,
    /// Of a closed load: what is answered `Busy` is asked again when the server said, until it is done.
    pub insists: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Length of the window, seconds.
    pub seconds: f64,
    /// Answers, outcomes and latencies of the window.
    pub meter: Meter,
    /// Processor time of the server in the window; `None` when nobody said who that is.
    pub server: Option<Cpu>,
    /// Processor time of the generator.
    pub generator: Cpu,
    /// Processors' worth of time that neither of the two used: somebody else's.
    pub others: f64,
    /// Processors' worth of time that the hypervisor took away.
    pub stolen: f64,
    /// Requests that were never answered.
    pub unanswered: usize,
}

impl Measured {
    /// Answers per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.meter.answer_count() as f64 / self.seconds
    }

    /// What several loads that ran beside each other did together.
    pub(crate) fn together(parts: Vec<Measured>) -> Option<Measured> {
        parts.into_iter().reduce(|sum, part| {
            let mut meter = sum.meter;
            meter.add(&part.meter);
            // Each took the time of the others for somebody else's.
            let used = part.generator.seconds() + part.server.map_or(0.0, |cpu| cpu.seconds());
            Measured {
                seconds: sum.seconds.max(part.seconds),
                meter,
                server: sum.server.zip(part.server).map(|(one, other)| one.plus(other)),
                generator: sum.generator.plus(part.generator),
                others: (sum.others - used / part.seconds).max(0.0),
                stolen: sum.stolen,
                unanswered: sum.unanswered + part.unanswered,
            }
        })
    }

    /// Answers per second of the server's processor time.
    #[must_use]
    pub fn per_server_second(&self) -> Option<f64> {
        let server = self.server.filter(|cpu| cpu.total_ns > 0)?;
        Some(self.meter.answer_count() as f64 / server.seconds())
    }
}

/// Why load could not be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// The generator's core could not be started.
    #[error("{0}")]
    Launch(String),
    /// A connection failed.
    #[error("{0}")]
    Net(String),
    /// What came is no answer.
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    /// The generator has no buffer.
    #[error(
        "the generator has no buffer of {bytes} bytes: fewer connections, a smaller depth or smaller requests"
    )]
    Buffer {
        /// Bytes wanted.
        bytes: usize,
    },
    /// Signalled to end.
    #[error("interrupted")]
    Interrupted,
}

/// Run `workload` against a server, each connection talking what `wire` makes for its number. Gives the workload
/// back, as it stands then.
///
/// # Errors
/// [`LoadError`].
pub fn run<W, L>(
    plan: &Plan,
    wire: impl Fn(usize) -> W + Send + 'static,
    workload: L,
) -> Result<(Measured, L), LoadError>
where
    W: Wire + 'static,
    L: Workload + Send + 'static,
{
    run_within(plan, CONNECT, wire, workload)
}

/// [`run`], with a bound on the wait for the server to listen.
pub(crate) fn run_within<W, L>(
    plan: &Plan,
    connect_within: Duration,
    wire: impl Fn(usize) -> W + Send + 'static,
    workload: L,
) -> Result<(Measured, L), LoadError>
where
    W: Wire + 'static,
    L: Workload + Send + 'static,
{
    begin(plan, connect_within, wire, workload)?.end()
}

/// A load that runs, on a core of its own.
pub(crate) struct Running<L> {
    result: mpsc::Receiver<Result<(Measured, L), LoadError>>,
    core: CoreHandle,
}

impl<L> Running<L> {
    /// Waits for its end.
    pub(crate) fn end(self) -> Result<(Measured, L), LoadError> {
        let outcome = self.result.recv().expect("the generator reports before it ends");
        self.core.join();
        outcome
    }
}

/// Begins what [`run_within`] does, so that several loads can run beside each other.
pub(crate) fn begin<W, L>(
    plan: &Plan,
    connect_within: Duration,
    wire: impl Fn(usize) -> W + Send + 'static,
    workload: L,
) -> Result<Running<L>, LoadError>
where
    W: Wire + 'static,
    L: Workload + Send + 'static,
{
    // Two buffers to send from, one to receive into, each rounded up to a power of two.
    let sends = (workload.request_bytes_max() * plan.mode.depth()).next_power_of_two().max(4096);
    let per_connection = 2 * sends + (256 << 10);
    let config = CoreConfig {
        name: "generator".to_owned(),
        index: 0,
        cpu: plan.cpu,
        arena_bytes: (plan.connection_count * per_connection).clamp(64 << 20, 1 << 30),
        operation_count_max: 4 * plan.connection_count + 64,
        spin_us: 0,
        host: HostKind::Own,
    };
    let (report, result) = mpsc::channel();
    let plan = plan.clone();
    let main = move |io: Io| async move {
        // Who began it waits for it.
        let _ = report.send(drive(io, &plan, connect_within, wire, workload).await);
    };
    let core =
        Launcher::Threads.launch(config, main).map_err(|error| LoadError::Launch(error.to_string()))?;
    Ok(Running { result, core })
}

async fn drive<W, L>(
    io: Io,
    plan: &Plan,
    connect_within: Duration,
    wire: impl Fn(usize) -> W,
    workload: L,
) -> Result<(Measured, L), LoadError>
where
    W: Wire + 'static,
    L: Workload + 'static,
{
    let request_bytes_max = workload.request_bytes_max();
    let ground = Rc::new(Ground::new(io.clone(), workload));
    watch_signals(&ground);
    let mut connections = Vec::with_capacity(plan.connection_count);
    for number in 0..plan.connection_count {
        let deadline = io.now().after(connect_within);
        connections.push(connect(&io, plan.address, (number, wire(number)), deadline).await?);
    }
    match plan.mode {
        Mode::Closed { depth } => {
            let insists = plan.insists;
            for connection in connections {
                let of_task = Rc::clone(&ground);
                ground.spawn(async move {
                    closed::run(&of_task, connection, (depth, insists), request_bytes_max).await
                });
            }
        }
        Mode::Open { spacing, rate, depth, seed } => {
            let schedule = schedule::Schedule::new(spacing, rate, seed);
            open::start(&ground, connections, schedule, depth, request_bytes_max)?;
        }
    }
    if plan.window.is_some() {
        ground.sleep(plan.warm_up).await;
    }
    let before = Snapshot::take(&io, &plan.server);
    ground.meter.borrow_mut().switch(true);
    match plan.window {
        Some(window) => ground.sleep(window).await,
        None => ground.ended().await,
    }
    let after = Snapshot::take(&io, &plan.server);
    ground.meter.borrow_mut().switch(false);
    ground.stop();
    race(ground.ended(), io.sleep(SETTLE)).await;
    if let Some(error) = ground.failure() {
        return Err(error);
    }
    let unanswered = ground.in_flight();
    let (meter, workload) = ground.take();
    Ok((before.until(&after, meter, unanswered), workload))
}

/// Cores keep the signals of the process for whoever asks: let an interrupt end the load.
fn watch_signals<L: Workload + 'static>(ground: &Rc<Ground<L>>) {
    let of_task = Rc::clone(ground);
    ground.io.spawn(Queue::Foreground, async move {
        let signals = of_task.io.signals();
        while signals.next().await == ioengine::signal::Signal::Reload {}
        of_task.fail(LoadError::Interrupted);
    });
}

/// Clocks at one end of the window.
struct Snapshot {
    at_ns: u64,
    server: Option<Cpu>,
    generator: Cpu,
    machine: MachineTicks,
}

impl Snapshot {
    fn take(io: &Io, server: &CpuOf) -> Snapshot {
        Snapshot {
            server: server.now(),
            machine: MachineTicks::now(),
            generator: of_this_thread(),
            at_ns: io.now().ns,
        }
    }

    fn until(&self, end: &Snapshot, meter: Meter, unanswered: usize) -> Measured {
        let seconds = (end.at_ns - self.at_ns).max(1) as f64 / 1e9;
        let server = end.server.zip(self.server).map(|(end, start)| end - start);
        let generator = end.generator - self.generator;
        let machine = end.machine - self.machine;
        let of_ticks = |ticks: u64| ticks as f64 * MACHINE_TICK_NS as f64 / 1e9 / seconds;
        let ours = (generator.seconds() + server.map_or(0.0, |cpu| cpu.seconds())) / seconds;
        Measured {
            seconds,
            meter,
            server,
            generator,
            others: (of_ticks(machine.busy) - ours).max(0.0),
            stolen: of_ticks(machine.stolen),
            unanswered,
        }
    }
}

/// A number in 0..1 from 64 random bits.
pub(crate) fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}
