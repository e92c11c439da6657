//! The client for programs without a core: it owns one on the calling thread and runs each call to its end.
//!
//! Calls of one client cannot overlap; [`Bulk`] keeps many in flight. Between calls nothing runs, so an idle client
//! costs nothing, and a server may have closed its connection meanwhile: the next call connects again.

use std::net::{SocketAddr, ToSocketAddrs};

use ioengine::CoreConfig;
use ioengine::uring::Runtime;
use layout::key::Key;
use layout::units::{Space, TabletIndex, Version};

use super::bulk::{self, Done, Work};
use super::error::ClientError;
use super::pages::{Page, ScanRange, ScanRecord, StreamPage};
use super::verbs::{BatchWritten, Compared, Found, Newer};
use super::{ClientConfig, ColdNode};
use crate::operation::Operation;
use crate::outcome::Outcome;
use crate::reply::{Answer, Written};
use crate::request::BatchBody;
use crate::route::ClusterMap;

/// A client that blocks the calling thread. Its verbs are those of [`super::Client`], with the same errors.
pub struct Client {
    // Before the runtime, so that its connections are closed before their core goes.
    client: super::Client,
    runtime: Runtime,
}

/// The addresses of `endpoints`, each HOST:PORT.
fn addresses(endpoints: &[&str]) -> Result<Vec<SocketAddr>, ClientError> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for endpoint in endpoints {
        let wrong = |cause: String| ClientError::Input {
            what: format!("{endpoint} is no address: {cause}; write HOST:PORT").into(),
        };
        addresses.extend(endpoint.to_socket_addrs().map_err(|error| wrong(error.to_string()))?);
    }
    Ok(addresses)
}

fn runtime() -> Result<Runtime, ClientError> {
    Runtime::new(CoreConfig::small("client", 0))
        .map_err(|error| ClientError::Launch { what: error.to_string().into() })
}

/// The counters of the first of `endpoints` that answers, as JSON, though it has no cluster map to give: those of a cold node.
///
/// # Errors
/// Why the last one did not.
pub fn status_without_map(endpoints: &[&str], config: &ClientConfig) -> Result<String, ClientError> {
    let (addresses, runtime) = (addresses(endpoints)?, runtime()?);
    let mut last = ClientError::Input { what: "no endpoint was given; name one with --endpoint".into() };
    for address in addresses {
        let node = ColdNode::new(runtime.io(), address, config);
        let reply = match runtime.block_on(node.status()) {
            Ok(reply) => reply,
            Err(error) => {
                last = error;
                continue;
            }
        };
        return match reply.answer() {
            Answer::Status(text) => Ok(text.to_owned()),
            Answer::Not(outcome) => Err(ClientError::Answer { operation: Operation::Status, outcome }),
            _ => {
                Err(ClientError::WrongAnswer { operation: Operation::Status, what: "it is no status".into() })
            }
        };
    }
    Err(last)
}

impl Client {
    /// Connects to the first of `endpoints` that answers, each HOST:PORT.
    ///
    /// # Errors
    /// Why the last one could not be used, or why there is no core on this thread.
    pub fn connect(endpoints: &[&str], config: ClientConfig) -> Result<Client, ClientError> {
        let (addresses, runtime) = (addresses(endpoints)?, runtime()?);
        let client = runtime.block_on(super::Client::connect(runtime.io(), &addresses, config))?;
        Ok(Client { client, runtime })
    }

    /// The async client inside, for what this one has no verb for, with [`Client::run`].
    pub fn client(&self) -> &super::Client {
        &self.client
    }

    /// Runs a future of the async client to its end.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// As [`super::Client::get`].
    pub fn get(&self, key: Key<'_>) -> Result<Option<Found>, ClientError> {
        self.run(self.client.get(key))
    }

    /// As [`super::Client::get_if_newer`].
    pub fn get_if_newer(&self, key: Key<'_>, known: Version) -> Result<Newer, ClientError> {
        self.run(self.client.get_if_newer(key, known))
    }

    /// As [`super::Client::mget`].
    pub fn mget(&self, keys: &[Key<'_>]) -> Result<Vec<Result<Option<Found>, Outcome>>, ClientError> {
        self.run(self.client.mget(keys))
    }

    /// As [`super::Client::put`].
    pub fn put(&self, key: Key<'_>, expiry: u64, value: &[u8]) -> Result<Written, ClientError> {
        self.run(self.client.put(key, expiry, value))
    }

    /// As [`super::Client::delete`].
    pub fn delete(&self, key: Key<'_>) -> Result<Written, ClientError> {
        self.run(self.client.delete(key))
    }

    /// As [`super::Client::cas`].
    pub fn cas(
        &self,
        key: Key<'_>,
        expected: Version,
        expiry: u64,
        value: &[u8],
    ) -> Result<Compared, ClientError> {
        self.run(self.client.cas(key, expected, expiry, value))
    }

    /// As [`super::Client::batch`].
    pub fn batch(
        &self,
        space: Space,
        stream: &[u8],
        operations: &BatchBody,
    ) -> Result<BatchWritten, ClientError> {
        self.run(self.client.batch(space, stream, operations))
    }

    /// As [`super::Client::scan`].
    pub fn scan(&self, range: ScanRange) -> ScanPages<'_> {
        ScanPages { client: self, pages: self.client.scan(range) }
    }

    /// As [`super::Client::head`].
    pub fn head(&self, space: Space, stream: &[u8], count: u32) -> Result<Vec<ScanRecord>, ClientError> {
        self.run(self.client.head(space, stream, count))
    }

    /// As [`super::Client::streams`].
    pub fn streams(
        &self,
        group: u16,
        tablet: TabletIndex,
        space: Option<Space>,
    ) -> Result<StreamPages<'_>, ClientError> {
        Ok(StreamPages { client: self, pages: self.client.streams(group, tablet, space)? })
    }

    /// As [`super::Client::map`].
    pub fn map(&self) -> Result<ClusterMap, ClientError> {
        self.run(self.client.map())
    }

    /// As [`super::Client::set_map`].
    pub fn set_map(&self, map: &ClusterMap) -> Result<ClusterMap, ClientError> {
        self.run(self.client.set_map(map))
    }

    /// As [`super::Client::status`].
    pub fn status(&self) -> Result<String, ClientError> {
        self.run(self.client.status())
    }

    /// As [`super::Client::verify`].
    pub fn verify(&self) -> Result<String, ClientError> {
        self.run(self.client.verify())
    }

    /// As [`super::Client::hot_at`].
    pub fn hot_at(&self, node: u32) -> Result<String, ClientError> {
        self.run(self.client.hot_at(node))
    }

    /// As [`super::Client::ping`].
    pub fn ping(&self, echo: &[u8]) -> Result<(), ClientError> {
        self.run(self.client.ping(echo))
    }

    /// A window of `window` calls in flight.
    pub fn bulk(&self, window: usize) -> Bulk<'_> {
        Bulk { client: self, bulk: bulk::Bulk::new(&self.client, window) }
    }
}

/// The pages of a scan.
pub struct ScanPages<'a> {
    client: &'a Client,
    pages: super::ScanPages,
}

impl ScanPages<'_> {
    /// As [`super::ScanPages::next`].
    #[expect(
        clippy::should_implement_trait,
        reason = "an error does not end the pages, as an iterator's would"
    )]
    pub fn next(&mut self) -> Result<Option<Page>, ClientError> {
        self.client.runtime.block_on(self.pages.next())
    }
}

/// The pages of the streams of a tablet.
pub struct StreamPages<'a> {
    client: &'a Client,
    pages: super::StreamPages,
}

impl StreamPages<'_> {
    /// As [`super::StreamPages::next`].
    #[expect(
        clippy::should_implement_trait,
        reason = "an error does not end the pages, as an iterator's would"
    )]
    pub fn next(&mut self) -> Result<Option<StreamPage>, ClientError> {
        self.client.runtime.block_on(self.pages.next())
    }
}

/// Many calls in flight: submit, and take what is done now and then. The connection works only while one of these
/// functions runs, in bursts of about half a window.
pub struct Bulk<'a> {
    client: &'a Client,
    bulk: bulk::Bulk,
}

impl Bulk<'_> {
    /// Starts work; waits first, until half of the window is free, when it is full. Returns its ticket, 0, 1, 2, …
    pub fn submit(&self, work: Work) -> u64 {
        if !self.bulk.has_room() {
            self.client.run(self.bulk.settle(self.bulk.in_flight() / 2));
        }
        self.bulk.start(work)
    }

    /// Something that is done, without waiting.
    pub fn try_next(&self) -> Option<(u64, Result<Done, ClientError>)> {
        self.bulk.try_next()
    }

    /// The next that is done, waiting for it; None when nothing is in flight or left to take.
    pub fn next(&self) -> Option<(u64, Result<Done, ClientError>)> {
        self.bulk.try_next().or_else(|| self.client.run(self.bulk.next()))
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> usize {
        self.bulk.in_flight()
    }
}
