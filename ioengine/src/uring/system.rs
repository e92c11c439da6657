//! What the machine tells: time, randomness, boot id, files under /proc and /sys. Reads only.

use nix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::sync::OnceLock;

fn clock(id: ClockId) -> (u64, u64) {
    let time = clock_gettime(id).expect("Linux has this clock");
    let positive = "time since a start in the past";
    (u64::try_from(time.tv_sec()).expect(positive), u64::try_from(time.tv_nsec()).expect(positive))
}

/// Monotonic nanoseconds, the same for all cores and processes of one boot.
pub(super) fn now_ns() -> u64 {
    let (seconds, ns) = clock(ClockId::CLOCK_MONOTONIC);
    seconds * 1_000_000_000 + ns
}

/// Wall clock, microseconds since the Unix epoch.
pub(super) fn wall_us() -> u64 {
    let (seconds, ns) = clock(ClockId::CLOCK_REALTIME);
    seconds * 1_000_000 + ns / 1000
}

/// 64 bits from the kernel's generator.
pub(super) fn seed() -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the kernel writes at most 8 bytes to an array of 8.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert!(got == 8, "getrandom gives up to 256 bytes whole");
    u64::from_le_bytes(bytes)
}

/// A small text file of the kernel, without surrounding white space.
#[expect(clippy::disallowed_methods, reason = "the door itself; kernel files do not block")]
pub(super) fn text(path: impl AsRef<Path>) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Changes with every boot. Where the kernel does not tell, with every process: then shared memory is never
/// taken for that of this boot.
pub(super) fn boot_id() -> [u8; 16] {
    static UNKNOWN: OnceLock<u128> = OnceLock::new();
    let text = text("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let known = u128::from_str_radix(&digits, 16).ok();
    known
        .unwrap_or_else(|| *UNKNOWN.get_or_init(|| u128::from(seed()) << 64 | u128::from(seed())))
        .to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells() {
        assert_ne!(boot_id(), [0; 16]);
        assert_eq!(boot_id(), boot_id());
        assert_ne!(seed(), seed());
        let before = now_ns();
        assert!(now_ns() >= before && wall_us() > 1_700_000_000_000_000);
        assert_eq!(text("/proc/no such file"), None);
    }
}
