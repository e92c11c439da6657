//! Places of a disk that somebody found damaged, until they are mended: bounded, each once, those that failed later again.
//!
//! Must never forget a place because it could not be mended now. Invariant: at most so many wait as were agreed on; a file's later
//! generation takes the place of its earlier one. No clock and no disk.

use super::core::Spindle;
use super::table::Run;
use layout::cold_kept::KeptFor;
use std::collections::BTreeMap;
use std::time::Duration;

/// Most doublings of the wait between two tries.
const DOUBLINGS_MAX: u32 = 10;

/// A section that is thought to be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) file: u32,
    pub(super) generation: u32,
    /// Where it begins, as who found it says: byte of the file.
    pub(super) offset: u32,
    /// Where it was found: byte of the file.
    pub(super) at: u64,
    /// Somebody wants freed what is said to begin there: sections, and whose they are.
    pub(super) unwanted: Option<(Run, KeptFor)>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    suspect: Suspect,
    tries: u32,
    not_before_ns: u64,
}

/// The repair queue of a disk.
#[derive(Debug)]
pub(super) struct Damaged {
    /// By file and beginning of the section.
    waiting: BTreeMap<(u32, u32), Waiting>,
    count_max: usize,
}

impl Damaged {
    pub(super) fn new(count_max: usize) -> Damaged {
        Damaged { waiting: BTreeMap::new(), count_max }
    }

    /// One more; what waits already waits as long as before. False when there is no room.
    pub(super) fn note(&mut self, suspect: Suspect) -> bool {
        let key = (suspect.file, suspect.offset);
        if let Some(known) = self.waiting.get_mut(&key)
            && known.suspect.generation >= suspect.generation
        {
            known.suspect.unwanted = known.suspect.unwanted.or(suspect.unwanted);
            return true;
        }
        if !self.waiting.contains_key(&key) && self.waiting.len() >= self.count_max {
            return false;
        }
        self.waiting.insert(key, Waiting { suspect, tries: 0, not_before_ns: 0 });
        true
    }

    /// The one whose time comes first, and when that is.
    pub(super) fn next(&self) -> Option<(Suspect, u64)> {
        let first = self.waiting.values().min_by_key(|waiting| waiting.not_before_ns)?;
        Some((first.suspect, first.not_before_ns))
    }

    /// It could not be mended: again after a wait that grows with each try.
    pub(super) fn later(&mut self, suspect: &Suspect, now_ns: u64, wait: Duration) {
        if let Some(waiting) = self.waiting.get_mut(&(suspect.file, suspect.offset)) {
            let wait = wait * (1 << waiting.tries.min(DOUBLINGS_MAX));
            waiting.tries += 1;
            waiting.not_before_ns = now_ns + wait.as_nanos() as u64;
        }
    }

    /// It need not wait any more. One of a later generation stays.
    pub(super) fn done(&mut self, suspect: &Suspect) {
        let key = (suspect.file, suspect.offset);
        if self.waiting.get(&key).is_some_and(|known| known.suspect.generation <= suspect.generation) {
            self.waiting.remove(&key);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// File, and byte of it, of those that wait.
    pub(super) fn places(&self) -> impl Iterator<Item = (u32, u64)> {
        self.waiting.values().map(|waiting| (waiting.suspect.file, waiting.suspect.at))
    }
}

impl Spindle {
    /// A place is thought to be damaged: it waits for repair, if there is room.
    pub(super) fn suspect(&self, suspect: Suspect) {
        let mut damaged = self.damaged.lock().expect("no core panics with it");
        if !damaged.note(suspect) {
            ioengine::sometimes!("the repair queue of a cold disk is full");
        }
        self.counters.repair_queue.set(damaged.len() as u64);
        self.damage_noted.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect(file: u32, generation: u32, offset: u32) -> Suspect {
        Suspect { file, generation, offset, at: u64::from(offset) + 100, unwanted: None }
    }

    #[test]
    fn places_wait_once_and_no_more_of_them_than_there_is_room_for() {
        let mut queue = Damaged::new(2);
        assert!(
            queue.note(suspect(1, 1, 0)) && queue.note(suspect(1, 1, 0)) && queue.note(suspect(1, 1, 64))
        );
        assert!(!queue.note(suspect(2, 1, 0)) && queue.len() == 2);
        assert!(queue.note(suspect(1, 2, 0)), "the file was begun anew");
        queue.done(&suspect(1, 1, 0));
        assert_eq!(queue.len(), 2, "what was mended is not what waits now");
        queue.done(&suspect(1, 2, 0));
        assert_eq!(queue.places().collect::<Vec<_>>(), [(1, 164)]);
    }

    #[test]
    fn what_failed_waits_longer_each_time_and_others_go_first() {
        let (mut queue, wait) = (Damaged::new(9), Duration::from_nanos(10));
        queue.note(suspect(1, 1, 0));
        queue.later(&suspect(1, 1, 0), 100, wait);
        assert_eq!(queue.next(), Some((suspect(1, 1, 0), 110)));
        assert!(queue.note(suspect(1, 1, 0)), "it waits already");
        queue.note(suspect(2, 1, 0));
        assert_eq!(queue.next(), Some((suspect(2, 1, 0), 0)));
        queue.done(&suspect(2, 1, 0));
        queue.later(&suspect(1, 1, 0), 200, wait);
        assert_eq!(queue.next(), Some((suspect(1, 1, 0), 220)));
        for _ in 0..40 {
            queue.later(&suspect(1, 1, 0), 0, wait);
        }
        assert_eq!(queue.next(), Some((suspect(1, 1, 0), 10_240)));
    }
}
