//! fio: what the file system and its device can do. 4 KiB written, then fdatasync, one at a time: what a journal that
//! flushes each record can reach at most.

use super::Missing;
use crate::outside;
use crate::report::{About, Figures, PERCENTILES};
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};

const PROGRAM: &str = "fio";
const GET: &str = "apt-get install fio";
/// Size of the file that is written over and over, and of that of a run of less than a second.
const FILE_SIZE: &str = "256M";
const FILE_SIZE_SHORT: &str = "16M";

/// What is said of it beside its figures.
pub(crate) fn about(version: &str, command: &[String], durability: &str) -> About {
    About {
        version: version.to_owned(),
        command: format!("{PROGRAM} {}", command.join(" ")),
        durability: durability.to_owned(),
    }
}

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
    let size = if seconds < 1.0 { FILE_SIZE_SHORT } else { FILE_SIZE };
    [
        "--name=flush",
        &format!("--filename={}", file.display()),
        &format!("--size={size}"),
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
    let text = outside::run(PROGRAM, &arguments).map_err(|error| error.to_string())?;
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

/// Figures of reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reads {
    /// Reads per second.
    pub(crate) per_second: f64,
    /// Bytes per second.
    pub(crate) bytes_per_second: f64,
    /// Median, 90th, 99th percentile and those of one in a thousand and in ten thousand, microseconds: as in [`PERCENTILES`].
    pub(crate) latency_us: [f64; PERCENTILES.len()],
    /// Processor time of fio, in percent of one processor.
    pub(crate) cpu_percent: f64,
}

impl Reads {
    /// As figures of a side; `operation` names the latencies.
    pub(crate) fn figures(&self, operation: &str) -> Figures {
        let latencies = PERCENTILES.iter().zip(self.latency_us);
        let mut figures: Figures =
            latencies.map(|((name, _), us)| (format!("{operation}_latency_us_{name}"), us)).collect();
        figures.insert("per_second".to_owned(), self.per_second);
        figures.insert("mb_per_second".to_owned(), self.bytes_per_second / 1e6);
        figures.insert("server_cpu_percent".to_owned(), self.cpu_percent);
        if self.cpu_percent > 0.0 {
            let rate = 100.0 * self.per_second / self.cpu_percent;
            figures.insert("per_server_cpu_second".to_owned(), rate);
        }
        figures
    }
}

/// A file to read, that goes with its owner.
pub(crate) struct ReadFile {
    path: PathBuf,
    bytes: u64,
}

impl ReadFile {
    /// Of so many bytes below `dir`. It is not there yet.
    pub(crate) fn of(dir: &Path, bytes: u64) -> ReadFile {
        let path = dir.join(format!("fio-read-{}.data", std::process::id()));
        ReadFile { path, bytes: bytes.next_multiple_of(1 << 20) }
    }

    /// Write it, so that what is read lies on the device.
    pub(crate) fn make(&self) -> Result<(), String> {
        let file = format!("--filename={}", self.path.display());
        let size = format!("--size={}", self.bytes);
        let words = ["--name=make", &file, &size, "--rw=write", "--bs=1M", "--direct=1", "--end_fsync=1"];
        outside::run(PROGRAM, &words).map(drop).map_err(|error| error.to_string())
    }

    /// The command for random reads of `bytes`, `depth` of them in flight.
    pub(crate) fn random(&self, seconds: f64, depth: usize, bytes: u64) -> Vec<String> {
        random_command(&self.path, seconds, depth, bytes, 0..self.bytes)
    }

    /// The command for reads of `bytes` from the first to the last, again and again, `depth` of them in flight.
    pub(crate) fn sequential(&self, seconds: f64, depth: usize, bytes: u64) -> Vec<String> {
        let mut words = self.random(seconds, depth, bytes);
        for word in words.iter_mut().filter(|word| *word == "--rw=randread") {
            "--rw=read".clone_into(word);
        }
        words
    }
}

impl Drop for ReadFile {
    fn drop(&mut self) {
        outside::remove(&self.path);
    }
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

/// The command that reads or writes (`job`: `read` or `write`) a part of a disk or file once, from its first byte to its last.
pub(crate) fn sequential_command(disk: &Path, job: &str, part: Range<u64>) -> Vec<String> {
    let mut words = [
        "--name=sequential",
        &format!("--filename={}", disk.display()),
        &format!("--rw={job}"),
        "--bs=1M",
        &format!("--offset={}", part.start),
        &format!("--size={}", part.end - part.start),
        "--iodepth=8",
        "--ioengine=io_uring",
        "--direct=1",
        "--output-format=json",
    ]
    .map(str::to_owned)
    .to_vec();
    words.push(if job == "read" { "--readonly" } else { "--end_fsync=1" }.to_owned());
    words
}

/// The command that writes a part of several disks at once, from its first byte to its last; [`run_sequential`] gives the sum of all.
pub(crate) fn write_all_command(disks: &[&Path], part: Range<u64>) -> Vec<String> {
    let [first, others @ ..] = disks else { return Vec::new() };
    let mut words = sequential_command(first, "write", part.clone());
    words.insert(0, "--group_reporting".to_owned());
    for disk in others {
        words.extend(sequential_command(disk, "write", part.clone()));
    }
    words
}

/// Run it: bytes per second. The error says what is wrong with what it printed.
pub(crate) fn run_sequential(command: &[String]) -> Result<f64, String> {
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    let text = outside::run(PROGRAM, &arguments).map_err(|error| error.to_string())?;
    sequential(&text)
        .ok_or_else(|| format!("fio printed no figures: {}", text.chars().take(200).collect::<String>()))
}

fn sequential(text: &str) -> Option<f64> {
    let all: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let job = all.get("jobs")?.get(0)?;
    let rate = |of: &str| job.get(of)?.get("bw_bytes")?.as_f64().filter(|rate| *rate > 0.0);
    rate("read").or_else(|| rate("write"))
}

/// Run it. The error says what is wrong with what it printed.
pub(crate) fn run_reads(command: &[String]) -> Result<Reads, String> {
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    let text = outside::run(PROGRAM, &arguments).map_err(|error| error.to_string())?;
    reads(&text)
        .ok_or_else(|| format!("fio printed no figures: {}", text.chars().take(200).collect::<String>()))
}

fn reads(text: &str) -> Option<Reads> {
    let all: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let job = all.get("jobs")?.get(0)?;
    let read = job.get("read")?;
    let percentiles = read.get("clat_ns")?.get("percentile")?;
    let mut latency_us = [0.0; PERCENTILES.len()];
    for (found, (_, part)) in latency_us.iter_mut().zip(PERCENTILES) {
        *found = percentiles.get(format!("{:.6}", part * 100.0))?.as_f64()? / 1000.0;
    }
    let cpu = |which: &str| job.get(which).and_then(Value::as_f64).unwrap_or(0.0);
    Some(Reads {
        per_second: read.get("iops")?.as_f64()?,
        bytes_per_second: read.get("bw_bytes")?.as_f64()?,
        latency_us,
        cpu_percent: cpu("usr_cpu") + cpu("sys_cpu"),
    })
}

/// Run it. The error says what is wrong with what it printed.
pub(crate) fn run(command: &[String]) -> Result<Flushes, String> {
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    let text = outside::run(PROGRAM, &arguments).map_err(|error| error.to_string())?;
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
        let text = r#"{"jobs": [{"usr_cpu": 5.0, "sys_cpu": 20.0, "read": {"iops": 9000.0, "bw_bytes": 36864000, "clat_ns": {"percentile": {
            "50.000000": 90000, "90.000000": 110000, "99.000000": 150000, "99.900000": 200000, "99.990000": 300000}}}}]}"#;
        let read = reads(text).unwrap();
        let figures = read.figures("get");
        let want = [
            ("get_latency_us_p50", 90.0),
            ("get_latency_us_p90", 110.0),
            ("get_latency_us_p99", 150.0),
            ("get_latency_us_p999", 200.0),
            ("get_latency_us_p9999", 300.0),
            ("mb_per_second", 36.864),
            ("per_second", 9000.0),
            ("per_server_cpu_second", 36_000.0),
            ("server_cpu_percent", 25.0),
        ];
        assert_eq!(figures, Figures::from(want.map(|(name, value)| (name.to_owned(), value))));
        assert_eq!(reads(r#"{"jobs": []}"#), None);
    }

    #[test]
    fn a_sequential_job_reads_or_writes() {
        let of = |read: u64, write: u64| {
            sequential(&format!(
                r#"{{"jobs": [{{"read": {{"bw_bytes": {read}}}, "write": {{"bw_bytes": {write}}}}}]}}"#
            ))
        };
        assert_eq!([of(5, 0), of(0, 7), of(0, 0)], [Some(5.0), Some(7.0), None]);
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
