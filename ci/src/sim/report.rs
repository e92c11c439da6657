//! What a run says of itself, and what many say together: operations, faults, restarts, marks, density and speed.

use super::history::Violation;
use super::plan::Mode;
use std::collections::BTreeMap;

/// Processor time of this thread: real seconds as far as this run is concerned, on a machine that others use too.
pub struct Clock {
    start: f64,
}

fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of this frame, which the call fills.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "a thread's processor time can be read");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl Clock {
    /// Begin to measure.
    #[must_use]
    pub fn start() -> Clock {
        Clock { start: cpu_seconds() }
    }

    /// Seconds since.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        cpu_seconds() - self.start
    }
}

/// What the lives of one seed did together.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Client operations that were answered.
    pub operations: u64,
    /// Answers by name, and silences.
    pub answers: BTreeMap<&'static str, u64>,
    /// Starts of the node that came to serve.
    pub starts: u64,
    /// Starts that failed.
    pub failed_starts: u64,
    /// What failed starts said.
    pub failures: Vec<String>,
    /// Disks formatted anew.
    pub formats: u64,
    /// Losses of a tablet that the format's one exception excuses.
    pub excused: u64,
    /// Hash over everything clients saw; 0 when not asked for.
    pub history_hash: u64,
    /// What is wrong.
    pub violations: Vec<Violation>,
}

/// What one seed did.
#[derive(Clone, Debug)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// Its mode.
    pub mode: Mode,
    /// What its lives did together.
    pub sum: Sum,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Marks passed, by name.
    pub marks: BTreeMap<&'static str, u64>,
    /// Length in the simulated world, in seconds.
    pub simulated_s: f64,
    /// Processor seconds it took.
    pub cpu_s: f64,
    /// Events of the world.
    pub events: u64,
    /// Hash over every event of the world.
    pub trace_hash: u64,
    /// Lines of the trace, when asked for.
    pub trace: Vec<String>,
}

impl SeedReport {
    /// Of a run that did not come to its end.
    #[must_use]
    pub fn panicked(seed: u64, mode: Mode, violation: Violation) -> SeedReport {
        SeedReport {
            seed,
            mode,
            sum: Sum { violations: vec![violation], ..Sum::default() },
            faults: BTreeMap::new(),
            marks: BTreeMap::new(),
            simulated_s: f64::EPSILON,
            cpu_s: f64::EPSILON,
            events: 0,
            trace_hash: 0,
            trace: Vec::new(),
        }
    }

    /// As one JSON object.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "seed": self.seed,
            "mode": self.mode.name(),
            "operations": self.sum.operations,
            "simulated_s": self.simulated_s,
            "cpu_s": self.cpu_s,
            "operations_per_s": self.density(),
            "times_real_time": self.speed(),
            "starts": self.sum.starts,
            "failed_starts": self.sum.failed_starts,
            "formats": self.sum.formats,
            "excused": self.sum.excused,
            "events": self.events,
            "trace_hash": format!("{:016x}", self.trace_hash),
            "history_hash": format!("{:016x}", self.sum.history_hash),
            "faults": self.faults,
            "marks": self.marks,
            "answers": self.sum.answers,
            "failures": self.sum.failures,
            "violations": self.sum.violations.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    /// Client operations per simulated second.
    #[must_use]
    pub fn density(&self) -> f64 {
        self.sum.operations as f64 / self.simulated_s
    }

    /// Simulated seconds per processor second.
    #[must_use]
    pub fn speed(&self) -> f64 {
        self.simulated_s / self.cpu_s
    }
}

impl std::fmt::Display for SeedReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {} {}: {} operations, {:.1} s at {:.0}/s and {:.0} x real time, {} starts ({} failed)",
            self.seed,
            self.mode.name(),
            self.sum.operations,
            self.simulated_s,
            self.density(),
            self.speed(),
            self.sum.starts,
            self.sum.failed_starts,
        )?;
        if self.mode.is_cluster() {
            let mark = |name: &str| self.marks.get(name).copied().unwrap_or(0);
            write!(
                f,
                "\n  {} faults, {} freezes, {} seals, {} prepares, {} completions, {} fetches, {} copies, {} returns",
                self.faults.values().sum::<u64>(),
                mark("a memtable is frozen"),
                mark("a window is sealed"),
                mark("a prepare is sent"),
                mark("a replica completes what another left open"),
                mark("entries are fetched"),
                mark("a copy is installed"),
                mark("a learner returns"),
            )?;
        }
        for violation in self.sum.violations.iter().take(10) {
            write!(f, "\n  WRONG {violation}")?;
        }
        Ok(())
    }
}
