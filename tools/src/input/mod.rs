//! What `import` reads: CSV or NDJSON, plain or zstd, from a file or a pipe, row by row.
//!
//! Owns everything between bytes and [`Row`]s. Must never panic whatever the bytes are, never hold more than one row
//! of bounded size, and never guess: a row that does not say what it is comes out as a [`Refusal`] that names its
//! line, its column, what is wrong and what to do. Invariant: every row of the input comes out exactly once, as a
//! `Row` or as a `Refusal`, in the order of the file.

mod columns;
mod csv;
mod ndjson;
mod refusal;
mod source;
#[cfg(test)]
mod tests;
pub(crate) mod time;
mod window;

pub(crate) use columns::{Columns, TimeColumns, ValueColumn};
pub(crate) use refusal::{Reason, Refusal};
pub(crate) use source::{Progress, Source};

use csv::CsvRows;
use ndjson::NdjsonRows;
use window::Window;

use crate::failure::Failure;

/// Bytes that a row may have in the file: a value of 1 MiB escaped six times over, and its neighbours.
pub(crate) const ROW_BYTES_MAX: usize = 8 << 20;

/// One row that became a record, not yet stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Where it begins in the (unpacked) file, from 1.
    pub(crate) line: u64,
    /// Namespace.
    pub(crate) space: u16,
    /// 1 to 128 bytes.
    pub(crate) stream: Vec<u8>,
    /// Microseconds since 1970.
    pub(crate) time_us: u64,
    /// When it expires, microseconds since 1970; 0 = never.
    pub(crate) expiry_us: u64,
    /// Up to 1 MiB.
    pub(crate) value: Vec<u8>,
}

/// What comes out for one row of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// A record.
    Row(Row),
    /// Not a record, and why.
    Refused(Refusal),
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated values with a header line (RFC 4180).
    Csv,
    /// One JSON object a line.
    Ndjson,
}

enum Rows {
    Csv(Box<CsvRows>),
    Ndjson(Box<NdjsonRows>),
    /// Nothing but white space.
    Empty,
}

/// The rows of one file or pipe.
pub(crate) struct Input {
    rows: Rows,
}

impl Input {
    /// Begins to read. `format` none: told by the first byte that is no white space.
    ///
    /// # Errors
    /// The source cannot be read, is of neither format, or has not the columns asked for.
    pub(crate) fn new(
        source: Source,
        format: Option<Format>,
        columns: Option<Columns>,
        space: u16,
    ) -> Result<Input, Failure> {
        let mut window = Window::new(source);
        let format = match format {
            Some(format) => {
                window.skip_byte_order_mark()?;
                format
            }
            None => match window.sniff()? {
                Some(format) => format,
                None => return Ok(Input { rows: Rows::Empty }),
            },
        };
        let rows = match format {
            Format::Csv => Rows::Csv(Box::new(CsvRows::new(window, columns, space)?)),
            Format::Ndjson => Rows::Ndjson(Box::new(NdjsonRows::new(window, columns, space))),
        };
        Ok(Input { rows })
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// The source cannot be read on: a device error, damaged or cut zstd. Rows before it were whole.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, Failure> {
        match &mut self.rows {
            Rows::Csv(rows) => rows.next(),
            Rows::Ndjson(rows) => rows.next(),
            Rows::Empty => Ok(None),
        }
    }
}
