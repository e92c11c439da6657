//! How the verbs of single records say what they found: one line of JSON, or words for people.

use layout::key::Key;
use layout::units::Version;
use net::client::{Found, ScanRecord};

use crate::client::{Endpoint, Reading};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output, json_key, json_record, time_text};

/// A record as a line of JSON.
pub(crate) fn record_line(key: Key<'_>, found: &Found) -> Vec<u8> {
    let mut line = Vec::with_capacity(found.value.len() + 128);
    json_record(&mut line, key, found.version, found.expiry, &found.value);
    line
}

/// Says that the answer is no.
pub(crate) fn no(
    endpoint: &Endpoint,
    key: Key<'_>,
    outcome: &str,
    version: Version,
    text: &str,
) -> Result<Exit, Failure> {
    if endpoint.json {
        output::line(&outcome_line(key, outcome, version))?;
    } else {
        crate::output::note!("{text}");
    }
    Ok(Exit::No)
}

/// An outcome without a record as JSON.
pub(crate) fn outcome_line(key: Key<'_>, outcome: &str, version: Version) -> String {
    let mut line = b"{".to_vec();
    json_key(&mut line, key);
    line.extend_from_slice(format!(",\"outcome\":\"{outcome}\",\"version\":{version}}}").as_bytes());
    String::from_utf8(line).expect("JSON is UTF-8")
}

/// Says the version that a write got.
///
/// # Errors
/// Standard output is gone.
pub(crate) fn say_written(endpoint: &Endpoint, key: Key<'_>, version: Version) -> Result<Exit, Failure> {
    if endpoint.json {
        output::line(&outcome_line(key, "Ok", version))?;
    } else {
        output::line(&format!("version {version}"))?;
    }
    Ok(Exit::Done)
}

/// One record of a stream, for programs or for people.
pub(crate) fn show(
    out: &mut Output,
    reading: &Reading,
    stream: &[u8],
    record: &ScanRecord,
) -> Result<(), Failure> {
    if reading.endpoint.json {
        let key = Key { space: reading.space.space(), stream, time: record.time };
        let mut line = Vec::with_capacity(record.value.len() + 128);
        json_record(&mut line, key, record.version, record.expiry, &record.value);
        return out.bytes(&line);
    }
    out.line(&format!("{}  {}", time_text(record.time), printable(&record.value)))
}

/// A value on one line.
pub(crate) fn printable(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
            if c.is_control() {
                line.extend(c.escape_default())
            } else {
                line.push(c)
            }
            line
        }),
        Err(_) => value.escape_ascii().to_string(),
    }
}
