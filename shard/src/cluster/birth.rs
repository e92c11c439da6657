//! The first start of a disk that took another one's place: it asks the other nodes how far the former one's starts had come, and takes
//! an incarnation above.
//!
//! Must never end with less than the answers of a majority's number of others, or of all whom an operator has not given up: with
//! fewer the disk could not return to voting anyway. Nothing of the node runs meanwhile.

use super::Group;
use super::links::greeting;
use crate::format::introduction;
use ioengine::Io;
use layout::superblock::Superblock;
use layout::units::Incarnation;
use net::frame::{BODY_BYTES_MAX, PROTOCOL_VERSION};
use net::peer::{PeerHello, PeerVersions, Refusal};
use std::time::Duration;

/// How far above all that is known: nobody starts that often without a word to one of those asked.
const STEP: u32 = 1 << 16;
/// Longest time for one question.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// How long to wait before those are asked again who did not answer.
const AGAIN: Duration = Duration::from_millis(200);

/// The incarnation to be born with.
///
/// # Errors
/// There is no other node to ask, `is_over` said so meanwhile, or the numbers are used up.
pub(crate) async fn birth(
    io: &Io,
    group: &Group,
    superblock: &Superblock,
    is_over: impl Fn() -> bool,
) -> Result<Incarnation, String> {
    let peers = group.peers();
    let map = group.map().filter(|_| !peers.is_empty()).ok_or(
        "its disk was formatted to take another one's place in a group, and there is no other node to take it from: \
         name the group's nodes in `cluster.nodes`, or format it for a group of its own",
    )?;
    let members = peers.len() + 1;
    let needed = (members / 2 + 1).min(group.peers_left());
    let mut highest = vec![None; peers.len()];
    let mut told = 0;
    loop {
        for (peer, highest) in peers.iter().zip(&mut highest) {
            let hello = PeerHello {
                protocol: PROTOCOL_VERSION,
                shard_count: superblock.shard_count,
                node: superblock.node,
                to: peer.node,
                map_epoch: map.epoch,
                frame_bytes: BODY_BYTES_MAX,
                // Nothing but the hello is said.
                versions: PeerVersions::FIRST,
                cluster: superblock.cluster,
                introduction: introduction(superblock),
            };
            let answer = io.timeout(ANSWER_DEADLINE, greeting(io, peer.address, &hello)).await;
            let Ok(Ok((_, reply))) = answer else { continue };
            match reply.refusal {
                Some(Refusal::Unborn) => *highest = Some(reply.known),
                refusal => {
                    tracing::warn!(node = peer.node, ?refusal, "asked how far this node's starts had come")
                }
            }
        }
        let count = highest.iter().flatten().count();
        if count >= needed {
            let highest = highest.into_iter().flatten().max().unwrap_or(superblock.incarnation);
            tracing::info!(highest = highest.0, count, "the disk takes the place of another one");
            let birth = highest.0.max(superblock.incarnation.0).checked_add(STEP);
            return birth.map(Incarnation).ok_or("all incarnations of this node are used up".to_owned());
        }
        if told != count + 1 {
            told = count + 1;
            tracing::info!(
                count,
                needed,
                "the disk takes the place of another one: waiting for the other nodes"
            );
        }
        if is_over() {
            return Err("the start was ended while it waited for the other nodes of the group".to_owned());
        }
        io.sleep(AGAIN).await;
    }
}
