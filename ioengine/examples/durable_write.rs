//! Measures the two ways to make one write durable on a disk with a volatile cache: a write linked to a data
//! sync, and a write-through write (`RWF_DSYNC`). Alternating rounds, medians. The figures and the choice are in
//! `ci/decisions`; run it again on other hardware:
//!
//!     cargo run --release -p ioengine --example durable_write -- <file or block device, contents are lost> …

use io_uring::{IoUring, opcode, squeue, types};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

const ROUND_COUNT: usize = 5;
const WRITE_COUNT: u64 = 300;
const AREA_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Linked,
    WriteThrough,
}

#[expect(clippy::disallowed_methods, reason = "a measuring program below the door to the outside")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn submit(ring: &mut IoUring, entries: &[squeue::Entry]) {
    // SAFETY: buffers outlive the wait below, which sees every completion before this returns.
    unsafe { ring.submission().push_multiple(entries) }.expect("the queue is empty and large enough");
    ring.submit_and_wait(entries.len()).expect("submit");
    for entry in ring.completion() {
        assert!(entry.result() >= 0, "errno {}", -entry.result());
    }
}

fn round(ring: &mut IoUring, fd: i32, buffer: &mut [u8], way: Way, first: u64) -> f64 {
    let bytes = u32::try_from(buffer.len()).expect("small");
    let mut took: Vec<f64> = (0..WRITE_COUNT)
        .map(|number| {
            let offset = (first + number) * u64::from(bytes) % AREA_BYTES;
            buffer[..8].copy_from_slice(&(first + number).to_le_bytes());
            let write = opcode::Write::new(types::Fd(fd), buffer.as_ptr(), bytes).offset(offset);
            let start = now();
            match way {
                Way::Linked => {
                    let sync = opcode::Fsync::new(types::Fd(fd)).flags(types::FsyncFlags::DATASYNC).build();
                    submit(ring, &[write.build().flags(squeue::Flags::IO_LINK), sync]);
                }
                Way::WriteThrough => submit(ring, &[write.rw_flags(libc::RWF_DSYNC).build()]),
            }
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

#[expect(clippy::print_stdout, reason = "prints its measurement")]
fn main() {
    for path in std::env::args().skip(1) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .expect("opens for direct I/O");
        let mut ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(8)
            .expect("io_uring is to be had");
        for bytes in [4096_usize, 65536] {
            let mut memory = vec![7_u8; bytes + 4096];
            let start = memory.as_ptr().align_offset(4096);
            let buffer = &mut memory[start..start + bytes];
            let mut medians = [Vec::new(), Vec::new()];
            for number in 0..ROUND_COUNT as u64 {
                for (at, way) in [Way::Linked, Way::WriteThrough].into_iter().enumerate() {
                    let first = number * WRITE_COUNT * 2 + at as u64 * WRITE_COUNT;
                    medians[at].push(round(&mut ring, file.as_raw_fd(), buffer, way, first));
                }
            }
            for (way, medians) in [Way::Linked, Way::WriteThrough].into_iter().zip(&mut medians) {
                medians.sort_by(f64::total_cmp);
                println!(
                    "{path} {bytes} bytes {way:?}: p50 {:.0} µs (rounds {medians:.0?})",
                    medians[ROUND_COUNT / 2]
                );
            }
        }
    }
}
