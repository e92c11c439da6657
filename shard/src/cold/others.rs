//! The two other machines of the group, as one core sees them: what stands on their disks at the same places.
//!
//! Must never hand on what it has not proven. Invariant: a section that comes from here has the identity and the place that were asked for, and
//! every byte of it is bound to both by a checksum.

use super::agreed::Agreed;
use super::proven::Proven;
use ioengine::Io;
use layout::cold_disk::ColdGeometry;
use layout::cold_kept::KeptFor;
use layout::cold_section::{SECTION_HEADER_BYTES, SectionHeader, open_section_index};
use layout::table_seal::Decompressor;
use layout::units::{BLOCK_BYTES, Uuid};
use net::client::{CONNECTION_ARENA_BYTES, ClientConfig, ColdNode, ColdReply};
use net::cold::{
    COLD_READ_BYTES_MAX, ColdAnswer, ColdBlocks, ColdCopyOf, ColdFilesOf, ColdKept, ColdPlace, ColdRequest,
    read_reply_bytes,
};
use net::outcome::Outcome;
use net::reply::Answer;
use std::net::SocketAddr;
use std::time::Duration;

/// How long another machine may take: it may read a part of a file for it.
const WAIT: Duration = Duration::from_secs(10);
/// How long it may take to hand out bytes of a file.
const COPY_WAIT: Duration = Duration::from_secs(5);
/// How long one that is gone is left alone, at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the ways to them take of a core's arena.
pub(super) const ARENA_BYTES: usize = 2 * CONNECTION_ARENA_BYTES;

/// Why a section was not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotGiven {
    #[error("{0} does not answer: {1}")]
    Silent(SocketAddr, String),
    #[error("{0} answers {1}")]
    Refused(SocketAddr, String),
    #[error("what {0} gives is not that section: {1}")]
    Unproven(SocketAddr, String),
}

/// A section as its links name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    /// Which, and where; without blocks.
    pub(super) blocks: ColdBlocks,
    pub(super) number: u32,
    pub(super) bytes: u32,
}

impl Named {
    fn of(place: &ColdPlace) -> Named {
        let blocks = ColdBlocks {
            group: place.group,
            disk: place.disk,
            bucket: place.whom.bucket,
            window_from: place.whom.window_from,
            window_days: place.whom.window_days,
            window_generation: place.whom.window_generation,
            file: place.file,
            file_generation: place.file_generation,
            offset: place.offset,
            block_offset: 0,
            block_bytes: 0,
        };
        Named { blocks, number: place.number, bytes: place.content_bytes }
    }

    pub(super) fn of_header(header: &SectionHeader) -> Named {
        let (of, at) = (&header.identity, &header.place);
        let blocks = ColdBlocks {
            group: at.group,
            disk: at.disk,
            bucket: of.bucket,
            window_from: of.window_from,
            window_days: of.window_days,
            window_generation: of.window_generation,
            file: at.file,
            file_generation: at.file_generation,
            offset: at.offset,
            block_offset: 0,
            block_bytes: 0,
        };
        Named { blocks, number: at.number, bytes: u32::try_from(header.bytes()).unwrap_or(u32::MAX) }
    }

    /// Is it of the window and the bucket that somebody names?
    pub(super) fn is_of(&self, whom: &KeptFor) -> bool {
        let of = &self.blocks;
        (of.bucket, of.window_from, of.window_days, of.window_generation)
            == (whom.bucket, whom.window_from, whom.window_days, whom.window_generation)
    }

    pub(super) fn range(&self) -> std::ops::Range<u64> {
        let from = u64::from(self.blocks.offset);
        from..from + u64::from(self.bytes)
    }
}

/// What a machine says of files.
pub(super) struct FilesSaid {
    /// Where its next page begins.
    pub(super) more: Option<u32>,
    /// Its disk has taken another's place, and does not hold yet what it should.
    pub(super) is_filling: bool,
    pub(super) items: Vec<(u32, Agreed)>,
}

/// Ways to the two others. Never leaves its core.
pub(super) struct Others {
    io: Io,
    nodes: Vec<ColdNode>,
    cluster: Uuid,
    /// Bytes of blocks that a reply has room for.
    piece_bytes: u32,
}

impl Others {
    pub(super) fn new(io: &Io, addresses: &[SocketAddr], cluster: Uuid, frame_bytes: u32) -> Others {
        let config = ClientConfig {
            deadline: WAIT,
            patience: PATIENCE,
            frame_bytes,
            cluster,
            ..ClientConfig::default()
        };
        let nodes = addresses.iter().map(|address| ColdNode::new(io, *address, &config)).collect();
        let piece_bytes = COLD_READ_BYTES_MAX.min(frame_bytes - read_reply_bytes(0) as u32);
        Others { io: io.clone(), nodes, cluster, piece_bytes }
    }

    /// How many there are: two, or none that anybody has named.
    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// All of them, in an order drawn anew.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        if order.len() > 1 && self.io.random().is_multiple_of(2) {
            order.reverse();
        }
        order
    }

    /// Bytes of a file that are asked for at once: whole blocks.
    pub(super) fn copy_bytes(&self) -> u32 {
        self.piece_bytes / BLOCK_BYTES as u32 * BLOCK_BYTES as u32
    }

    /// What one of them says of files. Of a disk that is cut otherwise nothing is believed.
    ///
    /// # Errors
    /// [`NotGiven`].
    pub(super) async fn files(
        &self,
        node: usize,
        of: &ColdFilesOf,
        geometry: &ColdGeometry,
    ) -> Result<FilesSaid, NotGiven> {
        let reply = self.ask(node, &ColdRequest::Files(*of)).await?;
        let Answer::Cold(ColdAnswer::Files(files)) = reply.answer() else {
            return Err(self.refused(node, &reply));
        };
        let cut = (files.head.file_count, u64::from(files.head.file_bytes));
        if cut != (geometry.file_count, geometry.file_bytes) {
            let text = format!(
                "its disk has {} files of {} bytes, and this one {} of {}: format this one with as many of that size",
                cut.0, cut.1, geometry.file_count, geometry.file_bytes
            );
            return Err(NotGiven::Unproven(self.nodes[node].address(), text));
        }
        let items = files.iter().map(|item| (item.file, Agreed::of(&item))).collect();
        Ok(FilesSaid { more: files.head.more, is_filling: files.head.is_filling, items })
    }

    /// Bytes of a file as they stand on one of them.
    ///
    /// # Errors
    /// [`NotGiven`], and its outcome if it has answered.
    pub(super) async fn copy(
        &self,
        node: usize,
        of: &ColdCopyOf,
    ) -> Result<ColdReply, (NotGiven, Option<Outcome>)> {
        let way = &self.nodes[node];
        let reply = way.ask_within(&ColdRequest::Copy(*of), COPY_WAIT).await;
        let reply = reply.map_err(|error| (NotGiven::Silent(way.address(), error.to_string()), None))?;
        match reply.answer() {
            Answer::Cold(ColdAnswer::Copied(bytes)) if bytes.len() == of.bytes as usize => Ok(reply),
            Answer::Not(outcome) => Err((self.refused(node, &reply), Some(outcome))),
            _ => Err((self.refused(node, &reply), None)),
        }
    }

    async fn ask(&self, node: usize, request: &ColdRequest<'_>) -> Result<ColdReply, NotGiven> {
        let way = &self.nodes[node];
        way.ask(request).await.map_err(|error| NotGiven::Silent(way.address(), error.to_string()))
    }

    fn refused(&self, node: usize, reply: &ColdReply) -> NotGiven {
        let text = match reply.answer() {
            Answer::Not(outcome) => format!("{outcome:?}"),
            _ => "something else".to_owned(),
        };
        NotGiven::Refused(self.nodes[node].address(), text)
    }

    /// The section that one of them holds in a place.
    ///
    /// # Errors
    /// [`NotGiven`].
    pub(super) async fn section(&self, node: usize, named: &Named) -> Result<Proven, NotGiven> {
        let address = self.nodes[node].address();
        let unproven = |what: &dyn std::fmt::Display| NotGiven::Unproven(address, what.to_string());
        let reply = self.ask(node, &ColdRequest::Index { section: named.blocks }).await?;
        let Answer::Cold(ColdAnswer::Index(found)) = reply.answer() else {
            return Err(self.refused(node, &reply));
        };
        let of = &named.blocks;
        let header = SectionHeader {
            identity: layout::cold_section::SectionIdentity {
                cluster: self.cluster,
                bucket: of.bucket,
                window_from: of.window_from,
                window_days: of.window_days,
                window_generation: of.window_generation,
            },
            place: layout::cold_section::SectionPlace {
                group: of.group,
                disk: of.disk,
                file: of.file,
                file_generation: of.file_generation,
                offset: of.offset,
                number: found.number,
            },
            record_count: found.record_count,
            data_bytes: found.data_bytes,
            index_bytes: found.index.len() as u32,
            digest: found.digest,
        };
        if (found.number, header.bytes()) != (named.number, u64::from(named.bytes)) {
            return Err(unproven(&"another number, or another length"));
        }
        let checksum = header.identity.checksum();
        let index = open_section_index(&checksum, &header, found.index, &mut Decompressor::new())
            .map_err(|corrupt| unproven(&corrupt))?;
        let mut bytes = vec![0; SECTION_HEADER_BYTES];
        let mut first = 0;
        while first < index.block_count() {
            let from = index.handle(first).map_or(0, |handle| handle.offset);
            let mut end = from;
            while let Some(handle) = index.handle(first)
                && (end == from || handle.end() - from <= u64::from(self.piece_bytes))
            {
                (end, first) = (handle.end(), first + 1);
            }
            let piece =
                ColdBlocks { block_offset: from as u32, block_bytes: (end - from) as u32, ..named.blocks };
            let reply = self.ask(node, &ColdRequest::Read { blocks: piece }).await?;
            match reply.answer() {
                Answer::Cold(ColdAnswer::Read(blocks)) => bytes.extend_from_slice(blocks),
                _ => return Err(self.refused(node, &reply)),
            }
        }
        bytes.extend_from_slice(found.index);
        Proven::of(header, bytes).map_err(|corrupt| unproven(&corrupt))
    }

    /// The section that one of them says begins at this byte of a file in this generation; `None`: none that counts there.
    ///
    /// # Errors
    /// [`NotGiven`].
    pub(super) async fn named_at(
        &self,
        node: usize,
        (group, disk): (u16, u16),
        (file, generation, offset): (u32, u32, u32),
    ) -> Result<Option<Named>, NotGiven> {
        // The first page of all begins with what is reserved.
        let limit = u32::from((file, offset) != (0, 0));
        let reply = self.ask(node, &ColdRequest::List { group, disk, file, offset, limit }).await?;
        let Answer::Cold(ColdAnswer::Listed(list)) = reply.answer() else {
            return Err(self.refused(node, &reply));
        };
        let found = list.iter().find(|(kept, place)| {
            *kept == ColdKept::Sealed
                && (place.file, place.file_generation, place.offset) == (file, generation, offset)
        });
        Ok(found.map(|(_, place)| Named::of(&place)))
    }

    /// All sections that one of them holds in a file.
    ///
    /// # Errors
    /// [`NotGiven`].
    pub(super) async fn file(
        &self,
        node: usize,
        (group, disk): (u16, u16),
        file: u32,
    ) -> Result<Vec<Named>, NotGiven> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let reply = self.ask(node, &ColdRequest::List { group, disk, file, offset, limit: 0 }).await?;
            let Answer::Cold(ColdAnswer::Listed(list)) = reply.answer() else {
                return Err(self.refused(node, &reply));
            };
            let here = list.iter().filter(|(kept, place)| *kept == ColdKept::Sealed && place.file == file);
            all.extend(here.map(|(_, place)| Named::of(&place)));
            match list.more {
                Some((next, more)) if next == file => offset = more,
                _ => return Ok(all),
            }
        }
    }
}
