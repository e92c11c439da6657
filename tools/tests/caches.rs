//! A store and a cache before it as processes: the cache follows the store's map, and what it keeps in shared memory is shown.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]
#![expect(
    clippy::disallowed_methods,
    reason = "ports are named before any node listens on them, and files looked at"
)]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use support::{Folder, Server, run};

/// Two ports that were free a moment ago, below those that the system gives to whoever connects.
fn ports() -> [u16; 2] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = || loop {
        let number = std::process::id().wrapping_mul(89).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(number % 10_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    };
    [next(), next()]
}

/// A store of one node, and one cache that its settings name.
struct Pair {
    folder: Folder,
    ports: [u16; 2],
}

impl Pair {
    fn new() -> Pair {
        let (folder, ports) = (Folder::new(), ports());
        let sizes = ["--create", "64 MiB", "--shards", "1", "--segment", "1 MiB", "--node", "1", "--yes"];
        run(&folder, &[&["disk", "format", "disk"], &sizes[..]].concat()).done();
        Pair { folder, ports }
    }

    fn start(&self, port: u16, settings: &[&str]) -> Server {
        let [store, cache] = self.ports;
        let mut command = support::thermocline(&self.folder);
        command.env(
            "THERMOCLINE_CLUSTER_NODES",
            format!("[{{ id = 1, address = \"127.0.0.1:{store}\", zone = 1 }}]"),
        );
        command.env(
            "THERMOCLINE_CLUSTER_CACHES",
            format!("[{{ id = 101, address = \"127.0.0.1:{cache}\", zone = 1 }}]"),
        );
        command.env("THERMOCLINE_CLUSTER_REPLICAS", "1").arg("serve");
        command.args(["--set", &format!("network.listen=127.0.0.1:{port}")]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        Server::start_command(&self.folder, &mut command)
    }

    fn store(&self) -> Server {
        self.start(self.ports[0], &[&["disk.path=disk"], &support::SMALL[..]].concat())
    }

    fn cache(&self) -> Server {
        self.start(self.ports[1], &["node.role=cache", "tier.cache_bytes=1MiB"])
    }
}

/// No get is asked of it: it hears of the word by itself.
#[test]
fn a_cache_that_nobody_asks_follows_the_map_of_its_store() {
    let pair = Pair::new();
    let (store, cache) = (pair.store(), pair.cache());
    let shown = |server: &Server| server.run(&pair.folder, &["map", "show", "--json"]).json();
    assert_eq!(shown(&cache)["revision"], 0);
    for (revision, share) in [(1, "50%"), (2, "25%")] {
        let said = ["map", "set", "recent=all", &format!("share={share}")];
        store.run(&pair.folder, &said).done();
        // However long that takes: whoever waits for it gives up.
        while shown(&cache)["revision"] != revision {}
        assert_eq!(shown(&cache), shown(&store));
    }
    assert_eq!(cache.stop().1, 0);
    assert_eq!(store.stop().1, 0);
}

fn chains(text: &str) -> Vec<Value> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["chain"].is_number()).collect()
}

fn sum(chains: &[Value], name: &str) -> u64 {
    chains.iter().map(|chain| chain[name].as_u64().unwrap()).sum()
}

#[test]
fn value_rings_are_shown_whole_and_damaged_and_left_as_they_are() {
    const RECORDS: u64 = 30;
    let pair = Pair::new();
    let folder = &pair.folder;
    assert_eq!(run(folder, &["inspect", "values"]).exit, 1, "there are none");
    let (store, cache) = (pair.store(), pair.cache());
    store.run(folder, &["map", "set", "recent=all", "share=100%"]).done();
    // Who asks the cache where gets go is told by the cache.
    while cache.run(folder, &["map", "show", "--json"]).json()["revision"] != 1 {}
    for time in 0..RECORDS {
        store.run(folder, &["put", "alice", &time.to_string(), "a value"]).done();
    }
    // The last one is not there, the first is read again, the second has changed.
    for time in (0..=RECORDS).chain([0]) {
        cache.run(folder, &["get", "alice", &time.to_string()]);
    }
    store.run(folder, &["put", "alice", "1", "another value"]).done();
    assert_eq!(cache.run(folder, &["get", "alice", "1"]).done(), "another value\n");
    let running = run(folder, &["inspect", "values"]).done();
    assert!(running.contains("TCLVRING") && !running.contains("WRONG"), "{running}");
    cache.kill();
    let names: Vec<String> = folder.names().into_iter().filter(|name| name.contains("-values-")).collect();
    let [name] = names.as_slice() else { panic!("{names:?}") };
    let before = std::fs::read(folder.path(name)).unwrap();
    let shown = run(folder, &["inspect", "values", name, "--json", "--entries", "100"]).done();
    let all = chains(&shown);
    let counts = ["named_count", "absent_count", "superseded_count", "damaged_count", "stale_slot_count"];
    assert_eq!(counts.map(|count| sum(&all, count)), [RECORDS + 1, 1, 1, 0, 0], "{shown}");
    assert!(sum(&all, "touched_count") > 0 && shown.contains("another value"), "{shown}");
    let one = chains(&run(folder, &["inspect", "values", name, "--json", "--chain", "3"]).done());
    assert_eq!(one, all[3..4]);
    assert!(run(folder, &["inspect", "values", name, "--chain", "999"]).error(2).contains("no chain 999"));

    // A byte of each value is another one: found, named and counted, and the rest is shown.
    let mut damaged = before.clone();
    let value = b"a value";
    let mut at = 0;
    while let Some(found) = damaged[at..].windows(value.len()).position(|window| window == value) {
        damaged[at + found] ^= 0x20;
        at += found + 1;
    }
    folder.write(name, &damaged);
    let shown = run(folder, &["inspect", "values", name, "--json"]).done();
    assert_eq!(counts.map(|count| sum(&chains(&shown), count)), [2, 1, 0, RECORDS, RECORDS - 1], "{shown}");
    let text = run(folder, &["inspect", "values", name]).done();
    assert_eq!(text.matches("<- WRONG: field checksum").count() as u64, RECORDS, "{text}");
    assert_eq!(std::fs::read(folder.path(name)).unwrap(), damaged, "looking changes nothing");

    // Cut off, and with another salt: a cache would start empty, and it is said so.
    folder.write(name, &before[..before.len() - 4096]);
    let cut = run(folder, &["inspect", "values", name]);
    assert!(cut.exit == 1 && cut.out.contains("the file ends before it"), "{cut:?}");
    let mut other = before.clone();
    other[56] ^= 1;
    folder.write(name, &other);
    let other = run(folder, &["inspect", "values"]);
    assert!(
        other.exit == 1 && other.out.contains("cannot be believed") && other.out.contains("WRONG"),
        "{other:?}"
    );
    assert!(run(folder, &["inspect", "values", "nothing"]).error(3).contains("cannot read nothing"));
    assert_eq!(store.stop().1, 0);
}
