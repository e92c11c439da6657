//! Rows of CSV with a header line.
//!
//! Two readers side by side: ours finds where a row ends, counts lines and bounds its length; csv-core takes the row
//! apart. Must never read on for ever behind a quote that is not closed: such a row is refused by the line it begins
//! on, and the next line is read as a new row. Invariant: both readers agree where a row ends, else it is refused.

use csv_core::ReadRecordResult;

use super::columns::{self, Columns, ValueColumn};
use super::refusal::shown;
use super::window::Window;
use super::{Item, ROW_BYTES_MAX, Reason, Refusal, Row};
use crate::failure::Failure;

/// Columns that a header may have.
const COLUMN_COUNT_MAX: usize = 4096;

pub(super) struct CsvRows {
    window: Window,
    columns: Columns,
    space: u16,
    header: Vec<String>,
    stream: usize,
    times: Vec<usize>,
    value: Option<usize>,
    fields: Fields,
}

impl CsvRows {
    /// Reads the header and finds the columns in it.
    pub(super) fn new(mut window: Window, columns: Option<Columns>, space: u16) -> Result<CsvRows, Failure> {
        let mut fields = Fields::new();
        let header: Vec<String> = match next_raw(&mut window)? {
            None => Vec::new(),
            Some(Raw::Refused(refusal)) => return Err(window.failure(&refusal.what, &refusal.mend)),
            Some(Raw::Row { line, bytes, taken }) => {
                if let Err(refusal) = fields.split(&window.bytes()[..bytes], line) {
                    return Err(window.failure(&refusal.what, &refusal.mend));
                }
                window.take(taken);
                let names = fields.iter().map(|field| String::from_utf8(field.to_vec()));
                names.collect::<Result<_, _>>().map_err(|_| {
                    window.failure("the header line is not UTF-8", "turn the file into UTF-8 first (iconv)")
                })?
            }
        };
        if header.len() > COLUMN_COUNT_MAX {
            let what =
                format!("the header has {} columns, at most {COLUMN_COUNT_MAX} are read", header.len());
            return Err(window.failure(&what, "check that the file is CSV"));
        }
        let Some(columns) = columns else {
            let what = format!("CSV needs to know its columns; the file has: {}", header.join(", "));
            return Err(Failure::wrong_use(
                what,
                "say --stream COL --time COL, and --value COL for a part of the row",
            ));
        };
        let place = |option: &str, name: &str| place(&header, option, name);
        let stream = place("--stream", &columns.stream)?;
        let times =
            columns.time.names().into_iter().map(|name| place("--time", name)).collect::<Result<_, _>>()?;
        let value = match &columns.value {
            ValueColumn::One(name) => Some(place("--value", name)?),
            ValueColumn::Row => {
                for name in &header {
                    place("the row as a JSON object", name)?;
                }
                None
            }
        };
        Ok(CsvRows { window, columns, space, header, stream, times, value, fields })
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Item>, Failure> {
        match next_raw(&mut self.window)? {
            None => Ok(None),
            Some(Raw::Refused(refusal)) => Ok(Some(Item::Refused(refusal))),
            Some(Raw::Row { line, bytes, taken }) => {
                let split = self.fields.split(&self.window.bytes()[..bytes], line);
                let item = split.and_then(|()| self.row(line)).map_or_else(Item::Refused, Item::Row);
                self.window.take(taken);
                Ok(Some(item))
            }
        }
    }

    fn row(&self, line: u64) -> Result<Row, Refusal> {
        let (count, wanted) = (self.fields.count(), self.header.len());
        if count != wanted {
            let what = format!("the row has {count} fields, the header {wanted}");
            let mend = "put fields that hold commas, quotes or line breaks into quotes";
            return Err(Refusal::row(line, Reason::FieldCount, what, mend));
        }
        let name = |index: usize| self.header[index].as_str();
        let is_missing = |bytes: &[u8]| self.columns.missing.iter().any(|text| text.as_bytes() == bytes);
        let missing = |bytes: &[u8]| format!("is {}, which stands for missing (--missing)", shown(bytes));
        let stream = self.fields.get(self.stream);
        if is_missing(stream) {
            return Err(columns::stream_missing(line, name(self.stream), &missing(stream)));
        }
        let stream = columns::stream(line, name(self.stream), stream.to_vec())?;
        let mut times = Vec::with_capacity(2);
        for index in &self.times {
            let bytes = self.fields.get(*index);
            if is_missing(bytes) {
                return Err(columns::time_missing(line, name(*index), &missing(bytes)));
            }
            if bytes.is_empty() {
                return Err(columns::time_missing(line, name(*index), "is empty"));
            }
            times.push(self.text(line, *index)?);
        }
        let time_us = self.columns.time.time(line, &times)?;
        let value = match self.value {
            Some(index) => self.fields.get(index).to_vec(),
            None => self.object(line)?,
        };
        let row = Row { line, space: self.space, stream, time_us, expiry_us: 0, value };
        columns::row(row, self.value.map(name))
    }

    fn text(&self, line: u64, index: usize) -> Result<&str, Refusal> {
        let bytes = self.fields.get(index);
        std::str::from_utf8(bytes).map_err(|_| {
            let what = format!("{} is not UTF-8", shown(bytes));
            let mend = "turn the file into UTF-8 first (iconv), or choose a value column with --value";
            Refusal::column(line, Reason::NotUtf8, &self.header[index], what, mend)
        })
    }

    /// The row as a JSON object: every column as a string, in the order of the file.
    fn object(&self, line: u64) -> Result<Vec<u8>, Refusal> {
        let mut out = Vec::with_capacity(512);
        for (index, name) in self.header.iter().enumerate() {
            out.push(if index == 0 { b'{' } else { b',' });
            string(&mut out, name);
            out.push(b':');
            string(&mut out, self.text(line, index)?);
        }
        out.push(b'}');
        Ok(out)
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string goes into memory");
}

/// Where a column is in the header.
fn place(header: &[String], option: &str, name: &str) -> Result<usize, Failure> {
    let mut places = header.iter().enumerate().filter(|(_, column)| *column == name).map(|(index, _)| index);
    match (places.next(), places.next()) {
        (Some(index), None) => Ok(index),
        (Some(_), Some(_)) => Err(Failure::wrong_use(
            format!("{option}: the header has the column {name} twice"),
            "rename one of them in the file",
        )),
        (None, _) => Err(Failure::wrong_use(
            format!("{option}: the file has no column {name}; it has: {}", header.join(", ")),
            "choose one of these",
        )),
    }
}

/// The fields of one row.
struct Fields {
    reader: csv_core::Reader,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
}

impl Fields {
    fn new() -> Fields {
        Fields { reader: csv_core::Reader::new(), bytes: vec![0; 4096], ends: vec![0; 64], count: 0 }
    }

    /// Takes apart the bytes of one row, without its line break.
    fn split(&mut self, row: &[u8], line: u64) -> Result<(), Refusal> {
        self.reader.reset();
        // The first bytes after a reset lose a byte order mark; let them be an empty line, so that no row does.
        let _ = self.reader.read_record(b"\n", &mut self.bytes, &mut self.ends);
        // Fields are never longer than the row.
        if self.bytes.len() < row.len() {
            self.bytes.resize(row.len().next_power_of_two(), 0);
        }
        self.count = 0;
        let (mut taken, mut written) = (0, 0);
        loop {
            let ends = &mut self.ends[self.count..];
            let (result, input, output, count) =
                self.reader.read_record(&row[taken..], &mut self.bytes[written..], ends);
            taken += input;
            written += output;
            self.count += count;
            match result {
                // An empty input behind the last byte is how csv-core learns of the end.
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.bytes.resize(self.bytes.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record if taken == row.len() => return Ok(()),
                ReadRecordResult::Record | ReadRecordResult::End => {
                    let mend = "put fields that hold quotes or line breaks into quotes";
                    return Err(Refusal::row(
                        line,
                        Reason::FieldCount,
                        "the row cannot be taken apart",
                        mend,
                    ));
                }
            }
        }
    }

    fn count(&self) -> usize {
        self.count
    }

    fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count).map(|index| self.get(index))
    }
}

enum Raw {
    /// A row of so many bytes at the start of the window; with its line break it is `taken` bytes.
    Row { line: u64, bytes: usize, taken: usize },
    /// A row that was already dropped from the window.
    Refused(Refusal),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    FieldStart,
    Field,
    Quotes,
    /// Behind a quote within quotes: their end, or the first of two that stand for one.
    Quote,
}

/// The next row's bytes; empty lines are skipped. `window.line` is left at the row behind it.
fn next_raw(window: &mut Window) -> Result<Option<Raw>, Failure> {
    loop {
        match window.bytes().first() {
            Some(b'\n' | b'\r') => {
                let taken = line_break(window, 0)?;
                window.line += 1;
                window.take(taken);
            }
            Some(_) => break,
            None => {
                if !window.more()? {
                    return Ok(None);
                }
            }
        }
    }
    let line = window.line;
    let mut at = 0;
    let mut inside = Inside::FieldStart;
    loop {
        let Some(byte) = window.bytes().get(at).copied() else {
            if at < ROW_BYTES_MAX && window.more()? {
                continue;
            }
            if at < ROW_BYTES_MAX && inside != Inside::Quotes {
                return Ok(Some(Raw::Row { line, bytes: at, taken: at }));
            }
            window.line = line;
            return refuse_line(window, inside).map(Some);
        };
        inside = match (inside, byte) {
            (Inside::FieldStart, b'"') => Inside::Quotes,
            (Inside::Quotes, b'"') => Inside::Quote,
            (Inside::Quote, b'"') => Inside::Quotes,
            (Inside::Quotes, b'\r' | b'\n') => {
                at += line_break(window, at)?;
                window.line += 1;
                continue;
            }
            (Inside::Quotes, _) => Inside::Quotes,
            (_, b',') => Inside::FieldStart,
            (_, b'\r' | b'\n') => {
                let taken = at + line_break(window, at)?;
                window.line += 1;
                return Ok(Some(Raw::Row { line, bytes: at, taken }));
            }
            _ => Inside::Field,
        };
        at += 1;
        if at > ROW_BYTES_MAX {
            window.line = line;
            return refuse_line(window, inside).map(Some);
        }
    }
}

/// Bytes of the line break at `at`: CR LF is one, and so is either alone.
fn line_break(window: &mut Window, at: usize) -> Result<usize, Failure> {
    if window.bytes()[at] == b'\n' {
        return Ok(1);
    }
    while window.bytes().len() < at + 2 && window.more()? {}
    Ok(if window.bytes().get(at + 1) == Some(&b'\n') { 2 } else { 1 })
}

/// Drops the line that a row begins on and says why.
fn refuse_line(window: &mut Window, inside: Inside) -> Result<Raw, Failure> {
    let line = window.line;
    let refusal = if inside == Inside::Quotes {
        let what = "a quote that opens on this line is not closed";
        Refusal::row(line, Reason::QuoteOpen, what, "close it, or write a quote within quotes twice")
    } else {
        let what = format!("the row is longer than {ROW_BYTES_MAX} bytes");
        Refusal::row(
            line,
            Reason::RowTooLong,
            what,
            "check that the file is CSV with line breaks; split the row",
        )
    };
    loop {
        let end = window.bytes().iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        if let Some(end) = end {
            let taken = end + line_break(window, end)?;
            window.take(taken);
            window.line = line + 1;
            return Ok(Raw::Refused(refusal));
        }
        let all = window.bytes().len();
        window.take(all);
        if !window.more()? {
            return Ok(Raw::Refused(refusal));
        }
    }
}
