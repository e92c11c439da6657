//! Prints what this machine can do: `cargo run -p ioengine --example probe -- <disk> …`

#[expect(clippy::print_stdout, reason = "prints its findings")]
fn main() {
    let mut found = ioengine::uring::probe();
    found.extend(std::env::args().skip(1).flat_map(|disk| ioengine::uring::probe_disk(&disk)));
    for finding in found {
        println!("{:?} {}: {} {}", finding.verdict, finding.topic, finding.what, finding.mend);
    }
}
