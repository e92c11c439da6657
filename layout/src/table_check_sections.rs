//! Whether the list of sections of a table is that of its records: each bucket, where it begins, how much it has, its digest.
//!
//! Owns the comparison for [`crate::table_check`], which brings the records in order. Must never blame a section for records
//! that could not be read. Invariant: each section of the list and each bucket of the records is looked at once.

use crate::table::BlockEntry;
use crate::table_check::Disagreement;
use crate::table_sections::{Section, SectionSum, Sections, bucket_of_key};
use crate::units::BucketIndex;

/// Records of one bucket, as they come.
struct Open {
    bucket: BucketIndex,
    begin: (u32, u32),
    sum: SectionSum,
    /// Some of it could not be read.
    partial: bool,
}

/// Takes the records of a table in order.
pub(crate) struct SectionsCheck {
    /// Those not compared yet, the next one last.
    left: Vec<Section>,
    /// Where the list stands.
    at: u64,
    open: Option<Open>,
    /// A block was left out, and no record was seen since.
    gap: bool,
    /// A block was left out at some place.
    any_gap: bool,
    found: Vec<Disagreement>,
}

fn text(section: &Section) -> String {
    let Section { bucket, block, place, record_count, raw_bytes, digest } = section;
    format!(
        "bucket {bucket} from block {block} place {place}: {record_count} records, {raw_bytes} bytes, {digest:032x}"
    )
}

impl SectionsCheck {
    pub(crate) fn new(sections: &Sections, at: u64) -> SectionsCheck {
        let mut left: Vec<Section> = sections.iter().collect();
        left.reverse();
        SectionsCheck { left, at, open: None, gap: false, any_gap: false, found: Vec::new() }
    }

    /// The next block is left out.
    pub(crate) fn gap(&mut self) {
        self.gap = true;
        self.any_gap = true;
        if let Some(open) = &mut self.open {
            open.partial = true;
        }
    }

    /// The next record, in this place of this block.
    pub(crate) fn record(&mut self, begin: (u32, u32), entry: &BlockEntry<'_>) {
        let Some(bucket) = bucket_of_key(entry.key) else { return self.gap() };
        if self.open.as_ref().is_none_or(|open| open.bucket != bucket) {
            self.close();
            self.open = Some(Open { bucket, begin, sum: SectionSum::new(), partial: self.gap });
        }
        self.gap = false;
        let record = &entry.record;
        if let Some(open) = &mut self.open {
            open.sum.add(entry.key, record.version, record.expiry_us, record.value);
        }
    }

    fn wrong(&mut self, expected: String, found: String) {
        self.found.push(Disagreement { at: self.at, what: "section", expected, found });
    }

    /// The records of the open bucket have ended.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        while let Some(missed) = self.left.pop_if(|section| section.bucket < open.bucket) {
            // Its records may lie in what was left out.
            if !self.any_gap {
                self.wrong(text(&missed), "no record of this bucket".to_string());
            }
        }
        let (record_count, raw_bytes, digest) = open.sum.finish();
        let (bucket, (block, place)) = (open.bucket, open.begin);
        let is = Section { bucket, block, place, record_count, raw_bytes, digest };
        match self.left.pop_if(|section| section.bucket == bucket) {
            None => self.wrong(format!("no records of bucket {bucket}"), text(&is)),
            Some(said) if said != is && !open.partial => self.wrong(text(&said), text(&is)),
            Some(_) => {}
        }
    }

    /// All records were brought.
    pub(crate) fn finish(mut self) -> Vec<Disagreement> {
        self.close();
        while let Some(missed) = self.left.pop().filter(|_| !self.any_gap) {
            self.wrong(text(&missed), "no record of this bucket".to_string());
        }
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Record;
    use crate::table_sections::SectionsBuilder;
    use crate::units::Version;

    /// Bucket, block, place, version.
    type Kept = (u32, u32, u32, u64);

    const RECORDS: [Kept; 6] =
        [(1, 0, 0, 5), (1, 0, 1, 6), (2, 0, 2, 7), (2, 1, 0, 8), (4, 1, 1, 9), (6, 2, 0, 9)];

    fn key(kept: &Kept) -> Vec<u8> {
        [&kept.0.to_be_bytes()[1..], b"stream", &kept.1.to_be_bytes(), &kept.2.to_be_bytes()].concat()
    }

    fn sections(records: &[Kept]) -> Sections {
        let mut builder = SectionsBuilder::default();
        for kept in records {
            builder.push((kept.1, kept.2), &key(kept), (Version(kept.3), 0, Some(b"value")));
        }
        Sections::decode(builder.finish(), 9, records.len() as u64).expect("what was built")
    }

    /// What is found when the list is of `listed`, and the blocks hold `records`, but for those that are left out.
    fn check(listed: &[Kept], records: &[Kept], left_out: &[u32]) -> Vec<String> {
        let mut check = SectionsCheck::new(&sections(listed), 0);
        let mut gone = None;
        for kept in records {
            if left_out.contains(&kept.1) {
                if gone != Some(kept.1) {
                    check.gap();
                }
                gone = Some(kept.1);
                continue;
            }
            let record = Record { version: Version(kept.3), expiry_us: 0, value: Some(b"value") };
            check.record((kept.1, kept.2), &BlockEntry { key: &key(kept), record });
        }
        check.finish().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_list_of_its_own_records_agrees_also_with_what_can_be_read_of_them() {
        for left_out in [&[][..], &[0], &[1], &[2], &[0, 2], &[0, 1, 2]] {
            assert_eq!(check(&RECORDS, &RECORDS, left_out), [""; 0], "{left_out:?}");
        }
    }

    #[test]
    fn other_records_places_and_buckets_are_named() {
        let found = |records: &[Kept], left_out: &[u32]| check(&RECORDS, records, left_out);
        let mut other = RECORDS;
        other[2].3 += 1;
        assert_eq!(found(&other, &[]).len(), 1, "a version");
        assert_eq!(found(&other, &[1]), [""; 0], "a section of which a part is missing is not blamed");
        assert_eq!(found(&other, &[2]).len(), 1, "what is missing elsewhere excuses nothing");
        let mut other = RECORDS;
        other[4].0 = 5;
        let both = found(&other, &[]);
        assert!(
            both[0].contains("found no record of this bucket") && both[1].contains("no records of bucket 5")
        );
        assert_eq!(both.len(), 2);
        assert!(found(&RECORDS[..5], &[])[0].contains("expected bucket 6 from block 2 place 0"));
        assert!(found(&RECORDS[2..], &[])[0].contains("expected bucket 1"));
        let mut other = RECORDS;
        other[5].1 = 3;
        assert_eq!(found(&other, &[]).len(), 1, "a block");
    }
}
