//! What the benches of one run share: arguments, processors, the report so far; and the alternation of sides.

use super::BenchError;
use crate::args::{BenchArgs, HostChoice};
use crate::load::wire::Wire;
use crate::load::wire::thermocline::ThermoclineWire;
use crate::load::{CpuOf, Mode, Plan, run};
use crate::report::{About, Aim, Case, Figures, Round, Run, figures_of, is_failure, number};
use crate::target::{InProcess, NodePlan, Target};
use crate::workloads::Workload;
use ioengine::HostKind;
use shard::limits::Limits;
use std::io::Write;
use std::time::Duration;

/// Name of our own side.
pub(super) const OWN: &str = "thermocline";

/// Room for tables of a node whose records stay in memory.
const TABLE_BYTES: u64 = 256 << 20;

/// The window of a smoke run may be shorter than a stall of the device, and what is asked is whether there are answers: so often a
/// side without any is asked again.
const SMOKE_TRIES: usize = 20;

/// One run of benches.
pub(super) struct Session<'a> {
    pub(super) args: &'a BenchArgs,
    out: &'a mut dyn Write,
    run: Run,
    /// Number of the next writing client: none may meet another, not even of an earlier run on the same node.
    client: u64,
}

/// A side of a case: measured once per round.
pub(super) struct Side<'a> {
    pub(super) name: String,
    pub(super) measure: Box<dyn FnMut(u32) -> Result<Figures, BenchError> + 'a>,
    about: Option<About>,
}

impl<'a> Side<'a> {
    pub(super) fn new(
        name: impl Into<String>,
        measure: impl FnMut(u32) -> Result<Figures, BenchError> + 'a,
    ) -> Side<'a> {
        Side { name: name.into(), measure: Box::new(measure), about: None }
    }

    /// With what is said of it in the report.
    pub(super) fn about(self, about: About) -> Side<'a> {
        Side { about: Some(about), ..self }
    }
}

/// How connections are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) connection_count: usize,
    pub(super) depth: usize,
}

/// 32 requests at once on each of 8 connections.
pub(super) const PIPELINED: Shape = Shape { connection_count: 8, depth: 32 };
/// One request at a time on each of 50 connections.
pub(super) const SINGLE: Shape = Shape { connection_count: 50, depth: 1 };

/// A node, in this process or elsewhere.
pub(super) enum Server {
    Here(InProcess),
    There(Target),
}

impl Server {
    pub(super) fn target(&self) -> &Target {
        match self {
            Server::Here(node) => node.target(),
            Server::There(target) => target,
        }
    }
}

/// Where nodes to measure come from.
pub(super) enum Maker {
    Here(Box<NodePlan>),
    There(Target),
}

impl Maker {
    /// A node: a fresh one if it is started here.
    pub(super) fn make(&self) -> Result<Server, BenchError> {
        match self {
            Maker::Here(plan) => Ok(Server::Here(InProcess::start(plan)?)),
            Maker::There(target) => Ok(Server::There(target.clone())),
        }
    }
}

impl<'a> Session<'a> {
    /// `random` is another one in each run.
    pub(super) fn new(args: &'a BenchArgs, out: &'a mut dyn Write, run: Run, random: u64) -> Session<'a> {
        Session { args, out, run, client: random }
    }

    /// A client number that nobody has had.
    pub(super) fn client(&mut self) -> u64 {
        self.client = self.client.wrapping_add(1).max(1);
        self.client
    }

    /// Processors of the generator and of the server.
    pub(super) fn processors(&self) -> (Option<usize>, Option<usize>) {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        if self.args.no_pin || count < 2 { (None, None) } else { (Some(0), Some(1)) }
    }

    /// Tell the reader something, and keep it.
    pub(super) fn note(&mut self, text: impl Into<String>) -> Result<(), BenchError> {
        let text = text.into();
        if !self.run.notes.contains(&text) {
            writeln!(self.out, "note: {text}")?;
            self.run.notes.push(text);
        }
        Ok(())
    }

    /// Keep the version or command of somebody else.
    pub(super) fn peer(&mut self, name: &str, what: String) {
        self.run.peers.insert(name.to_owned(), what);
    }

    /// Keep what a peer says of itself, and what it makes durable.
    pub(super) fn peer_about(&mut self, name: &str, about: &About) {
        self.peer(name, format!("{}; {} ({})", about.version, about.command, about.durability));
    }

    /// What is said of a node of ours; `layout` says how it is laid out where it is started here.
    pub(super) fn own_about(&self, layout: &str) -> About {
        let command = match self.args.endpoint {
            Some(address) => format!("the node at {address}"),
            None => format!("a node of one core in the process of the bench; {layout}"),
        };
        About {
            version: format!("thermocline {}, commit {}", env!("CARGO_PKG_VERSION"), self.run.machine.commit),
            command,
            durability: "each write in the journal and flushed (fdatasync) before its answer".to_owned(),
        }
    }

    /// Where nodes to measure come from: the endpoint, or started here with these sizes.
    pub(super) fn maker(&mut self, journal_bytes: u64, limits: Limits) -> Result<Maker, BenchError> {
        self.maker_with(journal_bytes, TABLE_BYTES, limits)
    }

    /// As [`Session::maker`], with this much room for tables where the node is started here.
    pub(super) fn maker_with(
        &mut self,
        journal_bytes: u64,
        table_bytes: u64,
        limits: Limits,
    ) -> Result<Maker, BenchError> {
        if let Some(address) = self.args.endpoint {
            let cpu = match self.args.server_pid {
                Some(pid) => CpuOf::Process(pid),
                None => {
                    self.note("no --server-pid: figures per CPU-second of the server are left out")?;
                    CpuOf::Unknown
                }
            };
            return Ok(Maker::There(Target { address, cpu }));
        }
        let host = match self.args.host {
            HostChoice::Own => HostKind::Own,
            HostChoice::Glommio => HostKind::Glommio,
        };
        let plan = NodePlan { table_bytes, ..self.node_plan(journal_bytes, limits, host) };
        Ok(Maker::Here(Box::new(plan)))
    }

    /// How a node started here is laid out.
    pub(super) fn node_plan(&self, journal_bytes: u64, limits: Limits, host: HostKind) -> NodePlan {
        NodePlan {
            dir: self.args.dir.clone(),
            journal_bytes: journal_bytes.next_multiple_of(64 << 20),
            table_bytes: TABLE_BYTES,
            limits,
            host,
            spin_us: self.args.spin_us,
            cpu: self.processors().1,
        }
    }

    /// Makes plans for loads in the window of the arguments.
    pub(super) fn planner(&self, shape: Shape) -> impl Fn(&Target) -> Plan + use<> {
        let args = self.args;
        let (warm_up, seconds, cpu) = (args.warm_up, args.seconds, self.processors().0);
        move |target| Plan {
            insists: false,
            address: target.address,
            connection_count: shape.connection_count,
            mode: Mode::Closed { depth: shape.depth },
            warm_up: Duration::from_secs_f64(warm_up),
            window: Some(Duration::from_secs_f64(seconds)),
            server: target.cpu.clone(),
            cpu,
        }
    }

    /// Load records before measuring, with `wire`; every one must be taken.
    pub(super) fn preload<W: Wire + 'static, L: Workload + Send + 'static>(
        &mut self,
        who: &str,
        target: &Target,
        wire: impl Fn(usize) -> W + Send + 'static,
        history: L,
    ) -> Result<(), BenchError> {
        let mut plan = self.planner(Shape { connection_count: 8, depth: 4 })(target);
        plan.window = None;
        // Who writes faster than tables are made is told so, and waits.
        plan.insists = true;
        let (measured, _) = run(&plan, wire, history)?;
        let figures = figures_of(&measured);
        let failed: f64 = figures.iter().filter(|(name, _)| is_failure(name)).map(|(_, count)| count).sum();
        writeln!(
            self.out,
            "{who}: preloaded by {} requests in {:.1} s, asked again {} times",
            number(figures["answers"]),
            measured.seconds,
            measured.meter.retry_count()
        )?;
        if failed > 0.0 {
            return Err(BenchError::Peer(format!(
                "{who}: {failed} of {} preloading writes were refused: {:?}; ask for fewer --records",
                figures["answers"],
                measured.meter.outcomes()
            )));
        }
        Ok(())
    }

    /// Keep a case that was not measured in turns.
    pub(super) fn case(&mut self, name: &str, load: &str, rounds: Vec<Round>) {
        self.run.cases.push(Case { rounds, ..empty(name, load) });
    }

    /// True when the arguments ask for this case.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.args.case.as_ref().is_none_or(|part| name.contains(part))
    }

    /// True when the arguments ask for this side.
    pub(super) fn wants_side(&self, name: &str) -> bool {
        self.args.side.is_empty() || self.args.side.iter().any(|side| side == name)
    }

    /// Say of a side what was not known before it ran.
    pub(super) fn tell(&mut self, case: &str, side: &str, about: About) {
        if let Some(case) = self.run.cases.iter_mut().find(|known| known.name == case) {
            case.about.insert(side.to_owned(), about);
        }
    }

    /// Give each side its turn, round after round; who begins changes from round to round.
    pub(super) fn alternate(
        &mut self,
        name: &str,
        load: &str,
        sides: Vec<Side<'_>>,
    ) -> Result<(), BenchError> {
        self.alternate_for(name, load, sides, Vec::new())
    }

    /// As [`Session::alternate`], with what is aimed for.
    pub(super) fn alternate_for(
        &mut self,
        name: &str,
        load: &str,
        mut sides: Vec<Side<'_>>,
        aims: Vec<Aim>,
    ) -> Result<(), BenchError> {
        if !self.wants(name) {
            return Ok(());
        }
        sides.retain(|side| self.wants_side(&side.name));
        let count = sides.len();
        let about = sides.iter().filter_map(|side| Some((side.name.clone(), side.about.clone()?)));
        let mut case = Case { about: about.collect(), aims, ..empty(name, load) };
        for round in 0..self.args.rounds {
            for turn in 0..count {
                let side = &mut sides[(turn + round as usize) % count];
                let mut figures = (side.measure)(round)?;
                for _ in 0..SMOKE_TRIES {
                    if !self.args.smoke || figures.get("answers") != Some(&0.0) {
                        break;
                    }
                    figures = (side.measure)(round)?;
                }
                let shown = [
                    ("per_second", "per second"),
                    ("per_server_cpu_second", "per CPU-second"),
                    ("mb_per_second", "MB per second"),
                ];
                let shown = shown
                    .iter()
                    .filter_map(|(figure, unit)| Some(format!("{} {unit}", number(*figures.get(*figure)?))));
                writeln!(
                    self.out,
                    "{name} {}/{} {}: {}",
                    round + 1,
                    self.args.rounds,
                    side.name,
                    shown.collect::<Vec<String>>().join(", ")
                )?;
                self.out.flush()?;
                case.rounds.push(Round { side: side.name.clone(), round, figures });
            }
        }
        self.run.cases.push(case);
        Ok(())
    }

    /// The report; of a smoke run only if every answer was right.
    pub(super) fn finish(self) -> Result<Run, BenchError> {
        if self.args.smoke {
            for case in &self.run.cases {
                for round in &case.rounds {
                    let wrong = round.figures.iter().find(|(name, count)| {
                        is_failure(name) && **count > 0.0 || *name == "answers" && **count == 0.0
                    });
                    if let Some((figure, count)) = wrong {
                        let who = format!("{}, {}", case.name, round.side);
                        return Err(BenchError::Wrong(format!("{who}: {figure} = {count}")));
                    }
                }
            }
        }
        Ok(self.run)
    }
}

fn empty(name: &str, load: &str) -> Case {
    Case {
        name: name.to_owned(),
        load: load.to_owned(),
        own: OWN.to_owned(),
        rounds: Vec::new(),
        about: std::collections::BTreeMap::new(),
        aims: Vec::new(),
    }
}

/// Measure `workload` under a plan over our protocol.
pub(super) fn measure_own<L: Workload + Send + 'static>(
    plan: &Plan,
    workload: L,
) -> Result<Figures, BenchError> {
    Ok(measure_and_keep(plan, workload)?.0)
}

/// As [`measure_own`], with the workload as it stands afterwards.
pub(super) fn measure_and_keep<L: Workload + Send + 'static>(
    plan: &Plan,
    workload: L,
) -> Result<(Figures, L), BenchError> {
    let depth = u32::try_from(plan.mode.depth()).expect("a depth is small");
    let (measured, workload) = run(plan, move |_| ThermoclineWire::new(CLIENT, depth), workload)?;
    Ok((figures_of(&measured), workload))
}

/// Client number in hello; ids of writes carry the workload's own.
pub(super) const CLIENT: u64 = 0x7065_7266;
