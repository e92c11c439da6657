//! A node in a simulated world and a client that speaks the protocol by hand, for the tests of this crate.

#![allow(dead_code, reason = "each test file uses its part of this")]

use ioengine::sim::{DiskConfig, DiskHandle, NodeConfig as SimNode, NodeHandle, World, WorldConfig};
use ioengine::{Buf, Io, Launcher, Stream};
use layout::key::Key;
use layout::units::{Incarnation, RequestId, Space, Uuid, Version};
use net::frame::{HEADER_BYTES, next_frame};
use net::outcome::Outcome;
use net::reply::{Answer, Reply};
use net::request::{Hello, Request};
use net::session::append_frame;
use shard::examine::{Examined, examine};
use shard::format::{FormatPlan, format};
use shard::limits::Limits;
use shard::node::{Event, Node, NodeConfig, start};
use shard::recover::journal_zone;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const PORT: u16 = 7420;

/// A world with one store node, one disk, and a machine for clients.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) store: NodeHandle,
    pub(crate) clients: NodeHandle,
    pub(crate) config: NodeConfig,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

pub(crate) fn plan(core_count: u16) -> FormatPlan {
    FormatPlan {
        cluster: Uuid([7; 16]),
        node: 1,
        shard_count: core_count,
        journal_bytes: Some(2 << 20),
        segment_bytes: 256 << 10,
        recovers: false,
        anew: false,
    }
}

impl Scene {
    /// Formatted and not yet started.
    pub(crate) fn new(seed: u64, core_count: u16) -> Scene {
        Scene::of(World::new(seed, WorldConfig::default()), core_count)
    }

    /// In this world.
    pub(crate) fn of(world: World, core_count: u16) -> Scene {
        let store = world.add_node(SimNode::numbered(1));
        let clients = world.add_node(SimNode::numbered(2));
        world.add_disk(&store, "ssd", DiskConfig::new(32 << 20));
        let config = NodeConfig {
            disk: "ssd".to_owned(),
            listen: SocketAddr::new(store.address(), PORT),
            advertise: None,
            map: None,
            without: Vec::new(),
            versions: net::peer::PeerVersions::ALL,
            core_count,
            host: ioengine::HostKind::Own,
            pin: false,
            spin_us: 0,
            limits: Limits::small(),
            sink: None,
        };
        world.block_on(&store, Duration::from_secs(60), move |io: Io| async move {
            let disk = io.open_disk("ssd", ioengine::disk::DiskOpen::default()).unwrap();
            format(&io, &disk, &plan(core_count)).await.unwrap();
        });
        Scene { world, store, clients, config, events: Arc::default() }
    }

    /// Start the node and wait until it serves, or fails to.
    pub(crate) fn start(&self) -> Node {
        let events = Arc::clone(&self.events);
        events.lock().unwrap().clear();
        let listener = Arc::new(move |event| events.lock().unwrap().push(event));
        let node = start(&Launcher::Simulated(self.store), &self.config, listener).unwrap();
        let events = Arc::clone(&self.events);
        self.world.run_while(Duration::from_secs(60), move || {
            !events.lock().unwrap().iter().any(|event| matches!(event, Event::Serving(_) | Event::Failed(_)))
        });
        node
    }

    /// What each shard's start found: damaged tablets.
    pub(crate) fn damaged_tablet_count(&self) -> usize {
        let damaged = |event: &Event| match event {
            Event::Recovered { damaged_tablet_count, .. } => *damaged_tablet_count,
            _ => 0,
        };
        self.events.lock().unwrap().iter().map(damaged).sum()
    }

    pub(crate) fn disk(&self) -> DiskHandle {
        self.store.disk("ssd").unwrap()
    }

    /// The offline check of what the disk of the one shard holds now, on a copy of this name.
    pub(crate) fn look(&self, name: &'static str) -> Examined {
        let image = self.disk().snapshot();
        let limits = self.config.limits.clone();
        self.world.add_disk_with(&self.clients, name, DiskConfig::new(32 << 20), image);
        self.world.block_on(&self.clients, Duration::from_secs(60), move |io| async move {
            let disk = io.open_disk(name, ioengine::disk::DiskOpen::default()).unwrap();
            let superblock = shard::format::read(&io, &disk).await.unwrap();
            let bytes = journal_zone(&superblock, 0, &limits).unwrap().bytes();
            let next = Incarnation(superblock.incarnation.0 + 1);
            examine(&io, &disk, &superblock, 0, next, bytes).await.unwrap()
        })
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.events.lock().unwrap().iter().find_map(|event| match event {
            Event::Failed(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// Run `main` on the clients' machine with a connection to the node.
    pub(crate) fn client<T: 'static, M>(&self, main: impl FnOnce(Client) -> M + 'static) -> T
    where
        M: Future<Output = T> + 'static,
    {
        let address = self.config.listen;
        self.world.block_on(&self.clients, Duration::from_secs(600), move |io| async move {
            main(Client::connect(io, address).await).await
        })
    }
}

/// One connection, one request at a time.
pub(crate) struct Client {
    pub(crate) io: Io,
    stream: Stream,
    buffer: Option<Buf>,
    filled: usize,
    number: u64,
    pub(crate) client: u64,
    sequence: u64,
}

impl Client {
    pub(crate) async fn connect(io: Io, address: SocketAddr) -> Client {
        Client::connect_with(io, address, 64 << 10).await
    }

    /// With frames of at most `frame_bytes`.
    pub(crate) async fn connect_with(io: Io, address: SocketAddr, frame_bytes: u32) -> Client {
        let stream = io.connect(address).await.unwrap();
        let client = io.random() | 1;
        let buffer = io.buffer((2 * frame_bytes as usize).next_power_of_two());
        let mut this = Client { io, stream, buffer, filled: 0, number: 0, client, sequence: 0 };
        let hello = Hello {
            protocol_min: 1,
            protocol_max: 1,
            method: net::request::AuthMethod::None,
            auth: &[],
            features: 0,
            frame_bytes,
            in_flight: 16,
            client,
            cluster: Uuid::default(),
        };
        let body = this.ask(&Request::Hello(hello)).await.expect("hello is answered");
        let reply = Reply::decode(net::operation::Operation::Hello, &body).unwrap();
        assert!(matches!(reply.answer, Answer::Hello(_)), "{reply:?}");
        this
    }

    pub(crate) fn id(&mut self) -> RequestId {
        self.sequence += 1;
        RequestId { client: self.client, log_time: 0, sequence: self.sequence }
    }

    /// Send a request and wait for its answer's body; `None` when the connection ends.
    pub(crate) async fn ask(&mut self, request: &Request<'_>) -> Option<Vec<u8>> {
        self.number += 1;
        let number = if matches!(request, Request::Hello(_)) { 0 } else { self.number };
        let mut frame = Vec::new();
        append_frame(request, number, 0, &mut frame);
        let mut out = self.io.buffer(frame.len()).unwrap();
        out[..frame.len()].copy_from_slice(&frame);
        self.stream.send(out, 0..frame.len()).await.0.ok()?;
        loop {
            let mut buffer = self.buffer.take().unwrap();
            if let Some(frame) = next_frame(&buffer[..self.filled], 4 << 20).unwrap() {
                assert_eq!(frame.header.request, number);
                let body = frame.body.to_vec();
                assert_eq!(frame.consumed, HEADER_BYTES + body.len());
                let consumed = frame.consumed;
                buffer.copy_within(consumed..self.filled, 0);
                self.filled -= consumed;
                self.buffer = Some(buffer);
                return Some(body);
            }
            let end = buffer.len();
            let (result, back) = self.stream.receive(buffer, self.filled..end).await;
            self.buffer = Some(back);
            match result {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.filled += count,
            }
        }
    }

    pub(crate) async fn put(&mut self, stream: &[u8], time: u64, value: &[u8]) -> Result<Version, Outcome> {
        let id = self.id();
        self.put_as(id, stream, time, value).await
    }

    pub(crate) async fn put_as(
        &mut self,
        id: RequestId,
        stream: &[u8],
        time: u64,
        value: &[u8],
    ) -> Result<Version, Outcome> {
        let key = Key { space: Space(0), stream, time };
        let request = Request::Put(net::request::Put { id, key, expiry: 0, value });
        self.written(&request).await
    }

    pub(crate) async fn written(&mut self, request: &Request<'_>) -> Result<Version, Outcome> {
        let body = self.ask(request).await.ok_or(Outcome::UnknownOutcome)?;
        match Reply::decode(request.operation(), &body).unwrap().answer {
            Answer::Written(written) => Ok(written.version),
            Answer::Not(outcome) => Err(outcome),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn get(&mut self, stream: &[u8], time: u64) -> Result<(Version, Vec<u8>), Outcome> {
        let key = Key { space: Space(0), stream, time };
        let request = Request::Get(net::request::Get { key, local: false, if_newer: None, redirect: false });
        let body = self.ask(&request).await.ok_or(Outcome::Timeout)?;
        match Reply::decode(request.operation(), &body).unwrap().answer {
            Answer::Record { version, value, .. } => Ok((version, value.to_vec())),
            Answer::Not(outcome) => Err(outcome),
            other => panic!("{other:?}"),
        }
    }

    /// What the node has of a record, whatever others have.
    pub(crate) async fn get_local(&mut self, stream: &[u8], time: u64) -> Option<Vec<u8>> {
        let key = Key { space: Space(0), stream, time };
        let request = Request::Get(net::request::Get { key, local: true, if_newer: None, redirect: false });
        let body = self.ask(&request).await.expect("an answer");
        match Reply::decode(request.operation(), &body).unwrap().answer {
            Answer::Record { value, .. } => Some(value.to_vec()),
            Answer::Not(Outcome::NotFound) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Times of a page of a scan to the end, and where the next page begins.
    pub(crate) async fn scan_page(&mut self, stream: &[u8], from: u64) -> (Vec<u64>, Option<u64>) {
        let scan = net::request::Scan {
            space: Space(0),
            stream,
            from,
            to: u64::MAX,
            backward: false,
            local: false,
            record_limit: 0,
            byte_limit: 0,
        };
        let body = self.ask(&Request::Scan(scan)).await.unwrap();
        match Reply::decode(net::operation::Operation::Scan, &body).unwrap().answer {
            Answer::Records(page) => (page.iter().map(|record| record.time).collect(), page.resume),
            other => panic!("{other:?}"),
        }
    }

    /// Empty values at these times, all or none.
    pub(crate) async fn put_batch(
        &mut self,
        stream: &[u8],
        times: impl IntoIterator<Item = u64>,
    ) -> Result<(), Outcome> {
        let mut batch = net::request::BatchBody::new();
        for time in times {
            let change = net::request::Change::Put { expiry: 0, value: b"" };
            assert!(batch.push(&net::request::BatchOperation { time, change }));
        }
        let id = self.id();
        let request = Request::Batch(batch.request(id, Space(0), stream).unwrap());
        let body = self.ask(&request).await.ok_or(Outcome::UnknownOutcome)?;
        match Reply::decode(request.operation(), &body).unwrap().answer {
            Answer::BatchWritten { .. } => Ok(()),
            Answer::Not(outcome) => Err(outcome),
            other => panic!("{other:?}"),
        }
    }
}
