//! Why a row did not become a record. Owns the reasons, which are names in the rejects file and in the counts.

use serde::Serialize;

/// Why a row was refused. The names are those of the rejects file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// The row is longer than a row may be.
    RowTooLong,
    /// A quote that is never closed.
    QuoteOpen,
    /// More or fewer fields than the header has.
    FieldCount,
    /// Bytes that are not UTF-8 where text is wanted.
    NotUtf8,
    /// The line is no JSON object.
    Json,
    /// A name occurs twice in the object.
    NameTwice,
    /// A name that says nothing to import, and no options that choose the columns.
    NameUnknown,
    /// No stream.
    StreamMissing,
    /// A stream that cannot be one.
    StreamWrong,
    /// No time.
    TimeMissing,
    /// A time that cannot be one.
    TimeWrong,
    /// No value.
    ValueMissing,
    /// A value that cannot be one.
    ValueWrong,
    /// A space or an expiry that cannot be one.
    FieldWrong,
    /// The server refused the record.
    Server,
    /// The key has a record with another value.
    Conflict,
    /// The key had a record with another value, which was overwritten.
    Overwritten,
}

impl Reason {
    /// For people.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Reason::RowTooLong => "row too long",
            Reason::QuoteOpen => "quote never closed",
            Reason::FieldCount => "wrong number of fields",
            Reason::NotUtf8 => "not UTF-8",
            Reason::Json => "no JSON object",
            Reason::NameTwice => "name twice",
            Reason::NameUnknown => "unknown name",
            Reason::StreamMissing => "no stream",
            Reason::StreamWrong => "stream wrong",
            Reason::TimeMissing => "no time",
            Reason::TimeWrong => "time wrong",
            Reason::ValueMissing => "no value",
            Reason::ValueWrong => "value wrong",
            Reason::FieldWrong => "space or expiry wrong",
            Reason::Server => "refused by the server",
            Reason::Conflict => "another value is there",
            Reason::Overwritten => "another value was overwritten",
        }
    }
}

/// A row that did not become a record, as the rejects file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Refusal {
    /// Where the row begins, from 1.
    pub(crate) line: u64,
    /// Why, for counting.
    pub(crate) reason: Reason,
    /// The column at fault, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) column: Option<String>,
    /// What is wrong.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) mend: String,
}

impl Refusal {
    /// Of a whole row.
    pub(crate) fn row(
        line: u64,
        reason: Reason,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Refusal {
        Refusal { line, reason, column: None, what: what.into(), mend: mend.into() }
    }

    /// Of one column.
    pub(crate) fn column(
        line: u64,
        reason: Reason,
        column: &str,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Refusal {
        Refusal { line, reason, column: Some(column.to_owned()), what: what.into(), mend: mend.into() }
    }
}

/// The beginning of bytes, printable, for a message.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 40;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).escape_debug().to_string();
    if bytes.len() > SHOWN { format!("\"{text}…\" ({} bytes)", bytes.len()) } else { format!("\"{text}\"") }
}
