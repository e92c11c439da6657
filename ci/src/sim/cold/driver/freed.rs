//! What a client gives up or frees, on all three, over the loss of a disk, too.
//!
//! Must never take the word of a disk that was lost since for that of the new one. Invariant: what is freed was said to be so by all three with no loss
//! meanwhile.

use super::Driver;
use ioengine::Io;
use ioengine::sim::Random;
use net::client::{ColdNode, ColdReply};
use net::cold::*;
use net::outcome::Outcome;
use net::reply::Answer;
use std::time::Duration;

impl Driver {
    /// Whatever a node keeps for somebody, it shall not.
    pub(super) async fn give_up_at(&self, way: &ColdNode, place: &ColdPlace) -> bool {
        // A disk that was lost has forgotten whom it kept a place for, and holds again what the others did.
        if self.nodes.loses.get() && place.is_named() {
            let freed = way.ask(&ColdRequest::Free { place: *place }).await;
            let said = freed.as_ref().map(ColdReply::answer);
            if !matches!(said, Ok(Answer::Cold(ColdAnswer::Freed(_)) | Answer::Not(Outcome::Moved))) {
                return false;
            }
        }
        let bare = ColdPlace { file: 0, file_generation: 0, offset: 0, number: 0, ..*place };
        let reply = way.ask(&ColdRequest::Reserve { place: bare, exactly: false }).await;
        let found = match reply.as_ref().map(ColdReply::answer) {
            Ok(Answer::Cold(ColdAnswer::Reserved(_, found))) => found,
            // There is no room for anything, so nothing is kept for these: it would have been found first.
            Ok(Answer::Not(Outcome::Busy { limit: net::Limit::Space | net::Limit::Tables, .. })) => {
                return true;
            }
            _ => return false,
        };
        let freed = way.ask(&ColdRequest::Free { place: found }).await;
        matches!(freed.as_ref().map(ColdReply::answer), Ok(Answer::Cold(ColdAnswer::Freed(_))))
    }

    /// Ask all three to free a section until each has said that it is; again if a disk was lost meanwhile.
    pub(super) async fn free_on_all(
        &self,
        io: &Io,
        ways: &[ColdNode],
        place: &ColdPlace,
        random: &mut Random,
    ) {
        let mut is_again = false;
        loop {
            let losses = self.nodes.losses.get();
            for (node, way) in ways.iter().enumerate() {
                loop {
                    self.note_free(io, place);
                    let freed = way.ask(&ColdRequest::Free { place: *place }).await;
                    let said = freed.as_ref().map(ColdReply::answer);
                    if matches!(said, Ok(Answer::Cold(ColdAnswer::Freed(_)))) {
                        break;
                    }
                    // Something else may stand there by now.
                    if is_again && matches!(said, Ok(Answer::Not(Outcome::Moved))) {
                        break;
                    }
                    if self.nodes.is_excused(node, place.disk) {
                        break;
                    }
                    self.settles.set(self.nodes.peace.get());
                    *self.doing.borrow_mut() = format!("free {place:?} at {node}: {said:?}");
                    io.sleep(Duration::from_millis(20 + random.below(100))).await;
                }
            }
            if self.nodes.losses.get() == losses {
                return;
            }
            is_again = true;
        }
    }
}
