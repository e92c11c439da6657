//! The client against a small server that a script spoils: in the simulator, and over the real loopback.

mod blocking;
mod caches;
mod pages;
mod retries;
mod seeds;
mod server;
mod verbs;

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioengine::sim::{NodeConfig, NodeHandle, World, WorldConfig};
use ioengine::{CoreConfig, Io};
use layout::key::Key;
use layout::units::Space;
use net::client::{Client, ClientConfig, ClientError};
use net::route::ClusterMap;
use server::{CLUSTER, Store, serve};

const PORT: u16 = 7420;

/// A world with one server and a machine for the client.
struct Scene {
    world: World,
    server: NodeHandle,
    client: NodeHandle,
    store: Rc<Store>,
}

fn key(stream: &'static str, time: u64) -> Key<'static> {
    Key::new(Space(0), stream.as_bytes(), time).expect("a short stream")
}

impl Scene {
    fn new(seed: u64) -> Scene {
        Scene::in_world(seed, WorldConfig::default())
    }

    fn in_world(seed: u64, config: WorldConfig) -> Scene {
        let world = World::new(seed, config);
        let server = world.add_node(NodeConfig::numbered(1));
        let client = world.add_node(NodeConfig::numbered(2));
        let address = SocketAddr::new(server.address(), PORT);
        let store = Store::new(ClusterMap::single(CLUSTER, 1, address, 1), 1);
        let scene = Scene { world, server, client, store };
        scene.start(&scene.server, &scene.store);
        scene
    }

    fn start(&self, node: &NodeHandle, store: &Rc<Store>) {
        let (address, store) = (SocketAddr::new(node.address(), PORT), Rc::clone(store));
        // The listener stands before any client comes.
        let ready = Rc::new(Cell::new(false));
        let bound = Rc::clone(&ready);
        node.launch(CoreConfig::small("server", 0), move |io| {
            serve(io, address, store, move |_| bound.set(true))
        })
        .expect("a simulated core starts");
        assert!(self.world.run_while(Duration::from_secs(10), || !ready.get()));
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.server.address(), PORT)
    }

    /// Runs `test` with a client of the server, in virtual time.
    fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        test: impl FnOnce(Client) -> F + 'static,
    ) -> T {
        let address = self.address();
        self.run_io(move |io| async move {
            let client =
                Client::connect(&io, &[address], ClientConfig::default()).await.expect("the server is there");
            test(client).await
        })
    }

    fn run_io<T: 'static, F: Future<Output = T> + 'static>(&self, test: impl FnOnce(Io) -> F + 'static) -> T {
        self.world.block_on(&self.client, Duration::from_secs(600), test)
    }

    /// The error of connecting.
    fn refused(&self, endpoints: Vec<SocketAddr>, config: ClientConfig) -> ClientError {
        self.run_io(move |io| async move {
            Client::connect(&io, &endpoints, config).await.err().expect("no connection was to be had")
        })
    }
}
