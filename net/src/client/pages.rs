//! Answers that come in pages: ranges of a stream, its newest records, the streams of a tablet.

use std::rc::Rc;

use layout::units::{LogIndex, LogTime, Space, TabletIndex, Version};

use super::Client;
use super::call::Target;
use super::error::ClientError;
use super::verbs::check_stream;
use crate::operation::Operation;
use crate::reply::{Answer, Records};
use crate::request::{Head, Request, Scan, Streams};

/// Which records of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRange {
    /// Namespace.
    pub space: Space,
    /// The stream.
    pub stream: Vec<u8>,
    /// First time, included, µs.
    pub from: u64,
    /// Last time, included, µs.
    pub to: u64,
    /// Newest first.
    pub backward: bool,
    /// Records of a page at most; 0 = as the server likes.
    pub page_records: u32,
    /// Bytes of a page at most, about; 0 = as the server likes.
    pub page_bytes: u32,
}

impl ScanRange {
    /// All records of a stream, oldest first.
    pub fn all(space: Space, stream: &[u8]) -> ScanRange {
        let stream = stream.to_vec();
        ScanRange { space, stream, from: 0, to: u64::MAX, backward: false, page_records: 0, page_bytes: 0 }
    }
}

/// One record of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRecord {
    /// Its time, µs.
    pub time: u64,
    /// Its version.
    pub version: Version,
    /// When it expires by log time, µs; 0 = never.
    pub expiry: u64,
    /// Its value.
    pub value: Vec<u8>,
}

/// A page of records, all read at one point of the tablet's log; the next page is read at a later one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The records in the order asked for. Can be none before the last page, too.
    pub records: Vec<ScanRecord>,
    /// The tablet's applied log index.
    pub log_index: LogIndex,
    /// The tablet's log time.
    pub log_time: LogTime,
}

fn page(records: &Records<'_>, log_time: LogTime) -> Page {
    let own = |record: crate::reply::Record<'_>| ScanRecord {
        time: record.time,
        version: record.version,
        expiry: record.expiry,
        value: record.value.to_vec(),
    };
    Page { records: records.iter().map(own).collect(), log_index: records.log_index, log_time }
}

/// The pages of a scan, one call each.
pub struct ScanPages {
    client: Client,
    range: ScanRange,
    ended: bool,
}

impl ScanPages {
    /// The next page; None behind the last.
    ///
    /// # Errors
    /// As every call: [`ClientError`]. The same page can be asked for again.
    pub async fn next(&mut self) -> Result<Option<Page>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let range = &self.range;
        let target = self.client.placed(range.space, &range.stream)?;
        let request = Request::Scan(Scan {
            space: range.space,
            stream: &range.stream,
            from: range.from,
            to: range.to,
            backward: range.backward,
            local: self.client.local,
            record_limit: range.page_records,
            byte_limit: range.page_bytes,
        });
        let finished = self.client.call(target, request).await?;
        let reply = finished.reply();
        let Answer::Records(records) = reply.answer else { return Err(finished.error()) };
        if let Some(resume) = records.resume {
            check_resume(&self.range, resume, records.iter().map(|record| record.time).last())?;
        }
        let page = page(&records, reply.log_time);
        match records.resume {
            Some(resume) if self.range.backward => self.range.to = resume,
            Some(resume) => self.range.from = resume,
            None => self.ended = true,
        }
        Ok(Some(page))
    }
}

/// A page goes on inside the range asked for and behind its own records: else a scan would never end, or skip.
fn check_resume(range: &ScanRange, resume: u64, last: Option<u64>) -> Result<(), ClientError> {
    let fits = if range.backward {
        range.from <= resume && resume < last.unwrap_or(range.to)
    } else {
        resume <= range.to && resume > last.unwrap_or(range.from)
    };
    if fits {
        return Ok(());
    }
    let what = format!("the next page of {}..{} would begin at {resume}", range.from, range.to);
    Err(ClientError::WrongAnswer { operation: Operation::Scan, what: what.into() })
}

/// A page of streams: space and name of each.
pub type StreamPage = Vec<(Space, Vec<u8>)>;

/// The pages of the streams of a tablet, one call each.
pub struct StreamPages {
    client: Client,
    group: u16,
    tablet: TabletIndex,
    space: Option<Space>,
    after: Option<(Space, Vec<u8>)>,
    ended: bool,
}

impl StreamPages {
    /// The next page; None behind the last.
    ///
    /// # Errors
    /// As every call: [`ClientError`]. The same page can be asked for again.
    pub async fn next(&mut self) -> Result<Option<StreamPage>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let (group, tablet) = (self.group, self.tablet);
        let request = Request::Streams(Streams {
            group,
            tablet,
            space: self.space,
            after: self.after.as_ref().map(|(space, stream)| (*space, stream.as_slice())),
            limit: 0,
        });
        let finished = self.client.call(Target::Tablet { group, tablet }, request).await?;
        let Answer::Streams(list) = finished.answer() else { return Err(finished.error()) };
        let page: Vec<(Space, Vec<u8>)> =
            list.iter().map(|(space, stream)| (space, stream.to_vec())).collect();
        if list.more && page.last() == self.after.as_ref() {
            let what = "a page of streams ends where the page before ended".into();
            return Err(ClientError::WrongAnswer { operation: Operation::Streams, what });
        }
        self.ended = !list.more;
        if let Some(last) = page.last() {
            self.after = Some(last.clone());
        }
        Ok(Some(page))
    }
}

impl Client {
    /// The records of a range, page by page.
    pub fn scan(&self, range: ScanRange) -> ScanPages {
        // A range that ends before it begins holds nothing: no need to ask.
        let ended = range.from > range.to;
        ScanPages { client: self.clone(), range, ended }
    }

    /// The newest records of a stream, newest first, at most `count`.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn head(
        &self,
        space: Space,
        stream: &[u8],
        count: u32,
    ) -> Result<Vec<ScanRecord>, ClientError> {
        check_stream(stream)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let target = self.placed(space, stream)?;
        let request =
            Request::Head(Head { space, stream, local: self.local, record_limit: count, byte_limit: 0 });
        let finished = self.call(target, request).await?;
        let reply = finished.reply();
        let Answer::Records(records) = reply.answer else { return Err(finished.error()) };
        let mut newest = page(&records, reply.log_time).records;
        let Some(to) = records.resume else { return Ok(newest) };
        // The server had room for fewer than asked for: the rest is a scan from there.
        let stream = stream.to_vec();
        let all = ScanRange { backward: true, ..ScanRange::all(space, &stream) };
        check_resume(&all, to, newest.last().map(|record| record.time))?;
        let mut range =
            ScanRange { backward: true, to, page_records: count, ..ScanRange::all(space, &stream) };
        while newest.len() < count as usize {
            range.page_records = count - newest.len() as u32;
            let mut pages = self.scan(range.clone());
            let Some(page) = pages.next().await? else { break };
            newest.extend(page.records);
            if pages.ended {
                break;
            }
            range = pages.range;
        }
        newest.truncate(count as usize);
        Ok(newest)
    }

    /// The streams of one tablet in key order (bucket, space, stream), page by page; only those of `space` if it is given.
    ///
    /// # Errors
    /// [`ClientError::Input`] when the map has no such group.
    pub fn streams(
        &self,
        group: u16,
        tablet: TabletIndex,
        space: Option<Space>,
    ) -> Result<StreamPages, ClientError> {
        let groups = self.shared.router.borrow().map().groups.len();
        if usize::from(group) >= groups {
            let what = format!("there is no group {group}: the cluster has {groups}");
            return Err(ClientError::Input { what: Rc::from(what) });
        }
        Ok(StreamPages { client: self.clone(), group, tablet, space, after: None, ended: false })
    }
}
