//! `thermocline import`: rows of a file become records, put if absent at the server.
//!
//! Running it again, after a crash too, is harmless: what is there with an equal value counts as duplicate.

mod flow;
mod place;
mod progress;
mod rejects;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use net::client::ClientConfig;

use crate::client::{Endpoint, InSpace};
use crate::failure::{Exit, Failure};
use crate::input::{Columns, Format, Input, Item, Source, TimeColumns, ValueColumn};
use crate::units::duration_argument;
use crate::{interrupt, output};
use flow::{Counts, Flow};
use place::{Fate, OnConflict};
use progress::Bar;
use rejects::{Listed, Rejects};

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// CSV or NDJSON, zstd-compressed or not; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Column that says whose record it is
    #[arg(long, value_name = "COLUMN")]
    stream: Option<String>,
    /// Column that says when: microseconds or RFC 3339; or A,B for the hour of A with minute B
    #[arg(long, value_name = "COLUMN")]
    time: Option<String>,
    /// Column that is stored; without it the whole row is, as a JSON object
    #[arg(long, value_name = "COLUMN")]
    value: Option<String>,
    /// Text that stands for "nothing here" in the stream and time columns of CSV, beside the empty field
    #[arg(long, value_name = "TEXT", default_value = "NA")]
    missing: Vec<String>,
    /// How rows are written; told by the first byte without it
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What to do with a row whose key has another value already
    #[arg(long, value_enum, default_value_t = OnConflict::Refuse)]
    on_conflict: OnConflict,
    /// Where to list rows that are refused or in conflict [default: FILE.rejects.ndjson in the working folder]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Give up when a node that is busy or silent let no row through for so long
    #[arg(long, value_name = "DURATION", value_parser = duration_argument, default_value = "30 s")]
    patience: Duration,
    #[command(flatten)]
    space: InSpace,
    #[command(flatten)]
    endpoint: Endpoint,
}

impl ImportArgs {
    /// The columns, when any was chosen.
    fn columns(&self) -> Option<Columns> {
        if self.stream.is_none() && self.time.is_none() && self.value.is_none() {
            return None;
        }
        let named = |name: &Option<String>, usual: &str| name.clone().unwrap_or_else(|| usual.to_owned());
        Some(Columns {
            stream: named(&self.stream, "stream"),
            time: TimeColumns::parse(&named(&self.time, "time_us")),
            value: self.value.clone().map_or(ValueColumn::Row, ValueColumn::One),
            missing: self.missing.clone(),
        })
    }
}

/// `thermocline import`.
///
/// # Errors
/// The file or the node cannot be used, or the import stopped before its end; the counts so far are said before.
pub(crate) fn run(args: &ImportArgs) -> Result<Exit, Failure> {
    interrupt::watch();
    let mut source = Source::open(&args.file)?;
    let config = ClientConfig { deadline: args.patience, ..ClientConfig::default() };
    let client = Rc::new(args.endpoint.connect_with(config)?);
    let mut rejects = Rejects::new(&args.file, args.rejects.as_deref())?;
    let mut bar = Bar::new(source.progress().clone(), args.endpoint.json);
    let mut counts = Counts::default();
    let flow = Rc::new(Flow::new(client, args.on_conflict, args.patience));
    let waiting = Rc::clone(&flow);
    source.before_wait(move || waiting.settle());
    let ended = Input::new(source, args.format, args.columns(), args.space.space().0)
        .and_then(|mut input| import(&mut input, &flow, &mut rejects, &mut bar, &mut counts));
    bar.end();
    let listed = rejects.finish();
    if args.endpoint.json {
        output::line(&serde_json::to_string(&counts).expect("numbers become JSON"))?;
    } else {
        let Counts { read, stored, duplicate, conflict, refused } = counts;
        output::line(&format!(
            "read {read}: stored {stored}, duplicate {duplicate}, conflict {conflict}, refused {refused}"
        ))?;
    }
    if let Some(Listed { path, counts }) = listed? {
        let reasons: Vec<String> =
            counts.iter().map(|(reason, count)| format!("{count} × {}", reason.text())).collect();
        crate::output::note!("listed with line numbers in {}: {}", path.display(), reasons.join(", "));
    }
    ended.map(|()| Exit::Done)
}

/// Takes all rows. The counts hold at every moment, whatever happens.
fn import(
    input: &mut Input,
    flow: &Flow,
    rejects: &mut Rejects,
    bar: &mut Bar,
    counts: &mut Counts,
) -> Result<(), Failure> {
    let mut ended = Ok(());
    while ended.is_ok() {
        if interrupt::happened() {
            ended = Err(interrupted());
            break;
        }
        match input.next() {
            Ok(Some(Item::Row(row))) => flow.submit(row),
            Ok(Some(Item::Refused(refusal))) => {
                ended = note(&Fate::Refused(refusal), rejects, counts);
            }
            Ok(None) => break,
            Err(failure) => ended = Err(if interrupt::happened() { interrupted() } else { failure }),
        }
        while ended.is_ok() {
            let Some(fate) = flow.take() else { break };
            ended = note(&fate, rejects, counts);
        }
        bar.step(counts);
    }
    // What is on its way is waited for, also after a failure: each has a deadline.
    flow.settle();
    while let Some(fate) = flow.take() {
        ended = ended.and(note(&fate, rejects, counts));
    }
    ended
}

fn note(fate: &Fate, rejects: &mut Rejects, counts: &mut Counts) -> Result<(), Failure> {
    counts.add(fate);
    match fate {
        Fate::Stored | Fate::Duplicate => Ok(()),
        Fate::Conflict(refusal) | Fate::Refused(refusal) => rejects.add(refusal),
        Fate::Failed(error) => Err(Failure::failed(
            format!("the import stopped: {error}"),
            "see to the node, then import the file again: what is stored counts as duplicate then",
        )),
    }
}

fn interrupted() -> Failure {
    Failure::failed(
        "interrupted before the end of the file",
        "import the file again to go on: what is stored counts as duplicate then",
    )
}
