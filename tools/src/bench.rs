//! `thermocline bench`: how fast a node is. The work is `perf`'s.

use perf::{BenchArgs, BenchError, bench_main};

use crate::failure::{Exit, Failure};
use crate::output::Output;

/// `thermocline bench`.
///
/// # Errors
/// The load could not be made, or what it measured cannot be written.
pub(crate) fn run(args: &BenchArgs) -> Result<Exit, Failure> {
    let mut out = Output::new();
    bench_main(args, &mut out).map_err(|error| match error {
        BenchError::Usage(what) => Failure::wrong_use(what, "thermocline bench --help"),
        error => Failure::failed(error.to_string(), ""),
    })?;
    out.finish()?;
    Ok(Exit::Done)
}
