//! Three nodes as an operator makes them: disks of one cluster, one section for all, three processes. And a group in one process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use support::{Folder, Server, run};

const SIZE: [&str; 2] = ["--disk-size", "256 MiB"];

/// Formats the disk of a node; its cluster.
fn format(folder: &Folder, node: &str, cluster: Option<&str>) -> String {
    format_as(folder, node, cluster, "--found")
}

fn format_as(folder: &Folder, node: &str, cluster: Option<&str>, how: &str) -> String {
    let disk = format!("disk-{node}.img");
    let mut arguments =
        vec!["disk", "format", &disk, "--create", "64 MiB", "--shards", "1", "--segment", "1 MiB"];
    arguments.extend(["--node", node, "--yes", "--json"]);
    arguments.extend(cluster.into_iter().flat_map(|cluster| ["--cluster", cluster, how]));
    run(folder, &arguments).json()["cluster"].as_str().unwrap().to_owned()
}

/// Ports that were free a moment ago.
#[expect(clippy::disallowed_methods, reason = "the config names ports before any node listens on them")]
fn ports() -> Vec<u16> {
    // Below those that the system gives to whoever connects: a node that starts again finds its own free. (Failing history: meanwhile a
    // client of another test had it.)
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports = std::iter::repeat_with(|| {
        let number = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        20_000 + u16::try_from(number % 10_000).unwrap()
    });
    ports.filter(is_free).take(3).collect()
}

/// The group as the settings name it.
fn nodes(ports: &[u16]) -> String {
    let node =
        |(id, port): (usize, &u16)| format!("{{ id = {id}, address = \"127.0.0.1:{port}\", zone = {id} }}");
    let nodes: Vec<String> = (1..).zip(ports).map(node).collect();
    format!("[{}]", nodes.join(", "))
}

/// What starts a node.
fn serve(folder: &Folder, ports: &[u16], id: usize, nodes: &str) -> Command {
    let mut command = support::thermocline(folder);
    command.env("THERMOCLINE_CLUSTER_NODES", nodes).arg("serve");
    for setting in support::SMALL {
        command.args(["--set", setting]);
    }
    command.args(["--set", &format!("disk.path=disk-{id}.img")]);
    command.args(["--set", &format!("network.listen=127.0.0.1:{}", ports[id - 1])]);
    command
}

/// Sum over the cores of a number of a node's status.
fn number(server: &Server, folder: &Folder, name: &str) -> u64 {
    let status = server.run(folder, &["status", "--json"]).json();
    let cores = status["cores"].as_array().unwrap();
    cores.iter().map(|core| core[name].as_u64().unwrap()).sum()
}

#[test]
fn a_disk_that_died_is_replaced() {
    let folder = Folder::new();
    let cluster = format(&folder, "1", None);
    let refused =
        run(&folder, &["disk", "format", "x.img", "--create", "64 MiB", "--cluster", &cluster, "--yes"]);
    let error = refused.error(2);
    assert!(error.contains("--found") && error.contains("--recover"), "{error}");
    format(&folder, "2", Some(&cluster));
    format(&folder, "3", Some(&cluster));
    let ports = ports();
    let nodes = nodes(&ports);
    let start = |id| Server::start_command(&folder, &mut serve(&folder, &ports, id, &nodes));
    let (first, second, third) = (start(1), start(2), start(3));
    let key = |record: u32| (format!("stream-{record}"), record.to_string());
    for record in 0..20 {
        let (stream, time) = key(record);
        first.run(&folder, &["put", &stream, &time, "before"]).done();
    }
    second.kill();
    std::fs::remove_file(folder.path("disk-2.img")).unwrap();
    format_as(&folder, "2", Some(&cluster), "--recover");
    let second = start(2);
    let held = number(&second, &folder, "tablets_held");
    assert_eq!(held, 64);
    // However long that takes: whoever waits for it gives up.
    while number(&second, &folder, "tablets_voting") < held {}
    assert_eq!(number(&second, &folder, "tablets_damaged"), 0);
    first.kill();
    for record in 0..20 {
        let (stream, time) = key(record);
        assert_eq!(second.run(&folder, &["get", &stream, &time]).done(), "before\n");
        assert_eq!(second.run(&folder, &["get", &stream, &time, "--local"]).done(), "before\n");
    }
    assert!(third.run(&folder, &["put", "stream-1", "1", "after"]).done().starts_with("version "));
    assert_eq!(second.run(&folder, &["get", "stream-1", "1"]).done(), "after\n");
    // A founder's disk in its place is refused, and says so.
    second.kill();
    std::fs::remove_file(folder.path("disk-2.img")).unwrap();
    format(&folder, "2", Some(&cluster));
    let second = start(2);
    while !folder.text("server.log").contains("takes part in nothing any more") {
        second.run(&folder, &["status"]).done();
    }
    second.kill();
    third.kill();
}

#[test]
fn three_processes_are_one_store() {
    let folder = Folder::new();
    let cluster = format(&folder, "1", None);
    assert_eq!(format(&folder, "2", Some(&cluster)), cluster);
    format(&folder, "3", Some(&cluster));
    let ports = ports();
    let nodes = nodes(&ports);
    let serve = |id: usize, nodes: &str| serve(&folder, &ports, id, nodes);
    let refused = serve(1, &nodes.replace("id = 1", "id = 4")).output().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("the disk belongs to node 1"), "{error}");
    assert_eq!(refused.status.code(), Some(2));
    let refused = serve(1, &nodes).args(["--without", "2"]).output().unwrap();
    assert!(refused.status.code() == Some(2) && String::from_utf8_lossy(&refused.stderr).contains("--yes"));
    let refused = serve(1, &nodes).args(["--without", "2,7", "--yes"]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() != Some(0) && text.contains("node 7 cannot be given up"), "{text}");
    let start = |id| Server::start_command(&folder, &mut serve(id, &nodes));
    let (first, second, third) = (start(1), start(2), start(3));
    assert!(first.run(&folder, &["put", "alice", "5", "everywhere"]).done().starts_with("version "));
    for server in [&first, &second, &third] {
        assert_eq!(server.run(&folder, &["get", "alice", "5"]).done(), "everywhere\n");
    }
    let status = second.run(&folder, &["status"]).done();
    assert_eq!(status.matches("1 of 1 links up").count(), 2, "{status}");
    third.kill();
    assert!(first.run(&folder, &["put", "bob", "6", "two are enough"]).done().starts_with("version "));
    assert_eq!(second.run(&folder, &["get", "bob", "6"]).done(), "two are enough\n");
    let third = start(3);
    assert_eq!(
        third.run(&folder, &["get", "bob", "6"]).done(),
        "two are enough\n",
        "who comes back catches up"
    );
    for server in [first, second, third] {
        assert_eq!(server.stop(), (String::new(), 0), "one line on standard output, and a clean end");
    }
}

#[test]
fn an_import_goes_on_while_a_node_is_killed_and_comes_back() {
    const ROWS: usize = 3_000;
    let folder = Folder::new();
    let cluster = format(&folder, "1", None);
    format(&folder, "2", Some(&cluster));
    format(&folder, "3", Some(&cluster));
    let ports = ports();
    let nodes = nodes(&ports);
    let start = |id| Server::start_command(&folder, &mut serve(&folder, &ports, id, &nodes));
    let (first, second, third) = (start(1), start(2), start(3));
    let mut import = first.command(&folder);
    import.args(["import", "-", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut import = import.spawn().unwrap();
    let mut rows = import.stdin.take().unwrap();
    let mut write = |range: std::ops::Range<usize>| {
        for row in range {
            let stream = row % 97;
            let line = format!("{{\"stream\":\"s-{stream}\",\"time_us\":{row},\"value\":\"row {row}\"}}\n");
            rows.write_all(line.as_bytes()).unwrap();
        }
    };
    // What is written the import has read, but for what a pipe holds.
    write(0..ROWS / 3);
    third.kill();
    write(ROWS / 3..2 * ROWS / 3);
    let third = start(3);
    write(2 * ROWS / 3..ROWS);
    drop(rows);
    let output = import.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let counts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // A row that is sent twice finds itself there.
    let done = counts["stored"].as_u64().unwrap() + counts["duplicate"].as_u64().unwrap();
    assert_eq!((counts["read"].as_u64(), done), (Some(ROWS as u64), ROWS as u64), "{counts}");
    let export = |server: &Server| server.run(&folder, &["export"]).done();
    let all = export(&first);
    assert_eq!(all.lines().count(), ROWS);
    assert!(all == export(&second) && all == export(&third), "every node exports the same");
    // On a busy machine not all may answer a comparison in time: it says so, and is asked again.
    let said =
        (0..4).map(|_| second.run(&folder, &["verify"])).find(|said| !said.out.contains("run it again"));
    assert!(said.as_ref().is_some_and(|said| said.exit == 0), "and holds the same: {said:?}");
}

#[test]
fn a_trial_has_as_many_nodes_as_its_folder_has_disks() {
    let folder = Folder::new();
    let dev = |nodes| ["dev", "--dir", "data", "--port", "0", SIZE[0], SIZE[1], "--nodes", nodes];
    let server = Server::start(&folder, &dev("3")[..7]);
    assert_eq!(
        folder.text("server.log").matches(", too").count(),
        6,
        "three unless asked, a cache before them, three cold nodes behind them, and the others are named"
    );
    assert!(folder.text("server.log").contains(", a cache on 127.0.0.1:"));
    server.run(&folder, &["put", "alice", "5", "kept"]).done();
    assert_eq!(server.stop().1, 0);
    for other in ["1", "5"] {
        let error = run(&folder, &dev(other)).error(2);
        assert!(error.contains("another number of nodes"), "{error}");
    }
    let server = Server::start(&folder, &dev("3"));
    assert_eq!(server.run(&folder, &["get", "alice", "5"]).done(), "kept\n");
    server.kill();
    let alone = ["dev", "--dir", "alone", "--port", "0", SIZE[0], SIZE[1], "--nodes", "1"];
    for arguments in [&alone[..], &alone[..7]] {
        let server = Server::start(&folder, arguments);
        assert_eq!(folder.text("server.log").matches(", too").count(), 0, "as many as the folder has disks");
        assert_eq!(server.stop().1, 0);
    }
}

#[test]
fn a_first_start_that_ended_between_two_names_is_finished() {
    let folder = Folder::new();
    let dev = ["dev", "--dir", "data", "--port", "0", SIZE[0], SIZE[1], "--nodes", "3"];
    Server::start(&folder, &dev).kill();
    std::fs::rename(folder.path("data/disk-3.img"), folder.path("data/disk-3.img.part")).unwrap();
    let server = Server::start(&folder, &dev);
    server.run(&folder, &["put", "alice", "5", "x"]).done();
    assert_eq!(server.stop().1, 0);
    std::fs::remove_file(folder.path("data/disk-3.img")).unwrap();
    assert!(
        run(&folder, &dev).error(2).contains("another number of nodes"),
        "a disk that is lost is not made anew"
    );
}
