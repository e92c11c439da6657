//! The windows of a tablet as all its replicas know them: those that are sealed, and those that a seal is at. Pure.
//!
//! Owns what the entries of a log do to them. Part of the tablet's state: it goes with each copy and each flush. Must never look
//! at what tables this replica has. Invariant: no two sealed windows share a time, nor do two of an open seal.

use layout::seal_operation::{AgreedTable, Seal, Sealed};
use layout::tablet_window::TabletWindow;
use layout::units::{LogIndex, LogTime};

/// The windows of a tablet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seals {
    /// Generation of the last seal that began; 0 when none has.
    pub(crate) begun: u32,
    /// Of the last one that was agreed on.
    pub(crate) agreed: u32,
    /// Sealed, in order of time.
    pub(crate) sealed: Vec<TabletWindow>,
    /// Of the seal that is open, in order of time; none when there is none.
    pub(crate) open: Vec<TabletWindow>,
}

impl Seals {
    /// An entry begins a seal; what was open is given up. False when it does nothing.
    pub(crate) fn begin(&mut self, seal: &Seal<'_>, index: LogIndex, log_time: LogTime) -> bool {
        if seal.generation <= self.begun {
            ioengine::sometimes!("a seal that another one has overtaken is ignored");
            return false;
        }
        if !self.open.is_empty() {
            ioengine::sometimes!("a seal is given up for the next");
        }
        self.begun = seal.generation;
        let window = |(from, to)| TabletWindow {
            from,
            to,
            generation: seal.generation,
            index,
            log_time,
            options: seal.options,
            checksum: None,
            over_at: 0,
        };
        self.open = seal.spans().map(window).collect();
        true
    }

    /// An entry says what the tables of the open seal are. False when it does nothing.
    pub(crate) fn agree(&mut self, sealed: &Sealed<'_>, log_time: LogTime) -> bool {
        let is_it = self.open.first().is_some_and(|open| open.generation == sealed.generation);
        if is_it && sealed.is_given_up() {
            self.open.clear();
            return true;
        }
        if !is_it || self.open.len() != sealed.tables().count() {
            return false;
        }
        let open = std::mem::take(&mut self.open);
        let met = |one: &TabletWindow| open.iter().any(|window| window.meets(one.from, one.to));
        self.sealed.retain(|one| !met(one) && !log_time.has_expired(one.over_at));
        let agreed = open.into_iter().zip(sealed.tables());
        self.sealed.extend(agreed.filter_map(|(window, AgreedTable { checksum, over_at })| {
            (checksum != 0).then_some(TabletWindow { checksum: Some(checksum), over_at, ..window })
        }));
        self.sealed.sort_unstable_by_key(|window| window.from);
        self.agreed = sealed.generation;
        true
    }

    /// A window of a blob; false when it does not belong there.
    pub(crate) fn restore(&mut self, window: TabletWindow) -> bool {
        let list = if window.checksum.is_some() { &mut self.sealed } else { &mut self.open };
        let in_order = list.last().is_none_or(|last| last.to <= window.from);
        list.push(window);
        in_order && window.generation <= self.begun
    }

    /// All of them, as a blob lists them.
    pub(crate) fn windows(&self) -> impl Iterator<Item = &TabletWindow> {
        self.sealed.iter().chain(&self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::seal_operation::{SealOptions, spans_bytes, tables_bytes};

    fn begin(seals: &mut Seals, generation: u32, spans: &[(u64, u64)]) -> bool {
        let options = SealOptions { codec: 1, block_bytes: 4096, dictionary_bytes: 0, level: 1 };
        let spans = spans_bytes(spans.iter().copied());
        let seal = Seal::new(generation, options, &spans).unwrap();
        seals.begin(&seal, LogIndex(u64::from(generation) * 10), LogTime(5))
    }

    fn agree(seals: &mut Seals, generation: u32, tables: &[(u128, u64)], log_time: u64) -> bool {
        let tables: Vec<_> =
            tables.iter().map(|&(checksum, over_at)| AgreedTable { checksum, over_at }).collect();
        let list = tables_bytes(&tables);
        seals.agree(&Sealed::new(generation, &list).unwrap(), LogTime(log_time))
    }

    fn sealed(seals: &Seals) -> Vec<(u64, u64, u32)> {
        seals.sealed.iter().map(|window| (window.from, window.to, window.generation)).collect()
    }

    #[test]
    fn what_is_agreed_on_takes_the_place_of_what_it_meets() {
        let mut seals = Seals::default();
        assert!(begin(&mut seals, 1, &[(0, 10), (10, 20), (30, 40)]));
        assert!(seals.sealed.is_empty() && seals.open.len() == 3);
        assert!(agree(&mut seals, 1, &[(7, 0), (8, 50), (0, 0)], 5));
        assert_eq!(sealed(&seals), [(0, 10, 1), (10, 20, 1)], "a window without records is none");
        assert!(begin(&mut seals, 2, &[(5, 8), (20, 30)]));
        assert_eq!(sealed(&seals), [(0, 10, 1), (10, 20, 1)], "until it is agreed on nothing goes");
        assert!(agree(&mut seals, 2, &[(9, 0), (9, 0)], 49));
        assert_eq!(sealed(&seals), [(5, 8, 2), (10, 20, 1), (20, 30, 2)]);
        assert!(begin(&mut seals, 3, &[(50, 60)]) && agree(&mut seals, 3, &[(1, 0)], 50));
        assert_eq!(sealed(&seals), [(5, 8, 2), (20, 30, 2), (50, 60, 3)], "what is over goes");
    }

    #[test]
    fn the_last_seal_counts_and_each_generation_once() {
        let mut seals = Seals::default();
        assert!(!agree(&mut seals, 1, &[(1, 0)], 0), "nothing is open");
        assert!(begin(&mut seals, 2, &[(0, 10)]) && !begin(&mut seals, 2, &[(0, 5)]));
        assert!(!begin(&mut seals, 1, &[(0, 5)]));
        assert!(!agree(&mut seals, 1, &[(1, 0)], 0) && !agree(&mut seals, 2, &[(1, 0), (2, 0)], 0));
        assert!(begin(&mut seals, 3, &[(0, 5)]), "a later one gives up what is open");
        assert!(!agree(&mut seals, 2, &[(1, 0)], 0) && agree(&mut seals, 3, &[(1, 0)], 0));
        assert!(!agree(&mut seals, 3, &[(1, 0)], 0), "once");
        assert!(begin(&mut seals, 4, &[(7, 9)]) && agree(&mut seals, 4, &[], 0));
        assert!(seals.open.is_empty() && seals.agreed == 3, "given up: what was sealed stays");
        assert_eq!(sealed(&seals), [(0, 5, 3)]);
        let mut read = Seals { sealed: Vec::new(), open: Vec::new(), ..seals.clone() };
        assert!(seals.windows().all(|window| read.restore(*window)));
        assert_eq!(read, seals);
        assert!(!read.restore(seals.sealed[0]), "the same time twice");
    }
}
