//! Which tables of a tablet are merged next: a pure function of their sizes and levels, newest first.
//!
//! Tiered: a flush makes a run of level 0; `fan_in` runs of one level become one run of the next. A record is
//! written once per level, and a tablet of N flushes has at most (fan-in - 1) runs on each of log N levels.
//! Invariant: what is merged is contiguous in age, so that newer tables stay newer.

/// More runs than the fan-in times this are merged whatever their levels: it bounds what a get may have to ask.
const FULL_LEVEL_COUNT: usize = 3;

/// What the policy looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// 0 = from a flush.
    pub(crate) level: u8,
    /// Size on the device.
    pub(crate) bytes: u64,
    /// Records that hide something, or that have expired: they go when they meet the oldest table.
    pub(crate) dead_count: u64,
    /// Records in all.
    pub(crate) record_count: u64,
    /// Sealed windows lie beneath its times: what hides something in them stays.
    pub(crate) is_overlay: bool,
}

/// Bounds of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunLimits {
    /// Runs of one level that become one of the next.
    pub(crate) fan_in: usize,
    /// Runs that a tablet may have: at most a fan-in fewer are left as they are.
    pub(crate) count_max: usize,
    /// Older runs than those of the list: a seal is at them.
    pub(crate) sealing_count: usize,
    /// A sealed table of another replica may come beneath: some of what is dead stays.
    pub(crate) keeps_dead: bool,
    /// Space is short: fewer tables first. The output of a merge may have so many bytes.
    pub(crate) squeeze_bytes: Option<u64>,
}

/// A merge to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Places in the list, newest first; contiguous.
    pub(crate) tables: std::ops::Range<usize>,
    /// Level of what comes out.
    pub(crate) level: u8,
    /// The oldest run takes part: what is deleted or expired need not be kept, but for sealed windows.
    pub(crate) is_bottom: bool,
}

/// The next merge of a tablet whose runs are `runs`, newest first; `None` when there is nothing to gain.
pub(crate) fn pick(runs: &[Run], limits: &RunLimits) -> Option<Pick> {
    let RunLimits { fan_in, count_max, sealing_count, keeps_dead, squeeze_bytes } = *limits;
    let is_free = sealing_count == 0 && !keeps_dead;
    let make = |tables: std::ops::Range<usize>, level: u8| Pick {
        is_bottom: tables.end == runs.len() && sealing_count == 0,
        level,
        tables,
    };
    if let Some(picked) = squeeze_bytes.and_then(|bytes| squeeze(runs, bytes, is_free, make)) {
        return Some(picked);
    }
    // The lowest full level first: it is the cheapest, and it makes room for flushes.
    let mut begin = 0;
    while begin < runs.len() {
        let level = runs[begin].level;
        let count = runs[begin..].iter().take_while(|run| run.level == level).count();
        if count >= fan_in {
            return Some(make(begin..begin + count, level.saturating_add(1)));
        }
        begin += count;
    }
    let is_crowded =
        runs.len() > FULL_LEVEL_COUNT * fan_in || runs.len() + sealing_count + fan_in > count_max;
    if is_crowded && runs.len() >= 2 {
        return Some(cheapest(runs, fan_in.min(runs.len()), make));
    }
    // Half of the oldest run's records are dead, and nothing is beneath: rewrite it alone.
    let last = runs.len().checked_sub(1)?;
    let oldest = &runs[last];
    if oldest.dead_count * 2 > oldest.record_count && !oldest.is_overlay && is_free {
        return Some(make(last..last + 1, oldest.level));
    }
    None
}

/// Space is short: all runs as one, or as many of the newest as there is room for; else the oldest without its dead.
fn squeeze(
    runs: &[Run],
    bytes_max: u64,
    is_bottom: bool,
    make: impl Fn(std::ops::Range<usize>, u8) -> Pick,
) -> Option<Pick> {
    let mut bytes = 0;
    let fits = |run: &&Run| {
        bytes += run.bytes;
        bytes <= bytes_max
    };
    let count = runs.iter().take_while(fits).count();
    if count >= 2 {
        let level = runs[..count].iter().map(|run| run.level).max().expect("not empty");
        return Some(make(0..count, level));
    }
    let last = runs.len().checked_sub(1)?;
    let oldest = &runs[last];
    let gains = is_bottom && oldest.dead_count > 0 && !oldest.is_overlay && oldest.bytes <= bytes_max;
    gains.then(|| make(last..last + 1, oldest.level))
}

/// The `count` neighbours with the fewest bytes.
fn cheapest(runs: &[Run], count: usize, make: impl Fn(std::ops::Range<usize>, u8) -> Pick) -> Pick {
    let bytes = |begin: usize| runs[begin..begin + count].iter().map(|run| run.bytes).sum::<u64>();
    let begin = (0..=runs.len() - count).min_by_key(|begin| bytes(*begin)).expect("so many runs at least");
    let level = runs[begin..begin + count].iter().map(|run| run.level).max().expect("not empty");
    make(begin..begin + count, level)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RunLimits =
        RunLimits { fan_in: 8, count_max: 64, sealing_count: 0, keeps_dead: false, squeeze_bytes: None };

    fn pick8(runs: &[Run]) -> Option<Pick> {
        pick(runs, &LIMITS)
    }

    fn runs(levels: &[u8]) -> Vec<Run> {
        let run = |level: &u8| Run {
            level: *level,
            bytes: 10 << (3 * level),
            dead_count: 0,
            record_count: 10,
            is_overlay: false,
        };
        levels.iter().map(run).collect()
    }

    #[test]
    fn a_full_level_becomes_one_run_of_the_next() {
        assert_eq!(pick8(&runs(&[0; 7])), None);
        assert_eq!(pick8(&runs(&[0; 8])), Some(Pick { tables: 0..8, level: 1, is_bottom: true }));
        let one_above = [[0u8; 9].as_slice(), &[1, 2]].concat();
        assert_eq!(pick8(&runs(&one_above)), Some(Pick { tables: 0..9, level: 1, is_bottom: false }));
        let second = [[0u8; 3].as_slice(), &[1; 8]].concat();
        assert_eq!(pick8(&runs(&second)), Some(Pick { tables: 3..11, level: 2, is_bottom: true }));
    }

    #[test]
    fn too_many_runs_are_merged_where_it_is_cheapest() {
        // Three of each level, so that no level is full; the newest are the smallest.
        let levels: Vec<u8> = (0..25).map(|n| n / 3).collect();
        let picked = pick8(&runs(&levels)).unwrap();
        assert_eq!(picked, Pick { tables: 0..8, level: 2, is_bottom: false });
    }

    #[test]
    fn a_table_of_the_dead_is_rewritten_alone() {
        let mut two = runs(&[0, 1]);
        two[0].dead_count = 10;
        assert_eq!(pick8(&two), None, "what it hides may lie below");
        two[1].dead_count = 6;
        assert_eq!(pick8(&two), Some(Pick { tables: 1..2, level: 1, is_bottom: true }));
        two[1].is_overlay = true;
        assert_eq!(pick8(&two), None, "what it hides may lie in a sealed window");
    }

    #[test]
    fn every_script_ends_with_few_runs() {
        let mut tablet: Vec<Run> = Vec::new();
        let mut written = 0;
        for flush in 0..1000u64 {
            tablet
                .insert(0, Run { level: 0, bytes: 100, dead_count: 0, record_count: 10, is_overlay: false });
            while let Some(picked) = pick8(&tablet) {
                let bytes = tablet[picked.tables.clone()].iter().map(|run| run.bytes).sum();
                written += bytes;
                let merged =
                    Run { level: picked.level, bytes, dead_count: 0, record_count: 10, is_overlay: false };
                tablet.splice(picked.tables, [merged]);
            }
            assert!(tablet.len() <= 24, "after {flush}");
        }
        // 1,000 flushes: three levels above the first.
        assert!(written <= 3 * 100 * 1000, "each byte is rewritten once per level: {written}");
    }

    #[test]
    fn what_a_seal_is_at_lies_beneath() {
        let limits = RunLimits { sealing_count: 3, ..LIMITS };
        let mut eight = runs(&[0; 8]);
        assert_eq!(pick(&eight, &limits), Some(Pick { tables: 0..8, level: 1, is_bottom: false }));
        eight.truncate(1);
        eight[0].dead_count = 10;
        assert_eq!(pick(&eight, &limits), None, "what it hides may be among what is sealed");
    }

    #[test]
    fn what_another_table_may_come_beneath_keeps_its_dead() {
        let limits = RunLimits { keeps_dead: true, ..LIMITS };
        let eight = runs(&[0; 8]);
        assert_eq!(pick(&eight, &limits), Some(Pick { tables: 0..8, level: 1, is_bottom: true }));
        let mut one = runs(&[1]);
        one[0].dead_count = 10;
        assert!(pick8(&one).is_some());
        assert_eq!(pick(&one, &limits), None, "it would come out as it is, again and again");
        let squeezed = RunLimits { squeeze_bytes: Some(1000), ..limits };
        assert_eq!(pick(&one, &squeezed), None);
    }

    #[test]
    fn few_runs_less_than_the_bound_are_merged_whatever_their_levels() {
        let levels = [0, 0, 1, 1, 2, 2, 3, 3];
        let at = |count_max, sealing_count| {
            pick(&runs(&levels), &RunLimits { count_max, sealing_count, ..LIMITS })
        };
        assert_eq!(at(16, 0), None);
        assert_eq!(at(15, 0), Some(Pick { tables: 0..8, level: 3, is_bottom: true }));
        assert_eq!(at(20, 4), None);
        assert_eq!(at(20, 5), Some(Pick { tables: 0..8, level: 3, is_bottom: false }));
        assert_eq!(pick(&runs(&[0]), &RunLimits { count_max: 1, ..LIMITS }), None, "one is as few as can be");
    }

    #[test]
    fn short_of_space_whatever_makes_fewer_tables_is_merged() {
        let with = |runs: &[Run], bytes| pick(runs, &RunLimits { squeeze_bytes: Some(bytes), ..LIMITS });
        let two = runs(&[0, 1]);
        assert_eq!(pick8(&two), None);
        assert_eq!(with(&two, 90), Some(Pick { tables: 0..2, level: 1, is_bottom: true }));
        assert_eq!(with(&two, 89), None, "the output would not fit");
        assert_eq!(with(&runs(&[0, 0, 1]), 20), Some(Pick { tables: 0..2, level: 0, is_bottom: false }));
        let mut one = runs(&[1]);
        assert_eq!(with(&one, 1000), None);
        one[0].dead_count = 1;
        assert_eq!(with(&one, 1000), Some(Pick { tables: 0..1, level: 1, is_bottom: true }));
        one[0].is_overlay = true;
        assert_eq!(with(&one, 1000), None, "it would come out as it is");
    }
}
