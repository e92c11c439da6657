//! Times on input, in three forms: integer microseconds, RFC 3339, or the hour of one time with a minute.
//!
//! Must never guess a zone or a unit. Digits behind the microsecond are cut off.

use jiff::civil::DateTime;
use jiff::fmt::temporal::Pieces;
use jiff::tz::Offset;
use thiserror::Error;

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum TimeWrong {
    /// Neither an integer nor RFC 3339.
    #[error("{0} is no time")]
    NotATime(String),
    /// A date and time without a zone.
    #[error("{0} has no zone")]
    NoZone(String),
    /// Negative, or before 1970.
    #[error("{0} is before 1970")]
    BeforeEpoch(String),
    /// Over 64 bits.
    #[error("{0} is more than 2^64 - 1 microseconds")]
    TooLarge(String),
    /// Not 0 to 59.
    #[error("{0} is no minute of an hour")]
    Minute(String),
}

impl TimeWrong {
    /// What to do about it.
    pub(crate) const fn mend(&self) -> &'static str {
        match self {
            TimeWrong::NotATime(_) => {
                "give integer microseconds since 1970 or RFC 3339, such as 2013-01-01T10:00:00Z"
            }
            TimeWrong::NoZone(_) => "end it with Z or an offset such as -05:00",
            TimeWrong::BeforeEpoch(_) => "times begin at 1970-01-01T00:00:00Z",
            TimeWrong::TooLarge(_) => "give microseconds since 1970, not nanoseconds",
            TimeWrong::Minute(_) => "give 0 to 59",
        }
    }
}

const HOUR_US: u64 = 3_600_000_000;
const MINUTE_US: u64 = 60_000_000;

fn shown(text: &str) -> String {
    super::refusal::shown(text.as_bytes())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

enum Parsed {
    Micros(u64),
    Civil(DateTime, Offset),
}

fn parsed(text: &str) -> Result<Parsed, TimeWrong> {
    let trimmed = text.trim_ascii();
    if is_number(trimmed) {
        return trimmed.parse().map(Parsed::Micros).map_err(|_| TimeWrong::TooLarge(shown(text)));
    }
    if trimmed.strip_prefix('-').is_some_and(is_number) {
        return Err(TimeWrong::BeforeEpoch(shown(text)));
    }
    let pieces = Pieces::parse(trimmed).map_err(|_| TimeWrong::NotATime(shown(text)))?;
    let time = pieces.time().ok_or_else(|| TimeWrong::NotATime(shown(text)))?;
    let offset = pieces.to_numeric_offset().ok_or_else(|| TimeWrong::NoZone(shown(text)))?;
    Ok(Parsed::Civil(pieces.date().to_datetime(time), offset))
}

fn micros(civil: DateTime, offset: Offset, text: &str) -> Result<u64, TimeWrong> {
    let stamp = offset.to_timestamp(civil).map_err(|_| TimeWrong::NotATime(shown(text)))?;
    if stamp.as_nanosecond() < 0 {
        return Err(TimeWrong::BeforeEpoch(shown(text)));
    }
    u64::try_from(stamp.as_microsecond()).map_err(|_| TimeWrong::BeforeEpoch(shown(text)))
}

/// Microseconds since 1970 of integer microseconds or RFC 3339.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn parse(text: &str) -> Result<u64, TimeWrong> {
    match parsed(text)? {
        Parsed::Micros(time) => Ok(time),
        Parsed::Civil(civil, offset) => micros(civil, offset, text),
    }
}

/// The hour of `hour` (in its own zone) with the minute `minute`.
///
/// # Errors
/// What is wrong with either text.
pub(crate) fn parse_hour_minute(hour: &str, minute: &str) -> Result<u64, TimeWrong> {
    let wrong = || TimeWrong::Minute(shown(minute));
    let minute: u64 = minute.trim_ascii().parse().ok().filter(|minute| *minute < 60).ok_or_else(wrong)?;
    match parsed(hour)? {
        Parsed::Micros(time) => (time - time % HOUR_US)
            .checked_add(minute * MINUTE_US)
            .ok_or_else(|| TimeWrong::TooLarge(shown(hour))),
        Parsed::Civil(civil, offset) => {
            let start = civil.with().minute(0).second(0).subsec_nanosecond(0).build();
            let start = start.map_err(|_| TimeWrong::NotATime(shown(hour)))?;
            Ok(micros(start, offset, hour)? + minute * MINUTE_US)
        }
    }
}

/// A time in any of the three forms, the third as `A,B`.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn parse_any(text: &str) -> Result<u64, TimeWrong> {
    match text.split_once(',') {
        Some((hour, minute)) => parse_hour_minute(hour, minute),
        None => parse(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLIGHT: u64 = 1_357_034_400_000_000;

    #[test]
    fn three_forms() {
        assert_eq!(parse("1357034400000000"), Ok(FLIGHT));
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(parse(" 2013-01-01T10:00:00Z"), Ok(FLIGHT));
        assert_eq!(parse("2013-01-01T05:00:00-05:00"), Ok(FLIGHT));
        assert_eq!(parse("2013-01-01 10:00:00.000001999+00:00"), Ok(FLIGHT + 1));
        assert_eq!(parse_any("2013-01-01T10:59:59Z,15"), Ok(FLIGHT + 15 * MINUTE_US));
        assert_eq!(parse_any("1357034400000001,7"), Ok(FLIGHT + 7 * MINUTE_US));
    }

    #[test]
    fn the_hour_is_that_of_its_own_zone() {
        // 10:40 at +05:30 is 05:10 in UTC; its hour began at 04:30 there.
        let hour = parse("2013-01-01T04:30:00Z").unwrap();
        assert_eq!(parse_hour_minute("2013-01-01T10:40:00+05:30", "5"), Ok(hour + 5 * MINUTE_US));
    }

    #[test]
    fn what_is_no_time_is_named() {
        let wrong = |text: &str| parse_any(text).unwrap_err();
        assert!(matches!(wrong(""), TimeWrong::NotATime(_)));
        assert!(matches!(wrong("-"), TimeWrong::NotATime(_)));
        assert!(matches!(wrong("NA"), TimeWrong::NotATime(_)));
        assert!(matches!(wrong("1.5e15"), TimeWrong::NotATime(_)));
        assert!(matches!(wrong("2013-01-01"), TimeWrong::NotATime(_)));
        assert!(matches!(wrong("2013-02-30T00:00:00Z"), TimeWrong::NotATime(_)));
        assert!(matches!(wrong("2013-01-01T10:00:00"), TimeWrong::NoZone(_)));
        assert!(matches!(wrong("-1"), TimeWrong::BeforeEpoch(_)));
        assert!(matches!(wrong("1969-12-31T23:59:59.9999999Z"), TimeWrong::BeforeEpoch(_)));
        assert!(matches!(wrong("18446744073709551616"), TimeWrong::TooLarge(_)));
        assert!(matches!(wrong("1357034400000000,60"), TimeWrong::Minute(_)));
        assert!(matches!(wrong("1357034400000000,"), TimeWrong::Minute(_)));
    }
}
