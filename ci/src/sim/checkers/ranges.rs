//! Pages of scans and heads, and lists of streams. A page says at which index of its tablet's log it was read, so it has
//! exactly one right content as far as versions are known: the newest version at or below that index of every key it
//! covers, unless deleted or expired there. That a batch is seen whole or not at all follows: its versions are one entry's.

use super::known::{By, Known, is_excused};
use crate::sim::history::{Does, History, KeyIndex, List, Order, Page, Violation, WriteRef};
use layout::units::{LogIndex, LogTime, Version};

const NAME: &str = "ranges";

/// Every page and list that is wrong.
#[must_use]
pub fn check(history: &History, known: &Known, excused: u64) -> Vec<Violation> {
    let mut out = Vec::new();
    for page in &history.pages {
        let facts = history.keys.facts(page.stream);
        if is_excused(excused, facts.tablet) {
            continue;
        }
        let mut wrong = Vec::new();
        wrong.extend(misshaped(history, page));
        wrong.extend(misread(history, known, page));
        for what in wrong {
            let name = String::from_utf8_lossy(&facts.name);
            let text = format!("a page of {name} for client {} at {} ns {what}", page.client, page.at_ns);
            out.push(Violation { checker: NAME, text });
        }
    }
    for list in history.lists.iter().filter(|list| !is_excused(excused, list.tablet)) {
        let wrong = mislisted(history, known, list);
        out.extend(wrong.map(|what| {
            let text = format!("a list of tablet {} for client {} {what}", list.tablet.get(), list.client);
            Violation { checker: NAME, text }
        }));
    }
    out
}

/// The times that a page speaks of, both included; `None` when of none.
fn covered(page: &Page) -> Option<(u64, u64)> {
    let (from, to) = page.times;
    match page.resume {
        None => Some((from, to)),
        Some(resume) if page.backward => {
            resume.checked_add(1).map(|from| (from, to)).filter(|one| one.0 <= one.1)
        }
        Some(resume) => resume.checked_sub(1).map(|to| (from, to)).filter(|one| one.0 <= one.1),
    }
}

fn misshaped(history: &History, page: &Page) -> Option<String> {
    let times: Vec<u64> = page.records.iter().map(|(key, ..)| history.keys.keys[key.0 as usize].1).collect();
    let (from, to) = page.times;
    if page.resume.is_some_and(|resume| !(from..=to).contains(&resume)) {
        return Some(format!("goes on at {:?}, outside of {from}..={to}", page.resume));
    }
    let Some((low, high)) = covered(page) else {
        return Some("makes no progress".to_owned());
    };
    if times.iter().any(|time| !(low..=high).contains(time)) {
        return Some(format!("covers {low}..={high} and holds {times:?}"));
    }
    let in_order =
        times.windows(2).all(|pair| if page.backward { pair[0] > pair[1] } else { pair[0] < pair[1] });
    if !in_order {
        return Some(format!("is out of order: {times:?}"));
    }
    if page.record_limit > 0 && times.len() > page.record_limit as usize {
        return Some(format!("holds {} records, more than {}", times.len(), page.record_limit));
    }
    None
}

fn misread(history: &History, known: &Known, page: &Page) -> Option<String> {
    let (low, high) = covered(page)?;
    let top = Version(Version::new(LogIndex(page.log_index.0 + 1), 0, 0).0 - 1);
    for (&time, &key) in history.keys.facts(page.stream).keys.range(low..=high) {
        let shown = page.records.iter().find(|(shown, ..)| *shown == key).map(|(_, seen, _)| seen.version());
        let newest = known.newest(key, top);
        let index = page.log_index;
        match (shown, newest) {
            (Some(shown), _) if shown > top => {
                return Some(format!(
                    "was read at log index {index} and shows version {shown} at time {time}"
                ));
            }
            (Some(shown), Some((newest, _))) if shown < newest => {
                return Some(format!(
                    "shows version {shown} at time {time}, {newest} was there (log index {index})"
                ));
            }
            (None, Some((newest, by))) if !may_be_gone(history, known, key, by, page) => {
                return Some(format!("misses time {time}, version {newest} (log index {index})"));
            }
            _ => {}
        }
    }
    None
}

fn takes(history: &History, by: WriteRef, log_time: LogTime) -> bool {
    match history.change(by).does {
        Does::Delete => true,
        Does::Put { expiry, .. } => expiry != 0 && expiry <= log_time.0,
    }
}

fn may_be_gone(history: &History, known: &Known, key: KeyIndex, newest: By, page: &Page) -> bool {
    let gone = match newest {
        By::Change(by) => takes(history, by, page.log_time),
        By::Someone => true,
    };
    gone || known.maybe[key.0 as usize].iter().any(|&by| {
        takes(history, by, page.log_time) && history.writes[by.write as usize].invoked < page.returned
    })
}

fn mislisted(history: &History, known: &Known, list: &List) -> Option<String> {
    let place = |stream| {
        let facts = history.keys.facts(stream);
        (facts.bucket, facts.space.0, &facts.name[..])
    };
    let after = list.after.map(place);
    let mut last = after;
    for &stream in &list.streams {
        let here = place(stream);
        if history.keys.facts(stream).tablet != list.tablet {
            return Some(format!("holds a stream of another tablet: {here:?}"));
        }
        if last.is_some_and(|last| last >= here) {
            return Some(format!("is out of order at {here:?}"));
        }
        if list.space.is_some_and(|space| space.0 != here.1) {
            return Some(format!("holds a stream of another space: {here:?}"));
        }
        last = Some(here);
    }
    let end = list.more.then_some(last).flatten();
    for (number, facts) in (0u32..).zip(&history.keys.streams) {
        let stream = crate::sim::history::StreamIndex(number);
        let here = place(stream);
        let wanted = facts.tablet == list.tablet
            && list.space.is_none_or(|space| space == facts.space)
            && after.is_none_or(|after| after < here)
            && end.is_none_or(|end| here <= end);
        if wanted
            && !list.streams.contains(&stream)
            && lives(history, known, stream, list.invoked, list.returned)
        {
            return Some(format!("misses {here:?}"));
        }
    }
    None
}

/// Whether some record of a stream is there for certain from `from` to `to`.
fn lives(
    history: &History,
    known: &Known,
    stream: crate::sim::history::StreamIndex,
    from: Order,
    to: Order,
) -> bool {
    let put_before = |by: &By| match by {
        By::Change(by) => {
            let write = &history.writes[by.write as usize];
            let does = write.changes[usize::from(by.position)].does;
            write.returned < from && matches!(does, Does::Put { expiry: 0, .. })
        }
        By::Someone => false,
    };
    let may_take = |by: WriteRef| {
        let write = &history.writes[by.write as usize];
        let does = write.changes[usize::from(by.position)].does;
        write.invoked < to && !matches!(does, Does::Put { expiry: 0, .. })
    };
    history.keys.facts(stream).keys.values().any(|key| {
        let versions = &known.versions[key.0 as usize];
        let Some((put, _)) = versions.iter().rev().find(|(_, by)| put_before(by)) else { return false };
        let after = (std::ops::Bound::Excluded(*put), std::ops::Bound::Unbounded);
        let taken = versions.range(after).any(|(_, by)| match by {
            By::Change(by) => may_take(*by),
            By::Someone => true,
        });
        !taken && !known.maybe[key.0 as usize].iter().any(|&by| may_take(by))
    })
}
