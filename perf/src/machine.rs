//! What a run was measured on: without it a figure says nothing.

use crate::outside;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The machine and the tree of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Name of the host.
    pub(crate) host: String,
    /// Processor, with the count the system has.
    pub(crate) processor: String,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Memory, MiB.
    pub(crate) memory_mib: u64,
    /// File system below the folder that disks were made in: type and device.
    pub(crate) file_system: String,
    /// Commit of the tree, with `-dirty` when it was changed since.
    pub(crate) commit: String,
    /// How the bench was built.
    pub(crate) build: String,
}

impl Machine {
    /// Look around. `dir` is where the disks of the bench are.
    pub(crate) fn look(dir: &Path) -> Machine {
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
        let memory = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Machine {
            host: outside::text("/proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".to_owned()),
            processor: format!("{processors} x {model}"),
            kernel: outside::text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            memory_mib: memory.unwrap_or(0) / 1024,
            file_system: file_system(dir),
            commit: commit(),
            build: if cfg!(debug_assertions) { "debug assertions on" } else { "release" }.to_owned(),
        }
    }
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = outside::text(path)?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn file_system(dir: &Path) -> String {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let mounts = outside::text("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
            dir.starts_with(point).then(|| (point.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|(length, _)| *length)
        .map_or_else(|| "unknown".to_owned(), |(_, text)| text)
}

fn commit() -> String {
    let Some(commit) = outside::ask("git", &["rev-parse", "--short=10", "HEAD"]) else {
        return "no-commit".to_owned();
    };
    let changed = outside::ask("git", &["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_none_or(|changed| changed.is_empty()) { commit } else { format!("{commit}-dirty") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::look(Path::new("/"));
        assert!(machine.memory_mib > 0 && !machine.kernel.is_empty() && machine.file_system != "unknown");
    }
}
