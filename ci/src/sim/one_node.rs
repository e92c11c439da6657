//! The scenario of one node: clients at work, trouble of all kinds, then peace: a last restart, progress, everything
//! read back, a drain; and then the judgement over the whole history.

use super::checkers::{self, Final, Law};
use super::client::{Client, Patience, Shared, Unseen, Ways};
use super::cluster::quiet;
use super::history::{Does, KeyIndex, Seen, Violation};
use super::hostile;
use super::lies;
use super::load::{Lane, Streams};
use super::plan::{Mode, Plan};
use super::report::{Clock, SeedReport, Sum};
use super::scene::{Scene, Standing};
use super::trouble::Nemesis;
use super::wire::{Wire, WireLimits};
use ioengine::sim::{NodeHandle, Random};
use ioengine::{CoreConfig, Io, Queue};
use layout::units::Space;
use net::request::FRAME_BYTES_MIN;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Longest time, in the simulated world, for a node without trouble to serve, and to answer.
pub(crate) const PROGRESS: Duration = Duration::from_secs(30);

/// What to run besides the seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Planted bugs.
    pub canaries: Vec<String>,
    /// Keep the trace as text.
    pub trace: bool,
    /// Compute the hash of the history.
    pub hash: bool,
}

/// Run `seed` in `mode`.
#[must_use]
pub fn run(seed: u64, mode: Mode, options: &Options) -> SeedReport {
    let clock = Clock::start();
    let plan = Plan::draw(seed, mode);
    let mut run = Run::new(&plan, options);
    run.play();
    run.report(&clock)
}

struct Run<'a> {
    plan: &'a Plan,
    options: &'a Options,
    scene: Scene,
    shared: Rc<Shared>,
    last: Final,
    sum: Sum,
}

pub(super) fn core(name: &str, index: usize) -> CoreConfig {
    CoreConfig { arena_bytes: 4 << 20, operation_count_max: 256, ..CoreConfig::small(name, index) }
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, options: &'a Options) -> Run<'a> {
        let scene = Scene::new(plan, options.canaries.clone(), options.trace);
        let shared = Rc::new(Shared {
            history: Rc::clone(&scene.history),
            device_failed: Cell::new(0),
            may_be_corrupt: plan.mode == Mode::Lying,
            may_begin_late: Cell::new(false),
            stop: Cell::new(false),
            busy: Cell::new(0),
        });
        Run { plan, options, scene, shared, last: Final::default(), sum: Sum::default() }
    }

    fn wrong(&mut self, text: String) {
        self.sum.violations.push(Violation { checker: "run", text });
    }

    fn play(&mut self) {
        for (number, &duration) in (0u64..).zip(&self.plan.lives) {
            let last = number + 1 == self.plan.lives.len() as u64;
            if number > 0 && !self.format_anew() {
                return;
            }
            self.last = Final::default();
            let served = self.live(number, duration);
            if served && last {
                self.peace();
            }
            self.judge();
            let marks = self.scene.world.marks();
            if self.plan.mode == Mode::Honest && marks.contains_key("a scrub finds decay") {
                self.wrong("a scrub finds decay on a disk that keeps what it is given".to_owned());
            }
            if !self.sum.violations.is_empty() {
                return;
            }
        }
    }

    /// A disk formatted anew, while it may lose some of the writes that should empty it.
    fn format_anew(&mut self) -> bool {
        self.scene.store.kill();
        let mut faults = self.plan.disk.faults.clone();
        let zones = layout::zone::HEADER_AREA_BYTES..self.scene.disk.bytes();
        faults.write_lost_ppm = self.plan.format_lost_ppm;
        faults.lies_within.push(zones);
        self.scene.disk.set_faults(faults);
        self.sum.formats += 1;
        self.shared.may_begin_late.set(true);
        let formatted = self.scene.format_anew(super::scene::format_plan(self.plan, true));
        self.scene.disk.set_faults(self.plan.disk.faults.clone());
        if !formatted {
            self.sum.failures.push("a disk could not be formatted anew".to_owned());
        }
        formatted
    }

    /// Start, work and trouble. False when the node never served.
    fn live(&mut self, number: u64, duration: Duration) -> bool {
        let hostile_wanted = Rc::new(Cell::new(0));
        let hostile_stop = Rc::new(Cell::new(false));
        self.shared.stop.set(false);
        self.shared.device_failed.set(0);
        self.scene.start();
        if !self.wait_for(Standing::Serving) {
            let failure = self.scene.failure();
            if self.plan.mode == Mode::Honest {
                self.wrong(format!("a fresh node does not serve: {failure:?}"));
            }
            self.sum.failures.extend(failure);
            return false;
        }
        self.sum.starts += 1;
        self.launch(number, &hostile_wanted, &hostile_stop);
        let shared = Rc::clone(&self.shared);
        let mut nemesis = Nemesis::new(self.plan, number, shared, self.scene.world.now());
        nemesis.serves();
        let end = self.scene.world.now().after(duration);
        while self.scene.world.now() < end && nemesis.failed_in_a_row < 3 {
            let due = nemesis.due(self.scene.world.now());
            self.scene.world.run_until(due.min(end));
            nemesis.turn(&mut self.scene);
            hostile_wanted.set(hostile_wanted.get() + std::mem::take(&mut nemesis.hostile_wanted));
        }
        self.shared.stop.set(true);
        hostile_stop.set(true);
        nemesis.end_all(&mut self.scene);
        // Clients finish what they are at; what cannot be finished ends with their patience.
        let give_up = self.scene.world.now().after(Duration::from_secs(60));
        while self.shared.busy.get() > 0 && self.scene.world.now() < give_up {
            let due = nemesis.due(self.scene.world.now());
            self.scene.world.run_until(due);
            nemesis.mend(&mut self.scene);
        }
        if self.shared.busy.get() > 0 {
            self.wrong(format!("{} lanes wait beyond their patience", self.shared.busy.get()));
        }
        self.sum.starts += nemesis.lives.served;
        self.sum.failed_starts += nemesis.lives.failed;
        self.blame(&nemesis.failures);
        self.sum.failures.append(&mut nemesis.failures);
        if nemesis.overdue_drains > 0 {
            self.wrong(format!("{} drains did not end in time", nemesis.overdue_drains));
        }
        true
    }

    /// On an honest disk a start may fail for the disk's sake alone, or because it was asked to drain.
    fn blame(&mut self, failures: &[String]) {
        let fine = |text: &String| {
            let disk = [
                "failed: I/O error",
                "ended after a failed flush",
                "no space for",
                "a flush of it has failed",
            ];
            self.plan.mode == Mode::Lying
                || text.contains("another core has ended the start")
                || disk.iter().any(|one| text.contains(one))
        };
        if let Some(text) = failures.iter().find(|text| !fine(text)) {
            self.wrong(format!("a start failed: {text}"));
        }
    }

    fn judge(&mut self) {
        let history = self.shared.history.borrow();
        let excused = lies::excused(&history, &self.scene.found);
        self.sum.excused += u64::from(excused.count_ones());
        let law = Law {
            mode: self.plan.mode,
            excused,
            core_count: self.plan.core_count,
            limits: &self.plan.limits,
            memtables_grew: false,
        };
        let found = checkers::judge(&history, &self.last, law);
        self.sum.violations.extend(found);
        self.sum.operations += history.operation_count;
        for (name, count) in &history.answers {
            *self.sum.answers.entry(name).or_insert(0) += count;
        }
        if self.options.hash {
            self.sum.history_hash = self.sum.history_hash.rotate_left(7) ^ history.hash();
        }
    }

    /// Run until the node stands so; false when it did not come to that in time.
    fn wait_for(&mut self, wanted: Standing) -> bool {
        let until = self.scene.world.now().after(PROGRESS);
        while self.scene.world.now() < until {
            let standing = self.scene.standing();
            if standing == wanted || standing == Standing::Down {
                break;
            }
            self.scene.world.run_for(Duration::from_millis(2));
        }
        self.scene.standing() == wanted
    }

    fn launch(&mut self, life: u64, hostile_wanted: &Rc<Cell<u32>>, hostile_stop: &Rc<Cell<bool>>) {
        let plan = self.plan;
        let root = Random::new(plan.seed).fork(plan.mode.name(), life);
        let streams = {
            let mut history = self.shared.history.borrow_mut();
            let mut make = |kind: &str, count: u64| {
                (0..count)
                    .map(|number| {
                        let long = if number % 7 == 3 { "x".repeat(90) } else { String::new() };
                        let name = format!("{kind}-{number}{long}");
                        history.keys.stream(Space(u16::from(number % 5 == 4)), name.as_bytes())
                    })
                    .collect()
            };
            Rc::new(Streams {
                hot: make("hot", plan.load.hot_stream_count),
                cold: make("cold", plan.load.cold_stream_count),
            })
        };
        let load = Rc::new(plan.load.clone());
        for (machine, node) in (0u16..).zip(&self.scene.machines) {
            let (shared, streams, load) = (Rc::clone(&self.shared), Rc::clone(&streams), Rc::clone(&load));
            let address = self.scene.config.listen;
            let clients: Vec<_> = (0u16..)
                .zip(&plan.clients)
                .filter(|(_, one)| one.0 == machine)
                .map(|(n, one)| (n, one.clone()))
                .collect();
            let lanes: usize = clients.iter().map(|(_, one)| usize::from(one.1)).sum();
            self.shared.busy.set(self.shared.busy.get() + lanes);
            let root = root.fork("machine", u64::from(machine));
            let seed = plan.seed;
            let main = move |io: Io| async move {
                for (number, (_, lanes, patience)) in clients {
                    let frame_bytes = frame_bytes(seed, number);
                    let client = Rc::new(client(&io, address, number, &shared, patience, frame_bytes));
                    for lane in 0..lanes {
                        let random = root.fork("lane", u64::from(number) << 16 | u64::from(lane));
                        let lane = Lane {
                            client: Rc::clone(&client),
                            shared: Rc::clone(&shared),
                            load: Rc::clone(&load),
                            streams: Rc::clone(&streams),
                            random,
                        };
                        io.spawn(Queue::Foreground, lane.run());
                    }
                }
                while !(shared.stop.get() && shared.busy.get() == 0) {
                    io.sleep(Duration::from_millis(100)).await;
                }
            };
            node.launch(core("clients", 0), main).expect("a simulated core can be launched");
        }
        let (wanted, stop) = (Rc::clone(hostile_wanted), Rc::clone(hostile_stop));
        let (address, random) = (self.scene.config.listen, root.fork("hostile", 0));
        let main = move |io: Io| hostile::run(io, address, wanted, stop, random);
        self.scene.hostile.launch(core("hostile", 0), main).expect("a simulated core can be launched");
    }

    /// No more trouble: one last end and start, then everything must be there.
    fn peace(&mut self) {
        let mut random = Random::new(self.plan.seed).fork(self.plan.mode.name(), 0).fork("peace", 0);
        if self.scene.standing() == Standing::Serving {
            self.look_at_idle();
            match random.below(3) {
                0 => self.scene.store.kill(),
                1 => self.scene.store.power_cut(),
                _ => self.drain(),
            }
        } else {
            self.scene.store.kill();
        }
        self.scene.start();
        if !self.wait_for(Standing::Serving) {
            let failure = self.scene.failure().unwrap_or_else(|| "it neither serves nor says why".to_owned());
            if self.plan.mode == Mode::Honest {
                self.wrong(format!("without trouble the node does not start: {failure}"));
            }
            self.sum.failures.push(failure);
            return;
        }
        self.sum.starts += 1;
        self.progress();
        self.read_back();
        self.drain();
    }

    /// The node with its clients gone: everything they held has come back.
    fn look_at_idle(&mut self) {
        // Half-open connections end with the deadline for hello, lost ones when the network says so.
        self.scene.world.run_for(Duration::from_secs(6));
        let status = self.at_peace(999, |client| async move { client.status().await });
        self.last.status.extend(status);
    }

    /// Drain the node and see it end.
    fn drain(&mut self) {
        self.scene.drain();
        let until = self.scene.world.now().after(self.plan.limits.drain_deadline + Duration::from_secs(10));
        while self.scene.store.is_running() && self.scene.world.now() < until {
            self.scene.world.run_for(Duration::from_millis(10));
        }
        if self.scene.store.is_running() {
            self.wrong("a drain did not end in time".to_owned());
            self.scene.store.kill();
        }
        if self.scene.disk.in_flight() > 0 {
            self.wrong("operations are in flight on the disk of a node that has ended".to_owned());
        }
    }

    /// Do something on a machine of a client, to its end.
    fn at_peace<T: 'static, F>(&self, number: u16, ask: impl FnOnce(Rc<Client>) -> F + 'static) -> T
    where
        F: Future<Output = T> + 'static,
    {
        let machine: NodeHandle = self.scene.machines[0];
        let (shared, address) = (Rc::clone(&self.shared), self.scene.config.listen);
        self.scene.world.block_on(&machine, Duration::from_secs(3_600), move |io: Io| async move {
            let patience = Patience {
                attempt: Duration::from_secs(5),
                whole: PROGRESS,
                hangs_up: false,
                tells_log_time: true,
                insists: true,
                reads_slowly: false,
            };
            ask(Rc::new(client(&io, address, number, &shared, patience, FRAME_BYTES))).await
        })
    }

    /// A put and a get are answered in time.
    fn progress(&mut self) {
        let stream = self.shared.history.borrow_mut().keys.stream(Space(0), b"progress");
        let before = self.shared.history.borrow().answers.clone();
        let (put, got) = self.at_peace(1_000, move |client| async move {
            let put = client.write(stream, &[(1, Does::Put { bytes: 40, expiry: 0 })], None).await;
            (put, client.get(stream, 1, None).await)
        });
        let answers = self.shared.history.borrow().answers.clone();
        let count = |map: &BTreeMap<&str, u64>, name: &str| map.get(name).copied().unwrap_or(0);
        let now = |name: &str| count(&answers, name) > count(&before, name);
        // Full is an answer that lasts until something can be moved away.
        self.last.full = now("Space") || now("Memory");
        let corrupt = self.plan.mode == Mode::Lying && (now("Corrupt") || now("Device"));
        if !put && !self.last.full && !corrupt {
            self.wrong(format!("no put succeeds within {PROGRESS:?} of peace: {answers:?}"));
        }
        let fine = match got {
            Ok(seen) => !put || seen != Seen::Absent,
            Err(_) => corrupt,
        };
        if !fine {
            self.wrong(format!("no get succeeds within {PROGRESS:?} of peace: {got:?}"));
        }
    }

    /// Read everything that was ever touched.
    fn read_back(&mut self) {
        self.last.since = self.shared.history.borrow_mut().tick();
        let keys = self.shared.history.borrow().keys.clone();
        let shared = Rc::clone(&self.shared);
        let (unanswered, status) = self.at_peace(1_001, move |client| async move {
            let mut unanswered = BTreeMap::new();
            for (number, &(stream, time)) in (0u32..).zip(&keys.keys) {
                if let Err(why) = client.get(stream, time, None).await {
                    unanswered.insert(KeyIndex(number), why == Unseen::Corrupt);
                }
            }
            quiet::read_streams(&client, &shared).await;
            (unanswered, client.status().await)
        });
        self.last.unanswered = unanswered;
        self.last.status.extend(status);
    }

    fn report(self, clock: &Clock) -> SeedReport {
        let world = &self.scene.world;
        SeedReport {
            seed: self.plan.seed,
            mode: self.plan.mode,
            faults: world.fault_counts(),
            marks: world.marks(),
            simulated_s: world.now().ns as f64 / 1e9,
            events: world.event_count(),
            trace_hash: world.trace_hash(),
            trace: world.take_trace(),
            sum: self.sum,
            cpu_s: clock.seconds(),
        }
    }
}

/// Frames that every answer fits.
pub(super) const FRAME_BYTES: u32 = 64 << 10;

/// What a client agrees on. In one world of five most have small frames, smaller than what a core offers or a page
/// holds; the others know nothing of it, and stay what they were.
pub(super) fn frame_bytes(seed: u64, client: u16) -> u32 {
    if seed % 5 != 4 {
        return FRAME_BYTES;
    }
    [FRAME_BYTES, 12 << 10, FRAME_BYTES_MIN][usize::from(client) % 3]
}

fn client(
    io: &Io,
    address: std::net::SocketAddr,
    number: u16,
    shared: &Rc<Shared>,
    patience: Patience,
    frame_bytes: u32,
) -> Client {
    let read_pause = Duration::from_millis(if patience.reads_slowly { 30 } else { 0 });
    let random = io.random();
    let limits = WireLimits { read_pause, in_flight: 8, frame_bytes, connect: Duration::from_secs(2) };
    let wire = Wire::new(io.clone(), address, limits, random | 1, Rc::clone(&shared.history));
    Client::new(number, io.clone(), Ways::one(wire), Rc::clone(shared), random | 1, patience)
}
