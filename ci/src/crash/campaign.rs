//! Walks the crash states of a recording and asks a checker about each. Owns the budget and the report.
//!
//! Invariant: the same recording, seed and budget give the same states in the same order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;

use super::CrashError;
use super::image::{Image, Sector};
use super::log::Entry;
use super::state::{Choice, Span, changes, choose, spans, state_count};

/// How much to check, and where.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// States to check; fewer where the recording has fewer.
    pub states_max: usize,
    /// Chooses among the states.
    pub seed: u64,
    /// Bytes of the device.
    pub device_bytes: u64,
    /// Folder for the file that carries the state, and for states that failed.
    pub folder: PathBuf,
}

/// One state on a file, ready to be opened.
#[derive(Debug)]
pub struct CrashState<'a> {
    /// The file that reads as the device after the power cut. The checker may write to it.
    pub path: &'a Path,
    /// Numbers of the marks that were set before the power cut: what the world had been told.
    pub marks: &'a [u64],
    /// Which state this is, for a report.
    pub name: String,
    durable: &'a Image,
    changes: BTreeMap<u64, Sector>,
}

impl CrashState<'_> {
    /// The content of the device after the power cut.
    pub fn image(&self) -> Image {
        let mut image = self.durable.clone();
        for (number, content) in &self.changes {
            image.set(*number, content);
        }
        image
    }
}

/// What a campaign found.
#[derive(Debug, Default)]
pub struct Report {
    /// Spans between flushes with writes in them.
    pub span_count: usize,
    /// Spans all of whose states were checked.
    pub exhausted_count: usize,
    /// States opened and checked.
    pub state_count: usize,
    /// Of these, states in which some write was torn: kept in part.
    pub torn_count: usize,
    /// What the checker said against a state, with the state's name.
    pub failures: Vec<String>,
}

/// Failures after which a campaign stops: the first few tell what is wrong.
const FAILURES_MAX: usize = 8;

/// Checks states of `entries`, recorded on a device that held `first`, with `checker`, whose `Err` says what is wrong
/// with a state. Errors: the harness itself cannot write the state.
pub fn run(
    first: &Image,
    entries: &[Entry],
    campaign: &Campaign,
    mut checker: impl FnMut(&CrashState) -> Result<(), String>,
) -> Result<Report, CrashError> {
    let marks: Vec<u64> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Mark(number) => Some(*number),
            _ => None,
        })
        .collect();
    let states_per_span = budget(first, entries, campaign.states_max);
    let path = campaign.folder.join("state.img");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(campaign.seed);
    let mut report = Report::default();
    let mut span_index = 0;
    spans(first, entries, |durable, span| {
        let most = states_per_span[span_index];
        span_index += 1;
        if !span.pieces.is_empty() {
            report.span_count += 1;
            report.exhausted_count += usize::from(most == state_count(span, usize::MAX));
        }
        for (index, choice) in choose_some(span, most, &mut random).iter().enumerate() {
            if report.failures.len() >= FAILURES_MAX {
                return Ok(());
            }
            let changes = changes(span, choice);
            durable.write_to(&path, campaign.device_bytes, &changes)?;
            let kept = choice.iter().filter(|kept| **kept).count();
            let name = format!(
                "span {span_index} from entry {}, state {index}: {kept} of {} sectors kept, {} marks",
                span.first_entry,
                choice.len(),
                span.mark_count
            );
            report.state_count += 1;
            report.torn_count += usize::from(is_torn(span, choice));
            let state = CrashState { path: &path, marks: &marks[..span.mark_count], name, durable, changes };
            if let Err(complaint) = checker(&state) {
                let copy = campaign.folder.join(format!("failed-{}.img", report.failures.len()));
                // The checker may have written to its copy: lay the state down afresh for whoever looks at it.
                durable.write_to(&copy, campaign.device_bytes, &state.changes)?;
                report.failures.push(format!("{}: {complaint} (kept as {})", state.name, copy.display()));
            }
        }
        Ok(())
    })?;
    Ok(report)
}

fn choose_some(span: &Span, most: usize, random: &mut Xoshiro256PlusPlus) -> Vec<Choice> {
    if most == 0 { Vec::new() } else { choose(span, most, random) }
}

/// True where some write of the span was kept in part.
fn is_torn(span: &Span, choice: &Choice) -> bool {
    span.pieces
        .iter()
        .zip(choice)
        .collect::<Vec<_>>()
        .windows(2)
        .any(|pair| pair[0].0.entry == pair[1].0.entry && pair[0].1 != pair[1].1)
}

/// States to check in each span so that about `states_max` are checked in all: small spans whole, large ones alike.
/// Where there are more spans than states, every so manieth span gets one.
fn budget(first: &Image, entries: &[Entry], states_max: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    let visited = spans::<std::convert::Infallible>(first, entries, |_, span| {
        sizes.push(state_count(span, states_max));
        Ok(())
    });
    match visited {
        Ok(()) => {}
        Err(never) => match never {},
    }
    if sizes.len() > states_max {
        let count = sizes.len();
        return (0..count)
            .map(|index| usize::from(index * states_max / count != (index + 1) * states_max / count))
            .collect();
    }
    let total = |most: usize| sizes.iter().map(|size| size.min(&most)).sum::<usize>();
    let (mut low, mut high) = (1, states_max.max(1));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if total(middle) <= states_max { low = middle } else { high = middle - 1 }
    }
    let mut left = states_max - total(low).min(states_max);
    let one_more = |size: &usize| {
        let more = usize::from(left > 0 && *size > low);
        left -= more;
        size.min(&low) + more
    };
    sizes.iter().map(one_more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::writer::{Bug, RECORD_BYTES, TinyJournal, check};
    use std::convert::Infallible;

    /// The recording that the tiny journal leaves, without a device.
    fn recording(bug: Bug, records: u64) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut journal = TinyJournal::new(bug);
        for _ in 0..records {
            journal
                .append::<Infallible>(&mut |step| {
                    entries.push(step);
                    Ok(())
                })
                .expect("a vector takes everything");
        }
        entries
    }

    fn report(bug: Bug, states_max: usize) -> Report {
        let folder = tempfile::tempdir().expect("a folder");
        let campaign = Campaign {
            states_max,
            seed: 3,
            device_bytes: 64 * RECORD_BYTES as u64,
            folder: folder.path().to_owned(),
        };
        run(&Image::default(), &recording(bug, 20), &campaign, |state| check(state, bug))
            .expect("the harness works")
    }

    #[test]
    fn an_honest_journal_passes_and_the_budget_is_used() {
        let report = report(Bug::None, 300);
        assert_eq!(report.failures, Vec::<String>::new());
        assert_eq!(report.state_count, 300, "{report:?}");
        assert!(report.torn_count > 100, "{report:?}");
    }

    #[test]
    fn an_answer_before_the_flush_is_found() {
        assert!(!report(Bug::AcknowledgeBeforeFlush, 100).failures.is_empty());
    }

    #[test]
    fn a_reader_that_trusts_a_torn_record_is_found() {
        assert!(!report(Bug::TrustTornRecord, 100).failures.is_empty());
    }

    #[test]
    fn a_budget_smaller_than_the_spans_still_checks_that_many() {
        assert_eq!(report(Bug::None, 7).state_count, 7);
    }
}
