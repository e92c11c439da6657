//! What has expired of tables: how much, as far as their footers say, and sealed tables of which nothing is left. Those go
//! by one edit, and nothing is copied.
//!
//! Must never drop a table while a record of it can still be seen, or hides an older one: a sealed table is the oldest of
//! its window, so what has expired in it hides nothing.

use super::build::BuildError;
use super::room::Purpose;
use super::table::Table;
use crate::core::Shard;
use layout::manifest::Edit;
use layout::table_footer::Footer;
use layout::units::{LogTime, TabletIndex};
use std::rc::Rc;

/// Records of a table that have expired: exact once all have that ever will, before that as if they went evenly.
pub(super) fn expired_count(footer: &Footer, log_time: LogTime) -> u64 {
    let Footer { expiring_count: count, expiry_min: first, expiry_max: last, .. } = *footer;
    if log_time.has_expired(last) {
        return count;
    }
    let (passed, span) = (log_time.0.saturating_sub(first), last.saturating_sub(first).max(1));
    u64::try_from(u128::from(count) * u128::from(passed) / u128::from(span)).unwrap_or(0).min(count)
}

/// Nothing of it can be seen any more.
fn is_over(table: &Table, log_time: LogTime) -> bool {
    let footer = &table.parts().footer;
    if ioengine::canary("drop_window_early") {
        return log_time.has_expired(footer.expiry_min);
    }
    footer.expiring_count == footer.record_count && log_time.has_expired(footer.expiry_max)
}

/// Log time from which nothing of a sealed table can be seen; 0 = never.
pub(super) fn over_at(table: &Table) -> u64 {
    let footer = &table.parts().footer;
    if footer.expiring_count == footer.record_count { footer.expiry_max } else { 0 }
}

/// The sealed tables of a tablet of which nothing is left.
pub(super) fn pick_expired(windows: &[Rc<Table>], log_time: LogTime) -> Option<Vec<Rc<Table>>> {
    let over: Vec<_> = windows.iter().filter(|table| is_over(table, log_time)).cloned().collect();
    (!over.is_empty()).then_some(over)
}

/// Drop sealed tables.
pub(super) async fn drop_expired(
    shard: &Shard,
    tablet: TabletIndex,
    over: &[Rc<Table>],
) -> Result<(), BuildError> {
    let edits: Vec<Edit<'_>> = over.iter().map(|table| Edit::RemoveTable(table.place.id)).collect();
    crate::log::until_told(shard, tablet).await;
    shard.keeper.commit(&edits, Purpose::Merge).await?;
    ioengine::sometimes!("expired windows are dropped");
    shard.state.borrow_mut().tables.seal(tablet, (&[], over), (None, Vec::new()));
    over.iter().for_each(|table| table.set_named(false));
    Ok(())
}
