//! Sizes and durations as people write them: "64 MiB", "5 s", "1 day".
//!
//! Must never take a number without its unit where the unit is not plain: a bare size is bytes, a bare duration is
//! refused. Invariant: what [`size_text`] and [`duration_text`] write reads back as the same.

use std::time::Duration;

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const DURATIONS: [(&str, u64); 15] = [
    ("days", 86_400_000_000),
    ("day", 86_400_000_000),
    ("hours", 3_600_000_000),
    ("hour", 3_600_000_000),
    ("minutes", 60_000_000),
    ("minute", 60_000_000),
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
    ("µs", 1),
    ("weeks", 604_800_000_000),
];

/// Splits a text into its integer and its unit.
fn parts(text: &str) -> Option<(u64, &str)> {
    let text = text.trim_ascii();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let number = text[..end].replace('_', "").parse().ok()?;
    Some((number, text[end..].trim_ascii()))
}

fn measured(number: u64, unit: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// Bytes of a size.
///
/// # Errors
/// What is wrong, and how a size is written.
pub(crate) fn size_argument(text: &str) -> Result<u64, String> {
    let size =
        parts(text).and_then(
            |(number, unit)| {
                if unit.is_empty() { Some(number) } else { measured(number, unit, &SIZES) }
            },
        );
    size.ok_or_else(|| {
        format!("\"{text}\" is no size: write an integer with B, KiB, MiB, GiB, TiB, kB, MB, GB or TB")
    })
}

/// A duration.
///
/// # Errors
/// What is wrong, and how a duration is written.
pub(crate) fn duration_argument(text: &str) -> Result<Duration, String> {
    let us = parts(text).and_then(|(number, unit)| measured(number, unit, &DURATIONS));
    let wrong = || format!("\"{text}\" is no duration: write an integer with us, ms, s, min, h or days");
    us.map(Duration::from_micros).ok_or_else(wrong)
}

/// A size in the largest binary unit that divides it.
pub(crate) fn size_text(bytes: u64) -> String {
    let whole = |(_, factor): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*factor);
    let (unit, factor) = SIZES[..4].iter().find(whole).unwrap_or(&("B", 1));
    format!("{} {unit}", bytes / factor)
}

/// A duration in the largest unit that divides it.
pub(crate) fn duration_text(duration: Duration) -> String {
    let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let units = [
        ("days", 86_400_000_000),
        ("h", 3_600_000_000),
        ("min", 60_000_000),
        ("s", 1_000_000),
        ("ms", 1_000),
    ];
    let whole = |(_, factor): &&(&str, u64)| us > 0 && us.is_multiple_of(*factor);
    let (unit, factor) = units.iter().find(whole).unwrap_or(&("us", 1));
    format!("{} {unit}", us / factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_durations_carry_their_unit() {
        assert_eq!(size_argument("64 MiB"), Ok(64 << 20));
        assert_eq!(size_argument("64MiB"), Ok(64 << 20));
        assert_eq!(size_argument("1_000"), Ok(1000));
        assert_eq!(size_argument("2 TB"), Ok(2_000_000_000_000));
        for wrong in ["", "MiB", "1 mib", "-1", "1.5 GiB", "99999999999 TiB", "1 MiB x"] {
            assert!(size_argument(wrong).is_err(), "{wrong}");
        }
        assert_eq!(duration_argument("5 s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration_argument("90 days"), Ok(Duration::from_secs(90 * 86_400)));
        for wrong in ["", "5", "s", "5 sec", "-5 s", "99999999999999 days"] {
            assert!(duration_argument(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn texts_read_back(number: u64, shift in 0..60_u32) {
            let bytes = number >> shift << (shift / 2);
            prop_assert_eq!(size_argument(&size_text(bytes)), Ok(bytes));
            let duration = Duration::from_micros(bytes);
            prop_assert_eq!(duration_argument(&duration_text(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_a_value_or_an_error(text in ".{0,12}") {
            let _ = (size_argument(&text), duration_argument(&text));
        }
    }
}
