//! db_bench, RocksDB's own bench: the engine in the process of its load, without a network between. Its processor time is that of
//! engine and load together.

use super::Missing;
use crate::cpu;
use crate::outside;
use crate::report::{About, Figures};
use std::path::{Path, PathBuf};

const PROGRAM: &str = "db_bench";
const GET: &str = "apt-get install rocksdb-tools";
/// Bytes of a key: a name of 16 and a time of 8, as ours.
const KEY_BYTES: usize = 24;
/// What a reader of its figures must know.
pub(crate) const CAVEAT: &str = "rocksdb: db_bench of Debian is built with assertions on and says itself that this makes it slower; it \
                                 runs without a network, in threads of its own process, on all processors";

/// A database in a folder that goes with its owner.
pub(crate) struct DbBench {
    folder: PathBuf,
    version: String,
    value_bytes: usize,
    seconds: f64,
}

impl DbBench {
    /// The version installed.
    pub(crate) fn version() -> Result<String, Missing> {
        outside::ask(PROGRAM, &["--version"]).ok_or(Missing { program: PROGRAM, get: GET })
    }

    /// A database below `dir`, measured for so long. There is none yet.
    pub(crate) fn new(dir: &Path, version: String, value_bytes: usize, seconds: f64) -> DbBench {
        let folder = dir.join(format!("rocksdb-{}", std::process::id()));
        outside::remove_folder(&folder);
        DbBench { folder, version, value_bytes, seconds }
    }

    fn common(&self, benchmarks: &str) -> Vec<String> {
        [
            format!("--benchmarks={benchmarks}"),
            format!("--db={}", self.folder.display()),
            format!("--key_size={KEY_BYTES}"),
            format!("--value_size={}", self.value_bytes),
            "--max_background_jobs=2".to_owned(),
            "--bloom_bits=10".to_owned(),
        ]
        .to_vec()
    }

    /// Writes `records` keys, all that are there to be, and merges them to one level.
    pub(crate) fn load(&self, records: u64) -> Result<(), String> {
        let mut words = self.common("fillseq,compact");
        words.extend([format!("--num={records}"), "--disable_wal=1".to_owned()]);
        outside::run(PROGRAM, &words.iter().map(String::as_str).collect::<Vec<_>>())
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// The command for random reads of what was loaded, in as many threads as gets of ours are in flight: past the page cache, as ours,
    /// filters and indexes in memory, and next to no cache of blocks.
    pub(crate) fn read_command(&self, records: u64, threads: usize, cache_bytes: usize) -> Vec<String> {
        let mut words = self.common("readrandom");
        words.extend([
            format!("--num={records}"),
            "--use_existing_db=1".to_owned(),
            "--use_direct_reads=1".to_owned(),
            format!("--cache_size={cache_bytes}"),
            "--open_files=-1".to_owned(),
            format!("--threads={threads}"),
            format!("--duration={}", self.seconds.ceil()),
            "--histogram=1".to_owned(),
        ]);
        words
    }

    /// The command for puts that are flushed before they return, of so many threads that share a flush.
    pub(crate) fn write_command(&self, threads: usize) -> Vec<String> {
        let mut words = self.common("fillrandom");
        words.extend([
            "--num=1000000000".to_owned(),
            "--sync=1".to_owned(),
            format!("--threads={threads}"),
            format!("--duration={}", self.seconds.ceil()),
            "--histogram=1".to_owned(),
        ]);
        words
    }

    /// What is said of it beside its figures.
    pub(crate) fn about(&self, command: &[String], durability: &str) -> About {
        About {
            version: self.version.clone(),
            command: format!("{PROGRAM} {}", command.join(" ")),
            durability: durability.to_owned(),
        }
    }

    /// Run a command of the above. `operation` names the latencies. The error says what is wrong with what it printed.
    pub(crate) fn run(&self, command: &[String], operation: &str) -> Result<Figures, String> {
        let before = cpu::of_ended_children();
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let text = outside::run(PROGRAM, &words).map_err(|error| error.to_string())?;
        let used = cpu::of_ended_children() - before;
        let mut figures = figures(&text, operation).ok_or_else(|| {
            format!("{PROGRAM} printed no figures: {}", text.chars().rev().take(200).collect::<String>())
        })?;
        let (answers, seconds) = (figures["answers"], figures["seconds"]);
        figures.insert("per_server_cpu_second".to_owned(), answers / used.seconds().max(0.001));
        figures.insert("server_cpu_percent".to_owned(), 100.0 * used.seconds() / seconds.max(0.001));
        Ok(figures)
    }

    /// Remove the database: the next command makes a new one.
    pub(crate) fn clear(&self) {
        outside::remove_folder(&self.folder);
    }
}

impl Drop for DbBench {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Rate, count and latencies of the last benchmark in what it printed.
fn figures(text: &str, operation: &str) -> Option<Figures> {
    let line = text.lines().rev().find(|line| line.contains(" micros/op "))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let before = |unit: &str| {
        let at = words.iter().position(|word| word.trim_end_matches(';') == unit)?;
        words.get(at.checked_sub(1)?)?.parse::<f64>().ok()
    };
    let mut figures = Figures::from([
        ("per_second".to_owned(), before("ops/sec")?),
        ("seconds".to_owned(), before("seconds")?),
        ("answers".to_owned(), before("operations")?),
    ]);
    let percentiles = text.lines().rev().find_map(|line| line.strip_prefix("Percentiles: "))?;
    let words: Vec<&str> = percentiles.split_whitespace().collect();
    for (name, label) in [("p50", "P50:"), ("p99", "P99:"), ("p999", "P99.9:"), ("p9999", "P99.99:")] {
        let at = words.iter().position(|word| *word == label)?;
        figures.insert(format!("{operation}_latency_us_{name}"), words.get(at + 1)?.parse().ok()?);
    }
    let least = text.lines().rev().find(|line| line.starts_with("Min: "))?;
    let most = least.split("Max: ").nth(1)?.trim().parse().ok()?;
    figures.insert(format!("{operation}_latency_us_max"), most);
    Some(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
WARNING: Assertions are enabled; benchmarks unnecessarily slow
DB path: [db]
readrandom   :     741.490 micros/op 41609 ops/sec 2.306 seconds 95968 operations;    6.0 MB/s (2999 of 2999 found)

Microseconds per read:
Count: 95968 Average: 744.4500  StdDev: 1270.13
Min: 1  Median: 551.5048  Max: 44677
Percentiles: P50: 551.50 P75: 799.23 P99: 5782.05 P99.9: 16301.79 P99.99: 42231.16
------------------------------------------------------
[       0,       1 ]        8   0.008%   0.008%
";

    #[test]
    fn figures_are_read_off_what_it_prints() {
        let found = figures(PRINTED, "get").unwrap();
        let want = [
            ("answers", 95968.0),
            ("get_latency_us_max", 44677.0),
            ("get_latency_us_p50", 551.5),
            ("get_latency_us_p99", 5782.05),
            ("get_latency_us_p999", 16301.79),
            ("get_latency_us_p9999", 42231.16),
            ("per_second", 41609.0),
            ("seconds", 2.306),
        ];
        assert_eq!(found, Figures::from(want.map(|(name, value)| (name.to_owned(), value))));
        assert_eq!(figures("Unknown benchmark 'x'", "get"), None);
        assert_eq!(figures(PRINTED.split("Percentiles").next().unwrap(), "get"), None);
    }

    #[test]
    fn reads_open_what_was_loaded_and_writes_are_flushed() {
        let bench = DbBench::new(Path::new("nowhere"), "7".to_owned(), 128, 0.3);
        let read = bench.read_command(1000, 32, 1 << 20);
        for word in
            ["--use_existing_db=1", "--use_direct_reads=1", "--num=1000", "--threads=32", "--duration=1"]
        {
            assert!(read.iter().any(|known| known == word), "{word}: {read:?}");
        }
        assert!(bench.write_command(64).iter().any(|word| word == "--sync=1"));
        let about = bench.about(&read, "none");
        assert!(about.command.starts_with("db_bench --benchmarks=readrandom --db=nowhere/rocksdb-"));
    }
}
