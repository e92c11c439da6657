//! `thermocline bench` alone, for work on perf: `cargo run --release -p perf --example bench -- get-memory`.

use clap::Parser;
use perf::{BenchArgs, bench_main};
use std::process::ExitCode;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

fn main() -> ExitCode {
    match bench_main(&Line::parse().bench, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::from(3)
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program tells its failure")]
fn tell(error: &dyn std::error::Error) {
    eprintln!("{error}");
}
