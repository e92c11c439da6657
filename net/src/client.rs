//! The client: async over `ioengine`, so it runs on a real core and in the simulator alike; [`blocking`] wraps it for
//! programs that have no core.
//!
//! Owns connections to the nodes, the cluster map it knows, its request ids, and the rules of retries (PROTOCOL.md,
//! section 10). Must never apply a write twice: a retry carries the id of the first sending. Invariant: every call ends
//! within its deadline, with a result or a [`ClientError`] that says what is known.
//!
//! ```text
//! get, put, scan, …  →  call (replica, retries, deadline)  →  link (one node)  →  connection (frames)
//! ```

pub mod blocking;
mod bulk;
mod caches;
mod call;
mod cold;
mod connection;
mod error;
mod hedge;
mod link;
mod multi_get;
mod pages;
mod redirect;
mod turnstile;
mod verbs;

pub use bulk::{Bulk, Done, OwnedKey, Work};
pub use caches::{Routed, Through};
pub use cold::{COPIES, ColdNode, ColdReply, copies_in_any_order, first_copy};
pub use connection::CONNECTION_ARENA_BYTES;
pub use error::ClientError;
pub use pages::{Page, ScanPages, ScanRange, ScanRecord, StreamPage, StreamPages};
pub use verbs::{BatchWritten, Compared, Found, Newer};

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioengine::sync::{Notify, race};
use ioengine::{Instant, Io, Queue};
use layout::units::{TabletIndex, Uuid};

use crate::frame::{BODY_BYTES_MAX, PROTOCOL_VERSION};
use crate::outcome::Outcome;
use crate::redirect::FEATURE_REDIRECT;
use crate::reply::{Answer, Reply};
use crate::request::{AuthMethod, Hello, Map, Request};
use crate::request_id::RequestIds;
use crate::route::{ClusterMap, MapWrong, Node, Place, Roles, Router};
use caches::Counted;
use connection::{CallEnd, Connection};
use hedge::Share;
use link::Link;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// From a call's begin to its end at the latest.
    pub deadline: Duration,
    /// For a connection with its hello; then how long a server that owes an answer may be silent before it is asked for an
    /// echo; then for one try of several replicas.
    pub patience: Duration,
    /// Requests in flight on one connection, 1..=65,536; the server may agree to fewer.
    pub in_flight: u32,
    /// The longest body, bytes, 4 KiB..=4 MiB; the server may agree to less.
    pub frame_bytes: u32,
    /// The cluster that is meant; all zero = any.
    pub cluster: Uuid,
    /// Where gets go.
    pub through: Through,
    /// How many of the gets that go to a cache may be asked of the next cache, or of the store, too, when the first does not answer in
    /// the time that most take; of a million, 0 = none. The first answer holds.
    pub hedged_ppm: u32,
    /// None is asked twice before this.
    pub hedge_floor: Duration,
    /// Read records that lie on cold disks from there, where the store says; else the store reads them.
    pub redirects: bool,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            deadline: Duration::from_secs(10),
            patience: Duration::from_secs(2),
            in_flight: 1024,
            frame_bytes: BODY_BYTES_MAX,
            cluster: Uuid::default(),
            through: Through::default(),
            hedged_ppm: 50_000,
            hedge_floor: Duration::from_millis(1),
            redirects: true,
        }
    }
}

/// A client of one cluster. Cheap to clone, never leaves its core; clones share connections.
#[derive(Clone)]
pub struct Client {
    shared: Rc<Shared>,
    deadline: Duration,
    local: bool,
}

struct Shared {
    io: Io,
    config: ClientConfig,
    ids: RefCell<RequestIds>,
    router: RefCell<Rc<Router>>,
    /// The node first connected to, by the address that was given; its map may say another one.
    home: (u32, Rc<Link>),
    /// By node id, as the map names them.
    links: RefCell<BTreeMap<u32, Rc<Link>>>,
    fetching: Cell<bool>,
    fetched: Notify,
    counted: Counted,
    /// Gets that may be asked twice.
    hedged: Share,
    /// By address, as stores name them.
    cold_nodes: RefCell<BTreeMap<SocketAddr, Rc<ColdNode>>>,
}

impl Client {
    /// Connects to the first of `endpoints` that answers and fetches its cluster map. Each is tried once, or until it is
    /// no longer busy, for at most the config's patience.
    ///
    /// # Errors
    /// Why the last one could not be used.
    pub async fn connect(
        io: &Io,
        endpoints: &[SocketAddr],
        mut config: ClientConfig,
    ) -> Result<Client, ClientError> {
        let ids = RequestIds::new(io.random());
        let mut last = ClientError::Input { what: "no endpoint was given; name one with --endpoint".into() };
        for &address in endpoints {
            let link = Link::new(io, address, hello(&config, ids.client()), config.patience);
            match Client::greet(io, &link, &config).await {
                Ok((node, router)) => {
                    // From here on no other cluster is meant, whoever has the addresses later.
                    config.cluster = router.map().cluster;
                    let links = RefCell::new(BTreeMap::from([(node, Rc::clone(&link))]));
                    let shared = Rc::new(Shared {
                        io: io.clone(),
                        ids: RefCell::new(ids),
                        router: RefCell::new(Rc::new(router)),
                        home: (node, link),
                        links,
                        fetching: Cell::new(false),
                        fetched: Notify::new(),
                        counted: Counted::default(),
                        hedged: Share::new(config.hedged_ppm),
                        cold_nodes: RefCell::default(),
                        config,
                    });
                    let deadline = shared.config.deadline;
                    return Ok(Client { shared, deadline, local: false });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A client of the cluster of this map. Connects when it is asked something, and fetches newer maps like any other.
    ///
    /// # Errors
    /// When the map is not valid.
    pub fn of_map(io: &Io, map: ClusterMap, config: ClientConfig) -> Result<Client, MapWrong> {
        let ids = RequestIds::new(io.random());
        let router = Router::new(map)?;
        let first = router.replicas(0, TabletIndex::all().next().expect("there are tablets")).next();
        let &Node { id, address, .. } = first.expect("a group has members");
        let link = Link::new(io, address, hello(&config, ids.client()), config.patience);
        let deadline = config.deadline;
        let shared = Rc::new(Shared {
            io: io.clone(),
            ids: RefCell::new(ids),
            router: RefCell::new(Rc::new(router)),
            home: (id, Rc::clone(&link)),
            links: RefCell::new(BTreeMap::from([(id, link)])),
            fetching: Cell::new(false),
            fetched: Notify::new(),
            counted: Counted::default(),
            hedged: Share::new(config.hedged_ppm),
            cold_nodes: RefCell::default(),
            config,
        });
        Ok(Client { shared, deadline, local: false })
    }

    async fn greet(io: &Io, link: &Link, config: &ClientConfig) -> Result<(u32, Router), ClientError> {
        let until = io.now().after(config.patience);
        let silent = || ClientError::Unreachable { address: link.address, cause: "no answer".into() };
        let mut last = None;
        // A server that is busy is there: it is asked again, when it said.
        let connection = loop {
            match link.connection(until).await {
                Some(Err(busy @ ClientError::Refused { .. })) if !busy.is_final() => last = Some(busy),
                Some(other) => break other?,
                None => return Err(last.unwrap_or_else(silent)),
            }
        };
        let Asked::Map(map) = ask_map(&connection, 0, until).await? else { return Err(silent()) };
        let router =
            Router::new(map).map_err(|cause| ClientError::WrongMap { address: link.address, cause })?;
        Ok((connection.hello.node, router))
    }

    /// The same client with another deadline for its calls.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Client {
        Client { deadline, ..self.clone() }
    }

    /// The same client with reads that one replica answers from what it has, without asking the others.
    #[must_use]
    pub fn with_local_reads(&self, local: bool) -> Client {
        Client { local, ..self.clone() }
    }

    /// The cluster map as the client knows it.
    pub fn known_map(&self) -> ClusterMap {
        self.shared.router.borrow().map().clone()
    }

    /// The core it runs on.
    pub fn io(&self) -> &Io {
        &self.shared.io
    }

    fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    fn ids(&self) -> &RefCell<RequestIds> {
        &self.shared.ids
    }

    fn home(&self) -> Rc<Link> {
        self.link_of(self.shared.home.0)
    }

    /// Epoch of the cluster map as the client knows it.
    pub fn epoch(&self) -> u32 {
        self.shared.router.borrow().map().epoch
    }

    fn place(&self, space: layout::units::Space, stream: &[u8]) -> Place {
        self.shared.router.borrow().place(space, stream)
    }

    /// The link of a tablet's replica, counted on and on through their order, and how many there are.
    fn replica(&self, group: u16, tablet: TabletIndex, count: usize) -> (Rc<Link>, usize) {
        let router = Rc::clone(&*self.shared.router.borrow());
        // A new map can have fewer groups than the one that placed the call; its next answer will say so.
        let group = group.min(u16::try_from(router.map().groups.len() - 1).expect("at most 1000 groups"));
        let replicas: Vec<_> = router.replicas(group, tablet).collect();
        let node = replicas[count % replicas.len()];
        (self.link_to(node), replicas.len())
    }

    /// The link of the node with this id; of the first one connected to when the map has no such node.
    fn link_of(&self, id: u32) -> Rc<Link> {
        let router = Rc::clone(&*self.shared.router.borrow());
        router.map().node(id).map_or_else(|| Rc::clone(&self.shared.home.1), |node| self.link_to(node))
    }

    /// The link of a node of the map.
    fn link_to(&self, node: &Node) -> Rc<Link> {
        let mut links = self.shared.links.borrow_mut();
        let link = links.entry(node.id).or_insert_with(|| {
            let client = self.shared.ids.borrow().client();
            Link::new(self.io(), node.address, hello(self.config(), client), self.config().patience)
        });
        Rc::clone(link)
    }

    /// An answer came with this epoch: when it is newer than ours, fetch the map in the background.
    fn learn_epoch(&self, link: &Rc<Link>, epoch: u32) {
        if epoch <= self.epoch() || self.shared.fetching.get() {
            return;
        }
        let (client, link) = (self.clone(), Rc::clone(link));
        self.io().spawn(Queue::Foreground, async move {
            let until = client.io().now().after(client.config().patience);
            // Failing is no news: the next answer asks again.
            let _ = client.fetch_map(&link, until).await;
        });
    }

    /// Asks a node of the store, drawn anew, whether it has a newer map, and takes it; when it does not answer, the next one. For who may
    /// ask nothing else for long. What nobody answers is no news.
    pub async fn renew_map(&self) {
        let router = Rc::clone(&*self.shared.router.borrow());
        let stores: Vec<&Node> =
            router.map().nodes.iter().filter(|node| node.roles.has(Roles::STORE)).collect();
        let (before, from) = stores.split_at((self.io().random() % stores.len() as u64) as usize);
        for node in from.iter().chain(before) {
            let link = self.link_to(node);
            let until = self.io().now().after(self.config().patience);
            if link.is_of_use() && matches!(self.fetch_map(&link, until).await, Ok(Fetched::Heard)) {
                return;
            }
        }
    }

    /// Asks a node for its map and takes it when it is newer. One at a time; the others wait for it.
    async fn fetch_map(&self, link: &Link, until: Instant) -> Result<Fetched, ClientError> {
        if self.shared.fetching.get() {
            let fetched = self.shared.fetched.notified();
            race(fetched, self.io().sleep_until(until)).await;
            return Ok(Fetched::Nothing);
        }
        self.shared.fetching.set(true);
        let _fetching = Fetching(&self.shared);
        let Some(Ok(connection)) = link.connection(until).await else { return Ok(Fetched::Nothing) };
        let map = match ask_map(&connection, self.epoch(), until).await? {
            Asked::Map(map) if map.epoch > self.epoch() => map,
            Asked::Map(_) | Asked::Known => return Ok(Fetched::Heard),
            Asked::Silent => return Ok(Fetched::Nothing),
        };
        let wrong_map = |cause| ClientError::WrongMap { address: link.address, cause };
        if map.cluster != self.shared.router.borrow().map().cluster {
            return Err(wrong_map(MapWrong { what: "it is of another cluster", of: "map", index: 0 }));
        }
        let router = Router::new(map).map_err(wrong_map)?;
        let (home, _) = self.shared.home;
        let address = |map: &ClusterMap, id| map.node(id).map(|node| node.address);
        // The address that was given for the first node holds until the map says that it has moved. (Failing history: it held for ever, and
        // a cache went on to ask for its first replica where nobody was any more.)
        let has_moved = address(&self.known_map(), home) != address(router.map(), home);
        self.shared.links.borrow_mut().retain(|id, link| {
            (*id == home && !has_moved) || address(router.map(), *id) == Some(link.address)
        });
        *self.shared.router.borrow_mut() = Rc::new(router);
        Ok(Fetched::Heard)
    }
}

/// What came of a fetch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fetched {
    /// The node has said what it knows, and that was taken if it is newer.
    Heard,
    /// It has not, or another fetch was under way.
    Nothing,
}

/// What a node says to who asks for its map.
enum Asked {
    Map(ClusterMap),
    /// The one that is known.
    Known,
    /// No answer in time.
    Silent,
}

/// Clears the mark of a fetch also when whoever made it goes away.
struct Fetching<'a>(&'a Shared);

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.fetching.set(false);
        self.0.fetched.notify();
    }
}

async fn ask_map(
    connection: &Rc<Connection>,
    known_epoch: u32,
    until: Instant,
) -> Result<Asked, ClientError> {
    let request = Request::Map(Map { known_epoch });
    let address = connection.address;
    match connection.call(&request, known_epoch, until).await {
        Ok(answered) => {
            let reply = Reply::decode(request.operation(), &answered.body)
                .expect("the session has decoded it before");
            match reply.answer {
                Answer::Map(bytes) => match ClusterMap::decode(bytes) {
                    Ok(map) => Ok(Asked::Map(map)),
                    Err(cause) => Err(ClientError::WrongMap { address, cause }),
                },
                Answer::Not(Outcome::NotModified) => Ok(Asked::Known),
                Answer::Not(outcome) => Err(ClientError::Answer { operation: request.operation(), outcome }),
                _ => unreachable!("the session has checked that the answer fits the operation"),
            }
        }
        Err(error) => match error.error {
            CallEnd::Lost(lost) => Err(lost),
            CallEnd::Late | CallEnd::TooLarge => Ok(Asked::Silent),
        },
    }
}

fn hello(config: &ClientConfig, client: u64) -> Hello<'static> {
    Hello {
        protocol_min: PROTOCOL_VERSION,
        protocol_max: PROTOCOL_VERSION,
        method: AuthMethod::None,
        auth: &[],
        features: u64::from(config.redirects) * FEATURE_REDIRECT,
        frame_bytes: config.frame_bytes,
        in_flight: config.in_flight,
        client,
        cluster: config.cluster,
    }
}
