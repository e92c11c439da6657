//! What a command says on standard output, and how records are written as JSON.
//!
//! Owns standard output. A reader that goes away (`| head`) is no failure: the command ends and says nothing.

use std::io::{self, BufWriter, StdoutLock, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use layout::key::Key;
use layout::units::{Space, Version};

use crate::failure::{Exit, Failure};

/// Standard output, buffered. Call [`Output::finish`] at the end.
pub(crate) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    /// Takes standard output.
    pub(crate) fn new() -> Output {
        Output(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// Nobody reads any more, or the file behind it is full.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).map_err(|error| failure(&error))
    }

    /// Writes a line.
    ///
    /// # Errors
    /// As [`Output::bytes`].
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// What an error of standard output means.
    pub(crate) fn failure(error: &io::Error) -> Failure {
        failure(error)
    }

    /// Hands everything on.
    ///
    /// # Errors
    /// As [`Output::bytes`].
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.0.flush().map_err(|error| failure(&error))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure { exit: Exit::Done, what: String::new(), mend: String::new() };
    }
    Failure::failed(format!("cannot write to standard output: {error}"), "check where it leads")
}

/// One line on standard output.
///
/// # Errors
/// As [`Output::bytes`].
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = Output::new();
    out.line(text)?;
    out.finish()
}

/// Appends `text` as a JSON string.
pub(crate) fn json_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(&mut *out, text).expect("a string goes into memory");
}

/// Appends `"name":"text"`, or `"name_base64":"…"` where the bytes are not UTF-8.
pub(crate) fn json_bytes(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            out.extend_from_slice(format!("\"{name}\":").as_bytes());
            json_string(out, text);
        }
        Err(_) => {
            out.extend_from_slice(format!("\"{name}_base64\":\"{}\"", BASE64.encode(bytes)).as_bytes());
        }
    }
}

/// Appends `"stream":…,"time_us":…`, with the space where it is not the default, without braces.
pub(crate) fn json_key(out: &mut Vec<u8>, key: Key<'_>) {
    json_bytes(out, "stream", key.stream);
    out.extend_from_slice(format!(",\"time_us\":{}", key.time).as_bytes());
    if key.space != Space(0) {
        out.extend_from_slice(format!(",\"space\":{}", key.space).as_bytes());
    }
}

/// Appends a record as a line of NDJSON, as `import` reads it without options.
pub(crate) fn json_record(out: &mut Vec<u8>, key: Key<'_>, version: Version, expiry_us: u64, value: &[u8]) {
    out.push(b'{');
    json_bytes(out, "stream", key.stream);
    out.extend_from_slice(format!(",\"time_us\":{},", key.time).as_bytes());
    json_bytes(out, "value", value);
    out.extend_from_slice(format!(",\"version\":{version}").as_bytes());
    if key.space != Space(0) {
        out.extend_from_slice(format!(",\"space\":{}", key.space).as_bytes());
    }
    if expiry_us != 0 {
        out.extend_from_slice(format!(",\"expiry_us\":{expiry_us}").as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

/// A time for people: RFC 3339 in UTC, or the number where the calendar ends.
pub(crate) fn time_text(time_us: u64) -> String {
    let stamp = i64::try_from(time_us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    stamp.map_or_else(|| time_us.to_string(), |stamp| stamp.to_string())
}

/// A line on standard error. Somebody who has closed it does not want to read it: that is no reason to stop.
macro_rules! note {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}
pub(crate) use note;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(space: u16, stream: &[u8], expiry_us: u64, value: &[u8]) -> String {
        let mut out = Vec::new();
        let key = Key { space: Space(space), stream, time: 7 };
        json_record(&mut out, key, Version(65536), expiry_us, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn records_as_json() {
        let plain = "{\"stream\":\"a\",\"time_us\":7,\"value\":\"\\\"x\\u0000\",\"version\":65536}\n";
        assert_eq!(record(0, b"a", 0, b"\"x\0"), plain);
        let all = "{\"stream_base64\":\"/w==\",\"time_us\":7,\"value_base64\":\"/gA=\",\"version\":65536,\"space\":3,\"expiry_us\":9}\n";
        assert_eq!(record(3, b"\xff", 9, b"\xfe\0"), all);
    }

    #[test]
    fn times_for_people() {
        assert_eq!(time_text(1_357_034_400_000_001), "2013-01-01T10:00:00.000001Z");
        assert_eq!(time_text(u64::MAX), u64::MAX.to_string());
    }
}
