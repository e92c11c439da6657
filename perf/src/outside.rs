//! The door of this crate: files of the kernel, reports, disks to measure on, and programs to measure against.
//! Everything else in perf asks here. A bench runs outside of what it measures and never in the simulator, so these
//! go to the system and not through ioengine.
#![expect(
    clippy::disallowed_methods,
    reason = "a bench reads /proc and keeps reports; it never runs in the simulator"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Of what a program said, this many characters are told.
const SAID_CHARS_MAX: usize = 2_000;

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
    of_io("self", "read_bytes: ")
}

/// Bytes that a process has had written to devices.
pub(crate) fn device_written_bytes(pid: u32) -> Option<u64> {
    of_io(&pid.to_string(), "write_bytes: ")
}

fn of_io(process: &str, name: &str) -> Option<u64> {
    text(format!("/proc/{process}/io"))?.lines().find_map(|line| line.strip_prefix(name)?.parse().ok())
}

/// The end of what a program has written to a file.
pub(crate) fn told(log: &Path) -> String {
    last_words(&text(log).unwrap_or_default())
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

/// A program that is not there, or failed, with what it said of it.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` failed, {status}: {said}")]
pub(crate) struct ProgramError {
    command: String,
    status: String,
    said: String,
}

/// What a program prints on its first stream, or on the second where that is empty.
///
/// # Errors
/// [`ProgramError`]: it is not there, or fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, ProgramError> {
    let failed = |status: String, said: String| {
        let command = [&[program], arguments].concat().join(" ");
        ProgramError { command, status, said }
    };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed("it cannot be started".to_owned(), error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() {
        return Ok(if out.is_empty() { err } else { out });
    }
    // Who prints figures on the first stream says on the second why there are none.
    Err(failed(output.status.to_string(), last_words(if err.is_empty() { &out } else { &err })))
}

/// The end of what a program said, on one line.
fn last_words(text: &str) -> String {
    if text.is_empty() {
        return "it said nothing".to_owned();
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let whole = lines.join("; ");
    let left_out = whole.chars().count().saturating_sub(SAID_CHARS_MAX);
    if left_out == 0 { whole } else { format!("... {}", whole.chars().skip(left_out).collect::<String>()) }
}

/// What a program prints, both streams; `None` when it is not there or fails.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    run(program, arguments).ok()
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
        Beside::start_with(command, Stdio::null())
    }

    /// The same; what it says goes to the end of a file.
    pub(crate) fn start_told(command: &[String], log: &Path) -> Result<Beside, OutsideError> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
        Beside::start_with(command, Stdio::from(refused("cannot write", log, file)?))
    }

    fn start_with(command: &[String], says: Stdio) -> Result<Beside, OutsideError> {
        let (program, arguments) = command.split_first().expect("a command has a program");
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(says)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_told_in_its_own_words() {
        let failed =
            run("sh", &["-c", "echo figures; echo 'no such disk' >&2; echo take another >&2; exit 7"]);
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("sh -c") && text.contains("exit status: 7"), "{text}");
        assert!(text.ends_with("no such disk; take another"), "{text}");
        let text = run("sh", &["-c", "echo only here; exit 1"]).unwrap_err().to_string();
        assert!(text.ends_with("only here"), "{text}");
        assert!(run("false", &[]).unwrap_err().to_string().ends_with("it said nothing"));
        let text = run("/nowhere/to/be/found", &["x"]).unwrap_err().to_string();
        assert!(text.contains("/nowhere/to/be/found x") && text.contains("No such file"), "{text}");
        assert_eq!(run("sh", &["-c", "echo fine"]).unwrap(), "fine");
    }

    #[test]
    fn of_much_that_is_said_the_end_is_told() {
        let text = last_words(&format!("begin\n{}\nend", "x".repeat(SAID_CHARS_MAX)));
        assert!(text.starts_with("... x") && text.ends_with("; end"), "{text}");
    }
}
