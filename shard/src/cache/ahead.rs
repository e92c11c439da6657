//! Looking ahead in what has arrived at a cache: the gets of one receive are walked through the first steps together. First the lines of
//! slots of all their keys are asked for, then their entries, so that the misses of a batch overlap.
//!
//! Must never decide anything: what is seen here is not checked and only steers the processor's cache.

use super::rings::Rings;
use layout::value_ring::Spot;
use net::request::Get;

/// Gets looked ahead at: enough to hide a memory access behind the others, few enough to stay in the first cache.
const AHEAD_COUNT: usize = 32;

/// Looks at the gets that `input` begins with. Bytes looked at, at least 1.
pub(super) fn look(rings: &Rings, input: &[u8]) -> usize {
    // One alone has nothing to overlap with.
    let is_more = |bytes: usize| Get::peek(&input[bytes..]).is_some();
    if !Get::peek(input).is_some_and(|(_, bytes)| is_more(bytes)) {
        return input.len().max(1);
    }
    let mut spots = [Spot { chain: 0, line: 0, tag: 0 }; AHEAD_COUNT];
    let (mut count, mut at) = (0, 0);
    while count < AHEAD_COUNT
        && let Some((key, frame_bytes)) = Get::peek(&input[at..])
    {
        if let Some(key) = key {
            spots[count] = rings.spot(&key);
            rings.prefetch_line(&spots[count]);
            count += 1;
        }
        at += frame_bytes;
    }
    spots[..count].iter().for_each(|spot| rings.prefetch_entry(spot));
    at
}
