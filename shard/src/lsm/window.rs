//! Which windows of a tablet to seal next. A pure function of the tablet's list of tables, its log time and the limits.
//!
//! What is older than the seal age may be sealed. Windows are rungs of a ladder: a day times a power of two, aligned to its
//! own length, as long as it is expected to hold about `window_bytes`. So history loaded in bulk ends in few windows, and of
//! two windows one contains the other or they are apart. Thin neighbours become the rung that contains them; a window with
//! much above it is sealed again, with what is above it.
//!
//! ```text
//! times:   | window | window |  hole  | window | sealed end .. open .. closed | .. younger than the seal age .. log time |
//! ```
//!
//! A run knows how many of its records were *late*, below the sealed end, when it was written. Must never pick what would
//! free less than a quarter of what the pass copies: the copies are paid by what was written since. Windows beyond their
//! bound are the exception, and space that is short. Invariant: with nothing written, its own picks end, and leave no more
//! windows than the bound.

use layout::units::LogTime;
use std::ops::Range;

/// The shortest window, microseconds.
pub(crate) const DAY_US: u64 = 86_400_000_000;
/// The longest has a day times two to this: 179 years.
const RUNG_MAX: u32 = 16;
/// A pass copies at most so many times what it gains.
const COPIED_PER_GAINED: u64 = 4;
/// New windows wait until they would be this part of `window_bytes` full.
const WINDOW_PART: u64 = 4;
/// Windows of one pass, by expectation: a bulk larger than so many windows has larger ones.
const WINDOWS_PER_PASS: u64 = 64;
/// A window of more times `window_bytes` was expected to be thinner: it is cut in two.
const FAT: u64 = 4;

/// What a run knew of its records when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Where the last sealed window ended.
    pub(crate) sealed_to: u64,
    /// Records below that.
    pub(crate) late_count: u64,
    /// Lowest time at or above it; `u64::MAX` when there is none.
    pub(crate) open_from: u64,
}

impl Spread {
    /// Of no records.
    pub(crate) fn new(sealed_to: u64) -> Spread {
        Spread { sealed_to, late_count: 0, open_from: u64::MAX }
    }

    /// One more record.
    pub(crate) fn add(&mut self, time: u64) {
        if time < self.sealed_to {
            self.late_count += 1;
        } else {
            self.open_from = self.open_from.min(time);
        }
    }
}

/// A run, as the policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Lowest and highest time.
    pub(crate) times: (u64, u64),
    /// Bytes before compression.
    pub(crate) bytes: u64,
    /// Records.
    pub(crate) record_count: u64,
    /// What it knew when it was written.
    pub(crate) spread: Spread,
}

/// A sealed window, as the policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// Which it is.
    pub(crate) window: Window,
    /// Bytes before compression.
    pub(crate) bytes: u64,
    /// Records, and how many of them have expired.
    pub(crate) record_count: u64,
    pub(crate) expired_count: u64,
    /// Its records stand on cold disks: it is copied only together with what was written above it.
    pub(crate) is_sunk: bool,
}

/// A window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// First time.
    pub(crate) from: u64,
    /// First time behind it.
    pub(crate) to: u64,
    /// How often it was sealed.
    pub(crate) generation: u32,
}

impl Window {
    /// Does the time fall in it?
    pub(crate) fn holds(&self, time: u64) -> bool {
        (self.from..self.to).contains(&time)
    }

    fn meets(&self, from: u64, to: u64) -> bool {
        self.from < to && from < self.to
    }
}

/// Bounds of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowLimits {
    /// What is younger is not sealed, microseconds of log time.
    pub(crate) seal_age_us: u64,
    /// What a window is expected to hold before compression.
    pub(crate) window_bytes: u64,
    /// Windows that a tablet may have: at least [`COUNT_MAX_LEAST`].
    pub(crate) count_max: usize,
    /// Space is short: what is deleted leaves windows whatever is copied for it, and there are fewer.
    pub(crate) is_short: bool,
}

/// The least bound of windows that can be kept to: from the first time on, without a limit of bytes, there is one rung for
/// each binary digit of the number of days.
pub(crate) const COUNT_MAX_LEAST: usize = 2 * (RUNG_MAX as usize + 1);

/// A pass to be done: all runs and some sealed windows become these windows and one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Windows to write, apart from each other and from those not taken; in order of time.
    pub(crate) windows: Vec<Window>,
    /// Places of the sealed windows that take part, ascending.
    pub(crate) taken: Vec<usize>,
}

/// Records of a run on one side of the sealed end, supposed to be evenly spread.
#[derive(Clone, Copy)]
struct Part {
    from: u64,
    to: u64,
    bytes: u64,
}

impl Part {
    /// Bytes of it in a span.
    fn share(&self, from: u64, to: u64) -> u64 {
        let (low, high) = (self.from.max(from), self.to.min(to));
        if low >= high {
            return 0;
        }
        let share = u128::from(self.bytes) * u128::from(high - low) / u128::from(self.to - self.from);
        u64::try_from(share).expect("a share is not larger than the whole")
    }
}

fn share(parts: &[Part], from: u64, to: u64) -> u64 {
    parts.iter().map(|part| part.share(from, to)).sum()
}

/// What of a run is late, and what is open.
fn parts(run: &Run, end: u64) -> (Option<Part>, Option<Part>) {
    let (low, high) = (run.times.0, run.times.1.saturating_add(1));
    if low >= end {
        return (None, Some(Part { from: low, to: high, bytes: run.bytes }));
    }
    if high <= end {
        return (Some(Part { from: low, to: high, bytes: run.bytes }), None);
    }
    let spread = run.spread;
    if spread.sealed_to != end {
        // Written while windows were sealed: it may be all late, and all open.
        let bytes = run.bytes;
        return (Some(Part { from: low, to: end, bytes }), Some(Part { from: end, to: high, bytes }));
    }
    let late = u128::from(run.bytes) * u128::from(spread.late_count) / u128::from(run.record_count.max(1));
    let late = u64::try_from(late).unwrap_or(u64::MAX).clamp(1, run.bytes);
    let from = spread.open_from.clamp(end, high - 1);
    (Some(Part { from: low, to: end, bytes: late }), Some(Part { from, to: high, bytes: run.bytes - late }))
}

/// The next pass of a tablet with these runs and these sealed windows, in order of time; `None` when there is nothing to
/// gain.
pub(crate) fn pick(
    runs: &[Run],
    sealed: &[Sealed],
    log_time: LogTime,
    limits: &WindowLimits,
) -> Option<Pick> {
    let closed = log_time.0.saturating_sub(limits.seal_age_us) / DAY_US * DAY_US;
    let picked = pick_unbounded(runs, sealed, closed, limits);
    let made = picked.as_ref().map_or(0, |picked| picked.windows.len());
    let is_hot = |place: &usize| !sealed[*place].is_sunk;
    let gone = picked.as_ref().map_or(0, |picked| picked.taken.iter().copied().filter(is_hot).count());
    let hot_count = (0..sealed.len()).filter(is_hot).count();
    // Sunk windows are not counted, nor brought back for the sake of their number.
    if hot_count + made - gone <= limits.count_max || hot_count < sealed.len() {
        return picked;
    }
    if sealed.len() > limits.count_max / 2
        && let Some(picked) = merged(sealed, closed, u64::MAX, |bytes, _| bytes)
    {
        return Some(picked);
    }
    Some(anew(runs, sealed, closed, limits))
}

/// Everything that is old enough, in half as many windows as there may be.
fn anew(runs: &[Run], sealed: &[Sealed], closed: u64, limits: &WindowLimits) -> Pick {
    let end = sealed.last().map_or(0, |last| last.window.to);
    let room = 0..closed.max(end);
    let of_runs = runs.iter().map(|run| Part {
        from: run.times.0,
        to: run.times.1.saturating_add(1),
        bytes: run.bytes,
    });
    let of_windows =
        sealed.iter().map(|one| Part { from: one.window.from, to: one.window.to, bytes: one.bytes });
    let parts: Vec<Part> = of_runs.chain(of_windows).collect();
    let generation = sealed.iter().map(|one| one.window.generation).max().unwrap_or(0) + 1;
    let mut bytes = limits.window_bytes;
    loop {
        let mut windows = Vec::new();
        cut_late(&room, &parts, bytes, &mut windows);
        if windows.len() <= limits.count_max / 2 || bytes == u64::MAX {
            let windows = windows.into_iter().map(|window| Window { generation, ..window }).collect();
            return Pick { windows, taken: (0..sealed.len()).collect() };
        }
        bytes = bytes.saturating_mul(2);
    }
}

/// As [`pick`], of any number of windows.
fn pick_unbounded(runs: &[Run], sealed: &[Sealed], closed: u64, limits: &WindowLimits) -> Option<Pick> {
    let end = sealed.last().map_or(0, |last| last.window.to);
    let (mut late, mut open) = (Vec::new(), Vec::new());
    for run in runs {
        let (of_late, of_open) = parts(run, end);
        late.extend(of_late);
        open.extend(of_open);
    }
    let copied: u64 = runs.iter().map(|run| run.bytes).sum();
    let touched: Vec<usize> = (0..sealed.len())
        .filter(|place| late.iter().any(|part| sealed[*place].window.meets(part.from, part.to)))
        .collect();
    let beneath: u64 = touched.iter().map(|place| sealed[*place].bytes).sum();
    let late_bytes: u64 = late.iter().map(|part| part.bytes).sum();
    let ready = share(&open, end, closed);
    let is_new =
        ready > 0 && ready >= limits.window_bytes / WINDOW_PART && ready * COPIED_PER_GAINED >= copied;
    // Bringing back what is sunk takes space before it gives any.
    let is_short = limits.is_short && !touched.iter().any(|place| sealed[*place].is_sunk);
    let is_again = late_bytes > 0 && (late_bytes * COPIED_PER_GAINED >= beneath + copied || is_short);
    if !is_new && !is_again {
        return thin(sealed, copied, closed, limits)
            .or_else(|| rid_of_expired(sealed, copied, limits))
            .or_else(|| cut_fat(sealed, copied, limits));
    }
    let mut windows = Vec::new();
    let mut taken = Vec::new();
    // Whoever copies all runs anyway takes what is late along when that is worth its windows alone.
    if is_again || (late_bytes > 0 && late_bytes * COPIED_PER_GAINED >= beneath) {
        windows.extend(touched.iter().map(|place| {
            let window = sealed[*place].window;
            Window { generation: window.generation + 1, ..window }
        }));
        let bytes = limits.window_bytes.max(late_bytes / WINDOWS_PER_PASS);
        for hole in holes(sealed) {
            cut_late(&hole, &late, bytes, &mut windows);
        }
        taken = touched;
    }
    if is_new {
        cut_open(&(end..closed), &open, limits, &mut windows);
    }
    windows.sort_unstable_by_key(|window| window.from);
    Some(Pick { windows, taken })
}

/// The spans below the sealed end that are in no window.
fn holes(sealed: &[Sealed]) -> Vec<Range<u64>> {
    let mut from = 0;
    let mut holes = Vec::new();
    for Sealed { window, .. } in sealed {
        if from < window.from {
            holes.push(from..window.from);
        }
        from = window.to;
    }
    holes
}

/// The longest rung that holds `time`, stays in `room`, and is expected to hold at most `bytes`; a day at least.
fn rung(time: u64, room: &Range<u64>, parts: &[Part], bytes: u64) -> Window {
    let at = |rung: u32| {
        let length = DAY_US << rung;
        let from = time / length * length;
        Window { from, to: from.saturating_add(length), generation: 1 }
    };
    let fits = |window: &Window| {
        window.from >= room.start && window.to <= room.end && share(parts, window.from, window.to) <= bytes
    };
    (1..=RUNG_MAX).map(at).take_while(fits).last().unwrap_or_else(|| at(0))
}

/// Windows for what is late and lies in a hole.
fn cut_late(hole: &Range<u64>, late: &[Part], bytes: u64, windows: &mut Vec<Window>) {
    let first = late.iter().map(|part| part.from).min().unwrap_or(hole.end);
    let mut at = hole.start.max(first / DAY_US * DAY_US);
    while at < hole.end {
        let window = rung(at, hole, late, bytes);
        if late.iter().any(|part| window.meets(part.from, part.to)) {
            windows.push(window);
        }
        at = window.to;
    }
}

/// Windows for what is open and closed by its age. A thin rest waits for more.
fn cut_open(room: &Range<u64>, open: &[Part], limits: &WindowLimits, windows: &mut Vec<Window>) {
    let bytes = limits.window_bytes.max(share(open, room.start, room.end) / WINDOWS_PER_PASS);
    let first = open.iter().map(|part| part.from).min().unwrap_or(room.end);
    let mut at = room.start.max(first / DAY_US * DAY_US);
    let begin = at;
    while at < room.end {
        if at > begin && share(open, at, room.end) < bytes / WINDOW_PART {
            break;
        }
        let window = rung(at, room, open, bytes);
        windows.push(window);
        at = window.to;
    }
}

/// Thin neighbours: the rung that holds most windows, whole, and is not fat.
fn thin(sealed: &[Sealed], copied: u64, closed: u64, limits: &WindowLimits) -> Option<Pick> {
    let bytes_max = if limits.is_short { limits.window_bytes * FAT } else { limits.window_bytes };
    let is_worth = |bytes: u64| copied <= bytes * COPIED_PER_GAINED || limits.is_short;
    let cost = |bytes, count| if is_worth(bytes) { u64::MAX - 1 - count } else { u64::MAX };
    merged(sealed, closed, bytes_max, cost)
}

/// Neighbours that become the rung that holds them, whole, and is not larger than so: those that cost least, and not
/// `u64::MAX`. `cost` is asked of their bytes and count.
fn merged(sealed: &[Sealed], closed: u64, bytes_max: u64, cost: impl Fn(u64, u64) -> u64) -> Option<Pick> {
    let mut best: Option<(u64, Window, Range<usize>)> = None;
    for place in 1..sealed.len() {
        for rung in 1..=RUNG_MAX {
            let length = DAY_US << rung;
            let from = sealed[place].window.from / length * length;
            let to = from.saturating_add(length);
            let begin = sealed[..place].partition_point(|one| one.window.to <= from);
            let end = sealed.partition_point(|one| one.window.from < to);
            let all = &sealed[begin..end];
            let bytes: u64 = all.iter().map(|one| one.bytes).sum();
            let is_cut = all.iter().any(|one| one.window.from < from || one.window.to > to || one.is_sunk);
            if to > closed || bytes > bytes_max {
                break;
            }
            if is_cut || all.len() < 2 {
                continue;
            }
            let cost = cost(bytes, all.len() as u64);
            if cost < best.as_ref().map_or(u64::MAX, |(least, ..)| *least) {
                let generation = all.iter().map(|one| one.window.generation).max().expect("several") + 1;
                best = Some((cost, Window { from, to, generation }, begin..end));
            }
        }
    }
    best.map(|(_, window, places)| Pick { windows: vec![window], taken: places.collect() })
}

/// A window a quarter of which has expired, a sixteenth while space is short: it is written again without. Those of which
/// nothing is left are not copied (`expire`).
fn rid_of_expired(sealed: &[Sealed], copied: u64, limits: &WindowLimits) -> Option<Pick> {
    let place = sealed.iter().position(|one| {
        let gain =
            u128::from(one.bytes) * u128::from(one.expired_count) / u128::from(one.record_count.max(1));
        let is_worth = gain * u128::from(COPIED_PER_GAINED) >= u128::from(one.bytes) + u128::from(copied);
        !one.is_sunk
            && one.expired_count > 0
            && (is_worth || limits.is_short && one.expired_count * 16 >= one.record_count)
    })?;
    let window = sealed[place].window;
    Some(Pick { windows: vec![Window { generation: window.generation + 1, ..window }], taken: vec![place] })
}

/// A window that holds much more than was expected: its halves. Not while there are many.
fn cut_fat(sealed: &[Sealed], copied: u64, limits: &WindowLimits) -> Option<Pick> {
    if sealed.len() >= limits.count_max / 2 || limits.is_short {
        return None;
    }
    let is_fat = |one: &Sealed| {
        !one.is_sunk
            && one.window.to - one.window.from > DAY_US
            && one.bytes / FAT > limits.window_bytes
            && copied <= one.bytes * COPIED_PER_GAINED
    };
    let place = sealed.iter().position(is_fat)?;
    let Window { from, to, generation } = sealed[place].window;
    let (middle, generation) = (from + (to - from) / 2, generation + 1);
    let windows = vec![Window { from, to: middle, generation }, Window { from: middle, to, generation }];
    Some(Pick { windows, taken: vec![place] })
}

#[cfg(test)]
mod tests;
