//! What four half-torn, perhaps damaged parts say together: the newest snapshot, the edits behind it, or that something is
//! missing. A pure function of what was read.
//!
//! The rule it must never break: an older state is taken only where the newer one was never finished. What could make
//! an old manifest look current, and what shows it:
//!
//! - an edit is lost in both copies and a later one is there: a frame of a number above the one expected;
//! - the snapshot in force is lost in both copies, and the other half still holds the one before: edits behind the lost
//!   one have numbers above the one expected; without any, its own frames are bad, which a tear cannot do;
//! - one write goes to another place, and over the other copy of the same record: the frames it put on the same
//!   position count as that copy's own ([`super::area::Area::sort`]); put on any other position they leave a part of
//!   the other copy, while the first has not one frame of it;
//! - all of it reads as zero: only where the log was never written. Whoever opens it knows more: a journal with records.
//!
//! One copy that holds its older content whole proves that a record was never flushed. So damage in one copy alone is
//! never damage of the log. What cannot be closed: both copies of the newest flushed write are lost without a trace.

use super::area::{Area, Areas};
use layout::journal_record::{FRAME_BYTES, Frame};
use layout::manifest_record::{ManifestHeader, ManifestKind};
use layout::units::{BLOCK_BYTES, DiskOffset, Incarnation, Sequence};

/// What a manifest is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was ever made durable in it since the format.
    Fresh,
    /// The newest snapshot and all edits behind it are there.
    Whole,
    /// Something that may have been durable is missing. What was read is an older state: for inspection only.
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Device offset where it shows, in copy 0.
        at: DiskOffset,
    },
}

/// What a manifest holds.
#[derive(Debug)]
pub struct Reading {
    /// Bodies of the newest snapshot, in order.
    pub snapshot: Vec<Vec<u8>>,
    /// Bodies of the edits behind it, in order.
    pub edits: Vec<Vec<u8>>,
    /// What it is worth.
    pub verdict: Verdict,
    /// Records that only one copy holds. The next rewrite mends that.
    pub single_count: u64,
    /// Those of them that no crash explains: a later record shows that both copies were flushed, or what stands in the
    /// other copy fails its checksums.
    pub decayed_count: u64,
    /// Half that the snapshot stands in.
    pub half: usize,
    /// Position behind the last record of that half.
    pub end: u64,
    /// Number of the last record; 0 when there is none.
    pub sequence: Sequence,
    /// Highest incarnation of any frame.
    pub incarnation_max: Incarnation,
}

/// Whether a whole record of the number expected is the one meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Meant,
    /// Left by an attempt that was never finished.
    Left,
    /// It cannot be here.
    Strange,
}

/// What stands in one copy where a record is expected.
enum Place {
    Record(ManifestHeader, Vec<u8>),
    /// Not one frame of it.
    Absent,
    /// Some of its frames, or of later parts of its snapshot, beside older content: never finished.
    Torn {
        /// Some of them stand in the block where it begins, so they are its own.
        begun: bool,
    },
    /// Frames that fail, in places where the record was or would begin.
    Bad {
        /// Frames of the record stand beside them.
        beside_new: bool,
    },
}

/// Whether a record stands in one copy only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Single {
    No,
    /// In the other it is not there, or not finished.
    Missing,
    /// In the other something fails.
    Bad,
}

/// What both copies say together.
enum Both {
    Record {
        header: ManifestHeader,
        body: Vec<u8>,
        single: Single,
    },
    /// It was never finished.
    Nothing,
    Damaged,
}

/// A complete snapshot.
struct Snapshot {
    sequence: Sequence,
    incarnation: Incarnation,
    bodies: Vec<Vec<u8>>,
    end: u64,
    single_count: u64,
    decayed_count: u64,
}

fn number(frame: Frame) -> Option<Sequence> {
    match frame {
        Frame::Valid { sequence, .. } => Some(sequence),
        Frame::Zero | Frame::Bad => None,
    }
}

/// Look for record `sequence` at position `at` of one copy. `fits` is asked about a whole one.
fn look(area: &Area, at: u64, sequence: Sequence, fits: &dyn Fn(&ManifestHeader) -> Fit) -> Place {
    if area.bytes() - at < BLOCK_BYTES as u64 {
        return Place::Absent;
    }
    let header = area.header(at).filter(|header| header.sequence == sequence);
    let end = header.as_ref().map_or(area.bytes(), |header| at + header.record_bytes());
    let frames = area.frames(at, end);
    let Some(last_new) = frames.iter().rposition(|&frame| number(frame) == Some(sequence)) else {
        // No trace of the record. A block that is wholly bad may have been its first; a few bad frames among older
        // ones are rot where nothing lives.
        let block = area.frames(at, at + BLOCK_BYTES as u64);
        let bad = block.iter().all(|&frame| frame == Frame::Bad);
        return if bad { Place::Bad { beside_new: false } } else { Place::Absent };
    };
    let reached = if header.is_some() { frames } else { &frames[..=last_new] };
    if reached.contains(&Frame::Bad) {
        return Place::Bad { beside_new: true };
    }
    let block = area.frames(at, at + BLOCK_BYTES as u64);
    let torn = Place::Torn { begun: block.iter().any(|&frame| number(frame) == Some(sequence)) };
    let Some(header) = header else { return torn };
    let own = Frame::Valid { incarnation: header.incarnation, sequence };
    if frames.iter().any(|&frame| frame != own) {
        return torn;
    }
    match (fits(&header), area.body(at, &header)) {
        (Fit::Left, _) => torn,
        (Fit::Meant, Some(body)) => Place::Record(header, body),
        (Fit::Meant, None) | (Fit::Strange, _) => Place::Bad { beside_new: true },
    }
}

fn look_at_both(
    copies: &[Area; 2],
    at: u64,
    sequence: Sequence,
    fits: &dyn Fn(&ManifestHeader) -> Fit,
) -> Both {
    match copies.each_ref().map(|area| look(area, at, sequence, fits)) {
        [Place::Record(header, body), Place::Record(other, _)] => {
            // One record, twice. Two that differ under one number are not from one life of this log.
            if header == other { Both::Record { header, body, single: Single::No } } else { Both::Damaged }
        }
        [Place::Record(header, body), other] | [other, Place::Record(header, body)] => {
            let single = if matches!(other, Place::Bad { .. }) { Single::Bad } else { Single::Missing };
            Both::Record { header, body, single }
        }
        [Place::Bad { .. }, Place::Bad { .. }] => Both::Damaged,
        // The write for one copy came, and of the other not one frame did, as far as can be known: a write that went
        // astray, and over the first, leaves this. So does a power cut followed by rot, which is reported without need.
        [Place::Bad { beside_new: true }, Place::Absent | Place::Torn { begun: false }]
        | [Place::Absent | Place::Torn { begun: false }, Place::Bad { beside_new: true }] => Both::Damaged,
        _ => Both::Nothing,
    }
}

/// Snapshots that begin in a half, by either copy, the newest first.
fn candidates(copies: &[Area; 2]) -> Vec<(Sequence, Incarnation)> {
    let begins = |header: &ManifestHeader| matches!(header.kind, ManifestKind::Snapshot { part: 0, .. });
    let headers = copies.iter().filter_map(|area| area.header(0)).filter(begins);
    let mut found: Vec<_> = headers.map(|header| (header.sequence, header.incarnation)).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

/// Put a snapshot together from the parts that either copy holds; else why it cannot be.
fn assemble(copies: &[Area; 2], sequence: Sequence, incarnation: Incarnation) -> Result<Snapshot, Both> {
    let mut snapshot =
        Snapshot { sequence, incarnation, bodies: Vec::new(), end: 0, single_count: 0, decayed_count: 0 };
    loop {
        let part = u32::try_from(snapshot.bodies.len()).expect("a half holds few records");
        // Parts of two attempts under one number are never mixed.
        let fits = |header: &ManifestHeader| {
            let is = matches!(header.kind, ManifestKind::Snapshot { part: is, .. } if is == part);
            if is && header.incarnation == incarnation { Fit::Meant } else { Fit::Left }
        };
        match look_at_both(copies, snapshot.end, sequence, &fits) {
            Both::Record { header, body, single } => {
                snapshot.bodies.push(body);
                snapshot.end += header.record_bytes();
                snapshot.single_count += u64::from(single != Single::No);
                snapshot.decayed_count += u64::from(single == Single::Bad);
                if matches!(header.kind, ManifestKind::Snapshot { last: true, .. }) {
                    return Ok(snapshot);
                }
            }
            why => return Err(why),
        }
    }
}

/// Read a manifest from its four parts.
pub(super) fn judge(areas: &Areas) -> Reading {
    let all = || areas.iter().flatten().flat_map(|area| area.all_frames().iter().copied());
    let sequence_max = all().filter_map(number).max().unwrap_or(Sequence(0));
    let incarnation = |frame| match frame {
        Frame::Valid { incarnation, .. } => Some(incarnation),
        Frame::Zero | Frame::Bad => None,
    };
    let mut reading = Reading {
        snapshot: Vec::new(),
        edits: Vec::new(),
        verdict: Verdict::Whole,
        single_count: 0,
        decayed_count: 0,
        half: 1,
        end: 0,
        sequence: Sequence(0),
        incarnation_max: all().filter_map(incarnation).max().unwrap_or(Incarnation(0)),
    };
    let complete = (0..2).flat_map(|half| {
        let copies = &areas[half];
        let whole = move |(sequence, incarnation)| assemble(copies, sequence, incarnation).ok();
        candidates(copies).into_iter().filter_map(whole).map(move |snapshot| (half, snapshot))
    });
    let in_force = complete.max_by_key(|(_, snapshot)| (snapshot.sequence, snapshot.incarnation));
    let Some((half, snapshot)) = in_force else {
        reading.verdict = never_written(areas, sequence_max);
        return reading;
    };
    let copies = &areas[half];
    reading.half = half;
    reading.end = snapshot.end;
    reading.sequence = snapshot.sequence;
    reading.single_count = snapshot.single_count;
    reading.decayed_count = snapshot.decayed_count;
    reading.snapshot = snapshot.bodies;
    let damaged = |what, at| Verdict::Damaged { what, at: copies[0].offset(at) };
    loop {
        let expected = reading.sequence.next();
        // Every start begins with a snapshot, so all edits behind one are of its incarnation.
        let fits = |header: &ManifestHeader| {
            let is = header.kind == ManifestKind::Edit { snapshot: snapshot.sequence };
            if is && header.incarnation == snapshot.incarnation { Fit::Meant } else { Fit::Strange }
        };
        match look_at_both(copies, reading.end, expected, &fits) {
            Both::Record { header, body, single } => {
                reading.edits.push(body);
                reading.end += header.record_bytes();
                reading.sequence = expected;
                // What came before it was flushed in both copies.
                reading.decayed_count = reading.single_count + u64::from(single == Single::Bad);
                reading.single_count += u64::from(single != Single::No);
            }
            Both::Damaged => {
                reading.verdict = damaged("an edit cannot be read in either copy", reading.end);
                return reading;
            }
            Both::Nothing => break,
        }
    }
    let expected = reading.sequence.next();
    if sequence_max > expected {
        // One record is in flight at a time, and takes the number expected: behind it something was flushed.
        reading.verdict = damaged("a record is missing in both copies and a later one is there", reading.end);
    } else if unfinished_is_damaged(&areas[1 - half], expected) {
        let at = areas[1 - half][0].offset(0);
        reading.verdict = Verdict::Damaged { what: "a newer snapshot cannot be read in either copy", at };
    }
    reading
}

/// The half that is not in force: does it hold a snapshot of number `expected` that is damaged, and not just unfinished?
fn unfinished_is_damaged(copies: &[Area; 2], expected: Sequence) -> bool {
    let newest = candidates(copies).into_iter().find(|&(sequence, _)| sequence == expected);
    let why = match newest {
        Some((sequence, incarnation)) => assemble(copies, sequence, incarnation).err(),
        None => Some(look_at_both(copies, 0, expected, &|_| Fit::Strange)),
    };
    matches!(why, Some(Both::Damaged))
}

/// No snapshot is whole: was there ever one?
fn never_written(areas: &Areas, sequence_max: Sequence) -> Verdict {
    let first = Sequence(1);
    let at = areas[0][0].offset(0);
    if sequence_max > first {
        return Verdict::Damaged { what: "no snapshot can be read in either copy", at };
    }
    if areas.iter().any(|copies| unfinished_is_damaged(copies, first)) {
        return Verdict::Damaged { what: "the first snapshot cannot be read in either copy", at };
    }
    // A record leaves no frame of its blocks zero. A block that is bad all over may hold what was one, and then zeros
    // in the other copy are a lie: safe, at the price of refusing a device that came damaged to its first start.
    let block = BLOCK_BYTES / FRAME_BYTES;
    let all_bad = |frames: &[Frame]| frames.iter().all(|&frame| frame == Frame::Bad);
    let any = areas.iter().flatten().any(|area| area.all_frames().chunks(block).any(all_bad));
    if any && sequence_max.0 == 0 {
        return Verdict::Damaged { what: "nothing but what cannot be read", at };
    }
    Verdict::Fresh
}
