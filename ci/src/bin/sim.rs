//! Runs simulated worlds: the same as `thermocline sim`, without building the rest.

use ci::sim_main::{SimArgs, run};
use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
struct Sim {
    #[command(flatten)]
    args: SimArgs,
}

fn main() -> std::io::Result<ExitCode> {
    run(&Sim::parse().args, &mut std::io::stdout().lock())
}
