//! What only a real machine has: processes that are killed, signals, limits, block devices, full file systems, and
//! threads that call in from outside. Cases that need root or a loop device say so and pass where there is none.

#![expect(clippy::disallowed_methods, reason = "tests the door from outside: threads and files of its own")]

use crate::env::{DISK_BYTES_MIN, Env, fill, filled, holds, is_filled, poll_once};
use crate::real::{Scratch, watched};
use ioengine::disk::DiskOpen;
use ioengine::sync::yield_now;
use ioengine::uring::{Runtime, create_file, create_thin_file};
use ioengine::{DiskError, HostKind, Io, Launcher, Queue};
use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

fn runtime(name: &str) -> Runtime {
    Runtime::new(Env::core(name, 0, HostKind::Own)).unwrap()
}

fn open(io: &Io, name: &str) -> ioengine::Disk {
    io.open_disk(name, DiskOpen::default()).unwrap()
}

/// This test program once more, running only what `role` of [`child`] says.
fn child_command(role: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "machine::child", "--ignored", "--nocapture"]);
    command.env("THERMOCLINE_CHILD", [&[role], arguments].concat().join("\n")).stdout(Stdio::piped());
    command
}

/// Lines that the child says after `>`; the test harness prints others.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    lines.filter_map(|line| line.split_once('>').map(|(_, said)| said.to_owned()))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// 3: what the future borrows needs not live for ever, tasks stay between calls, and each thread has its own core.
#[test]
fn a_thread_calls_in_from_outside() {
    let threads: Vec<_> = (0..3)
        .map(|number: u64| {
            std::thread::spawn(move || {
                let runtime = runtime("caller");
                let io = runtime.io();
                let (words, sum) = (vec![number, 2, 3], Cell::new(0));
                let out = runtime.block_on(async {
                    for word in &words {
                        io.sleep(Duration::from_micros(100)).await;
                        sum.set(sum.get() + word);
                    }
                    words.len()
                });
                assert_eq!((out, sum.get()), (3, number + 5));
                let steps = Rc::new(Cell::new(0));
                let counted = Rc::clone(&steps);
                io.spawn(Queue::Foreground, async move {
                    loop {
                        counted.set(counted.get() + 1);
                        yield_now().await;
                    }
                });
                for round in 0..5 {
                    runtime.block_on(async {
                        while steps.get() < 10 * (round + 1) {
                            yield_now().await;
                        }
                    });
                    assert_eq!(Rc::strong_count(&steps), 2, "the task is still there");
                }
                drop(runtime);
                assert_eq!(Rc::strong_count(&steps), 1, "the end of the core dropped it");
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// 4, 8: a core that ends waits for what nobody else waits for; an echo between two cores of one process works.
#[test]
fn a_runtime_ends_like_a_core() {
    let scratch = Scratch::new("ends");
    let name = scratch.disk("disk");
    {
        let runtime = runtime("first");
        let disk = open(runtime.io(), &name);
        let mut write = Box::pin(disk.write(filled(runtime.io(), 1 << 20, 5), 0, 1 << 20));
        runtime.block_on(async { assert!(poll_once(write.as_mut()).await.is_none()) });
    }
    let runtime = runtime("second");
    let io = runtime.io();
    assert!(runtime.block_on(async { holds(io, &open(io, &name), 0, 1 << 20, 5).await }));
}

/// Running a core from within itself is our bug.
#[test]
fn block_on_does_not_nest() {
    let runtime = runtime("nested");
    let inner = || runtime.block_on(async { runtime.block_on(async {}) });
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(inner)).is_err());
}

/// 10: the table of operations bounds them, the ring's queues do not: more at once than either queue holds.
#[test]
fn thousands_of_operations_at_once() {
    let scratch = Scratch::new("many");
    let name = scratch.disk("disk");
    let config = ioengine::CoreConfig { operation_count_max: 10_000, ..Env::core("many", 0, HostKind::Own) };
    let config = ioengine::CoreConfig { arena_bytes: 64 << 20, ..config };
    watched("thousands", move || {
        let runtime = Runtime::new(config).unwrap();
        let io = runtime.io();
        runtime.block_on(async {
            let disk = Rc::new(open(io, &name));
            disk.write(filled(io, 65536, 1), 0, 65536).await.0.unwrap();
            let mut reads: Vec<_> =
                (0..9000).map(|_| Box::pin(disk.read(io.buffer(4096).unwrap(), 4096 * 3, 4096))).collect();
            for read in &mut reads {
                poll_once(read.as_mut()).await;
            }
            assert_eq!(io.operations_in_flight(), 9000, "all asked for before the first answer");
            let mut expected = vec![0; 65536];
            fill(&mut expected, 1);
            for read in reads {
                let (result, buffer) = read.await;
                result.unwrap();
                assert!(buffer[..4096] == expected[4096 * 3..4096 * 4]);
            }
        });
    });
}

/// 32: the signals are held back in the launching thread and in the core's, so that they wait for whoever asks.
#[test]
fn signals_are_blocked_where_cores_run() {
    fn blocked() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }
    let ours: u64 =
        [libc::SIGTERM, libc::SIGINT, libc::SIGHUP].into_iter().map(|number| 1 << (number - 1)).sum();
    std::thread::spawn(move || {
        assert_eq!(blocked() & ours, 0);
        let core = Launcher::Threads.launch(Env::core("signals", 0, HostKind::Own), move |_| async move {
            assert_eq!(blocked() & ours, ours);
        });
        assert_eq!(blocked() & ours, ours);
        core.unwrap().join();
    })
    .join()
    .unwrap();
}

/// 32.
#[test]
fn signals_arrive_as_events() {
    let mut command = child_command("signals", &[]);
    // The harness of the child runs threads that no core launched; all of them must hold the signals back.
    // SAFETY: between fork and exec only this system call is made.
    unsafe {
        command.pre_exec(|| {
            let signals = [nix::libc::SIGTERM, nix::libc::SIGINT, nix::libc::SIGHUP];
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            signals.iter().for_each(|&number| {
                libc::sigaddset(&raw mut set, number);
            });
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let process = i32::try_from(child.id()).unwrap();
    watched("signals", move || {
        let mut said = lines(&mut child);
        assert_eq!(said.next().as_deref(), Some("ready"));
        for (number, answer) in [
            (libc::SIGHUP, "Reload"),
            (libc::SIGTERM, "Terminate"),
            (libc::SIGHUP, "Reload"),
            (libc::SIGINT, "Terminate"),
        ] {
            // SAFETY: sends a signal to our own child.
            assert_eq!(unsafe { libc::kill(process, number) }, 0);
            assert_eq!(said.next().as_deref(), Some(answer));
        }
        assert!(child.wait().unwrap().success());
    });
}

/// 13, 17, 29, 30: a process killed at any moment loses no completed write and no stored word, and what it claimed
/// can be claimed at once.
#[test]
fn a_killed_process_leaves_its_writes_and_words() {
    for round in 0..6_usize {
        let scratch = Scratch::new("killed");
        let (name, region) = (scratch.disk("disk"), scratch.region().to_owned());
        let mut child = child_command("killed", &[&name, &region]).spawn().unwrap();
        watched("killed", move || {
            let mut said = lines(&mut child);
            let mut last = 0;
            while last < 50 + 31 * round as u64 {
                last = said.next().expect("it goes on until killed").parse().unwrap();
            }
            child.kill().unwrap();
            child.wait().unwrap();
            // What it said before it was killed and we had not read yet.
            last = said.last().map_or(last, |line| line.parse().unwrap_or(last));
            let runtime = runtime("after");
            let io = runtime.io();
            runtime.block_on(async {
                let disk = open(io, &name);
                for number in 1..=last {
                    assert!(holds(io, &disk, number % 500 * 4096, 4096, number).await, "write {number}");
                }
            });
            let region = io.region(&region, 4096).unwrap();
            assert!(region.existed());
            let words: Vec<u64> = (0..8).map(|word| region.load(word)).collect();
            assert!(words[0] >= last && words.is_sorted_by(|a, b| a >= b), "{words:?} after {last}");
            assert!(words[0] - words[7] <= 1, "stores reach it in the order of the program: {words:?}");
        });
        drop(scratch);
    }
}

/// 31: two processes on one region would tear its words apart.
#[test]
fn a_region_is_mapped_by_one() {
    let scratch = Scratch::new("region");
    let runtime = runtime("region");
    let first = runtime.io().region(scratch.region(), 4096).unwrap();
    let error = runtime.io().region(scratch.region(), 4096).err().expect("locked");
    assert!(error.name == scratch.region() && !error.mend.is_empty(), "{error}");
    drop(first);
    assert!(runtime.io().region(scratch.region(), 4096).is_ok());
}

/// A plain user with little lockable memory gets the plainer path, and everything works on it.
#[test]
fn a_poor_user_runs_unregistered() {
    if !is_root() {
        return eprintln!("needs root, to become somebody poorer");
    }
    let directory = tempfile::Builder::new().prefix("poor").tempdir_in("/var/tmp").unwrap();
    let name = directory.path().join("disk");
    create_file(&name, DISK_BYTES_MIN).unwrap();
    for path in [directory.path(), &name] {
        std::os::unix::fs::chown(path, Some(65534), None).unwrap();
    }
    let mut command = child_command("poor", &[name.to_str().unwrap()]);
    // SAFETY: between fork and exec only this system call is made.
    unsafe {
        command.uid(65534).pre_exec(|| {
            let few = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const few);
            Ok(())
        });
    }
    let mut child = command.current_dir("/").spawn().unwrap();
    let said: Vec<String> = lines(&mut child).collect();
    assert!(child.wait().unwrap().success());
    assert_eq!(said, ["plainer", "done"]);
}

/// 27: cores are woken through event descriptors as well as by messages between rings.
#[test]
fn rings_work_with_event_descriptors() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let out = command.args(["real::own::rings"]).env("THERMOCLINE_EVENT_BELL", "1").output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("4 passed"), "{said}");
}

/// Turns: a task that never stops asking keeps a core from looking at its ring for 256 polls at most. glommio once kept
/// it for as long as its preemption timer ran.
#[test]
fn a_busy_core_makes_turns() {
    let glommio = cfg!(all(feature = "glommio", not(target_env = "musl"))).then_some(HostKind::Glommio);
    for host in [HostKind::Own].into_iter().chain(glommio) {
        watched("turns", move || {
            let core = Launcher::Threads.launch(Env::core("busy", 0, host), |io| async move {
                let before = io.turns();
                for _ in 0..100_000 {
                    yield_now().await;
                }
                let turns = io.turns() - before;
                assert!(
                    turns >= 100_000 / 256 - 1,
                    "{turns} turns in 100,000 polls under {}",
                    io.host_name()
                );
            });
            core.unwrap().join();
        });
    }
}

/// A host that is not built in is refused, with what to do.
#[cfg(not(feature = "glommio"))]
#[test]
fn a_host_that_is_not_built_in_is_refused() {
    let Err(refused) = Launcher::Threads.launch(Env::core("none", 0, HostKind::Glommio), |_| async {}) else {
        panic!("there is no glommio to run it");
    };
    assert!(refused.to_string().contains("--features glommio"), "{refused}");
}

/// 19: no room for a file whose space was not reserved.
#[test]
fn a_full_file_system_does_not_end_the_disk() {
    if !is_root() {
        return eprintln!("needs root, to mount a small file system");
    }
    let scratch = Scratch::new("full");
    let place = Mount::tmpfs(&scratch, "size=1m");
    let name = place.path.join("sparse");
    std::fs::File::create(&name).unwrap().set_len(8 << 20).unwrap();
    let error = create_file(&place.path.join("reserved"), 8 << 20).expect_err("no room");
    assert!(error.what.contains("no room") && !place.path.join("reserved").exists(), "{error}");
    let runtime = runtime("full");
    let io = runtime.io();
    runtime.block_on(async {
        let disk = open(io, name.to_str().unwrap());
        let mut full = None;
        for number in 0..8 {
            let (result, _) =
                disk.write_durable(filled(io, 256 << 10, number), number << 18, 256 << 10).await;
            if let Err(error) = result {
                full = Some((number, error));
                break;
            }
        }
        let (number, error) = full.expect("1 MiB is not 2 MiB");
        assert!(matches!(error, DiskError::Full { .. }) && number > 0, "{error}");
        assert!(!disk.ended());
        disk.flush().await.unwrap();
        assert!(holds(io, &disk, 0, 256 << 10, 0).await);
    });
}

struct Mount {
    path: std::path::PathBuf,
}

impl Mount {
    fn tmpfs(scratch: &Scratch, options: &str) -> Mount {
        let path = scratch.path("mount");
        std::fs::create_dir(&path).unwrap();
        let out = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Mount { path }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

struct Loop {
    name: String,
}

impl Loop {
    fn new(file: &str, sector_bytes: &str) -> Option<Loop> {
        if !is_root() || !Path::new("/dev/loop-control").exists() {
            eprintln!("needs root and loop devices");
            return None;
        }
        let arguments = ["--find", "--show", "--direct-io=on", "--sector-size", sector_bytes, file];
        let out = Command::new("losetup").args(arguments).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Some(Loop { name: String::from_utf8(out.stdout).unwrap().trim().to_owned() })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.name]).status();
    }
}

/// 13–18: a block device looks like a file.
#[test]
fn a_block_device_is_a_disk() {
    for sector_bytes in ["512", "4096"] {
        let scratch = Scratch::new("device");
        let Some(device) = Loop::new(&scratch.disk("backing"), sector_bytes) else { return };
        let runtime = runtime("device");
        let io = runtime.io();
        runtime.block_on(async {
            let disk = open(io, &device.name);
            let facts = disk.geometry();
            assert!(facts.block_device && facts.volatile_cache && facts.bytes == DISK_BYTES_MIN);
            assert_eq!(facts.block_bytes.to_string(), sector_bytes);
            for (number, bytes) in [(0_u64, 4096), (1, 65536), (2, 1 << 20)] {
                let (result, _) = disk.write(filled(io, bytes, number), number << 20, bytes).await;
                result.unwrap();
                disk.flush().await.unwrap();
                let (result, buffer) =
                    disk.write_durable(filled(io, bytes, number), number << 20, bytes).await;
                result.unwrap();
                assert!(is_filled(&buffer[..bytes], number));
                assert!(holds(io, &disk, number << 20, bytes, number).await);
            }
            let error = io.open_disk(&device.name, DiskOpen::default()).err().expect("claimed");
            assert!(error.what.contains("claimed"), "{error}");
            drop(disk);
            let disk = open(io, &device.name);
            assert!(holds(io, &disk, 1 << 20, 65536, 1).await);
        });
    }
}

/// 13: what is mounted is refused, and the refusal says where.
#[test]
fn a_mounted_device_is_refused() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let device = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (device, place) = (words.next()?, words.next()?);
        use std::os::unix::fs::FileTypeExt;
        let is_device = std::fs::metadata(device).is_ok_and(|facts| facts.file_type().is_block_device());
        is_device.then(|| (device.to_owned(), place.to_owned()))
    });
    let Some((device, place)) = device else { return eprintln!("needs a mounted block device") };
    let runtime = runtime("mounted");
    let error = runtime.io().open_disk(&device, DiskOpen::default()).err().expect("mounted");
    assert!(error.what.contains("mounted at") && error.mend.contains("umount"), "{error} ({place})");
}

/// A file for a disk is made whole or not at all.
#[test]
fn files_are_made_whole_or_refused() {
    let scratch = Scratch::new("made");
    let path = scratch.path("disk");
    let error = create_file(&path, 1 << 55).expect_err("no file system has that much");
    assert!(error.what.contains("no room") && !error.mend.is_empty(), "{error}");
    assert!(!path.exists());
    assert!(create_file(&path, 0).is_err() && !path.exists());
    create_file(&path, 1 << 20).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
    let error = create_file(&path, 1 << 20).expect_err("it is there");
    assert!(error.what.contains("exists"), "{error}");
    assert!(create_file(&scratch.path("no/such"), 4096).is_err());
    let thin = scratch.path("thin");
    assert!(create_thin_file(&thin, 0).is_err() && !thin.exists());
    create_thin_file(&thin, 64 << 20).unwrap();
    let facts = std::fs::metadata(&thin).unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&facts);
    assert!(facts.len() == 64 << 20 && blocks * 512 < 1 << 20, "its room is taken as it is written");
    assert!(create_thin_file(&thin, 64 << 20).is_err(), "it is there");
    let runtime = runtime("made");
    let small = scratch.path("small");
    std::fs::write(&small, [7; 100]).unwrap();
    for bad in [small.as_path(), Path::new("/"), Path::new("/dev/null")] {
        let error = runtime.io().open_disk(bad.to_str().unwrap(), DiskOpen::default()).err();
        assert!(!error.expect("no disk").mend.is_empty());
    }
}

/// The other side of the tests above.
#[test]
#[ignore = "runs in a process of its own, started by other tests"]
fn child() {
    let Ok(text) = std::env::var("THERMOCLINE_CHILD") else { return };
    let words: Vec<&str> = text.lines().collect();
    match words[0] {
        "signals" => {
            let core = Launcher::Threads.launch(Env::core("child", 0, HostKind::Own), |io| async move {
                let signals = io.signals();
                println!(">ready");
                for _ in 0..4 {
                    println!(">{:?}", signals.next().await);
                }
            });
            core.unwrap().join();
        }
        "killed" => {
            let runtime = runtime("child");
            let io = runtime.io();
            let region = io.region(words[2], 4096).unwrap();
            runtime.block_on(async {
                let disk = open(io, words[1]);
                // As many as the disk has places for: none is written twice.
                for number in 1..500 {
                    let (result, _) = disk.write(filled(io, 4096, number), number * 4096, 4096).await;
                    result.unwrap();
                    (0..8).for_each(|word| region.store(word, number));
                    println!(">{number}");
                }
                std::future::pending::<()>().await;
            });
        }
        "poor" => {
            let runtime = runtime("child");
            let io = runtime.io();
            let found = ioengine::uring::probe();
            let buffers = found.iter().find(|finding| finding.topic == "registered buffers").unwrap();
            println!(">{}", format!("{:?}", buffers.verdict).to_lowercase());
            runtime.block_on(async {
                let disk = open(io, words[1]);
                disk.write_durable(filled(io, 65536, 1), 4096, 65536).await.0.unwrap();
                assert!(holds(io, &disk, 4096, 65536, 1).await);
                let listener = io.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
                let near = io.connect(listener.address()).await.unwrap();
                let far = listener.accept().await.unwrap();
                near.send(filled(io, 4096, 2), 0..100).await.0.unwrap();
                let (result, buffer) = far.receive(io.buffer(4096).unwrap(), 0..4096).await;
                assert!(result.unwrap() == 100 && is_filled(&buffer[..100], 2));
            });
            println!(">done");
        }
        other => panic!("no such role: {other}"),
    }
}
