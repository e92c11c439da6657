//! Processor time: of this thread, of other threads of this process, of another process, of the whole machine.
//! Owns the reading of the kernel's counters. Must never be read inside the measured window, only at its ends.

use crate::outside;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::ops::Sub;

/// Processor time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it, to the nanosecond.
    pub total_ns: u64,
    /// The part in our own code, as the kernel's clock ticks saw it (4 or 10 ms).
    pub user_ns: u64,
    /// The part in the kernel, likewise.
    pub system_ns: u64,
}

impl Cpu {
    /// Seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.total_ns as f64 / 1e9
    }

    pub(crate) fn plus(self, other: Cpu) -> Cpu {
        Cpu {
            total_ns: self.total_ns + other.total_ns,
            user_ns: self.user_ns + other.user_ns,
            system_ns: self.system_ns + other.system_ns,
        }
    }
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, earlier: Cpu) -> Cpu {
        Cpu {
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
        }
    }
}

/// Whose processor time counts as the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuOf {
    /// Another process, all of its threads.
    Process(u32),
    /// Several other processes.
    Processes(Vec<u32>),
    /// Threads of this process, with those that the kernel runs for their rings.
    Threads(Vec<u32>),
    /// Nobody said; the figures per processor second are left out.
    Unknown,
}

impl CpuOf {
    /// Its processor time so far; `None` when it is not known.
    #[must_use]
    pub fn now(&self) -> Option<Cpu> {
        match self {
            CpuOf::Unknown => None,
            // The sum of the process knows the threads that have ended, too.
            CpuOf::Process(pid) => ticks_of(&format!("/proc/{pid}")),
            CpuOf::Processes(pids) => pids
                .iter()
                .map(|pid| ticks_of(&format!("/proc/{pid}")))
                .reduce(|one, other| Some(one?.plus(other?)))?,
            CpuOf::Threads(threads) => {
                let workers = tasks().into_iter().filter(|(_, name)| {
                    name.strip_prefix(WORKER)
                        .and_then(|of| of.parse().ok())
                        .is_some_and(|of| threads.contains(&of))
                });
                let all = threads.iter().copied().chain(workers.map(|(number, _)| number));
                all.filter_map(|thread| of_task(&format!("/proc/self/task/{thread}"))).reduce(Cpu::plus)
            }
        }
    }
}

/// Clock ticks per second in /proc: fixed by the kernel's interface.
const TICK_NS: u64 = 1_000_000_000 / 100;

/// Beginning of the names of threads that the kernel starts to do what a ring's owner asked for; the rest is the
/// owner's number.
const WORKER: &str = "iou-wrk-";

/// Threads of this process with their names.
fn tasks() -> Vec<(u32, String)> {
    let numbers = outside::names("/proc/self/task").into_iter().filter_map(|name| name.parse().ok());
    let named = |number| Some((number, outside::text(format!("/proc/self/task/{number}/comm"))?));
    numbers.filter_map(named).collect()
}

fn of_task(folder: &str) -> Option<Cpu> {
    let exact = outside::text(format!("{folder}/schedstat"))
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let ticks = ticks_of(folder)?;
    Some(Cpu { total_ns: exact.unwrap_or(ticks.total_ns), ..ticks })
}

fn ticks_of(folder: &str) -> Option<Cpu> {
    let stat = outside::text(format!("{folder}/stat"))?;
    // The name in brackets may hold spaces: count fields behind it. utime and stime are fields 14 and 15 of all.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok());
    let (user_ns, system_ns) = (ticks()? * TICK_NS, ticks()? * TICK_NS);
    Some(Cpu { total_ns: user_ns + system_ns, user_ns, system_ns })
}

fn ns(seconds: i64, rest: i64) -> u64 {
    u64::try_from(seconds * 1_000_000_000 + rest).expect("time used is not negative")
}

fn of_usage(usage: &Usage) -> (u64, u64) {
    let (user, system) = (usage.user_time(), usage.system_time());
    (ns(user.tv_sec(), user.tv_usec() * 1000), ns(system.tv_sec(), system.tv_usec() * 1000))
}

/// Processor time of the calling thread.
pub(crate) fn of_this_thread() -> Cpu {
    let total = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock");
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("Linux tells a thread its own use");
    let (user_ns, system_ns) = of_usage(&usage);
    Cpu { total_ns: ns(total.tv_sec(), total.tv_nsec()), user_ns, system_ns }
}

/// Processor time of all programs that this process started and that have ended.
pub(crate) fn of_ended_children() -> Cpu {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("Linux tells a process of its children");
    let (user_ns, system_ns) = of_usage(&usage);
    Cpu { total_ns: user_ns + system_ns, user_ns, system_ns }
}

/// Numbers of the threads of this process, without those that the kernel starts on its own account.
pub(crate) fn threads() -> Vec<u32> {
    let own = tasks().into_iter().filter(|(_, name)| !name.starts_with(WORKER));
    own.map(|(number, _)| number).collect()
}

/// Bind threads of this process, or the process itself, to one processor.
pub(crate) fn keep_to(threads: &[u32], cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    threads.iter().try_for_each(|&thread| {
        let thread = i32::try_from(thread).expect("thread numbers are positive i32");
        sched_setaffinity(Pid::from_raw(thread), &set)
    })
}

/// What the whole machine did: clock ticks of all processors since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MachineTicks {
    /// Ticks that somebody used.
    pub(crate) busy: u64,
    /// Ticks that the hypervisor gave to others.
    pub(crate) stolen: u64,
    /// All ticks, idle ones included.
    pub(crate) all: u64,
}

impl MachineTicks {
    pub(crate) fn now() -> MachineTicks {
        let stat = outside::text("/proc/stat").unwrap_or_default();
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .into_iter()
            .flat_map(|line| line.split_whitespace().skip(1))
            .filter_map(|field| field.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; guest time is part of user.
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
        let busy = at(0) + at(1) + at(2) + at(5) + at(6);
        MachineTicks { busy, stolen: at(7), all: busy + at(3) + at(4) + at(7) }
    }
}

impl Sub for MachineTicks {
    type Output = MachineTicks;

    fn sub(self, earlier: MachineTicks) -> MachineTicks {
        MachineTicks {
            busy: self.busy.saturating_sub(earlier.busy),
            stolen: self.stolen.saturating_sub(earlier.stolen),
            all: self.all.saturating_sub(earlier.all),
        }
    }
}

/// Nanoseconds of a tick of [`MachineTicks`].
pub(crate) const MACHINE_TICK_NS: u64 = TICK_NS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_uses_time_and_both_ways_of_asking_see_it() {
        let own = nix::unistd::gettid().as_raw();
        let of = CpuOf::Threads(vec![u32::try_from(own).unwrap()]);
        let (before, seen_before) = (of_this_thread(), of.now().unwrap());
        let mut sum = 0_u64;
        while (of_this_thread() - before).total_ns < 50_000_000 {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        let seen = of.now().unwrap() - seen_before;
        assert!(seen.total_ns >= 30_000_000, "{seen:?} {sum}");
        assert!(threads().contains(&u32::try_from(own).unwrap()));
        assert_eq!(CpuOf::Unknown.now(), None);
        assert_eq!(CpuOf::Process(u32::MAX).now(), None);
    }

    #[test]
    fn the_machine_counts_ticks() {
        let now = MachineTicks::now();
        assert!(now.all > 0 && now.busy <= now.all);
    }
}
