//! One client: asks as PROTOCOL.md section 10 tells a client to, and writes down what it sent and what it was told.
//!
//! Must never write down more than the protocol promises: a write without an answer may have happened, once; a
//! refused one is refused only if every sending of it was answered.

mod follow;
mod peek;
mod read;
mod write;

pub(crate) use follow::Colds;
pub(crate) use peek::Unpeeked;
pub(crate) use read::Unseen;

use super::history::{History, KeyIndex, Order, StreamIndex, Told};
use super::wire::{Answered, Heard, Lost, Wire};
use ioengine::sim::Random;
use ioengine::{Instant, Io};
use layout::units::{LogTime, Space, TabletIndex, Version};
use net::outcome::{Limit, Outcome, Why};
use net::request::Request;
use net::request_id::RequestIds;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How patient a client is.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// For the answer to one sending.
    pub(crate) attempt: Duration,
    /// For an operation with all its retries.
    pub(crate) whole: Duration,
    /// Whether it hangs up when an answer does not come in time; else it asks again over the same connection.
    pub(crate) hangs_up: bool,
    /// Whether its request ids carry the log time it knows.
    pub(crate) tells_log_time: bool,
    /// Whether it waits until the node may forget old request ids.
    pub(crate) insists: bool,
    /// Whether it takes its time to read what came.
    pub(crate) reads_slowly: bool,
}

/// What all clients of a scenario share.
pub(crate) struct Shared {
    pub(crate) history: Rc<RefCell<History>>,
    /// Nodes that answered that their device has failed, one bit each: they need a restart.
    pub(crate) device_failed: Cell<u64>,
    /// `Corrupt` is an answer that this world may give.
    pub(crate) may_be_corrupt: bool,
    /// Log time may begin at a clock that is far behind the times of records: in a group, and on a disk that is not the first.
    pub(crate) may_begin_late: Cell<bool>,
    /// No new operations.
    pub(crate) stop: Cell<bool>,
    /// Clients at work.
    pub(crate) busy: Cell<usize>,
}

/// The ways of a client to the nodes that it may ask.
pub(crate) struct Ways {
    /// One per node.
    pub(crate) wires: Vec<Wire>,
    /// By tablet, the nodes that hold it, first choice first; `None` when there is one node and nothing to choose.
    pub(crate) orders: Option<Rc<Orders>>,
    /// Which of them it asks first: clients that begin at different ones make replicas compete.
    pub(crate) first: usize,
    /// Cache nodes that part of its gets go to; `None` where there are none.
    pub(crate) caches: Option<Caches>,
    /// Cold nodes, where the store may send part of its gets; `None` where there are none.
    pub(crate) colds: Option<Colds>,
}

/// The ways of a client to cache nodes.
pub(crate) struct Caches {
    pub(crate) wires: Vec<Wire>,
    /// Of gets, in parts per million, as this client knows it.
    pub(crate) share_ppm: Cell<u32>,
    /// The same as it was last said: heard late.
    pub(crate) said_ppm: Rc<Cell<u32>>,
    /// Drawn from by gets alone, so that worlds without caches are what they were.
    pub(crate) random: RefCell<Random>,
}

/// How likely a client hears with a get which share goes to caches, in parts per million.
const HEAR_PPM: u32 = 50_000;
/// Tries of an operation at caches, before the store is asked.
const CACHE_TRIES: u32 = 2;

/// By tablet, places of nodes in the order in which clients try them.
pub(crate) type Orders = Vec<Vec<usize>>;

impl Ways {
    /// To one node.
    pub(crate) fn one(wire: Wire) -> Ways {
        Ways { wires: vec![wire], orders: None, first: 0, caches: None, colds: None }
    }

    /// The node to ask at try number `replica`, and after how many tries all were asked.
    fn to(&self, tablet: Option<TabletIndex>, replica: usize) -> (usize, usize) {
        match (&self.orders, tablet) {
            (None, _) => (0, 1),
            (Some(_), None) => ((self.first + replica) % self.wires.len(), self.wires.len()),
            (Some(orders), Some(tablet)) => {
                let order = &orders[tablet.index()];
                (order[(self.first + replica) % order.len()], order.len())
            }
        }
    }

    /// The cache to ask at this try, if any.
    fn cache(&self, request: &Request<'_>, attempt: &mut Attempt) -> Option<&Wire> {
        let caches = self.caches.as_ref()?;
        if !matches!(request, Request::Get(_) | Request::MultiGet(_)) || attempt.cached >= CACHE_TRIES {
            return None;
        }
        let mut random = caches.random.borrow_mut();
        if random.chance(HEAR_PPM) {
            caches.share_ppm.set(caches.said_ppm.get());
        }
        // Who goes to the store first stays there.
        if !random.chance(caches.share_ppm.get()) {
            attempt.cached = CACHE_TRIES;
            return None;
        }
        attempt.cached += 1;
        Some(random.pick(&caches.wires))
    }

    /// Whether the same nodes hold two tablets.
    fn together(&self, one: TabletIndex, other: TabletIndex) -> bool {
        let Some(orders) = &self.orders else { return true };
        orders[one.index()].iter().all(|node| self.holds(*node, other))
    }

    /// Whether a node holds a tablet.
    fn holds(&self, node: usize, tablet: TabletIndex) -> bool {
        self.orders.as_ref().is_none_or(|orders| orders[tablet.index()].contains(&node))
    }
}

/// An operation on its way through its sendings.
struct Attempt {
    /// When patience ends.
    until: Instant,
    /// A sending may have arrived, and was not answered.
    unsure: bool,
    /// Doublings of the wait.
    backoff: u64,
    /// Tries so far.
    replica: usize,
    /// The node asked last.
    node: usize,
    /// Replicas that said that they cannot read what they hold.
    corrupt: usize,
    /// Tries at caches.
    cached: u32,
}

pub(crate) struct Client {
    pub(crate) number: u16,
    pub(crate) io: Io,
    ways: Ways,
    shared: Rc<Shared>,
    ids: RefCell<RequestIds>,
    patience: Patience,
    /// Newest version that this client knows of a key.
    versions: RefCell<BTreeMap<KeyIndex, Version>>,
}

/// What a record takes in an answer beside its value, and an answer beside its records, at most.
const RECORD_BYTES: usize = 96;

/// Names of outcomes, for counting.
fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Busy { limit, .. } => limit.name(),
        Outcome::TooOld => "TooOld",
        other => other.code().name(),
    }
}

/// Whether an answer that is no result comes from the newest state of its tablet, as a result does. Of several replicas one
/// that lags may refuse a request by what it knows itself.
fn is_current(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::NotFound | Outcome::NotModified | Outcome::VersionMismatch { .. })
}

/// An answer that every operation handles the same way.
enum Turn {
    /// Ask again, the same.
    Again,
    /// This is the answer, to what was sent then.
    Done(Answered, Order),
    /// Time is up.
    Over,
}

impl Client {
    pub(crate) fn new(
        number: u16,
        io: Io,
        ways: Ways,
        shared: Rc<Shared>,
        random: u64,
        patience: Patience,
    ) -> Client {
        Client {
            number,
            io,
            ways,
            shared,
            ids: RefCell::new(RequestIds::new(random)),
            patience,
            versions: RefCell::default(),
        }
    }

    fn history(&self) -> std::cell::RefMut<'_, History> {
        self.shared.history.borrow_mut()
    }

    pub(crate) fn known_version(&self, key: KeyIndex) -> Option<Version> {
        self.versions.borrow().get(&key).copied()
    }

    /// The stream of this name.
    pub(crate) fn stream(&self, space: Space, name: &[u8]) -> StreamIndex {
        self.history().keys.stream(space, name)
    }

    pub(crate) fn hang_up(&self) {
        self.ways.wires.iter().for_each(Wire::hang_up);
        self.ways.caches.iter().flat_map(|caches| &caches.wires).for_each(Wire::hang_up);
        self.ways.colds.iter().flat_map(|colds| &colds.wires).for_each(|(_, wire)| wire.hang_up());
    }

    /// The way to one node.
    pub(crate) fn wire(&self, node: usize) -> &Wire {
        &self.ways.wires[node]
    }

    fn is_replicated(&self) -> bool {
        self.ways.orders.is_some()
    }

    /// Longest body that may be sent or come, over any way.
    fn frame_bytes(&self) -> usize {
        self.ways.wires.iter().map(Wire::frame_bytes).min().expect("there is a way")
    }

    /// An operation begins.
    fn attempt(&self) -> Attempt {
        let until = self.io.now().after(self.patience.whole);
        Attempt { until, unsure: false, backoff: 0, replica: 0, node: 0, corrupt: 0, cached: 0 }
    }

    /// Longest value that fits a frame now, in bytes.
    pub(crate) fn value_bytes_max(&self) -> usize {
        self.frame_bytes().saturating_sub(256)
    }

    /// One sending and what follows from its answer: with several replicas, the next of them.
    async fn turn(&self, request: &Request<'_>, tablet: Option<TabletIndex>, attempt: &mut Attempt) -> Turn {
        let until = attempt.until;
        if self.io.now() >= until {
            return Turn::Over;
        }
        let (node, count) = self.ways.to(tablet, attempt.replica);
        let cache = self.ways.cache(request, attempt);
        if cache.is_none() {
            attempt.node = node;
            attempt.replica += 1;
        }
        let wire = cache.unwrap_or_else(|| self.wire(node));
        let sent = self.history().tick();
        match wire.ask(request, self.patience.attempt.min(until.since(self.io.now()))).await {
            Err(Lost::NotSent) => {
                self.history().count("not_sent");
                self.io.sleep(Duration::from_millis(1 + self.io.random() % 20)).await;
                Turn::Again
            }
            Err(Lost::Silence) => {
                self.history().count("silence");
                attempt.unsure = true;
                if self.patience.hangs_up {
                    wire.hang_up();
                }
                Turn::Again
            }
            Ok(mut answered) => {
                let Heard::Not(outcome) = &answered.heard else {
                    self.history().count(if cache.is_some() { "Ok of a cache" } else { "Ok" });
                    return Turn::Done(answered, sent);
                };
                self.history().count(outcome_name(outcome));
                match *outcome {
                    // The others have it, unless all say so.
                    Outcome::Corrupt if self.shared.may_be_corrupt && attempt.corrupt + 1 < count => {
                        attempt.corrupt += 1;
                        Turn::Again
                    }
                    Outcome::Corrupt => {
                        // A tablet that lost entries cannot prove its log time either.
                        answered.log_time = LogTime(0);
                        Turn::Done(answered, sent)
                    }
                    Outcome::Busy { limit, hint_ms } => {
                        self.busy(limit, hint_ms, sent, tablet, attempt).await
                    }
                    Outcome::Timeout | Outcome::NotCurrent => {
                        if count > 1 && attempt.replica.is_multiple_of(count) {
                            // Nobody is: not again at once.
                            self.io.sleep(Duration::from_millis(1 + self.io.random() % 20)).await;
                        }
                        Turn::Again
                    }
                    _ => {
                        if self.is_replicated() && !is_current(outcome) && *outcome != Outcome::TooOld {
                            answered.log_time = LogTime(0);
                        }
                        Turn::Done(answered, sent)
                    }
                }
            }
        }
    }

    /// A sending was refused for want of room.
    async fn busy(
        &self,
        limit: Limit,
        hint_ms: u32,
        sent: Order,
        tablet: Option<TabletIndex>,
        attempt: &mut Attempt,
    ) -> Turn {
        if limit == Limit::Device {
            self.shared.device_failed.set(self.shared.device_failed.get() | 1 << attempt.node);
            let mut history = self.history();
            let heard = history.tick();
            // Of one node all may be said that a device says; of several each has its own.
            let tablet = tablet.filter(|_| !self.is_replicated());
            history.device_failures.extend(tablet.map(|tablet| (sent, heard, tablet)));
        }
        // What is full stays so for long: go on to something else.
        let lasting = match limit {
            Limit::Space | Limit::Memory | Limit::Device => attempt.replica >= self.ways.to(tablet, 0).1,
            Limit::RequestIds => !self.patience.insists,
            _ => false,
        };
        if lasting {
            self.history().operation_count += 1;
            return Turn::Over;
        }
        let base = u64::from(hint_ms).max(1) << attempt.backoff;
        attempt.backoff = (attempt.backoff + 1).min(6);
        let wait = Duration::from_micros(base * 500 + self.io.random() % (base * 1000));
        self.io.sleep(wait.min(attempt.until.since(self.io.now()))).await;
        Turn::Again
    }

    /// A read of `count` records was refused. Too large it is only where so many of the longest do not fit a frame.
    fn read_refused(&self, what: &str, tablet: Option<TabletIndex>, outcome: &Outcome, count: usize) {
        let longest = self.history().longest_value + RECORD_BYTES;
        if matches!(outcome, Outcome::TooLarge { .. }) && RECORD_BYTES + count * longest <= self.frame_bytes()
        {
            let text = format!(
                "{what} of client {} was answered {outcome:?}, though {count} records of at most {longest} bytes fit",
                self.number
            );
            return self.history().trouble("answers", tablet, text);
        }
        self.unexpected(what, tablet, outcome);
    }

    /// An answer that stands for no result: fine, or trouble.
    fn unexpected(&self, what: &str, tablet: Option<TabletIndex>, outcome: &Outcome) {
        let fine = match outcome {
            Outcome::Corrupt => self.shared.may_be_corrupt,
            Outcome::TooLarge { .. } => true,
            // Too far ahead of a log time that began while the clock was far behind.
            Outcome::BadRequest { why: Why::Time, .. } => self.shared.may_begin_late.get(),
            _ => false,
        };
        if !fine {
            let (number, now) = (self.number, self.io.now().ns);
            let text = format!("{what} of client {number} at {now} ns was answered {outcome:?}");
            self.history().trouble("answers", tablet, text);
        }
    }

    fn learn(&self, invoked: Order, tablet: TabletIndex, log_time: LogTime) -> Order {
        let mut history = self.history();
        let returned = history.tick();
        history.operation_count += 1;
        if log_time.0 != 0 {
            history.told.push(Told { invoked, returned, tablet, log_time });
            if self.patience.tells_log_time {
                self.ids.borrow_mut().learn(0, tablet, log_time);
            }
        }
        returned
    }
}
