//! Scripts of the policy: a tablet of plain times, to which the picks are applied, until there are none.

use super::*;

const LIMITS: WindowLimits =
    WindowLimits { seal_age_us: 7 * DAY_US, window_bytes: 1000, count_max: 256, is_short: false };
/// As few windows as can be.
const FEW: WindowLimits = WindowLimits { count_max: COUNT_MAX_LEAST, ..LIMITS };

/// Records are times; each has ten bytes.
#[derive(Default)]
struct Tablet {
    runs: Vec<Vec<u64>>,
    sealed: Vec<(Window, Vec<u64>)>,
    /// What runs know; those of a merge or a flush know all.
    spreads: Vec<Spread>,
    copied: u64,
    pick_count: usize,
    limits: Option<WindowLimits>,
}

const RECORD_BYTES: u64 = 10;

impl Tablet {
    fn limits(&self) -> WindowLimits {
        self.limits.unwrap_or(LIMITS)
    }

    fn end(&self) -> u64 {
        self.sealed.last().map_or(0, |last| last.0.to)
    }

    fn spread(&self, times: &[u64]) -> Spread {
        let mut spread = Spread::new(self.end());
        times.iter().for_each(|time| spread.add(*time));
        spread
    }

    fn flush(&mut self, times: impl IntoIterator<Item = u64>) {
        let times: Vec<u64> = times.into_iter().collect();
        self.spreads.insert(0, self.spread(&times));
        self.runs.insert(0, times);
    }

    fn merge(&mut self) {
        let times: Vec<u64> = self.runs.drain(..).flatten().collect();
        self.spreads.clear();
        self.flush(times);
    }

    fn pick(&self, log_time: u64) -> Option<Pick> {
        let runs: Vec<Run> = self
            .runs
            .iter()
            .zip(&self.spreads)
            .map(|(times, spread)| Run {
                times: (*times.iter().min().unwrap(), *times.iter().max().unwrap()),
                bytes: times.len() as u64 * RECORD_BYTES,
                record_count: times.len() as u64,
                spread: *spread,
            })
            .collect();
        let sealed: Vec<Sealed> = self
            .sealed
            .iter()
            .map(|(window, times)| Sealed {
                window: *window,
                bytes: times.len() as u64 * RECORD_BYTES,
                record_count: times.len() as u64,
                expired_count: 0,
                is_sunk: false,
            })
            .collect();
        pick(&runs, &sealed, LogTime(log_time), &self.limits())
    }

    fn apply(&mut self, picked: &Pick, closed: u64) {
        for pair in picked.windows.windows(2) {
            assert!(pair[0].to <= pair[1].from, "windows are apart: {picked:?}");
        }
        for window in &picked.windows {
            let length = window.to - window.from;
            assert!(length.is_multiple_of(DAY_US) && (length / DAY_US).is_power_of_two(), "{window:?}");
            assert!(window.from.is_multiple_of(length), "{window:?}");
            assert!(window.to <= closed.max(self.end()), "{window:?} is not closed");
        }
        let mut all: Vec<u64> = self.runs.drain(..).flatten().collect();
        self.spreads.clear();
        for place in picked.taken.iter().rev() {
            all.extend(self.sealed.remove(*place).1);
        }
        self.copied += all.len() as u64;
        let kept = |window: &Window| self.sealed.iter().all(|one| !one.0.meets(window.from, window.to));
        assert!(picked.windows.iter().all(kept), "{picked:?} beside {:?}", self.windows());
        for window in &picked.windows {
            let (inside, outside): (Vec<u64>, Vec<u64>) =
                all.into_iter().partition(|time| window.holds(*time));
            all = outside;
            if !inside.is_empty() {
                self.sealed.push((*window, inside));
            }
        }
        self.sealed.sort_by_key(|one| one.0.from);
        if !all.is_empty() {
            self.flush(all);
        }
    }

    /// Apply the policy's picks until there are none.
    fn settle(&mut self, log_time: u64) {
        let closed = log_time.saturating_sub(LIMITS.seal_age_us) / DAY_US * DAY_US;
        for _ in 0..100 {
            let Some(picked) = self.pick(log_time) else {
                assert!(self.sealed.len() <= self.limits().count_max, "{:?}", self.windows());
                return;
            };
            self.pick_count += 1;
            self.apply(&picked, closed);
        }
        panic!("a hundred picks and no end: {:?}", self.windows());
    }

    fn windows(&self) -> Vec<(u64, u64, u32, usize)> {
        self.sealed
            .iter()
            .map(|(window, times)| (window.from / DAY_US, window.to / DAY_US, window.generation, times.len()))
            .collect()
    }

    fn count(&self) -> usize {
        self.runs.iter().map(Vec::len).sum::<usize>()
            + self.sealed.iter().map(|one| one.1.len()).sum::<usize>()
    }
}

fn day(number: u64) -> u64 {
    number * DAY_US
}

#[test]
fn what_is_young_is_left_alone() {
    let mut tablet = Tablet::default();
    tablet.flush((0..500).map(|n| day(100) + n));
    assert_eq!(tablet.pick(day(107)), None, "its day is not older than the seal age yet");
    assert_eq!(tablet.pick(day(108) - 1), None);
    let picked = tablet.pick(day(108)).unwrap();
    assert_eq!(
        picked,
        Pick { windows: vec![Window { from: day(100), to: day(101), generation: 1 }], taken: vec![] }
    );
}

#[test]
fn little_waits_for_more() {
    let mut tablet = Tablet::default();
    tablet.flush((0..24).map(day));
    assert_eq!(tablet.pick(day(1000)), None, "240 bytes are less than a quarter of a window");
    tablet.flush((24..26).map(day));
    assert!(tablet.pick(day(1000)).is_some());
}

#[test]
fn what_would_be_copied_for_little_is_left_alone() {
    let mut tablet = Tablet::default();
    tablet.flush((0..30).map(day));
    tablet.flush((0..500).map(|n| day(2000) + n));
    assert_eq!(tablet.pick(day(2003)), None, "300 bytes ready, 5,300 copied");
}

#[test]
fn twenty_years_in_a_minute_end_in_few_windows() {
    // Daily records, then sixteen times as many.
    for times in [1u64, 16] {
        let mut tablet = Tablet::default();
        let first = 13_149;
        for flush in 0..16 {
            let days = first + flush * 456..first + (flush + 1) * 456;
            tablet.flush(days.flat_map(|number| (0..times).map(move |n| day(number) + n)));
        }
        let count = tablet.count();
        tablet.settle(day(first + 7300));
        assert_eq!(tablet.count(), count);
        let expected = count as u64 * RECORD_BYTES / LIMITS.window_bytes;
        assert!(
            tablet.sealed.len() as u64 <= 2 * expected.min(WINDOWS_PER_PASS) + 12,
            "{:?}",
            tablet.windows()
        );
        assert!(tablet.copied <= 4 * count as u64, "copied {} of {count}", tablet.copied);
    }
}

#[test]
fn a_bulk_that_is_expected_to_fill_one_window_is_one() {
    let mut tablet = Tablet::default();
    tablet.flush((0..90).map(|n| day(300 + n)));
    tablet.settle(day(520));
    assert_eq!(tablet.windows(), [(0, 512, 1, 90)]);
}

#[test]
fn days_as_they_pass_become_longer_windows() {
    let mut tablet = Tablet::default();
    for number in 0..1024 {
        tablet.flush((0..8).map(|n| day(number) + n));
        tablet.settle(day(number + 1));
        if tablet.runs.len() > 4 {
            tablet.merge();
        }
    }
    assert_eq!(tablet.count(), 8 * 1024);
    assert!(tablet.sealed.len() < 160, "{:?}", tablet.windows());
    assert!(tablet.copied < 8 * 1024 * 8, "each record was copied {} times", tablet.copied / (8 * 1024));
}

#[test]
fn thin_neighbours_become_the_rung_that_contains_them() {
    let mut tablet = Tablet::default();
    for number in [8, 9, 10, 11, 12] {
        let window = Window { from: day(number), to: day(number + 1), generation: 1 };
        tablet.sealed.push((window, vec![day(number); 20]));
    }
    assert_eq!(tablet.pick(day(20)).unwrap().taken, [0, 1, 2, 3], "the eight days to day 16 are not closed");
    tablet.settle(day(20));
    assert_eq!(tablet.windows(), [(8, 12, 2, 80), (12, 13, 1, 20)]);
    tablet.settle(day(23));
    assert_eq!(tablet.windows(), [(8, 16, 3, 100)]);
}

#[test]
fn fat_windows_stay_apart() {
    let mut tablet = Tablet::default();
    for number in [8, 9] {
        let window = Window { from: day(number), to: day(number + 1), generation: 1 };
        tablet.sealed.push((window, vec![day(number); 60]));
    }
    assert_eq!(tablet.pick(day(100)), None);
}

#[test]
fn a_window_is_sealed_again_when_much_lies_above_it() {
    let mut tablet = Tablet::default();
    tablet.sealed.push((Window { from: day(0), to: day(64), generation: 3 }, vec![day(1); 90]));
    tablet.sealed.push((Window { from: day(64), to: day(128), generation: 1 }, vec![day(65); 90]));
    tablet.flush([day(5); 20]);
    assert_eq!(tablet.pick(day(200)), None, "200 of 900 bytes");
    tablet.flush([day(6); 12]);
    let picked = tablet.pick(day(200)).unwrap();
    let again = Window { from: day(0), to: day(64), generation: 4 };
    assert_eq!(picked, Pick { windows: vec![again], taken: vec![0] });
    tablet.settle(day(200));
    assert_eq!(tablet.windows(), [(0, 64, 4, 122), (64, 128, 1, 90)]);
}

#[test]
fn what_falls_between_windows_gets_its_own() {
    let mut tablet = Tablet::default();
    tablet.sealed.push((Window { from: day(64), to: day(128), generation: 1 }, vec![day(65); 90]));
    tablet.flush((3..40).map(day));
    let picked = tablet.pick(day(200)).unwrap();
    assert_eq!(picked.windows, [Window { from: 0, to: day(64), generation: 1 }]);
    assert!(picked.taken.is_empty());
}

#[test]
fn a_run_written_while_windows_were_sealed_is_looked_at_once() {
    let mut tablet = Tablet::default();
    tablet.flush((0..60).map(|n| day(10 + n)));
    tablet.settle(day(300));
    let end = tablet.end();
    assert!(end > 0);
    // It knows of no window, has nothing that could be sealed, and seems to be all late and all open.
    let mut times = vec![end + day(300); 200];
    times.push(day(12));
    tablet.runs.push(times);
    tablet.spreads.push(Spread { sealed_to: 0, late_count: 0, open_from: day(12) });
    let before = tablet.pick_count;
    tablet.settle(end + day(307));
    assert!(tablet.pick_count <= before + 2, "{} picks", tablet.pick_count - before);
}

/// A plain sequence of numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn every_script_comes_to_rest_and_loses_nothing() {
    for seed in 0..400 {
        let mut numbers = Numbers(seed / 2);
        let limits = if seed % 2 == 0 { LIMITS } else { WindowLimits { window_bytes: 50, ..FEW } };
        let mut tablet = Tablet { limits: Some(limits), ..Tablet::default() };
        let mut now = day(40 + numbers.below(20_000));
        let (mut count, start) = (0, now);
        for _ in 0..60 {
            let length = 1 + numbers.below(90);
            let style = numbers.below(4);
            let times: Vec<u64> = (0..length)
                .map(|_| match style {
                    0 => now.saturating_sub(numbers.below(DAY_US)),
                    1 => numbers.below(now),
                    2 if numbers.below(10) > 0 => now,
                    _ => start.saturating_sub(numbers.below(day(30))),
                })
                .collect();
            count += times.len();
            tablet.flush(times);
            if numbers.below(3) == 0 {
                tablet.merge();
            }
            now += numbers.below(day(6));
            tablet.settle(now);
        }
        assert_eq!(tablet.count(), count, "seed {seed}");
        let most = if seed % 2 == 0 { 16 } else { 60 };
        assert!(tablet.copied <= most * count as u64, "seed {seed}: {} copied of {count}", tablet.copied);
    }
}

#[test]
fn more_windows_than_the_bound_become_fewer() {
    let mut tablet = Tablet { limits: Some(FEW), ..Tablet::default() };
    for number in 0..40 {
        let window = Window { from: day(number), to: day(number + 1), generation: 1 };
        // The thinnest neighbours are those of days 20 and 21.
        let count = if number / 2 == 10 { 90 } else { 100 };
        tablet.sealed.push((window, vec![day(number); count]));
    }
    assert_eq!(tablet.pick(day(100)).unwrap().taken, [20, 21]);
    tablet.settle(day(100));
    assert_eq!(tablet.sealed.len(), FEW.count_max);
}

#[test]
fn a_pass_that_would_make_too_many_makes_larger_ones() {
    // Full days, in holes between full windows: nothing of it is thin.
    let mut tablet = Tablet { limits: Some(FEW), ..Tablet::default() };
    for number in 0..16 {
        let window = Window { from: day(2 * number), to: day(2 * number + 1), generation: 1 };
        tablet.sealed.push((window, vec![day(2 * number); 100]));
    }
    tablet.flush((0..40).flat_map(|number| vec![day(2 * number + 1); 100]));
    let count = tablet.count();
    tablet.settle(day(200));
    assert_eq!(tablet.count(), count);
    assert!(tablet.sealed.len() <= FEW.count_max);
    assert!(tablet.runs.is_empty());
}

#[test]
fn a_window_that_became_fat_is_cut() {
    // One record of long ago and a burst: by expectation all of it is thin.
    let mut tablet = Tablet::default();
    let mut times = vec![day(0)];
    times.extend((0..2000).map(|n| day(1000) + n % 64 * DAY_US));
    tablet.flush(times);
    tablet.settle(day(2000));
    assert!(tablet.sealed.iter().all(|one| one.1.len() as u64 * RECORD_BYTES <= FAT * LIMITS.window_bytes));
    assert!(tablet.copied <= 12 * 2001, "{}", tablet.copied);
}

#[test]
fn a_window_of_which_a_quarter_has_expired_is_written_again() {
    let window = Window { from: 0, to: day(8), generation: 3 };
    let sealed =
        |expired_count| [Sealed { window, bytes: 1000, record_count: 100, expired_count, is_sunk: false }];
    let at = |expired_count, limits: &WindowLimits| {
        pick(&[], &sealed(expired_count), LogTime(day(100)), limits).map(|picked| picked.windows)
    };
    let again = Some(vec![Window { generation: 4, ..window }]);
    assert_eq!(at(24, &LIMITS), None);
    assert_eq!(at(25, &LIMITS), again);
    let short = WindowLimits { is_short: true, ..LIMITS };
    assert_eq!(at(6, &short), None);
    assert_eq!(at(7, &short), again);
}

#[test]
fn short_of_space_one_delete_is_enough() {
    let mut tablet = Tablet::default();
    tablet.sealed.push((Window { from: 0, to: day(8), generation: 1 }, vec![day(1); 90]));
    tablet.flush([day(2)]);
    assert_eq!(tablet.pick(day(100)), None);
    tablet.limits = Some(WindowLimits { is_short: true, ..LIMITS });
    tablet.settle(day(100));
    assert_eq!(tablet.windows(), [(0, 8, 2, 91)]);
}

#[test]
fn what_is_sunk_is_copied_only_for_what_was_written_above_it() {
    let window = |number: u64| Window { from: day(number), to: day(number + 1), generation: 1 };
    let sealed = |is_sunk, expired_count| -> Vec<Sealed> {
        let one =
            |number| Sealed { window: window(number), bytes: 40, record_count: 4, expired_count, is_sunk };
        (0..2 * FEW.count_max as u64).map(one).collect()
    };
    let short = WindowLimits { is_short: true, ..FEW };
    for limits in [FEW, short] {
        assert!(pick(&[], &sealed(false, 2), LogTime(day(900)), &limits).is_some(), "thin, and too many");
        assert_eq!(pick(&[], &sealed(true, 2), LogTime(day(900)), &limits), None);
    }
    // Late records in the first one: few stay above it, also where space is short; many bring it back.
    let late = |record_count: u64| Run {
        times: (day(0), day(0) + 5),
        bytes: record_count * RECORD_BYTES,
        record_count,
        spread: Spread {
            sealed_to: day(2 * FEW.count_max as u64),
            late_count: record_count,
            open_from: u64::MAX,
        },
    };
    let at = |record_count: u64, bytes: u64, limits: &WindowLimits| {
        let mut sealed = sealed(true, 0);
        sealed[0].bytes = bytes;
        pick(&[late(record_count)], &sealed, LogTime(day(900)), limits)
    };
    assert_eq!(at(1, 4000, &FEW), None);
    assert_eq!(at(1, 4000, &short), None, "bringing it back would take space");
    let again = at(400, 4000, &FEW).expect("worth a copy");
    assert_eq!((again.taken, again.windows), (vec![0], vec![Window { generation: 2, ..window(0) }]));
}
