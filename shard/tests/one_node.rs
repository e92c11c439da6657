//! One node in the simulated world: what is acknowledged is there, after any end of the process or of the power.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use net::outcome::Outcome;
use net::request::FRAME_BYTES_MIN;
use support::{Client, Scene};

#[test]
fn what_was_put_is_got_over_all_cores() {
    for core_count in [1, 2, 3] {
        let scene = Scene::new(u64::from(core_count), core_count);
        let _node = scene.start();
        assert_eq!(scene.failure(), None);
        scene.client(|mut client| async move {
            for n in 0..200u64 {
                let stream = format!("stream-{}", n % 37);
                client.put(stream.as_bytes(), 1000 + n, format!("value {n}").as_bytes()).await.unwrap();
            }
            for n in 0..200u64 {
                let stream = format!("stream-{}", n % 37);
                let (_, value) = client.get(stream.as_bytes(), 1000 + n).await.unwrap();
                assert_eq!(value, format!("value {n}").as_bytes());
            }
            assert_eq!(client.get(b"nobody", 1).await, Err(Outcome::NotFound));
        });
    }
}

#[test]
fn acknowledged_writes_survive_power_cuts() {
    for seed in 0..20 {
        let scene = Scene::new(seed, 2);
        let mut n = 0u64;
        for round in 0..4 {
            let _node = scene.start();
            assert_eq!(scene.failure(), None, "seed {seed} round {round}");
            let before = n;
            scene.client(move |mut client| async move {
                for n in 0..before {
                    let (_, value) = client.get(format!("s{}", n % 11).as_bytes(), n).await.unwrap();
                    assert_eq!(value, n.to_le_bytes(), "seed {seed}");
                }
                for n in before..before + 50 {
                    client.put(format!("s{}", n % 11).as_bytes(), n, &n.to_le_bytes()).await.unwrap();
                }
            });
            n += 50;
            if seed % 2 == 0 { scene.store.power_cut() } else { scene.store.kill() }
        }
    }
}

#[test]
fn a_long_stream_comes_in_pages() {
    let mut scene = Scene::new(77, 2);
    scene.config.limits.memtable_record_count_max = 20_000;
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    scene.client(|mut client| async move {
        // More than a page may have.
        for first in (0..5000u64).step_by(500) {
            client.put_batch(b"long", first..first + 500).await.unwrap();
        }
        let mut found = 0;
        let mut from = Some(0);
        while let Some(start) = from {
            let (times, resume) = client.scan_page(b"long", start).await;
            assert_eq!(times, (found..found + times.len() as u64).collect::<Vec<_>>());
            found += times.len() as u64;
            from = resume;
        }
        assert_eq!(found, 5000);
    });
}

#[test]
fn pages_fit_the_frame_agreed_on_whichever_core_owns_the_stream() {
    let scene = Scene::new(78, 3);
    let _node = scene.start();
    assert_eq!(scene.failure(), None);
    let address = scene.config.listen;
    scene.client(move |client| async move {
        let mut small = Client::connect_with(client.io.clone(), address, FRAME_BYTES_MIN).await;
        for stream in 0..12u8 {
            for time in 0..9 {
                small.put(&[stream], time, &[stream; 1000]).await.unwrap();
            }
            let (mut found, mut from) = (0, Some(0));
            while let Some(start) = from {
                let (times, resume) = small.scan_page(&[stream], start).await;
                assert!(!times.is_empty(), "stream {stream} from {start}");
                found += times.len();
                from = resume;
            }
            assert_eq!(found, 9);
        }
    });
}
