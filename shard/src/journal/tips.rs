//! Tips: the last log index of each tablet, carried by open and mark records. With them a replay can tell which
//! tablets lost an entry in a record that is missing, and which did not.
//!
//! ```text
//! | tablet u8 | log index u64 |, once per tablet of the shard, in order of tablets
//! ```

use layout::Corrupt;
use layout::units::{LogIndex, TabletIndex};

/// Bytes of one tip.
pub const TIP_BYTES: usize = 9;

/// Append the body of an open or mark record.
pub fn encode_tips(tips: &[(TabletIndex, LogIndex)], out: &mut Vec<u8>) {
    for (tablet, index) in tips {
        out.push(tablet.get());
        out.extend_from_slice(&index.0.to_le_bytes());
    }
}

/// Read the body of an open or mark record.
///
/// # Errors
/// [`Corrupt`] when it is not whole tips in order of tablets.
pub fn decode_tips(body: &[u8]) -> Result<Vec<(TabletIndex, LogIndex)>, Corrupt> {
    let wrong = |field, at: usize| Corrupt { structure: "tips", field, at: at as u64 };
    let (tips, rest) = body.as_chunks::<TIP_BYTES>();
    if !rest.is_empty() {
        return Err(wrong("length", body.len()));
    }
    let mut out: Vec<(TabletIndex, LogIndex)> = Vec::with_capacity(tips.len());
    for (number, tip) in tips.iter().enumerate() {
        let at = number * TIP_BYTES;
        let tablet = TabletIndex::new(tip[0]).ok_or_else(|| wrong("tablet", at))?;
        if out.last().is_some_and(|(last, _)| *last >= tablet) {
            return Err(wrong("tablet", at));
        }
        let index = u64::from_le_bytes(tip[1..].try_into().expect("8 bytes"));
        out.push((tablet, LogIndex(index)));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tips_come_back_and_damaged_ones_do_not() {
        let tips: Vec<_> =
            TabletIndex::all().step_by(3).map(|t| (t, LogIndex(u64::from(t.get()) * 7))).collect();
        let mut body = Vec::new();
        encode_tips(&tips, &mut body);
        assert_eq!(decode_tips(&body).unwrap(), tips);
        assert_eq!(decode_tips(&body[..body.len() - 1]).unwrap_err().field, "length");
        body[TIP_BYTES] = body[0];
        assert_eq!(decode_tips(&body).unwrap_err().field, "tablet");
        body[TIP_BYTES] = 64;
        assert_eq!(decode_tips(&body).unwrap_err().field, "tablet");
    }
}
