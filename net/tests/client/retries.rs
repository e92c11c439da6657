//! What goes wrong on the way: lost connections, silence, "not now", other replicas. Nothing is ever applied twice, and
//! every call ends within its deadline.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioengine::sim::{NodeConfig, NodeHandle};
use layout::units::Version;
use net::client::{Bulk, Client, ClientConfig, ClientError, Compared, Done, OwnedKey, Work};
use net::outcome::{Limit, Outcome, Why};
use net::route::{ClusterMap, Group, Node, Roles};
use net::{Operation, Request};

use super::server::{CLUSTER, LOG_TIME, Spoil, Store};
use super::{PORT, Scene, key};

#[test]
fn a_write_whose_answer_was_lost_is_sent_again_with_its_id_and_applied_once() {
    for spoil in [Spoil::ApplyAndClose, Spoil::Close] {
        let scene = Scene::new(1);
        scene.store.spoil(Operation::Put, 3, spoil.clone());
        let written = scene.run(|client| async move { client.put(key("s", 1), 0, b"v").await.unwrap() });
        let applied = matches!(spoil, Spoil::ApplyAndClose);
        assert_eq!(written.repeated, applied, "{spoil:?}");
        assert_eq!(scene.store.applied_count.get(), 1);
        assert_eq!(scene.store.asked(Operation::Put), 4);
        let ids = scene.store.ids.borrow();
        assert!(ids.iter().all(|id| *id == ids[0]), "one id for all sendings: {ids:?}");
        assert_eq!(scene.store.connections.get(), 4);
    }
}

#[test]
fn busy_is_waited_out_and_at_the_deadline_nothing_was_changed() {
    let scene = Scene::new(2);
    let busy = Spoil::Say(Outcome::Busy { limit: Limit::Journal, hint_ms: 5 });
    scene.store.spoil(Operation::Put, 4, busy.clone());
    scene.run(|client| async move {
        let begun = client.io().now();
        client.put(key("s", 1), 0, b"v").await.unwrap();
        let took = client.io().now().since(begun);
        assert!(took >= Duration::from_millis(5 * (1 + 2 + 4 + 8) / 2), "waits grow: {took:?}");
    });
    assert_eq!(scene.store.asked(Operation::Put), 5);
    scene.store.script(move |_| Some(busy.clone()));
    let error = scene.run_late(|client| async move { client.put(key("s", 1), 0, b"v").await.unwrap_err() });
    assert!(matches!(error, ClientError::Timeout { operation: Operation::Put, .. }), "{error}");
    assert!(
        error.to_string().contains("writes waiting for the journal"),
        "it says what was in the way: {error}"
    );
}

impl Scene {
    /// As `run`, for a server whose script spoils everything but hello and map.
    fn run_late<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        test: impl FnOnce(net::client::Client) -> F + 'static,
    ) -> T {
        let script = self.store.script.replace(Box::new(|_| None));
        self.store.script(move |request| match request {
            Request::Map(_) => None,
            other => script(other),
        });
        self.run(test)
    }
}

#[test]
fn silence_ends_at_the_deadline_and_says_what_is_known() {
    let scene = Scene::new(3);
    scene.store.script(|_| Some(Spoil::Ignore));
    let (read, write) = scene.run_late(|client| async move {
        let client = client.with_deadline(Duration::from_secs(7));
        let begun = client.io().now();
        let read = client.get(key("s", 1)).await.unwrap_err();
        assert_eq!(client.io().now().since(begun).as_secs(), 7);
        (read, client.put(key("s", 1), 0, b"v").await.unwrap_err())
    });
    assert!(matches!(read, ClientError::Timeout { operation: Operation::Get, .. }), "{read}");
    assert!(matches!(write, ClientError::UnknownOutcome { operation: Operation::Put, .. }), "{write}");
    assert!(scene.store.connections.get() > 1, "a server that does not even echo is given up");
}

#[test]
fn a_slow_server_that_echoes_is_waited_for() {
    let scene = Scene::new(4);
    scene.store.spoil(Operation::Put, 1, Spoil::Delay(Duration::from_secs(8)));
    scene.run(|client| async move { client.put(key("s", 1), 0, b"v").await.unwrap() });
    assert_eq!(scene.store.asked(Operation::Put), 1, "sent once");
    assert_eq!(scene.store.connections.get(), 1);
    assert!(scene.store.asked(Operation::Ping) >= 1, "it was asked for a sign of life");
}

#[test]
fn a_partition_that_heals_is_survived() {
    let scene = Scene::new(5);
    let (world, store) = (&scene.world, &scene.store);
    let done = Rc::new(Cell::new(false));
    let (told, address) = (Rc::clone(&done), scene.address());
    scene
        .client
        .launch(ioengine::CoreConfig::small("client", 0), move |io| async move {
            let client = Client::connect(&io, &[address], ClientConfig::default()).await.unwrap();
            io.sleep(Duration::from_secs(1)).await;
            client.put(key("s", 1), 0, b"v").await.unwrap();
            told.set(true);
        })
        .unwrap();
    world.run_for(Duration::from_millis(500));
    world.isolate(&scene.server);
    world.run_for(Duration::from_secs(5));
    assert!(!done.get() && store.applied_count.get() == 0);
    world.heal_all();
    assert!(
        world.run_while(Duration::from_secs(20), || !done.get()),
        "the put ends once the network is back"
    );
    assert_eq!(store.applied_count.get(), 1);
}

#[test]
fn an_id_that_is_too_old_is_replaced_only_when_nothing_was_sent_before() {
    let scene = Scene::new(6);
    scene.store.spoil(Operation::Put, 1, Spoil::Say(Outcome::TooOld));
    scene.run(|client| async move { client.put(key("s", 1), 0, b"v").await.unwrap() });
    {
        let ids = scene.store.ids.borrow();
        assert_eq!((ids.len(), ids[0].log_time, ids[1].log_time), (2, 0, LOG_TIME.0));
        assert_ne!(ids[0].sequence, ids[1].sequence);
    }
    // The first sending went astray: it may have been applied and forgotten.
    let count = Cell::new(0);
    scene.store.script(move |request| {
        if request.operation() != Operation::Put {
            return None;
        }
        count.set(count.get() + 1);
        Some(if count.get() == 1 { Spoil::Close } else { Spoil::Say(Outcome::TooOld) })
    });
    let error = scene.run(|client| async move { client.put(key("s", 2), 0, b"v").await.unwrap_err() });
    assert!(matches!(error, ClientError::UnknownOutcome { .. }), "{error}");
}

#[test]
fn a_mismatch_after_a_lost_sending_is_no_proof_for_put_if_absent() {
    for (expected, unknown) in [(Version(0), true), (Version(5), false)] {
        let scene = Scene::new(7);
        scene.run(|client| async move { client.put(key("s", 1), 0, b"there").await.unwrap() });
        scene.store.spoil(Operation::CompareAndSet, 1, Spoil::Close);
        let result = scene.run(move |client| async move { client.cas(key("s", 1), expected, 0, b"v").await });
        if unknown {
            assert!(matches!(result, Err(ClientError::UnknownOutcome { .. })), "{result:?}");
        } else {
            assert!(matches!(result, Ok(Compared::Mismatch { .. })), "{result:?}");
        }
    }
    // Applied, and the answer lost: the retry is told so.
    let scene = Scene::new(8);
    scene.store.spoil(Operation::CompareAndSet, 1, Spoil::ApplyAndClose);
    let result =
        scene.run(|client| async move { client.cas(key("s", 1), Version(0), 0, b"v").await.unwrap() });
    assert!(matches!(result, Compared::Written(written) if written.repeated), "{result:?}");
}

#[test]
fn refusals_are_reported_at_once_but_not_for_a_write_that_was_sent_before() {
    let refusals = [
        Outcome::BadRequest { why: Why::Time, at: 8 },
        Outcome::TooLarge { limit: Limit::Entry },
        Outcome::Unauthorized,
        Outcome::Corrupt,
    ];
    for refusal in refusals {
        let scene = Scene::new(9);
        scene.store.spoil(Operation::Put, 1, Spoil::Say(refusal));
        let error = scene.run(|client| async move { client.put(key("s", 1), 0, b"v").await.unwrap_err() });
        assert_eq!(error, ClientError::Answer { operation: Operation::Put, outcome: refusal });
        assert_eq!(scene.store.asked(Operation::Put), 1);

        let count = Cell::new(0);
        scene.store.script(move |request| {
            if request.operation() != Operation::Put {
                return None;
            }
            count.set(count.get() + 1);
            Some(if count.get() == 1 { Spoil::ApplyAndClose } else { Spoil::Say(refusal) })
        });
        let error = scene.run(|client| async move { client.put(key("s", 2), 0, b"v").await.unwrap_err() });
        assert!(matches!(error, ClientError::UnknownOutcome { .. }), "{refusal}: {error}");
    }
}

#[test]
fn sendings_that_were_answered_leave_no_doubt() {
    // Turned away twice, then refused: nothing happened, and the refusal is what is reported.
    let turned_away = [
        Outcome::Busy { limit: Limit::Queue, hint_ms: 1 },
        Outcome::NotCurrent,
        Outcome::WrongGroup { epoch: 1 },
    ];
    let refusals = [
        Outcome::BadRequest { why: Why::Time, at: 8 },
        Outcome::TooLarge { limit: Limit::Entry },
        Outcome::TooOld,
    ];
    for away in turned_away {
        for refusal in refusals {
            let scene = Scene::new(15);
            let count = Cell::new(0);
            scene.store.script(move |request| {
                if request.operation() != Operation::Put {
                    return None;
                }
                count.set(count.get() + 1);
                match count.get() {
                    1 | 2 => Some(Spoil::Say(away)),
                    3 => Some(Spoil::Say(refusal)),
                    _ => None,
                }
            });
            let result = scene.run(|client| async move { client.put(key("s", 1), 0, b"v").await });
            if refusal == Outcome::TooOld {
                assert!(!result.unwrap().repeated, "sent anew with another id");
            } else {
                let refused = ClientError::Answer { operation: Operation::Put, outcome: refusal };
                assert_eq!(result.unwrap_err(), refused, "after {away}");
            }
        }
    }
}

#[test]
fn a_write_sent_before_is_unknown_also_when_the_next_hello_is_refused() {
    for refusal in [Outcome::Unauthorized, Outcome::BadRequest { why: Why::Cluster, at: 32 }] {
        for (operation, unknown) in [(Operation::Put, true), (Operation::Get, false)] {
            let scene = Scene::new(16);
            scene.store.spoil(operation, 1, Spoil::ApplyAndClose);
            let store = Rc::clone(&scene.store);
            let error = scene.run(move |client| async move {
                store.hellos.borrow_mut().push(refusal);
                match operation {
                    Operation::Put => client.put(key("s", 1), 0, b"v").await.map(drop).unwrap_err(),
                    _ => client.get(key("s", 1)).await.map(drop).unwrap_err(),
                }
            });
            let ClientError::UnknownOutcome { cause, .. } = &error else {
                assert!(!unknown && matches!(error, ClientError::Refused { .. }), "{operation:?}: {error}");
                continue;
            };
            assert!(unknown && matches!(**cause.as_ref().unwrap(), ClientError::Refused { .. }), "{error}");
        }
    }
}

#[test]
fn a_hello_that_is_busy_is_said_again_after_the_hint() {
    let scene = Scene::new(17);
    let busy = Outcome::Busy { limit: Limit::Connections, hint_ms: 40 };
    // At the first connection, and when a lost one is made anew.
    scene.store.hellos.borrow_mut().extend([busy; 3]);
    let store = Rc::clone(&scene.store);
    scene.run(move |client| async move {
        assert_eq!(store.connections.get(), 4);
        store.spoil(Operation::Put, 1, Spoil::Close);
        store.hellos.borrow_mut().extend([busy; 2]);
        let begun = client.io().now();
        client.put(key("s", 1), 0, b"v").await.unwrap();
        let took = client.io().now().since(begun);
        assert!(
            took >= Duration::from_millis(2 * 20),
            "half of each hint at least, of the world's clock: {took:?}"
        );
        assert_eq!(store.connections.get(), 7);
    });
    scene.store.hellos.borrow_mut().extend([busy; 500]);
    let error = scene.refused(vec![scene.address()], ClientConfig::default());
    assert!(matches!(error, ClientError::Refused { outcome: Outcome::Busy { .. }, .. }), "{error}");
}

#[test]
fn a_hint_longer_than_our_own_longest_wait_is_kept() {
    let scene = Scene::new(18);
    scene.store.spoil(Operation::Get, 1, Spoil::Say(Outcome::Busy { limit: Limit::Draining, hint_ms: 8000 }));
    scene.run(|client| async move {
        let client = client.with_deadline(Duration::from_secs(60));
        let begun = client.io().now();
        assert_eq!(client.get(key("s", 1)).await.unwrap(), None);
        assert!(client.io().now().since(begun) >= Duration::from_secs(4), "half the hint at least");
    });
}

#[test]
fn keys_of_a_multi_get_that_are_not_now_are_asked_again() {
    let scene = Scene::new(10);
    let left = Cell::new(5);
    scene.store.script(move |request| match request {
        Request::Get(get) if get.key.time >= 7 && left.get() > 0 => {
            left.set(left.get() - 1);
            Some(Spoil::Say(if left.get() % 2 == 0 {
                Outcome::Busy { limit: Limit::Queue, hint_ms: 1 }
            } else {
                Outcome::TooLarge { limit: Limit::Frame }
            }))
        }
        Request::Get(get) if get.key.time == 3 => Some(Spoil::Say(Outcome::Corrupt)),
        _ => None,
    });
    scene.run(|client| async move {
        for time in 0..10 {
            client.put(key("s", time), 0, &[time as u8]).await.unwrap();
        }
        let keys: Vec<_> = (0..10).map(|time| key("s", time)).collect();
        let answers = client.mget(&keys).await.unwrap();
        for (time, answer) in answers.into_iter().enumerate() {
            if time == 3 {
                assert_eq!(answer, Err(Outcome::Corrupt), "one bad key does not spoil the others");
            } else {
                assert_eq!(answer.unwrap().unwrap().value, [time as u8]);
            }
        }
    });
    assert!(scene.store.asked(Operation::MultiGet) >= 3);
}

/// Three servers of one group, each with its own store; the client connects to the first.
fn three(seed: u64) -> (Scene, Vec<NodeHandle>, Vec<Rc<Store>>) {
    let scene = Scene::new(seed);
    let mut nodes = vec![scene.server];
    nodes.extend((3..5).map(|number| scene.world.add_node(NodeConfig::numbered(number))));
    let described: Vec<Node> = (1..=3)
        .map(|id| Node {
            id,
            address: SocketAddr::new(nodes[id as usize - 1].address(), PORT),
            zone: id as u16,
            roles: Roles::STORE,
            shard_count: 1,
        })
        .collect();
    let groups = vec![Group { replicas: 3, members: vec![1, 2, 3] }];
    let map = ClusterMap {
        epoch: 2,
        cluster: CLUSTER,
        revision: 0,
        recent_us: 0,
        cache_share: 0,
        nodes: described,
        groups,
    };
    *scene.store.map.borrow_mut() = map.clone();
    let mut stores = vec![Rc::clone(&scene.store)];
    for (index, node) in nodes.iter().enumerate().skip(1) {
        let store = Store::new(map.clone(), index as u32 + 1);
        scene.start(node, &store);
        stores.push(store);
    }
    (scene, nodes, stores)
}

#[test]
fn replicas_are_tried_in_their_order() {
    // Streams whose first replica is each of the three.
    let (scene, _, stores) = three(11);
    for store in &stores[1..] {
        store.script(|request| match request {
            Request::Put(_) => Some(Spoil::Say(Outcome::NotCurrent)),
            Request::Get(_) => Some(Spoil::Say(Outcome::Corrupt)),
            _ => None,
        });
    }
    scene.run(|client| async move {
        for stream in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
            client.put(key(stream, 1), 0, b"v").await.unwrap();
            assert_eq!(client.get(key(stream, 1)).await.unwrap().unwrap().value, b"v");
        }
    });
    assert_eq!(stores[0].applied_count.get(), 10, "all ended at the one that takes them");
    assert!(
        stores[1].asked(Operation::Put) > 0 && stores[2].asked(Operation::Put) > 0,
        "others are first for some"
    );
    assert!(stores[0].asked(Operation::Put) < 20, "nobody was asked twice without need");
}

#[test]
fn a_dead_replica_costs_one_try() {
    let (scene, nodes, stores) = three(12);
    let address = scene.address();
    let world = &scene.world;
    // The third machine goes: its address answers nothing at all.
    let found = Rc::new(Cell::new(0));
    let told = Rc::clone(&found);
    scene
        .client
        .launch(ioengine::CoreConfig::small("client", 0), move |io| async move {
            let client = Client::connect(&io, &[address], ClientConfig::default()).await.unwrap();
            io.sleep(Duration::from_secs(1)).await;
            for stream in ["a", "b", "c", "d", "e", "f", "g", "h"] {
                client.put(key(stream, 1), 0, b"v").await.unwrap();
                told.set(told.get() + 1);
            }
        })
        .unwrap();
    world.run_for(Duration::from_millis(500));
    world.isolate(&nodes[2]);
    assert!(world.run_while(Duration::from_secs(120), || found.get() < 8), "{} of 8", found.get());
    assert_eq!(stores[2].applied_count.get(), 0);
}

#[test]
fn nobody_waits_for_a_replica_that_is_known_to_be_gone() {
    let (scene, nodes, _stores) = three(13);
    let address = scene.address();
    let (begun, longest) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
    let (tell, told) = (Rc::clone(&begun), Rc::clone(&longest));
    let main = move |io: ioengine::Io| async move {
        let client = Client::connect(&io, &[address], ClientConfig::default()).await.unwrap();
        let streams = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for stream in streams {
            client.put(key(stream, 1), 0, b"v").await.unwrap();
        }
        tell.set(true);
        io.sleep(Duration::from_secs(10)).await;
        let mut most = Duration::ZERO;
        for number in 0..200 {
            let before = io.now();
            client.put(key(streams[number % 8], 2), 0, b"v").await.unwrap();
            // The first ones find out.
            if number >= 8 {
                most = most.max(io.now().since(before));
            }
            io.sleep(Duration::from_millis(37)).await;
        }
        told.set(Some(most));
    };
    scene.client.launch(ioengine::CoreConfig::small("client", 0), main).unwrap();
    assert!(scene.world.run_while(Duration::from_secs(60), || !begun.get()));
    scene.world.isolate(&nodes[2]);
    assert!(scene.world.run_while(Duration::from_secs(600), || longest.get().is_none()));
    let longest = longest.get().unwrap();
    assert!(longest < Duration::from_millis(50), "a put waited {longest:?} for a machine that is gone");
}

#[test]
fn a_new_map_is_fetched_when_an_answer_names_its_epoch() {
    let scene = Scene::new(13);
    let store = Rc::clone(&scene.store);
    scene.run(move |client| async move {
        assert_eq!(client.known_map().epoch, 1);
        store.map.borrow_mut().epoch = 5;
        client.get(key("s", 1)).await.unwrap();
        client.io().sleep(Duration::from_millis(100)).await;
        assert_eq!(client.known_map().epoch, 5);
        // Told outright: the call itself fetches the map and goes on.
        store.map.borrow_mut().epoch = 6;
        store.spoil(Operation::Get, 1, Spoil::Say(Outcome::WrongGroup { epoch: 6 }));
        client.get(key("s", 1)).await.unwrap();
        assert_eq!(client.known_map().epoch, 6);
    });
}

#[test]
fn bulk_work_over_connections_that_break_is_applied_once_each() {
    const COUNT: u64 = 3000;
    let scene = Scene::new(14);
    let requests = Cell::new(0u64);
    scene.store.script(move |request| {
        requests.set(requests.get() + 1);
        let put = matches!(request, Request::Put(_));
        match requests.get() % 97 {
            13 if put => Some(Spoil::ApplyAndClose),
            57 if put => Some(Spoil::Close),
            5 if put => Some(Spoil::Say(Outcome::Busy { limit: Limit::Queue, hint_ms: 1 })),
            _ => None,
        }
    });
    let store = Rc::clone(&scene.store);
    scene.run(move |client| async move {
        let bulk = Bulk::new(&client, 100);
        let mut tickets = Vec::new();
        for time in 0..COUNT {
            let key = OwnedKey { space: layout::units::Space(0), stream: b"bulk".to_vec(), time };
            let work = match time % 10 {
                9 => Work::Get(key),
                _ => Work::Put { key, expiry: 0, value: time.to_le_bytes().to_vec() },
            };
            assert_eq!(bulk.submit(work).await, time);
            assert!(bulk.in_flight() <= 100);
            tickets.extend(std::iter::from_fn(|| bulk.try_next()));
        }
        while let Some(done) = bulk.next().await {
            tickets.push(done);
        }
        tickets.sort_by_key(|(ticket, _)| *ticket);
        assert_eq!(tickets.len() as u64, COUNT);
        for (time, (ticket, result)) in tickets.into_iter().enumerate() {
            assert_eq!(ticket, time as u64);
            match result.unwrap() {
                Done::Found(found) => assert_eq!(time % 10, 9, "{found:?}"),
                Done::Written(_) => assert_ne!(time % 10, 9),
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(store.applied_count.get() as u64, COUNT / 10 * 9);
    assert_eq!(store.records.borrow().len() as u64, COUNT / 10 * 9);
    assert!(store.connections.get() > 20);
}

#[test]
fn a_client_that_went_away_leaves_no_connection_behind() {
    let scene = Scene::new(15);
    scene.run(|client| async move { client.ping(b"").await.unwrap() });
    scene.world.run_for(Duration::from_secs(1));
    let sockets = scene.world.socket_count();
    scene.run(|client| async move {
        client.ping(b"").await.unwrap();
        let io = client.io().clone();
        drop(client);
        io.sleep(Duration::from_secs(1)).await;
        assert_eq!(io.operations_in_flight(), 0, "its tasks have ended");
    });
    scene.world.run_for(Duration::from_secs(1));
    assert_eq!(scene.world.socket_count(), sockets);
}
