//! Measures the two hosts of a core against each other: hops between tasks, echo over loopback, durable writes, reads,
//! idle. Alternating rounds; medians, with the least and the most; processor time is that of the core's own thread. The
//! figures and the choice are in `ci/decisions`; run it again when either host changes:
//!
//!     cargo run --release -p ioengine --features glommio --example hosts -- [directory for a scratch file of 256 MiB]

use ioengine::disk::DiskOpen;
use ioengine::uring::{Runtime, create_file};
use ioengine::{Buf, CoreConfig, Disk, HostKind, Io, Launcher, Queue, Stream};
use nix::sys::resource::{UsageWho, getrusage};
use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

const ROUND_COUNT: usize = 5;
const HOSTS: [HostKind; 2] = [HostKind::Own, HostKind::Glommio];
/// How long each measurement of each round takes.
const MEASURED: Duration = Duration::from_secs(2);
const REQUEST_BYTES: usize = 64;
const CONNECTION_COUNT: usize = 8;
const FILE_BYTES: u64 = 256 << 20;

/// Takes one measurement under a host.
type Measure<'a> = &'a dyn Fn(HostKind) -> Vec<f64>;

/// Processor time of this thread in microseconds: user and system.
fn processor_us() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("the kernel counts every thread");
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64;
    us(usage.user_time()) + us(usage.system_time())
}

fn config(name: &str, host: HostKind) -> CoreConfig {
    CoreConfig { host, ..CoreConfig::small(name, 0) }
}

/// Run `main` on a core under `host`; what it answers.
fn on<M: Future<Output = Vec<f64>> + 'static>(
    host: HostKind,
    main: impl FnOnce(Io) -> M + Send + 'static,
) -> Vec<f64> {
    let (answer, answered) = mpsc::channel();
    let core = Launcher::Threads.launch(config("measured", host), move |io| async move {
        answer.send(main(io).await).expect("waited for below");
    });
    core.expect("the core starts").join();
    answered.recv().expect("the core has answered")
}

async fn echo(stream: Stream, mut buffer: Buf) {
    let mut have = 0;
    loop {
        let room = buffer.len();
        let (received, back) = stream.receive(buffer, have..room).await;
        buffer = back;
        let Ok(count @ 1..) = received else { return };
        have += count;
        let whole = have - have % REQUEST_BYTES;
        if whole > 0 {
            let (sent, back) = stream.send(buffer, 0..whole).await;
            buffer = back;
            if sent.is_err() {
                return;
            }
            buffer.copy_within(whole..have, 0);
            have -= whole;
        }
    }
}

/// Requests per second, and the server's processor time per request in µs.
fn measure_echo(host: HostKind, depth: usize) -> Vec<f64> {
    let (address, bound) = mpsc::channel();
    let (figures, measured) = mpsc::channel();
    let server = Launcher::Threads.launch(config("server", host), move |io| async move {
        let listener = io.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("loopback is there");
        address.send(listener.address()).expect("waited for below");
        let live = Rc::new(Cell::new(CONNECTION_COUNT));
        let ended = Rc::new(ioengine::sync::Notify::new());
        let before = processor_us();
        for _ in 0..CONNECTION_COUNT {
            let stream = listener.accept().await.expect("a client comes");
            let buffer = io.buffer(16384).expect("the arena has room");
            let (live, ended) = (Rc::clone(&live), Rc::clone(&ended));
            io.spawn(Queue::Foreground, async move {
                echo(stream, buffer).await;
                live.set(live.get() - 1);
                ended.notify();
            });
        }
        while live.get() > 0 {
            ended.notified().await;
        }
        figures.send(processor_us() - before).expect("waited for below");
    });
    let server = server.expect("the server starts");
    let address = bound.recv().expect("the server listens");
    let client = Runtime::new(CoreConfig::small("client", 1)).expect("the client starts");
    let io = client.io();
    let requests = client.block_on(async {
        let count = Rc::new(Cell::new(0_u64));
        let live = Rc::new(Cell::new(CONNECTION_COUNT));
        let ended = Rc::new(ioengine::sync::Notify::new());
        let until = io.now().after(MEASURED);
        for _ in 0..CONNECTION_COUNT {
            let stream = io.connect(address).await.expect("the server listens");
            let (io, count, live, ended) =
                (io.clone(), Rc::clone(&count), Rc::clone(&live), Rc::clone(&ended));
            io.clone().spawn(Queue::Foreground, async move {
                let bytes = depth * REQUEST_BYTES;
                let (mut out, mut back) = (io.buffer(bytes).expect("room"), io.buffer(bytes).expect("room"));
                while io.now() < until {
                    let (sent, buffer) = stream.send(out, 0..bytes).await;
                    sent.expect("the server is there");
                    out = buffer;
                    let mut have = 0;
                    while have < bytes {
                        let (received, buffer) = stream.receive(back, have..bytes).await;
                        have += received.expect("the server is there");
                        back = buffer;
                    }
                    count.set(count.get() + depth as u64);
                }
                live.set(live.get() - 1);
                ended.notify();
            });
        }
        while live.get() > 0 {
            ended.notified().await;
        }
        count.get() as f64
    });
    server.join();
    let processor = measured.recv().expect("the server has measured");
    vec![requests / MEASURED.as_secs_f64(), processor / requests]
}

fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *random >> 33
}

fn open(io: &Io, path: &str) -> Disk {
    io.open_disk(path, DiskOpen::default()).expect("the scratch file is there")
}

/// Value below which `part` of the values lie. Sorts them.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() as f64 * part) as usize]
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// One task wakes another, which wakes the first: ns per hop.
fn measure_hops(host: HostKind) -> Vec<f64> {
    on(host, move |io| async move {
        let (there, back) = (Rc::new(ioengine::sync::Notify::new()), Rc::new(ioengine::sync::Notify::new()));
        let (heard, answer) = (Rc::clone(&there), Rc::clone(&back));
        io.spawn(Queue::Foreground, async move {
            loop {
                heard.notified().await;
                answer.notify();
            }
        });
        ioengine::sync::yield_now().await;
        let (start, mut hops) = (io.now(), 0.0);
        while io.now().since(start) < MEASURED {
            for _ in 0..1000 {
                let answered = back.notified();
                there.notify();
                answered.await;
                hops += 2.0;
            }
        }
        vec![io.now().since(start).as_secs_f64() * 1e9 / hops]
    })
}

/// Median and tail (p99, p99.9) of a durable write of 4 KiB, one at a time, in µs, and processor time per write.
fn measure_writes(host: HostKind, path: String) -> Vec<f64> {
    on(host, move |io| async move {
        let disk = open(&io, &path);
        let mut buffer = io.buffer(4096).expect("the arena has room");
        let mut took = Vec::new();
        let (until, before) = (io.now().after(MEASURED), processor_us());
        let mut offset = 0;
        while io.now() < until {
            let start = io.now();
            let (written, back) = disk.write_durable(buffer, offset, 4096).await;
            written.expect("the disk works");
            took.push(io.now().since(start).as_secs_f64() * 1e6);
            (buffer, offset) = (back, (offset + 4096) % FILE_BYTES);
        }
        let each = (processor_us() - before) / took.len() as f64;
        vec![median(&mut took), quantile(&mut took, 0.99), quantile(&mut took, 0.999), each]
    })
}

/// Random reads of 4 KiB per second, 32 at a time, and processor time per read in µs.
fn measure_reads(host: HostKind, path: String) -> Vec<f64> {
    on(host, move |io| async move {
        let disk = Rc::new(open(&io, &path));
        let (count, live) = (Rc::new(Cell::new(0_u64)), Rc::new(RefCell::new(0)));
        let ended = Rc::new(ioengine::sync::Notify::new());
        let (until, before) = (io.now().after(MEASURED), processor_us());
        for _ in 0..32 {
            *live.borrow_mut() += 1;
            let (disk, count, live) = (Rc::clone(&disk), Rc::clone(&count), Rc::clone(&live));
            let (io, ended, mut random) = (io.clone(), Rc::clone(&ended), io.random());
            io.clone().spawn(Queue::Foreground, async move {
                let mut buffer = io.buffer(4096).expect("the arena has room");
                while io.now() < until {
                    let offset = next(&mut random) % (FILE_BYTES / 4096) * 4096;
                    let (read, back) = disk.read(buffer, offset, 4096).await;
                    read.expect("the disk works");
                    buffer = back;
                    count.set(count.get() + 1);
                }
                *live.borrow_mut() -= 1;
                ended.notify();
            });
        }
        while *live.borrow() > 0 {
            ended.notified().await;
        }
        let reads = count.get() as f64;
        vec![reads / MEASURED.as_secs_f64(), (processor_us() - before) / reads]
    })
}

/// Processor time of a core with a listener and a connection on which nothing comes, in µs per second.
fn measure_idle(host: HostKind) -> Vec<f64> {
    on(host, move |io| async move {
        let listener = io.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("loopback is there");
        let _near = io.connect(listener.address()).await.expect("it listens");
        let far = listener.accept().await.expect("it was connected to");
        let buffer = io.buffer(16384).expect("the arena has room");
        io.spawn(Queue::Foreground, echo(far, buffer));
        // The second after the last event is still a busy one for a host with a ticker.
        io.sleep(Duration::from_secs(2)).await;
        let before = processor_us();
        io.sleep(MEASURED).await;
        vec![(processor_us() - before) / MEASURED.as_secs_f64()]
    })
}

#[expect(clippy::print_stdout, reason = "prints its measurement")]
fn main() {
    let directory = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let path = Path::new(&directory).join("hosts-scratch");
    create_file(&path, FILE_BYTES).expect("room for the scratch file");
    let name = path.to_str().expect("a plain path").to_owned();
    on(HostKind::Own, {
        let name = name.clone();
        move |io| async move {
            // Written once, so that no measurement pays for the file system's first touch.
            let disk = open(&io, &name);
            for offset in (0..FILE_BYTES).step_by(1 << 20) {
                let buffer = io.buffer(1 << 20).expect("the arena has room");
                disk.write(buffer, offset, 1 << 20).await.0.expect("the disk works");
            }
            disk.flush().await.expect("the disk works");
            Vec::new()
        }
    });
    let (writes, reads) =
        (|host| measure_writes(host, name.clone()), |host| measure_reads(host, name.clone()));
    let measurements: [(&str, &[&str], Measure<'_>); 7] = [
        ("hop between two tasks", &["ns"], &measure_hops),
        ("echo, 8 connections, depth 1", &["requests/s", "µs processor each"], &|host| {
            measure_echo(host, 1)
        }),
        ("echo, 8 connections, depth 16", &["requests/s", "µs processor each"], &|host| {
            measure_echo(host, 16)
        }),
        ("echo, 8 connections, depth 128", &["requests/s", "µs processor each"], &|host| {
            measure_echo(host, 128)
        }),
        (
            "write_durable 4 KiB, one at a time",
            &["µs p50", "µs p99", "µs p999", "µs processor each"],
            &writes,
        ),
        ("read 4 KiB, 32 at a time", &["reads/s", "µs processor each"], &reads),
        ("idle", &["µs processor per s"], &measure_idle),
    ];
    for (what, units, measure) in measurements {
        let mut rounds: [Vec<Vec<f64>>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..ROUND_COUNT {
            for (host, rounds) in HOSTS.into_iter().zip(&mut rounds) {
                rounds.push(measure(host));
            }
        }
        for (host, rounds) in HOSTS.into_iter().zip(&rounds) {
            let figures: Vec<String> = units
                .iter()
                .enumerate()
                .map(|(at, unit)| {
                    let mut values: Vec<f64> = rounds.iter().map(|round| round[at]).collect();
                    let middle = median(&mut values);
                    format!("{middle:.2} {unit} ({:.2}–{:.2})", values[0], values[values.len() - 1])
                })
                .collect();
            println!("{what} | {host:?} | {}", figures.join(" | "));
        }
    }
    std::fs::remove_file(&path).expect("made above");
}
