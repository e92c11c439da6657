//! The progress bar of an import: by bytes of the input where its size is known, else by rows.

use indicatif::{ProgressBar, ProgressStyle};

use super::flow::Counts;
use crate::input::Progress;

/// Rows between two looks at the bar.
const STEP_ROWS: u64 = 256;

/// Shows how far an import is, on a terminal only.
pub(super) struct Bar {
    bar: ProgressBar,
    progress: Progress,
    shown: u64,
}

impl Bar {
    pub(super) fn new(progress: Progress, quiet: bool) -> Bar {
        let bar = match progress.file_bytes {
            _ if quiet => ProgressBar::hidden(),
            Some(bytes) => ProgressBar::new(bytes),
            None => ProgressBar::no_length(),
        };
        let template = match progress.file_bytes {
            Some(_) => "{bar:30} {percent:>3} %  {msg}  {bytes_per_sec} of input, {eta} left",
            None => "{spinner} {msg}  {bytes_per_sec} of input",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        Bar { bar, progress, shown: 0 }
    }

    /// Shows the counts now and then.
    pub(super) fn step(&mut self, counts: &Counts) {
        if counts.read < self.shown + STEP_ROWS {
            return;
        }
        self.shown = counts.read;
        self.bar.set_position(self.progress.read_bytes.get());
        let seconds = self.bar.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { counts.read as f64 / seconds } else { 0.0 };
        self.bar.set_message(format!("{} rows, {rate:.0} rows/s", counts.read));
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
