//! Clients of cold nodes: each reserves the same place on three, writes, seals, reads, frees, and says things that must be refused.
//!
//! Knows only what it was told over the wire. Must never take silence for a no: what was asked and not answered may have happened, and is
//! asked again until it is answered. Invariant: what is in `known` was sealed with equal checksums by all three, and nobody has asked to free it.

mod copies;
mod freed;
mod stored;

use ioengine::sim::Random;
use ioengine::{Instant, Io};
use layout::cold_kept::KeptFor;
use layout::cold_section::{SECTION_HEADER_BYTES, SectionIdentity, SectionPlace, SectionWriter};
use layout::cold_section::{SectionHeader, open_section_index};
use layout::key::{Key, bucket_of};
use layout::table::encode_key;
use layout::table_index::Index;
use layout::table_seal::Decompressor;
use layout::units::{Space, Uuid, Version};
use net::client::{ClientConfig, ColdNode, ColdReply};
use net::cold::*;
use net::outcome::Outcome;
use net::reply::Answer;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::{FILE_BYTES, list};
const SPACE: Space = Space(2);
const DAY_US: u64 = 86_400_000_000;

/// A section that all three hold.
#[derive(Clone)]
pub(super) struct Known {
    /// Its own place: of one section.
    pub(super) place: ColdPlace,
    bytes: Rc<Vec<u8>>,
    stream: Rc<Vec<u8>>,
    /// Time, version, value of its records, ascending.
    records: Rc<Vec<(u64, u64, Vec<u8>)>>,
}

/// What all clients know together.
pub(super) struct Nodes {
    addresses: Vec<SocketAddr>,
    cluster: Uuid,
    group: u16,
    disk_count: u16,
    reuse_delay: Duration,
    known: RefCell<Vec<Known>>,
    freed: RefCell<Vec<Known>>,
    /// Runs that three have agreed on, and that are not given up.
    active: RefCell<Vec<ColdPlace>>,
    /// When sections were first asked to be freed: by disk, file, generation, number.
    freed_at: RefCell<BTreeMap<(u16, u32, u32, u32), Instant>>,
    next: Cell<u64>,
    peace: Cell<bool>,
    /// A disk is lost in this world.
    pub(super) loses: Cell<bool>,
    /// How often that has happened. What a disk had said before it was lost is said again.
    pub(super) losses: Cell<u32>,
    /// Disks of the first machine that have lied.
    damaged: RefCell<Vec<bool>>,
    /// Nothing goes wrong but disks that turn gray, one at a time.
    is_gray: bool,
    /// Until when disks are known to have been gray or aside.
    ill_until: RefCell<BTreeMap<(usize, u16), Instant>>,
    wrong: RefCell<Vec<String>>,
    counted: RefCell<BTreeMap<&'static str, u64>>,
}

/// What a section is made of.
struct Made {
    whom: KeptFor,
    stream: Vec<u8>,
    records: Vec<(u64, u64, Vec<u8>)>,
    section: layout::cold_section::MadeSection,
}

enum Agreed {
    Yes(ColdPlace),
    No,
}

impl Nodes {
    pub(super) fn new(
        addresses: Vec<SocketAddr>,
        cluster: Uuid,
        group: u16,
        disk_count: u16,
        reuse_delay: Duration,
        is_gray: bool,
    ) -> Nodes {
        Nodes {
            addresses,
            cluster,
            group,
            disk_count,
            reuse_delay,
            known: RefCell::default(),
            freed: RefCell::default(),
            active: RefCell::default(),
            freed_at: RefCell::default(),
            next: Cell::new(1),
            peace: Cell::new(false),
            loses: Cell::new(false),
            losses: Cell::new(0),
            damaged: RefCell::default(),
            is_gray,
            ill_until: RefCell::default(),
            wrong: RefCell::default(),
            counted: RefCell::default(),
        }
    }

    /// From now on nothing goes wrong any more; `damaged` are the disks of the first machine that have lied.
    pub(super) fn begin_peace(&self, damaged: &[bool]) {
        self.peace.set(true);
        *self.damaged.borrow_mut() = damaged.to_vec();
    }

    /// At peace: a disk that has lied may answer nothing any more.
    fn is_excused(&self, node: usize, disk: u16) -> bool {
        node == 0 && self.damaged.borrow().get(usize::from(disk)) == Some(&true)
    }

    pub(super) fn wrong(&self) -> Vec<String> {
        self.wrong.borrow().clone()
    }

    pub(super) fn counted(&self) -> BTreeMap<&'static str, u64> {
        self.counted.borrow().clone()
    }

    pub(super) fn known_on(&self, disk: u16) -> Vec<Known> {
        self.known.borrow().iter().filter(|known| known.place.disk == disk).cloned().collect()
    }

    fn say(&self, text: String) {
        let mut wrong = self.wrong.borrow_mut();
        if wrong.len() < 20 {
            wrong.push(text);
        }
    }

    pub(super) fn count(&self, what: &'static str) {
        *self.counted.borrow_mut().entry(what).or_insert(0) += 1;
    }

    pub(super) fn way(&self, io: &Io, node: usize) -> ColdNode {
        let config = ClientConfig {
            deadline: Duration::from_secs(4),
            patience: Duration::from_secs(1),
            frame_bytes: 256 << 10,
            cluster: self.cluster,
            ..ClientConfig::default()
        };
        ColdNode::new(io, self.addresses[node], &config)
    }

    /// Give up what a disk keeps for nobody: a request to keep it that was on its way while its connection ended, and came after it had been
    /// given up. As the sweep of those who sink does it.
    pub(super) async fn sweep(&self, io: &Io, node: usize, disk: u16) -> u64 {
        let way = self.way(io, node);
        let mut swept = 0;
        for (kept, place) in list(&way, self.group, disk, 7).await.unwrap_or_default() {
            if kept == ColdKept::Reserved && way.ask(&ColdRequest::Free { place }).await.is_ok() {
                swept += 1;
            }
        }
        swept
    }

    /// Free all that is known on three machines.
    pub(super) async fn free_all(&self, io: &Io) -> Vec<String> {
        let mut wrong = Vec::new();
        let known = std::mem::take(&mut *self.known.borrow_mut());
        for node in 0..self.addresses.len() {
            let way = self.way(io, node);
            for known in known.iter().filter(|known| !self.is_excused(node, known.place.disk)) {
                let freed = way.ask(&ColdRequest::Free { place: known.place }).await;
                if !matches!(freed.as_ref().map(ColdReply::answer), Ok(Answer::Cold(ColdAnswer::Freed(_)))) {
                    let said = freed.as_ref().map(ColdReply::answer);
                    wrong.push(format!(
                        "node {} does not free {:?} at peace: {said:?}",
                        node + 1,
                        known.place
                    ));
                }
            }
        }
        wrong
    }

    /// With nothing on it, all of a disk can be given again.
    pub(super) async fn compare_room(&self, io: &Io, node: usize, disk: u16) -> Option<String> {
        let way = self.way(io, node);
        let reply = way.status().await.ok()?;
        let Answer::Status(text) = reply.answer() else { return None };
        let status: serde_json::Value = serde_json::from_str(text).expect("status is JSON");
        let counters = &status["disks"][disk.to_string()]["counters"];
        let (room, files) = (counters["room_bytes"].as_u64()?, counters["files"].as_u64()?);
        let whole = files * FILE_BYTES;
        if room == whole {
            return None;
        }
        let counted = super::machine::counted(&way, (self.group, disk)).await;
        Some(format!(
            "node {} disk {disk} is empty, and gives {room} of {whole} bytes: space has leaked; these count (file, generation, number): {counted:?}",
            node + 1
        ))
    }

    /// A node holds what is expected on a disk, and nothing else.
    pub(super) async fn compare(
        &self,
        io: &Io,
        node: usize,
        disk: u16,
        expected: &[Known],
        damaged: bool,
    ) -> Vec<String> {
        let way = self.way(io, node);
        let Some(listed) = list(&way, self.group, disk, 7).await else {
            return if damaged {
                vec![]
            } else {
                vec![format!("node {} does not list disk {disk}", node + 1)]
            };
        };
        if damaged {
            return vec![];
        }
        let mut wrong = Vec::new();
        let sections: Vec<&ColdPlace> =
            listed.iter().filter(|(kept, _)| *kept == ColdKept::Sealed).map(|(_, place)| place).collect();
        for (_, place) in listed.iter().filter(|(kept, _)| *kept == ColdKept::Reserved) {
            wrong.push(format!("node {} disk {disk} keeps {place:?}, which nobody wants", node + 1));
        }
        let is = |place: &ColdPlace, known: &Known| {
            let whom = KeptFor { tablet_group: u16::MAX, ..known.place.whom };
            *place == ColdPlace { whom, ..known.place }
        };
        for place in &sections {
            if !expected.iter().any(|known| is(place, known)) {
                wrong.push(format!(
                    "node {} disk {disk} holds {place:?}, which nobody knows: space has leaked",
                    node + 1
                ));
            }
        }
        for known in expected {
            if !sections.iter().any(|place| is(place, known)) {
                wrong.push(format!("node {} disk {disk} does not hold {:?}", node + 1, known.place));
            }
        }
        if sections.len() > expected.len() {
            wrong.push(format!(
                "node {} disk {disk} lists {} sections of {}",
                node + 1,
                sections.len(),
                expected.len()
            ));
        }
        wrong
    }

    /// All blocks of each section as they are stored, some of its records, and one that is not there: how many were asked for, and what is wrong.
    pub(super) async fn read_each(&self, io: &Io, node: usize, all: &[Known]) -> (u64, Vec<String>) {
        let way = self.way(io, node);
        let (mut asked, mut wrong) = (0, Vec::new());
        for known in all {
            asked += 1;
            wrong.extend(
                self.wrong_stored(&way, known).await.map(|what| format!("node {}: {what}", node + 1)),
            );
            for time in [known.records[0].0, known.records[known.records.len() / 2].0, 3] {
                let expected = known.records.iter().find(|record| record.0 == time);
                asked += 1;
                let reply = match self.get(&way, known, time).await {
                    Ok(reply) => reply,
                    Err(error) => {
                        wrong.push(format!("node {} does not answer at peace: {error}", node + 1));
                        continue;
                    }
                };
                match (reply.answer(), expected) {
                    (Answer::Record { version, value, .. }, Some((_, is, kept)))
                        if version.0 == *is && value == kept => {}
                    (Answer::Not(Outcome::NotFound), None) => {}
                    (answer, _) => {
                        wrong.push(format!("node {}: {:?} at {time} is {answer:?}", node + 1, known.place));
                    }
                }
            }
        }
        (asked, wrong)
    }

    /// Header and index of a section, as they were written.
    fn index(&self, known: &Known) -> Option<(SectionHeader, Index)> {
        let place = known.place;
        let header = known.bytes.first_chunk::<SECTION_HEADER_BYTES>()?;
        let at = ((place.group, place.disk), (place.file, place.offset));
        let header = SectionHeader::decode(header, self.cluster, at.0, at.1).ok()?;
        let stored = &known.bytes[SECTION_HEADER_BYTES + header.data_bytes as usize..];
        let index =
            open_section_index(&header.identity.checksum(), &header, stored, &mut Decompressor::new());
        Some((header, index.ok()?))
    }

    fn blocks(&self, known: &Known, key: &[u8]) -> Option<ColdBlocks> {
        let place = known.place;
        let (_, index) = self.index(known)?;
        // One that the index does not find may be looked for in any block.
        let handle = index.find(key).map(|(_, handle)| handle).or_else(|| index.handle(0))?;
        let KeptFor { bucket, window_from, window_days, window_generation, .. } = place.whom;
        Some(ColdBlocks {
            group: place.group,
            disk: place.disk,
            bucket,
            window_from,
            window_days,
            window_generation,
            file: place.file,
            file_generation: place.file_generation,
            offset: place.offset,
            block_offset: handle.offset as u32,
            block_bytes: handle.stored_bytes,
        })
    }

    async fn get(
        &self,
        way: &ColdNode,
        known: &Known,
        time: u64,
    ) -> Result<ColdReply, net::client::ClientError> {
        let key = Key { space: SPACE, stream: &known.stream, time };
        let mut encoded = Vec::new();
        encode_key(&mut encoded, known.place.whom.bucket, key);
        let blocks = self.blocks(known, &encoded).expect("its index was kept");
        way.ask(&ColdRequest::Get { blocks, key }).await
    }

    fn made(&self, random: &mut Random, window: u64) -> Made {
        let number = self.next.replace(self.next.get() + 1);
        let stream = format!("stream-{number}").into_bytes();
        let bucket = bucket_of(SPACE, &stream);
        let (window_from, window_days) = (DAY_US * (20_000 + window % 5), 1);
        let window_generation = window as u32;
        let identity =
            SectionIdentity { cluster: self.cluster, bucket, window_from, window_days, window_generation };
        let mut writer = SectionWriter::new(identity, 1);
        let (mut records, mut time) = (Vec::new(), window_from);
        let most = 1 << random.below(8);
        for at in 0..1 + random.below(most) {
            time += 1 + random.below(1_000);
            let value: Vec<u8> = (0..random.below(900)).map(|_| random.below(256) as u8).collect();
            let version = (number * 100_000 + at + 1) << 16;
            let mut key = Vec::new();
            encode_key(&mut key, bucket, Key { space: SPACE, stream: &stream, time });
            writer.push(&key, Version(version), 0, Some(&value));
            records.push((time, version, value));
        }
        let whom = KeptFor { tablet_group: 1, bucket, window_from, window_days, window_generation };
        Made { whom, stream, records, section: writer.finish() }
    }
}

/// One client.
pub(super) struct Driver {
    pub(super) number: usize,
    nodes: Rc<Nodes>,
    done: Cell<bool>,
    /// It begins nothing any more, and only gives up.
    pub(super) settles: Cell<bool>,
    /// Places to be given up on all three, until each has said so: for whom, and what is known of them.
    to_give_up: RefCell<Vec<ColdPlace>>,
    doing: RefCell<String>,
}

impl Driver {
    pub(super) fn new(number: usize, nodes: Rc<Nodes>) -> Driver {
        let (to_give_up, doing) = (RefCell::default(), RefCell::default());
        Driver { number, nodes, done: Cell::new(false), settles: Cell::new(false), to_give_up, doing }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.get()
    }

    pub(super) fn doing(&self) -> String {
        self.doing.borrow().clone()
    }

    pub(super) async fn run(&self, io: &Io, seed: u64) {
        let mut random = Random::new(seed);
        let ways: Vec<ColdNode> =
            (0..self.nodes.addresses.len()).map(|node| self.nodes.way(io, node)).collect();
        while !self.nodes.peace.get() {
            match random.below(10) {
                0..4 => self.sink(io, &ways, &mut random).await,
                4..7 if self.nodes.is_gray && random.coin() => self.read_any(io, &ways, &mut random).await,
                4..7 => self.read(io, &ways, &mut random).await,
                7 => self.free(io, &ways, &mut random).await,
                8 => self.say_what_is_wrong(&ways, &mut random).await,
                _ => {
                    io.sleep(Duration::from_millis(random.below(400))).await;
                    self.give_up_one(&ways).await;
                }
            }
        }
        self.settles.set(true);
        // All that is in doubt is asked until it is known.
        while !self.to_give_up.borrow().is_empty() {
            self.give_up_one(&ways).await;
            io.sleep(Duration::from_millis(50)).await;
        }
        self.done.set(true);
    }

    /// Give up the first of the places in doubt; at the end of the list again if somebody did not answer.
    async fn give_up_one(&self, ways: &[ColdNode]) {
        let Some(place) = self.to_give_up.borrow().first().copied() else { return };
        *self.doing.borrow_mut() = format!("give up {place:?}");
        self.to_give_up.borrow_mut().remove(0);
        let (mut all, losses) = (true, self.nodes.losses.get());
        for (node, way) in ways.iter().enumerate() {
            if node + 1 == ways.len() {
                // From here on all three may have done so, heard or not.
                self.nodes.active.borrow_mut().retain(|active| active.whom != place.whom);
            }
            let done = self.give_up_at(way, &place).await;
            all &= done || self.nodes.is_excused(node, place.disk);
        }
        if !all || self.nodes.losses.get() != losses {
            self.to_give_up.borrow_mut().push(place);
        }
    }

    fn note_free(&self, io: &Io, place: &ColdPlace) {
        let key = (place.disk, place.file, place.file_generation, place.number);
        self.nodes.freed_at.borrow_mut().entry(key).or_insert(io.now());
    }

    /// The same place on all three.
    async fn agree(&self, io: &Io, ways: &[ColdNode], wanted: &ColdPlace, random: &mut Random) -> Agreed {
        let mut exact: Option<ColdPlace> = None;
        let first = random.below(ways.len() as u64) as usize;
        for _round in 0..6 {
            let mut answers = Vec::new();
            for step in 0..ways.len() {
                let node = (first + step) % ways.len();
                let place = exact.unwrap_or(*wanted);
                let request = ColdRequest::Reserve { place, exactly: exact.is_some() };
                let Ok(reply) = self.ask(io, &ways[node], &request).await else { return Agreed::No };
                let Answer::Cold(ColdAnswer::Reserved(kept, found)) = reply.answer() else {
                    return Agreed::No;
                };
                self.nodes.count("reserved");
                if found.whom != wanted.whom {
                    self.nodes.say(format!("{wanted:?} was answered with {found:?}"));
                }
                answers.push((node, kept, found));
                exact = exact.or(Some(found));
            }
            let highest = answers.iter().map(|(_, _, found)| (found.file, found.file_generation)).max();
            let of =
                answers.iter().filter(|(_, _, found)| Some((found.file, found.file_generation)) == highest);
            let (mut offset, mut number) = (0, 0);
            of.for_each(|(_, _, found)| {
                (offset, number) = (offset.max(found.offset), number.max(found.number))
            });
            let (file, file_generation) = highest.expect("there are three");
            let next = ColdPlace { file, file_generation, offset, number, ..*wanted };
            if answers.iter().all(|(_, kept, found)| *kept != ColdKept::Taken && *found == next) {
                return Agreed::Yes(next);
            }
            for (node, kept, found) in answers {
                if kept != ColdKept::Taken && found != next {
                    let freed = ways[node].ask(&ColdRequest::Free { place: found }).await;
                    if !matches!(
                        freed.as_ref().map(ColdReply::answer),
                        Ok(Answer::Cold(ColdAnswer::Freed(_)))
                    ) {
                        return Agreed::No;
                    }
                }
            }
            exact = Some(next);
        }
        Agreed::No
    }

    async fn sink(&self, io: &Io, ways: &[ColdNode], random: &mut Random) {
        let window = self.nodes.next.get();
        let mut made: Vec<Made> = (0..1 + random.below(3)).map(|_| self.nodes.made(random, window)).collect();
        made.sort_by_key(|made| made.whom.bucket);
        made.dedup_by_key(|made| made.whom.bucket);
        let content: u64 = made.iter().map(|made| made.section.bytes()).sum();
        if content > FILE_BYTES {
            return;
        }
        let wanted = ColdPlace {
            group: self.nodes.group,
            disk: random.below(u64::from(self.nodes.disk_count)) as u16,
            whom: made[0].whom,
            file: 0,
            file_generation: 0,
            offset: 0,
            content_bytes: content as u32,
            number: 0,
            section_count: made.len() as u32,
        };
        *self.doing.borrow_mut() = format!("agree on {wanted:?}");
        let Agreed::Yes(place) = self.agree(io, ways, &wanted, random).await else {
            return self.to_give_up.borrow_mut().push(wanted);
        };
        self.check_place(io, &place);
        self.nodes.active.borrow_mut().push(place);
        if random.chance(100_000) {
            return self.to_give_up.borrow_mut().push(place);
        }
        let (mut bytes, mut known) = (Vec::new(), Vec::new());
        for (number, made) in (place.number..).zip(&mut made) {
            let at = SectionPlace {
                group: place.group,
                disk: place.disk,
                file: place.file,
                file_generation: place.file_generation,
                offset: place.offset + bytes.len() as u32,
                number,
            };
            let own = made.section.at(at).to_vec();
            bytes.extend_from_slice(&own);
            let offset = at.offset;
            let content_bytes = own.len() as u32;
            known.push(Known {
                place: ColdPlace {
                    whom: made.whom,
                    offset,
                    content_bytes,
                    number,
                    section_count: 1,
                    ..place
                },
                bytes: Rc::new(own),
                stream: Rc::new(made.stream.clone()),
                records: Rc::new(made.records.clone()),
            });
        }
        let checksum = layout::checksum::long(&bytes);
        *self.doing.borrow_mut() = format!("write {place:?}");
        for way in ways {
            // Who does not answer is asked again a few times, over a new start of its process, too.
            let mut sealed = false;
            for _try in 0..4 {
                if self.write((io, way), (&place, &bytes), random).await
                    && matches!(
                        self.ask(io, way, &ColdRequest::Seal { place, checksum }).await.as_ref().map(ColdReply::answer),
                        Ok(Answer::Cold(ColdAnswer::Sealed(found))) if found == checksum
                    )
                {
                    sealed = true;
                    break;
                }
                if self.nodes.peace.get() {
                    break;
                }
                io.sleep(Duration::from_millis(random.below(500))).await;
            }
            if !sealed {
                return self.to_give_up.borrow_mut().push(place);
            }
            self.nodes.count("sealed");
        }
        self.nodes.known.borrow_mut().extend(known);
    }

    /// Nobody else has the place, and nothing in its file was freed a short while ago if the file begins anew.
    fn check_place(&self, io: &Io, place: &ColdPlace) {
        let overlaps = |other: &ColdPlace| {
            let apart = |a: &ColdPlace, b: &ColdPlace| {
                a.offset + a.content_bytes <= b.offset || a.number + a.section_count <= b.number
            };
            (other.disk, other.file) == (place.disk, place.file)
                && (other.file_generation != place.file_generation
                    || !(apart(other, place) || apart(place, other)))
        };
        if let Some(other) = self.nodes.active.borrow().iter().find(|other| overlaps(other)) {
            self.nodes.say(format!("{place:?} was given, and {other:?} still counts"));
        }
        // No disk can have freed a section before it was asked to.
        let of = |number| (place.disk, place.file, place.file_generation - 1, number);
        let freed_at = self.nodes.freed_at.borrow();
        let last = freed_at.range(of(0)..=of(u32::MAX)).map(|(_, at)| *at).max();
        if let Some(after) = last.map(|at| io.now().since(at)).filter(|after| *after < self.nodes.reuse_delay)
        {
            self.nodes.say(format!("{place:?} was given {after:?} after its file was freed"));
        }
    }

    async fn write(
        &self,
        (io, way): (&Io, &ColdNode),
        (place, bytes): (&ColdPlace, &[u8]),
        random: &mut Random,
    ) -> bool {
        let mut at = 0;
        while at < bytes.len() {
            let count = (4096usize << random.below(5)).min(bytes.len() - at);
            let piece = ColdRequest::Write { place: *place, at: at as u32, bytes: &bytes[at..at + count] };
            match self.ask(io, way, &piece).await.as_ref().map(ColdReply::answer) {
                Ok(Answer::Cold(ColdAnswer::Written)) => {}
                // It was sealed before, and nobody heard of it: the seal says so again.
                Ok(Answer::Not(Outcome::Moved)) => return true,
                _ => return false,
            }
            at += count;
        }
        true
    }

    async fn read(&self, io: &Io, ways: &[ColdNode], random: &mut Random) {
        let (known, is_freed) = {
            let known = self.nodes.known.borrow();
            let freed = self.nodes.freed.borrow();
            if known.is_empty() {
                return;
            }
            if !freed.is_empty() && random.chance(200_000) {
                (random.pick(&freed).clone(), true)
            } else {
                (random.pick(&known).clone(), false)
            }
        };
        *self.doing.borrow_mut() = format!("read {:?}", known.place);
        let node = random.below(ways.len() as u64) as usize;
        if random.chance(200_000) {
            return self.scan(&ways[node], &known, random).await;
        }
        if random.chance(200_000) {
            return self.read_stored(&ways[node], &known, is_freed, random).await;
        }
        let (time, version, value) = random.pick(&known.records).clone();
        let asked_at = io.now();
        let reply = self.nodes.get(&ways[node], &known, time).await;
        self.judge_time(io, (node, &known), asked_at, &reply);
        let Ok(reply) = reply else { return };
        self.nodes.count("got");
        match reply.answer() {
            Answer::Record { version: found, value: bytes, .. } if found.0 == version && *bytes == *value => {
            }
            Answer::Not(Outcome::Busy { .. } | Outcome::Timeout | Outcome::Corrupt) => {}
            Answer::Not(Outcome::Moved) if is_freed || self.is_freed(&known) => {}
            answer => self.nodes.say(format!("{:?} at {time} on node {}: {answer:?}", known.place, node + 1)),
        }
    }

    fn is_freed(&self, known: &Known) -> bool {
        !self.nodes.known.borrow().iter().any(|one| one.place == known.place)
    }

    async fn scan(&self, way: &ColdNode, known: &Known, random: &mut Random) {
        let blocks = self.nodes.all_blocks(known);
        let (one, two) = (random.pick(&known.records).0, random.pick(&known.records).0);
        let (from, to, backward) = (one.min(two), one.max(two), random.coin());
        let limit = random.below(5) as u32;
        let scan = ColdScan {
            blocks,
            space: SPACE,
            stream: &known.stream,
            from,
            to,
            backward,
            record_limit: limit,
            byte_limit: 0,
        };
        let Ok(reply) = way.ask(&ColdRequest::Scan(scan)).await else { return };
        self.nodes.count("scanned");
        let Answer::Records(page) = reply.answer() else { return };
        let mut expected: Vec<_> =
            known.records.iter().filter(|record| (from..=to).contains(&record.0)).collect();
        if backward {
            expected.reverse();
        }
        let found: Vec<_> = page.iter().collect();
        let is_right = found.iter().zip(&expected).all(|(found, (time, version, value))| {
            (found.time, found.version.0, found.value) == (*time, *version, value.as_slice())
        });
        let resume = expected.get(found.len()).map(|record| record.0);
        let is_full = limit == 0 || found.len() <= limit as usize;
        if !is_right || !is_full || found.is_empty() || page.resume != resume {
            let (from, count) = (scan.from, found.len());
            self.nodes.say(format!("{:?} from {from}: {count} records, then {:?}", known.place, page.resume));
        }
    }

    async fn free(&self, io: &Io, ways: &[ColdNode], random: &mut Random) {
        // As when a window expires: most of what is on a disk, so that files become empty.
        let count = 1 + random.below(8);
        for _ in 0..count {
            let known = {
                let mut all = self.nodes.known.borrow_mut();
                if all.is_empty() {
                    return;
                }
                let at = random.below(all.len() as u64) as usize;
                all.swap_remove(at)
            };
            *self.doing.borrow_mut() = format!("free {:?}", known.place);
            self.nodes.freed.borrow_mut().push(known.clone());
            let run = |active: &ColdPlace| {
                (active.disk, active.file, active.file_generation)
                    == (known.place.disk, known.place.file, known.place.file_generation)
                    && (active.number..active.number + active.section_count).contains(&known.place.number)
            };
            self.free_on_all(io, ways, &known.place, random).await;
            self.nodes.count("freed");
            let left = self.nodes.known.borrow().iter().any(|other| {
                let active = self.nodes.active.borrow();
                active.iter().any(|active| {
                    run(active) && {
                        (other.place.disk, other.place.file, other.place.file_generation)
                            == (active.disk, active.file, active.file_generation)
                            && (active.number..active.number + active.section_count)
                                .contains(&other.place.number)
                    }
                })
            });
            if !left {
                self.nodes.active.borrow_mut().retain(|active| !run(active));
            }
        }
    }

    /// What names another window, or nobody's place, is refused.
    async fn say_what_is_wrong(&self, ways: &[ColdNode], random: &mut Random) {
        let known = {
            let all = self.nodes.known.borrow();
            if all.is_empty() {
                return;
            }
            random.pick(&all).clone()
        };
        let node = random.below(ways.len() as u64) as usize;
        let way = &ways[node];
        let whom = KeptFor { window_generation: known.place.whom.window_generation + 1, ..known.place.whom };
        let forged = ColdPlace { whom, ..known.place };
        *self.doing.borrow_mut() = format!("forge {forged:?}");
        let request = match random.below(4) {
            0 => {
                let key = Key { space: SPACE, stream: &known.stream, time: known.records[0].0 };
                let mut encoded = Vec::new();
                encode_key(&mut encoded, known.place.whom.bucket, key);
                let blocks = self.nodes.blocks(&known, &encoded).expect("its index was kept");
                let blocks = ColdBlocks { window_generation: whom.window_generation, ..blocks };
                way.ask(&ColdRequest::Get { blocks, key }).await
            }
            1 => {
                let bytes = vec![0x66; 4096.min(forged.content_bytes as usize)];
                way.ask(&ColdRequest::Write { place: forged, at: 0, bytes: &bytes }).await
            }
            2 => self.read_forged(way, &known, random).await,
            _ => way.ask(&ColdRequest::Free { place: forged }).await,
        };
        self.nodes.count("refused");
        match request.as_ref().map(ColdReply::answer) {
            Err(_)
            | Ok(Answer::Not(Outcome::Busy { .. } | Outcome::Timeout | Outcome::Corrupt | Outcome::Moved)) => {
            }
            Ok(Answer::Cold(ColdAnswer::Freed(0))) => {}
            Ok(_) if self.nodes.is_excused(node, known.place.disk) && self.is_freed(&known) => {}
            Ok(answer) => self.nodes.say(format!("{forged:?} is nobody's, and was answered {answer:?}")),
        }
    }
}
