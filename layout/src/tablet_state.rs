//! The state blob: what a shard's tablets must remember beside their records, as of the tables it stands with.
//!
//! Owns its bytes, written and read as a stream: a blob may be hundreds of megabytes. Must never be used before its end was
//! read: only there stands the checksum. Invariant: what is read to its end is what was written, of this device and id.
//!
//! ```text
//! | header 16 | tablet 80 | request, .. | recent, .. | window 80, .. | sink 80, link 32, .. | tablet 80 | .. | checksum 16 |
//! request: | client | its log time | sequence | log time | version | status 1 |      numbers less those of the one before
//! recent:  | key hash 16 | log index |
//! ```
//!
//! All of it is written with each flush: 33,000 ids of a tablet, each much like the one before.

use xxhash_rust::xxh3::Xxh3Default;

use crate::FORMAT_VERSION;
use crate::field::{Corrupt, Field, Table, byte_table};
use crate::tablet_sink::{ColdLink, LINK_BYTES, SINK_BYTES, TabletSink};
use crate::tablet_window::{TabletWindow, WINDOW_BYTES};
use crate::units::{
    LogIndex, LogTime, RequestId, ShardIndex, TABLET_COUNT, TableId, TabletIndex, Uuid, Version,
};
use crate::varint::{self, VARINT_BYTES_MAX};

/// First bytes of a blob.
pub const STATE_MAGIC: [u8; 8] = *b"TCLSTATE";

const HEADER_BYTES: usize = 16;
const TABLET_BYTES: usize = 80;
/// Numbers of a request, and the bytes that it has at least and at most: its status is one.
const REQUEST_NUMBERS: usize = 5;
const REQUEST_BYTES_MIN: usize = REQUEST_NUMBERS + 1;
const REQUEST_BYTES_MAX: usize = REQUEST_NUMBERS * VARINT_BYTES_MAX + 1;
const KEY_HASH_BYTES: usize = 16;
const RECENT_BYTES_MIN: usize = KEY_HASH_BYTES + 1;
const RECENT_BYTES_MAX: usize = KEY_HASH_BYTES + VARINT_BYTES_MAX;
const CHECKSUM_BYTES: usize = 16;
const IDENTITY_BYTES: usize = 42;
/// Structures of errors that have no byte table.
const REQUEST_STRUCTURE: &str = "state request";
const RECENT_STRUCTURE: &str = "state recent";

const FLAG_DAMAGED: u8 = 1;
const FLAG_DAMAGE_ENDS: u8 = 2;

byte_table! {
    /// Byte table of the identity of a blob; never stored.
    IDENTITY_TABLE = "state blob identity", IDENTITY_BYTES;
    I_MAGIC = "magic", 0, 8;
    I_FORMAT_VERSION = "format_version", 8, 4;
    I_DEVICE = "device", 12, 16;
    I_SHARD = "shard", 28, 2;
    I_GENERATION = "generation", 30, 4;
    I_BLOB_ID = "blob_id", 34, 8;
}

byte_table! {
    /// Byte table of the start of a blob.
    STATE_TABLE = "state blob", HEADER_BYTES;
    H_MAGIC = "magic", 0, 8;
    H_FORMAT_VERSION = "format_version", 8, 4;
    H_TABLET_COUNT = "tablet_count", 12, 4;
}

byte_table! {
    /// Byte table of a tablet in a blob.
    TABLET_TABLE = "tablet state", TABLET_BYTES;
    T_TABLET = "tablet", 0, 1;
    T_FLAGS = "flags", 1, 1;
    T_SINK_COUNT = "sink_count", 2, 2;
    T_REQUEST_COUNT = "request_count", 4, 4;
    T_RECENT_COUNT = "recent_count", 8, 4;
    T_WINDOW_COUNT = "window_count", 12, 4;
    T_APPLIED = "applied", 16, 8;
    T_LOG_TIME = "log_time", 24, 8;
    T_DAMAGE_FROM = "damage_from", 32, 8;
    T_DAMAGE_TO = "damage_to", 40, 8;
    T_REQUEST_FLOOR = "request_floor", 48, 8;
    T_RECENT_FLOOR = "recent_floor", 56, 8;
    T_RECENT_NEWEST = "recent_newest", 64, 8;
    T_SEAL_GENERATION = "seal_generation", 72, 4;
    T_SEALED_GENERATION = "sealed_generation", 76, 4;
}

/// Which blob it is: part of its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateIdentity {
    /// Uuid of the device.
    pub device: Uuid,
    /// Shard whose tablets it describes.
    pub shard: ShardIndex,
    /// Generation of the device's superblock.
    pub generation: u32,
    /// From the numbers of tables.
    pub blob: TableId,
}

impl StateIdentity {
    fn hasher(&self) -> Xxh3Default {
        let mut bytes = [0; IDENTITY_BYTES];
        I_MAGIC.put(&mut bytes, STATE_MAGIC);
        I_FORMAT_VERSION.put(&mut bytes, FORMAT_VERSION.to_le_bytes());
        I_DEVICE.put(&mut bytes, self.device.0);
        I_SHARD.put(&mut bytes, self.shard.0.to_le_bytes());
        I_GENERATION.put(&mut bytes, self.generation.to_le_bytes());
        I_BLOB_ID.put(&mut bytes, self.blob.0.to_le_bytes());
        let mut hasher = Xxh3Default::new();
        hasher.update(&bytes);
        hasher
    }
}

/// A tablet; its requests and recent keys follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TabletHead {
    /// Which.
    pub tablet: TabletIndex,
    /// Last entry applied, below 2^48.
    pub applied: LogIndex,
    /// Largest stamp applied.
    pub log_time: LogTime,
    /// First and, when it is known, last log index that is lost or may be.
    pub damage: Option<(LogIndex, Option<LogIndex>)>,
    /// A request id that is not listed and whose log time is below this may have been applied.
    pub request_floor: LogTime,
    /// Request ids that follow.
    pub request_count: u32,
    /// Every write above this index is in the list of recent keys.
    pub recent_floor: LogIndex,
    /// Index of the last write in that list, or its floor.
    pub recent_newest: LogIndex,
    /// Recent keys that follow.
    pub recent_count: u32,
    /// Windows that follow.
    pub window_count: u32,
    /// Sinks that follow, each with its links.
    pub sink_count: u16,
    /// Of the last seal that began; 0 when none has.
    pub seal_generation: u32,
    /// Of the last one that was agreed on.
    pub sealed_generation: u32,
}

impl TabletHead {
    fn encode(&self) -> [u8; TABLET_BYTES] {
        let mut bytes = [0; TABLET_BYTES];
        let (flags, from, to) = match self.damage {
            None => (0, 0, 0),
            Some((from, None)) => (FLAG_DAMAGED, from.0, 0),
            Some((from, Some(to))) => (FLAG_DAMAGED | FLAG_DAMAGE_ENDS, from.0, to.0),
        };
        T_TABLET.put(&mut bytes, [self.tablet.get()]);
        T_FLAGS.put(&mut bytes, [flags]);
        T_REQUEST_COUNT.put(&mut bytes, self.request_count.to_le_bytes());
        T_RECENT_COUNT.put(&mut bytes, self.recent_count.to_le_bytes());
        T_APPLIED.put(&mut bytes, self.applied.0.to_le_bytes());
        T_LOG_TIME.put(&mut bytes, self.log_time.0.to_le_bytes());
        T_DAMAGE_FROM.put(&mut bytes, from.to_le_bytes());
        T_DAMAGE_TO.put(&mut bytes, to.to_le_bytes());
        T_REQUEST_FLOOR.put(&mut bytes, self.request_floor.0.to_le_bytes());
        T_RECENT_FLOOR.put(&mut bytes, self.recent_floor.0.to_le_bytes());
        T_RECENT_NEWEST.put(&mut bytes, self.recent_newest.0.to_le_bytes());
        T_WINDOW_COUNT.put(&mut bytes, self.window_count.to_le_bytes());
        T_SINK_COUNT.put(&mut bytes, self.sink_count.to_le_bytes());
        T_SEAL_GENERATION.put(&mut bytes, self.seal_generation.to_le_bytes());
        T_SEALED_GENERATION.put(&mut bytes, self.sealed_generation.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; TABLET_BYTES]) -> Result<TabletHead, Field> {
        let (from, to) = (LogIndex(T_DAMAGE_FROM.u64(bytes)), LogIndex(T_DAMAGE_TO.u64(bytes)));
        let damage = match T_FLAGS.u8(bytes) {
            0 => None,
            FLAG_DAMAGED => Some((from, None)),
            3 => Some((from, Some(to))),
            _ => return Err(T_FLAGS),
        };
        let head = TabletHead {
            tablet: TabletIndex::new(T_TABLET.u8(bytes)).ok_or(T_TABLET)?,
            applied: LogIndex(T_APPLIED.u64(bytes)),
            log_time: LogTime(T_LOG_TIME.u64(bytes)),
            damage,
            request_floor: LogTime(T_REQUEST_FLOOR.u64(bytes)),
            request_count: T_REQUEST_COUNT.u32(bytes),
            recent_floor: LogIndex(T_RECENT_FLOOR.u64(bytes)),
            recent_newest: LogIndex(T_RECENT_NEWEST.u64(bytes)),
            recent_count: T_RECENT_COUNT.u32(bytes),
            window_count: T_WINDOW_COUNT.u32(bytes),
            sink_count: T_SINK_COUNT.u16(bytes),
            seal_generation: T_SEAL_GENERATION.u32(bytes),
            sealed_generation: T_SEALED_GENERATION.u32(bytes),
        };
        let right = [
            (T_APPLIED, head.applied.0 < 1 << 48),
            (T_DAMAGE_FROM, damage.is_some() || from.0 == 0),
            (T_DAMAGE_TO, damage.is_some_and(|(_, end)| end.is_some()) || to.0 == 0),
            (T_RECENT_NEWEST, head.recent_floor <= head.recent_newest),
            (T_SEALED_GENERATION, head.sealed_generation <= head.seal_generation),
        ];
        right.into_iter().find_map(|(field, right)| (!right).then_some(Err(field))).unwrap_or(Ok(head))
    }

    /// At least.
    fn follows_bytes(&self) -> u64 {
        u64::from(self.request_count) * REQUEST_BYTES_MIN as u64
            + u64::from(self.recent_count) * RECENT_BYTES_MIN as u64
            + u64::from(self.window_count) * WINDOW_BYTES as u64
            + u64::from(self.sink_count) * SINK_BYTES as u64
    }
}

/// A request id that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateRequest {
    /// The id.
    pub id: RequestId,
    /// Log time at which it was applied; does not fall from one to the next.
    pub log_time: LogTime,
    /// Status of the reply, as on the wire.
    pub status: u8,
    /// Version the write got, or that it met.
    pub version: Version,
}

impl StateRequest {
    fn numbers(&self) -> [u64; REQUEST_NUMBERS] {
        let RequestId { client, log_time, sequence } = self.id;
        [client, log_time, sequence, self.log_time.0, self.version.0]
    }

    fn of(numbers: [u64; REQUEST_NUMBERS], status: u8) -> StateRequest {
        let [client, log_time, sequence, applied, version] = numbers;
        let id = RequestId { client, log_time, sequence };
        StateRequest { id, log_time: LogTime(applied), status, version: Version(version) }
    }
}

/// A key that was written lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateRecent {
    /// Hash of the key, as the tablet keeps it.
    pub key_hash: u128,
    /// Entry that wrote it, not below the floor; does not fall from one to the next.
    pub log_index: LogIndex,
}

/// What a blob consists of, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateItem {
    /// The next tablet.
    Tablet(TabletHead),
    /// A request id of it.
    Request(StateRequest),
    /// A recent key of it, behind its requests.
    Recent(StateRecent),
    /// A window of it, behind its recent keys.
    Window(TabletWindow),
    /// A sink of it, behind its windows.
    Sink(TabletSink),
    /// A link of that sink.
    Link(ColdLink),
    /// The end: all that was read counts. The checksum is the one that the manifest names.
    End {
        /// xxh3-128 over identity and content.
        checksum: u128,
    },
}

/// A blob that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSummary {
    /// All of its bytes.
    pub bytes: u64,
    /// The checksum at its end.
    pub checksum: u128,
}

fn put_difference(out: &mut Vec<u8>, number: u64, before: u64) {
    varint::put(out, varint::zigzag(number.wrapping_sub(before) as i64));
}

/// The number at `at`, and the place behind it.
fn take_difference(bytes: &[u8], at: usize, before: u64) -> Option<(u64, usize)> {
    let (difference, next) = varint::take(bytes, at)?;
    Some((before.wrapping_add(varint::unzigzag(difference) as u64), next))
}

/// A request at the front of `bytes`, and how many it takes.
fn take_request(bytes: &[u8], before: &[u64; REQUEST_NUMBERS]) -> Option<(StateRequest, usize)> {
    let (mut numbers, mut at) = ([0; REQUEST_NUMBERS], 0);
    for (number, before) in numbers.iter_mut().zip(before) {
        (*number, at) = take_difference(bytes, at, *before)?;
    }
    Some((StateRequest::of(numbers, *bytes.get(at)?), at + 1))
}

/// The same of a recent key.
fn take_recent(bytes: &[u8], before: u64) -> Option<(StateRecent, usize)> {
    let (key_hash, _) = bytes.split_first_chunk()?;
    let (log_index, at) = take_difference(bytes, KEY_HASH_BYTES, before)?;
    Some((StateRecent { key_hash: u128::from_le_bytes(*key_hash), log_index: LogIndex(log_index) }, at))
}

/// What must come next.
#[derive(Debug, Clone, Copy)]
struct Expected {
    tablets: u32,
    requests: u32,
    recents: u32,
    windows: u32,
    sinks: u32,
    links: u32,
    last_tablet: Option<TabletIndex>,
    last_log_time: u64,
    last_log_index: u64,
    /// Of the request, and the recent key, before; 0 at the first of a tablet.
    request_before: [u64; REQUEST_NUMBERS],
    index_before: u64,
}

impl Expected {
    fn new(tablets: u32) -> Expected {
        Expected {
            tablets,
            requests: 0,
            recents: 0,
            windows: 0,
            sinks: 0,
            links: 0,
            last_tablet: None,
            last_log_time: 0,
            last_log_index: 0,
            request_before: [0; REQUEST_NUMBERS],
            index_before: 0,
        }
    }

    /// Nothing of the tablet is left to come.
    fn is_tablet_ended(&self) -> bool {
        let left = [self.requests, self.recents, self.windows, self.sinks, self.links];
        left.iter().all(|left| *left == 0)
    }

    /// False when the item is not what comes next.
    fn take(&mut self, item: &StateItem) -> bool {
        match item {
            StateItem::Tablet(head) => {
                let right = self.tablets > 0
                    && self.is_tablet_ended()
                    && self.last_tablet.is_none_or(|last| head.tablet > last);
                *self = Expected {
                    requests: head.request_count,
                    recents: head.recent_count,
                    windows: head.window_count,
                    sinks: u32::from(head.sink_count),
                    last_tablet: Some(head.tablet),
                    last_log_index: head.recent_floor.0,
                    ..Expected::new(self.tablets.saturating_sub(1))
                };
                right
            }
            StateItem::Request(request) => {
                let right = self.requests > 0 && request.log_time.0 >= self.last_log_time;
                self.requests = self.requests.saturating_sub(1);
                self.last_log_time = request.log_time.0;
                self.request_before = request.numbers();
                right
            }
            StateItem::Recent(recent) => {
                let right =
                    self.requests == 0 && self.recents > 0 && recent.log_index.0 >= self.last_log_index;
                self.recents = self.recents.saturating_sub(1);
                self.last_log_index = recent.log_index.0;
                self.index_before = recent.log_index.0;
                right
            }
            StateItem::Window(_) => {
                let right = self.requests == 0 && self.recents == 0 && self.windows > 0;
                self.windows = self.windows.saturating_sub(1);
                right
            }
            StateItem::Sink(sink) => {
                let is_turn = self.requests == 0 && self.recents == 0 && self.windows == 0;
                let right = is_turn && self.links == 0 && self.sinks > 0;
                self.sinks = self.sinks.saturating_sub(1);
                self.links = sink.link_count;
                right
            }
            StateItem::Link(_) => {
                let right = self.links > 0;
                self.links = self.links.saturating_sub(1);
                right
            }
            StateItem::End { .. } => self.tablets == 0 && self.is_tablet_ended(),
        }
    }
}

/// Writes a blob. What comes in another order than it was announced is our own bug.
pub struct StateWriter {
    hasher: Xxh3Default,
    expected: Expected,
    out: Vec<u8>,
    bytes: u64,
}

impl StateWriter {
    /// A blob of this many tablets, at most 64.
    #[must_use]
    pub fn new(identity: &StateIdentity, tablet_count: usize) -> StateWriter {
        assert!(tablet_count <= TABLET_COUNT, "there are {TABLET_COUNT} tablets");
        let expected = Expected::new(tablet_count as u32);
        let mut writer = StateWriter { hasher: identity.hasher(), expected, out: Vec::new(), bytes: 0 };
        let mut header = [0; HEADER_BYTES];
        H_MAGIC.put(&mut header, STATE_MAGIC);
        H_FORMAT_VERSION.put(&mut header, FORMAT_VERSION.to_le_bytes());
        H_TABLET_COUNT.put(&mut header, (tablet_count as u32).to_le_bytes());
        writer.append(&header);
        writer
    }

    fn append(&mut self, bytes: &[u8]) {
        let start = self.out.len();
        self.out.extend_from_slice(bytes);
        self.appended(start);
    }

    /// What stands behind `start` is new.
    fn appended(&mut self, start: usize) {
        let bytes = &self.out[start..];
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn item(&mut self, item: StateItem) {
        assert!(self.expected.take(&item), "a state is written in order and as it was announced: {item:?}");
    }

    /// The next tablet, above the one before.
    pub fn begin_tablet(&mut self, head: &TabletHead) {
        self.item(StateItem::Tablet(*head));
        let bytes = head.encode();
        assert!(TabletHead::decode(&bytes) == Ok(*head), "a state we write can be read again: {head:?}");
        self.append(&bytes);
    }

    /// The next request id of the tablet, in the order they were applied.
    pub fn request(&mut self, request: &StateRequest) {
        let (start, before) = (self.out.len(), self.expected.request_before);
        self.item(StateItem::Request(*request));
        for (number, before) in request.numbers().into_iter().zip(before) {
            put_difference(&mut self.out, number, before);
        }
        self.out.push(request.status);
        self.appended(start);
    }

    /// The next recent key of the tablet, behind its request ids, in the order they were written.
    pub fn recent(&mut self, recent: &StateRecent) {
        let (start, before) = (self.out.len(), self.expected.index_before);
        self.item(StateItem::Recent(*recent));
        self.out.extend_from_slice(&recent.key_hash.to_le_bytes());
        put_difference(&mut self.out, recent.log_index.0, before);
        self.appended(start);
    }

    /// The next window of the tablet, behind its recent keys.
    pub fn window(&mut self, window: &TabletWindow) {
        self.item(StateItem::Window(*window));
        let bytes = window.encode();
        assert!(
            TabletWindow::decode(&bytes) == Ok(*window),
            "a window we write can be read again: {window:?}"
        );
        self.append(&bytes);
    }

    /// The next sink of the tablet, behind its windows; its links follow.
    pub fn sink(&mut self, sink: &TabletSink) {
        self.item(StateItem::Sink(*sink));
        let bytes = sink.encode();
        assert!(TabletSink::decode(&bytes) == Ok(*sink), "a sink we write can be read again: {sink:?}");
        self.append(&bytes);
    }

    /// The next link of that sink.
    pub fn link(&mut self, link: &ColdLink) {
        self.item(StateItem::Link(*link));
        let bytes = link.encode();
        assert!(ColdLink::decode(&bytes) == Ok(*link), "a link we write can be read again: {link:?}");
        self.append(&bytes);
    }

    /// Bytes that were made and not yet consumed: the next ones of the blob.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.out
    }

    /// The first `bytes` of [`StateWriter::pending`] are written, or copied away.
    pub fn consume(&mut self, bytes: usize) {
        self.out.drain(..bytes);
    }

    /// Ends the blob: its last bytes are pending afterwards.
    pub fn finish(&mut self) -> StateSummary {
        let checksum = self.hasher.digest128();
        self.item(StateItem::End { checksum });
        self.append(&checksum.to_le_bytes());
        StateSummary { bytes: self.bytes, checksum }
    }
}

/// Reads a blob as its bytes come; allocates nothing.
pub struct StateReader {
    hasher: Xxh3Default,
    expected: Option<Expected>,
    /// Place of the next byte.
    at: u64,
    bytes: u64,
    ended: bool,
}

impl StateReader {
    /// For a blob of this many bytes, as the manifest says.
    #[must_use]
    pub fn new(identity: &StateIdentity, bytes: u64) -> StateReader {
        StateReader { hasher: identity.hasher(), expected: None, at: 0, bytes, ended: false }
    }

    /// Place of the next byte in the blob.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    fn take<'a, const N: usize>(&mut self, input: &mut &'a [u8]) -> Option<&'a [u8; N]> {
        let (bytes, rest) = input.split_first_chunk::<N>()?;
        *input = rest;
        self.hasher.update(bytes);
        self.at += N as u64;
        Some(bytes)
    }

    /// What `item` is, which takes so many bytes from the front of `input`; `None` when it may be cut there, an error when no
    /// more bytes would make an item of it.
    fn take_item<T>(
        &mut self,
        item: Option<(T, usize)>,
        bytes_max: usize,
        input: &mut &[u8],
        wrong: Corrupt,
    ) -> Result<Option<T>, Corrupt> {
        let Some((item, bytes)) = item else {
            let is_all = input.len() >= bytes_max || input.len() as u64 >= self.bytes.saturating_sub(self.at);
            return if is_all { Err(wrong) } else { Ok(None) };
        };
        let (taken, rest) = input.split_at(bytes);
        *input = rest;
        self.hasher.update(taken);
        self.at += bytes as u64;
        Ok(Some(item))
    }

    /// The next item, taken from the front of `input`; `None` when `input` holds only a part of it: call again with
    /// that part and what comes behind it. After the end, or an error, there is nothing to ask for: our own bug.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<StateItem>, Corrupt> {
        assert!(!self.ended, "a blob is read to its end once");
        let item = self.read(input);
        self.ended = matches!(item, Err(_) | Ok(Some(StateItem::End { .. })));
        item
    }

    fn read(&mut self, input: &mut &[u8]) -> Result<Option<StateItem>, Corrupt> {
        let Some(mut expected) = self.expected else {
            let at = self.at;
            let Some(header) = self.take::<HEADER_BYTES>(input) else { return Ok(None) };
            let tablets = H_TABLET_COUNT.u32(header);
            let right = [
                (H_MAGIC, H_MAGIC.array(header) == STATE_MAGIC),
                (H_FORMAT_VERSION, H_FORMAT_VERSION.u32(header) == FORMAT_VERSION),
                (H_TABLET_COUNT, tablets as usize <= TABLET_COUNT),
            ];
            if let Some((field, _)) = right.into_iter().find(|(_, right)| !right) {
                return Err(STATE_TABLE.corrupt(field, at));
            }
            self.expected = Some(Expected::new(tablets));
            return self.read(input);
        };
        let at = self.at;
        let (item, wrong) = if expected.requests > 0 {
            let wrong = Corrupt { structure: REQUEST_STRUCTURE, field: "log_time", at };
            let found = take_request(input, &expected.request_before);
            let Some(request) = self.take_item(found, REQUEST_BYTES_MAX, input, wrong)? else {
                return Ok(None);
            };
            (StateItem::Request(request), wrong)
        } else if expected.recents > 0 {
            let wrong = Corrupt { structure: RECENT_STRUCTURE, field: "log_index", at };
            let found = take_recent(input, expected.index_before);
            let Some(recent) = self.take_item(found, RECENT_BYTES_MAX, input, wrong)? else {
                return Ok(None);
            };
            (StateItem::Recent(recent), wrong)
        } else if expected.windows > 0 {
            let Some(bytes) = self.take::<WINDOW_BYTES>(input) else { return Ok(None) };
            let window = TabletWindow::decode(bytes);
            let wrong = |field| crate::tablet_window::WINDOW_TABLE.corrupt(field, at);
            (StateItem::Window(window.map_err(wrong)?), TABLET_TABLE.corrupt(T_WINDOW_COUNT, at))
        } else if expected.links > 0 {
            let Some(bytes) = self.take::<LINK_BYTES>(input) else { return Ok(None) };
            let wrong = |field| crate::tablet_sink::LINK_TABLE.corrupt(field, at);
            let link = ColdLink::decode(bytes).map_err(wrong)?;
            (StateItem::Link(link), TABLET_TABLE.corrupt(T_SINK_COUNT, at))
        } else if expected.sinks > 0 {
            let Some(bytes) = self.take::<SINK_BYTES>(input) else { return Ok(None) };
            let wrong = |field| crate::tablet_sink::SINK_TABLE.corrupt(field, at);
            let sink = TabletSink::decode(bytes).map_err(wrong)?;
            (StateItem::Sink(sink), TABLET_TABLE.corrupt(T_SINK_COUNT, at))
        } else if expected.tablets > 0 {
            let Some(bytes) = self.take::<TABLET_BYTES>(input) else { return Ok(None) };
            let head = TabletHead::decode(bytes).map_err(|field| TABLET_TABLE.corrupt(field, at))?;
            let left = self.bytes.saturating_sub(self.at);
            if head.follows_bytes() > left {
                return Err(TABLET_TABLE.corrupt(T_REQUEST_COUNT, at));
            }
            (StateItem::Tablet(head), TABLET_TABLE.corrupt(T_TABLET, at))
        } else {
            let checksum = self.hasher.digest128();
            let Some(bytes) = self.take::<CHECKSUM_BYTES>(input) else { return Ok(None) };
            let wrong = |field| Corrupt { structure: STATE_TABLE.structure, field, at };
            if *bytes != checksum.to_le_bytes() {
                return Err(wrong("checksum"));
            }
            (StateItem::End { checksum }, wrong("bytes"))
        };
        let right = expected.take(&item);
        self.expected = Some(expected);
        let at_end = matches!(item, StateItem::End { .. });
        if !right || self.at > self.bytes || (at_end && self.at != self.bytes) {
            return Err(wrong);
        }
        Ok(Some(item))
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 3] = [IDENTITY_TABLE, STATE_TABLE, TABLET_TABLE];

#[cfg(test)]
mod tests;
