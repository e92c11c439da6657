//! Writing of real records, once through: puts one by one in the order of the file, or batches of one stream. Without
//! the file, records of the same shape are made up: many writers of very different diligence, texts of 20 bytes to
//! some thousand.

use super::numbers::{StreamName, Zipf, fill, hash};
use super::{Workload, request_room};
use crate::outside::{self, OutsideError};
use layout::key::Key;
use layout::units::{LogTime, STREAM_BYTES_MAX, Space, TabletIndex, VALUE_BYTES_MAX};
use net::request::{BatchBody, BatchOperation, Change, Put};
use net::request_id::RequestIds;
use net::{Operation, Request};
use serde::Deserialize;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// Records of a batch at most.
const BATCH_COUNT_MAX: usize = 64;
/// Bytes of the values of a batch at most, unless a single value is larger.
const BATCH_BYTES_MAX: usize = 64 << 10;
/// Writers of made-up records.
const WRITER_COUNT: u64 = 4000;
/// Time of the first made-up record: 2020-01-01; then one each ten minutes.
const TIME_FIRST_US: u64 = 1_577_836_800_000_000;
const TIME_STEP_US: u64 = 600_000_000;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// It cannot be read.
    #[error(transparent)]
    Outside(#[from] OutsideError),
    /// It is not zstd.
    #[error("{file}: not zstd, or damaged: {error}")]
    Zstd {
        /// The file.
        file: String,
        /// What the decoder says.
        error: &'static str,
    },
    /// A line is not what is wanted.
    #[error("{file} line {line}: {error}; each line is a JSON object with stream, time_us and value")]
    Line {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        error: String,
    },
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    stream_bytes: u8,
    value_bytes: u32,
    time: u64,
}

/// Records in memory, in the order of their file.
#[derive(Clone, Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// Where they are from, for the report.
    pub origin: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    stream: Cow<'a, str>,
    time_us: u64,
    #[serde(borrow)]
    value: Cow<'a, str>,
}

impl Records {
    /// Of a file of NDJSON packed with zstd, at most `count_max` of them.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn of_file(path: &Path, count_max: usize) -> Result<Records, DataError> {
        let file = path.display().to_string();
        let packed = outside::read(path)?;
        let text = unpack(&packed).map_err(|error| DataError::Zstd { file: file.clone(), error })?;
        let mut records = Records { origin: file.clone(), ..Records::default() };
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        for (line, bytes) in (1..).zip(lines).take(count_max) {
            let wrong = |error: String| DataError::Line { file: file.clone(), line, error };
            let row: Line<'_> = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
            if row.stream.is_empty()
                || row.stream.len() > STREAM_BYTES_MAX
                || row.value.len() > VALUE_BYTES_MAX
            {
                return Err(wrong("a stream has 1 to 128 bytes, a value up to 1 MiB".to_owned()));
            }
            records.push(row.stream.as_bytes(), row.time_us, row.value.as_bytes());
        }
        Ok(records)
    }

    /// Made up.
    #[must_use]
    pub fn made_up(count: usize, seed: u64) -> Records {
        let zipf = Zipf::new(WRITER_COUNT, 0.9);
        let mut records = Records { origin: format!("made up, seed {seed}"), ..Records::default() };
        let mut value = vec![0; 8192];
        for number in 0..count as u64 {
            let random = hash(seed, number);
            // 36 bytes to 8 KiB, half of them below 400.
            let bytes = 20 + (4.0 + 9.0 * crate::load::unit(random)).exp2() as usize;
            let value = &mut value[..bytes.min(8192)];
            fill(random, value);
            let writer = StreamName::of(zipf.rank(hash(seed.wrapping_add(1), number)));
            records.push(writer.bytes(), TIME_FIRST_US + number * TIME_STEP_US, value);
        }
        records
    }

    fn push(&mut self, stream: &[u8], time: u64, value: &[u8]) {
        let place = Place {
            at: self.bytes.len(),
            stream_bytes: u8::try_from(stream.len()).expect("at most 128"),
            value_bytes: u32::try_from(value.len()).expect("at most 1 MiB"),
            time,
        };
        self.bytes.extend_from_slice(stream);
        self.bytes.extend_from_slice(value);
        self.places.push(place);
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Bytes of streams and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn stream(&self, place: &Place) -> &[u8] {
        &self.bytes[place.at..place.at + usize::from(place.stream_bytes)]
    }

    fn value(&self, place: &Place) -> &[u8] {
        let at = place.at + usize::from(place.stream_bytes);
        &self.bytes[at..at + place.value_bytes as usize]
    }
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut context = zstd_safe::DCtx::create();
    let mut input = zstd_safe::InBuffer::around(packed);
    let mut text = Vec::with_capacity(8 * packed.len());
    let mut chunk = vec![0; zstd_safe::DCtx::out_size()];
    let (mut hint, mut full) = (0, false);
    while input.pos() < packed.len() || full {
        let mut out = zstd_safe::OutBuffer::around(&mut chunk[..]);
        hint = context.decompress_stream(&mut out, &mut input).map_err(zstd_safe::get_error_name)?;
        text.extend_from_slice(out.as_slice());
        // More may wait inside when all the room was used.
        full = out.pos() == out.capacity();
    }
    if hint == 0 { Ok(text) } else { Err("the last frame is cut") }
}

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// One by one, in the order of the file.
    Puts,
    /// Neighbours of one stream together.
    Batches,
}

/// Writes of records, once through.
#[derive(Clone, Debug)]
pub struct Ingest {
    records: Arc<Records>,
    grouping: Grouping,
    /// Order of writing.
    order: Vec<u32>,
    at: usize,
    body: BatchBody,
    ids: RequestIds,
}

impl Ingest {
    /// All of `records`. `client` is a random number of this run.
    #[must_use]
    pub fn new(records: Arc<Records>, grouping: Grouping, client: u64) -> Ingest {
        let mut order: Vec<u32> =
            (0..u32::try_from(records.count()).expect("fewer than 4 G records")).collect();
        if grouping == Grouping::Batches {
            // Stable: the records of a stream stay in order.
            order.sort_by_key(|&number| records.stream(&records.places[number as usize]));
        }
        Ingest { records, grouping, order, at: 0, body: BatchBody::new(), ids: RequestIds::new(client) }
    }

    /// Records written so far.
    #[must_use]
    pub fn written(&self) -> usize {
        self.at
    }
}

impl Workload for Ingest {
    fn operations(&self) -> &'static [Operation] {
        match self.grouping {
            Grouping::Puts => &[Operation::Put],
            Grouping::Batches => &[Operation::Batch],
        }
    }

    fn request_bytes_max(&self) -> usize {
        let largest = self.records.places.iter().map(|place| place.value_bytes as usize).max().unwrap_or(0);
        match self.grouping {
            Grouping::Puts => request_room(1, STREAM_BYTES_MAX, largest),
            Grouping::Batches => {
                request_room(BATCH_COUNT_MAX, STREAM_BYTES_MAX, BATCH_BYTES_MAX.max(largest))
            }
        }
    }

    fn next(&mut self) -> Option<Request<'_>> {
        let records = &*self.records;
        let place = |at: usize| records.places[self.order[at] as usize];
        if self.at == self.order.len() {
            return None;
        }
        let first = place(self.at);
        let stream = records.stream(&first);
        let tablet = layout::key::tablet_of(layout::key::bucket_of(Space::DEFAULT, stream));
        let id = self.ids.next(0, tablet);
        if self.grouping == Grouping::Puts {
            self.at += 1;
            let key = Key { space: Space::DEFAULT, stream, time: first.time };
            return Some(Request::Put(Put { id, key, expiry: 0, value: records.value(&first) }));
        }
        self.body.clear();
        let mut bytes = 0;
        while self.at < self.order.len() && self.body.count() < BATCH_COUNT_MAX {
            let next = place(self.at);
            bytes += next.value_bytes as usize;
            let fits = self.body.count() == 0 || bytes <= BATCH_BYTES_MAX;
            if records.stream(&next) != stream || !fits {
                break;
            }
            let change = Change::Put { expiry: 0, value: records.value(&next) };
            assert!(
                self.body.push(&BatchOperation { time: next.time, change }),
                "values and counts were checked"
            );
            self.at += 1;
        }
        self.body.request(id, Space::DEFAULT, stream).map(Request::Batch)
    }

    fn learn(&mut self, tablet: TabletIndex, log_time: LogTime) {
        self.ids.learn(0, tablet, log_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(mut ingest: Ingest) -> Vec<(Vec<u8>, u64, Vec<u8>)> {
        let room = ingest.request_bytes_max();
        let mut all = Vec::new();
        while let Some(request) = ingest.next() {
            assert!(request.encoded_bytes() + 32 <= room);
            match request {
                Request::Put(put) => all.push((put.key.stream.to_vec(), put.key.time, put.value.to_vec())),
                Request::Batch(batch) => {
                    for one in batch.operations() {
                        let Change::Put { value, .. } = one.change else { panic!("only puts") };
                        all.push((batch.stream.to_vec(), one.time, value.to_vec()));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        all.sort();
        all
    }

    #[test]
    fn puts_and_batches_write_the_same_records() {
        let records = Arc::new(Records::made_up(3000, 5));
        let puts = written(Ingest::new(Arc::clone(&records), Grouping::Puts, 1));
        assert_eq!(puts.len(), 3000);
        assert!(puts.iter().all(|(.., value)| (20..=8192).contains(&value.len())));
        let batches = Ingest::new(records, Grouping::Batches, 1);
        assert!(written(batches) == puts, "the same records in another order");
    }

    #[test]
    fn a_file_is_read_and_its_faults_have_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.zst");
        let good = b"{\"stream\":\"a\",\"time_us\":5,\"value\":\"x\\ny\"}\n{\"stream\":\"b\",\"time_us\":6,\"value\":\"\"}\n";
        let pack = |text: &[u8]| {
            let mut packed = vec![0; 1024];
            let bytes = zstd_safe::compress(&mut packed[..], text, 3).unwrap();
            packed.truncate(bytes);
            packed
        };
        outside::write(&path, &pack(good)).unwrap();
        let records = Arc::new(Records::of_file(&path, usize::MAX).unwrap());
        let all = written(Ingest::new(records, Grouping::Puts, 1));
        assert_eq!(all, [(b"a".to_vec(), 5, b"x\ny".to_vec()), (b"b".to_vec(), 6, b"".to_vec())]);
        outside::write(&path, &pack(b"{\"stream\":\"a\",\"time_us\":5,\"value\":\"\"}\n{}\n")).unwrap();
        assert!(matches!(Records::of_file(&path, usize::MAX), Err(DataError::Line { line: 2, .. })));
        let packed = pack(good);
        outside::write(&path, &packed[..packed.len() - 3]).unwrap();
        assert!(matches!(Records::of_file(&path, usize::MAX), Err(DataError::Zstd { .. })));
        assert!(matches!(Records::of_file(Path::new("/no such file"), 1), Err(DataError::Outside(_))));
    }
}
