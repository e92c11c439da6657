//! What clients asked and what they were told, in one order of events: the only thing that checkers look at.
//!
//! The order is that in which the simulated world ran the invocations and returns: one thread, so what returned
//! before another was invoked really came first. Must never decide whether something is right, except that a value
//! is bytes that somebody sent for just that key: that is seen at once, and noted as trouble.

use layout::key::{bucket_of, tablet_of};
use layout::units::{BucketIndex, LogIndex, LogTime, RequestId, Space, TabletIndex, Version};
use std::collections::BTreeMap;

/// Place in the order of events.
pub type Order = u64;

/// Still without an answer.
pub const NEVER: Order = u64::MAX;

/// Bytes of a value that name its write, when it has so many.
const NAME_BYTES: usize = 8;

/// A stream, by its place in [`Keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamIndex(pub u32);

/// A key, by its place in [`Keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyIndex(pub u32);

/// One change of one write, by the write's place in the history and its own in the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteRef {
    /// Place of the write.
    pub write: u32,
    /// Place in the write.
    pub position: u16,
}

/// A stream that clients use.
#[derive(Clone, Debug)]
pub struct StreamFacts {
    /// Its namespace.
    pub space: Space,
    /// Its name.
    pub name: Vec<u8>,
    /// Its bucket.
    pub bucket: BucketIndex,
    /// Its tablet.
    pub tablet: TabletIndex,
    /// Its keys that were ever touched, by time.
    pub keys: BTreeMap<u64, KeyIndex>,
}

/// Every stream and key of a history.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// By [`StreamIndex`].
    pub streams: Vec<StreamFacts>,
    /// By [`KeyIndex`]: stream and time.
    pub keys: Vec<(StreamIndex, u64)>,
    by_name: BTreeMap<(u16, Vec<u8>), StreamIndex>,
}

impl Keys {
    /// The stream of this name.
    pub fn stream(&mut self, space: Space, name: &[u8]) -> StreamIndex {
        if let Some(&known) = self.by_name.get(&(space.0, name.to_vec())) {
            return known;
        }
        let index = StreamIndex(u32::try_from(self.streams.len()).expect("streams are few"));
        let bucket = bucket_of(space, name);
        let facts = StreamFacts {
            space,
            name: name.to_vec(),
            bucket,
            tablet: tablet_of(bucket),
            keys: BTreeMap::new(),
        };
        self.streams.push(facts);
        self.by_name.insert((space.0, name.to_vec()), index);
        index
    }

    /// The stream of this name, if anybody ever used it.
    #[must_use]
    pub fn find(&self, space: Space, name: &[u8]) -> Option<StreamIndex> {
        self.by_name.get(&(space.0, name.to_vec())).copied()
    }

    /// The key of a stream at a time.
    pub fn key(&mut self, stream: StreamIndex, time: u64) -> KeyIndex {
        let next = KeyIndex(u32::try_from(self.keys.len()).expect("keys are few"));
        let index = *self.streams[stream.0 as usize].keys.entry(time).or_insert(next);
        if index == next {
            self.keys.push((stream, time));
        }
        index
    }

    /// Facts of a stream.
    #[must_use]
    pub fn facts(&self, stream: StreamIndex) -> &StreamFacts {
        &self.streams[stream.0 as usize]
    }

    /// Tablet of a key.
    #[must_use]
    pub fn tablet(&self, key: KeyIndex) -> TabletIndex {
        self.facts(self.keys[key.0 as usize].0).tablet
    }

    /// A key as text, for messages.
    #[must_use]
    pub fn name(&self, key: KeyIndex) -> String {
        let (stream, time) = self.keys[key.0 as usize];
        let facts = self.facts(stream);
        let name = String::from_utf8_lossy(&facts.name);
        format!("{}/{name}/{time} (tablet {})", facts.space.0, facts.tablet.get())
    }
}

/// What a change does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Writes a value of so many bytes.
    Put {
        /// Length of the value.
        bytes: u32,
        /// Log time from which it is gone, µs; 0 never.
        expiry: u64,
    },
    /// Deletes it.
    Delete,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of which key.
    pub key: KeyIndex,
    /// What.
    pub does: Does,
}

/// What became of a write, as far as its client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may have happened, once.
    Unknown,
    /// It happened; its first change has this version.
    Acked {
        /// Version of its first change.
        first: Version,
        /// The answer was to a retry: it had happened before.
        repeated: bool,
    },
    /// It did not happen and never will.
    Refused,
}

/// A write: one change, or an atomic batch.
#[derive(Clone, Debug)]
pub struct Write {
    /// Who.
    pub client: u16,
    /// When it was first sent.
    pub invoked: Order,
    /// When the sending that was answered was sent; [`NEVER`] without an answer.
    pub sent: Order,
    /// When its fate was known; [`NEVER`] when the client gave up or the history ended first.
    pub returned: Order,
    /// The same two in nanoseconds of virtual time, for messages.
    pub at_ns: (u64, u64),
    /// The stream that it writes to.
    pub stream: StreamIndex,
    /// What it changes, in order.
    pub changes: Vec<Change>,
    /// Of a compare-and-set: the version that it expects.
    pub expected: Option<Version>,
    /// Its request id.
    pub id: RequestId,
    /// What became of it.
    pub fate: Fate,
    /// Log time of the answer; 0 without one. Unless it answers a retry, that of its entry.
    pub log_time: LogTime,
}

/// The value of a record, as it was seen: checked against its name, kept only when too short to have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No record.
    Absent,
    /// A version, nothing else (`NotModified`, `VersionMismatch`).
    Version(Version),
    /// A version with the value of this change.
    Value(Version, WriteRef),
    /// A version with a value too short to name its change: the bytes, and how many.
    Short(Version, [u8; NAME_BYTES], u8),
}

impl Seen {
    /// The version seen; `ABSENT` for no record.
    #[must_use]
    pub fn version(&self) -> Version {
        match *self {
            Seen::Absent => Version::ABSENT,
            Seen::Version(version) | Seen::Value(version, _) | Seen::Short(version, ..) => version,
        }
    }
}

/// One key read.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// By which request, for messages.
    pub by: &'static str,
    /// Who.
    pub client: u16,
    /// When it was sent (the sending that was answered).
    pub invoked: Order,
    /// When it was answered.
    pub returned: Order,
    /// When it was answered, nanoseconds of virtual time.
    pub at_ns: u64,
    /// What was asked for.
    pub key: KeyIndex,
    /// Log time of the answer.
    pub log_time: LogTime,
    /// What was seen.
    pub seen: Seen,
    /// Expiry that came with it, µs; `None` when the answer does not say.
    pub expiry: Option<u64>,
}

/// One page of a scan or head.
#[derive(Clone, Debug)]
pub struct Page {
    /// Who.
    pub client: u16,
    /// When it was sent.
    pub invoked: Order,
    /// When it was answered.
    pub returned: Order,
    /// When it was answered, nanoseconds of virtual time.
    pub at_ns: u64,
    /// Of which stream.
    pub stream: StreamIndex,
    /// Times asked for, both included.
    pub times: (u64, u64),
    /// Newest first.
    pub backward: bool,
    /// At most so many records; 0 any.
    pub record_limit: u32,
    /// Index of the tablet's log at which it was read.
    pub log_index: LogIndex,
    /// Log time of the answer.
    pub log_time: LogTime,
    /// Where it goes on; `None` at the end.
    pub resume: Option<u64>,
    /// Read from what this node held, however old; `None` from the newest state.
    pub local: Option<u16>,
    /// Records in the order of the answer: key, what was seen, expiry.
    pub records: Vec<(KeyIndex, Seen, u64)>,
}

/// One page of the streams of a tablet.
#[derive(Clone, Debug)]
pub struct List {
    /// Who.
    pub client: u16,
    /// When it was sent.
    pub invoked: Order,
    /// When it was answered.
    pub returned: Order,
    /// Of which tablet.
    pub tablet: TabletIndex,
    /// Only of this space.
    pub space: Option<Space>,
    /// Behind this stream.
    pub after: Option<StreamIndex>,
    /// More follow.
    pub more: bool,
    /// The streams, in the order of the answer.
    pub streams: Vec<StreamIndex>,
}

/// A log time that some answer carried.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// When the request was sent.
    pub invoked: Order,
    /// When the answer came.
    pub returned: Order,
    /// Of which tablet.
    pub tablet: TabletIndex,
    /// What it said.
    pub log_time: LogTime,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who found it.
    pub checker: &'static str,
    /// What it is.
    pub text: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.checker, self.text)
    }
}

/// Everything clients did and saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Streams and keys.
    pub keys: Keys,
    /// Writes, in the order of their first sending.
    pub writes: Vec<Write>,
    /// Bytes of the longest value that anybody has sent.
    pub longest_value: usize,
    /// Reads of single keys, in the order of their answers.
    pub reads: Vec<Read>,
    /// Pages of scans and heads, in the order of their answers.
    pub pages: Vec<Page>,
    /// Pages of streams, in the order of their answers.
    pub lists: Vec<List>,
    /// Log times told, in the order of the answers.
    pub told: Vec<Told>,
    /// Wrong at first sight, and of which tablet, if of one.
    pub troubles: Vec<(Option<TabletIndex>, Violation)>,
    /// When a client asked, and was told that the device under a tablet has failed.
    pub device_failures: Vec<(Order, Order, TabletIndex)>,
    /// When the node was started.
    pub starts: Vec<Order>,
    /// Answers by name of their outcome, and silence.
    pub answers: BTreeMap<&'static str, u64>,
    /// Operations answered.
    pub operation_count: u64,
    /// Told apart from other histories on the same disk.
    pub life: u16,
    /// Values have much in common, as those of real records do.
    pub repeats: bool,
    next: Order,
}

impl History {
    /// An empty one; `life` goes into its values.
    #[must_use]
    pub fn new(life: u16) -> History {
        History { life, ..History::default() }
    }

    /// Its values have much in common, or not.
    #[must_use]
    pub fn repeating(self, repeats: bool) -> History {
        History { repeats, ..self }
    }

    /// The next place in the order of events.
    pub fn tick(&mut self) -> Order {
        self.next += 1;
        self.next
    }

    /// An answer of this kind came.
    pub fn count(&mut self, answer: &'static str) {
        *self.answers.entry(answer).or_insert(0) += 1;
    }

    /// Something is wrong.
    pub fn trouble(&mut self, checker: &'static str, tablet: Option<TabletIndex>, text: String) {
        self.troubles.push((tablet, Violation { checker, text }));
    }

    /// The change of a reference.
    #[must_use]
    pub fn change(&self, by: WriteRef) -> Change {
        self.writes[by.write as usize].changes[usize::from(by.position)]
    }

    /// The value of change `position` of write `write`.
    #[must_use]
    pub fn value(&self, write: u32, position: u16, bytes: u32) -> Vec<u8> {
        let mut word = u64::from(write) | u64::from(position) << 32 | u64::from(self.life) << 48;
        let mut value = Vec::with_capacity(bytes as usize + 8);
        if bytes as usize >= NAME_BYTES {
            value.extend_from_slice(&word.to_le_bytes());
        }
        let mut has_noise = false;
        while value.len() < bytes as usize {
            if has_noise && self.repeats {
                // One of 16 pieces that come again in other values.
                let mut piece = word >> 60;
                (0..6).for_each(|_| {
                    piece = piece.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ 0x2545_f491_4f6c_dd1d;
                    value.extend_from_slice(&piece.to_le_bytes());
                });
            }
            has_noise = true;
            word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ 0x5851_f42d_4c95_7f2d;
            value.extend_from_slice(&word.to_le_bytes());
        }
        value.truncate(bytes as usize);
        value
    }

    /// What a record of `key` shows, checked against what was ever sent for it. `None`: it is nobody's, and noted.
    pub fn look(&mut self, key: KeyIndex, version: Version, expiry: u64, value: &[u8]) -> Option<Seen> {
        if value.len() < NAME_BYTES {
            let mut kept = [0; NAME_BYTES];
            kept[..value.len()].copy_from_slice(value);
            return Some(Seen::Short(version, kept, value.len() as u8));
        }
        match self.owner(key, expiry, value) {
            Ok(by) => Some(Seen::Value(version, by)),
            Err(why) => {
                let name = self.keys.name(key);
                // Not excused by anything: a wrong value is a wrong value.
                self.trouble("value", None, format!("{name} has version {version} with {why}"));
                None
            }
        }
    }

    fn owner(&self, key: KeyIndex, expiry: u64, value: &[u8]) -> Result<WriteRef, String> {
        let word = u64::from_le_bytes(*value.first_chunk::<NAME_BYTES>().expect("long enough"));
        let by = WriteRef { write: word as u32, position: (word >> 32) as u16 };
        let whole = || format!("{} bytes that nobody wrote", value.len());
        if (word >> 48) as u16 != self.life {
            return Err(format!("a value of life {} (this is {})", word >> 48, self.life));
        }
        let write = self.writes.get(by.write as usize).ok_or_else(whole)?;
        let change = write.changes.get(usize::from(by.position)).ok_or_else(whole)?;
        let Does::Put { bytes, expiry: sent } = change.does else { return Err(whole()) };
        if change.key != key {
            return Err(format!("the value of {}", self.keys.name(change.key)));
        }
        if self.value(by.write, by.position, bytes) != value {
            return Err(format!("a value of write {} that is not what was sent", by.write));
        }
        if sent != expiry {
            return Err(format!("the value of write {} and expiry {expiry}, not {sent}", by.write));
        }
        Ok(by)
    }

    /// One number for the whole history: equal for equal histories.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut text = String::new();
        use std::fmt::Write as _;
        let mut hash = 0u64;
        let mut mix = |text: &mut String| {
            hash = layout::checksum::short(text.as_bytes()).wrapping_add(hash.rotate_left(17));
            text.clear();
        };
        for write in &self.writes {
            write!(text, "{write:?}").expect("text grows");
            mix(&mut text);
        }
        for read in &self.reads {
            write!(text, "{read:?}").expect("text grows");
            mix(&mut text);
        }
        for page in &self.pages {
            write!(text, "{page:?}").expect("text grows");
            mix(&mut text);
        }
        for list in &self.lists {
            write!(text, "{list:?}").expect("text grows");
            mix(&mut text);
        }
        write!(text, "{:?} {:?}", self.answers, self.troubles).expect("text grows");
        mix(&mut text);
        hash
    }
}
