//! What this machine can do for a node, found out by trying: at start and for `thermocline doctor`. Changes nothing
//! on the machine. Each finding says what was found, and what to do when it could be better.

use super::disk_facts;
use super::refusal::Refusal;
use super::ring::{REGISTERED_FILE_COUNT, Ring};
use super::shared_memory::{self, DIRECTORY_VARIABLE};
use super::system;
use crate::buffer::Arena;
use crate::disk::DiskOpen;
use io_uring::opcode;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// How a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, a plainer or slower way is taken.
    Plainer,
    /// A node cannot start like this.
    Refused,
}

/// One answer of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was asked, in a word or two.
    pub topic: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub what: String,
    /// What to do about it; empty when good.
    pub mend: String,
}

fn good(topic: &str, what: impl Into<String>) -> Finding {
    Finding { topic: topic.to_owned(), verdict: Verdict::Good, what: what.into(), mend: String::new() }
}

fn plainer(topic: &str, what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { topic: topic.to_owned(), verdict: Verdict::Plainer, what: what.into(), mend: mend.into() }
}

fn refused(topic: &str, refusal: Refusal) -> Finding {
    Finding { topic: topic.to_owned(), verdict: Verdict::Refused, what: refusal.what, mend: refusal.mend }
}

/// Buffers that the trial registers, in bytes: eight times the usual limit of locked memory.
const TRIAL_BYTES: usize = 64 << 20;
/// Descriptors that a busy node wants: connections, peers, disks.
const DESCRIPTOR_COUNT: u64 = 65_536;
/// Waiting connections below which a burst of clients is refused by the kernel.
const SOMAXCONN_MIN: u64 = 1024;

/// Ask the machine everything that does not need a disk.
#[must_use]
pub fn probe() -> Vec<Finding> {
    let mut found = vec![kernel()];
    found.extend(ring());
    found.extend([descriptors(), shared_memory(), clock(), connections(), processors()]);
    found
}

fn kernel() -> Finding {
    let release = system::text("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned());
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 1) {
        return good("kernel", format!("Linux {release}"));
    }
    plainer("kernel", format!("Linux {release}: what follows decides"), "run Linux 6.1 or later")
}

fn ring() -> Vec<Finding> {
    let ring = match Ring::open(256) {
        Ok(ring) => ring,
        Err(refusal) => return vec![refused("io_uring", refusal)],
    };
    let mut found =
        vec![good("io_uring", "private ring, SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL")];
    let wanted = [
        ("READ", opcode::Read::CODE),
        ("WRITE", opcode::Write::CODE),
        ("READ_FIXED", opcode::ReadFixed::CODE),
        ("WRITE_FIXED", opcode::WriteFixed::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("ACCEPT", opcode::Accept::CODE),
        ("CONNECT", opcode::Connect::CODE),
        ("SEND", opcode::Send::CODE),
        ("RECV", opcode::Recv::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ];
    let missing: Vec<&str> =
        wanted.into_iter().filter(|&(_, code)| !ring.supports(code)).map(|(name, _)| name).collect();
    found.push(if missing.is_empty() {
        good("operations", format!("all {} that are used", wanted.len()))
    } else {
        let what = format!("the kernel refuses {}", missing.join(", "));
        refused("operations", Refusal::new(what, "run Linux 6.1 or later, without a filter on io_uring"))
    });
    found.push(if ring.supports(opcode::MsgRingData::CODE) {
        good("bell", "rings send each other messages (MSG_RING)")
    } else {
        plainer("bell", "sleeping cores are woken through event descriptors", "run Linux 6.1 or later")
    });
    found.push(registered_buffers(&ring));
    found.push(match ring.register_file_table() {
        Ok(()) => good("registered files", format!("{REGISTERED_FILE_COUNT} disks per core")),
        Err(reason) => plainer("registered files", reason, "raise the limit of open files (ulimit -n)"),
    });
    ring.unregister_all();
    found
}

fn registered_buffers(ring: &Ring) -> Finding {
    let topic = "registered buffers";
    let limit = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((libc::RLIM_INFINITY, _)) => "no limit of locked memory".to_owned(),
        Ok((soft, _)) => format!("limit of locked memory {} KiB", soft >> 10),
        Err(errno) => format!("limit of locked memory unknown: {errno}"),
    };
    let arena = match Arena::new(TRIAL_BYTES) {
        Ok(arena) => arena,
        Err(error) => {
            return refused(
                topic,
                Refusal::new(format!("no {} MiB of memory: {error}", TRIAL_BYTES >> 20), "free memory"),
            );
        }
    };
    let (start, bytes) = arena.region();
    // SAFETY: no operation is ever submitted to this ring, and `unregister_all` comes before the arena's end.
    let registered = unsafe { ring.register_arena(start, bytes) };
    ring.unregister_all();
    match registered {
        Ok(()) => good(topic, format!("{} MiB registered on trial; {limit}", bytes >> 20)),
        Err(reason) => {
            let mend = "raise it (ulimit -l, LimitMEMLOCK=infinity in the unit) or run as root";
            plainer(topic, format!("{reason}; {limit}; pages are mapped for each operation"), mend)
        }
    }
}

fn descriptors() -> Finding {
    let topic = "open files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft >= DESCRIPTOR_COUNT => good(topic, format!("{soft} allowed")),
        Ok((soft, _)) => plainer(
            topic,
            format!("{soft} allowed: connections beyond that are refused"),
            format!("raise it to {DESCRIPTOR_COUNT} (ulimit -n, LimitNOFILE=)"),
        ),
        Err(errno) => plainer(topic, format!("limit unknown: {errno}"), "check ulimit -n"),
    }
}

fn shared_memory() -> Finding {
    let topic = "shared memory";
    let directory = shared_memory::directory();
    let shown = directory.display();
    let facts = match statfs(&directory) {
        Ok(facts) => facts,
        Err(errno) => {
            let mend = format!("mount a tmpfs there, or set {DIRECTORY_VARIABLE} to a directory on one");
            return refused(topic, Refusal::new(format!("{shown}: {errno}"), mend));
        }
    };
    let free = facts.blocks_available() * u64::try_from(facts.block_size()).unwrap_or(0);
    if facts.filesystem_type() == TMPFS_MAGIC {
        return good(topic, format!("{shown}: {} MiB free", free >> 20));
    }
    let mend = format!("set {DIRECTORY_VARIABLE} to a directory on tmpfs");
    plainer(topic, format!("{shown} is on a disk: its pages are written back over and over"), mend)
}

fn clock() -> Finding {
    let source = system::text("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let source = source.unwrap_or_else(|| "unknown".to_owned());
    match source.as_str() {
        "hpet" | "acpi_pm" | "refined-jiffies" | "jiffies" => plainer(
            "clock",
            format!("{source}: reading the time is a system call"),
            "boot with tsc=reliable if the processor's counter is sound",
        ),
        _ => good("clock", source),
    }
}

fn connections() -> Finding {
    let topic = "waiting connections";
    let limit =
        system::text("/proc/sys/net/core/somaxconn").and_then(|text| text.parse().ok()).unwrap_or(0_u64);
    if limit >= SOMAXCONN_MIN {
        return good(topic, format!("{limit} per listener"));
    }
    plainer(topic, format!("{limit} per listener: bursts are refused"), "sysctl net.core.somaxconn=4096")
}

fn processors() -> Finding {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    good("processors", format!("{count} for this process"))
}

/// Ask about one disk. Opens it for reading only.
#[must_use]
pub fn probe_disk(name: &str) -> Vec<Finding> {
    let topic = |part: &str| format!("{name}: {part}");
    let geometry = match super::disk::open(name, DiskOpen { read_only: true }) {
        Ok((geometry, _share)) => geometry,
        Err(error) => return vec![refused(&topic("open"), Refusal::new(error.what, error.mend))],
    };
    let kind = if geometry.block_device { "block device" } else { "file" };
    let size = format!("{kind}, {} MiB, blocks of {} bytes", geometry.bytes >> 20, geometry.block_bytes);
    let cache = match (geometry.volatile_cache, geometry.block_device) {
        (false, _) => "none, or protected: a completed write stays; no flush is sent",
        (true, true) => "volatile: writes of the journal are written through",
        (true, false) => "taken for volatile, as for every file",
    };
    let mut found = vec![good(&topic("size"), size), good(&topic("write cache"), cache)];
    if !geometry.block_device {
        let mend = "use a raw device outside of development";
        found.push(plainer(
            &topic("kind"),
            "a file: the file system's journal takes part in each flush",
            mend,
        ));
    }
    let device = std::fs::metadata(Path::new(name)).ok().filter(|facts| facts.file_type().is_block_device());
    if let Some(Err(refusal)) = device.map(|facts| disk_facts::refuse_in_use(facts.rdev())) {
        found.push(refused(&topic("use"), refusal));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_runs_these_tests_is_not_refused() {
        let found = probe();
        assert!(found.len() >= 10, "{found:#?}");
        for finding in &found {
            assert!(finding.verdict < Verdict::Refused, "{finding:?}");
            assert_eq!(finding.mend.is_empty(), finding.verdict == Verdict::Good, "{finding:?}");
        }
    }

    #[test]
    fn a_disk_that_is_not_there_is_refused_with_a_mend() {
        let found = probe_disk("/dev/no such disk");
        assert_eq!(found.len(), 1);
        assert!(found[0].verdict == Verdict::Refused && !found[0].mend.is_empty());
    }
}
