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
pub(crate) fn pick(runs: &[Run], fan_in: usize) -> Option<Pick> {
    let make = |tables: std::ops::Range<usize>, level: u8| Pick {
        is_bottom: tables.end == runs.len(),
        level,
        tables,
    };
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
    if runs.len() > FULL_LEVEL_COUNT * fan_in {
        return Some(cheapest(runs, fan_in, make));
    }
    // Half of the oldest run's records are dead, and nothing is beneath: rewrite it alone.
    let last = runs.len().checked_sub(1)?;
    let oldest = &runs[last];
    if oldest.dead_count * 2 > oldest.record_count && !oldest.is_overlay {
        return Some(make(last..last + 1, oldest.level));
    }
    None
}

/// The `fan_in` neighbours with the fewest bytes.
fn cheapest(runs: &[Run], fan_in: usize, make: impl Fn(std::ops::Range<usize>, u8) -> Pick) -> Pick {
    let bytes = |begin: usize| runs[begin..begin + fan_in].iter().map(|run| run.bytes).sum::<u64>();
    let begin =
        (0..=runs.len() - fan_in).min_by_key(|begin| bytes(*begin)).expect("more runs than the fan-in");
    let level = runs[begin..begin + fan_in].iter().map(|run| run.level).max().expect("not empty");
    make(begin..begin + fan_in, level)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(pick(&runs(&[0; 7]), 8), None);
        assert_eq!(pick(&runs(&[0; 8]), 8), Some(Pick { tables: 0..8, level: 1, is_bottom: true }));
        let one_above = [[0u8; 9].as_slice(), &[1, 2]].concat();
        assert_eq!(pick(&runs(&one_above), 8), Some(Pick { tables: 0..9, level: 1, is_bottom: false }));
        let second = [[0u8; 3].as_slice(), &[1; 8]].concat();
        assert_eq!(pick(&runs(&second), 8), Some(Pick { tables: 3..11, level: 2, is_bottom: true }));
    }

    #[test]
    fn too_many_runs_are_merged_where_it_is_cheapest() {
        // Three of each level, so that no level is full; the newest are the smallest.
        let levels: Vec<u8> = (0..25).map(|n| n / 3).collect();
        let picked = pick(&runs(&levels), 8).unwrap();
        assert_eq!(picked, Pick { tables: 0..8, level: 2, is_bottom: false });
    }

    #[test]
    fn a_table_of_the_dead_is_rewritten_alone() {
        let mut two = runs(&[0, 1]);
        two[0].dead_count = 10;
        assert_eq!(pick(&two, 8), None, "what it hides may lie below");
        two[1].dead_count = 6;
        assert_eq!(pick(&two, 8), Some(Pick { tables: 1..2, level: 1, is_bottom: true }));
        two[1].is_overlay = true;
        assert_eq!(pick(&two, 8), None, "what it hides may lie in a sealed window");
    }

    #[test]
    fn every_script_ends_with_few_runs() {
        let mut tablet: Vec<Run> = Vec::new();
        let mut written = 0;
        for flush in 0..1000u64 {
            tablet
                .insert(0, Run { level: 0, bytes: 100, dead_count: 0, record_count: 10, is_overlay: false });
            while let Some(picked) = pick(&tablet, 8) {
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
}
