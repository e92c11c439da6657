//! The task that minds the time of a core's logs: what is sent again, asked again, completed or given up, and when.

use super::reads::TabletReads;
use super::tablet::TabletLog;
use super::{
    ANSWER_WAIT, COMPLETE_WAIT, FETCH_WAIT, Logs, RETURN_WAIT, SYNC_PERIOD, TIP_GIVE_UP, drive,
    receive::has_room, take, verify,
};
use crate::commit::mind_device;
use crate::core::Shard;
use crate::journal::Claim;
use ioengine::Instant;
use ioengine::sync::race;
use layout::units::{TABLET_COUNT, TabletIndex};
use paxos::Input;
use std::rc::Rc;
use std::time::Duration;

/// Shortest sleep: what is due within is done together.
const GRAIN: Duration = Duration::from_millis(1);

/// Mind the time until the core ends.
pub(crate) async fn run(shard: Rc<Shard>) {
    let Some(logs) = &shard.logs else { return };
    let mut next = shard.io.now();
    let mut first = 0;
    loop {
        // Each time another tablet comes first: a link that is nearly full takes from the first ones only.
        first += 1;
        let woken = logs.wake.notified();
        mind_device(&shard);
        if logs.outcast.get() {
            for cell in logs.own().filter_map(|tablet| logs.tablet(tablet)) {
                cell.borrow_mut().reads.refuse(&shard, logs);
            }
            next = shard.io.now().after(SYNC_PERIOD);
        } else if !shard.failed.get() {
            ask_tips(&shard, logs, first);
            let now = shard.io.now();
            next = now.after(SYNC_PERIOD);
            for tablet in tablets_from(first).filter(|tablet| logs.tablet(*tablet).is_some()) {
                next = next.min(tick(&shard, logs, tablet, now));
            }
            next = verify::begin_next(&shard, logs, now).map_or(next, |at| next.min(at));
        }
        let now = shard.io.now();
        let sleep = if next > now { next.since(now).max(GRAIN) } else { GRAIN };
        race(woken, shard.io.sleep(sleep)).await;
    }
}

/// All tablets, beginning with the `first`, counted round.
fn tablets_from(first: usize) -> impl Iterator<Item = TabletIndex> {
    let at = first % TABLET_COUNT;
    TabletIndex::all().skip(at).chain(TabletIndex::all().take(at))
}

/// One question for all gets of a tablet that wait, one frame to each peer for all tablets.
fn ask_tips(shard: &Shard, logs: &Logs, first: usize) {
    let wanted = logs.tips_wanted.replace(0);
    for tablet in tablets_from(first).filter(|tablet| wanted & (1 << tablet.index()) != 0) {
        if let Some(log) = logs.tablet(tablet)
            && log.borrow().reads.asked_at.is_none()
        {
            ask_tip(shard, logs, tablet);
        }
    }
}

fn ask_tip(shard: &Shard, logs: &Logs, tablet: TabletIndex) {
    if let Some(log) = logs.tablet(tablet) {
        let (mut log, now) = (log.borrow_mut(), shard.io.now());
        log.reads.ask(now);
        log.synced_at = Some(now);
    }
    shard.counters.tip_checks.add(1);
    drive(shard, logs, tablet, Input::AskTip);
}

/// What is due for a tablet.
enum Due {
    Timer,
    Tip,
    TipAgain,
    Complete,
    GiveUp,
    Return,
}

/// Do what is due for a tablet; when to look again.
fn tick(shard: &Rc<Shard>, logs: &Logs, tablet: TabletIndex, now: Instant) -> Instant {
    let cell = logs.tablet(tablet).expect("an own tablet");
    if cell.borrow().needs_copy && !shard.facts.group.is_left_alone(tablet) {
        cell.borrow_mut().reads.refuse(shard, logs);
        if cell.borrow().copy_at <= now {
            take::begin(shard, logs, tablet);
        }
    }
    if logs.is_taking(tablet) {
        return now.after(SYNC_PERIOD);
    }
    mind_reads(shard, logs, &mut cell.borrow_mut(), now);
    mind_fetch(shard, &mut cell.borrow_mut(), now);
    verify::mind(shard, logs, &mut cell.borrow_mut(), now);
    let (mut due, next) = look(shard, logs, &mut cell.borrow_mut(), now);
    if comes_back(shard, logs, &mut cell.borrow_mut(), now) {
        due.push(Due::Return);
    }
    for due in due {
        match due {
            Due::Timer => drive(shard, logs, tablet, Input::Timer),
            Due::Tip => ask_tip(shard, logs, tablet),
            Due::TipAgain => {
                cell.borrow_mut().reads.ask_again(now);
                drive(shard, logs, tablet, Input::AskAgain);
            }
            Due::Complete => {
                ioengine::sometimes!("a replica completes what another left open");
                drive(shard, logs, tablet, Input::Complete);
            }
            Due::GiveUp => drive(shard, logs, tablet, Input::GiveUp),
            Due::Return => {
                let given_up = shard.facts.group.given_up(tablet);
                drive(shard, logs, tablet, Input::Return(given_up));
            }
        }
    }
    next
}

/// Learner-only, and with all that a copy and the peers' entries give: is it time to try to vote again? Not before the copy is in place.
/// Failing history otherwise: it votes, power is cut before the copy is durable, the start finds the tablet damaged as
/// before; if another replica has lost its memory meanwhile, too few are left that vote.
///
/// Where an operator has given up all others, nobody is left to give a copy: what is here must do, if no entry is missing in its middle.
fn comes_back(shard: &Shard, logs: &Logs, log: &mut TabletLog, now: Instant) -> bool {
    let is_prefix = || {
        let state = shard.state.borrow();
        let own = state.tablet(log.tablet);
        own.damage.is_none_or(|damage| damage.from > own.applied)
    };
    if !log.replica.state().voter && shard.facts.group.is_left_alone(log.tablet) && is_prefix() {
        log.needs_copy = false;
        log.fetch = None;
    }
    let is_whole = !log.needs_copy && log.fetch.is_none();
    let is_due = !log.replica.state().voter && is_whole && log.return_at <= now;
    if !is_due || !has_room(shard, logs, log, 0, Claim::Delete) {
        return false;
    }
    log.return_at =
        now.after(RETURN_WAIT + Duration::from_nanos(shard.io.random() % RETURN_WAIT.as_nanos() as u64));
    true
}

fn look(shard: &Shard, logs: &Logs, log: &mut TabletLog, now: Instant) -> (Vec<Due>, Instant) {
    let mut due = Vec::new();
    let mut next = now.after(SYNC_PERIOD);
    let has_room = has_room(shard, logs, log, 0, Claim::Delete) && !shard.stuck.get();
    if log.own.as_ref().is_some_and(|own| now.since(own.since) > shard.limits.request_deadline) {
        due.push(Due::GiveUp);
    }
    match log.timer {
        Some(at) if at <= now => {
            if has_room {
                log.timer = None;
                due.push(Due::Timer);
            } else {
                log.timer = Some(now.after(ANSWER_WAIT));
            }
        }
        Some(at) => next = next.min(at),
        None => {}
    }
    if let Some(at) = log.verify_at {
        next = next.min(at);
    }
    if let Some(fetch) = &log.fetch {
        next = next.min(fetch.since.after(FETCH_WAIT));
    }
    if log.own.is_some() {
        next = next.min(now.after(shard.limits.request_deadline / 8));
    }
    let (wait, again) = when_asked(&log.reads);
    match log.reads.asked_at {
        Some(at) if now.since(at) > wait => due.push(again),
        Some(at) => next = next.min(at.after(wait)),
        None if log.reads.wants_tip() || log.synced_at.is_none_or(|at| now.since(at) > SYNC_PERIOD) => {
            due.push(Due::Tip);
        }
        None => {}
    }
    if is_open_for_long(log, now, &mut next) && has_room {
        due.push(Due::Complete);
        log.open_since = None;
        log.reads.complete_at = None;
    }
    (due, next)
}

/// How long a check under way may be without an answer, and what is due then.
///
/// Failing history otherwise: links are so slow that answers take longer than the wait; what each replica asks once a second to keep up is asked again and again though
/// nobody waits for it, the questions fill the links, votes are dropped for want of room, and no entry is chosen any more.
fn when_asked(reads: &TabletReads) -> (Duration, Due) {
    match () {
        () if reads.waits_for_answers() || ioengine::canary("ask_again_for_nobody") => {
            (ANSWER_WAIT.saturating_mul(1 << reads.again_count.min(4)), Due::TipAgain)
        }
        // Nobody waits for this one, and somebody for the next.
        () if reads.wants_tip() => (ANSWER_WAIT, Due::Tip),
        () => (SYNC_PERIOD, Due::TipAgain),
    }
}

/// Is an entry accepted here, or by somebody whom a get has asked, and nobody gets it chosen?
fn is_open_for_long(log: &mut TabletLog, now: Instant, next: &mut Instant) -> bool {
    let state = log.replica.state();
    if let Some(at) = log.reads.complete_at {
        if at <= now {
            ioengine::sometimes!("a tip check completes a pending entry");
            return true;
        }
        *next = (*next).min(at);
    }
    if state.vote.accepted.is_none() || log.replica.waits_for().is_some() {
        return false;
    }
    let open = state.open();
    let since = match log.open_since {
        Some((index, since)) if index == open => since,
        _ => {
            log.open_since = Some((open, now));
            now
        }
    };
    let at = since.after(COMPLETE_WAIT * (1 + log.rank));
    *next = (*next).min(at);
    at <= now
}

fn mind_reads(shard: &Shard, logs: &Logs, log: &mut TabletLog, now: Instant) {
    if let Some(oldest) = log.reads.oldest()
        && now.since(oldest) > TIP_GIVE_UP
    {
        let before = Instant { ns: now.ns - TIP_GIVE_UP.as_nanos() as u64 };
        log.reads.refuse_older(shard, logs, before);
    }
}

/// A fetch without an answer: another peer may have what is missing.
fn mind_fetch(shard: &Shard, log: &mut TabletLog, now: Instant) {
    if log.fetch.as_ref().is_some_and(|fetch| now.since(fetch.since) >= FETCH_WAIT) {
        log.ask_another(shard);
    }
}
