//! fio: what the file system and its device can do. 4 KiB written, then fdatasync, one at a time: what a journal that
//! flushes each record can reach at most.

use super::Missing;
use crate::outside;
use serde_json::Value;
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
