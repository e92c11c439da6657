//! A wall clock that jumps ahead by much and is set back: request ids leave all the same, records expire, and log time
//! comes back to the clock.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use layout::key::Key;
use layout::units::Space;
use net::operation::Operation;
use net::outcome::{Limit, Outcome};
use net::reply::Reply;
use net::request::{Put, Request};
use std::time::Duration;
use support::{Client, Scene};

const DAY_US: i64 = 86_400_000_000;

/// Puts a record with this expiry; the log time that the answer tells, or why it was refused.
async fn put(client: &mut Client, time: u64, expiry: u64) -> Result<u64, Outcome> {
    let key = Key { space: Space(0), stream: b"s", time };
    let request = Request::Put(Put { id: client.id(), key, expiry, value: b"v" });
    let body = client.ask(&request).await.unwrap();
    let reply = Reply::decode(Operation::Put, &body).unwrap();
    match reply.answer {
        net::reply::Answer::Not(outcome) => Err(outcome),
        _ => Ok(reply.log_time.0),
    }
}

/// Puts until the table of request ids is full.
async fn fill(client: &mut Client) {
    for time in 0..10_000 {
        match put(client, time, 0).await {
            Ok(_) => {}
            Err(Outcome::Busy { limit: Limit::RequestIds, .. }) => return,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the table of request ids has no bound");
}

fn scene(seed: u64) -> Scene {
    let mut scene = Scene::new(seed, 1);
    scene.config.limits.request_count_max = 64;
    scene.config.limits.request_horizon = Duration::from_secs(600);
    scene.config.limits.request_horizon_min = Duration::from_secs(10);
    scene
}

#[test]
fn writes_go_on_after_the_clock_was_a_day_ahead() {
    for restart in [false, true] {
        let scene = scene(1);
        let mut node = scene.start();
        assert_eq!(scene.failure(), None);
        scene.store.jump_wall(DAY_US);
        let ahead = scene.client(|mut client| async move { put(&mut client, 1, 0).await.unwrap() });
        scene.store.jump_wall(-DAY_US);
        if restart {
            scene.store.kill();
            node = scene.start();
            assert_eq!(scene.failure(), None);
        }
        scene.client(move |mut client| async move {
            fill(&mut client).await;
            // Ids may leave after 10 s of log time, which now takes 20 s.
            client.io.sleep(Duration::from_secs(21)).await;
            let log_time = put(&mut client, 1, 0).await.unwrap();
            assert!((ahead + 10_000_000..ahead + 12_000_000).contains(&log_time), "{}", log_time - ahead);
        });
        drop(node);
    }
}

#[test]
fn log_time_comes_back_to_the_clock() {
    let scene = scene(2);
    let _node = scene.start();
    scene.store.jump_wall(60_000_000);
    scene.client(|mut client| async move { put(&mut client, 1, 0).await.unwrap() });
    scene.store.jump_wall(-60_000_000);
    let mut before = 0;
    for seconds in [0u64, 30, 30, 70] {
        let (log_time, wall_us) = scene.client(move |mut client| async move {
            client.io.sleep(Duration::from_secs(seconds)).await;
            (put(&mut client, 2, 0).await.unwrap(), client.io.wall_us())
        });
        assert!(log_time > before, "log time never stands still");
        before = log_time;
        let ahead_us = log_time.saturating_sub(wall_us);
        // 60 s at first, less by half of what has passed, and nothing after 120 s.
        assert_eq!(ahead_us == 0, seconds == 70, "{ahead_us} µs ahead");
    }
}

#[test]
fn a_record_expires_while_log_time_is_ahead() {
    let scene = scene(3);
    let _node = scene.start();
    scene.store.jump_wall(DAY_US);
    scene.client(|mut client| async move {
        let log_time = put(&mut client, 1, 0).await.unwrap();
        put(&mut client, 2, log_time + 5_000_000).await.unwrap();
    });
    scene.store.jump_wall(-DAY_US);
    scene.client(|mut client| async move {
        assert!(client.get(b"s", 2).await.is_ok());
        client.io.sleep(Duration::from_secs(11)).await;
        // Asks for a tick, whether it still shows the record or not.
        let _ = client.get(b"s", 2).await;
        client.io.sleep(Duration::from_secs(1)).await;
        assert_eq!(client.get(b"s", 2).await, Err(Outcome::NotFound));
    });
}
