//! The suite on the real back end: a thread and a ring per core, scratch files on the file system of the target
//! directory, 127.0.0.1, /dev/shm.

use crate::env::{Case, DISK_BYTES_MIN, Env};
use ioengine::{HostKind, Launcher};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// A case that takes longer than this hangs. Far beyond what a loaded machine needs; no case measures time.
const HANG: Duration = Duration::from_secs(120);

/// Files of one case, removed with it.
pub(crate) struct Scratch {
    directory: tempfile::TempDir,
    region: String,
}

impl Scratch {
    pub(crate) fn new(name: &str) -> Scratch {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let directory = tempfile::Builder::new().prefix(name).tempdir_in(parent).unwrap();
        let region = format!("test-{}", directory.path().file_name().unwrap().to_string_lossy());
        Scratch { directory, region }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn disk(&self, name: &str) -> String {
        let path = self.path(name);
        ioengine::uring::create_file(&path, DISK_BYTES_MIN).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!("thermocline-{}", self.region)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Run `main` on a thread of its own and hand its panic on; fail when it takes for ever.
pub(crate) fn watched<T: Send + 'static>(name: &str, main: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, finished) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let out = main();
            let _ = done.send(());
            out
        })
        .unwrap();
    if let Err(mpsc::RecvTimeoutError::Timeout) = finished.recv_timeout(HANG) {
        panic!("{name} hangs");
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub(crate) fn run_on(host: HostKind, name: &'static str, case: Case) {
    let scratch = Scratch::new(name);
    let disks = vec![scratch.disk("first"), scratch.disk("second")];
    let region = scratch.region().to_owned();
    watched(name, move || {
        let core = Launcher::Threads
            .launch(Env::core(name, 0, host), move |io| {
                let env = Env {
                    launcher: Launcher::Threads,
                    host,
                    disks,
                    listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                    nobody: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
                    region,
                    faults: None,
                };
                case(io, env)
            })
            .unwrap();
        core.join();
    });
    drop(scratch);
}

mod own {
    fn run(name: &'static str, case: crate::env::Case) {
        super::run_on(ioengine::HostKind::Own, name, case);
    }

    conformance!(super::run);
}

#[cfg(all(feature = "glommio", not(target_env = "musl")))]
mod glommio {
    fn run(name: &'static str, case: crate::env::Case) {
        super::run_on(ioengine::HostKind::Glommio, name, case);
    }

    conformance!(super::run);
}
