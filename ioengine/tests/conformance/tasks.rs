//! Core, tasks, time, randomness: 1–7.

use crate::env::{Done, Env, OPERATION_COUNT_MAX, eventually, fill, holds, poll_once};
use ioengine::sync::yield_now;
use ioengine::{Io, Queue};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// 2: tasks that never stop asking do not keep a queue of a lower share from running.
pub(crate) async fn every_queue_makes_progress(io: Io, _env: Env) {
    let enough = Rc::new(Cell::new(false));
    for queue in [Queue::Foreground, Queue::Replication, Queue::Maintenance] {
        let enough = Rc::clone(&enough);
        io.spawn(queue, async move {
            while !enough.get() {
                yield_now().await;
            }
        });
    }
    let done = Done::default();
    let steps = done.clone();
    io.spawn(Queue::Scrub, async move {
        for _ in 0..50 {
            yield_now().await;
            steps.add();
        }
    });
    while done.count() < 50 {
        yield_now().await;
    }
    enough.set(true);
}

/// 3: a wake or a spawn inside a poll never polls there and then.
pub(crate) async fn polls_do_not_nest(io: Io, _env: Env) {
    let inside = Rc::new(Cell::new(false));
    let done = Done::default();
    for _ in 0..3 {
        let (inside, done, io) = (Rc::clone(&inside), done.clone(), io.clone());
        io.clone().spawn(Queue::Foreground, async move {
            for _ in 0..10 {
                std::future::poll_fn(|context| {
                    assert!(!inside.replace(true), "polled within a poll");
                    context.waker().wake_by_ref();
                    let (inside, done) = (Rc::clone(&inside), done.clone());
                    io.spawn(Queue::Foreground, async move {
                        assert!(!inside.get(), "polled within a poll");
                        done.add();
                    });
                    std::task::Poll::Ready(())
                })
                .await;
                inside.set(false);
                yield_now().await;
            }
        });
    }
    while done.count() < 30 {
        yield_now().await;
    }
}

/// 3: futures that are polled again and again without a reason still resolve, once.
pub(crate) async fn spurious_polls_are_harmless(io: Io, env: Env) {
    let disk = env.disk(&io);
    let mut read = pin!(disk.read(io.buffer(4096).unwrap(), 0, 4096));
    let mut sleep = pin!(io.sleep(Duration::from_millis(3)));
    let (mut has_read, mut has_slept) = (false, false);
    while !(has_read && has_slept) {
        for _ in 0..3 {
            if !has_read && let Some((result, _)) = poll_once(read.as_mut()).await {
                result.unwrap();
                has_read = true;
            }
            if !has_slept {
                has_slept = poll_once(sleep.as_mut()).await.is_some();
            }
        }
        yield_now().await;
    }
}

/// 7.
pub(crate) async fn random_numbers_differ(io: Io, env: Env) {
    let own = io.random();
    assert_ne!(own, io.random());
    let other = Arc::new(std::sync::Mutex::new(None));
    let theirs = Arc::clone(&other);
    env.launch(1, move |io| async move { *theirs.lock().unwrap() = Some(io.random()) });
    eventually(&io, "the other core's number", || other.lock().unwrap().is_some()).await;
    assert_ne!(other.lock().unwrap().unwrap(), own, "each core has its own seed");
}

/// 5.
pub(crate) async fn clocks_do_not_go_back(io: Io, _env: Env) {
    let mut last = io.now();
    for _ in 0..100 {
        yield_now().await;
        let now = io.now();
        assert!(now >= last);
        last = now;
    }
    let wall = io.wall_us();
    io.sleep(Duration::from_millis(2)).await;
    assert!(io.now() > last, "time passes");
    assert!(wall > 0);
}

/// 6.
pub(crate) async fn timers_never_fire_early(io: Io, _env: Env) {
    let done = Done::default();
    for number in 0..20_u64 {
        let (io, done) = (io.clone(), done.clone());
        let deadline = io.now().after(Duration::from_micros(number * 7919 % 5000));
        io.clone().spawn(Queue::Foreground, async move {
            io.sleep_until(deadline).await;
            assert!(io.now() >= deadline, "early");
            done.add();
        });
    }
    io.sleep(Duration::ZERO).await;
    io.sleep_until(ioengine::Instant { ns: 0 }).await;
    eventually(&io, "all timers", || done.count() == 20).await;
}

/// 6.
pub(crate) async fn a_timeout_gives_up_and_only_then(io: Io, _env: Env) {
    let start = io.now();
    let wait = Duration::from_millis(3);
    assert!(io.timeout(wait, std::future::pending::<()>()).await.is_err());
    assert!(io.now().since(start) >= wait);
    let hour = Duration::from_secs(3600);
    assert_eq!(io.timeout(hour, async { 7 }).await, Ok(7));
    // Nothing of the hour stays behind: this returns now, not then.
    io.timeout(hour, io.sleep(Duration::from_millis(1))).await.unwrap();
}

/// Waiting costs no turns: no ticker, no polling.
pub(crate) async fn an_idle_core_makes_no_turns(io: Io, env: Env) {
    let listener = io.listen(env.listen).unwrap();
    let _waits_for_ever = pin!(listener.accept());
    let before = io.turns();
    io.sleep(Duration::from_millis(300)).await;
    let turns = io.turns() - before;
    assert!(turns < 10, "{turns} turns while there was nothing to do");
}

struct Flag(Arc<AtomicUsize>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// 4, 8: the end of main drops every task, also those that wait for ever, and waits for what is in flight.
pub(crate) async fn the_end_of_main_ends_the_core(io: Io, env: Env) {
    let dropped = Arc::new(AtomicUsize::new(0));
    let flags = Arc::clone(&dropped);
    let (name, listen) = (env.disks[0].clone(), env.listen);
    const BYTES: usize = 256 << 10;
    env.launch(1, move |io| async move {
        let disk = Rc::new(io.open_disk(&name, Default::default()).unwrap());
        // More than there are slots: some still wait for one.
        for number in 0..OPERATION_COUNT_MAX + 8 {
            let (io, flag, disk) = (io.clone(), Flag(Arc::clone(&flags)), Rc::clone(&disk));
            io.clone().spawn(Queue::Foreground, async move {
                let _flag = flag;
                if number == 0 {
                    io.listen(listen).unwrap().accept().await.unwrap();
                }
                let buffer = io.buffer(4096).unwrap();
                disk.read(buffer, 4096 * number as u64, 4096).await.0.unwrap();
                std::future::pending::<()>().await;
            });
        }
        let mut buffer = io.buffer(BYTES).unwrap();
        fill(&mut buffer[..BYTES], 4);
        {
            // Dropped after its first poll: nobody waits for it but the end of the core.
            let mut write = pin!(disk.write(buffer, 1 << 20, BYTES));
            poll_once(write.as_mut()).await;
        }
        yield_now().await;
    });
    eventually(&io, "all tasks dropped", || dropped.load(Ordering::SeqCst) == OPERATION_COUNT_MAX + 8).await;
    let mut disk = None;
    eventually(&io, "the disk let go", || {
        disk = io.open_disk(&env.disks[0], Default::default()).ok();
        disk.is_some()
    })
    .await;
    assert!(holds(&io, &disk.unwrap(), 1 << 20, BYTES, 4).await, "the end of the core waited for the write");
}
