//! What replicas tell each other about seals: which tables they have built, and the bytes of a table that another one lacks.
//!
//! Owns what was heard, in memory: a restart asks and tells again. Must never decide: that a seal is agreed on, or given up, is said by
//! an entry of the log. Invariant: of each member only what it said last counts.

use super::{Logs, bulk_bytes, wire};
use crate::commit::stage;
use crate::core::{Phase, Shard};
use ioengine::sync::{Notify, race};
use ioengine::{Instant, Queue};
use layout::Corrupt;
use layout::log_entry::Operation;
use layout::seal_operation::{AgreedTable, read_tables, tables_bytes};
use layout::units::TabletIndex;
use paxos::Node;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Parts of tables given at once.
const GIVEN_MAX: usize = 4;
/// How long a part may take before it is asked for again, and how often it is.
const PART_WAIT: Duration = Duration::from_millis(300);
const TRIES: u32 = 5;
/// "Give me this part of a table": checksum 16, offset 8.
const ASK_BYTES: usize = 24;
/// A part: the same, and bytes of the table 8. None: it is not here.
const PART_HEAD_BYTES: usize = 32;

/// What a member has built.
struct Heard {
    generation: u32,
    tables: Vec<AgreedTable>,
    at: Instant,
}

/// A part of a table.
pub(crate) struct Part {
    pub(crate) table_bytes: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The part that is asked for.
struct Wanted {
    checksum: u128,
    offset: u64,
    /// `None` in it: the peer has not got the table.
    came: Option<Option<Part>>,
}

/// What was heard, and what is asked for.
#[derive(Default)]
pub(super) struct SealTalk {
    heard: RefCell<BTreeMap<(TabletIndex, u8), Heard>>,
    wanted: RefCell<Option<Wanted>>,
    called: Notify,
    given: Cell<usize>,
}

/// What is known of the tables that the members have built for a seal.
pub(crate) struct Votes {
    /// Those that a majority has.
    pub(crate) agreed: Option<Vec<AgreedTable>>,
    /// A majority has said something.
    pub(crate) are_many: bool,
    /// When the last one spoke.
    pub(crate) last: Option<Instant>,
}

impl Logs {
    /// Place of this replica in the order of its tablet, and how many there are.
    pub(crate) fn rank(&self, tablet: TabletIndex) -> Option<(u32, usize)> {
        let log = self.tablet(tablet)?.borrow();
        Some((log.rank, log.members.len()))
    }

    /// Tell the others which tables this replica has built.
    pub(crate) fn tell_built(
        &self,
        shard: &Shard,
        tablet: TabletIndex,
        generation: u32,
        tables: &[AgreedTable],
    ) {
        let Some(log) = self.tablet(tablet).map(RefCell::borrow) else { return };
        let (own, now) = (log.replica.node(), shard.io.now());
        self.seal_talk.hear(tablet, own, generation, tables.to_vec(), now);
        let list = tables_bytes(tables);
        for place in (0u8..).zip(&log.members).map(|(place, _)| Node(place)).filter(|place| *place != own) {
            log.tell(shard, place, wire::SEAL_BUILT, &[&generation.to_le_bytes(), &list]);
        }
    }

    /// What the members have built for the seal of this generation.
    pub(crate) fn seal_votes(&self, tablet: TabletIndex, generation: u32) -> Votes {
        let member_count = self.rank(tablet).map_or(0, |(_, count)| count);
        let heard = self.seal_talk.heard.borrow();
        let of_seal = || {
            let own = heard.range((tablet, 0)..=(tablet, u8::MAX)).map(|(_, heard)| heard);
            own.filter(|heard| heard.generation == generation)
        };
        let is_majority = |count: usize| count * 2 > member_count;
        let has_majority =
            |one: &&Heard| is_majority(of_seal().filter(|other| other.tables == one.tables).count());
        Votes {
            agreed: of_seal().find(has_majority).map(|heard| heard.tables.clone()),
            are_many: is_majority(of_seal().count()),
            last: of_seal().map(|heard| heard.at).max(),
        }
    }

    /// Have an operation proposed that no client sends. False: not now.
    pub(crate) fn stage_own(&self, shard: &Shard, tablet: TabletIndex, operation: Operation<'_>) -> bool {
        let may = self.is_voter(tablet) && shard.phase.get() == Phase::Serving && !shard.failed.get();
        may && stage(shard, tablet, operation)
    }

    /// Ask peers for a part of a table until one gives it; `None` if none does. `turn` says who is asked first, and is moved on.
    pub(crate) async fn ask_table(
        &self,
        shard: &Shard,
        tablet: TabletIndex,
        (checksum, offset): (u128, u64),
        turn: &mut usize,
    ) -> Option<Part> {
        let log = self.tablet(tablet)?;
        let (own, count) = (log.borrow().replica.node(), log.borrow().members.len());
        for _ in 0..count {
            let peer = Node(u8::try_from(*turn % count).expect("members are few"));
            for _ in 0..if peer == own { 0 } else { TRIES } {
                let talk = &self.seal_talk;
                *talk.wanted.borrow_mut() = Some(Wanted { checksum, offset, came: None });
                let called = talk.called.notified();
                log.borrow().tell(
                    shard,
                    peer,
                    wire::TABLE_ASK,
                    &[&checksum.to_le_bytes(), &offset.to_le_bytes()],
                );
                race(called, shard.io.sleep(PART_WAIT)).await;
                match talk.wanted.borrow_mut().take().and_then(|wanted| wanted.came) {
                    Some(Some(part)) => return Some(part),
                    Some(None) => break,
                    None if shard.failed.get() => return None,
                    None => {}
                }
            }
            *turn += 1;
        }
        None
    }
}

impl SealTalk {
    fn hear(&self, tablet: TabletIndex, from: Node, generation: u32, tables: Vec<AgreedTable>, at: Instant) {
        let mut heard = self.heard.borrow_mut();
        let before = heard.get(&(tablet, from.0));
        // Said again: when it was first said counts.
        let at = before
            .filter(|before| before.generation == generation && before.tables == tables)
            .map_or(at, |before| before.at);
        if before.is_none_or(|before| before.generation <= generation) {
            heard.insert((tablet, from.0), Heard { generation, tables, at });
        }
    }
}

/// A member says what it has built.
pub(super) fn built(
    shard: &Shard,
    logs: &Logs,
    tablet: TabletIndex,
    from: Node,
    body: &[u8],
) -> Result<(), Corrupt> {
    let wrong = |field| Corrupt { structure: "built tables", field, at: 0 };
    let (generation, list) = body.split_first_chunk::<4>().ok_or(wrong("generation"))?;
    let tables = read_tables(list).ok_or(wrong("tables"))?;
    logs.seal_talk.hear(tablet, from, u32::from_le_bytes(*generation), tables, shard.io.now());
    shard.keeper.merge_due.notify();
    Ok(())
}

/// A peer asks for a part of a table.
pub(super) fn asked(
    shard: &Rc<Shard>,
    logs: &Logs,
    tablet: TabletIndex,
    from: Node,
    body: &[u8],
) -> Result<(), Corrupt> {
    let wrong = Corrupt { structure: "question for a table", field: "checksum", at: 0 };
    let body: [u8; ASK_BYTES] = body.try_into().map_err(|_| wrong)?;
    let (checksum, offset) = body.split_first_chunk::<16>().expect("24 bytes");
    let checksum = u128::from_le_bytes(*checksum);
    let offset = u64::from_le_bytes(offset.try_into().expect("8 bytes"));
    let Some(table) = shard.keeper.agreeing.table(shard, tablet, checksum) else {
        if let Some(log) = logs.tablet(tablet) {
            log.borrow().tell(shard, from, wire::TABLE_PART, &[&body]);
        }
        return Ok(());
    };
    let given = &logs.seal_talk.given;
    if given.get() >= GIVEN_MAX || offset >= table.place.bytes {
        return Ok(());
    }
    given.set(given.get() + 1);
    let shard = Rc::clone(shard);
    shard.clone().io.spawn(Queue::Maintenance, async move {
        let count = (table.place.bytes - offset).min(bulk_bytes(&shard.limits) as u64);
        let mut bytes = Vec::new();
        let read = table.read(offset, usize::try_from(count).expect("a part is small"), &mut bytes).await;
        let Some(logs) = &shard.logs else { return };
        match (read, logs.tablet(tablet)) {
            (Ok(()), Some(log)) => {
                let all = table.place.bytes.to_le_bytes();
                log.borrow().tell(&shard, from, wire::TABLE_PART, &[&body, &all, &bytes]);
            }
            (Err(error), _) => tracing::error!(%error, "a part of a table cannot be given"),
            (Ok(()), None) => {}
        }
        logs.seal_talk.given.set(logs.seal_talk.given.get() - 1);
    });
    Ok(())
}

/// A part of a table has come, or word that it is not there.
pub(super) fn part(logs: &Logs, body: &[u8]) -> Result<(), Corrupt> {
    let wrong = |field| Corrupt { structure: "part of a table", field, at: 0 };
    let (head, _) = body.split_first_chunk::<ASK_BYTES>().ok_or(wrong("checksum"))?;
    let checksum = u128::from_le_bytes(head[..16].try_into().expect("16 bytes"));
    let offset = u64::from_le_bytes(head[16..].try_into().expect("8 bytes"));
    let part = match body.split_first_chunk::<PART_HEAD_BYTES>() {
        None => None,
        Some((head, bytes)) => {
            let table_bytes = u64::from_le_bytes(head[ASK_BYTES..].try_into().expect("8 bytes"));
            let end = offset.checked_add(bytes.len() as u64).ok_or(wrong("offset"))?;
            if bytes.is_empty() || end > table_bytes {
                return Err(wrong("bytes"));
            }
            Some(Part { table_bytes, bytes: bytes.to_vec() })
        }
    };
    let mut wanted = logs.seal_talk.wanted.borrow_mut();
    if let Some(wanted) =
        wanted.as_mut().filter(|wanted| (wanted.checksum, wanted.offset) == (checksum, offset))
    {
        wanted.came = Some(part);
        logs.seal_talk.called.notify();
    }
    Ok(())
}
