//! Rows of NDJSON: one JSON object a line.
//!
//! Without options the names are those that `export` writes. With options the row itself can be the value; its bytes
//! are then stored as they stand in the file.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::columns::{self, Columns, TimeColumns, ValueColumn};
use super::refusal::shown;
use super::window::Window;
use super::{Item, ROW_BYTES_MAX, Reason, Refusal, Row};
use crate::failure::Failure;

pub(super) struct NdjsonRows {
    window: Window,
    columns: Option<Columns>,
    space: u16,
}

impl NdjsonRows {
    pub(super) fn new(window: Window, columns: Option<Columns>, space: u16) -> NdjsonRows {
        NdjsonRows { window, columns, space }
    }

    /// The next row; `None` at the end. Empty lines are skipped.
    pub(super) fn next(&mut self) -> Result<Option<Item>, Failure> {
        loop {
            let line = self.window.line;
            let Some((bytes, taken)) = next_line(&mut self.window)? else { return Ok(None) };
            let item = match bytes {
                None => {
                    let what = format!("the row is longer than {ROW_BYTES_MAX} bytes");
                    let mend = "write one JSON object a line; a value has at most 1 MiB";
                    Some(Item::Refused(Refusal::row(line, Reason::RowTooLong, what, mend)))
                }
                Some(bytes) => {
                    let text = self.window.bytes()[..bytes].trim_ascii();
                    let row = || self.row(line, text).map_or_else(Item::Refused, Item::Row);
                    if text.is_empty() { None } else { Some(row()) }
                }
            };
            self.window.take(taken);
            self.window.line += 1;
            if item.is_some() {
                return Ok(item);
            }
        }
    }

    fn row(&self, line: u64, bytes: &[u8]) -> Result<Row, Refusal> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let what = format!("byte {} of the row is not UTF-8", error.valid_up_to() + 1);
            Refusal::row(line, Reason::NotUtf8, what, "write text that is not UTF-8 as value_base64")
        })?;
        let Object(members) = serde_json::from_str(text).map_err(|error| {
            let what = format!("no JSON object: {error}").replace(" at line 1 column", " at character");
            Refusal::row(line, Reason::Json, what, "write one JSON object a line")
        })?;
        let object = Members { line, members: &members };
        object.no_name_twice()?;
        match &self.columns {
            Some(columns) => object.chosen(columns, self.space, text),
            None => object.exported(self.space),
        }
    }
}

/// The next line: its bytes without the line break, none when it is too long to be looked at, and how many bytes to
/// take. `None` at the end.
fn next_line(window: &mut Window) -> Result<Option<(Option<usize>, usize)>, Failure> {
    let mut looked_at = 0;
    let mut too_long = false;
    loop {
        if let Some(end) = window.bytes()[looked_at..].iter().position(|byte| *byte == b'\n') {
            let end = looked_at + end;
            return Ok(Some(((!too_long && end <= ROW_BYTES_MAX).then_some(end), end + 1)));
        }
        looked_at = window.bytes().len();
        if looked_at > ROW_BYTES_MAX {
            // Its end is looked for and its bytes are let go.
            too_long = true;
            window.take(looked_at);
            looked_at = 0;
        }
        if !window.more()? {
            let rest = window.bytes().len();
            return Ok(if too_long {
                Some((None, rest))
            } else if rest > 0 {
                Some((Some(rest), rest))
            } else {
                None
            });
        }
    }
}

/// The members of an object in the order of the text, values as they stand there.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<'de>, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::with_capacity(4);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

struct Members<'a> {
    line: u64,
    members: &'a [(String, &'a RawValue)],
}

const NAMES: &str = "stream, time_us, value, value_base64, stream_base64, space, expiry_us, version";

impl Members<'_> {
    fn no_name_twice(&self) -> Result<(), Refusal> {
        let mut names: Vec<&str> = self.members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => {
                let what = format!("{} stands twice in the object", shown(pair[0].as_bytes()));
                Err(Refusal::column(self.line, Reason::NameTwice, pair[0], what, "keep one of them"))
            }
        }
    }

    /// The text of a member; none when it is absent or null.
    fn get(&self, name: &str) -> Option<&str> {
        let member = self.members.iter().find(|(member, _)| member == name);
        member.map(|(_, value)| value.get()).filter(|text| *text != "null")
    }

    fn refusal(&self, reason: Reason, name: &str, what: &str, mend: &str) -> Refusal {
        Refusal::column(self.line, reason, name, format!("{name} {what}"), mend)
    }

    /// A string's or an integer's text.
    fn word(&self, reason: Reason, name: &str, text: &str) -> Result<String, Refusal> {
        if text.starts_with('"') {
            return serde_json::from_str(text).map_err(|error| {
                self.refusal(reason, name, &format!("cannot be read: {error}"), "write it as a JSON string")
            });
        }
        if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
            return Ok(text.to_owned());
        }
        let what = format!("is {}", shown(text.as_bytes()));
        Err(self.refusal(reason, name, &what, "write it as a JSON string or an integer"))
    }

    fn base64(&self, reason: Reason, name: &str, text: &str) -> Result<Vec<u8>, Refusal> {
        let word = self.word(reason, name, text)?;
        BASE64.decode(&word).map_err(|error| {
            let mend = "write it in the standard alphabet of base64, padded";
            self.refusal(reason, name, &format!("is not base64: {error}"), mend)
        })
    }

    fn number<T: std::str::FromStr>(&self, name: &str, mend: &str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong =
            || self.refusal(Reason::FieldWrong, name, &format!("is {}", shown(text.as_bytes())), mend);
        text.parse().map(Some).map_err(|_| wrong())
    }

    /// Of two names for one thing, the one that is there.
    fn either(&self, reason: Reason, plain: &str, base64: &str) -> Result<Option<Vec<u8>>, Refusal> {
        match (self.get(plain), self.get(base64)) {
            (None, None) => Ok(None),
            (Some(text), None) => self.word(reason, plain, text).map(|word| Some(word.into_bytes())),
            (None, Some(text)) => self.base64(reason, base64, text).map(Some),
            (Some(_), Some(_)) => {
                Err(self.refusal(reason, base64, &format!("stands beside {plain}"), "keep one of them"))
            }
        }
    }

    fn time(&self, columns: &TimeColumns) -> Result<u64, Refusal> {
        let mut words = Vec::with_capacity(2);
        for name in columns.names() {
            let text =
                self.get(name).ok_or_else(|| columns::time_missing(self.line, name, "is not there"))?;
            words.push(self.word(Reason::TimeWrong, name, text)?);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        columns.time(self.line, &words)
    }

    /// The row by the names that export writes.
    fn exported(&self, space: u16) -> Result<Row, Refusal> {
        let known = |name: &str| NAMES.split(", ").any(|known| known == name);
        if let Some((name, _)) = self.members.iter().find(|(name, _)| !known(name)) {
            let what = format!("{} is none of: {NAMES}", shown(name.as_bytes()));
            let mend = "say which columns to take: --stream COL --time COL [--value COL]";
            return Err(Refusal::column(self.line, Reason::NameUnknown, name, what, mend));
        }
        let stream = self.either(Reason::StreamWrong, "stream", "stream_base64")?;
        let stream = stream.ok_or_else(|| columns::stream_missing(self.line, "stream", "is not there"))?;
        let value = self.either(Reason::ValueWrong, "value", "value_base64")?;
        let value = value.ok_or_else(|| {
            let mend = "give the row a value, as a string, or value_base64";
            self.refusal(Reason::ValueMissing, "value", "is not there", mend)
        })?;
        let row = Row {
            line: self.line,
            space: self.number("space", "write an integer from 0 to 65535")?.unwrap_or(space),
            stream: columns::stream(self.line, "stream", stream)?,
            time_us: self.time(&TimeColumns::One("time_us".to_owned()))?,
            expiry_us: self.number("expiry_us", "write integer microseconds since 1970")?.unwrap_or(0),
            value,
        };
        columns::row(row, Some("value"))
    }

    /// The row by the columns that options chose.
    fn chosen(&self, columns: &Columns, space: u16, text: &str) -> Result<Row, Refusal> {
        let name = &columns.stream;
        let stream =
            self.get(name).ok_or_else(|| columns::stream_missing(self.line, name, "is not there"))?;
        let stream = self.word(Reason::StreamWrong, name, stream)?.into_bytes();
        let (value, value_column) = match &columns.value {
            ValueColumn::Row => (text.as_bytes().to_vec(), None),
            ValueColumn::One(name) => {
                let value = self.get(name).ok_or_else(|| {
                    let mend = "give the row a value, or leave --value out to store the row";
                    self.refusal(Reason::ValueMissing, name, "is not there", mend)
                })?;
                // A string is stored as its text, anything else as the JSON it is.
                let is_string = value.starts_with('"');
                let value =
                    if is_string { self.word(Reason::ValueWrong, name, value)? } else { value.to_owned() };
                (value.into_bytes(), Some(name.as_str()))
            }
        };
        let stream = columns::stream(self.line, name, stream)?;
        let time_us = self.time(&columns.time)?;
        columns::row(Row { line: self.line, space, stream, time_us, expiry_us: 0, value }, value_column)
    }
}
