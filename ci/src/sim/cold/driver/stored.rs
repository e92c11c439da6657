//! Blocks of a section as they are stored: asked for in runs, and compared with the bytes that were written.
//!
//! Must never take an answer of other bytes for a missing one: who merges what is sunk would write them again. Invariant: what is shown
//! is byte by byte what was sealed, also of a section that is freed meanwhile.

use super::{Driver, Known, Nodes};
use ioengine::sim::Random;
use layout::cold_section::SECTION_HEADER_BYTES;
use layout::table_index::BlockHandle;
use net::client::{ClientError, ColdNode, ColdReply};
use net::cold::{ColdAnswer, ColdBlocks, ColdRequest};
use net::outcome::Outcome;
use net::reply::Answer;

impl Known {
    /// All of it, as it was written.
    pub(in crate::sim::cold) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written where these blocks are.
    fn written(&self, blocks: &ColdBlocks) -> &[u8] {
        let from = SECTION_HEADER_BYTES + blocks.block_offset as usize;
        &self.bytes[from..from + blocks.block_bytes as usize]
    }
}

impl Nodes {
    /// All blocks of a section.
    pub(super) fn all_blocks(&self, known: &Known) -> ColdBlocks {
        let (header, _) = self.index(known).expect("its index was kept");
        let first = self.blocks(known, &[]).expect("its index was kept");
        ColdBlocks { block_offset: 0, block_bytes: header.data_bytes, ..first }
    }

    /// Some blocks of a section, back to back.
    pub(super) fn some_blocks(&self, known: &Known, random: &mut Random) -> ColdBlocks {
        let (_, index) = self.index(known).expect("its index was kept");
        let count = u64::from(index.block_count());
        let first = random.below(count);
        let last = first + random.below(count - first);
        let handle = |number: u64| index.handle(number as u32).expect("a block of the index");
        let (BlockHandle { offset, .. }, last) = (handle(first), handle(last));
        let (block_offset, block_bytes) = (offset as u32, (last.end() - offset) as u32);
        ColdBlocks { block_offset, block_bytes, ..self.all_blocks(known) }
    }

    /// The index of a section, at peace: what is wrong with the answer.
    pub(in crate::sim::cold) async fn wrong_index(&self, way: &ColdNode, known: &Known) -> Option<String> {
        let section = ColdBlocks { block_bytes: 0, ..self.all_blocks(known) };
        let (header, _) = self.index(known).expect("its index was kept");
        let reply = match way.ask(&ColdRequest::Index { section }).await {
            Ok(reply) => reply,
            Err(error) => return Some(format!("{section:?} is not answered at peace: {error}")),
        };
        match reply.answer() {
            Answer::Cold(ColdAnswer::Index(found))
                if (found.number, found.digest, found.data_bytes)
                    == (header.place.number, header.digest, header.data_bytes) =>
            {
                None
            }
            answer => Some(format!("index of {section:?} is {answer:?}")),
        }
    }

    /// All blocks of a section, at peace: what is wrong with the answer.
    pub(in crate::sim::cold) async fn wrong_stored(&self, way: &ColdNode, known: &Known) -> Option<String> {
        let blocks = self.all_blocks(known);
        let reply = match way.ask(&ColdRequest::Read { blocks }).await {
            Ok(reply) => reply,
            Err(error) => return Some(format!("{blocks:?} is not answered at peace: {error}")),
        };
        match reply.answer() {
            Answer::Cold(ColdAnswer::Read(bytes)) if bytes == known.written(&blocks) => None,
            Answer::Cold(ColdAnswer::Read(_)) => Some(format!("{blocks:?} is shown with other bytes")),
            answer => Some(format!("{blocks:?} is {answer:?}")),
        }
    }
}

impl Driver {
    pub(super) async fn read_stored(
        &self,
        way: &ColdNode,
        known: &Known,
        is_freed: bool,
        random: &mut Random,
    ) {
        let blocks = self.nodes.some_blocks(known, random);
        let Ok(reply) = way.ask(&ColdRequest::Read { blocks }).await else { return };
        self.nodes.count("read as stored");
        match reply.answer() {
            Answer::Cold(ColdAnswer::Read(bytes)) if bytes == known.written(&blocks) => {}
            Answer::Cold(ColdAnswer::Read(_)) => {
                self.nodes.say(format!("{blocks:?} is shown by {} with other bytes", way.address()));
            }
            Answer::Not(Outcome::Busy { .. } | Outcome::Timeout | Outcome::Corrupt) => {}
            Answer::Not(Outcome::Moved) if is_freed || self.is_freed(known) => {}
            answer => self.nodes.say(format!("{blocks:?} at {}: {answer:?}", way.address())),
        }
    }

    /// Blocks by the name of another window, or that begin within one.
    pub(super) async fn read_forged(
        &self,
        way: &ColdNode,
        known: &Known,
        random: &mut Random,
    ) -> Result<ColdReply, ClientError> {
        let right = self.nodes.some_blocks(known, random);
        let blocks = if random.coin() {
            ColdBlocks { window_generation: right.window_generation + 1, ..right }
        } else {
            ColdBlocks { block_offset: right.block_offset + 1, ..right }
        };
        way.ask(&ColdRequest::Read { blocks }).await
    }
}
