//! Whether a disk is gray: it hangs, or takes far longer than a disk takes, or fails wherever it is asked; and whether one that was set aside for that is
//! well again. Policy alone, fed with beginnings and ends of operations and with looks at the time: no clock, no disk.
//!
//! Must never take its own absence for a disk's: while something is under way, time in which nobody looked counts for a quarter of a second at most.
//! Invariant: a disk comes back only after probes in a row that went well, the last of them a flushed write where one may be made, and with nothing under
//! way of what began before: a write that was not waited for would else land on what was written since.
//!
//! ```text
//!           an operation far too slow, or errors          hangs, slow, errors
//! Healthy ------------------------------------> Suspect ---------------------> Aside
//!    ^  ^------------------------------------------'  probes: evidence            |
//!    |            3 probes in a row are well          for or against              |
//!    '----------------------------------------------------------------------------'
//!       at least `aside_min`, twice as long each time; 5 reads and a write in a row are well; nothing is under way
//! ```

use ioengine::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a disk is looked at while anything is under way: a tenth of a second more or less does not matter to who waits for two.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// What counts at most of the time between two looks: a process that stood still, or had no processor, learns nothing about its disks.
const LOOK_MAX: Duration = Duration::from_millis(250);
/// Of the last 25 of these it is known how long the disk was busy and what it did: 2.5 s, so that slowness for seconds is seen within three.
const BUCKET: Duration = Duration::from_millis(100);
const BUCKETS: usize = 25;
/// So many times as long as an operation may take is far too slow. An operation may take three times what a seek over all of a disk, a whole rotation and
/// a second try take: a disk that is only busy, or throttled to 10 operations in a second, is not meant.
const SLOW_TIMES: u64 = 10;
/// A disk is judged by what it did if it was busy for so many tenths of the time that is looked at.
const BUSY_TENTHS: u64 = 8;
/// A lone operation that others overtake is no longer a matter of order after so many times the time in which a disk hangs: who asked has gone.
const STUCK_TIMES: u64 = 5;
/// A flush, or a durable write, may take so many times as long as a read.
const FLUSH_TIMES: u64 = 4;
/// Bytes that a disk moves in the time of an operation: 40 MB in a second, where an operation may take 25 ms.
const SERVICE_BYTES: u64 = 1 << 20;
/// Errors in a row after which a disk is probed, and after which it is set aside if that many of them were of probes, which go to other places each: a
/// scratch fails in one place, however often it is read.
const ERRORS_SUSPECT: u32 = 4;
const ERRORS: u32 = 8;
const ERRORS_OF_PROBES: u32 = 3;
/// Probes in a row that were well, after which a suspicion is dropped, and after which a disk may come back.
const PROBES_CLEAR: u32 = 3;
const PROBES_BACK: u32 = 5;
/// Between two probes of a suspect, in times that an operation may take: one that is too slow stays busy, one that is well hardly notices.
const PAUSE_SUSPECT: u64 = 2;
/// The same of a disk that is aside; twice as long after each that was not well, up to the second.
const PAUSE_ASIDE: u64 = 20;
const PAUSE_ASIDE_MAX: u64 = 320;

/// When a disk is gray, and how long it stays aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GrayLimits {
    /// What an operation may take, besides its bytes.
    pub(super) service: Duration,
    /// Nothing ends for so long: it hangs. 0 = no disk is ever set aside.
    pub(super) hang_after: Duration,
    /// How long it is aside at least, the first time.
    pub(super) aside_min: Duration,
    /// The same at most, however often it was.
    pub(super) aside_max: Duration,
}

/// Gray a disk was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gray {
    /// What was asked of it does not end.
    Hangs = 1,
    /// It does far less than a disk does.
    Slow = 2,
    /// It fails wherever it is asked.
    Errors = 3,
}

impl Gray {
    /// The word in logs and in the status.
    pub(super) fn name(self) -> &'static str {
        match self {
            Gray::Hangs => "hangs",
            Gray::Slow => "slow",
            Gray::Errors => "errors",
        }
    }

    /// The word for a number, as counters have it; of none nothing.
    pub(super) fn of(number: u64) -> Option<&'static str> {
        [Gray::Hangs, Gray::Slow, Gray::Errors].into_iter().find(|why| *why as u64 == number).map(Gray::name)
    }
}

/// How a disk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing is known against it.
    Healthy,
    /// It is probed beside its work.
    Suspect,
    /// Nothing is asked of it but probes.
    Aside { why: Gray, since: Instant },
}

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    /// A flush, or a durable write.
    Flush,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Well,
    /// The device said no.
    Failed,
    /// It was not asked of the device.
    NotDone,
}

/// A probe that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// A block somewhere.
    Read,
    /// A block that may be written, and a flush.
    Write,
}

/// What a look has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Suspected,
    Cleared,
    Aside(Gray),
    /// It was aside for so long.
    Back(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    /// By the time that was looked at, as all times here.
    began_ns: u64,
    /// What it may take alone, with what was under way before it.
    may_take_ns: u64,
    service_ns: u64,
    probe: Option<Probe>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    busy_ns: u64,
    /// What all that ended may have taken.
    work_ns: u64,
}

/// What is known of a disk.
#[derive(Debug)]
pub(super) struct Gauge {
    limits: GrayLimits,
    standing: Standing,
    /// When it was last looked at, and the time that was looked at until then.
    looked: Instant,
    passed_ns: u64,
    under_way: BTreeMap<u64, Flight>,
    next: u64,
    ended_ns: u64,
    buckets: [Bucket; BUCKETS],
    bucket: u64,
    errors: u32,
    errors_of_probes: u32,
    /// Something took far too long, or failed: probes say what of it is true.
    is_suspicious: bool,
    /// Probes in a row that were well.
    well: u32,
    has_written: bool,
    may_write: bool,
    is_probing: bool,
    probe_at_ns: u64,
    pause_ns: u64,
    hold: Duration,
    back_at: Option<Instant>,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Gauge {
    pub(super) fn new(limits: GrayLimits, now: Instant) -> Gauge {
        Gauge {
            limits,
            standing: Standing::Healthy,
            looked: now,
            passed_ns: 0,
            under_way: BTreeMap::new(),
            next: 0,
            ended_ns: 0,
            buckets: [Bucket::default(); BUCKETS],
            bucket: 0,
            errors: 0,
            errors_of_probes: 0,
            is_suspicious: false,
            well: 0,
            has_written: false,
            may_write: false,
            is_probing: false,
            probe_at_ns: 0,
            pause_ns: 0,
            hold: limits.aside_min,
            back_at: None,
        }
    }

    /// A probe may write from now on, or not any more.
    pub(super) fn set_may_write(&mut self, may_write: bool) {
        self.may_write = may_write;
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    fn is_aside(&self) -> bool {
        matches!(self.standing, Standing::Aside { .. })
    }

    fn service_ns(&self) -> u64 {
        nanos(self.limits.service).max(1)
    }

    /// The time that was looked at until now.
    fn advance(&mut self, now: Instant) -> u64 {
        let passed = now.since(self.looked);
        self.looked = now;
        // While nothing is under way there is nothing to miss.
        let is_idle = self.under_way.is_empty();
        let passed = nanos(if is_idle { passed } else { passed.min(LOOK_MAX) });
        self.passed_ns += passed;
        let bucket = self.passed_ns / nanos(BUCKET);
        for number in (self.bucket + 1..=bucket).take(BUCKETS) {
            self.buckets[number as usize % BUCKETS] = Bucket::default();
        }
        if bucket - self.bucket > BUCKETS as u64 {
            self.buckets = [Bucket::default(); BUCKETS];
        }
        self.bucket = bucket;
        if !is_idle {
            self.buckets[bucket as usize % BUCKETS].busy_ns += passed;
        }
        self.passed_ns
    }

    /// An operation begins: the number to end it by.
    pub(super) fn begin(&mut self, now: Instant, kind: Kind, bytes: usize, probe: Option<Probe>) -> u64 {
        let began_ns = self.advance(now);
        let times = if kind == Kind::Flush { FLUSH_TIMES } else { 1 };
        let service_ns = self.service_ns() * times + self.service_ns() * bytes as u64 / SERVICE_BYTES;
        // What is not waited for any more is no queue.
        let depth = if self.is_aside() { 1 } else { self.under_way.len() as u64 + 1 };
        self.next += 1;
        let flight = Flight { began_ns, may_take_ns: service_ns * depth * SLOW_TIMES, service_ns, probe };
        self.under_way.insert(self.next, flight);
        self.is_probing |= probe.is_some();
        self.next
    }

    /// An operation has ended, whoever still waits for it.
    pub(super) fn end(&mut self, now: Instant, number: u64, ended: Ended) {
        let at = self.advance(now);
        let flight = self.under_way.remove(&number).expect("an operation ends once");
        let is_late = at - flight.began_ns > flight.may_take_ns;
        if ended != Ended::NotDone {
            self.ended_ns = at;
            self.buckets[self.bucket as usize % BUCKETS].work_ns += flight.service_ns;
        }
        match ended {
            Ended::Well => (self.errors, self.errors_of_probes) = (0, 0),
            Ended::Failed => {
                self.errors += 1;
                self.errors_of_probes += u32::from(flight.probe.is_some());
            }
            Ended::NotDone => {}
        }
        if is_late || self.errors >= ERRORS_SUSPECT {
            self.is_suspicious = true;
        }
        let Some(probe) = flight.probe else {
            if is_late && !self.is_aside() {
                self.well = 0;
            }
            return;
        };
        self.is_probing = false;
        if ended == Ended::Well && !is_late {
            self.well += 1;
            self.has_written |= probe == Probe::Write;
            self.pause_ns = self.pauses().0;
        } else {
            (self.well, self.has_written) = (0, false);
            self.pause_ns = (self.pause_ns * 2).min(self.pauses().1);
        }
        self.probe_at_ns = at + self.pause_ns;
    }

    /// Between two probes: at first, and at most.
    fn pauses(&self) -> (u64, u64) {
        let (first, most) =
            if self.is_aside() { (PAUSE_ASIDE, PAUSE_ASIDE_MAX) } else { (PAUSE_SUSPECT, PAUSE_SUSPECT) };
        (first * self.service_ns(), most * self.service_ns())
    }

    /// Look at it: what has changed, if anything.
    pub(super) fn look(&mut self, now: Instant) -> Option<Change> {
        let at = self.advance(now);
        if let Standing::Aside { since, .. } = self.standing {
            return self.is_proven(now, since).then(|| self.set_back(now, since));
        }
        if let Some(why) = self.judge(at) {
            return Some(self.set_aside(now, at, why));
        }
        let is_late = self.under_way.values().any(|flight| at - flight.began_ns > flight.may_take_ns);
        match self.standing {
            Standing::Healthy if is_late || self.is_suspicious => {
                self.standing = Standing::Suspect;
                (self.well, self.probe_at_ns, self.pause_ns) = (0, at, self.pauses().0);
                Some(Change::Suspected)
            }
            Standing::Suspect if !is_late && self.well >= PROBES_CLEAR => {
                (self.standing, self.is_suspicious) = (Standing::Healthy, false);
                Some(Change::Cleared)
            }
            _ => None,
        }
    }

    fn judge(&self, at: u64) -> Option<Gray> {
        let hang_ns = nanos(self.limits.hang_after);
        if hang_ns == 0 || ioengine::canary("never_set_a_gray_disk_aside") {
            return None;
        }
        let oldest = self.under_way.values().map(|flight| flight.began_ns).min();
        let age = oldest.map_or(0, |began| at - began);
        // An operation that others overtake is one of a long queue, or of a disk that orders as it likes.
        let gets_on = at - self.ended_ns < hang_ns / 2 && !ioengine::canary("ignore_progress_of_a_gray_disk");
        if age >= hang_ns && (!gets_on || age >= hang_ns * STUCK_TIMES) {
            return Some(Gray::Hangs);
        }
        let busy: u64 = self.buckets.iter().map(|bucket| bucket.busy_ns).sum();
        let work: u64 = self.buckets.iter().map(|bucket| bucket.work_ns).sum();
        let window_ns = nanos(BUCKET) * BUCKETS as u64;
        if busy >= window_ns * BUSY_TENTHS / 10 && busy > work * SLOW_TIMES {
            return Some(Gray::Slow);
        }
        (self.errors >= ERRORS && self.errors_of_probes >= ERRORS_OF_PROBES).then_some(Gray::Errors)
    }

    fn set_aside(&mut self, now: Instant, at: u64, why: Gray) -> Change {
        // One that was aside a short while ago comes back later each time.
        let is_again = self.back_at.is_some_and(|back| now.since(back) < self.limits.aside_max);
        self.hold = if is_again { self.hold * 2 } else { self.limits.aside_min }.min(self.limits.aside_max);
        self.standing = Standing::Aside { why, since: now };
        (self.well, self.has_written) = (0, false);
        self.pause_ns = self.pauses().0;
        self.probe_at_ns = at + self.pause_ns;
        Change::Aside(why)
    }

    fn is_rested(&self, now: Instant, since: Instant) -> bool {
        now.since(since) >= self.hold && self.under_way.is_empty()
    }

    fn is_proven(&self, now: Instant, since: Instant) -> bool {
        if ioengine::canary("set_a_gray_disk_back_without_a_probe") {
            return now.since(since) >= self.hold;
        }
        self.well >= PROBES_BACK && (self.has_written || !self.may_write) && self.is_rested(now, since)
    }

    fn set_back(&mut self, now: Instant, since: Instant) -> Change {
        (self.standing, self.back_at) = (Standing::Healthy, Some(now));
        self.buckets = [Bucket::default(); BUCKETS];
        (self.errors, self.errors_of_probes, self.is_suspicious) = (0, 0, false);
        Change::Back(now.since(since))
    }

    /// The probe that is due, if one is: begin it.
    pub(super) fn probe(&self, now: Instant) -> Option<Probe> {
        if self.is_probing || self.passed_ns < self.probe_at_ns {
            return None;
        }
        match self.standing {
            Standing::Healthy => None,
            Standing::Suspect => Some(Probe::Read),
            Standing::Aside { since, .. }
                if self.may_write && self.well >= PROBES_BACK && self.is_rested(now, since) =>
            {
                Some(Probe::Write)
            }
            Standing::Aside { .. } => Some(Probe::Read),
        }
    }

    /// Until the next look; `None`: until something begins.
    pub(super) fn rest(&self) -> Option<Duration> {
        match self.standing {
            Standing::Healthy if self.under_way.is_empty() && !self.is_suspicious => None,
            Standing::Healthy => Some(TICK),
            _ if self.is_probing => Some(TICK),
            _ => {
                let until = Duration::from_nanos(self.probe_at_ns.saturating_sub(self.passed_ns));
                Some(until.clamp(Duration::from_micros(100), TICK))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GrayLimits = GrayLimits {
        service: Duration::from_millis(25),
        hang_after: Duration::from_secs(2),
        aside_min: Duration::from_secs(5),
        aside_max: Duration::from_secs(60),
    };

    fn ms(count: u64) -> Instant {
        Instant { ns: count * 1_000_000 }
    }

    /// A disk that is played: each operation takes so long, those of others one after the other, probes beside them.
    struct Play {
        gauge: Gauge,
        now: u64,
        /// Number of the operation, when it ends, and how.
        flights: Vec<(u64, u64, Ended)>,
        changes: Vec<(u64, Change)>,
    }

    impl Play {
        fn new() -> Play {
            let mut gauge = Gauge::new(LIMITS, ms(0));
            gauge.set_may_write(true);
            Play { gauge, now: 0, flights: Vec::new(), changes: Vec::new() }
        }

        /// Until then, with `depth` reads under way at once, of which each ends after `takes` ms; probes after `probe`. `None`: never.
        fn run(&mut self, until: u64, depth: usize, takes: Option<u64>, probe: Option<u64>, ended: Ended) {
            const NEVER: u64 = u64::MAX;
            let after = |now: u64, takes: Option<u64>| takes.map_or(NEVER, |takes| now + takes);
            while self.now < until {
                for (number, _, ended) in self.flights.extract_if(.., |flight| flight.1 <= self.now) {
                    self.gauge.end(ms(self.now), number, ended);
                }
                let is_aside = matches!(self.gauge.standing(), Standing::Aside { .. });
                while !is_aside && self.flights.len() < depth {
                    let number = self.gauge.begin(ms(self.now), Kind::Read, 4096, None);
                    self.flights.push((number, after(self.now, takes), ended));
                }
                if self.now.is_multiple_of(100) {
                    self.changes.extend(self.gauge.look(ms(self.now)).map(|change| (self.now, change)));
                }
                if let Some(kind) = self.gauge.probe(ms(self.now)) {
                    let number = self.gauge.begin(ms(self.now), Kind::Read, 4096, Some(kind));
                    self.flights.push((number, after(self.now, probe), ended));
                }
                self.now += 10;
            }
        }

        fn aside(&self) -> Option<(u64, Gray)> {
            self.changes.iter().find_map(|(at, change)| match change {
                Change::Aside(why) => Some((*at, *why)),
                _ => None,
            })
        }

        /// What is held by the device ends now.
        fn release(&mut self) {
            self.flights.iter_mut().for_each(|flight| flight.1 = flight.1.min(self.now));
        }
    }

    #[test]
    fn what_is_gray_is_set_aside_within_three_seconds_and_what_is_not_stays() {
        // How many reads at once, ms of each, of a probe; how they end; why it is set aside.
        let table = [
            ("a disk that is well", 1, Some(10), Some(10), Ended::Well, None),
            ("200 operations in a second, eight at once", 8, Some(40), Some(40), Ended::Well, None),
            ("10 operations in a second, eight at once", 8, Some(800), Some(100), Ended::Well, None),
            ("it hangs", 1, None, None, Ended::Well, Some(Gray::Hangs)),
            ("it hangs, with a long queue", 8, None, None, Ended::Well, Some(Gray::Hangs)),
            ("a hundred times as slow", 1, Some(1_000), Some(1_000), Ended::Well, Some(Gray::Slow)),
            ("the same with a queue", 8, Some(8_000), Some(1_000), Ended::Well, Some(Gray::Slow)),
            ("it fails everywhere", 1, Some(10), Some(10), Ended::Failed, Some(Gray::Errors)),
        ];
        for (what, depth, takes, probe, ended, why) in table {
            let mut play = Play::new();
            play.run(10_000, depth, takes, probe, ended);
            assert_eq!(play.aside().map(|aside| aside.1), why, "{what}: {:?}", play.changes);
            assert!(play.aside().is_none_or(|(at, _)| at <= 3_000), "{what}: {:?}", play.changes);
        }
        // Slowness that begins while it is busy is seen as soon.
        let mut play = Play::new();
        play.run(20_000, 4, Some(40), Some(10), Ended::Well);
        play.run(23_000, 4, Some(1_500), Some(1_000), Ended::Well);
        assert!(
            play.aside().is_some_and(|(at, why)| at <= 23_000 && why == Gray::Slow),
            "{:?}",
            play.changes
        );
    }

    #[test]
    fn an_operation_that_others_overtake_is_no_hang_but_not_for_ever() {
        let mut play = Play::new();
        play.run(9_000, 1, None, Some(10), Ended::Well);
        assert_eq!(play.changes, [(300, Change::Suspected)]);
        play.run(11_000, 1, None, Some(10), Ended::Well);
        assert_eq!(play.aside(), Some((10_000, Gray::Hangs)));
    }

    #[test]
    fn a_scratch_is_no_disk_that_fails() {
        let mut play = Play::new();
        for at in 0..60 {
            let number = play.gauge.begin(ms(play.now), Kind::Read, 4096, None);
            play.gauge.end(ms(play.now + 5), number, Ended::Failed);
            play.run(10 * (at + 1), 0, None, Some(5), Ended::Well);
        }
        assert!(play.aside().is_none() && play.changes.len() > 1, "{:?}", play.changes);
    }

    #[test]
    fn who_stood_still_blames_no_disk() {
        let mut play = Play::new();
        play.run(1_000, 4, Some(20), Some(10), Ended::Well);
        // The process is stopped; its operations have ended meanwhile, and the clock is what it sees first.
        play.now = 61_000;
        assert_eq!(play.gauge.look(ms(play.now)), None);
        play.run(70_000, 4, Some(20), Some(10), Ended::Well);
        assert!(play.aside().is_none(), "{:?}", play.changes);
    }

    #[test]
    fn it_comes_back_after_proofs_and_later_each_time() {
        let mut play = Play::new();
        play.run(20_000, 2, None, None, Ended::Well);
        let aside = play.aside().expect("it hangs").0;
        assert_eq!(play.changes.last(), Some(&(aside, Change::Aside(Gray::Hangs))), "nothing has ended");
        play.release();
        play.run(30_000, 0, None, Some(10), Ended::Well);
        let (back, change) = *play.changes.last().expect("it is back");
        assert!(matches!(change, Change::Back(_)) && (22_000..26_000).contains(&back), "{:?}", play.changes);
        // Again, a short while later: for twice as long, though it is well at once.
        play.run(34_000, 1, None, None, Ended::Well);
        play.release();
        play.run(60_000, 0, None, Some(10), Ended::Well);
        let Some((_, Change::Back(after))) = play.changes.last() else { panic!("{:?}", play.changes) };
        assert!((10..12).contains(&after.as_secs()), "{:?}", play.changes);
        // Slow probes, and one that fails in each row, keep it aside.
        let mut play = Play::new();
        play.run(60_000, 1, Some(1_000), Some(400), Ended::Well);
        assert!(matches!(play.changes.last(), Some((_, Change::Aside(Gray::Slow)))), "{:?}", play.changes);
    }
}
