//! `thermocline sim`: a node in simulated worlds drawn from a seed. The work is `ci`'s.

use std::process::ExitCode;

use ci::sim_main::{self, SimArgs};

use crate::failure::{Exit, Failure};
use crate::output::Output;

/// `thermocline sim`: no when a world was judged wrong.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn run(args: &SimArgs) -> Result<Exit, Failure> {
    let mut out = Output::new();
    let exit = sim_main::run(args, &mut out).map_err(|error| Output::failure(&error))?;
    out.finish()?;
    Ok(if exit == ExitCode::SUCCESS { Exit::Done } else { Exit::No })
}
