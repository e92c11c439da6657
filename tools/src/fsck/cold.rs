//! `fsck` of a cold disk: every section that counts, byte by byte, and how much of the disk that was.

use serde_json::json;
use shard::cold::examine::{ColdCoverage, ColdFinding, ColdGrade, ColdSeen, examine_disk};
use shard::cold::open;

use super::links::Links;
use super::report::Report;
use crate::disk::{Offline, not_cold};
use crate::failure::Failure;

/// Looks at an open cold disk.
///
/// # Errors
/// None of its superblock copies can be believed, or the device cannot be read at all.
pub(super) fn check(
    offline: &Offline,
    path: &str,
    titled: bool,
    report: &mut Report,
    links: Option<&mut Links>,
) -> Result<(), Failure> {
    let (io, disk) = (offline.io(), offline.disk());
    let superblock = offline.run(open::read(io, disk)).map_err(|error| not_cold(offline, path, &error))?;
    report.begin(path, titled)?;
    let mut said = Ok(());
    let mut sound = Vec::new();
    let examined = offline.run(examine_disk(io, disk, &superblock, |seen| match seen {
        ColdSeen::Finding(finding) if said.is_ok() => said = report.cold_finding(&finding),
        ColdSeen::Finding(_) => {}
        ColdSeen::Sound(section) if links.is_some() => sound.push(section),
        ColdSeen::Sound(_) => {}
    }));
    said?;
    let coverage = examined.map_err(|error| Failure::failed(error.to_string(), ""))?;
    report.cold_coverage(&coverage)?;
    if let Some(links) = links {
        links.add_disk(path, (superblock.group, superblock.disk), &sound);
    }
    report.verdict()
}

impl Report {
    fn cold_finding(&mut self, finding: &ColdFinding) -> Result<(), Failure> {
        let ColdFinding { grade, part, file, what, at } = finding;
        self.count_cold(*grade == ColdGrade::Damage);
        let name = if *grade == ColdGrade::Damage { "damage" } else { "warning" };
        if self.is_json() {
            let line = json!({
                "part": "finding", "grade": name, "of": part, "file": file, "what": what, "at": at.map(|at| at.0),
            });
            return self.line(&line.to_string());
        }
        let file = file.map_or_else(String::new, |file| format!(" of file {file}"));
        let place = at.map_or_else(String::new, |at| format!(" at {at}"));
        let warning = if *grade == ColdGrade::Damage { "" } else { "warning: " };
        self.line(&format!("  {warning}{part}{file}{place}: {what}"))
    }

    fn cold_coverage(&mut self, coverage: &ColdCoverage) -> Result<(), Failure> {
        let ColdCoverage {
            copy_count,
            file_used_count,
            section_count,
            section_sound_count,
            section_freed_count,
            record_count,
            bytes_in_use,
            bytes_read,
            reserved_count,
        } = *coverage;
        if self.is_json() {
            let line = json!({
                "part": "cold", "copies_good": copy_count, "files_used": file_used_count, "sections": section_count,
                "sections_sound": section_sound_count, "sections_freed": section_freed_count, "records": record_count,
                "bytes_in_use": bytes_in_use, "bytes_read": bytes_read, "places_reserved": reserved_count,
            });
            return self.line(&line.to_string());
        }
        self.line(&format!(
            "cold disk: {copy_count} superblock copies good; {file_used_count} files in use, {section_sound_count} of {section_count} \
             sections sound, {record_count} records; {bytes_read} of {bytes_in_use} bytes in use were read and compared"
        ))?;
        self.line(&format!(
            "not looked at: {section_freed_count} sections that were freed, {reserved_count} places reserved"
        ))
    }
}
