//! One growth step of the bucket map as a pure choice: which groups keep which of the *extra* buckets.
//!
//! When the map grows to G groups, each tablet of each group must end with `floor` or `floor + 1` buckets,
//! floor = 2048 / G. A cell (group, tablet) that ends with `floor + 1` holds an *extra*. A group is one row of 64 bits, one
//! per tablet: `may` says where it could hold an extra (it has enough buckets), the answer says where it does.
//!
//! ```text
//! column sums (one per tablet)  = 2048 − G · floor                   exactly, or buckets would be lost
//! row sums (one per group)      = total / G rounded down or up       so that groups differ by one bucket at most
//! ```
//!
//! Both at once is a flow problem. A greedy pass solves nearly all of it; alternating paths over the 64 columns mend
//! the rest and are complete: when no path exists there is no answer. Whether there always is one for 1..=1000
//! is decided by the exhaustive test in `tests/bucket_map.rs`.
//!
//! Never does I/O, never draws a random number: the same input gives the same map on every machine.

/// Columns of the problem: tablets per group.
pub(super) const COLUMNS: usize = 64;

/// Chooses the extras. `may[g]` is the mask of tablets where group g could hold one; `column` is how many each tablet must
/// have; writes the choice to `kept`. Row sums are floor or ceil of `64 * column / may.len()`.
///
/// Returns how many units had to be mended by alternating paths, or None when there is no answer.
pub(super) fn choose_extras(may: &[u64], column: u32, kept: &mut Vec<u64>) -> Option<u32> {
    let rows = may.len() as u32;
    let total = COLUMNS as u32 * column;
    let low = total / rows;
    let mut rows_high = total - low * rows;
    kept.clear();

    // How many cells of a column may still be dropped: those that may hold an extra minus those that must.
    let mut slack = [-i64::from(column); COLUMNS];
    for mask in may {
        let mut rest = *mask;
        while rest != 0 {
            slack[rest.trailing_zeros() as usize] += 1;
            rest &= rest - 1;
        }
    }
    for (row, mask) in may.iter().enumerate() {
        let held = mask.count_ones();
        if held < low {
            return None;
        }
        let high = rows_high > 0 && held > low;
        rows_high -= u32::from(high);
        kept.push(drop_slackest(*mask, held - low - u32::from(high), row, &mut slack));
    }
    if rows_high > 0 {
        return None;
    }

    // Now slack[t] > 0: the column kept too many; < 0: too few.
    let mut mended = 0;
    while let Some(over) = (0..COLUMNS).find(|&t| slack[t] > 0) {
        let under = mend(may, kept, low, over, &slack)?;
        slack[over] -= 1;
        slack[under] += 1;
        mended += 1;
    }
    assert!(slack.iter().all(|&s| s == 0), "kept cells do not add up to the columns");
    Some(mended)
}

/// Ties between columns begin at column `row * TURN` and go round, so that the rows of a fresh fill overlap in ever other
/// ways and later steps find choices. With 0, 1 or 3 the rows fall into blocks that share columns, and a later step has no answer
/// (1: at 993 groups; 0 and 3: at 510); 5, 7, 11, 17, 23, 29 and 37 all reach 1000.
const TURN: usize = 7;

/// Drops `count` cells of the row, those in the columns with the most slack.
fn drop_slackest(mask: u64, count: u32, row: usize, slack: &mut [i64; COLUMNS]) -> u64 {
    let mut mask = mask;
    let turn = row * TURN % COLUMNS;
    for _ in 0..count {
        let mut best: Option<usize> = None;
        let mut rest = mask.rotate_right(turn as u32);
        while rest != 0 {
            let t = (rest.trailing_zeros() as usize + turn) % COLUMNS;
            rest &= rest - 1;
            if best.is_none_or(|b| slack[t] > slack[b]) {
                best = Some(t);
            }
        }
        let t = best.expect("count is at most the number of set bits");
        mask &= !(1 << t);
        slack[t] -= 1;
    }
    mask
}

/// Moves one kept cell out of column `over` and one into some column with too few, along a shortest alternating path.
/// A step a → b is a row that keeps a and has dropped b; the extra node `EXCHANGE` lets one row go from high to low while
/// another goes from low to high. Returns the column that gained.
fn mend(may: &[u64], kept: &mut [u64], low: u32, over: usize, slack: &[i64; COLUMNS]) -> Option<usize> {
    const EXCHANGE: usize = COLUMNS;
    // How a node was reached: from which node, through which row.
    let mut came: [Option<(usize, usize)>; COLUMNS + 1] = [None; COLUMNS + 1];
    let mut queue = Vec::with_capacity(COLUMNS + 1);
    queue.push(over);
    let mut next = 0;
    let mut end = None;
    'search: while next < queue.len() {
        let node = queue[next];
        next += 1;
        for row in 0..may.len() {
            let high = kept[row].count_ones() > low;
            let dropped = may[row] & !kept[row];
            let mut reach = 0;
            if node == EXCHANGE {
                if !high {
                    reach = dropped;
                }
            } else if kept[row] & (1 << node) != 0 {
                reach = dropped;
                if high && came[EXCHANGE].is_none() {
                    came[EXCHANGE] = Some((node, row));
                    queue.push(EXCHANGE);
                }
            }
            while reach != 0 {
                let t = reach.trailing_zeros() as usize;
                reach &= reach - 1;
                if t == over || came[t].is_some() {
                    continue;
                }
                came[t] = Some((node, row));
                if slack[t] < 0 {
                    end = Some(t);
                    break 'search;
                }
                queue.push(t);
            }
        }
    }
    let end = end?;
    let mut node = end;
    while node != over {
        let (from, row) = came[node].expect("every node on the path but the first was reached from one");
        if node != EXCHANGE {
            kept[row] |= 1 << node;
        }
        if from != EXCHANGE {
            kept[row] &= !(1 << from);
        }
        node = from;
    }
    Some(end)
}
