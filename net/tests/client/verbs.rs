//! Each verb once, and connections that cannot be had.

use std::net::SocketAddr;
use std::time::Duration;

use ioengine::CoreConfig;
use layout::units::{Space, Uuid, Version};
use net::client::{ClientConfig, ClientError, Compared, Newer};
use net::outcome::{Outcome, Why};
use net::request::{BatchBody, BatchOperation, Change};

use super::server::{CLUSTER, LOG_TIME};
use super::{PORT, Scene, key};

#[test]
fn each_verb_does_what_it_says() {
    let scene = Scene::new(1);
    scene.run(|client| async move {
        client.ping(b"are you there").await.unwrap();
        assert_eq!(client.status().await.unwrap(), "{}");
        assert_eq!(client.map().await.unwrap(), client.known_map());

        assert_eq!(client.get(key("s", 1)).await.unwrap(), None);
        assert_eq!(client.get_if_newer(key("s", 1), Version(0)).await.unwrap(), Newer::NotModified);
        let written = client.put(key("s", 1), 77, b"one").await.unwrap();
        assert!(!written.repeated && !written.version.is_absent());
        let found = client.get(key("s", 1)).await.unwrap().unwrap();
        assert_eq!((found.version, found.expiry, &found.value[..]), (written.version, 77, &b"one"[..]));
        assert_eq!(found.log_time, LOG_TIME);
        assert_eq!(client.get_if_newer(key("s", 1), found.version).await.unwrap(), Newer::NotModified);
        assert_eq!(client.get_if_newer(key("s", 1), Version(3)).await.unwrap(), Newer::Found(found.clone()));

        let mismatch = client.cas(key("s", 1), Version(0), 0, b"two").await.unwrap();
        assert_eq!(mismatch, Compared::Mismatch { current: Some(found.version) });
        assert!(matches!(
            client.cas(key("s", 1), found.version, 0, b"two").await.unwrap(),
            Compared::Written(_)
        ));
        assert_eq!(client.get(key("s", 1)).await.unwrap().unwrap().value, b"two");
        client.delete(key("s", 1)).await.unwrap();
        assert_eq!(client.get(key("s", 1)).await.unwrap(), None);
        assert_eq!(client.get_if_newer(key("s", 1), Version(3)).await.unwrap(), Newer::Absent);

        let mut batch = BatchBody::new();
        for time in 5..8 {
            assert!(batch.push(&BatchOperation { time, change: Change::Put { expiry: 0, value: b"b" } }));
        }
        assert!(batch.push(&BatchOperation { time: 6, change: Change::Delete }));
        let written = client.batch(Space(0), b"s", &batch).await.unwrap();
        assert_eq!(written.count, 4);
        let keys = [key("s", 5), key("s", 6), key("s", 7), key("other", 5)];
        let found: Vec<bool> =
            client.mget(&keys).await.unwrap().into_iter().map(|answer| answer.unwrap().is_some()).collect();
        assert_eq!(found, [true, false, true, false]);
        assert_eq!(client.mget(&[]).await.unwrap(), []);
    });
    let ids = scene.store.ids.borrow();
    assert!(ids.windows(2).all(|pair| pair[0].sequence < pair[1].sequence), "ids of one client count up");
    assert!(ids.iter().skip(1).all(|id| id.log_time == LOG_TIME.0), "the log time that was learned: {ids:?}");
}

#[test]
fn wrong_input_is_refused_before_it_is_sent() {
    let scene = Scene::new(2);
    scene.run(|client| async move {
        let long = layout::key::Key { space: Space(0), stream: &[1; 129], time: 0 };
        let empty = layout::key::Key { space: Space(0), stream: b"", time: 0 };
        for key in [long, empty] {
            assert!(matches!(client.get(key).await, Err(ClientError::Input { .. })));
            assert!(matches!(client.put(key, 0, b"").await, Err(ClientError::Input { .. })));
            assert!(matches!(client.mget(&[key]).await, Err(ClientError::Input { .. })));
        }
        let value = vec![0; (1 << 20) + 1];
        assert!(matches!(client.put(key("s", 1), 0, &value).await, Err(ClientError::Input { .. })));
        assert!(matches!(
            client.batch(Space(0), b"s", &BatchBody::new()).await,
            Err(ClientError::Input { .. })
        ));
        client.put(key("s", 1), 0, &value[1..]).await.unwrap();
        assert_eq!(
            client.get(key("s", 1)).await.unwrap().unwrap().value.len(),
            1 << 20,
            "larger than any buffer"
        );
    });
    assert_eq!(scene.store.connections.get(), 1);
}

#[test]
fn answers_come_in_any_order_on_one_connection() {
    let scene = Scene::new(3);
    scene.store.script(|request| match request {
        net::Request::Ping(echo) => {
            Some(super::server::Spoil::Delay(Duration::from_millis(u64::from(echo[0]))))
        }
        _ => None,
    });
    let order = scene.run(|client| async move {
        let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        for wait in [30u8, 10, 20] {
            let (own, seen) = (client.clone(), std::rc::Rc::clone(&order));
            client.io().spawn(ioengine::Queue::Foreground, async move {
                own.ping(&[wait]).await.unwrap();
                seen.borrow_mut().push(wait);
            });
        }
        client.io().sleep(Duration::from_millis(100)).await;
        order.borrow().clone()
    });
    assert_eq!(order, [10, 20, 30]);
    assert_eq!(scene.store.connections.get(), 1);
}

#[test]
fn connections_that_cannot_be_had_say_why() {
    let scene = Scene::new(4);
    let config = ClientConfig::default;
    let nobody = SocketAddr::new(scene.server.address(), PORT + 1);
    let error = scene.refused(vec![nobody], config());
    assert!(matches!(error, ClientError::Unreachable { address, .. } if address == nobody), "{error}");
    assert!(error.to_string().contains("is the server running there?"), "{error}");
    assert!(matches!(scene.refused(vec![], config()), ClientError::Input { .. }));

    let other = ClientConfig { cluster: Uuid([1; 16]), ..config() };
    let outcome = Outcome::BadRequest { why: Why::Cluster, at: 32 };
    let error = scene.refused(vec![nobody, scene.address()], other);
    assert_eq!(error, ClientError::Refused { address: scene.address(), outcome });

    // Someone else's port: it answers with its own protocol, or with nothing.
    let web = scene.world.add_node(ioengine::sim::NodeConfig::numbered(3));
    let web_address = SocketAddr::new(web.address(), PORT);
    web.launch(CoreConfig::small("web", 0), move |io| async move {
        let listener = io.listen(web_address).unwrap();
        let silent = listener.accept().await.unwrap();
        let stream = listener.accept().await.unwrap();
        let mut buffer = io.buffer(4096).unwrap();
        buffer[..12].copy_from_slice(b"HTTP/1.1 400");
        let _ = stream.send(buffer, 0..12).await;
        io.sleep(Duration::from_secs(60)).await;
        drop((silent, stream));
    })
    .unwrap();
    scene.world.run_for(Duration::from_millis(10));
    let error = scene.refused(vec![web_address], config());
    assert!(error.to_string().contains("no hello within 2s"), "{error}");
    let error = scene.refused(vec![web_address], config());
    assert!(matches!(error, ClientError::NotThermocline { .. }), "{error}");
    let right = ClientConfig { cluster: CLUSTER, ..config() };
    let address = scene.address();
    scene.run_io(move |io| async move {
        net::client::Client::connect(&io, &[nobody, address], right).await.unwrap().ping(b"").await.unwrap();
    });
}
