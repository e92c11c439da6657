//! The stretch of the input that is being looked at. Owns the bytes between what was taken and what was read.

use super::{Format, Source};
use crate::failure::Failure;

const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes read and not yet taken, and the line they begin on.
pub(super) struct Window {
    source: Source,
    bytes: Vec<u8>,
    start: usize,
    ended: bool,
    /// The line of the first byte not taken, from 1. Kept by the readers: what ends a line is theirs to say.
    pub(super) line: u64,
}

impl Window {
    pub(super) fn new(source: Source) -> Window {
        Window { source, bytes: Vec::new(), start: 0, ended: false, line: 1 }
    }

    /// What was read and not taken.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Reads more; false when there is no more.
    pub(super) fn more(&mut self) -> Result<bool, Failure> {
        if self.ended {
            return Ok(false);
        }
        // Moved at most as many bytes as were taken since the last move.
        if self.start > 0 && self.start >= self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.ended = !self.source.append(&mut self.bytes)?;
        Ok(!self.ended)
    }

    /// Goes on behind `count` bytes.
    pub(super) fn take(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.bytes.len(), "only what was read can be taken");
    }

    /// A failure of the whole input.
    pub(super) fn failure(&self, what: &str, mend: &str) -> Failure {
        Failure::failed(format!("{}: {what}", self.source.path().display()), mend)
    }

    fn fill(&mut self, bytes: usize) -> Result<(), Failure> {
        while self.bytes().len() < bytes && self.more()? {}
        Ok(())
    }

    /// Takes a UTF-8 byte order mark.
    pub(super) fn skip_byte_order_mark(&mut self) -> Result<(), Failure> {
        self.fill(UTF8_MARK.len())?;
        if self.bytes().starts_with(UTF8_MARK) {
            self.take(UTF8_MARK.len());
        }
        Ok(())
    }

    /// The format, by the first byte that is no white space. Takes a byte order mark and empty lines. `None` when
    /// there is nothing else.
    pub(super) fn sniff(&mut self) -> Result<Option<Format>, Failure> {
        self.skip_byte_order_mark()?;
        if self.bytes().starts_with(b"\xff\xfe") || self.bytes().starts_with(b"\xfe\xff") {
            return Err(self.failure("is UTF-16", "turn it into UTF-8 first: iconv -f UTF-16 -t UTF-8"));
        }
        loop {
            match self.bytes().first() {
                None => {
                    if !self.more()? {
                        return Ok(None);
                    }
                }
                Some(b'{') => return Ok(Some(Format::Ndjson)),
                Some(b'[') => {
                    return Err(self.failure("is a JSON array", "write one object a line: jq -c '.[]' FILE"));
                }
                Some(byte) if byte.is_ascii_whitespace() => {
                    self.line += u64::from(*byte == b'\n');
                    self.take(1);
                }
                Some(_) => return Ok(Some(Format::Csv)),
            }
        }
    }
}
