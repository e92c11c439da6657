//! One client: asks as PROTOCOL.md section 10 tells a client to, and writes down what it sent and what it was told.
//!
//! Must never write down more than the protocol promises: a write without an answer may have happened, once; a
//! refused one is refused only if every sending of it was answered.

use super::history::{
    Change, Does, Fate, History, KeyIndex, List, NEVER, Order, Page, Read, Seen, StreamIndex, Told, Write,
};
use super::wire::{Answered, Came, Heard, Lost, Wire};
use ioengine::{Instant, Io};
use layout::key::Key;
use layout::units::{LogTime, RequestId, Space, TabletIndex, Version};
use net::outcome::{Limit, Outcome};
use net::request::{
    self, Batch, BatchBody, BatchOperation, CompareAndSet, Delete, Get, Head, MultiGetBody, Put, Request,
    Scan, Streams,
};
use net::request_id::RequestIds;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How patient a client is.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    /// For the answer to one sending.
    pub(super) attempt: Duration,
    /// For an operation with all its retries.
    pub(super) whole: Duration,
    /// Whether it hangs up when an answer does not come in time; else it asks again over the same connection.
    pub(super) hangs_up: bool,
    /// Whether its request ids carry the log time it knows.
    pub(super) tells_log_time: bool,
}

/// What all clients of a scenario share.
pub(super) struct Shared {
    pub(super) history: Rc<RefCell<History>>,
    /// The node answered that its device has failed: it needs a restart.
    pub(super) device_failed: Cell<bool>,
    /// `Corrupt` is an answer that this world may give.
    pub(super) may_be_corrupt: bool,
    /// No new operations.
    pub(super) stop: Cell<bool>,
    /// Clients at work.
    pub(super) busy: Cell<usize>,
}

pub(super) struct Client {
    pub(super) number: u16,
    pub(super) io: Io,
    wire: Wire,
    shared: Rc<Shared>,
    ids: RefCell<RequestIds>,
    patience: Patience,
    /// Newest version that this client knows of a key.
    versions: RefCell<BTreeMap<KeyIndex, Version>>,
}

/// Names of outcomes, for counting.
fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Busy { limit, .. } => limit.name(),
        Outcome::TooOld => "TooOld",
        other => other.code().name(),
    }
}

/// What came of a write.
enum Wrote {
    Happened,
    /// Nothing happened, and under a new id it may.
    TooOld,
    Else,
}

/// An answer that every operation handles the same way.
enum Turn {
    /// Ask again, the same.
    Again,
    /// This is the answer.
    Done(Answered),
    /// Time is up.
    Over,
}

impl Client {
    pub(super) fn new(
        number: u16,
        io: Io,
        wire: Wire,
        shared: Rc<Shared>,
        random: u64,
        patience: Patience,
    ) -> Client {
        Client {
            number,
            io,
            wire,
            shared,
            ids: RefCell::new(RequestIds::new(random)),
            patience,
            versions: RefCell::default(),
        }
    }

    fn history(&self) -> std::cell::RefMut<'_, History> {
        self.shared.history.borrow_mut()
    }

    pub(super) fn known_version(&self, key: KeyIndex) -> Option<Version> {
        self.versions.borrow().get(&key).copied()
    }

    pub(super) fn hang_up(&self) {
        self.wire.hang_up();
    }

    /// Longest value that fits a frame now, in bytes.
    pub(super) fn value_bytes_max(&self) -> usize {
        self.wire.frame_bytes().saturating_sub(256)
    }

    /// One sending and what follows from its answer. `unsure` becomes true when it may have arrived without an answer.
    async fn turn(
        &self,
        request: &Request<'_>,
        until: Instant,
        unsure: &mut bool,
        backoff: &mut u64,
    ) -> Turn {
        if self.io.now() >= until {
            return Turn::Over;
        }
        match self.wire.ask(request, self.patience.attempt.min(until.since(self.io.now()))).await {
            Err(Lost::NotSent) => {
                self.history().count("not_sent");
                self.io.sleep(Duration::from_millis(1 + self.io.random() % 20)).await;
                Turn::Again
            }
            Err(Lost::Silence) => {
                self.history().count("silence");
                *unsure = true;
                if self.patience.hangs_up {
                    self.wire.hang_up();
                }
                Turn::Again
            }
            Ok(answered) => {
                let Heard::Not(outcome) = &answered.heard else {
                    self.history().count("Ok");
                    return Turn::Done(answered);
                };
                self.history().count(outcome_name(outcome));
                match *outcome {
                    Outcome::Busy { limit, hint_ms } => {
                        if limit == Limit::Device {
                            self.shared.device_failed.set(true);
                        }
                        // What is full stays so for long; a client that goes on to something else says more about the node.
                        let lasting =
                            matches!(limit, Limit::Space | Limit::Memory | Limit::RequestIds | Limit::Device);
                        if lasting && until.since(self.io.now()) < self.patience.whole * 9 / 10 {
                            return Turn::Over;
                        }
                        let base = u64::from(hint_ms).max(1) << *backoff;
                        *backoff = (*backoff + 1).min(6);
                        let wait = Duration::from_micros(base * 500 + self.io.random() % (base * 1000));
                        self.io.sleep(wait.min(until.since(self.io.now()))).await;
                        Turn::Again
                    }
                    Outcome::Timeout | Outcome::NotCurrent => Turn::Again,
                    _ => Turn::Done(answered),
                }
            }
        }
    }

    fn unexpected(&self, what: &str, outcome: &Outcome) {
        let fine = match outcome {
            Outcome::Corrupt => self.shared.may_be_corrupt,
            Outcome::TooLarge { .. } => true,
            _ => false,
        };
        if !fine {
            let text = format!(
                "{what} of client {} at {} ns was answered {outcome:?}",
                self.number,
                self.io.now().ns
            );
            self.history().trouble("answers", text);
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

    /// Write: one change, or several at once. True if it is known to have happened. An id that is too old, and was sent
    /// once, did nothing: the same is sent again under a new one, which to the history is another write.
    pub(super) async fn write(
        &self,
        stream: StreamIndex,
        does: &[(u64, Does)],
        expected: Option<Version>,
    ) -> bool {
        for _ in 0..4 {
            match self.write_once(stream, does, expected).await {
                Wrote::Happened => return true,
                Wrote::TooOld => {}
                Wrote::Else => return false,
            }
        }
        false
    }

    async fn write_once(
        &self,
        stream: StreamIndex,
        does: &[(u64, Does)],
        expected: Option<Version>,
    ) -> Wrote {
        let (number, id, space, name, tablet, values) = self.begin(stream, does, expected);
        let body = (does.len() > 1).then(|| batch_body(does, &values));
        let request = match (&body, does[0], expected) {
            (Some(body), ..) => Request::Batch(body_request(body, id, space, &name)),
            (None, (time, Does::Put { expiry, .. }), None) => {
                Request::Put(Put { id, key: Key { space, stream: &name, time }, expiry, value: &values[0] })
            }
            (None, (time, Does::Put { expiry, .. }), Some(expected)) => {
                Request::CompareAndSet(CompareAndSet {
                    id,
                    key: Key { space, stream: &name, time },
                    expected,
                    expiry,
                    value: &values[0],
                })
            }
            (None, (time, Does::Delete), _) => {
                Request::Delete(Delete { id, key: Key { space, stream: &name, time } })
            }
        };
        let until = self.io.now().after(self.patience.whole);
        let (mut unsure, mut backoff) = (false, 0);
        let answered = loop {
            match self.turn(&request, until, &mut unsure, &mut backoff).await {
                Turn::Again => {}
                Turn::Over => break None,
                Turn::Done(answered) => break Some(answered),
            }
        };
        self.end(number, tablet, unsure, answered)
    }

    /// Write the invocation down.
    fn begin(
        &self,
        stream: StreamIndex,
        does: &[(u64, Does)],
        expected: Option<Version>,
    ) -> (u32, RequestId, Space, Vec<u8>, TabletIndex, Vec<Vec<u8>>) {
        let mut history = self.history();
        let number = u32::try_from(history.writes.len()).expect("writes are few");
        let (space, name, tablet) = {
            let facts = history.keys.facts(stream);
            (facts.space, facts.name.clone(), facts.tablet)
        };
        let id = self.ids.borrow_mut().next(0, tablet);
        let changes: Vec<Change> =
            does.iter().map(|&(time, does)| Change { key: history.keys.key(stream, time), does }).collect();
        let values = (0u16..)
            .zip(does)
            .map(|(position, (_, does))| match does {
                Does::Put { bytes, .. } => history.value(number, position, *bytes),
                Does::Delete => Vec::new(),
            })
            .collect();
        let invoked = history.tick();
        history.writes.push(Write {
            client: self.number,
            invoked,
            returned: NEVER,
            at_ns: (self.io.now().ns, u64::MAX),
            stream,
            changes,
            expected,
            id,
            fate: Fate::Unknown,
        });
        (number, id, space, name, tablet, values)
    }

    /// Write its fate down.
    fn end(&self, number: u32, tablet: TabletIndex, unsure: bool, answered: Option<Answered>) -> Wrote {
        let invoked = self.history().writes[number as usize].invoked;
        let Some(answered) = answered else {
            // Nobody knows; unless every sending was refused.
            let mut history = self.history();
            history.count("gave_up");
            if !unsure {
                let returned = history.tick();
                let write = &mut history.writes[number as usize];
                (write.fate, write.returned, write.at_ns.1) = (Fate::Refused, returned, self.io.now().ns);
            }
            return Wrote::Else;
        };
        let returned = self.learn(invoked, tablet, answered.log_time);
        let mut mismatch = None;
        let mut wrote = Wrote::Else;
        let fate = match answered.heard {
            Heard::Written(first) => {
                wrote = Wrote::Happened;
                Fate::Acked { first }
            }
            Heard::Not(Outcome::UnknownOutcome) => Fate::Unknown,
            Heard::Not(Outcome::TooOld) if unsure => Fate::Unknown,
            Heard::Not(Outcome::TooOld) => {
                self.ids.borrow_mut().learn(0, tablet, answered.log_time);
                wrote = Wrote::TooOld;
                Fate::Refused
            }
            Heard::Not(outcome) => {
                match outcome {
                    Outcome::VersionMismatch { current } => mismatch = current,
                    other => self.unexpected("a write", &other),
                }
                if unsure { Fate::Unknown } else { Fate::Refused }
            }
            other => panic!("an answer to a write is no {other:?}"),
        };
        let mut history = self.history();
        let write = &mut history.writes[number as usize];
        write.fate = fate;
        if fate != Fate::Unknown {
            (write.returned, write.at_ns.1) = (returned, self.io.now().ns);
        }
        let key = write.changes[0].key;
        if let Fate::Acked { first } = fate {
            let mut versions = self.versions.borrow_mut();
            for (position, change) in (0u64..).zip(&write.changes) {
                let version = match change.does {
                    Does::Put { .. } => Version(first.0 + position),
                    Does::Delete => Version::ABSENT,
                };
                versions.insert(change.key, version);
            }
        }
        if let Some(current) = mismatch {
            let seen = if current.is_absent() { Seen::Absent } else { Seen::Version(current) };
            self.versions.borrow_mut().insert(key, current);
            history.reads.push(Read {
                client: self.number,
                invoked,
                returned,
                at_ns: self.io.now().ns,
                key,
                log_time: answered.log_time,
                seen,
                expiry: None,
            });
        }
        wrote
    }

    /// Ask for a read until it is answered; the order in which the answered sending was invoked.
    async fn read(&self, request: &Request<'_>) -> Option<(Order, Answered)> {
        let until = self.io.now().after(self.patience.whole);
        let (mut unsure, mut backoff) = (false, 0);
        loop {
            let invoked = self.history().tick();
            match self.turn(request, until, &mut unsure, &mut backoff).await {
                Turn::Again => {}
                Turn::Over => {
                    self.history().count("gave_up");
                    return None;
                }
                Turn::Done(answered) => return Some((invoked, answered)),
            }
        }
    }

    /// Get one key. `None` when there was no answer but a typed refusal or silence.
    pub(super) async fn get(
        &self,
        stream: StreamIndex,
        time: u64,
        if_newer: Option<Version>,
    ) -> Option<Seen> {
        let (space, name, key) = self.name(stream, time);
        let request = Request::Get(Get { key: Key { space, stream: &name, time }, local: false, if_newer });
        let (invoked, answered) = self.read(&request).await?;
        let tablet = self.history().keys.tablet(key);
        let returned = self.learn(invoked, tablet, answered.log_time);
        let came = match answered.heard {
            Heard::Record(came) => Ok(came),
            Heard::Not(outcome) => Err(outcome),
            other => panic!("an answer to a get is no {other:?}"),
        };
        self.note(invoked, returned, key, answered.log_time, if_newer, came)
    }

    /// Write down what a get, or an item of a multi-get, showed.
    fn note(
        &self,
        invoked: Order,
        returned: Order,
        key: KeyIndex,
        log_time: LogTime,
        if_newer: Option<Version>,
        came: Result<Came, Outcome>,
    ) -> Option<Seen> {
        let (seen, expiry) = match (came, if_newer) {
            (Ok(came), _) => {
                let seen = self.history().look(key, came.version, came.expiry, &came.value)?;
                if if_newer == Some(came.version) {
                    let text =
                        format!("asked for newer than {}, client {} got it", came.version, self.number);
                    self.history().trouble("answers", text);
                }
                (seen, Some(came.expiry))
            }
            (Err(Outcome::NotFound), _) => (Seen::Absent, None),
            (Err(Outcome::NotModified), Some(asked)) if asked.is_absent() => (Seen::Absent, None),
            (Err(Outcome::NotModified), Some(asked)) => (Seen::Version(asked), None),
            (Err(outcome), _) => {
                self.unexpected("a get", &outcome);
                return None;
            }
        };
        self.versions.borrow_mut().insert(key, seen.version());
        let at_ns = self.io.now().ns;
        let read = Read { client: self.number, invoked, returned, at_ns, key, log_time, seen, expiry };
        self.history().reads.push(read);
        Some(seen)
    }

    fn name(&self, stream: StreamIndex, time: u64) -> (Space, Vec<u8>, KeyIndex) {
        let mut history = self.history();
        let key = history.keys.key(stream, time);
        let facts = history.keys.facts(stream);
        (facts.space, facts.name.clone(), key)
    }

    /// Get several keys at once.
    pub(super) async fn multi_get(&self, wanted: &[(StreamIndex, u64, Option<Version>)]) {
        let mut body = MultiGetBody::new();
        let mut keys = Vec::new();
        for &(stream, time, if_newer) in wanted {
            let (space, name, key) = self.name(stream, time);
            let get = Get { key: Key { space, stream: &name, time }, local: false, if_newer };
            assert!(body.push(&get), "few keys fit");
            keys.push((key, if_newer));
        }
        let request = Request::MultiGet(body.request().expect("there are keys"));
        let Some((invoked, answered)) = self.read(&request).await else { return };
        let items = match answered.heard {
            Heard::Many(items) => items,
            Heard::Not(outcome) => return self.unexpected("a multi-get", &outcome),
            other => panic!("an answer to a multi-get is no {other:?}"),
        };
        let mut seen = vec![false; keys.len()];
        for (index, log_time, came) in items {
            let Some(&(key, if_newer)) = keys.get(usize::from(index)) else { continue };
            seen[usize::from(index)] = true;
            let tablet = self.history().keys.tablet(key);
            let returned = self.learn(invoked, tablet, log_time);
            self.note(invoked, returned, key, log_time, if_newer, came);
        }
        if seen.contains(&false) {
            self.history().trouble("answers", format!("a multi-get of client {} misses keys", self.number));
        }
    }

    /// One page of a scan. Where the next begins, when there is one; `None` inside at the end.
    pub(super) async fn scan(
        &self,
        stream: StreamIndex,
        times: (u64, u64),
        backward: bool,
        limits: (u32, u32),
    ) -> Option<Option<u64>> {
        let (space, name) = self.stream_name(stream);
        let request = Request::Scan(Scan {
            space,
            stream: &name,
            from: times.0,
            to: times.1,
            backward,
            local: false,
            record_limit: limits.0,
            byte_limit: limits.1,
        });
        self.page(&request, stream, times, backward, limits.0).await
    }

    /// The newest records of a stream.
    pub(super) async fn head(&self, stream: StreamIndex, limits: (u32, u32)) -> Option<Option<u64>> {
        let (space, name) = self.stream_name(stream);
        let request = Request::Head(Head {
            space,
            stream: &name,
            local: false,
            record_limit: limits.0,
            byte_limit: limits.1,
        });
        self.page(&request, stream, (0, u64::MAX), true, limits.0).await
    }

    fn stream_name(&self, stream: StreamIndex) -> (Space, Vec<u8>) {
        let history = self.history();
        let facts = history.keys.facts(stream);
        (facts.space, facts.name.clone())
    }

    async fn page(
        &self,
        request: &Request<'_>,
        stream: StreamIndex,
        times: (u64, u64),
        backward: bool,
        record_limit: u32,
    ) -> Option<Option<u64>> {
        let (invoked, answered) = self.read(request).await?;
        let tablet = self.history().keys.facts(stream).tablet;
        let returned = self.learn(invoked, tablet, answered.log_time);
        let (log_index, resume, list) = match answered.heard {
            Heard::Records { log_index, resume, records } => (log_index, resume, records),
            Heard::Not(outcome) => {
                self.unexpected("a scan", &outcome);
                return None;
            }
            other => panic!("an answer to a scan is no {other:?}"),
        };
        let mut history = self.history();
        let mut records = Vec::with_capacity(list.len());
        for (time, came) in list {
            let key = history.keys.key(stream, time);
            if let Some(seen) = history.look(key, came.version, came.expiry, &came.value) {
                records.push((key, seen, came.expiry));
            }
        }
        history.pages.push(Page {
            client: self.number,
            invoked,
            returned,
            at_ns: self.io.now().ns,
            stream,
            times,
            backward,
            record_limit,
            log_index,
            log_time: answered.log_time,
            resume,
            records,
        });
        Some(resume)
    }

    /// One page of the streams of a tablet. The last stream, when more follow; `None` inside at the end.
    pub(super) async fn streams(
        &self,
        tablet: TabletIndex,
        space: Option<Space>,
        after: Option<StreamIndex>,
        limit: u32,
    ) -> Option<Option<StreamIndex>> {
        let name = after.map(|after| self.stream_name(after));
        let after_name = name.as_ref().map(|(space, name)| (*space, &name[..]));
        let request = Request::Streams(Streams { group: 0, tablet, space, after: after_name, limit });
        let (invoked, answered) = self.read(&request).await?;
        let returned = self.learn(invoked, tablet, answered.log_time);
        let (more, list) = match answered.heard {
            Heard::Streams { more, streams } => (more, streams),
            Heard::Not(outcome) => {
                self.unexpected("a list of streams", &outcome);
                return None;
            }
            other => panic!("an answer to a list of streams is no {other:?}"),
        };
        let mut history = self.history();
        let mut streams = Vec::with_capacity(list.len());
        for (space, name) in list {
            match history.keys.find(space, &name) {
                Some(stream) => streams.push(stream),
                None => {
                    let text =
                        format!("tablet {tablet:?} lists a stream that nobody wrote: {}/{name:?}", space.0);
                    history.trouble("value", text);
                }
            }
        }
        let last = streams.last().copied().filter(|_| more);
        history.lists.push(List {
            client: self.number,
            invoked,
            returned,
            tablet,
            space,
            after,
            more,
            streams,
        });
        Some(last)
    }

    /// Status text of the node.
    pub(super) async fn status(&self) -> Option<String> {
        let (_, answered) = self.read(&Request::Status).await?;
        self.history().operation_count += 1;
        match answered.heard {
            Heard::Status(text) => Some(text),
            _ => None,
        }
    }

    /// A ping of so many bytes.
    pub(super) async fn ping(&self, bytes: usize) {
        let body = vec![0x5a; bytes];
        if self.read(&Request::Ping(&body)).await.is_some() {
            self.history().operation_count += 1;
        }
    }
}

fn batch_body(does: &[(u64, Does)], values: &[Vec<u8>]) -> BatchBody {
    let mut body = BatchBody::new();
    for ((time, does), value) in does.iter().zip(values) {
        let change = match does {
            Does::Put { expiry, .. } => request::Change::Put { expiry: *expiry, value },
            Does::Delete => request::Change::Delete,
        };
        assert!(body.push(&BatchOperation { time: *time, change }), "a small batch fits");
    }
    body
}

fn body_request<'a>(body: &'a BatchBody, id: RequestId, space: Space, stream: &'a [u8]) -> Batch<'a> {
    body.request(id, space, stream).expect("a batch has operations")
}
