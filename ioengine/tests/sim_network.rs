//! Simulated connections: whatever the links do, bytes arrive in order, once, unaltered, or the stream ends with an
//! error (21); and what partitions, kills and losses of power look like from the far end (25).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ioengine::sim::{LinkConfig, NodeConfig, NodeHandle, PPM, Random, World, WorldConfig};
use ioengine::{CoreConfig, Io, NetError, Queue, Stream};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(3600);
const PORT: u16 = 7000;

fn two_nodes(seed: u64, link: LinkConfig) -> (World, NodeHandle, NodeHandle) {
    let world = World::new(seed, WorldConfig { link, ..WorldConfig::default() });
    let nodes = [1, 2].map(|number| world.add_node(NodeConfig::numbered(number)));
    (world, nodes[0], nodes[1])
}

fn address(node: &NodeHandle) -> SocketAddr {
    SocketAddr::new(node.address(), PORT)
}

/// The byte at a place of the stream from one side.
fn byte(place: usize, side: u8) -> u8 {
    ((place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8 ^ side
}

/// Send `count` bytes in pieces, then wait for the far end to close.
async fn send_all(io: &Io, stream: &Stream, count: usize, side: u8) -> Result<(), NetError> {
    let mut buffer = io.buffer(32 << 10).unwrap();
    let mut place = 0;
    while place < count {
        let piece = (1 + io.random() as usize % (32 << 10)).min(count - place);
        for (at, to) in buffer[..piece].iter_mut().enumerate() {
            *to = byte(place + at, side);
        }
        let (result, back) = stream.send(buffer, 0..piece).await;
        result?;
        buffer = back;
        place += piece;
    }
    Ok(())
}

/// Receive until the end of the stream or an error; every byte must be the right one.
async fn receive_all(io: &Io, stream: &Stream, count: usize, side: u8) -> (usize, Result<(), NetError>) {
    let mut buffer = io.buffer(16 << 10).unwrap();
    let mut place = 0;
    loop {
        let (result, back) = stream.receive(buffer, 0..16 << 10).await;
        buffer = back;
        match result {
            Err(error) => return (place, Err(error)),
            Ok(0) => return (place, Ok(())),
            Ok(some) => {
                for (at, &found) in buffer[..some].iter().enumerate() {
                    assert_eq!(found, byte(place + at, side), "at {}", place + at);
                }
                place += some;
                if place >= count {
                    assert_eq!(place, count, "not a byte more");
                    return (place, Ok(()));
                }
                if io.random().is_multiple_of(8) {
                    io.sleep(Duration::from_micros(io.random() % 2000)).await;
                }
            }
        }
    }
}

/// Both directions at once over a link. What each side received, and how each direction ended.
fn exchange(seed: u64, link: LinkConfig, count: usize) -> (World, Vec<(usize, bool)>) {
    let (world, server, client) = two_nodes(seed, link);
    let results = Rc::new(RefCell::new(Vec::new()));
    let both = move |io: Io, stream: Stream, side: u8, results: Rc<RefCell<Vec<(usize, bool)>>>| async move {
        let stream = Rc::new(stream);
        let sent = Rc::new(Cell::new(false));
        let (sender, sender_io, has_sent) = (Rc::clone(&stream), io.clone(), Rc::clone(&sent));
        io.spawn(Queue::Foreground, async move {
            let _ = send_all(&sender_io, &sender, count, side).await;
            has_sent.set(true);
        });
        let (received, result) = receive_all(&io, &stream, count, 1 - side).await;
        results.borrow_mut().push((received, result.is_ok()));
        while !sent.get() && result.is_ok() {
            io.sleep(Duration::from_millis(10)).await;
        }
        // Long enough for the far end to have read everything.
        io.sleep(Duration::from_secs(120)).await;
    };
    let server_results = Rc::clone(&results);
    server
        .launch(CoreConfig::small("server", 0), move |io| async move {
            let stream = io.listen(address(&server)).unwrap().accept().await.unwrap();
            both(io, stream, 0, server_results).await;
        })
        .unwrap();
    world.run_for(Duration::from_millis(1));
    let client_results = Rc::clone(&results);
    client
        .launch(CoreConfig::small("client", 0), move |io| async move {
            let Ok(stream) = io.connect(address(&server)).await else {
                return client_results.borrow_mut().push((0, false));
            };
            both(io, stream, 1, client_results).await;
        })
        .unwrap();
    assert!(world.run_while(LIMIT, || server.is_running() || client.is_running()), "seed {seed}");
    let results = results.borrow().clone();
    (world, results)
}

/// 21.
#[test]
fn bytes_arrive_in_order_once_and_unaltered_over_any_link() {
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    let mut overtook = 0;
    for seed in 0..120 {
        let mut random = Random::new(seed);
        let link = LinkConfig { timeout_ns: u64::MAX, ..LinkConfig::swarm(&mut random) };
        let (world, results) = exchange(seed, link, 300_000);
        assert_eq!(results, [(300_000, true); 2], "seed {seed}");
        world.run_for(Duration::from_secs(600));
        assert_eq!(world.socket_count(), 0, "nothing is left behind");
        for (name, count) in world.fault_counts() {
            *counts.entry(name).or_default() += count;
        }
        overtook += world.marks().get("sim_segment_overtook").copied().unwrap_or(0);
    }
    assert!(counts["segment_lost"] > 50 && counts["segment_duplicated"] > 100, "{counts:?}");
    assert!(overtook > 100, "{overtook}");
}

/// 21: resets end a stream with an error, never with wrong bytes or a quiet end.
#[test]
fn a_reset_is_an_error_and_never_a_quiet_end() {
    let (mut whole, mut broken, mut resets) = (0, 0, 0);
    for seed in 0..60 {
        let link = LinkConfig { reset_ppm: 20_000, ..LinkConfig::default() };
        let (world, results) = exchange(seed, link, 200_000);
        resets += world.fault_counts().get("connection_reset").copied().unwrap_or(0);
        for (received, ended_well) in results {
            assert!(!ended_well || received == 200_000, "seed {seed}: a quiet end after {received}");
            whole += u32::from(ended_well);
            broken += u32::from(!ended_well);
        }
    }
    assert!(whole > 10 && broken > 10 && resets > 10, "{whole} {broken} {resets}");
}

fn launch_echo(node: NodeHandle) {
    node.launch(CoreConfig::small("echo", 0), move |io| async move {
        let listener = io.listen(address(&node)).unwrap();
        loop {
            let stream = listener.accept().await.unwrap();
            let core = io.clone();
            io.spawn(Queue::Foreground, async move {
                let mut buffer = core.buffer(4096).unwrap();
                while let (Ok(count @ 1..), back) = stream.receive(buffer, 0..4096).await {
                    let (result, back) = stream.send(back, 0..count).await;
                    if result.is_err() {
                        return;
                    }
                    buffer = back;
                }
            });
        }
    })
    .unwrap();
}

/// One byte there and back; `None` when no answer came within a second.
async fn ping(io: &Io, stream: &Stream) -> Option<Result<usize, NetError>> {
    let buffer = io.buffer(4096).unwrap();
    let (sent, buffer) = stream.send(buffer, 0..1).await;
    if let Err(error) = sent {
        return Some(Err(error));
    }
    let received = io.timeout(Duration::from_secs(1), stream.receive(buffer, 0..1)).await;
    received.ok().map(|(result, _)| result)
}

fn quick() -> LinkConfig {
    LinkConfig { timeout_ns: 5_000_000_000, ..LinkConfig::default() }
}

/// 25: silence while cut off; what was sent comes through after healing, if that is soon enough.
#[test]
fn a_partition_is_silence_and_heals() {
    for one_way in [None, Some(false), Some(true)] {
        let (world, server, client) = two_nodes(1, quick());
        launch_echo(server);
        let stage = Rc::new(Cell::new(0));
        let at = Rc::clone(&stage);
        client
            .launch(CoreConfig::small("client", 0), move |io| async move {
                let stream = io.connect(address(&server)).await.unwrap();
                assert_eq!(ping(&io, &stream).await.unwrap().unwrap(), 1);
                at.set(1);
                io.sleep(Duration::from_millis(10)).await;
                let buffer = io.buffer(4096).unwrap();
                let start = io.now();
                let (result, buffer) = stream.send(buffer, 0..10).await;
                result.unwrap();
                let (result, _) = stream.receive(buffer, 0..10).await;
                assert!(result.unwrap() > 0);
                assert!(io.now().since(start) > Duration::from_secs(2), "it had to wait for healing");
                at.set(2);
            })
            .unwrap();
        assert!(world.run_while(LIMIT, || stage.get() < 1));
        match one_way {
            None => world.partition(&server, &client),
            Some(false) => world.partition_one_way(&server, &client),
            Some(true) => world.partition_one_way(&client, &server),
        }
        world.run_for(Duration::from_secs(2));
        assert_eq!(stage.get(), 1);
        world.heal_all();
        assert!(world.run_while(LIMIT, || stage.get() < 2), "{one_way:?}");
    }
}

/// 25: a partition that stays ends the stream with an error where something was to be sent, and stays silence where not.
#[test]
fn a_long_partition_ends_the_sending_side() {
    let (world, server, client) = two_nodes(2, quick());
    let server_sees = Rc::new(Cell::new(None));
    let sees = Rc::clone(&server_sees);
    server
        .launch(CoreConfig::small("server", 0), move |io| async move {
            let stream = io.listen(address(&server)).unwrap().accept().await.unwrap();
            let (result, _) = stream.receive(io.buffer(4096).unwrap(), 0..10).await;
            sees.set(Some(result.is_ok()));
        })
        .unwrap();
    let error = Rc::new(Cell::new(None));
    let seen = Rc::clone(&error);
    client
        .launch(CoreConfig::small("client", 0), move |io| async move {
            let stream = io.connect(address(&server)).await.unwrap();
            io.sleep(Duration::from_secs(1)).await;
            let (result, buffer) = stream.send(io.buffer(4096).unwrap(), 0..10).await;
            result.unwrap();
            let (result, _) = stream.receive(buffer, 0..10).await;
            seen.set(Some(result.unwrap_err().errno.0));
        })
        .unwrap();
    world.run_for(Duration::from_millis(500));
    world.isolate(&server);
    world.run_for(Duration::from_secs(600));
    assert_eq!(error.get(), Some(libc_timed_out()));
    assert_eq!(server_sees.get(), None, "who only waits hears nothing");
    // The next connection attempt is silence as well, then a time-out.
    let refused = world.block_on(&client, LIMIT, move |io| async move {
        let start = io.now();
        let errno = io.connect(address(&server)).await.err().unwrap().errno.0;
        (errno, io.now().since(start))
    });
    assert_eq!(refused.0, libc_timed_out());
    assert!(refused.1 >= Duration::from_secs(5));
}

/// The system's number for a connection that timed out.
fn libc_timed_out() -> i32 {
    110
}

/// 25: refused where nobody listens; the machine is there.
#[test]
fn connecting_to_nobody_is_refused_at_once() {
    let (world, server, client) = two_nodes(3, quick());
    let try_it = move |world: &World| {
        world.block_on(&client, LIMIT, move |io| async move {
            let start = io.now();
            let errno = io.connect(address(&server)).await.err().map(|error| error.errno.0);
            (errno, io.now().since(start))
        })
    };
    let (errno, took) = try_it(&world);
    assert!(errno == Some(111) && took < Duration::from_millis(10), "{errno:?} {took:?}");
    launch_echo(server);
    world.run_for(Duration::from_millis(1));
    assert_eq!(try_it(&world).0, None);
    world.set_links(&LinkConfig { refuse_ppm: PPM, ..quick() });
    assert_eq!(try_it(&world).0, Some(111));
    assert_eq!(world.fault_counts()["connect_refused"], 1);
    server.power_cut();
    world.set_links(&quick());
    let (errno, took) = try_it(&world);
    assert!(errno == Some(libc_timed_out()) && took > Duration::from_secs(5), "a dead machine is silent");
}

/// A killed process's kernel ends its connections; a machine without power says nothing until it is back.
#[test]
fn a_kill_is_heard_and_a_loss_of_power_is_not() {
    for power in [false, true] {
        let (world, server, client) = two_nodes(4, quick());
        launch_echo(server);
        let outcome = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&outcome);
        client
            .launch(CoreConfig::small("client", 0), move |io| async move {
                let stream = io.connect(address(&server)).await.unwrap();
                for _ in 0..6 {
                    let said = match ping(&io, &stream).await {
                        None => "silence",
                        Some(Ok(1)) => "echo",
                        Some(Ok(_)) => "closed",
                        Some(Err(_)) => "error",
                    };
                    log.borrow_mut().push(said);
                    if said == "error" {
                        break;
                    }
                    io.sleep(Duration::from_millis(100)).await;
                }
            })
            .unwrap();
        world.run_for(Duration::from_millis(50));
        if power {
            server.power_cut();
        } else {
            server.kill();
        }
        world.run_for(Duration::from_secs(3));
        if power {
            assert_eq!(outcome.borrow()[..3], ["echo", "silence", "silence"]);
            launch_echo(server);
        } else {
            assert!(matches!(outcome.borrow()[1], "closed" | "error"), "{:?}", outcome.borrow());
        }
        world.run_for(Duration::from_secs(10));
        assert_eq!(outcome.borrow().last(), Some(&"error"), "the new process knows nothing of it");
    }
}

/// 22: a sender gets no further than both buffers while nobody reads, and goes on when somebody does.
#[test]
fn who_does_not_read_stops_the_sender() {
    let link = LinkConfig { send_buffer_bytes: 8192, receive_buffer_bytes: 16384, ..LinkConfig::default() };
    let (world, server, client) = two_nodes(5, link);
    let read = Rc::new(Cell::new(false));
    let may_read = Rc::clone(&read);
    let received = Rc::new(Cell::new(0));
    let got = Rc::clone(&received);
    server
        .launch(CoreConfig::small("server", 0), move |io| async move {
            let stream = io.listen(address(&server)).unwrap().accept().await.unwrap();
            while !may_read.get() {
                io.sleep(Duration::from_millis(10)).await;
            }
            let (count, result) = receive_all(&io, &stream, 1_000_000, 1).await;
            result.unwrap();
            got.set(count);
        })
        .unwrap();
    let handed_over = Rc::new(Cell::new(0));
    let sent = Rc::clone(&handed_over);
    client
        .launch(CoreConfig::small("client", 0), move |io| async move {
            let stream = io.connect(address(&server)).await.unwrap();
            let mut buffer = io.buffer(4096).unwrap();
            while sent.get() < 1_000_000 {
                let count = 1000;
                for (at, to) in buffer[..count].iter_mut().enumerate() {
                    *to = byte(sent.get() + at, 1);
                }
                let (result, back) = stream.send(buffer, 0..count).await;
                result.unwrap();
                buffer = back;
                sent.set(sent.get() + count);
            }
        })
        .unwrap();
    world.run_for(Duration::from_secs(10));
    let stuck = handed_over.get();
    assert!((8192..=8192 + 16384).contains(&stuck), "{stuck}");
    world.run_for(Duration::from_secs(10));
    assert_eq!(handed_over.get(), stuck);
    read.set(true);
    assert!(world.run_while(LIMIT, || received.get() < 1_000_000));
}

/// 23: a shutdown ends what is in flight on both sides.
#[test]
fn a_shutdown_ends_waiting_receives() {
    let (world, server, client) = two_nodes(6, quick());
    launch_echo(server);
    let (near, far) = world.block_on(&client, LIMIT, move |io| async move {
        let stream = Rc::new(io.connect(address(&server)).await.unwrap());
        let waiting = Rc::clone(&stream);
        let near = Rc::new(Cell::new(None));
        let (result, buffer) = (Rc::clone(&near), io.buffer(4096).unwrap());
        io.spawn(Queue::Foreground, async move {
            result.set(Some(waiting.receive(buffer, 0..10).await.0.is_ok_and(|count| count > 0)));
        });
        io.sleep(Duration::from_millis(1)).await;
        stream.shutdown();
        io.sleep(Duration::from_millis(10)).await;
        (near.get(), stream.send(io.buffer(4096).unwrap(), 0..1).await.0.is_err())
    });
    assert_eq!((near, far), (Some(false), true));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.socket_count(), 0, "the echo saw the end and closed");
}

/// 24: each connection goes to one of the cores that listen.
#[test]
fn cores_share_an_address() {
    let (world, server, client) = two_nodes(7, quick());
    let served = Rc::new(RefCell::new([0; 3]));
    for index in 0..3 {
        let served = Rc::clone(&served);
        server
            .launch(CoreConfig::small("server", index), move |io| async move {
                let listener = io.listen(address(&server)).unwrap();
                loop {
                    let stream = listener.accept().await.unwrap();
                    served.borrow_mut()[index] += 1;
                    let buffer = io.buffer(4096).unwrap();
                    stream.send(buffer, 0..1).await.0.unwrap();
                }
            })
            .unwrap();
    }
    world.run_for(Duration::from_millis(1));
    world.block_on(&client, LIMIT, move |io| async move {
        for _ in 0..90 {
            let stream = io.connect(address(&server)).await.unwrap();
            let (result, _) = stream.receive(io.buffer(4096).unwrap(), 0..10).await;
            assert_eq!(result.unwrap(), 1);
        }
    });
    let served = served.borrow();
    assert!(served.iter().sum::<i32>() == 90 && served.iter().all(|&count| count > 10), "{served:?}");
}

/// A process that is stopped keeps its connections; they go on afterwards.
#[test]
fn a_paused_peer_is_only_slow() {
    let (world, server, client) = two_nodes(8, quick());
    launch_echo(server);
    let done = Rc::new(Cell::new(false));
    let finished = Rc::clone(&done);
    client
        .launch(CoreConfig::small("client", 0), move |io| async move {
            let stream = io.connect(address(&server)).await.unwrap();
            assert!(ping(&io, &stream).await.is_some());
            io.sleep(Duration::from_millis(10)).await;
            let (result, buffer) = stream.send(io.buffer(4096).unwrap(), 0..10).await;
            result.unwrap();
            assert!(stream.receive(buffer, 0..10).await.0.unwrap() > 0);
            finished.set(true);
        })
        .unwrap();
    world.run_for(Duration::from_millis(5));
    server.pause();
    world.run_for(Duration::from_secs(60));
    assert!(!done.get());
    server.resume();
    world.run_for(Duration::from_secs(1));
    assert!(done.get());
}

/// Loopback addresses are each node's own.
#[test]
fn loopback_stays_on_its_node() {
    let (world, server, client) = two_nodes(9, quick());
    let local: SocketAddr = SocketAddr::from(([127, 0, 0, 1], PORT));
    server
        .launch(CoreConfig::small("server", 0), move |io| async move {
            let listener = io.listen(local).unwrap();
            loop {
                let stream = listener.accept().await.unwrap();
                assert!(stream.peer().unwrap().ip().is_loopback());
            }
        })
        .unwrap();
    world.run_for(Duration::from_millis(1));
    let connects = |node: &NodeHandle, to| {
        world.block_on(node, LIMIT, move |io| async move { io.connect(to).await.is_ok() })
    };
    assert!(connects(&server, local));
    assert!(!connects(&client, local));
    assert!(!connects(&server, address(&server)), "nobody listens on the outer address");
}
