//! Disks: 13–19. What a crash leaves (17, 18, 20) is tested where crashes can be made: in the simulator, and on
//! recorded devices.

use crate::env::{DISK_BYTES_MIN, Done, Env, eventually, fill, filled, holds, is_filled, poll_once};
use ioengine::disk::DiskOpen;
use ioengine::{DiskError, Io, Queue};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// 13.
pub(crate) async fn a_disk_has_fixed_facts(io: Io, env: Env) {
    let disk = env.disk(&io);
    let facts = disk.geometry();
    assert!(facts.bytes >= DISK_BYTES_MIN && facts.bytes.is_multiple_of(u64::from(facts.block_bytes)));
    assert!(facts.block_bytes == 512 || facts.block_bytes == 4096);
    assert_eq!(disk.name(), env.disks[0]);
    let last = facts.bytes - u64::from(facts.block_bytes);
    let bytes = facts.block_bytes as usize;
    disk.write(filled(&io, bytes, 13), last, bytes).await.0.unwrap();
    assert!(holds(&io, &disk, last, bytes, 13).await);
    assert_eq!(disk.geometry(), facts);
    let missing = format!("{}-missing", env.disks[0]);
    let error = io.open_disk(&missing, DiskOpen::default()).err().expect("there is no such disk");
    assert_eq!(error.name, missing);
    assert!(!error.what.is_empty() && !error.mend.is_empty());
}

/// 13.
pub(crate) async fn a_disk_is_claimed_by_one(io: Io, env: Env) {
    let disk = env.disk(&io);
    let error = io.open_disk(&env.disks[0], DiskOpen::default()).err().expect("claimed");
    assert_eq!(error.name, env.disks[0]);
    assert!(!error.what.is_empty() && !error.mend.is_empty());
    let reader = io.open_disk(&env.disks[0], DiskOpen { read_only: true }).unwrap();
    assert!(io.open_disk(&env.disks[1], DiskOpen::default()).is_ok(), "another disk is another claim");
    let share = disk.share();
    drop(disk);
    assert!(io.open_disk(&env.disks[0], DiskOpen::default()).is_err(), "the share still claims it");
    drop(share);
    assert!(io.open_disk(&env.disks[0], DiskOpen::default()).is_ok(), "a reader claims nothing");
    drop(reader);
}

/// 13, 16.
pub(crate) async fn a_disk_is_shared_by_cores(io: Io, env: Env) {
    let disk = env.disk(&io);
    disk.write(filled(&io, 8192, 1), 0, 8192).await.0.unwrap();
    let share = disk.share();
    let stage = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&stage);
    env.launch(1, move |io| async move {
        let disk = io.attach_disk(&share).unwrap();
        drop(share);
        assert!(holds(&io, &disk, 0, 8192, 1).await);
        disk.write_durable(filled(&io, 8192, 2), 8192, 8192).await.0.unwrap();
        theirs.store(1, Ordering::SeqCst);
        let io = &io;
        eventually(io, "the first core's look", || theirs.load(Ordering::SeqCst) == 2).await;
        disk.flush().await.unwrap();
        drop(disk);
        theirs.store(3, Ordering::SeqCst);
    });
    eventually(&io, "the other core's write", || stage.load(Ordering::SeqCst) == 1).await;
    assert!(holds(&io, &disk, 8192, 8192, 2).await);
    drop(disk);
    assert!(io.open_disk(&env.disks[0], DiskOpen::default()).is_err(), "the other core has it still");
    stage.store(2, Ordering::SeqCst);
    eventually(&io, "the other core's end", || stage.load(Ordering::SeqCst) == 3).await;
    assert!(io.open_disk(&env.disks[0], DiskOpen::default()).is_ok());
}

/// 15, 16: of all sizes, at places that overlap earlier ones.
pub(crate) async fn reads_see_completed_writes(io: Io, env: Env) {
    let disk = env.disk(&io);
    let block = disk.geometry().block_bytes as usize;
    let mut model = vec![0_u8; usize::try_from(DISK_BYTES_MIN).unwrap()];
    let mut random = 7_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    for round in 0..60_u64 {
        let bytes = block * (1 + next(if round % 5 == 0 { (1 << 20) / block } else { 16 }));
        let offset = block * next((model.len() - bytes) / block + 1);
        let buffer = filled(&io, bytes, round);
        let (result, buffer) = match round % 3 {
            0 => disk.write_durable(buffer, offset as u64, bytes).await,
            _ => disk.write(buffer, offset as u64, bytes).await,
        };
        result.unwrap();
        assert!(is_filled(&buffer[..bytes], round), "a write leaves its buffer alone");
        model[offset..offset + bytes].copy_from_slice(&buffer[..bytes]);
        if round % 7 == 0 {
            disk.flush().await.unwrap();
        }
        let bytes = block * (1 + next((1 << 20) / block));
        let offset = block * next((model.len() - bytes) / block + 1);
        let mut buffer = io.buffer(bytes).unwrap();
        buffer.fill(0xEE);
        let (result, buffer) = disk.read(buffer, offset as u64, bytes).await;
        result.unwrap();
        assert!(buffer[..bytes] == model[offset..offset + bytes], "round {round}");
        assert!(buffer[bytes..].iter().all(|&byte| byte == 0xEE), "beyond what was asked for");
    }
}

/// 15, 16: reads and writes of different places do not disturb each other.
pub(crate) async fn operations_in_parallel_move_whole_blocks(io: Io, env: Env) {
    let disk = Rc::new(env.disk(&io));
    let done = Done::default();
    const BYTES: usize = 16 << 10;
    for task in 0..40_u64 {
        let (io, disk, done) = (io.clone(), Rc::clone(&disk), done.clone());
        io.clone().spawn(Queue::Foreground, async move {
            for round in 0..5 {
                let seed = task * 10 + round;
                let mut buffer = io.buffer(BYTES).unwrap();
                fill(&mut buffer[..BYTES], seed);
                let offset = task * BYTES as u64;
                let (result, buffer) = disk.write(buffer, offset, BYTES).await;
                result.unwrap();
                drop(buffer);
                assert!(holds(&io, &disk, offset, BYTES, seed).await);
            }
            done.add();
        });
    }
    eventually(&io, "40 tasks", || done.count() == 40).await;
}

/// 17, 18: as far as a disk that is closed and opened again shows.
pub(crate) async fn a_reopened_disk_holds_what_was_written(io: Io, env: Env) {
    let disk = env.disk(&io);
    disk.write(filled(&io, 4096, 1), 0, 4096).await.0.unwrap();
    disk.flush().await.unwrap();
    disk.write_durable(filled(&io, 8192, 2), 4096, 8192).await.0.unwrap();
    disk.write(filled(&io, 4096, 3), 12288, 4096).await.0.unwrap();
    drop(disk);
    let disk = io.open_disk(&env.disks[0], DiskOpen { read_only: true }).unwrap();
    assert!(holds(&io, &disk, 0, 4096, 1).await);
    assert!(holds(&io, &disk, 4096, 8192, 2).await);
    assert!(holds(&io, &disk, 12288, 4096, 3).await);
}

/// 14.
pub(crate) async fn part_of_a_block_is_our_bug(io: Io, env: Env) {
    let disk = env.disk(&io);
    let end = disk.geometry().bytes;
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for (offset, bytes) in [(1, 4096), (0, 1), (0, 0), (end, 4096), (end - 4096, 8192), (0, 16384)] {
        let mut read = pin!(disk.read(io.buffer(8192).unwrap(), offset, bytes));
        let polled =
            std::panic::catch_unwind(AssertUnwindSafe(|| read.as_mut().poll(&mut context).is_ready()));
        assert!(polled.is_err(), "{bytes} bytes at {offset}");
        let mut write = pin!(disk.write(io.buffer(8192).unwrap(), offset, bytes));
        let polled =
            std::panic::catch_unwind(AssertUnwindSafe(|| write.as_mut().poll(&mut context).is_ready()));
        assert!(polled.is_err(), "{bytes} bytes at {offset}");
    }
}

/// 19.
pub(crate) async fn a_failed_flush_ends_the_disk(io: Io, env: Env) {
    let Some(faults) = env.faults.clone() else { return };
    let name = &env.disks[0];
    let disk = env.disk(&io);
    let other = io.attach_disk(&disk.share()).unwrap();
    disk.write(filled(&io, 4096, 1), 0, 4096).await.0.unwrap();
    disk.flush().await.unwrap();
    assert!(!disk.ended());
    faults.flushes_fail(name, true);
    assert!(matches!(disk.flush().await, Err(DiskError::Device { .. })));
    faults.flushes_fail(name, false);
    for disk in [&disk, &other] {
        assert!(disk.ended());
        assert!(matches!(disk.flush().await, Err(DiskError::Ended { .. })));
        let (result, buffer) = disk.write(filled(&io, 4096, 2), 4096, 4096).await;
        assert!(matches!(result, Err(DiskError::Ended { .. })));
        let (result, buffer) = disk.write_durable(buffer, 4096, 4096).await;
        assert!(matches!(result, Err(DiskError::Ended { .. })));
        assert!(disk.read(buffer, 0, 4096).await.0.is_ok(), "reads go on");
    }
    drop(disk);
    drop(other);
    // Until restart, also for who opens it anew: refused at the door, or ended still.
    if let Ok(again) = io.open_disk(name, DiskOpen::default()) {
        assert!(again.ended());
    }
}

/// 8, 19: the system tells of a failed flush once; the next one would succeed without the lost write.
pub(crate) async fn a_failed_flush_nobody_waits_for_ends_the_disk(io: Io, env: Env) {
    let Some(faults) = env.faults.clone() else { return };
    let disk = env.disk(&io);
    disk.write(filled(&io, 4096, 1), 0, 4096).await.0.unwrap();
    faults.flushes_fail(&env.disks[0], true);
    {
        let mut flush = pin!(disk.flush());
        poll_once(flush.as_mut()).await;
    }
    eventually(&io, "the flush's completion", || io.operations_in_flight() == 0).await;
    faults.flushes_fail(&env.disks[0], false);
    assert!(matches!(disk.flush().await, Err(DiskError::Ended { .. })));
}

/// 19.
pub(crate) async fn want_of_space_does_not_end_the_disk(io: Io, env: Env) {
    let Some(faults) = env.faults.clone() else { return };
    let name = &env.disks[1];
    let disk = io.open_disk(name, DiskOpen::default()).unwrap();
    faults.full(name, true);
    let (result, buffer) = disk.write(filled(&io, 65536, 1), 1 << 20, 65536).await;
    assert!(matches!(result, Err(DiskError::Full { .. })), "{result:?}");
    let (result, buffer) = disk.write_durable(buffer, 1 << 20, 65536).await;
    assert!(matches!(result, Err(DiskError::Full { .. })), "{result:?}");
    assert!(!disk.ended());
    faults.full(name, false);
    disk.write_durable(buffer, 1 << 20, 65536).await.0.unwrap();
    assert!(holds(&io, &disk, 1 << 20, 65536, 1).await);
    disk.flush().await.unwrap();
}
