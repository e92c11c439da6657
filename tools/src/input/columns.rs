//! Which columns say what, and the checks every row goes through whatever its format.

use layout::units::{STREAM_BYTES_MAX, VALUE_BYTES_MAX};

use super::refusal::shown;
use super::time::{self, TimeWrong};
use super::{Reason, Refusal, Row};

/// The columns of a row's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TimeColumns {
    /// One column with integer microseconds or RFC 3339.
    One(String),
    /// The hour of the first with the minute of the second.
    HourMinute(String, String),
}

/// The column of a row's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueColumn {
    /// The text of this column.
    One(String),
    /// The whole row as a JSON object.
    Row,
}

/// The columns chosen by options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    /// Whose record it is.
    pub(crate) stream: String,
    /// When it happened.
    pub(crate) time: TimeColumns,
    /// What is stored.
    pub(crate) value: ValueColumn,
    /// Texts of CSV that stand for "nothing here", beside the empty field.
    pub(crate) missing: Vec<String>,
}

impl TimeColumns {
    /// `COL`, or `A,B` for the hour of A with the minute B.
    pub(crate) fn parse(text: &str) -> TimeColumns {
        match text.split_once(',') {
            Some((hour, minute)) => TimeColumns::HourMinute(hour.to_owned(), minute.to_owned()),
            None => TimeColumns::One(text.to_owned()),
        }
    }

    /// The names, one or two.
    pub(super) fn names(&self) -> Vec<&str> {
        match self {
            TimeColumns::One(name) => vec![name],
            TimeColumns::HourMinute(hour, minute) => vec![hour, minute],
        }
    }

    /// The time of a row whose columns have these texts, one per name.
    pub(super) fn time(&self, line: u64, texts: &[&str]) -> Result<u64, Refusal> {
        let (result, names) = match (self, texts) {
            (TimeColumns::One(name), [text]) => (time::parse(text), [name, name]),
            (TimeColumns::HourMinute(hour, minute), [hour_text, minute_text]) => {
                (time::parse_hour_minute(hour_text, minute_text), [hour, minute])
            }
            _ => unreachable!("one text per name"),
        };
        result.map_err(|wrong| {
            let name = names[usize::from(matches!(wrong, TimeWrong::Minute(_)))];
            Refusal::column(line, Reason::TimeWrong, name, wrong.to_string(), wrong.mend())
        })
    }
}

/// Checks a stream's length.
pub(super) fn stream(line: u64, column: &str, stream: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    if stream.is_empty() {
        return Err(stream_missing(line, column, "is empty"));
    }
    if stream.len() > STREAM_BYTES_MAX {
        let what = format!("{} is longer than {STREAM_BYTES_MAX} bytes", shown(&stream));
        return Err(Refusal::column(line, Reason::StreamWrong, column, what, "give a shorter name"));
    }
    Ok(stream)
}

/// The refusal of a row without a stream.
pub(super) fn stream_missing(line: u64, column: &str, what: &str) -> Refusal {
    let mend = "give the row a stream, or choose another column with --stream";
    Refusal::column(line, Reason::StreamMissing, column, format!("{column} {what}"), mend)
}

/// The refusal of a row without a time.
pub(super) fn time_missing(line: u64, column: &str, what: &str) -> Refusal {
    let mend = "give the row a time, or choose another column with --time";
    Refusal::column(line, Reason::TimeMissing, column, format!("{column} {what}"), mend)
}

/// The row, when its value is not too long.
pub(super) fn row(row: Row, value_column: Option<&str>) -> Result<Row, Refusal> {
    if row.value.len() <= VALUE_BYTES_MAX {
        return Ok(row);
    }
    Err(Refusal {
        line: row.line,
        reason: Reason::ValueWrong,
        column: value_column.map(str::to_owned),
        what: format!("a value of {} bytes is over {VALUE_BYTES_MAX} (1 MiB)", row.value.len()),
        mend: "split the row, or store a reference to the value".to_owned(),
    })
}
