//! Who reads through caches as programs do: by the client library, which goes the ways of the cluster map, hears of new maps, waits for
//! busy caches and falls back to the store. What it was shown is written down beside what the clients of the simulator saw.
//!
//! Must never read a record that may expire: the library does not say at which log time it found nothing.

use crate::sim::client::Shared;
use crate::sim::history::{Read, Seen, StreamIndex};
use ioengine::Io;
use ioengine::sim::Random;
use layout::key::Key;
use layout::units::{LogTime, Space, Version};
use net::client::{Client, ClientConfig, ClientError, Found, Newer, Routed, Through};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Keys of the largest multi-get.
const KEYS_MAX: u64 = 64;

/// What readers of a run share.
pub(super) struct Readers {
    pub(super) shared: Rc<Shared>,
    pub(super) stores: Vec<SocketAddr>,
    /// Streams and times that are read, each as likely: none of them expires.
    pub(super) keys: Vec<(StreamIndex, u64)>,
    pub(super) pause: Duration,
    /// What clients that have ended counted of their gets.
    pub(super) routed: Cell<Routed>,
}

/// A reader: works until told to stop.
pub(super) async fn read(io: Io, readers: Rc<Readers>, number: u16, mut random: Random) {
    let config = ClientConfig {
        deadline: Duration::from_secs(4),
        patience: Duration::from_millis(200 << random.below(3)),
        // Most by caches, however little of it the map sends there.
        through: if number.is_multiple_of(4) { Through::Map } else { Through::Caches },
        ..ClientConfig::default()
    };
    let client = loop {
        match Client::connect(&io, &readers.stores, config.clone()).await {
            Ok(client) => break client,
            Err(_) => io.sleep(Duration::from_millis(20)).await,
        }
    };
    let reader = Reader { readers: Rc::clone(&readers), client, number };
    while !readers.shared.stop.get() {
        let read = match random.below(4) {
            0 => reader.get(*random.pick(&readers.keys)).await,
            1 => reader.again(*random.pick(&readers.keys)).await,
            _ => {
                let count = 1 + random.below(KEYS_MAX);
                let keys: Vec<_> = (0..count).map(|_| *random.pick(&readers.keys)).collect();
                reader.many(&keys).await
            }
        };
        if read.is_err() {
            readers.shared.history.borrow_mut().count("no answer of the library");
        }
        let pause = readers.pause.as_micros() as u64;
        io.sleep(Duration::from_micros(random.below(2 * pause + 1))).await;
    }
    let (own, all) = (reader.client.routed(), readers.routed.get());
    readers.routed.set(Routed {
        by_cache: all.by_cache + own.by_cache,
        fell_back: all.fell_back + own.fell_back,
        hedged: all.hedged + own.hedged,
        hedges_won: all.hedges_won + own.hedges_won,
    });
    readers.shared.busy.set(readers.shared.busy.get() - 1);
}

struct Reader {
    readers: Rc<Readers>,
    client: Client,
    number: u16,
}

impl Reader {
    fn name(&self, stream: StreamIndex) -> (Space, Vec<u8>) {
        let history = self.readers.shared.history.borrow();
        let facts = history.keys.facts(stream);
        (facts.space, facts.name.clone())
    }

    async fn get(&self, at: (StreamIndex, u64)) -> Result<(), ClientError> {
        let invoked = self.readers.shared.history.borrow_mut().tick();
        let (space, name) = self.name(at.0);
        let found = self.client.get(Key { space, stream: &name, time: at.1 }).await?;
        self.note("a get of the library", invoked, at, found.as_ref());
        Ok(())
    }

    /// A get, and at once another for what is newer.
    async fn again(&self, at: (StreamIndex, u64)) -> Result<(), ClientError> {
        let (space, name) = self.name(at.0);
        let key = Key { space, stream: &name, time: at.1 };
        let found = self.client.get(key).await?;
        let known = found.map_or(Version::ABSENT, |found| found.version);
        let invoked = self.readers.shared.history.borrow_mut().tick();
        let by = "a get for newer of the library";
        match self.client.get_if_newer(key, known).await? {
            Newer::Absent => self.note(by, invoked, at, None),
            Newer::Found(found) => self.note(by, invoked, at, Some(&found)),
            Newer::NotModified if known.is_absent() => self.note(by, invoked, at, None),
            Newer::NotModified => self.see(by, invoked, at, LogTime(0), Seen::Version(known), None),
        }
        Ok(())
    }

    async fn many(&self, at: &[(StreamIndex, u64)]) -> Result<(), ClientError> {
        let invoked = self.readers.shared.history.borrow_mut().tick();
        let names: Vec<(Space, Vec<u8>)> = at.iter().map(|&(stream, _)| self.name(stream)).collect();
        let keys: Vec<Key<'_>> = (at.iter().zip(&names))
            .map(|(&(_, time), (space, stream))| Key { space: *space, stream, time })
            .collect();
        let found = self.client.mget(&keys).await?;
        for (&at, found) in at.iter().zip(&found) {
            match found {
                Ok(found) => self.note("a multi-get of the library", invoked, at, found.as_ref()),
                Err(outcome) => {
                    let text = format!("a multi-get of the library was answered {outcome:?} for a key");
                    self.readers.shared.history.borrow_mut().trouble("answers", None, text);
                }
            }
        }
        Ok(())
    }

    fn note(&self, by: &'static str, invoked: u64, at: (StreamIndex, u64), found: Option<&Found>) {
        let Some(found) = found else { return self.see(by, invoked, at, LogTime(0), Seen::Absent, None) };
        let mut history = self.readers.shared.history.borrow_mut();
        let key = history.keys.key(at.0, at.1);
        // What nobody wrote is noted there.
        let Some(seen) = history.look(key, found.version, found.expiry, &found.value) else { return };
        drop(history);
        self.see(by, invoked, at, found.log_time, seen, Some(found.expiry));
    }

    fn see(
        &self,
        by: &'static str,
        invoked: u64,
        at: (StreamIndex, u64),
        log_time: LogTime,
        seen: Seen,
        expiry: Option<u64>,
    ) {
        let at_ns = self.client.io().now().ns;
        let mut history = self.readers.shared.history.borrow_mut();
        let (key, returned) = (history.keys.key(at.0, at.1), history.tick());
        history.operation_count += 1;
        let client = self.number;
        history.reads.push(Read { by, client, invoked, returned, at_ns, key, log_time, seen, expiry });
    }
}
