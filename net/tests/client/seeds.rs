//! Many worlds: slow and fast networks, connections that break, partitions that heal. What a client says happened is what
//! happened, in each of them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ioengine::sim::{Random, WorldConfig};
use layout::units::{Space, Version};
use net::Request;
use net::client::{Bulk, Client, ClientConfig, ClientError, Compared, Done, OwnedKey, Work};
use net::outcome::{Limit, Outcome};

use super::Scene;
use super::server::Spoil;

const COUNT: u64 = 150;

/// What the client was told about each write, by time of its key.
type Told = Vec<Option<Result<Done, ClientError>>>;

fn spoil(random: &mut Random, request: &Request<'_>) -> Option<Spoil> {
    if matches!(request, Request::Map(_) | Request::Ping(_)) {
        return None;
    }
    match random.below(40) {
        0 => Some(Spoil::ApplyAndClose),
        1 => Some(Spoil::Close),
        2 => Some(Spoil::Ignore),
        3 | 4 => Some(Spoil::Say(Outcome::Busy { limit: Limit::Queue, hint_ms: 3 })),
        5 => Some(Spoil::Delay(Duration::from_millis(random.below(4000)))),
        6 => Some(Spoil::Say(Outcome::NotCurrent)),
        _ => None,
    }
}

/// Runs one world and returns what the client was told, and how often each key was written.
fn run(seed: u64) -> (Told, Scene) {
    let mut random = Random::new(seed);
    let scene = Scene::in_world(seed, WorldConfig::swarm(&mut random));
    let script = std::cell::RefCell::new(random.fork("script", 0));
    scene.store.script(move |request| spoil(&mut script.borrow_mut(), request));
    let told: Rc<std::cell::RefCell<Told>> = Rc::new(std::cell::RefCell::new(vec![None; COUNT as usize]));
    let ended = Rc::new(Cell::new(false));
    let (own, end, address) = (Rc::clone(&told), Rc::clone(&ended), scene.address());
    let window = 1 + random.below(100) as usize;
    let main = move |io: ioengine::Io| async move {
        let client = loop {
            // A spoiled map or a partition: connecting is tried once, by its contract.
            match Client::connect(&io, &[address], ClientConfig::default()).await {
                Ok(client) => break client,
                Err(error) => assert!(
                    matches!(error, ClientError::Unreachable { .. } | ClientError::Lost { .. }),
                    "{error}"
                ),
            }
        };
        let bulk = Bulk::new(&client, window);
        let take = |(ticket, result): (u64, Result<Done, ClientError>)| {
            let before = own.borrow_mut()[ticket as usize].replace(result);
            assert!(before.is_none(), "ticket {ticket} came twice");
        };
        for time in 0..COUNT {
            let key = OwnedKey { space: Space(0), stream: b"s".to_vec(), time };
            let value = time.to_le_bytes().to_vec();
            let work = match time % 3 {
                0 => Work::CompareAndSet { key, expected: Version(0), expiry: 0, value },
                _ => Work::Put { key, expiry: 0, value },
            };
            bulk.submit(work).await;
            std::iter::from_fn(|| bulk.try_next()).for_each(take);
        }
        while let Some(done) = bulk.next().await {
            take(done);
        }
        end.set(true);
    };
    scene.client.launch(ioengine::CoreConfig::small("client", 0), main).expect("a simulated core starts");
    // Every so often the network is cut for a while.
    for _ in 0..40 {
        scene.world.run_for(Duration::from_millis(random.below(3000)));
        if random.below(4) == 0 {
            scene.world.isolate(&scene.server);
            scene.world.run_for(Duration::from_millis(random.below(15_000)));
            scene.world.heal_all();
        }
    }
    let in_time = scene.world.run_while(Duration::from_secs(900), || !ended.get());
    assert!(in_time, "seed {seed}: calls did not end");
    // What is still under way may arrive now.
    scene.world.run_for(Duration::from_secs(60));
    let told = told.borrow().clone();
    (told, scene)
}

#[test]
fn what_the_client_says_is_what_happened() {
    let (mut written, mut unknown, mut timeouts, mut repeated) = (0, 0, 0, 0);
    for seed in 0..60 {
        let (told, scene) = run(seed);
        let records = scene.store.records.borrow();
        for (time, result) in told.into_iter().enumerate() {
            let key = (0, b"s".to_vec(), time as u64);
            let held = records.get(&key);
            let result = result.unwrap_or_else(|| panic!("seed {seed}: write {time} has no result"));
            match result {
                Ok(Done::Written(done) | Done::Compared(Compared::Written(done))) => {
                    written += 1;
                    repeated += usize::from(done.repeated);
                    let version = held.map(|held| held.0);
                    assert_eq!(version, Some(done.version), "seed {seed}: write {time} was said to be done");
                }
                Err(ClientError::Timeout { .. }) => {
                    timeouts += 1;
                    assert!(held.is_none(), "seed {seed}: write {time} was said to have changed nothing");
                }
                Err(ClientError::UnknownOutcome { .. }) => unknown += 1,
                // Each key is written by one call: who says that it was there already is wrong.
                other => panic!("seed {seed}: write {time}: {other:?}"),
            }
        }
        let ids = scene.store.ids.borrow();
        let mut distinct = ids.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() as u64 <= COUNT, "seed {seed}: a write had two ids");
        assert_eq!(
            scene.store.applied_count.get(),
            records.len(),
            "seed {seed}: something was applied twice"
        );
    }
    // The worlds must reach what they are for.
    assert!(written > 5000 && repeated > 50 && unknown > 5, "{written} {repeated} {unknown} {timeouts}");
}
