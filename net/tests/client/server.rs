//! A small server for tests of the client: the real sessions and encoders around a map, and a script that can spoil any
//! request. Not the shard: here the test decides what goes wrong.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioengine::{Io, Queue, Stream};
use layout::units::{LogIndex, LogTime, RequestId, Space, Uuid, Version};
use net::frame::{FrameHeader, HEADER_BYTES, seal};
use net::operation::REPLY_BIT;
use net::outcome::{Limit, Outcome};
use net::reply::*;
use net::request::{Change, Get};
use net::route::ClusterMap;
use net::session::{ServerIdentity, ServerLimits, ServerSession, SessionReply, Step};
use net::{Operation, Request};

pub(crate) const CLUSTER: Uuid = Uuid([9; 16]);
pub(crate) const LOG_TIME: LogTime = LogTime(1_000_000);

type OwnedKey = (u16, Vec<u8>, u64);
/// Version, expiry, value.
type Held = (Version, u64, Vec<u8>);

/// What happens to a request instead of its usual answer.
#[derive(Clone, Debug)]
pub(crate) enum Spoil {
    /// This answer; nothing is done.
    Say(Outcome),
    /// The request is carried out, then the connection is closed without an answer.
    ApplyAndClose,
    /// The connection is closed; nothing is done.
    Close,
    /// Nothing at all.
    Ignore,
    /// The usual answer, later.
    Delay(Duration),
}

type Script = dyn Fn(&Request<'_>) -> Option<Spoil>;

/// What a server holds and has counted; several connections share it.
pub(crate) struct Store {
    pub(crate) records: RefCell<BTreeMap<OwnedKey, Held>>,
    applied: RefCell<BTreeMap<RequestId, Version>>,
    pub(crate) index: Cell<u64>,
    /// Writes that were applied, retries not counted.
    pub(crate) applied_count: Cell<usize>,
    /// Ids of all writes that came, retries included.
    pub(crate) ids: RefCell<Vec<RequestId>>,
    pub(crate) connections: Cell<usize>,
    pub(crate) requests: RefCell<Vec<Operation>>,
    /// Records of a page at most.
    pub(crate) page: Cell<usize>,
    pub(crate) map: RefCell<ClusterMap>,
    pub(crate) node: u32,
    pub(crate) limits: RefCell<ServerLimits>,
    pub(crate) script: RefCell<Box<Script>>,
    /// Answers to the next hellos, last first; without one a hello is answered as usual.
    pub(crate) hellos: RefCell<Vec<Outcome>>,
    /// Where the next pages of records say that the one after them begins, last first.
    pub(crate) resumes: RefCell<Vec<u64>>,
    scratch: RefCell<Vec<u8>>,
}

impl Store {
    pub(crate) fn new(map: ClusterMap, node: u32) -> Rc<Store> {
        Rc::new(Store {
            records: RefCell::default(),
            applied: RefCell::default(),
            index: Cell::new(0),
            applied_count: Cell::new(0),
            ids: RefCell::default(),
            connections: Cell::new(0),
            requests: RefCell::default(),
            page: Cell::new(1000),
            map: RefCell::new(map),
            node,
            limits: RefCell::new(ServerLimits { in_flight: 64, ..ServerLimits::default() }),
            script: RefCell::new(Box::new(|_| None)),
            hellos: RefCell::default(),
            resumes: RefCell::default(),
            scratch: RefCell::new(vec![0; 4 << 20]),
        })
    }

    pub(crate) fn script(&self, script: impl Fn(&Request<'_>) -> Option<Spoil> + 'static) {
        *self.script.borrow_mut() = Box::new(script);
    }

    /// The next `count` requests of this operation are spoiled like this.
    pub(crate) fn spoil(&self, operation: Operation, count: usize, spoil: Spoil) {
        let left = Cell::new(count);
        self.script(move |request| {
            if request.operation() != operation || left.get() == 0 {
                return None;
            }
            left.set(left.get() - 1);
            Some(spoil.clone())
        });
    }

    pub(crate) fn asked(&self, operation: Operation) -> usize {
        self.requests.borrow().iter().filter(|asked| **asked == operation).count()
    }

    fn apply(&self, id: RequestId, change: impl FnOnce(Version)) -> (Version, bool) {
        self.ids.borrow_mut().push(id);
        if let Some(version) = self.applied.borrow().get(&id) {
            return (*version, true);
        }
        self.index.set(self.index.get() + 1);
        let version = Version::new(LogIndex(self.index.get()), 0, 0);
        change(version);
        self.applied.borrow_mut().insert(id, version);
        self.applied_count.set(self.applied_count.get() + 1);
        (version, false)
    }

    fn put(&self, key: OwnedKey, version: Version, expiry: u64, value: &[u8]) {
        self.records.borrow_mut().insert(key, (version, expiry, value.to_vec()));
    }

    fn get(&self, get: &Get<'_>, out: &mut [u8]) -> usize {
        let records = self.records.borrow();
        let found = records.get(&owned(get.key));
        let current = found.map_or(Version::ABSENT, |(version, ..)| *version);
        match found {
            _ if get.if_newer == Some(current) => encode_outcome(out, LOG_TIME, &Outcome::NotModified),
            None => encode_outcome(out, LOG_TIME, &Outcome::NotFound),
            Some((version, expiry, value)) => encode_get_ok(out, LOG_TIME, *version, *expiry, value),
        }
    }

    /// The body of the usual answer.
    fn answer(&self, request: &Request<'_>) -> Vec<u8> {
        let mut out = self.scratch.borrow_mut();
        let bytes = match request {
            Request::Hello(_) => unreachable!("the session answers it"),
            Request::Cold(_) => unreachable!("this is no node with cold disks"),
            Request::Ping(echo) => encode_echo(&mut out, echo),
            Request::Get(get) => self.get(get, &mut out),
            Request::MultiGet(many) => {
                let mut writer = MultiGetWriter::new(&mut out, many.count());
                // Backward, since any order is allowed.
                let gets: Vec<_> = many.gets().enumerate().collect();
                for (index, get) in gets.into_iter().rev() {
                    let spoiled = (self.script.borrow())(&Request::Get(get));
                    let records = self.records.borrow();
                    let fits = match (spoiled, records.get(&owned(get.key))) {
                        (Some(Spoil::Say(outcome)), _) => writer.outcome(index as u16, LOG_TIME, &outcome),
                        (_, None) => writer.outcome(index as u16, LOG_TIME, &Outcome::NotFound),
                        (_, Some((version, expiry, value))) => {
                            writer.record(index as u16, LOG_TIME, *version, *expiry, value)
                        }
                    };
                    assert!(fits);
                }
                writer.finish()
            }
            Request::Put(put) => {
                let (version, repeated) =
                    self.apply(put.id, |version| self.put(owned(put.key), version, put.expiry, put.value));
                encode_written(&mut out, LOG_TIME, version, repeated)
            }
            Request::Delete(delete) => {
                let (version, repeated) = self.apply(delete.id, |_| {
                    self.records.borrow_mut().remove(&owned(delete.key));
                });
                encode_written(&mut out, LOG_TIME, version, repeated)
            }
            Request::CompareAndSet(cas) => {
                let known = self.applied.borrow().contains_key(&cas.id);
                let current =
                    self.records.borrow().get(&owned(cas.key)).map_or(Version::ABSENT, |found| found.0);
                if !known && current != cas.expected {
                    let outcome = Outcome::VersionMismatch { current: Some(current) };
                    encode_outcome(&mut out, LOG_TIME, &outcome)
                } else {
                    let (version, repeated) = self
                        .apply(cas.id, |version| self.put(owned(cas.key), version, cas.expiry, cas.value));
                    encode_written(&mut out, LOG_TIME, version, repeated)
                }
            }
            Request::Batch(batch) => {
                let (version, repeated) = self.apply(batch.id, |first| {
                    for (position, operation) in batch.operations().enumerate() {
                        let key = (batch.space.0, batch.stream.to_vec(), operation.time);
                        match operation.change {
                            Change::Put { expiry, value } => {
                                self.put(key, Version(first.0 + position as u64), expiry, value)
                            }
                            Change::Delete => drop(self.records.borrow_mut().remove(&key)),
                        }
                    }
                });
                encode_batch_written(&mut out, LOG_TIME, version, batch.count() as u32, repeated)
            }
            Request::Scan(scan) => {
                let range = (scan.space, scan.stream, scan.from, scan.to);
                self.page_of(&mut out, range, scan.backward, scan.record_limit)
            }
            Request::Head(head) => {
                self.page_of(&mut out, (head.space, head.stream, 0, u64::MAX), true, head.record_limit)
            }
            Request::Streams(streams) => {
                let mut names: Vec<(u16, Vec<u8>)> =
                    self.records.borrow().keys().map(|(space, stream, _)| (*space, stream.clone())).collect();
                names.dedup();
                names.retain(|(space, name)| {
                    layout::key::tablet_of(layout::key::bucket_of(Space(*space), name)) == streams.tablet
                });
                names.sort_by_key(|(space, name)| {
                    (layout::key::bucket_of(Space(*space), name), *space, name.clone())
                });
                if let Some((space, name)) = streams.after {
                    let at =
                        names.iter().position(|n| *n == (space.0, name.to_vec())).expect("it was listed");
                    names.drain(..=at);
                }
                let mut writer = StreamsWriter::new(&mut out, LOG_TIME);
                for (space, name) in names.iter().take(self.page.get()) {
                    assert!(writer.push(Space(*space), name));
                }
                writer.finish(names.len() > self.page.get())
            }
            Request::SetMap(_) => {
                let mut bytes = Vec::new();
                self.map.borrow().encode(&mut bytes);
                encode_map(&mut out, &bytes)
            }
            Request::Map(map) => {
                let own = self.map.borrow();
                if map.known_epoch == own.epoch {
                    encode_outcome(&mut out, LogTime(0), &Outcome::NotModified)
                } else {
                    let mut bytes = Vec::new();
                    own.encode(&mut bytes);
                    encode_map(&mut out, &bytes)
                }
            }
            Request::Status | Request::Verify | Request::Hot => encode_status(&mut out, "{}"),
        };
        out[..bytes].to_vec()
    }

    fn page_of(
        &self,
        out: &mut [u8],
        (space, stream, from, to): (Space, &[u8], u64, u64),
        backward: bool,
        record_limit: u32,
    ) -> usize {
        let records = self.records.borrow();
        let range = (space.0, stream.to_vec(), from)..=(space.0, stream.to_vec(), to);
        let mut found: Vec<_> = records.range(range).collect();
        if backward {
            found.reverse();
        }
        let limit = if record_limit == 0 { usize::MAX } else { record_limit as usize }.min(self.page.get());
        let resume = found.get(limit).map(|((.., time), _)| *time);
        let resume = self.resumes.borrow_mut().pop().or(resume);
        let mut writer = RecordsWriter::new(out, LOG_TIME, LogIndex(self.index.get()));
        for ((.., time), (version, expiry, value)) in found.into_iter().take(limit) {
            assert!(writer.push(*time, *version, *expiry, value));
        }
        writer.finish(resume)
    }
}

fn owned(key: layout::key::Key<'_>) -> OwnedKey {
    (key.space.0, key.stream.to_vec(), key.time)
}

/// Accepts connections until the core ends.
pub(crate) async fn serve(io: Io, address: SocketAddr, store: Rc<Store>, bound: impl FnOnce(SocketAddr)) {
    let listener = io.listen(address).expect("the address is free");
    bound(listener.address());
    loop {
        let Ok(stream) = listener.accept().await else { continue };
        store.connections.set(store.connections.get() + 1);
        io.spawn(Queue::Foreground, connection(io.clone(), Rc::new(stream), Rc::clone(&store)));
    }
}

async fn send(io: &Io, stream: &Stream, code: u8, request: u64, epoch: u32, body: &[u8]) {
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend_from_slice(body);
    seal(&mut frame, code, request, epoch);
    let mut buffer = io.buffer(frame.len()).expect("the arena has room");
    buffer[..frame.len()].copy_from_slice(&frame);
    let _ = stream.send(buffer, 0..frame.len()).await;
}

async fn connection(io: Io, stream: Rc<Stream>, store: Rc<Store>) {
    let identity = ServerIdentity { cluster: CLUSTER, node: store.node, incarnation: 1, features: 0 };
    let limits = *store.limits.borrow();
    let session = Rc::new(RefCell::new(ServerSession::new(limits, identity, io.now().ns / 1000)));
    // Answers that wait do not hold up the others, but one frame is sent after another.
    let sending = Rc::new(Cell::new(false));
    let mut inbox: Vec<u8> = Vec::new();
    loop {
        let now_us = io.now().ns / 1000;
        let epoch = store.map.borrow().epoch;
        let step = session.borrow_mut().next(now_us, epoch, &inbox);
        match step {
            Step::Need { .. } => {
                let buffer = io.buffer(64 << 10).expect("the arena has room");
                let (received, buffer) = stream.receive(buffer, 0..64 << 10).await;
                match received {
                    Ok(0) | Err(_) => return stream.shutdown(),
                    Ok(count) => inbox.extend_from_slice(&buffer[..count]),
                }
            }
            Step::Full => io.sleep(Duration::from_micros(100)).await,
            Step::Request { header, request, consumed } => {
                store.requests.borrow_mut().push(header.operation);
                let spoil = (store.script.borrow())(&request);
                let mut delay = Duration::ZERO;
                let body = match spoil {
                    Some(Spoil::Say(outcome)) => {
                        if let Request::Put(put) = request {
                            store.ids.borrow_mut().push(put.id);
                        }
                        let mut out = [0; 64];
                        let bytes = encode_outcome(&mut out, LOG_TIME, &outcome);
                        out[..bytes].to_vec()
                    }
                    Some(Spoil::ApplyAndClose) => {
                        store.answer(&request);
                        return stream.shutdown();
                    }
                    Some(Spoil::Close) => return stream.shutdown(),
                    Some(Spoil::Ignore) => {
                        inbox.drain(..consumed);
                        continue;
                    }
                    Some(Spoil::Delay(wait)) => {
                        delay = wait;
                        store.answer(&request)
                    }
                    None => store.answer(&request),
                };
                let too_large = body.len() > session.borrow().frame_bytes() as usize;
                assert!(!too_large, "the test server knows no {:?}", Limit::Frame);
                inbox.drain(..consumed);
                let (session, stream, sending) =
                    (Rc::clone(&session), Rc::clone(&stream), Rc::clone(&sending));
                let own = io.clone();
                io.spawn(Queue::Foreground, async move {
                    own.sleep(delay).await;
                    answer(&own, &stream, &sending, &header, epoch, &body).await;
                    session.borrow_mut().answered(own.now().ns / 1000);
                });
            }
            Step::Answer { code, request, reply, consumed, mut close } => {
                let refusal = match reply {
                    SessionReply::Hello(_) => store.hellos.borrow_mut().pop(),
                    SessionReply::Not(_) => None,
                };
                let reply = refusal.map_or(reply, SessionReply::Not);
                if let Some(outcome) = refusal {
                    close = Some(net::session::CloseReason::Hello(outcome));
                }
                let mut out = [0; 256];
                let bytes = match reply {
                    SessionReply::Hello(hello) => encode_hello(&mut out, &hello),
                    SessionReply::Not(outcome) => encode_outcome(&mut out, LogTime(0), &outcome),
                };
                inbox.drain(..consumed);
                send(&io, &stream, code, request, epoch, &out[..bytes]).await;
                if close.is_some() {
                    return stream.shutdown();
                }
            }
            Step::Peer { .. } | Step::Close(_) => return stream.shutdown(),
        }
    }
}

async fn answer(
    io: &Io,
    stream: &Stream,
    sending: &Cell<bool>,
    header: &FrameHeader,
    epoch: u32,
    body: &[u8],
) {
    while sending.get() {
        ioengine::sync::yield_now().await;
    }
    sending.set(true);
    send(io, stream, header.code() | REPLY_BIT, header.request, epoch, body).await;
    sending.set(false);
}
