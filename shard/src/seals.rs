//! The windows of a tablet as all its replicas know them: those that are sealed, those that a seal is at, and those that go or have
//! gone to cold disks. Pure.
//!
//! Owns what the entries of a log do to them. Part of the tablet's state: it goes with each copy and each flush. Must never look
//! at what tables this replica has. Invariant: no two sealed windows share a time, nor do two of an open seal; every sink is of a
//! sealed window, and at most one of them is open. A generation is given to one seal or one sink: what is neither open nor linked here,
//! and was given, is nobody's for ever.

use layout::seal_operation::{AgreedTable, Seal, Sealed};
use layout::sink_operation::{Sink, SinkBegin};
use layout::tablet_sink::{ColdLink, TabletSink};
use layout::tablet_window::TabletWindow;
use layout::units::{LogIndex, LogTime};
use std::rc::Rc;

/// A window that goes to cold disks, or has gone, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sinking {
    pub(crate) sink: TabletSink,
    pub(crate) links: Rc<Vec<ColdLink>>,
}

impl Sinking {
    /// Is this its window?
    pub(crate) fn is_of(&self, window: &TabletWindow) -> bool {
        let TabletSink { from, to, seal_generation, checksum, .. } = self.sink;
        (from, to, seal_generation, Some(checksum))
            == (window.from, window.to, window.generation, window.checksum)
    }
}

/// The windows of a tablet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seals {
    /// Generation of the last seal or sink that began; 0 when none has.
    pub(crate) begun: u32,
    /// Of the last one that was agreed on.
    pub(crate) agreed: u32,
    /// Sealed, in order of time.
    pub(crate) sealed: Vec<TabletWindow>,
    /// Of the seal that is open, in order of time; none when there is none.
    pub(crate) open: Vec<TabletWindow>,
    /// Sinks of sealed windows, in order of time.
    pub(crate) sinks: Vec<Sinking>,
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
        let sealed = &self.sealed;
        self.sinks.retain(|sinking| sealed.iter().any(|window| sinking.is_of(window)));
        true
    }

    /// The next step of a sink. False when it does nothing.
    pub(crate) fn sink(&mut self, step: &Sink<'_>) -> bool {
        match step {
            Sink::Begin(begin) => self.begin_sink(begin),
            Sink::Sunk { generation, checksum, links } => {
                let Some(open) = self.open_sink(*generation) else { return false };
                let links: Vec<ColdLink> = links.iter().collect();
                let sinking = &mut self.sinks[open];
                sinking.sink.sunk = Some(*checksum);
                sinking.sink.link_count = u32::try_from(links.len()).expect("links are bounded");
                sinking.links = Rc::new(links);
                true
            }
            Sink::GivenUp { generation } => {
                let open = self.open_sink(*generation);
                open.map(|open| self.sinks.remove(open)).is_some()
            }
        }
    }

    /// A window goes to cold disks from now on; what was open is given up.
    fn begin_sink(&mut self, begin: &SinkBegin) -> bool {
        if begin.generation <= self.begun {
            ioengine::sometimes!("a sink that another one has overtaken is ignored");
            return false;
        }
        let SinkBegin { generation, from, to, seal_generation, checksum, nonce, codec, level } = *begin;
        let link_count = 0;
        let sink = TabletSink {
            from,
            to,
            seal_generation,
            checksum,
            generation,
            nonce,
            codec,
            level,
            sunk: None,
            link_count,
        };
        let sinking = Sinking { sink, links: Rc::default() };
        let is_here = self.sealed.iter().any(|window| sinking.is_of(window));
        let is_sunk = self.sink_at(from).is_some_and(|other| other.sink.sunk.is_some());
        if !is_here || is_sunk {
            ioengine::sometimes!("a sink of a window that is not there is ignored");
            return false;
        }
        self.begun = generation;
        if self.sinks.iter().any(|sinking| sinking.sink.sunk.is_none()) {
            ioengine::sometimes!("a sink is given up for the next");
        }
        self.sinks.retain(|sinking| sinking.sink.sunk.is_some());
        let place = self.sinks.partition_point(|other| other.sink.from < from);
        self.sinks.insert(place, sinking);
        true
    }

    /// The place of the sink of this generation, while it is open.
    fn open_sink(&self, generation: u32) -> Option<usize> {
        let is_any = ioengine::canary("sunk_by_any_try");
        let is_it = |sinking: &Sinking| {
            (is_any || sinking.sink.generation == generation) && sinking.sink.sunk.is_none()
        };
        self.sinks.iter().position(is_it)
    }

    /// The sink of the window that begins there.
    pub(crate) fn sink_at(&self, from: u64) -> Option<&Sinking> {
        self.sinks.iter().find(|sinking| sinking.sink.from == from)
    }

    /// The sink that is open.
    pub(crate) fn sink_open(&self) -> Option<&Sinking> {
        self.sinks.iter().find(|sinking| sinking.sink.sunk.is_none())
    }

    /// Is what carries this generation on cold disks nobody's, for ever? Not while the log may yet give it, has it open, or links it in
    /// a window of which something can still be seen.
    pub(crate) fn is_ended(&self, generation: u32, log_time: LogTime) -> bool {
        let mut sinks = self.sinks.iter();
        let sinking = sinks.find(|sinking| sinking.sink.generation == generation);
        let is_over = |sinking: &Sinking| {
            let window = self.sealed.iter().find(|window| sinking.is_of(window));
            window.is_none_or(|window| log_time.has_expired(window.over_at))
        };
        generation <= self.begun && (sinking.is_none_or(is_over) || ioengine::canary("sweep_what_is_linked"))
    }

    /// Is this the table of a sealed window: the sealed one, or the one that takes its place once it is sunk?
    pub(crate) fn names(&self, (from, to, generation): (u64, u64, u32), checksum: u128) -> bool {
        let is_it =
            |window: &&TabletWindow| (window.from, window.to, window.generation) == (from, to, generation);
        let Some(window) = self.sealed.iter().find(is_it) else { return false };
        window.checksum == Some(checksum) || self.sunk_of(window) == Some(checksum)
    }

    /// Checksum of the table that takes the place of a window's sealed one; `None` while it is not sunk.
    pub(crate) fn sunk_of(&self, window: &TabletWindow) -> Option<u128> {
        self.sink_at(window.from).filter(|sinking| sinking.is_of(window))?.sink.sunk
    }

    /// A sink of a blob; false when it does not belong there. Its links follow.
    pub(crate) fn restore_sink(&mut self, sink: TabletSink) -> bool {
        let in_order = self.sinks.last().is_none_or(|last| last.sink.to <= sink.from);
        let is_only_open = sink.sunk.is_some() || self.sink_open().is_none();
        let sinking = Sinking { sink, links: Rc::default() };
        let is_here = self.sealed.iter().any(|window| sinking.is_of(window));
        self.sinks.push(sinking);
        in_order && is_only_open && is_here && sink.generation <= self.begun
    }

    /// A link of the last sink of a blob.
    pub(crate) fn restore_link(&mut self, link: ColdLink) -> bool {
        let last = self.sinks.last_mut().map(|sinking| Rc::make_mut(&mut sinking.links).push(link));
        last.is_some()
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

    fn begin_sink(seals: &mut Seals, generation: u32, seal_generation: u32, checksum: u128) -> bool {
        let (from, to, nonce, codec, level) = (0, 10, 1, 1, 1);
        seals.sink(&Sink::Begin(SinkBegin {
            generation,
            from,
            to,
            seal_generation,
            checksum,
            nonce,
            codec,
            level,
        }))
    }

    fn sunk(seals: &mut Seals, generation: u32) -> bool {
        let link = ColdLink {
            group: 0,
            disk: 0,
            bucket: layout::units::BucketIndex::new(1).unwrap(),
            file: 0,
            file_generation: 1,
            offset: 0,
            content_bytes: 1,
            number: 0,
            section_count: 1,
        };
        let list = layout::tablet_sink::links_bytes(&[link]);
        let links = layout::sink_operation::Links::new(&list).unwrap();
        seals.sink(&Sink::Sunk { generation, checksum: 77, links })
    }

    #[test]
    fn only_the_open_sink_of_a_window_that_is_there_is_ended() {
        let mut seals = Seals::default();
        assert!(!begin_sink(&mut seals, 1, 1, 7), "no such window");
        assert!(begin(&mut seals, 1, &[(0, 10)]) && agree(&mut seals, 1, &[(7, 0)], 0));
        assert!(!begin_sink(&mut seals, 1, 1, 7), "the generation is given");
        assert!(!begin_sink(&mut seals, 2, 1, 8), "another table");
        assert!(!seals.is_ended(2, LogTime(0)), "the log may yet give it");
        assert!(begin_sink(&mut seals, 2, 1, 7) && !seals.is_ended(2, LogTime(0)));
        assert!(begin_sink(&mut seals, 3, 1, 7) && seals.is_ended(2, LogTime(0)), "overtaken");
        assert!(!sunk(&mut seals, 2) && sunk(&mut seals, 3) && !sunk(&mut seals, 3));
        assert!(!begin_sink(&mut seals, 4, 1, 7), "it is sunk");
        assert!(!seals.is_ended(3, LogTime(0)), "it is linked");
        let mut read = Seals { sealed: Vec::new(), open: Vec::new(), sinks: Vec::new(), ..seals.clone() };
        assert!(seals.windows().all(|window| read.restore(*window)));
        for sinking in &seals.sinks {
            assert!(read.restore_sink(sinking.sink));
            assert!(sinking.links.iter().all(|link| read.restore_link(*link)));
        }
        assert_eq!(read, seals);
        assert!(begin(&mut seals, 4, &[(0, 10)]) && agree(&mut seals, 4, &[(9, 0)], 0));
        assert!(seals.sinks.is_empty() && seals.is_ended(3, LogTime(0)), "sealed anew: nothing links it");
        assert!(begin_sink(&mut seals, 5, 4, 9) && !sunk(&mut seals, 4));
        assert!(seals.sink(&Sink::GivenUp { generation: 5 }) && seals.is_ended(5, LogTime(0)));
    }
}
