//! The blocking client over the real loopback, with the same small server on a core of its own.

use std::sync::mpsc;

use ioengine::{CoreConfig, Launcher};
use layout::units::{Space, TabletIndex, Version};
use net::client::blocking::Client;
use net::client::{ClientConfig, ClientError, Compared, Done, OwnedKey, ScanRange, Work};
use net::route::ClusterMap;

use super::key;
use super::server::{CLUSTER, Store, serve};

/// Starts a server on a thread; it ends with the test process.
fn start() -> String {
    let (tell, told) = mpsc::channel();
    let started = Launcher::Threads.launch(CoreConfig::small("server", 0), move |io| {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let placeholder = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let store = Store::new(ClusterMap::single(CLUSTER, 1, placeholder, 1), 1);
        let own = std::rc::Rc::clone(&store);
        serve(io, any, store, move |address| {
            *own.map.borrow_mut() = ClusterMap::single(CLUSTER, 1, address, 1);
            tell.send(address).expect("the test waits for it");
        })
    });
    drop(started.expect("a core starts"));
    told.recv().expect("the server binds").to_string()
}

#[test]
fn each_verb_and_bulk_over_loopback() {
    let endpoint = start();
    let client = Client::connect(&[&endpoint], ClientConfig::default()).unwrap();
    client.ping(b"echo").unwrap();
    client.put(key("s", 1), 0, b"one").unwrap();
    assert_eq!(client.get(key("s", 1)).unwrap().unwrap().value, b"one");
    assert!(matches!(client.cas(key("s", 1), Version(0), 0, b"x").unwrap(), Compared::Mismatch { .. }));
    assert_eq!(client.mget(&[key("s", 1), key("s", 2)]).unwrap().len(), 2);
    assert_eq!(client.status().unwrap(), "{}");
    assert_eq!(client.map().unwrap().epoch, 1);
    let large = vec![7; 1 << 20];
    client.put(key("large", 1), 0, &large).unwrap();
    assert_eq!(client.get(key("large", 1)).unwrap().unwrap().value, large);

    let bulk = client.bulk(64);
    let mut written = 0;
    let mut count = |done: (u64, Result<Done, ClientError>)| {
        assert!(matches!(done.1, Ok(Done::Written(_))), "{done:?}");
        written += 1;
    };
    for time in 0..2000 {
        let key = OwnedKey { space: Space(0), stream: b"bulk".to_vec(), time };
        bulk.submit(Work::Put { key, expiry: 0, value: vec![1; 100] });
        std::iter::from_fn(|| bulk.try_next()).for_each(&mut count);
    }
    std::iter::from_fn(|| bulk.next()).for_each(&mut count);
    assert_eq!((written, bulk.in_flight()), (2000, 0));

    let mut pages = client.scan(ScanRange::all(Space(0), b"bulk"));
    let mut records = 0;
    while let Some(page) = pages.next().unwrap() {
        records += page.records.len();
    }
    assert_eq!(records, 2000);
    assert_eq!(client.head(Space(0), b"bulk", 3).unwrap()[0].time, 1999);
    let mut streams = 0;
    for tablet in TabletIndex::all() {
        let mut pages = client.streams(0, tablet, None).unwrap();
        while let Some(page) = pages.next().unwrap() {
            streams += page.len();
        }
    }
    assert_eq!(streams, 3);
    client.delete(key("s", 1)).unwrap();
    assert_eq!(client.get(key("s", 1)).unwrap(), None);
}

#[test]
fn an_endpoint_that_is_none_is_said_so() {
    let error =
        |endpoint: &str| Client::connect(&[endpoint], ClientConfig::default()).err().unwrap().to_string();
    assert!(error("nonsense").contains("write HOST:PORT"), "{}", error("nonsense"));
    assert!(error("127.0.0.1:1").contains("is the server running there?"), "{}", error("127.0.0.1:1"));
}
