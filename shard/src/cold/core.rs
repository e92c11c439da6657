//! One core of a cold node: connections, its own disks, and the rings to the cores that own the others. Tasks hold it by `Rc`; nothing
//! in it leaves the thread but the counters. Borrows of its cells never reach across an await.
//!
//! Must never answer a request twice, nor not at all. Invariant: a request waits in the queue of its disk, on the core that owns it,
//! with its bytes held against the budget.

use super::damage::Damaged;
use super::device::Watch;
use super::disk::ColdReader;
use super::errand::Errand;
use super::gray::Gray;
use super::limits::ColdNodeLimits;
use super::others::Others;
use super::queue::DiskQueue;
use super::serve;
use crate::budget::{Budget, Held};
use crate::counters::Counter;
use crate::door::Wrote;
use crate::front::{Connections, Front, FrontLimits};
use crate::mesh::{Kind, Peers};
use crate::reply::{ReplyTo, SMALL_REPLY_BYTES};
use ioengine::ring::Receiver;
use ioengine::sync::Notify;
use ioengine::{Instant, Io};
use layout::cold_disk::ColdSuperblock;
use layout::units::{LogTime, Uuid};
use net::cold::ColdRequest;
use net::frame::HEADER_BYTES;
use net::outcome::{Limit, Outcome, Why};
use net::reply::{encode_echo, encode_outcome, encode_status, reply_bytes_payload};
use net::request::Request;
use net::session::ServerIdentity;
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// Counters of a disk. Names end in their unit; those without one are counts.
#[derive(Debug, Default, Serialize)]
pub struct ColdCounters {
    /// Number of the disk in its group.
    pub disk: Counter,
    /// Its files.
    pub files: Counter,
    /// Size of each.
    pub file_bytes: Counter,
    /// Reads answered with records, or that there is none.
    pub reads: Counter,
    /// Reads of the device for them.
    pub device_reads: Counter,
    /// Bytes of these.
    pub device_read_bytes: Counter,
    /// Reads whose place had moved.
    pub moved: Counter,
    /// Reads whose bytes were not what the link says.
    pub corrupt: Counter,
    /// Places reserved anew.
    pub reserved: Counter,
    /// Reservations that were there before.
    pub reserved_again: Counter,
    /// Bytes written.
    pub written_bytes: Counter,
    /// Runs sealed.
    pub sealed: Counter,
    /// Seals refused because the disk held something else.
    pub unequal: Counter,
    /// Sections freed.
    pub freed: Counter,
    /// Requests refused for want of room in the queue.
    pub busy: Counter,
    /// Requests whose time was up before the disk came to them.
    pub overdue: Counter,
    /// Reads that wait now.
    pub waiting_reads: Counter,
    /// Other requests that wait now.
    pub waiting_work: Counter,
    /// Places reserved now.
    pub kept: Counter,
    /// Bytes that can still be given.
    pub room_bytes: Counter,
    /// From a read's arrival to its answer, a mean that follows the last hundreds, microseconds.
    pub read_latency_us: Counter,
    /// The longest of them.
    pub read_latency_us_max: Counter,
    /// Damaged places that wait for repair.
    pub repair_queue: Counter,
    /// Sections written anew from another machine's copy.
    pub repaired: Counter,
    /// Bytes written for that: whole blocks.
    pub repaired_bytes: Counter,
    /// Tries to mend a place that came to nothing; it waits for the next.
    pub repair_failed: Counter,
    /// Places that were whole when they were looked at, or hold nothing that counts.
    pub repair_dropped: Counter,
    /// Passes of the scrub that have looked at all that counted.
    pub scrub_passes: Counter,
    /// When the last of them began and ended, microseconds of the wall clock.
    pub scrub_covered_since_us: Counter,
    /// See `scrub_covered_since_us`.
    pub scrub_ended_us: Counter,
    /// The file that it looks at.
    pub scrub_file: Counter,
    /// Sections looked at, and bytes read for that.
    pub scrub_sections: Counter,
    /// See `scrub_sections`.
    pub scrub_bytes: Counter,
    /// Sections looked at in this pass.
    pub scrub_pass_sections: Counter,
    /// Bytes read in this pass, and those it will come to.
    pub scrub_pass_bytes: Counter,
    /// See `scrub_pass_bytes`.
    pub scrub_pass_total_bytes: Counter,
    /// Sections that it found damaged, or that the others say where they stand.
    pub scrub_found: Counter,
    /// Sections that count and have no whole header.
    pub scrub_missing: Counter,
    /// Sections that were freed because the two others had freed them, and this disk had forgotten it.
    pub forgotten: Counter,
    /// Files whose entry is lost, in a slot or both, and not written again yet.
    pub lost_entries: Counter,
    /// 1 while it is filled in another disk's place.
    pub rebuilding: Counter,
    /// How often that has ended in this life of the process.
    pub rebuilds: Counter,
    /// Files that are there of those that the other machines hold.
    pub rebuild_files: Counter,
    /// See `rebuild_files`.
    pub rebuild_files_total: Counter,
    /// Files that wait: something in them is not decided, or nobody gives them.
    pub rebuild_waiting_files: Counter,
    /// Bytes copied in this life of the process, and those of the files that were to be filled at its start.
    pub rebuild_bytes: Counter,
    /// See `rebuild_bytes`.
    pub rebuild_total_bytes: Counter,
    /// Over the last seconds.
    pub rebuild_bytes_per_second: Counter,
    /// Sections that were had one by one, because their copy was not proven.
    pub rebuild_mended: Counter,
    /// Sections that no machine proves: left out, and waiting for repair.
    pub rebuild_left_out: Counter,
    /// Bytes handed to another machine that is filled.
    pub copied_bytes: Counter,
    /// 1 once the device has failed.
    pub failed: Counter,
    /// Why it is set aside now: 1 = it hangs, 2 = it is slow, 3 = it fails wherever it is asked; 0 = it is not.
    pub aside: Counter,
    /// Since when, microseconds of the wall clock; 0 = it is not.
    pub aside_since_us: Counter,
    /// How often it was.
    pub asides: Counter,
    /// 1 while it is probed because something took far too long or failed.
    pub suspect: Counter,
    /// Probes of it, those while it was aside included.
    pub probes: Counter,
    /// Probes that failed.
    pub probes_failed: Counter,
    /// Operations that were not waited for any more when it was set aside.
    pub given_up: Counter,
    /// Requests that were refused because it was aside.
    pub refused: Counter,
}

/// What all cores of a cold node know about it.
pub(super) struct ColdFacts {
    pub(super) node: u32,
    pub(super) cluster: Uuid,
    pub(super) group: u16,
    /// Counters and damaged places by disk; filled while the cores start.
    pub(super) disks: Mutex<BTreeMap<u16, DiskFacts>>,
    /// Disks that could not be opened: which numbers they have is not known.
    pub(super) absent: Mutex<Vec<String>>,
    /// Disks that did not answer when they were to be opened: they come when they do.
    pub(super) awaited: Mutex<Vec<String>>,
}

impl ColdFacts {
    /// The node serves without this disk.
    pub(super) fn leave_out(&self, name: &str, error: &dyn std::fmt::Display) {
        tracing::error!(disk = name, %error, "a cold disk cannot be opened: the node serves without it");
        self.absent.lock().expect("no core panics with it").push(name.to_owned());
    }

    /// Will some disks come later?
    pub(super) fn is_awaited(&self) -> bool {
        !self.awaited.lock().expect("no core panics with it").is_empty()
    }

    /// Are some disks not here, whose numbers nobody knows?
    fn lacks_some(&self) -> bool {
        self.is_awaited() || !self.absent.lock().expect("no core panics with it").is_empty()
    }
}

pub(super) struct DiskFacts {
    pub(super) name: String,
    pub(super) core: u16,
    pub(super) counters: Arc<ColdCounters>,
    pub(super) damaged: Arc<Mutex<Damaged>>,
}

/// A request that waits for a disk.
pub(super) struct Job {
    pub(super) to: ReplyTo,
    pub(super) body: Vec<u8>,
    pub(super) since: Instant,
    _held: Held,
}

/// A disk of this core, as its tasks see it.
pub(super) struct Spindle {
    pub(super) superblock: ColdSuperblock,
    pub(super) reader: ColdReader,
    pub(super) queue: RefCell<DiskQueue<Job>>,
    pub(super) reads_queued: Notify,
    pub(super) work_queued: Notify,
    pub(super) under_way: Cell<usize>,
    /// Generations of its files, those included that are about to begin.
    pub(super) generations: RefCell<Vec<u32>>,
    /// Files that are still to be filled.
    pub(super) due: RefCell<Vec<bool>>,
    pub(super) counters: Arc<ColdCounters>,
    /// Whether it is set aside.
    pub(super) watch: Rc<Watch>,
    pub(super) damaged: Arc<Mutex<Damaged>>,
    pub(super) damage_noted: Notify,
    /// Files whose entry is to be written again.
    pub(super) lost_entries: RefCell<BTreeSet<u32>>,
    pub(super) entry_lost: Notify,
    /// What its own tasks want done by the one that writes.
    pub(super) errands: RefCell<VecDeque<Errand>>,
}

/// One core of a cold node.
pub(super) struct ColdCore {
    pub(super) io: Io,
    pub(super) index: u16,
    pub(super) facts: Arc<ColdFacts>,
    pub(super) limits: ColdNodeLimits,
    pub(super) front: FrontLimits,
    pub(super) connections: Connections,
    pub(super) connections_refused: Cell<u64>,
    pub(super) waiting: Budget,
    pub(super) peers: Peers,
    /// The two other machines of the group.
    pub(super) others: Others,
    /// Disks of this core, by number.
    pub(super) spindles: RefCell<BTreeMap<u16, Rc<Spindle>>>,
    /// Cores of all disks, by number.
    pub(super) owners: RefCell<BTreeMap<u16, u16>>,
    pub(super) draining: Cell<bool>,
}

#[derive(Serialize)]
struct DiskStatus<'a> {
    name: &'a str,
    core: u16,
    /// `whole`, `suspect`, `aside` or `failed`.
    state: &'static str,
    /// Why it is aside: `hangs`, `slow` or `errors`.
    aside_why: Option<&'static str>,
    /// For how long it is.
    aside_seconds: u64,
    counters: &'a ColdCounters,
    /// File and byte of places that wait for repair.
    damaged: Vec<(u32, u64)>,
}

#[derive(Serialize)]
struct Status<'a> {
    node: u32,
    cluster: String,
    role: &'static str,
    group: u16,
    version: &'static str,
    host: &'static str,
    absent_disks: Vec<String>,
    /// Those that did not answer when they were to be opened, and come when they do.
    awaited_disks: Vec<String>,
    disks: BTreeMap<u16, DiskStatus<'a>>,
}

impl ColdCore {
    fn status(&self) -> String {
        let disks = self.facts.disks.lock().expect("no core panics with it");
        let shown = disks.iter().map(|(number, disk)| {
            let damaged = disk.damaged.lock().expect("no core panics with it");
            let damaged = damaged.places().take(16).collect();
            let counters = &*disk.counters;
            let state = match (counters.failed.get(), counters.aside.get(), counters.suspect.get()) {
                (1.., _, _) => "failed",
                (_, 1.., _) => "aside",
                (_, _, 1..) => "suspect",
                _ => "whole",
            };
            let aside_why = Gray::of(counters.aside.get());
            let since_us = self.io.wall_us().saturating_sub(counters.aside_since_us.get());
            let aside_seconds = aside_why.map_or(0, |_| since_us / 1_000_000);
            let shown = DiskStatus {
                name: &disk.name,
                core: disk.core,
                state,
                aside_why,
                aside_seconds,
                counters,
                damaged,
            };
            (*number, shown)
        });
        let status = Status {
            node: self.facts.node,
            cluster: self.facts.cluster.to_string(),
            role: "cold",
            group: self.facts.group,
            version: env!("CARGO_PKG_VERSION"),
            host: self.io.host_name(),
            absent_disks: self.facts.absent.lock().expect("no core panics with it").clone(),
            awaited_disks: self.facts.awaited.lock().expect("no core panics with it").clone(),
            disks: shown.collect(),
        };
        serde_json::to_string(&status).expect("numbers and plain strings become JSON")
    }

    /// Nothing is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.spindles.borrow().values().all(|spindle| {
            let queue = spindle.queue.borrow();
            queue.read_count() + queue.work_count() + spindle.under_way.get() == 0
        })
    }

    /// A small answer to whoever asked.
    pub(super) fn say(&self, to: &ReplyTo, outcome: &Outcome) {
        self.answer_small(to, |out| encode_outcome(out, LogTime(0), outcome));
    }

    pub(super) fn answer_small(&self, to: &ReplyTo, encode: impl FnOnce(&mut [u8]) -> usize) {
        if to.core == self.index {
            return self.tell(to, encode);
        }
        let mut frame = [0; SMALL_REPLY_BYTES];
        let bytes = to.frame(0, &mut frame, encode);
        self.peers.tell(to.core, Kind::Reply, to, &frame[..bytes]);
    }

    /// An answer of just `bytes` to whoever asked; a small one in its place where there is no room.
    pub(super) fn answer(&self, to: &ReplyTo, bytes: usize, encode: impl FnOnce(&mut [u8]) -> usize) {
        if to.core == self.index {
            return self.write(to, bytes, encode);
        }
        if bytes + HEADER_BYTES <= SMALL_REPLY_BYTES {
            return self.answer_small(to, encode);
        }
        if bytes > to.frame_bytes as usize {
            return self.say(to, &Outcome::TooLarge { limit: Limit::Frame });
        }
        let framed = |out: &mut [u8]| Some(to.frame(0, out, encode));
        let room = (self.limits.forward_count_max, HEADER_BYTES + bytes);
        if matches!(self.peers.answer_within(room, to.core, Kind::Reply, to, framed), Wrote::NoRoom) {
            ioengine::sometimes!("a ring of a cold node has no room for an answer");
            self.say(to, &Outcome::Busy { limit: Limit::ReplyBuffers, hint_ms: 5 });
        }
    }

    /// A request for a disk of this core.
    fn enqueue(&self, to: &ReplyTo, request: &ColdRequest<'_>, body: &[u8]) {
        let (group, number) = request.disk();
        let spindle = self.spindles.borrow().get(&number).filter(|_| group == self.facts.group).cloned();
        let Some(spindle) = spindle else {
            return self.say(to, &Outcome::BadRequest { why: Why::Disk, at: 0 });
        };
        if self.draining.get() {
            return self.say(to, &Outcome::Busy { limit: Limit::Draining, hint_ms: 100 });
        }
        if spindle.watch.is_aside.get() {
            return spindle.refuse(self, to);
        }
        let Some(held) = self.waiting.take(body.len()) else {
            spindle.counters.busy.add(1);
            return self.say(to, &Outcome::Busy { limit: Limit::Memory, hint_ms: 20 });
        };
        let job = Job { to: *to, body: body.to_vec(), since: self.io.now(), _held: held };
        let mut queue = spindle.queue.borrow_mut();
        let taken = match request {
            ColdRequest::Get { blocks, .. }
            | ColdRequest::Index { section: blocks }
            | ColdRequest::Read { blocks } => queue.put_read(serve::place_of(&spindle, blocks), job),
            ColdRequest::Scan(scan) => queue.put_read(serve::place_of(&spindle, &scan.blocks), job),
            _ => queue.put_work(job),
        };
        spindle.counters.waiting_reads.set(queue.read_count() as u64);
        spindle.counters.waiting_work.set(queue.work_count() as u64);
        drop(queue);
        if taken {
            spindle.reads_queued.notify();
            spindle.work_queued.notify();
        } else {
            ioengine::sometimes!("the queue of a cold disk is full");
            spindle.counters.busy.add(1);
            self.say(to, &Outcome::Busy { limit: Limit::Queue, hint_ms: 20 });
        }
    }

    /// The core of a disk. One that hung while the node started has come later.
    fn owner(&self, number: u16) -> Option<u16> {
        let known = self.owners.borrow().get(&number).copied();
        known.or_else(|| {
            let core = self.facts.disks.lock().expect("no core panics with it").get(&number)?.core;
            self.owners.borrow_mut().insert(number, core);
            Some(core)
        })
    }

    /// A request about a disk: to the queue of its disk, here or on the core that owns it.
    fn route(&self, to: &ReplyTo, request: &ColdRequest<'_>, body: &[u8]) {
        let (group, number) = request.disk();
        let owner = self.owner(number).filter(|_| group == self.facts.group);
        match owner {
            Some(owner) if owner == self.index => self.enqueue(to, request, body),
            Some(owner) => {
                let room = self.limits.forward_count_max;
                if !self.peers.ask_within(room, owner, Kind::Request, to, &[body]) {
                    ioengine::sometimes!("a ring of a cold node is full");
                    self.say(to, &Outcome::Busy { limit: Limit::Queue, hint_ms: 2 });
                }
            }
            None if group == self.facts.group && self.facts.lacks_some() => {
                // It may be one of those that could not be opened.
                self.say(to, &Outcome::Busy { limit: Limit::Device, hint_ms: 1000 });
            }
            None => self.say(to, &Outcome::BadRequest { why: Why::Disk, at: 0 }),
        }
    }
}

impl Front for ColdCore {
    fn io(&self) -> &Io {
        &self.io
    }

    fn index(&self) -> u16 {
        self.index
    }

    fn front_limits(&self) -> &FrontLimits {
        &self.front
    }

    fn identity(&self) -> ServerIdentity {
        // What it promises stands on its disks.
        ServerIdentity { cluster: self.facts.cluster, node: self.facts.node, incarnation: 1, features: 0 }
    }

    fn epoch(&self) -> u32 {
        0
    }

    fn connections(&self) -> &Connections {
        &self.connections
    }

    fn refused(&self) {
        self.connections_refused.set(self.connections_refused.get() + 1);
    }

    fn take(self: &Rc<Self>, to: &ReplyTo, request: &Request<'_>, body: &[u8]) {
        match request {
            Request::Cold(request) => self.route(to, request, body),
            Request::Ping(echo) => {
                self.write(to, reply_bytes_payload(echo.len()), |out| encode_echo(out, echo));
            }
            Request::Status => {
                let text = self.status();
                self.write(to, reply_bytes_payload(text.len()), |out| encode_status(out, &text));
            }
            // No tablet is here, and no map.
            _ => self.say(to, &Outcome::WrongGroup { epoch: 0 }),
        }
    }
}

/// Receive from one other core until this one ends.
pub(super) async fn receive(core: Rc<ColdCore>, from: u16, mut receiver: Receiver) {
    let mut scratch = Vec::with_capacity(core.limits.frame_bytes_max as usize + 4096);
    loop {
        receiver.ready().await;
        for _ in 0..64 {
            let handled = receiver.pop(&mut scratch, |message| {
                let (kind, to, bytes) = crate::mesh::parted(message);
                match kind {
                    Kind::Request => {
                        let request = Request::decode(to.operation, bytes);
                        let Ok(Request::Cold(request)) = request else {
                            panic!("the other core has decoded it before")
                        };
                        core.enqueue(&to, &request, bytes);
                    }
                    Kind::Reply => {
                        core.peers.answered(from);
                        // The frame is whole; only where it goes is left to do.
                        core.write(&to, bytes.len() - HEADER_BYTES, |out| {
                            out[..bytes.len() - HEADER_BYTES].copy_from_slice(&bytes[HEADER_BYTES..]);
                            bytes.len() - HEADER_BYTES
                        });
                    }
                    other => panic!("{other:?} is not said between cores of a cold node"),
                }
            });
            if handled.is_none() {
                break;
            }
        }
        ioengine::sync::yield_now().await;
    }
}
