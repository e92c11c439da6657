//! Writes that wait for the journal: their encoded operations, in order of arrival, linked per tablet. A batch is
//! filled while the record before it is being written, then becomes the next record: one entry per tablet.
//! Laid out at start; a full batch is `Busy`.

use crate::memtable::Charge;
use crate::reply::ReplyTo;
use ioengine::Instant;
use layout::journal_record::RecordWriter;
use layout::log_entry::{ENTRY_HEADER_BYTES, EntryHeader, Operation};
use layout::units::{
    ENTRY_BODY_BYTES_MAX, ENTRY_OPERATION_COUNT_MAX, LogIndex, LogTime, TABLET_COUNT, TabletIndex,
};

/// A request to stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) tablet: TabletIndex,
    /// Who is answered; `None` for what the core itself stages.
    pub(crate) reply_to: Option<ReplyTo>,
    /// When it came.
    pub(crate) since: Instant,
    /// Room it holds in the memtable until applied.
    pub(crate) charge: Charge,
}

/// A request that waits: one write, a tick, or an atomic batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Who is answered; `None` for what the core itself staged and for who was answered already.
    pub(crate) reply_to: Option<ReplyTo>,
    /// When it came.
    pub(crate) since: Instant,
    /// Room it holds in the memtable until applied.
    pub(crate) charge: Charge,
    from: u32,
    bytes: u32,
    /// Operations of the request.
    pub(crate) operation_count: u16,
    /// Next request of the same tablet.
    next: Option<u32>,
}

#[derive(Clone, Copy, Default)]
struct Line {
    first: Option<u32>,
    last: Option<u32>,
    bytes: usize,
    operation_count: usize,
}

/// The writes of one record to be.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
    lines: [Line; TABLET_COUNT],
    /// Tablets with requests, one bit each.
    tablets: u64,
}

impl Batch {
    pub(crate) fn new(bytes: usize, count: usize) -> Batch {
        Batch {
            bytes: Vec::with_capacity(bytes),
            waiting: Vec::with_capacity(count),
            lines: [Line::default(); TABLET_COUNT],
            tablets: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Body bytes of the record with what is staged now.
    pub(crate) fn body_bytes(&self) -> usize {
        self.bytes.len() + self.tablets.count_ones() as usize * ENTRY_HEADER_BYTES
    }

    /// Body bytes of the record with a further request of `tablet` of `bytes` and `operation_count`; `None` when the
    /// batch or the tablet's entry has no room for it.
    pub(crate) fn body_bytes_with(
        &self,
        tablet: TabletIndex,
        bytes: usize,
        operation_count: usize,
    ) -> Option<usize> {
        let line = &self.lines[tablet.index()];
        let fits = self.bytes.len() + bytes <= self.bytes.capacity()
            && self.waiting.len() < self.waiting.capacity()
            && line.bytes + bytes <= ENTRY_BODY_BYTES_MAX
            && line.operation_count + operation_count <= ENTRY_OPERATION_COUNT_MAX;
        // An entry header is counted for the tablet even if it has one: a few bytes too many.
        fits.then(|| self.body_bytes() + bytes + ENTRY_HEADER_BYTES)
    }

    /// Add a request; [`Batch::body_bytes_with`] has said that it fits.
    pub(crate) fn push<'a>(&mut self, request: Request, each: impl FnOnce(&mut dyn FnMut(Operation<'a>))) {
        let Request { tablet, reply_to, since, charge } = request;
        let from = self.bytes.len();
        let mut operation_count = 0u16;
        each(&mut |operation| {
            operation.encode_into(&mut |piece| self.bytes.extend_from_slice(piece));
            operation_count += 1;
        });
        let bytes = self.bytes.len() - from;
        self.link(
            tablet,
            Waiting {
                reply_to,
                since,
                charge,
                from: u32::try_from(from).expect("bounded by the config"),
                bytes: u32::try_from(bytes).expect("bounded by the config"),
                operation_count,
                next: None,
            },
        );
    }

    /// The last request of a tablet, its bytes being there.
    fn link(&mut self, tablet: TabletIndex, waiting: Waiting) {
        let number = u32::try_from(self.waiting.len()).expect("bounded by the config");
        self.waiting.push(waiting);
        let line = &mut self.lines[tablet.index()];
        match line.last {
            None => line.first = Some(number),
            Some(last) => self.waiting[last as usize].next = Some(number),
        }
        line.last = Some(number);
        line.bytes += waiting.bytes as usize;
        line.operation_count += usize::from(waiting.operation_count);
        self.tablets |= 1 << tablet.index();
    }

    /// Tablets with requests.
    pub(crate) fn tablets(&self) -> impl Iterator<Item = TabletIndex> + use<> {
        let tablets = self.tablets;
        TabletIndex::all().filter(move |tablet| tablets & (1 << tablet.index()) != 0)
    }

    /// Requests of `tablet` in order.
    pub(crate) fn line(&self, tablet: TabletIndex) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.lines[tablet.index()].first, |&number| self.waiting[number as usize].next)
    }

    pub(crate) fn waiting(&self, number: u32) -> &Waiting {
        &self.waiting[number as usize]
    }

    /// Every request, for those who answer late ones.
    pub(crate) fn all_mut(&mut self) -> &mut [Waiting] {
        &mut self.waiting
    }

    /// Write the body of the record: an entry per tablet. `head` gives each tablet its index and stamp.
    pub(crate) fn fill(
        &self,
        writer: &mut RecordWriter<'_>,
        mut head: impl FnMut(TabletIndex) -> (LogIndex, LogTime),
    ) {
        for tablet in self.tablets() {
            let line = &self.lines[tablet.index()];
            let (log_index, stamp) = head(tablet);
            let header = EntryHeader {
                tablet,
                log_index,
                stamp,
                operation_count: u16::try_from(line.operation_count).expect("bounded when staged"),
                body_bytes: u32::try_from(line.bytes).expect("bounded when staged"),
            };
            assert!(writer.append(&header.encode()), "room was checked when staged");
            for number in self.line(tablet) {
                let waiting = &self.waiting[number as usize];
                let from = waiting.from as usize;
                let piece = &self.bytes[from..from + waiting.bytes as usize];
                assert!(writer.append(piece), "room was checked when staged");
            }
        }
    }

    /// The operations of `tablet` back to back, as they stand in its entry, copied into `out`.
    pub(crate) fn entry_body(&self, tablet: TabletIndex, out: &mut Vec<u8>) -> (u16, u32) {
        out.clear();
        let line = &self.lines[tablet.index()];
        for number in self.line(tablet) {
            let waiting = &self.waiting[number as usize];
            let from = waiting.from as usize;
            out.extend_from_slice(&self.bytes[from..from + waiting.bytes as usize]);
        }
        let fits = "bounded when staged";
        (u16::try_from(line.operation_count).expect(fits), u32::try_from(line.bytes).expect(fits))
    }

    /// Take over the requests of these tablets, one bit each, in their order. This batch is empty and as large.
    pub(crate) fn carry_over(&mut self, from: &Batch, tablets: u64) {
        assert!(self.is_empty(), "what is carried over stands first");
        for tablet in from.tablets().filter(|tablet| tablets & (1 << tablet.index()) != 0) {
            for waiting in from.line(tablet).map(|number| from.waiting(number)) {
                let start = waiting.from as usize;
                let bytes = waiting.bytes as usize;
                let at = self.bytes.len();
                self.bytes.extend_from_slice(&from.bytes[start..start + bytes]);
                let at = u32::try_from(at).expect("bounded by the config");
                self.link(tablet, Waiting { from: at, next: None, ..*waiting });
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.waiting.clear();
        self.lines = [Line::default(); TABLET_COUNT];
        self.tablets = 0;
    }
}
