//! Simulated disks: each fault can be seen, and is what it says; a crash leaves exactly what the contract allows
//! (15 to 20), shown by small cases exhausted over seeds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ioengine::disk::DiskOpen;
use ioengine::sim::{
    CrashLimits, DiskConfig, DiskFaults, DiskHandle, DiskImage, FaultKind, NodeConfig, NodeHandle, PPM,
    Random, World, WorldConfig,
};
use ioengine::{CoreConfig, Disk, DiskError, Io};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);
const BYTES: u64 = 1 << 20;

struct Scene {
    world: World,
    node: NodeHandle,
    disk: DiskHandle,
}

fn scene(seed: u64, volatile_cache: bool, faults: DiskFaults) -> Scene {
    let world = World::new(seed, WorldConfig::default());
    let node = world.add_node(NodeConfig::numbered(1));
    let config = DiskConfig { volatile_cache, block_bytes: 512, faults, ..DiskConfig::new(BYTES) };
    let disk = world.add_disk(&node, "disk", config);
    Scene { world, node, disk }
}

impl Scene {
    /// Run `main` with the disk open for writing.
    fn with_disk<T: 'static, M: Future<Output = T> + 'static>(
        &self,
        main: impl FnOnce(Io, Disk) -> M + 'static,
    ) -> T {
        self.world.block_on(&self.node, LIMIT, move |io| async move {
            let disk = io.open_disk("disk", DiskOpen::default()).unwrap();
            main(io, disk).await
        })
    }

    fn faults(&self, name: &str) -> usize {
        self.world.faults().iter().filter(|fault| fault.kind.name() == name).count()
    }
}

async fn write(io: &Io, disk: &Disk, offset: u64, bytes: usize, byte: u8) -> Result<(), DiskError> {
    let mut buffer = io.buffer(bytes).unwrap();
    buffer.fill(byte);
    disk.write(buffer, offset, bytes).await.0
}

async fn write_durable(io: &Io, disk: &Disk, offset: u64, bytes: usize, byte: u8) -> Result<(), DiskError> {
    let mut buffer = io.buffer(bytes).unwrap();
    buffer.fill(byte);
    disk.write_durable(buffer, offset, bytes).await.0
}

async fn read(io: &Io, disk: &Disk, offset: u64, bytes: usize) -> Result<Vec<u8>, DiskError> {
    let (result, buffer) = disk.read(io.buffer(bytes).unwrap(), offset, bytes).await;
    result.map(|()| buffer[..bytes].to_vec())
}

/// First byte of each of the first `count` sectors; every sector must hold one byte throughout.
fn sectors(image: &DiskImage, count: usize) -> Vec<u8> {
    (0..count)
        .map(|sector| {
            let bytes = image.get(sector as u64 * 512, 512);
            assert!(bytes.iter().all(|&byte| byte == bytes[0]), "sector {sector} is torn inside");
            bytes[0]
        })
        .collect()
}

/// Contents of the first sectors after running `main` and cutting the power when it ends, over many seeds.
fn after_power_cuts<M: Future<Output = ()> + 'static>(
    volatile_cache: bool,
    faults: &DiskFaults,
    count: usize,
    main: fn(Io, Rc<Disk>) -> M,
) -> BTreeSet<Vec<u8>> {
    let mut seen = BTreeSet::new();
    for seed in 0..400 {
        let scene = scene(seed, volatile_cache, faults.clone());
        let done = Rc::new(Cell::new(false));
        let finished = Rc::clone(&done);
        let node = scene.node;
        node.launch(CoreConfig::small("main", 0), move |io| async move {
            let disk = Rc::new(io.open_disk("disk", DiskOpen::default()).unwrap());
            main(io.clone(), Rc::clone(&disk)).await;
            finished.set(true);
            std::future::pending::<()>().await;
        })
        .unwrap();
        assert!(scene.world.run_while(LIMIT, || !done.get()));
        node.power_cut();
        seen.insert(sectors(&scene.disk.snapshot(), count));
    }
    seen
}

fn all(list: &[&[u8]]) -> BTreeSet<Vec<u8>> {
    list.iter().map(|sectors| sectors.to_vec()).collect()
}

/// 17: each sector of an unflushed write on its own; of two writes of one sector, any of the three versions.
#[test]
fn an_unflushed_write_is_lost_in_any_part() {
    let seen = after_power_cuts(true, &DiskFaults::default(), 2, |io, disk| async move {
        write(&io, &disk, 0, 1024, 1).await.unwrap();
        write(&io, &disk, 512, 512, 2).await.unwrap();
    });
    assert_eq!(seen, all(&[&[0, 0], &[0, 1], &[0, 2], &[1, 0], &[1, 1], &[1, 2]]));
    let whole = DiskFaults { torn: false, ..DiskFaults::default() };
    let seen = after_power_cuts(true, &whole, 2, |io, disk| async move {
        write(&io, &disk, 0, 1024, 1).await.unwrap();
    });
    assert_eq!(seen, all(&[&[0, 0], &[1, 1]]), "without tearing");
}

/// 18: what a flush covered stays.
#[test]
fn a_flushed_write_is_lost_by_no_crash() {
    let seen = after_power_cuts(true, &DiskFaults::default(), 2, |io, disk| async move {
        write(&io, &disk, 0, 1024, 1).await.unwrap();
        disk.flush().await.unwrap();
        write(&io, &disk, 512, 512, 2).await.unwrap();
    });
    assert_eq!(seen, all(&[&[1, 1], &[1, 2]]));
}

/// 17: a flush covers only what had completed when it began.
#[test]
fn a_flush_does_not_cover_what_completes_meanwhile() {
    let seen = after_power_cuts(true, &DiskFaults::default(), 2, |io, disk| async move {
        write(&io, &disk, 0, 512, 1).await.unwrap();
        let (other, other_io) = (Rc::clone(&disk), io.clone());
        io.spawn(ioengine::Queue::Foreground, async move {
            write(&other_io, &other, 512, 512, 2).await.unwrap();
        });
        disk.flush().await.unwrap();
        io.sleep(Duration::from_millis(1)).await;
    });
    assert_eq!(seen, all(&[&[1, 0], &[1, 2]]));
}

/// 18: a durable write stays, without covering what was written before elsewhere.
#[test]
fn a_durable_write_is_lost_by_no_crash() {
    let seen = after_power_cuts(true, &DiskFaults::default(), 3, |io, disk| async move {
        write(&io, &disk, 0, 1024, 1).await.unwrap();
        write_durable(&io, &disk, 512, 1024, 2).await.unwrap();
    });
    assert_eq!(seen, all(&[&[0, 2, 2], &[1, 2, 2]]));
}

/// 13, 17: without a volatile cache a completed write stays.
#[test]
fn without_a_volatile_cache_completion_is_durability() {
    let seen = after_power_cuts(false, &DiskFaults::default(), 2, |io, disk| async move {
        write(&io, &disk, 0, 512, 1).await.unwrap();
        write(&io, &disk, 0, 1024, 2).await.unwrap();
    });
    assert_eq!(seen, all(&[&[2, 2]]));
}

/// 20: in flight at a crash, with and without a cache.
#[test]
fn a_write_in_flight_lands_in_any_part() {
    for volatile_cache in [false, true] {
        let seen = after_power_cuts(volatile_cache, &DiskFaults::default(), 2, |io, disk| async move {
            let mut buffer = io.buffer(1024).unwrap();
            buffer.fill(1);
            let _ = io.timeout(Duration::ZERO, disk.write_durable(buffer, 0, 1024)).await;
        });
        assert_eq!(seen, all(&[&[0, 0], &[0, 1], &[1, 0], &[1, 1]]), "cache {volatile_cache}");
    }
}

/// 17: a kill loses no completed write, and leaves of one in flight any part.
#[test]
fn a_kill_loses_no_completed_write() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let scene = scene(seed, true, DiskFaults::default());
        scene
            .node
            .launch(CoreConfig::small("main", 0), move |io| async move {
                let disk = io.open_disk("disk", DiskOpen::default()).unwrap();
                write(&io, &disk, 0, 1024, 1).await.unwrap();
                io.sleep(Duration::from_millis(1)).await;
                let _ = write(&io, &disk, 1024, 1024, 2).await;
            })
            .unwrap();
        scene.world.run_while(LIMIT, || scene.disk.counts().writes == 0 || scene.disk.in_flight() == 0);
        scene.node.kill();
        seen.insert(sectors(&scene.disk.snapshot(), 4));
        let again = scene.with_disk(|io, disk| async move { read(&io, &disk, 0, 512).await.unwrap() });
        assert_eq!(again, vec![1; 512]);
    }
    assert_eq!(seen, all(&[&[1, 1, 0, 0], &[1, 1, 0, 2], &[1, 1, 2, 0], &[1, 1, 2, 2]]));
}

/// 16: a read that overlaps a write in flight sees any part of it; afterwards all.
#[test]
fn a_read_beside_a_write_sees_any_part() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let scene = scene(seed, true, DiskFaults::default());
        let (during, after) = scene.with_disk(|io, disk| async move {
            let disk = Rc::new(disk);
            let (writer, writer_io) = (Rc::clone(&disk), io.clone());
            let done = Rc::new(Cell::new(false));
            let finished = Rc::clone(&done);
            io.spawn(ioengine::Queue::Foreground, async move {
                write_durable(&writer_io, &writer, 0, 1024, 1).await.unwrap();
                finished.set(true);
            });
            let during = read(&io, &disk, 0, 1024).await.unwrap();
            while !done.get() {
                io.sleep(Duration::from_micros(50)).await;
            }
            (during, read(&io, &disk, 0, 1024).await.unwrap())
        });
        assert_eq!(after, vec![1; 1024]);
        seen.insert((during[0], during[512]));
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

/// 15: a failed write leaves each sector old or new; it does not end the disk.
#[test]
fn a_failed_write_leaves_any_part() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let faults = DiskFaults { write_error_ppm: PPM, ..DiskFaults::default() };
        let scene = scene(seed, true, faults);
        let ended = scene.with_disk(|io, disk| async move {
            let error = write(&io, &disk, 0, 1024, 1).await.unwrap_err();
            assert!(matches!(error, DiskError::Device { operation: "write", .. }), "{error}");
            disk.ended()
        });
        assert!(!ended);
        assert_eq!(scene.faults("write_error"), 1);
        seen.insert(sectors(&scene.disk.snapshot(), 2));
    }
    assert_eq!(seen, all(&[&[0, 0], &[0, 1], &[1, 0], &[1, 1]]));
}

/// 19: a failed flush ends the disk, reads go on, and what it should have kept may be gone after the restart even
/// though the power stayed on.
#[test]
fn a_failed_flush_ends_the_disk_and_may_lose_what_it_covered() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let faults = DiskFaults { flush_error_ppm: PPM, ..DiskFaults::default() };
        let scene = scene(seed, true, faults);
        scene.with_disk(|io, disk| async move {
            write(&io, &disk, 0, 512, 1).await.unwrap();
            assert!(matches!(disk.flush().await, Err(DiskError::Device { operation: "flush", .. })));
            assert!(matches!(disk.flush().await, Err(DiskError::Ended { .. })));
            assert!(matches!(write(&io, &disk, 0, 512, 2).await, Err(DiskError::Ended { .. })));
            assert_eq!(read(&io, &disk, 0, 512).await.unwrap(), vec![1; 512]);
        });
        assert_eq!(scene.faults("flush_error"), 1);
        seen.insert(sectors(&scene.disk.snapshot(), 1));
        scene.disk.set_faults(DiskFaults::default());
        scene.with_disk(|io, disk| async move {
            write(&io, &disk, 0, 512, 3).await.unwrap();
            disk.flush().await.unwrap();
        });
    }
    assert_eq!(seen, all(&[&[0], &[1]]));
}

/// 19: want of space does not end the disk, and what is stored can be written again.
#[test]
fn a_full_disk_refuses_fresh_pages_only() {
    let scene = scene(1, true, DiskFaults { full_after_bytes: Some(8192), ..DiskFaults::default() });
    scene.with_disk(|io, disk| async move {
        write(&io, &disk, 0, 8192, 1).await.unwrap();
        assert!(matches!(write(&io, &disk, 8192, 4096, 2).await, Err(DiskError::Full { .. })));
        assert!(!disk.ended());
        write(&io, &disk, 4096, 4096, 3).await.unwrap();
        disk.flush().await.unwrap();
    });
    assert_eq!(scene.faults("full"), 1);
    assert_eq!(scene.disk.snapshot().get(8192, 4096), vec![0; 4096]);
}

#[test]
fn latent_errors_stay_until_the_sector_is_written() {
    let scene = scene(1, true, DiskFaults::default());
    scene.disk.make_unreadable(1024);
    scene.with_disk(|io, disk| async move {
        assert!(read(&io, &disk, 0, 1024).await.is_ok());
        assert!(read(&io, &disk, 512, 1024).await.is_err());
        assert!(read(&io, &disk, 1024, 512).await.is_err());
        write(&io, &disk, 1024, 512, 7).await.unwrap();
        assert_eq!(read(&io, &disk, 1024, 512).await.unwrap(), vec![7; 512]);
    });
    scene.disk.set_faults(DiskFaults { latent_error_ppm: PPM, ..DiskFaults::default() });
    scene.with_disk(|io, disk| async move {
        assert!(read(&io, &disk, 0, 512).await.is_err());
        let share = disk.share();
        drop(disk);
        drop(share);
    });
    scene.disk.set_faults(DiskFaults::default());
    scene.with_disk(|io, disk| async move { assert!(read(&io, &disk, 0, 512).await.is_err()) });
    assert_eq!(scene.faults("latent_error"), 2);
}

/// The lies: acknowledged, and not so. Each is listed with its place.
#[test]
fn lies_are_told_and_listed() {
    let lost = scene(1, true, DiskFaults { write_lost_ppm: PPM, ..DiskFaults::default() });
    lost.with_disk(|io, disk| async move {
        write(&io, &disk, 512, 512, 1).await.unwrap();
        disk.flush().await.unwrap();
        assert_eq!(read(&io, &disk, 512, 512).await.unwrap(), vec![0; 512]);
    });
    let list = lost.world.faults();
    assert_eq!(
        (list.len(), list[0].kind, list[0].offset, list[0].bytes),
        (1, FaultKind::WriteLost, 512, 512)
    );
    assert_eq!(list[0].disk, Some(lost.disk));

    let misdirected = scene(2, true, DiskFaults { write_misdirected_ppm: PPM, ..DiskFaults::default() });
    misdirected.with_disk(|io, disk| async move {
        write(&io, &disk, 8192, 4096, 1).await.unwrap();
        disk.flush().await.unwrap();
    });
    let FaultKind::WriteMisdirected { to } = misdirected.world.faults()[0].kind else { panic!("listed") };
    assert!(to != 8192 && to % 512 == 0);
    assert_eq!(misdirected.disk.snapshot().get(to, 4096), vec![1; 4096]);

    let ignored = scene(3, true, DiskFaults { flush_ignored_ppm: PPM, ..DiskFaults::default() });
    let mut lost_some = false;
    for byte in 1..40 {
        ignored.with_disk(move |io, disk| async move {
            write(&io, &disk, 0, 512, byte).await.unwrap();
            disk.flush().await.unwrap();
        });
        ignored.node.power_cut();
        lost_some |= ignored.disk.snapshot().get(0, 1)[0] != byte;
    }
    assert!(lost_some, "a flush that does nothing loses what it should keep");
    assert_eq!(ignored.faults("flush_ignored"), 39);
    let list = ignored.world.faults();
    assert!(
        list.iter()
            .any(|fault| fault.kind == FaultKind::FlushIgnored && (fault.offset, fault.bytes) == (0, 512))
    );

    let rotten = scene(4, true, DiskFaults { rot_read_ppm: PPM, ..DiskFaults::default() });
    let wrong = rotten.with_disk(|io, disk| async move {
        write(&io, &disk, 0, 4096, 1).await.unwrap();
        disk.flush().await.unwrap();
        read(&io, &disk, 0, 4096).await.unwrap()
    });
    assert!((1..=3).contains(&wrong.iter().filter(|&&byte| byte != 1).count()));
    let fault = rotten.world.faults()[0];
    let at = wrong.iter().position(|&byte| byte != 1).unwrap() as u64;
    assert!(fault.kind == FaultKind::Rot && (fault.offset..fault.offset + 512).contains(&at));
}

#[test]
fn lies_stay_where_they_may() {
    let faults = DiskFaults {
        write_lost_ppm: PPM,
        lies_within: vec![4096..8192, BYTES..BYTES],
        ..DiskFaults::default()
    };
    let scene = scene(5, true, faults);
    scene.with_disk(|io, disk| async move {
        for offset in [0, 4096, 8192, 2048, 7680] {
            write(&io, &disk, offset, 1024, 1).await.unwrap();
        }
    });
    let image = scene.disk.snapshot();
    let stored: Vec<bool> = [0, 4096, 8192, 2048, 7680].map(|at| image.get(at, 1)[0] == 1).to_vec();
    assert_eq!(stored, [true, false, true, true, true], "a write that reaches outside is not lied about");
}

#[test]
fn rot_on_demand_survives_everything_but_a_write() {
    let scene = scene(6, true, DiskFaults::default());
    scene.with_disk(|io, disk| async move {
        write(&io, &disk, 0, 4096, 1).await.unwrap();
        disk.flush().await.unwrap();
    });
    scene.disk.rot(700);
    scene.node.power_cut();
    let image = scene.disk.snapshot();
    assert_ne!(image.get(512, 512), vec![1; 512]);
    assert_eq!(image.get(0, 512), vec![1; 512]);
    scene.with_disk(|io, disk| async move { write(&io, &disk, 512, 512, 1).await.unwrap() });
    assert_eq!(scene.disk.snapshot().get(0, 4096), vec![1; 4096]);
}

#[test]
fn a_stalled_disk_completes_nothing_until_released() {
    let scene = scene(7, true, DiskFaults::default());
    let disk = scene.disk;
    disk.stall_until_released();
    let done = Rc::new(Cell::new(false));
    let finished = Rc::clone(&done);
    scene
        .node
        .launch(CoreConfig::small("main", 0), move |io| async move {
            let disk = io.open_disk("disk", DiskOpen::default()).unwrap();
            write(&io, &disk, 0, 512, 1).await.unwrap();
            finished.set(true);
        })
        .unwrap();
    scene.world.run_for(Duration::from_secs(1000));
    assert!(!done.get() && disk.in_flight() == 1);
    disk.release();
    scene.world.run_for(Duration::from_millis(1));
    assert!(done.get());
    disk.stall(Duration::from_secs(5));
    let took = scene.with_disk(|io, disk| async move {
        let start = io.now();
        write(&io, &disk, 0, 512, 1).await.unwrap();
        io.now().since(start)
    });
    assert!(took >= Duration::from_millis(4_900), "{took:?}");
    let slow = DiskFaults { slow_percent: 10_000, ..DiskFaults::default() };
    disk.set_faults(slow);
    let slow = scene.with_disk(|io, disk| async move {
        let start = io.now();
        write(&io, &disk, 0, 512, 1).await.unwrap();
        io.now().since(start)
    });
    assert!(slow > Duration::from_micros(1500), "{slow:?}");
}

#[test]
fn snapshots_come_back_and_disks_change_places() {
    let scene = scene(8, true, DiskFaults::default());
    let other = scene.world.add_disk(&scene.node, "other", DiskConfig::new(BYTES));
    let put = |byte| {
        scene.with_disk(move |io, disk| async move {
            write(&io, &disk, 0, 512, byte).await.unwrap();
            disk.flush().await.unwrap();
        });
    };
    put(1);
    let old = scene.disk.snapshot();
    put(2);
    scene.disk.restore(&old);
    assert_eq!(sectors(&scene.disk.snapshot(), 1), [1]);
    scene.disk.swap(&other);
    assert_eq!((sectors(&scene.disk.snapshot(), 1), sectors(&other.snapshot(), 1)), (vec![0], vec![1]));
    other.wipe();
    assert_eq!(sectors(&other.snapshot(), 1), [0]);
    assert_eq!(old.get(0, 512), vec![1; 512], "a snapshot stays");
    let kinds: Vec<&str> = scene.world.faults().iter().map(|fault| fault.kind.name()).collect();
    assert_eq!(kinds, ["restored", "swapped", "swapped", "wiped"]);
}

/// Every crash state of a little log, with the promise it must keep: what was flushed is there.
#[test]
fn crash_states_of_a_recorded_history_keep_what_was_flushed() {
    let scene = scene(9, true, DiskFaults::default());
    let recorder = scene.disk.recorder();
    let acknowledged = scene.with_disk(|io, disk| async move {
        let mut acknowledged = Vec::new();
        for round in 0..5_u8 {
            write(&io, &disk, u64::from(round) * 1024, 1024, round + 1).await.unwrap();
            disk.flush().await.unwrap();
            acknowledged.push(io.now());
        }
        acknowledged
    });
    let recording = recorder.recording();
    assert_eq!(recording.events().len(), 10);
    let (mut count, mut partial) = (0, 0);
    for state in recording.crash_states(CrashLimits::default(), 1) {
        count += 1;
        let kept = acknowledged.iter().filter(|&&at| state.before.is_none_or(|before| at < before)).count();
        let found = sectors(&state.image, 10);
        for round in 0..5 {
            let expected = u8::try_from(round).unwrap() + 1;
            let both = &found[round * 2..round * 2 + 2];
            assert!(round >= kept || both == [expected; 2], "flushed and lost: {found:?}");
            partial += u32::from(both[0] != both[1]);
        }
    }
    // For each write: in flight (4 parts), completed (4 parts), after its flush the next one's 4 parts.
    assert_eq!(count, 5 * 8 + 1, "every legal state, once per cut");
    assert!(partial > 0, "torn ones among them");
}

/// What is legal at this moment, from the disk itself, contains what a power cut then does.
#[test]
fn crash_states_of_the_moment_contain_the_crash() {
    for seed in 0..50 {
        let scene = scene(seed, true, DiskFaults::default());
        scene
            .node
            .launch(CoreConfig::small("main", 0), |io| async move {
                let disk = io.open_disk("disk", DiskOpen::default()).unwrap();
                write(&io, &disk, 0, 512, 1).await.unwrap();
                disk.flush().await.unwrap();
                write(&io, &disk, 0, 1024, 2).await.unwrap();
                let _ = write(&io, &disk, 512, 1024, 3).await;
                std::future::pending::<()>().await;
            })
            .unwrap();
        let mut random = Random::new(seed);
        scene.world.run_for(Duration::from_micros(random.below(300)));
        let limits = CrashLimits { subset_bits: 12, sample_count: 0 };
        let legal: BTreeSet<Vec<u8>> =
            scene.disk.crash_states(limits, seed).iter().map(|state| sectors(&state.image, 3)).collect();
        scene.node.power_cut();
        let found = sectors(&scene.disk.snapshot(), 3);
        assert!(legal.contains(&found), "seed {seed}: {found:?} is not one of {legal:?}");
    }
}

#[test]
fn presets_differ_in_what_they_may_do() {
    let mut random = Random::new(1);
    let mut kinds = [0; 4];
    for _ in 0..200 {
        let honest = DiskFaults::honest(&mut random);
        assert!(!honest.lies());
        let lying = DiskFaults::lying(&mut random);
        assert!(lying.lies());
        kinds[0] += u32::from(honest.flush_error_ppm > 0);
        kinds[1] += u32::from(honest.stall_ppm == 0);
        kinds[2] += u32::from(lying.write_lost_ppm > 0);
        kinds[3] += u32::from(lying.write_misdirected_ppm == 0);
    }
    assert!(kinds.iter().all(|&count| (20..180).contains(&count)), "subsets: {kinds:?}");
}
