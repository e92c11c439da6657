//! What the tests of the binary share: servers as child processes, runs of a verb, folders that go away.
//!
//! Owns the children it starts and ends no other process.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![expect(clippy::disallowed_methods, reason = "tests read what the binary wrote")]

pub(crate) mod cold;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A folder for a test's files, on the disk that carries the target folder: direct I/O works there.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8(std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The binary, working in `folder`, its shared memory there too so that nothing is left behind.
pub(crate) fn thermocline(folder: &Folder) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thermocline"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("THERMOCLINE_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder.path("")).env("THERMOCLINE_SHM_DIR", folder.path("")).stdin(Stdio::null());
    command
}

/// What a run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    fn new(output: Output) -> Said {
        Said {
            exit: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output of a run that is done.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.exit, 0, "{self:#?}");
        self.out
    }

    /// The last line of standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        let line = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The error of a run that ended with `exit`.
    #[track_caller]
    pub(crate) fn error(self, exit: i32) -> String {
        assert_eq!(self.exit, exit, "{self:#?}");
        self.err
    }
}

/// Runs the binary to its end.
pub(crate) fn run(folder: &Folder, arguments: &[&str]) -> Said {
    Said::new(thermocline(folder).args(arguments).output().unwrap())
}

/// Runs the binary to its end with these bytes on its standard input.
pub(crate) fn run_with(folder: &Folder, arguments: &[&str], input: &[u8]) -> Said {
    let mut child = thermocline(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Said::new(child.wait_with_output().unwrap())
}

/// A running node.
pub(crate) struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    pub(crate) endpoint: String,
}

impl Server {
    /// Starts `arguments` and waits for its ready line.
    pub(crate) fn start(folder: &Folder, arguments: &[&str]) -> Server {
        Server::start_command(folder, thermocline(folder).args(arguments))
    }

    /// Starts a command and waits for its ready line.
    pub(crate) fn start_command(folder: &Folder, command: &mut Command) -> Server {
        let log = std::fs::File::create(folder.path("server.log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let endpoint = line.strip_prefix("ready ").map(|rest| rest.trim_end().to_owned());
        let endpoint = endpoint.unwrap_or_else(|| panic!("{line:?}: {}", folder.text("server.log")));
        Server { child, out, endpoint }
    }

    /// A small trial of one node on a free port.
    pub(crate) fn dev(folder: &Folder) -> Server {
        Server::start(
            folder,
            &["dev", "--nodes", "1", "--dir", "data", "--port", "0", "--disk-size", "256 MiB"],
        )
    }

    /// Runs a client verb against it.
    pub(crate) fn run(&self, folder: &Folder, arguments: &[&str]) -> Said {
        Said::new(self.command(folder).args(arguments).output().unwrap())
    }

    /// The binary with the endpoint of this node in its environment.
    pub(crate) fn command(&self, folder: &Folder) -> Command {
        let mut command = thermocline(folder);
        command.env("THERMOCLINE_ENDPOINT", &self.endpoint);
        command
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// SIGTERM; what it still said on standard output, and its exit code.
    pub(crate) fn stop(mut self) -> (String, i32) {
        self.signal(Signal::SIGTERM);
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        let exit = self.child.wait().unwrap().code().unwrap_or(-1);
        (rest, exit)
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed leaves it running; one that stopped it has nothing left to end.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// Asks a child to end as Ctrl-C does.
pub(crate) fn interrupt(child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
}

/// The path of the sample of real records.
pub(crate) fn sample() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/commits-sample.ndjson.zst").display().to_string()
}

/// Memtables that hold little.
pub(crate) const SMALL: [&str; 6] = [
    "limits.staging_bytes=32KiB",
    "limits.record_bytes_max=64KiB",
    "limits.memtable_bytes=512KiB",
    "limits.memtable_record_count_max=600",
    "limits.staging_count_max=100",
    "limits.arena_bytes=32MiB",
];

/// `serve` on a disk of its folder with memtables that hold little, and these settings besides.
pub(crate) fn serve_small(settings: &[&'static str]) -> Vec<&'static str> {
    let place = ["disk.path=disk", "network.listen=127.0.0.1:0"];
    let all = place.iter().chain(&SMALL).chain(settings);
    std::iter::once("serve").chain(all.flat_map(|setting| ["--set", setting])).collect()
}
