//! The door of this crate: files of the kernel, reports, disks to measure on, and programs to measure against.
//! Everything else in perf asks here. A bench runs outside of what it measures and never in the simulator, so these
//! go to the system and not through ioengine.
#![expect(
    clippy::disallowed_methods,
    reason = "a bench reads /proc and keeps reports; it never runs in the simulator"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A file or program that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} {name}: {error}")]
pub struct OutsideError {
    what: &'static str,
    name: String,
    error: String,
}

fn refused<T>(what: &'static str, path: &Path, result: std::io::Result<T>) -> Result<T, OutsideError> {
    result.map_err(|error| OutsideError { what, name: path.display().to_string(), error: error.to_string() })
}

/// A small text file, trimmed; `None` when it is not there.
pub(crate) fn text(path: impl AsRef<Path>) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Bytes that this process has had read from devices.
pub(crate) fn device_read_bytes() -> Option<u64> {
    let text = text("/proc/self/io")?;
    text.lines().find_map(|line| line.strip_prefix("read_bytes: ")?.parse().ok())
}

/// A file, whole.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, OutsideError> {
    refused("cannot read", path, std::fs::read(path))
}

/// Write a file and the folders above it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), OutsideError> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    refused("cannot write", path, std::fs::write(path, bytes))
}

/// Make a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<(), OutsideError> {
    refused("cannot make folder", path, std::fs::create_dir_all(path))
}

/// Remove a file that may not be there.
pub(crate) fn remove(path: &Path) {
    // Left-over bench files are harmless; the next run of the same name removes them again.
    let _ = std::fs::remove_file(path);
}

/// Names in a folder, in order.
pub(crate) fn names(path: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Removes a folder and all in it; that it is not there is as good.
pub(crate) fn remove_folder(path: &Path) {
    let _ = std::fs::remove_dir_all(path);
}

/// True for a folder.
pub(crate) fn is_folder(path: &Path) -> bool {
    path.is_dir()
}

/// What a program prints, both streams; `None` when it is not there or fails.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    output.status.success().then(|| {
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        if out.is_empty() { err } else { out }
    })
}

/// A program that runs beside the bench, and ends with it.
pub(crate) struct Beside {
    child: Child,
    /// The whole command, for the report.
    pub(crate) command: String,
}

impl Beside {
    /// Start `command` (a program and its arguments), silent.
    pub(crate) fn start(command: &[String]) -> Result<Beside, OutsideError> {
        let (program, arguments) = command.split_first().expect("a command has a program");
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Ok(Beside { child: refused("cannot start", Path::new(program), child)?, command: command.join(" ") })
    }

    /// Its process number. A program started through `taskset` keeps it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True once it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
