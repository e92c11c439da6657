//! The simulated world as a whole: one seed gives one history, time only moves in it, and processes die as the
//! contract says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ioengine::disk::DiskOpen;
use ioengine::signal::Signal;
use ioengine::sim::{DiskConfig, LinkConfig, NodeConfig, NodeHandle, Random, World, WorldConfig};
use ioengine::{CoreConfig, Io, Launcher, Queue};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);

fn node(world: &World, number: u16) -> NodeHandle {
    world.add_node(NodeConfig::numbered(number))
}

/// Something of everything: two nodes of two cores, disks, connections, timers, random numbers.
fn busy_history(seed: u64, kill: bool) -> (u64, u64, Vec<u64>) {
    let mut random = Random::new(seed);
    let world = World::new(seed, WorldConfig::swarm(&mut random));
    let (server, client) = (node(&world, 1), node(&world, 2));
    world.add_disk(&server, "disk", DiskConfig::new(1 << 20));
    let address = std::net::SocketAddr::new(server.address(), 7000);
    for index in 0..2 {
        let config = CoreConfig::small("server", index);
        let main = move |io: Io| async move {
            let listener = io.listen(address).unwrap();
            let disk = (index == 0).then(|| Rc::new(io.open_disk("disk", DiskOpen::default()).unwrap()));
            loop {
                let Ok(stream) = listener.accept().await else { continue };
                let (disk, core) = (disk.clone(), io.clone());
                io.spawn(Queue::Foreground, async move {
                    let mut buffer = core.buffer(4096).unwrap();
                    while let (Ok(count @ 1..), back) = stream.receive(buffer, 0..4096).await {
                        buffer = back;
                        if let Some(disk) = &disk {
                            let offset = core.random() % 256 * 4096;
                            buffer = disk.write(buffer, offset, 4096).await.1;
                            disk.flush().await.unwrap();
                        }
                        let (sent, back) = stream.send(buffer, 0..count).await;
                        buffer = back;
                        if sent.is_err() {
                            return;
                        }
                    }
                });
            }
        };
        Launcher::Simulated(server).launch(config, main).unwrap();
    }
    let replies = Rc::new(RefCell::new(Vec::new()));
    for number in 0..4_u64 {
        let replies = Rc::clone(&replies);
        let main = move |io: Io| async move {
            let Ok(stream) = io.connect(address).await else { return };
            let mut buffer = io.buffer(4096).unwrap();
            for round in 0..20_u8 {
                buffer[..64].fill(round + u8::try_from(number).unwrap());
                let (sent, back) = stream.send(buffer, 0..64).await;
                let (got, back) = stream.receive(back, 0..4096).await;
                buffer = back;
                if sent.is_err() || !matches!(got, Ok(1..)) {
                    return;
                }
                replies.borrow_mut().push(io.now().ns ^ number);
                io.sleep(Duration::from_millis(io.random() % 10)).await;
            }
        };
        client.launch(CoreConfig::small("client", usize::try_from(number).unwrap()), main).unwrap();
    }
    world.run_for(Duration::from_millis(100));
    if kill {
        server.power_cut();
    }
    world.run_for(Duration::from_secs(60));
    let replies = replies.borrow().clone();
    (world.trace_hash(), world.event_count(), replies)
}

#[test]
fn one_seed_gives_one_history_and_two_seeds_give_two() {
    for seed in 0..10 {
        let first = busy_history(seed, seed % 2 == 0);
        assert_eq!(first, busy_history(seed, seed % 2 == 0), "seed {seed}");
        let other = busy_history(seed + 100, seed % 2 == 0);
        assert_ne!(first.0, other.0);
        assert_ne!(first.2, other.2, "not the hash alone: what the cores saw differs too");
        assert!(first.2.len() >= 5, "seed {seed}: {} replies", first.2.len());
    }
}

/// Where two runs part can be read.
#[test]
fn the_text_of_a_trace_tells_where_two_runs_part() {
    let lines = |seed, sleeps: u64| {
        let world = World::new(seed, WorldConfig { trace_text: true, ..WorldConfig::default() });
        let node = node(&world, 1);
        world.block_on(&node, LIMIT, move |io| async move {
            for round in 0..10 {
                io.sleep(Duration::from_millis(if round < sleeps { 1 } else { 2 })).await;
            }
        });
        world.take_trace()
    };
    let first = lines(1, 10);
    assert!(first.len() > 20 && first[0].contains("CoreStarts"), "{:?}", first.first());
    assert_eq!(first, lines(1, 10));
    assert_ne!(first, lines(2, 10));
    let part = first.iter().zip(lines(1, 5)).take_while(|(a, b)| **a == *b).count();
    assert!(part >= first.len() / 3 && part < first.len(), "parts after {part} of {}", first.len());
}

#[test]
fn time_moves_to_the_next_event_and_timers_never_fire_early() {
    let world = World::new(1, WorldConfig::default());
    let node = node(&world, 1);
    let woken = world.block_on(&node, LIMIT, |io| async move {
        let mut woken = Vec::new();
        for seconds in [100, 3, 0] {
            let start = io.now();
            io.sleep(Duration::from_secs(seconds)).await;
            woken.push((seconds, io.now().since(start)));
        }
        woken
    });
    for (asked, slept) in woken {
        assert!(slept >= Duration::from_secs(asked));
        assert!(slept < Duration::from_secs(asked) + Duration::from_millis(1));
    }
    assert!(world.event_count() < 100, "waiting is free: {} events", world.event_count());
    let before = world.now();
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.now().since(before), Duration::from_secs(5));
}

#[test]
fn a_killed_process_does_nothing_more_and_a_new_one_can_start() {
    let world = World::new(2, WorldConfig::default());
    let node = node(&world, 1);
    let beats = Arc::new(AtomicU64::new(0));
    let start = |beats: Arc<AtomicU64>| {
        node.launch(CoreConfig::small("beat", 0), move |io| async move {
            loop {
                beats.fetch_add(1, Ordering::Relaxed);
                io.sleep(Duration::from_millis(1)).await;
            }
        })
        .unwrap();
    };
    start(Arc::clone(&beats));
    world.run_for(Duration::from_millis(100));
    assert!(node.is_running());
    let first = beats.load(Ordering::Relaxed);
    assert!((50..=101).contains(&first), "{first}");
    node.kill();
    assert!(!node.is_running());
    world.run_for(Duration::from_secs(1));
    assert_eq!(beats.load(Ordering::Relaxed), first);
    assert_eq!(Arc::strong_count(&beats), 1, "its tasks were dropped");
    start(Arc::clone(&beats));
    world.run_for(Duration::from_millis(100));
    assert!(beats.load(Ordering::Relaxed) > first + 50);
}

#[test]
fn a_process_that_kills_itself_ends_after_that_poll() {
    let world = World::new(3, WorldConfig::default());
    let node = node(&world, 1);
    world.add_disk(&node, "disk", DiskConfig::new(1 << 20));
    node.launch(CoreConfig::small("suicide", 0), move |io| async move {
        let disk = io.open_disk("disk", DiskOpen::default()).unwrap();
        let mut buffer = io.buffer(4096).unwrap();
        buffer.fill(1);
        node.kill();
        // Submitted in the same poll, after its death: must have no effect.
        let _ = disk.write(buffer, 0, 4096).await;
        panic!("a dead process was polled");
    })
    .unwrap();
    assert!(world.run_until_idle(LIMIT));
    assert!(!node.is_running());
    assert_eq!(node.disk("disk").unwrap().snapshot().get(0, 4096), vec![0; 4096]);
}

#[test]
fn a_paused_process_stands_still_and_goes_on() {
    let world = World::new(4, WorldConfig::default());
    let node = node(&world, 1);
    let beats = Rc::new(Cell::new(0));
    let seen = Rc::clone(&beats);
    node.launch(CoreConfig::small("beat", 0), move |io| async move {
        loop {
            seen.set(seen.get() + 1);
            io.sleep(Duration::from_millis(1)).await;
        }
    })
    .unwrap();
    world.run_for(Duration::from_millis(50));
    node.pause();
    let at_pause = beats.get();
    assert!(at_pause > 20 && node.is_paused());
    world.run_for(Duration::from_secs(10));
    assert_eq!(beats.get(), at_pause);
    node.resume();
    world.run_for(Duration::from_millis(50));
    assert!((at_pause + 20..at_pause + 52).contains(&beats.get()), "{at_pause} then {}", beats.get());
}

#[test]
fn signals_arrive_once_and_wait_for_who_asks() {
    let world = World::new(5, WorldConfig::default());
    let node = node(&world, 1);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&seen);
    node.launch(CoreConfig::small("main", 0), move |io| async move {
        io.sleep(Duration::from_millis(10)).await;
        let signals = io.signals();
        while log.borrow().last() != Some(&Signal::Terminate) {
            let signal = signals.next().await;
            log.borrow_mut().push(signal);
        }
    })
    .unwrap();
    world.run_for(Duration::from_millis(1));
    node.signal(Signal::Reload);
    node.signal(Signal::Reload);
    world.run_for(Duration::from_millis(100));
    assert_eq!(*seen.borrow(), [Signal::Reload]);
    node.signal(Signal::Terminate);
    world.run_for(Duration::from_millis(100));
    assert_eq!(*seen.borrow(), [Signal::Reload, Signal::Terminate]);
    assert!(!node.is_running(), "its main task has ended");
}

#[test]
fn regions_outlive_a_kill_and_boots_change_with_power() {
    let world = World::new(6, WorldConfig::default());
    let node = node(&world, 1);
    let look = |world: &World| {
        world.block_on(&node, LIMIT, |io| async move {
            let region = io.region("cells", 128).unwrap();
            let seen = (region.existed(), region.load(3), io.boot_id());
            region.store(3, 7);
            seen
        })
    };
    let first = look(&world);
    assert_eq!((first.0, first.1), (false, 0));
    let second = look(&world);
    assert_eq!((second.0, second.1, second.2), (true, 7, first.2));
    node.kill();
    assert_eq!(look(&world), second);
    node.power_cut();
    let third = look(&world);
    assert_eq!((third.0, third.1), (false, 0));
    assert_ne!(third.2, first.2);
    let other_size = world.block_on(&node, LIMIT, |io| async move {
        let region = io.region("cells", 256).unwrap();
        (region.existed(), region.load(3))
    });
    assert_eq!(other_size, (false, 0));
}

#[test]
fn a_kill_falls_between_any_two_stores() {
    for count in 0..=5 {
        let world = World::new(7, WorldConfig::default());
        let node = node(&world, 1);
        world.add_disk(&node, "disk", DiskConfig::new(1 << 20));
        node.launch(CoreConfig::small("cells", 0), move |io| async move {
            let region = io.region("cells", 64).unwrap();
            let disk = io.open_disk("disk", DiskOpen::default()).unwrap();
            io.sleep(Duration::from_millis(1)).await;
            for index in 0..5 {
                region.store(index, 1);
            }
            let mut buffer = io.buffer(4096).unwrap();
            buffer.fill(1);
            disk.write(buffer, 0, 4096).await.0.unwrap();
            io.sleep(Duration::from_secs(1)).await;
        })
        .unwrap();
        world.run_for(Duration::from_micros(500));
        node.kill_after_stores(count);
        world.run_for(Duration::from_millis(500));
        let survives = count == 5;
        assert_eq!(node.is_running(), survives, "after {count}");
        assert_eq!(world.fault_counts().contains_key("kill"), !survives, "listed when it happens");
        let words = node.region_words("cells").unwrap();
        assert_eq!(words.iter().sum::<u64>(), count, "{words:?}");
        assert!(words.is_sorted_by(|a, b| a >= b), "in program order: {words:?}");
        let written = node.disk("disk").unwrap().snapshot().get(0, 1)[0] == 1;
        assert_eq!(written, survives, "what follows the death in its poll has no effect");
    }
}

#[test]
fn wall_clocks_jump_and_monotonic_time_does_not() {
    let world = World::new(8, WorldConfig::default());
    let (here, there) = (node(&world, 1), node(&world, 2));
    there.set_wall_offset(5_000_000);
    let read = |node: &NodeHandle| world.block_on(node, LIMIT, |io| async move { (io.now(), io.wall_us()) });
    let (a, b) = (read(&here), read(&there));
    assert!((4_900_000..5_100_000).contains(&(b.1 - a.1)));
    there.jump_wall(-3_600_000_000);
    let c = read(&there);
    assert!(c.1 < b.1 && c.0 >= b.0);
}

#[test]
fn messages_reach_a_sleeping_core() {
    for seed in 0..20 {
        let world = World::new(seed, WorldConfig::swarm(&mut Random::new(seed)));
        let node = node(&world, 1);
        let received = Rc::new(RefCell::new(vec![Vec::new(); 3]));
        for (index, port) in ioengine::ring::mesh(3, 256).into_iter().enumerate() {
            let received = Rc::clone(&received);
            node.launch(CoreConfig::small("core", index), move |io| async move {
                let ends = port.attach(&io);
                for (peer, end) in ends.into_iter().enumerate() {
                    let Some((mut sender, mut receiver)) = end else { continue };
                    let (io, received) = (io.clone(), Rc::clone(&received));
                    let sleeper = io.clone();
                    io.spawn(Queue::Foreground, async move {
                        for number in 0..100_u64 {
                            while !sender.push(&[&number.to_le_bytes()]) {
                                sleeper.sleep(Duration::from_micros(50)).await;
                            }
                            sleeper.sleep(Duration::from_micros(sleeper.random() % 100)).await;
                        }
                        std::future::pending::<()>().await;
                    });
                    io.spawn(Queue::Foreground, async move {
                        let mut scratch = Vec::new();
                        loop {
                            receiver.ready().await;
                            while let Some(number) =
                                receiver.pop(&mut scratch, |m| u64::from_le_bytes(m.try_into().unwrap()))
                            {
                                if peer == (index + 1) % 3 {
                                    received.borrow_mut()[index].push(number);
                                }
                            }
                        }
                    });
                }
                std::future::pending::<()>().await;
            })
            .unwrap();
        }
        world.run_for(Duration::from_secs(1));
        for list in received.borrow().iter() {
            assert_eq!(*list, (0..100).collect::<Vec<_>>(), "seed {seed}");
        }
    }
}

#[test]
#[should_panic(expected = "our bug")]
fn a_panic_in_a_task_comes_out_of_the_run() {
    let world = World::new(9, WorldConfig::default());
    let node = node(&world, 1);
    node.launch(CoreConfig::small("main", 0), |io| async move {
        io.sleep(Duration::from_secs(1)).await;
        panic!("our bug");
    })
    .unwrap();
    world.run_for(Duration::from_secs(2));
}

#[test]
fn marks_and_canaries_belong_to_a_running_world() {
    ioengine::sometimes!("test_outside");
    assert!(!ioengine::canary("test_bug"));
    let config = WorldConfig { canaries: vec!["test_bug".to_owned()], ..WorldConfig::default() };
    let world = World::new(10, config);
    let node = node(&world, 1);
    let inside = world.block_on(&node, LIMIT, |_| async {
        ioengine::sometimes!("test_inside");
        ioengine::sometimes!("test_inside");
        (ioengine::canary("test_bug"), ioengine::canary("test_other"))
    });
    assert_eq!(inside, (true, false));
    assert!(!ioengine::canary("test_bug"));
    assert_eq!(world.marks().get("test_inside"), Some(&2));
    assert_eq!(world.marks().get("test_outside"), None);
}

#[test]
fn facts_are_told_with_their_node_in_the_order_of_the_world() {
    ioengine::fact("test_outside", 1, 1);
    let world = World::new(10, WorldConfig::default());
    let (one, other) = (node(&world, 1), node(&world, 2));
    for (wait, at) in [(2, one), (1, other)] {
        at.launch(CoreConfig::small("teller", 0), move |io| async move {
            for round in 0..2 {
                io.sleep(Duration::from_millis(wait)).await;
                ioengine::fact("test_inside", wait, round);
            }
        })
        .unwrap();
    }
    world.run_for(Duration::from_secs(1));
    let told: Vec<_> =
        world.take_facts().iter().map(|one| (one.node, one.name, one.key, one.value)).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told.iter().all(|one| one.1 == "test_inside" && one.0 == 2 - one.2 as u32), "{told:?}");
    assert_eq!((told[0].0, told[3].0), (1, 0), "{told:?}");
    assert!(world.take_facts().is_empty());
}

#[test]
fn a_light_load_runs_many_times_faster_than_real_time() {
    // Not a clock: the count of events for a second of light load is what costs, and it is bounded here.
    let world = World::new(11, WorldConfig { link: LinkConfig::default(), ..WorldConfig::default() });
    let (server, client) = (node(&world, 1), node(&world, 2));
    let address = std::net::SocketAddr::new(server.address(), 7000);
    server
        .launch(CoreConfig::small("echo", 0), move |io| async move {
            let stream = io.listen(address).unwrap().accept().await.unwrap();
            let mut buffer = io.buffer(4096).unwrap();
            while let (Ok(count @ 1..), back) = stream.receive(buffer, 0..4096).await {
                buffer = stream.send(back, 0..count).await.1;
            }
        })
        .unwrap();
    client
        .launch(CoreConfig::small("client", 0), move |io| async move {
            let stream = io.connect(address).await.unwrap();
            let mut buffer = io.buffer(4096).unwrap();
            for _ in 0..1000 {
                buffer = stream.send(buffer, 0..64).await.1;
                buffer = stream.receive(buffer, 0..4096).await.1;
                io.sleep(Duration::from_millis(10)).await;
            }
        })
        .unwrap();
    world.run_for(Duration::from_secs(12));
    assert!(!client.is_running());
    assert!(world.event_count() < 40_000, "{} events for 1,000 round trips", world.event_count());
}
