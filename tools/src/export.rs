//! `thermocline export`: every record as a line of NDJSON, in key order: stream, then time.
//!
//! The file appears under its name only when it is whole. Each stream is read at its own moment: what is written
//! meanwhile may be in it or not.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::Args;
use ioengine::Queue;
use ioengine::sync::Notify;
use layout::key::Key;
use layout::units::{Space, TabletIndex};
use net::client::blocking::Client;
use net::client::{ClientError, ScanRange};
use serde::Serialize;

use crate::client::{Endpoint, failure};
use crate::failure::{Exit, Failure};
use crate::file::{self, Whole};
use crate::interrupt;
use crate::output::{self, Output, json_record};

/// Streams read at once.
const STREAM_COUNT_MAX: usize = 32;
/// Bytes of a page asked for; one with a single large record can have as much again.
const PAGE_BYTES: u32 = 1 << 20;
/// Pages of one stream that wait to be written. With all streams: 64 MiB.
const PAGE_COUNT_MAX: usize = 2;

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Write here; standard output without it, or for -
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only this namespace; all without it
    #[arg(long, value_name = "N")]
    space: Option<u16>,
    #[command(flatten)]
    endpoint: Endpoint,
}

enum Target {
    Standard(Output),
    File(Whole),
}

#[derive(Debug, Default, Serialize)]
struct Exported {
    records: u64,
    streams: u64,
}

/// `thermocline export`.
///
/// # Errors
/// The node cannot be asked, a record is damaged, or the file cannot be written. No file is left then.
pub(crate) fn run(args: &ExportArgs) -> Result<Exit, Failure> {
    interrupt::watch();
    let client = args.endpoint.connect()?;
    let path = args.out.as_deref().filter(|path| *path != Path::new("-"));
    let mut target = match path {
        Some(path) => Target::File(Whole::create(path)?),
        None => Target::Standard(Output::new()),
    };
    let streams = streams(&client, args.space.map(Space))?;
    let mut exported = Exported { streams: streams.len() as u64, ..Exported::default() };
    let mut pages = Pages::new(&client, streams);
    let mut lines = Vec::new();
    while let Some(page) = pages.next() {
        let (space, stream, records) = page.map_err(|error| failure(&error))?;
        if interrupt::happened() {
            return Err(Failure::failed("interrupted before the end", "export again; nothing was written"));
        }
        lines.clear();
        for record in &records {
            let key = Key { space, stream: &stream, time: record.time };
            json_record(&mut lines, key, record.version, record.expiry, &record.value);
        }
        exported.records += records.len() as u64;
        match &mut target {
            Target::Standard(out) => out.bytes(&lines)?,
            Target::File(file) => file
                .write_all(&lines)
                .map_err(|error| file::failure("write", path.expect("a file has a path"), &error))?,
        }
    }
    match target {
        Target::Standard(out) => out.finish()?,
        Target::File(file) => {
            file.finish()?;
            let text = if args.endpoint.json {
                serde_json::to_string(&exported).expect("numbers become JSON")
            } else {
                format!("{} records of {} streams", exported.records, exported.streams)
            };
            output::line(&text)?;
        }
    }
    Ok(Exit::Done)
}

/// All streams, in the order of their bytes; of one stream in several spaces, the lower space first.
fn streams(client: &Client, space: Option<Space>) -> Result<Vec<(Space, Vec<u8>)>, Failure> {
    let groups = client.map().map_err(|error| failure(&error))?.groups.len();
    let mut all = Vec::new();
    for group in 0..u16::try_from(groups).expect("a map has at most 1000 groups") {
        for tablet in TabletIndex::all() {
            let mut pages = client.streams(group, tablet, space).map_err(|error| failure(&error))?;
            while let Some(page) = pages.next().map_err(|error| failure(&error))? {
                all.extend(page);
            }
        }
    }
    all.sort_unstable_by(|(space_a, a), (space_b, b)| (a, space_a).cmp(&(b, space_b)));
    Ok(all)
}

type Records = (Space, Vec<u8>, Vec<net::client::ScanRecord>);

/// The records of one stream as they come, and whether they are all there.
#[derive(Default)]
struct Slot {
    stream: (Space, Vec<u8>),
    pages: VecDeque<Result<Vec<net::client::ScanRecord>, ClientError>>,
    ended: bool,
}

/// The pages of all streams in their order, several streams read ahead.
struct Pages<'a> {
    client: &'a Client,
    waiting: std::vec::IntoIter<(Space, Vec<u8>)>,
    reading: VecDeque<Rc<RefCell<Slot>>>,
    /// A page came, or a stream ended.
    changed: Rc<Notify>,
    /// A page was taken: there is room for another.
    taken: Rc<Notify>,
}

impl<'a> Pages<'a> {
    fn new(client: &'a Client, streams: Vec<(Space, Vec<u8>)>) -> Pages<'a> {
        Pages {
            client,
            waiting: streams.into_iter(),
            reading: VecDeque::new(),
            changed: Rc::new(Notify::new()),
            taken: Rc::new(Notify::new()),
        }
    }

    fn read_ahead(&mut self) {
        while self.reading.len() < STREAM_COUNT_MAX {
            let Some((space, stream)) = self.waiting.next() else { return };
            let range = ScanRange { page_bytes: PAGE_BYTES, ..ScanRange::all(space, &stream) };
            let slot = Rc::new(RefCell::new(Slot { stream: (space, stream), ..Slot::default() }));
            self.reading.push_back(Rc::clone(&slot));
            let (changed, taken) = (Rc::clone(&self.changed), Rc::clone(&self.taken));
            let mut pages = self.client.client().scan(range);
            self.client.client().io().spawn(Queue::Foreground, async move {
                loop {
                    while slot.borrow().pages.len() >= PAGE_COUNT_MAX {
                        taken.notified().await;
                    }
                    let page = pages.next().await;
                    let mut slot = slot.borrow_mut();
                    slot.ended = !matches!(page, Ok(Some(_)));
                    match page {
                        Ok(Some(page)) => slot.pages.push_back(Ok(page.records)),
                        Ok(None) => {}
                        Err(error) => slot.pages.push_back(Err(error)),
                    }
                    changed.notify();
                    if slot.ended {
                        return;
                    }
                }
            });
        }
    }

    /// The next page; `None` behind the last of the last stream.
    fn next(&mut self) -> Option<Result<Records, ClientError>> {
        loop {
            self.read_ahead();
            let slot = Rc::clone(self.reading.front()?);
            let page = slot.borrow_mut().pages.pop_front();
            if let Some(page) = page {
                self.taken.notify();
                let (space, stream) = slot.borrow().stream.clone();
                return Some(page.map(|records| (space, stream, records)));
            }
            if slot.borrow().ended {
                self.reading.pop_front();
                continue;
            }
            self.client.run(async {
                while slot.borrow().pages.is_empty() && !slot.borrow().ended {
                    self.changed.notified().await;
                }
            });
        }
    }
}
