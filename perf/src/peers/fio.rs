//! fio: what the file system and its device can do. 4 KiB written, then fdatasync, one at a time: what a journal that
//! flushes each record can reach at most.

use super::Missing;
use crate::outside;
use serde_json::Value;
use std::ops::Range;
use std::path::Path;

const PROGRAM: &str = "fio";
const GET: &str = "apt-get install fio";
/// Size of the file that is written over and over.
const FILE_SIZE: &str = "256M";

/// Figures of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Flushes {
    /// Writes with their fdatasync, per second.
    pub(crate) per_second: f64,
    /// Median of write and fdatasync together, microseconds.
    pub(crate) latency_us_p50: f64,
    /// 99th percentiles of write and of fdatasync, added, microseconds.
    pub(crate) latency_us_p99: f64,
}

/// The version installed.
pub(crate) fn version() -> Result<String, Missing> {
    outside::ask(PROGRAM, &["--version"]).ok_or(Missing { program: PROGRAM, get: GET })
}

/// The command for a file in `dir`.
pub(crate) fn command(dir: &Path, seconds: f64) -> Vec<String> {
    let file = dir.join(format!("fio-{}.data", std::process::id()));
    [
        "--name=flush",
        &format!("--filename={}", file.display()),
        &format!("--size={FILE_SIZE}"),
        "--rw=write",
        "--bs=4k",
        "--iodepth=1",
        "--ioengine=psync",
        "--direct=1",
        "--fdatasync=1",
        "--time_based",
        &format!("--runtime={}", seconds.ceil()),
        "--ramp_time=1",
        "--unlink=1",
        "--output-format=json",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The worst of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Worst {
    /// Longest read of 4 KiB, microseconds.
    pub(crate) read_us: f64,
    /// Longest write of 4 KiB and longest fdatasync, added, microseconds.
    pub(crate) flush_us: f64,
}

/// The command for reads, small flushed writes and large writes side by side, on files in `dir`.
pub(crate) fn background_command(dir: &Path, seconds: f64) -> Vec<String> {
    let directory = format!("--directory={}", dir.display());
    let runtime = format!("--runtime={}", seconds.ceil());
    let shared = [
        &directory,
        "--size=256M",
        "--direct=1",
        "--ioengine=psync",
        "--time_based",
        &runtime,
        "--unlink=1",
        "--output-format=json",
    ];
    let jobs = [
        "--name=read",
        "--rw=randread",
        "--bs=4k",
        "--rate_iops=2000",
        "--name=journal",
        "--rw=write",
        "--bs=4k",
        "--fdatasync=1",
        "--rate_iops=2000",
        "--name=tables",
        "--rw=write",
        "--bs=256k",
        "--rate=50m",
    ];
    shared.into_iter().chain(jobs).map(str::to_owned).collect()
}

/// Run it. The error says what is wrong with what it printed.
pub(crate) fn run_worst(command: &[String]) -> Result<Worst, String> {
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    let text = outside::ask(PROGRAM, &arguments).ok_or("fio failed; run the command by hand to see why")?;
    worst(&text)
        .ok_or_else(|| format!("fio printed no figures: {}", text.chars().take(200).collect::<String>()))
}

fn worst(text: &str) -> Option<Worst> {
    let all: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let jobs = all.get("jobs")?.as_array()?;
    let job = |name: &str| jobs.iter().find(|job| job.get("jobname").is_some_and(|found| found == name));
    let most = |of: &Value| Some(of.get("max")?.as_f64()? / 1000.0);
    let (read, journal) = (job("read")?.get("read")?, job("journal")?);
    let (write, sync) = (journal.get("write")?.get("clat_ns")?, journal.get("sync")?.get("lat_ns")?);
    Some(Worst { read_us: most(read.get("clat_ns")?)?, flush_us: most(write)? + most(sync)? })
}

/// Figures of random reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reads {
    /// Reads per second.
    pub(crate) per_second: f64,
    /// Median, microseconds.
    pub(crate) latency_us_p50: f64,
    /// 99th percentile, microseconds.
    pub(crate) latency_us_p99: f64,
}

/// The command for random reads of `bytes` from a part of a file that is there, `depth` of them in flight.
pub(crate) fn random_command(
    file: &Path,
    seconds: f64,
    depth: usize,
    bytes: u64,
    part: Range<u64>,
) -> Vec<String> {
    [
        "--name=reads",
        &format!("--filename={}", file.display()),
        "--readonly",
        "--rw=randread",
        &format!("--bs={bytes}"),
        &format!("--offset={}", part.start),
        &format!("--size={}", (part.end - part.start) / bytes * bytes),
        &format!("--iodepth={depth}"),
        "--ioengine=io_uring",
        "--direct=1",
        "--time_based",
        &format!("--runtime={}", seconds.ceil()),
        "--ramp_time=1",
        "--output-format=json",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Run it. The error says what is wrong with what it printed.
pub(crate) fn run_reads(command: &[String]) -> Result<Reads, String> {
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    let text = outside::ask(PROGRAM, &arguments).ok_or("fio failed; run the command by hand to see why")?;
    reads(&text)
        .ok_or_else(|| format!("fio printed no figures: {}", text.chars().take(200).collect::<String>()))
}

fn reads(text: &str) -> Option<Reads> {
    let all: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let read = all.get("jobs")?.get(0)?.get("read")?;
    let percentile =
        |which: &str| Some(read.get("clat_ns")?.get("percentile")?.get(which)?.as_f64()? / 1000.0);
    Some(Reads {
        per_second: read.get("iops")?.as_f64()?,
        latency_us_p50: percentile("50.000000")?,
        latency_us_p99: percentile("99.000000")?,
    })
}

/// Run it. The error says what is wrong with what it printed.
pub(crate) fn run(command: &[String]) -> Result<Flushes, String> {
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    let text = outside::ask(PROGRAM, &arguments).ok_or("fio failed; run the command by hand to see why")?;
    figures(&text)
        .ok_or_else(|| format!("fio printed no figures: {}", text.chars().take(200).collect::<String>()))
}

fn figures(text: &str) -> Option<Flushes> {
    // Notes may stand before the object.
    let text = &text[text.find('{')?..];
    let all: Value = serde_json::from_str(text).ok()?;
    let job = all.get("jobs")?.get(0)?;
    let percentile = |of: &Value, which: &str| of.get("percentile")?.get(which)?.as_f64();
    let (write, sync) = (job.get("write")?.get("clat_ns")?, job.get("sync")?.get("lat_ns")?);
    let both = |which: &str| Some((percentile(write, which)? + percentile(sync, which)?) / 1000.0);
    Some(Flushes {
        per_second: job.get("write")?.get("iops")?.as_f64()?,
        latency_us_p50: both("50.000000")?,
        latency_us_p99: both("99.000000")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_found_by_the_names_of_the_jobs() {
        let text = r#"{"jobs": [
            {"jobname": "tables", "write": {"clat_ns": {"max": 9000000}}},
            {"jobname": "journal", "write": {"clat_ns": {"max": 30000}}, "sync": {"lat_ns": {"max": 400000}}},
            {"jobname": "read", "read": {"clat_ns": {"max": 250000}}}]}"#;
        assert_eq!(worst(text), Some(Worst { read_us: 250.0, flush_us: 430.0 }));
        assert_eq!(worst(r#"{"jobs": []}"#), None);
    }

    #[test]
    fn reads_are_those_of_the_first_job() {
        let text = r#"{"jobs": [{"read": {"iops": 9000.0, "clat_ns": {"percentile": {"50.000000": 90000, "99.000000": 150000}}}}]}"#;
        let want = Reads { per_second: 9000.0, latency_us_p50: 90.0, latency_us_p99: 150.0 };
        assert_eq!(reads(text), Some(want));
        assert_eq!(reads(r#"{"jobs": []}"#), None);
    }

    #[test]
    fn figures_are_found_behind_notes() {
        let text = r#"note: both iodepth >= 1 and synchronous I/O engine are selected
            {"jobs": [{"write": {"iops": 6500.5, "clat_ns": {"percentile": {"50.000000": 20000, "99.000000": 50000}}},
                       "sync": {"lat_ns": {"percentile": {"50.000000": 100000, "99.000000": 400000}}}}]}"#;
        let want = Flushes { per_second: 6500.5, latency_us_p50: 120.0, latency_us_p99: 450.0 };
        assert_eq!(figures(text), Some(want));
        assert_eq!(figures("fio: command not understood"), None);
        assert_eq!(figures("{}"), None);
    }
}
