//! `thermocline doctor`: what this machine can do for a node, and what mends what it cannot.

use clap::Args;
use ioengine::uring::{Finding, Verdict, probe, probe_disk};
use serde_json::json;

use crate::config::{Role, Sources};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::units::size_text;
use crate::{disk, file, version_caches};

/// Memory below which the default limits do not fit a node of two cores.
const MEMORY_BYTES_MIN: u64 = 2 << 30;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Disks to ask about, beside those of the config
    disks: Vec<String>,
    #[command(flatten)]
    sources: Sources,
    /// Say it as JSON
    #[arg(long)]
    json: bool,
}

/// `thermocline doctor`: no when a node cannot start here.
///
/// # Errors
/// The settings are wrong.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let settings = args.sources.load()?.settings;
    let mut found = probe();
    found.push(memory(memory_available_bytes()));
    let of_config: Vec<String> = match settings.role {
        Role::Cold => settings.cold.disks,
        _ => (!settings.disk_path.is_empty()).then_some(settings.disk_path).into_iter().collect(),
    };
    let seen: Vec<String> =
        of_config.iter().chain(&args.disks).cloned().chain(version_caches::block_devices()).collect();
    found.extend(version_caches::findings(&seen));
    for path in of_config.iter().chain(&args.disks) {
        found.extend(probe_disk(path));
        found.extend(format_of(path));
    }
    let mut out = Output::new();
    if args.json {
        let all = found.iter().map(|finding| {
            json!({"topic": finding.topic, "verdict": word(finding), "what": finding.what, "mend": finding.mend})
        });
        out.line(&serde_json::Value::from_iter(all).to_string())?;
    } else {
        for finding in &found {
            out.line(&format!("{:<8} {:<22} {}", word(finding), finding.topic, finding.what))?;
            if !finding.mend.is_empty() {
                out.line(&format!("{:<8} {:<22} -> {}", "", "", finding.mend))?;
            }
        }
    }
    out.finish()?;
    let refused = found.iter().any(|finding| finding.verdict == Verdict::Refused);
    Ok(if refused { Exit::No } else { Exit::Done })
}

fn word(finding: &Finding) -> &'static str {
    match finding.verdict {
        Verdict::Good => "good",
        Verdict::Plainer => "plainer",
        Verdict::Refused => "refused",
    }
}

fn memory(available: Option<u64>) -> Finding {
    let topic = "memory".to_owned();
    match available {
        None => Finding {
            topic,
            verdict: Verdict::Plainer,
            what: "the kernel does not tell how much is free".to_owned(),
            mend: "compare `thermocline config check` with what the machine has".to_owned(),
        },
        Some(bytes) if bytes >= MEMORY_BYTES_MIN => Finding {
            topic,
            verdict: Verdict::Good,
            what: format!("{} available", size_text(bytes >> 20 << 20)),
            mend: String::new(),
        },
        Some(bytes) => Finding {
            topic,
            verdict: Verdict::Plainer,
            what: format!("only {} available", size_text(bytes >> 20 << 20)),
            mend: "lower limits.memtable_bytes and limits.arena_bytes (thermocline config check)".to_owned(),
        },
    }
}

/// What is to say of a disk's format; nothing when it cannot be opened, which was said already.
fn format_of(path: &str) -> Option<Finding> {
    let topic = format!("{path}: format");
    if disk::Offline::open(path, true).and_then(|offline| offline.is_cold()) == Ok(true) {
        let (verdict, what, mend) = match disk::cold_superblock(path) {
            Ok(disk::ColdSeen::Is(of)) => {
                let what = format!("ours, disk {} of cold group {} at node {}", of.disk, of.group, of.node);
                (Verdict::Good, what, String::new())
            }
            Ok(disk::ColdSeen::Silent(_)) => return None,
            Err(failure) => (Verdict::Refused, failure.what, failure.mend),
        };
        return Some(Finding { topic, verdict, what, mend });
    }
    match disk::superblock(path).map(|superblock| superblock.shard_count) {
        Ok(count) => Some(Finding {
            topic,
            verdict: Verdict::Good,
            what: format!("ours, cut for {count} shards"),
            mend: String::new(),
        }),
        Err(failure) if failure.mend.is_empty() => None,
        Err(failure) => {
            Some(Finding { topic, verdict: Verdict::Refused, what: failure.what, mend: failure.mend })
        }
    }
}

/// Memory that new programs can have, in bytes.
pub(crate) fn memory_available_bytes() -> Option<u64> {
    available_in(&file::text(std::path::Path::new("/proc/meminfo")).ok()?)
}

fn available_in(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Processors for this process, at most as many as a disk can have shards.
pub(crate) fn processor_count() -> u16 {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(count.min(layout::units::SHARD_COUNT_MAX)).expect("at most 64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_what_the_kernel_writes() {
        assert_eq!(available_in("MemTotal: 9 kB\nMemAvailable:      12 kB\n"), Some(12 << 10));
        assert_eq!(available_in("MemTotal: 9 kB\n"), None);
        assert_eq!(memory(Some(1 << 30)).verdict, Verdict::Plainer);
        assert_eq!(memory(Some(3 << 30)).verdict, Verdict::Good);
    }
}
