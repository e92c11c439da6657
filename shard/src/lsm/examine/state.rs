//! The state of the tablets: read as a start reads it, and compared with itself. Reads only.

use super::super::names::Names;
use super::super::open::{Ground, state_bytes, state_reader};
use super::super::zone::Zone;
use super::{Examined, Grade, fit};
use layout::tablet_state::{StateItem, TabletHead};
use layout::units::{DiskOffset, TabletIndex};

const PART: &str = "state";

/// Check the state that the manifest names, and keep what it says of the tablets.
pub(super) async fn examine(
    examined: &mut Examined,
    zone: &Zone,
    ground: &Ground,
    shard_count: u16,
    names: &Names,
) {
    let Some(state) = &names.state else {
        if !names.tables.is_empty() {
            examined.lose(PART, "there are tables, and no state to begin from".to_owned(), None);
        }
        return;
    };
    let at = zone.place(&state.ranges, 0).map(|(at, _)| DiskOffset(at));
    examined.coverage.bytes_in_use += state.bytes;
    if state.blob.0 >= names.next_table {
        let what = format!("its number is not below {}, the next one", names.next_table);
        examined.find(Grade::Damage, PART, what, at);
    }
    fit(examined, PART, zone, &state.ranges, state.bytes);
    let bytes = match state_bytes(zone, state).await {
        Ok(bytes) => bytes,
        Err(error) => return examined.lose(PART, error, at),
    };
    examined.coverage.bytes_read += state.bytes;
    let mut reader = state_reader(ground.owner, state);
    let mut input = &bytes[..];
    let mut heads: Vec<TabletHead> = Vec::new();
    loop {
        let from = reader.at();
        let place = zone.place(&state.ranges, from).map(|(at, _)| DiskOffset(at));
        match reader.next(&mut input) {
            Ok(Some(StateItem::End { checksum })) if checksum == state.checksum => break,
            Ok(Some(StateItem::End { checksum })) => {
                let what = format!(
                    "checksum: expected {:032x} by the manifest, found {checksum:032x}",
                    state.checksum
                );
                return examined.lose(PART, what, place);
            }
            Ok(Some(StateItem::Tablet(head))) => heads.push(head),
            Ok(Some(item)) => {
                if let Some(what) = heads.last().and_then(|head| disagreement(head, &item)) {
                    examined.find(Grade::Damage, PART, what, place);
                }
            }
            Ok(None) => return examined.lose(PART, format!("it ends at byte {from}"), place),
            Err(corrupt) => {
                let place = zone.place(&state.ranges, corrupt.at).map(|(at, _)| DiskOffset(at));
                return examined.lose(PART, corrupt.to_string(), place);
            }
        }
    }
    let own = |tablet: TabletIndex| tablet.shard(shard_count) == ground.owner.shard;
    let missing =
        TabletIndex::all().filter(|tablet| own(*tablet) && heads.iter().all(|head| head.tablet != *tablet));
    for tablet in missing {
        examined.find(Grade::Damage, PART, format!("it says nothing of tablet {tablet}"), at);
    }
    if let Some(head) = heads.iter().find(|head| !own(head.tablet)) {
        return examined.lose(PART, format!("it holds tablet {}, which is another core's", head.tablet), at);
    }
    for head in heads.iter().filter(|head| head.recent_newest > head.applied) {
        let (tablet, newest, applied) = (head.tablet, head.recent_newest, head.applied);
        let what = format!("tablet {tablet} has seen index {newest} written, and applied {applied}");
        examined.find(Grade::Damage, PART, what, at);
    }
    examined.tablets = heads;
}

/// What a request id or a recent key says that its tablet cannot have seen.
fn disagreement(head: &TabletHead, item: &StateItem) -> Option<String> {
    let tablet = head.tablet;
    match item {
        StateItem::Request(request) if request.version.0 >> 16 > head.applied.0 => Some(format!(
            "request {} of tablet {tablet} got version {}, and {} is applied",
            request.id, request.version, head.applied
        )),
        StateItem::Request(request) if request.log_time > head.log_time => Some(format!(
            "request {} of tablet {tablet} is of log time {}, and the tablet of {}",
            request.id, request.log_time, head.log_time
        )),
        StateItem::Recent(recent) if recent.log_index > head.recent_newest => Some(format!(
            "a key of tablet {tablet} was written at {}, and the newest at {}",
            recent.log_index, head.recent_newest
        )),
        _ => None,
    }
}
