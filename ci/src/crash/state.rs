//! Which states a power cut may leave. Owns the choice; reads a recording, touches no file.
//!
//! Invariant: a chosen state is legal: everything before the last answered flush, and of each sector written since
//! either its old content or one that was written. Two states chosen for one span differ in at least one sector.

use std::collections::{BTreeMap, BTreeSet};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::Rng as _;

use super::image::{Image, Sector, ZERO_SECTOR, sectors_of};
use super::log::Entry;

/// One sector of a write that no flush covers yet.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Index of the write in the recording.
    pub entry: usize,
    /// Sector number.
    pub number: u64,
    /// What the write puts there.
    pub content: Sector,
}

/// The writes between two answered flushes, or behind the last one.
#[derive(Debug, Default)]
pub struct Span {
    /// Index of its first entry in the recording.
    pub first_entry: usize,
    /// Sectors that may or may not have been kept, in the order written. Those that change nothing are left out.
    pub pieces: Vec<Piece>,
    /// How many of the recording's marks stand before its end.
    pub mark_count: usize,
    /// True for the last span, behind which no flush follows.
    pub last: bool,
}

/// A choice: for each piece of a span, whether the device kept it.
pub type Choice = Vec<bool>;

/// Calls `visit` for each span in order, with the durable image before it. `first` is what the device held when the
/// recording began. Errors: those of `visit`.
pub fn spans<E>(
    first: &Image,
    entries: &[Entry],
    mut visit: impl FnMut(&Image, &Span) -> Result<(), E>,
) -> Result<(), E> {
    let mut durable = first.clone();
    let mut span = Span::default();
    for (index, entry) in entries.iter().enumerate() {
        match entry {
            Entry::Flush => {
                visit(&durable, &span)?;
                for entry in &entries[span.first_entry..index] {
                    durable.apply(entry);
                }
                span = Span { first_entry: index + 1, mark_count: span.mark_count, ..Span::default() };
            }
            Entry::Mark(_) => span.mark_count += 1,
            Entry::Write { at, data } => {
                let written = sectors_of(*at, data).map(|(number, content)| (number, *content));
                add(&durable, &mut span, index, written);
            }
            Entry::Zeros { at, bytes } => {
                let (first, behind) = (at / 512, (at + bytes) / 512);
                let pending = span.pieces.iter().map(|piece| piece.number);
                let changed: BTreeSet<u64> = pending
                    .filter(|number| (first..behind).contains(number))
                    .chain(durable.occupied(first..behind))
                    .collect();
                add(&durable, &mut span, index, changed.into_iter().map(|number| (number, ZERO_SECTOR)));
            }
        }
    }
    span.last = true;
    visit(&durable, &span)
}

/// Adds the sectors of one write, those left out that neither differ from what is durable nor follow another write.
fn add(durable: &Image, span: &mut Span, entry: usize, written: impl Iterator<Item = (u64, Sector)>) {
    let before: BTreeSet<u64> = span.pieces.iter().map(|piece| piece.number).collect();
    for (number, content) in written {
        if before.contains(&number) || *durable.sector(number) != content {
            span.pieces.push(Piece { entry, number, content });
        }
    }
}

/// How many states a span has, at most `most`.
pub fn state_count(span: &Span, most: usize) -> usize {
    let all = u32::try_from(span.pieces.len())
        .ok()
        .and_then(|count| 1usize.checked_shl(count))
        .unwrap_or(usize::MAX);
    // The state that kept everything is the next span's state that kept nothing, where more is acknowledged.
    let all = if span.last { all } else { all - 1 };
    all.max(1).min(most)
}

/// Chooses up to `most` different states of a span: all of them where they are few, else those that have found bugs
/// elsewhere (nothing, all but one write, one write alone, torn at each side) and samples of the rest.
pub fn choose(span: &Span, most: usize, random: &mut Xoshiro256PlusPlus) -> Vec<Choice> {
    let count = span.pieces.len();
    let wanted = state_count(span, most);
    if count < usize::BITS as usize - 1 && wanted == state_count(span, usize::MAX) {
        return (0..wanted).map(|bits| (0..count).map(|piece| bits >> piece & 1 == 1).collect()).collect();
    }
    let mut order = Vec::new();
    let entries: Vec<usize> =
        span.pieces.iter().map(|piece| piece.entry).collect::<BTreeSet<_>>().into_iter().collect();
    let keep = |rule: &dyn Fn(&Piece) -> bool| -> Choice { span.pieces.iter().map(rule).collect() };
    for entry in &entries {
        order.push(keep(&|piece| piece.entry != *entry));
        order.push(keep(&|piece| piece.entry == *entry));
        order.push(keep(&|piece| piece.entry < *entry));
        // Torn at its front or its back, all writes before it kept.
        let (from, to) = (below(random, count), below(random, count));
        let part = |piece: usize| piece >= from.min(to) && piece <= from.max(to);
        let torn =
            |(index, piece): (usize, &Piece)| piece.entry < *entry || (piece.entry == *entry && part(index));
        order.push(span.pieces.iter().enumerate().map(torn).collect());
    }
    for at in [1, count / 2, count - 1] {
        order.push((0..count).map(|piece| piece < at).collect());
        order.push((0..count).map(|piece| piece >= at).collect());
    }
    for index in (1..order.len()).rev() {
        order.swap(index, below(random, index + 1));
    }
    // Where more than one is wanted, the state that kept nothing is among them.
    if wanted > 1 {
        order.insert(0, vec![false; count]);
    }
    let mut chosen = BTreeSet::new();
    let mut result = Vec::new();
    let mut candidates = order.into_iter();
    while result.len() < wanted {
        let choice = candidates.next().unwrap_or_else(|| sample(span, &entries, random));
        let whole = !span.last && choice.iter().all(|kept| *kept);
        if !whole && chosen.insert(choice.clone()) {
            result.push(choice);
        }
    }
    result
}

/// One random state: whole writes, a torn prefix, half of the sectors, few lost, or few kept.
fn sample(span: &Span, entries: &[usize], random: &mut Xoshiro256PlusPlus) -> Choice {
    let count = span.pieces.len();
    match below(random, 5) {
        0 => {
            let kept: BTreeSet<usize> = entries.iter().copied().filter(|_| below(random, 2) == 0).collect();
            span.pieces.iter().map(|piece| kept.contains(&piece.entry)).collect()
        }
        1 => {
            let at = below(random, count + 1);
            (0..count).map(|piece| piece < at).collect()
        }
        2 => (0..count).map(|_| below(random, 2) == 0).collect(),
        3 => (0..count).map(|_| below(random, 8) != 0).collect(),
        _ => (0..count).map(|_| below(random, 8) == 0).collect(),
    }
}

/// What a choice changes over the durable image: a later write to a sector wins over an earlier one that was kept.
pub fn changes(span: &Span, choice: &Choice) -> BTreeMap<u64, Sector> {
    let kept = span.pieces.iter().zip(choice).filter(|(_, kept)| **kept);
    kept.map(|(piece, _)| (piece.number, piece.content)).collect()
}

/// A number below `bound`, which is at least 1.
pub(crate) fn below(random: &mut Xoshiro256PlusPlus, bound: usize) -> usize {
    (random.next_u64() % bound as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_xoshiro::rand_core::SeedableRng as _;

    fn write(number: u64, sectors: usize, fill: u8) -> Entry {
        Entry::Write { at: number * 512, data: vec![fill; sectors * 512] }
    }

    fn all_spans(entries: &[Entry]) -> Vec<(usize, usize, usize, bool)> {
        let mut seen = Vec::new();
        spans::<()>(&Image::default(), entries, |durable, span| {
            seen.push((durable.sector_count(), span.pieces.len(), span.mark_count, span.last));
            Ok(())
        })
        .expect("visit never fails");
        seen
    }

    #[test]
    fn a_flush_makes_everything_before_it_durable() {
        let entries = [
            write(0, 2, 1),
            Entry::Flush,
            write(2, 3, 2),
            Entry::Mark(1),
            Entry::Flush,
            Entry::Mark(2),
            write(9, 1, 3),
        ];
        assert_eq!(all_spans(&entries), [(0, 2, 0, false), (2, 3, 1, false), (5, 1, 2, true)]);
    }

    #[test]
    fn a_sector_that_stays_as_it_was_gives_no_state() {
        let entries =
            [write(0, 2, 1), Entry::Flush, write(0, 3, 1), Entry::Zeros { at: 512, bytes: 1 << 30 }];
        // Of the second write only its third sector is new; the zeros clear sector 1 (durable) and 2 (pending).
        assert_eq!(all_spans(&entries), [(0, 2, 0, false), (2, 3, 0, true)]);
    }

    #[test]
    fn few_sectors_are_enumerated_whole_and_many_sampled_without_repeats() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut sizes = Vec::new();
        let entries = [write(0, 3, 1), write(3, 1, 2), Entry::Flush, write(0, 40, 3), write(100, 40, 4)];
        spans::<()>(&Image::default(), &entries, |_, span| {
            let choices = choose(span, 100, &mut random);
            let different: BTreeSet<Choice> = choices.iter().cloned().collect();
            assert_eq!(different.len(), choices.len());
            assert!(choices.iter().all(|choice| choice.len() == span.pieces.len()));
            assert!(choices[0].iter().all(|kept| !kept), "the state that kept nothing is always there");
            sizes.push(choices.len());
            Ok(())
        })
        .expect("visit never fails");
        assert_eq!(sizes, [15, 100]);
    }

    #[test]
    fn a_later_write_wins_where_both_were_kept() {
        let entries = [write(5, 1, 1), write(5, 1, 2)];
        let mut contents = BTreeSet::new();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        spans::<()>(&Image::default(), &entries, |_, span| {
            for choice in choose(span, 100, &mut random) {
                contents.insert(changes(span, &choice).get(&5).map_or(0, |sector| sector[0]));
            }
            Ok(())
        })
        .expect("visit never fails");
        assert_eq!(contents, BTreeSet::from([0, 1, 2]));
    }
}
