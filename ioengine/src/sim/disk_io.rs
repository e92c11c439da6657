//! Disk operations in the world: how long they take, what goes wrong, and what a kill or a loss of power makes of
//! those in flight.

use super::core::SimCore;
use super::disk::{DiskState, Flight, Work};
use super::fault::FaultKind;
use super::image::SECTOR_BYTES;
use super::media::{Landing, Media};
use super::node::ProcessState;
use super::queue::Event;
use super::random::hash_bytes;
use super::recording::{Recorded, RecordedKind, Recording};
use super::trace::Tag;
use super::world::Shared;
use crate::clock::Instant;
use crate::disk::{DiskOpenError, Geometry};
use crate::operation::{Errno, Operation, OperationId, OperationTable};
use std::cell::RefCell;
use std::rc::Rc;

/// The bytes of a write in flight.
pub(crate) fn write_bytes(core: &SimCore, flight: &Flight) -> Vec<u8> {
    match core.table.borrow_mut().operation_mut(flight.id) {
        Operation::DiskWrite { buffer, bytes, .. } => buffer[..*bytes as usize].to_vec(),
        _ => panic!("a write in flight is a write in its table"),
    }
}

/// Bytes reach the disk.
fn store(
    media: &mut Media,
    recording: &Option<Rc<RefCell<Recording>>>,
    now: u64,
    offset: u64,
    data: &[u8],
    durable: bool,
    began: usize,
) {
    media.write(offset, data, durable);
    if let Some(recording) = recording {
        let kind = RecordedKind::Write { offset, data: Rc::from(data), durable };
        recording.borrow_mut().push(Recorded { at: Instant { ns: now }, began, kind });
    }
}

/// A flush that began at `sequence` is done.
fn flushed(disk: &mut DiskState, now: u64, began: usize, sequence: u64) {
    disk.media.flush(sequence);
    if let Some(recording) = &disk.recording {
        recording.borrow_mut().push(Recorded { at: Instant { ns: now }, began, kind: RecordedKind::Flush });
    }
}

impl Shared {
    pub(crate) fn disk_open(
        &self,
        node: u32,
        process: &ProcessState,
        name: &str,
        write: bool,
    ) -> Result<(u32, Geometry), DiskOpenError> {
        let mut disks = self.disks.borrow_mut();
        let found = disks.iter_mut().enumerate().find(|(_, disk)| disk.node == node && disk.name == name);
        let refuse = |what: &str, mend: &str| DiskOpenError {
            name: name.to_owned(),
            what: what.to_owned(),
            mend: mend.to_owned(),
        };
        let Some((index, disk)) = found else {
            return Err(refuse(
                "no such file or device",
                "check the name, or create it with `thermocline disk`",
            ));
        };
        if write {
            if let Some(holder) = disk.claim {
                let who = if holder == process.id { "this process" } else { "another process" };
                return Err(refuse(&format!("it is in use by {who}"), "stop the other one first"));
            }
            if disk.ended {
                return Err(refuse("a flush of it has failed in this process", "restart the node"));
            }
            disk.claim = Some(process.id);
        }
        Ok((u32::try_from(index).expect("disks fit u32"), disk.geometry()))
    }

    /// The last handle of a process that had it open for writing is gone.
    pub(crate) fn disk_release(&self, disk: u32, process: u32) {
        let claim = &mut self.disks.borrow_mut()[disk as usize].claim;
        if *claim == Some(process) {
            *claim = None;
        }
    }

    pub(crate) fn disks_release(&self, node: u32, process: u32) {
        for disk in self.disks.borrow_mut().iter_mut().filter(|disk| disk.node == node) {
            if disk.claim == Some(process) {
                disk.claim = None;
            }
        }
    }

    pub(crate) fn disk_submit(
        &self,
        index: u32,
        writable: bool,
        core: u32,
        id: OperationId,
        table: &RefCell<OperationTable>,
    ) {
        let mut disks = self.disks.borrow_mut();
        let disk = &mut disks[index as usize];
        let (work, offset, bytes) = match table.borrow_mut().operation_mut(id) {
            Operation::DiskRead { offset, bytes, .. } => (Work::Read, *offset, *bytes),
            Operation::DiskWrite { offset, bytes, durable, buffer, .. } => {
                // The content is part of the history: two runs that write different bytes are different.
                let content = hash_bytes(&buffer[..*bytes as usize]);
                self.trace.note(self.now(), Tag::DiskContent, u64::from(index), content);
                (Work::Write { durable: *durable }, *offset, *bytes)
            }
            Operation::DiskFlush { .. } => (Work::Flush { sequence: disk.media.sequence() }, 0, 0),
            _ => panic!("only disk operations are sent to disks"),
        };
        assert!(writable || work == Work::Read, "{} was opened for reading only", disk.name);
        let now = self.now();
        let faults = &disk.config.faults;
        if disk.random.chance(faults.stall_ppm) {
            let until = now + disk.random.within(&faults.stall_ns);
            disk.stalled_until = disk.stalled_until.max(until);
            self.fault(disk.node, Some(index), offset, u64::from(bytes), FaultKind::Stall);
        }
        let recorded = disk.recording.as_ref().map_or(0, |recording| recording.borrow().events().len());
        let operation = disk.next_operation;
        disk.next_operation = operation.wrapping_add(1);
        disk.in_flight.insert(operation, Flight { core, id, work, offset, bytes, since: now, recorded });
        let starves_ns = std::mem::take(&mut disk.starve_ns);
        let at = disk.finish_time(now, work, offset, bytes) + starves_ns;
        if starves_ns > 0 {
            disk.starved_until = at;
        }
        self.trace.note(now, Tag::DiskSubmit, u64::from(index), offset);
        self.push_at(at, Event::Disk { disk: index, operation });
    }

    pub(crate) fn disk_due(&self, index: u32, operation: u32) {
        let mut disks = self.disks.borrow_mut();
        let disk = &mut disks[index as usize];
        if !disk.in_flight.contains_key(&operation) {
            return; // it went with its process
        }
        if disk.stalled_until > self.now() {
            if disk.stalled_until == u64::MAX {
                disk.held.push(operation);
            } else {
                let at = disk.stalled_until + disk.random.below(10_000);
                self.push_at(at, Event::Disk { disk: index, operation });
            }
            return;
        }
        let flight = disk.in_flight.remove(&operation).expect("seen above");
        disk.completed_at = self.now();
        let core = self.core(flight.core).expect("a process takes its operations along");
        let rot = disk.config.faults.rot_anywhere_ppm;
        if disk.random.chance(rot) {
            self.rot_somewhere(index, disk);
        }
        let result = match flight.work {
            Work::Read => self.disk_read(index, disk, &core, &flight),
            Work::Write { durable } => self.disk_write(index, disk, &core, &flight, durable),
            Work::Flush { sequence } => self.disk_flush(index, disk, &flight, sequence),
        };
        let must_last = matches!(flight.work, Work::Flush { .. } | Work::Write { durable: true });
        disk.ended |= must_last && result.is_err_and(|errno| !errno.is_want_of_space());
        self.trace.note(
            self.now(),
            Tag::DiskDone,
            u64::from(index),
            flight.offset ^ u64::from(result.is_ok()),
        );
        core.complete(self, flight.id, result);
    }

    fn rot_somewhere(&self, index: u32, disk: &mut DiskState) {
        let random = &mut disk.random;
        if let Some(page) = disk.media.current().some_page(|count| random.below(count)) {
            let sector = page + random.below(8) * SECTOR_BYTES as u64;
            if sector < disk.config.bytes && disk.config.faults.may_lie(sector, SECTOR_BYTES as u64) {
                disk.media.rot(sector, random);
                self.fault(disk.node, Some(index), sector, SECTOR_BYTES as u64, FaultKind::Rot);
            }
        }
    }

    fn disk_read(
        &self,
        index: u32,
        disk: &mut DiskState,
        core: &SimCore,
        flight: &Flight,
    ) -> Result<u32, Errno> {
        let (offset, bytes) = (flight.offset, u64::from(flight.bytes));
        let some_sector = |random: &mut super::Random| {
            offset + random.below(bytes / SECTOR_BYTES as u64) * SECTOR_BYTES as u64
        };
        if disk.random.chance(disk.config.faults.rot_read_ppm) {
            let sector = some_sector(&mut disk.random);
            let faults = &disk.config.faults;
            if disk.media.current().is_stored(sector) && faults.may_lie(sector, SECTOR_BYTES as u64) {
                disk.media.rot(sector, &mut disk.random);
                self.fault(disk.node, Some(index), sector, SECTOR_BYTES as u64, FaultKind::Rot);
            }
        }
        if disk.random.chance(disk.config.faults.latent_error_ppm) {
            let sector = some_sector(&mut disk.random);
            disk.unreadable.insert(sector);
            self.fault(disk.node, Some(index), sector, SECTOR_BYTES as u64, FaultKind::LatentError);
        }
        let fails = disk.random.chance(disk.config.faults.read_error_ppm);
        let bad = fails || disk.unreadable.range(offset..offset + bytes).next().is_some();
        if fails {
            self.fault(disk.node, Some(index), offset, bytes, FaultKind::ReadError);
        }
        // A write in flight over the same range has no order with this read: any of its sectors may be seen.
        let mut seen: Vec<(u64, Vec<u8>)> = Vec::new();
        for other in disk.in_flight.values() {
            if matches!(other.work, Work::Write { .. }) && other.overlaps(offset, flight.bytes) {
                let writer = self.core(other.core).expect("a process takes its operations along");
                let data = write_bytes(&writer, other);
                for (sector, part) in data.chunks(SECTOR_BYTES).enumerate() {
                    let at = other.offset + (sector * SECTOR_BYTES) as u64;
                    if (offset..offset + bytes).contains(&at) && disk.random.coin() {
                        seen.push((at, part.to_vec()));
                    }
                }
            }
        }
        let mut table = core.table.borrow_mut();
        let Operation::DiskRead { buffer, .. } = table.operation_mut(flight.id) else {
            panic!("a read in flight is a read in its table")
        };
        let buffer = &mut buffer[..flight.bytes as usize];
        if bad {
            // Arbitrary, the contract says: zeroes would look like a fresh disk, so leave something else.
            buffer.fill(0xee);
            return Err(Errno(libc::EIO));
        }
        disk.media.current().read(offset, buffer);
        for (at, part) in seen {
            let start = usize::try_from(at - offset).expect("within the buffer");
            buffer[start..start + part.len()].copy_from_slice(&part);
        }
        disk.counts.reads += 1;
        disk.counts.read_bytes += bytes;
        Ok(flight.bytes)
    }

    fn disk_write(
        &self,
        index: u32,
        disk: &mut DiskState,
        core: &SimCore,
        flight: &Flight,
        durable: bool,
    ) -> Result<u32, Errno> {
        let (offset, bytes) = (flight.offset, u64::from(flight.bytes));
        let (node, faults) = (disk.node, &disk.config.faults);
        let random = &mut disk.random;
        let note = |kind| self.fault(node, Some(index), offset, bytes, kind);
        if faults.full_after_bytes.is_some_and(|full| disk.media.current().stored_bytes() >= full) {
            let mut pages = (offset..offset + bytes).step_by(4096);
            if pages.any(|page| !disk.media.current().is_stored(page)) {
                note(FaultKind::Full);
                return Err(Errno(libc::ENOSPC));
            }
        }
        let mut table = core.table.borrow_mut();
        let Operation::DiskWrite { buffer, .. } = table.operation_mut(flight.id) else {
            panic!("a write in flight is a write in its table")
        };
        let data = &buffer[..flight.bytes as usize];
        if random.chance(faults.write_error_ppm) {
            note(FaultKind::WriteError);
            for (sector, part) in data.chunks(SECTOR_BYTES).enumerate() {
                if random.coin() {
                    let at = offset + (sector * SECTOR_BYTES) as u64;
                    store(&mut disk.media, &disk.recording, self.now(), at, part, false, flight.recorded);
                }
            }
            return Err(Errno(libc::EIO));
        }
        disk.counts.writes += 1;
        disk.counts.write_bytes += bytes;
        if random.chance(faults.write_lost_ppm) && faults.may_lie(offset, bytes) {
            note(FaultKind::WriteLost);
            return Ok(flight.bytes);
        }
        let mut target = offset;
        if random.chance(faults.write_misdirected_ppm) && faults.may_lie(offset, bytes) {
            let block = u64::from(disk.config.block_bytes);
            let near = random.coin();
            let blocks = (disk.config.bytes - bytes) / block + 1;
            // Often a near miss (a wrong low bit of the address), else anywhere.
            let to = if near {
                (offset ^ (block << random.below(6))).min((blocks - 1) * block)
            } else {
                random.below(blocks) * block
            };
            if to != offset && faults.may_lie(to, bytes) {
                note(FaultKind::WriteMisdirected { to });
                target = to;
            }
        }
        disk.unreadable.retain(|sector| !(target..target + bytes).contains(sector));
        store(&mut disk.media, &disk.recording, self.now(), target, data, durable, flight.recorded);
        Ok(flight.bytes)
    }

    /// A flush did not do its work: one fault per write that it should have kept, or one without a place.
    fn flush_fault(&self, index: u32, disk: &DiskState, sequence: u64, kind: FaultKind) {
        let places = disk.media.unkept(sequence);
        for &(offset, bytes) in &places {
            self.fault(disk.node, Some(index), offset, bytes, kind);
        }
        if places.is_empty() {
            self.fault(disk.node, Some(index), 0, 0, kind);
        }
    }

    fn disk_flush(
        &self,
        index: u32,
        disk: &mut DiskState,
        flight: &Flight,
        sequence: u64,
    ) -> Result<u32, Errno> {
        let faults = &disk.config.faults;
        if disk.random.chance(faults.flush_error_ppm) {
            self.flush_fault(index, disk, sequence, FaultKind::FlushError);
            disk.media.flush_failed(&mut disk.random);
            return Err(Errno(libc::EIO));
        }
        disk.counts.flushes += 1;
        if disk.random.chance(faults.flush_ignored_ppm) {
            self.flush_fault(index, disk, sequence, FaultKind::FlushIgnored);
            return Ok(0);
        }
        flushed(disk, self.now(), flight.recorded, sequence);
        Ok(0)
    }

    /// The process of these cores is gone: what it had in flight happens now, not at all, or in part.
    pub(crate) fn disks_process_ended(&self, node: u32, cores: &[u32]) {
        let mut disks = self.disks.borrow_mut();
        for (index, disk) in disks.iter_mut().enumerate().filter(|(_, disk)| disk.node == node) {
            let index = u32::try_from(index).expect("disks fit u32");
            let mine: Vec<(u32, Flight)> = disk
                .in_flight
                .iter()
                .filter(|(_, flight)| cores.contains(&flight.core))
                .map(|(&operation, &flight)| (operation, flight))
                .collect();
            for (operation, flight) in mine {
                disk.in_flight.remove(&operation);
                let core = self.core(flight.core).expect("still there");
                match (flight.work, disk.random.below(3)) {
                    (Work::Read, _) | (_, 0) => {}
                    (Work::Write { durable }, 1) => {
                        // Completes after all; nobody hears of it.
                        let _ = self.disk_write(index, disk, &core, &flight, durable);
                    }
                    (Work::Write { .. }, _) => {
                        let data = write_bytes(&core, &flight);
                        for (sector, part) in data.chunks(SECTOR_BYTES).enumerate() {
                            if disk.random.coin() {
                                let at = flight.offset + (sector * SECTOR_BYTES) as u64;
                                let (media, recording) = (&mut disk.media, &disk.recording);
                                store(media, recording, self.now(), at, part, false, flight.recorded);
                            }
                        }
                    }
                    (Work::Flush { sequence }, _) => flushed(disk, self.now(), flight.recorded, sequence),
                }
            }
            disk.held.retain(|operation| disk.in_flight.contains_key(operation));
            disk.media.process_ended();
            disk.ended = false;
        }
    }

    /// Power goes on a node's disks.
    pub(crate) fn disks_power_cut(&self, node: u32) {
        let mut disks = self.disks.borrow_mut();
        for (index, disk) in disks.iter_mut().enumerate().filter(|(_, disk)| disk.node == node) {
            let index = u32::try_from(index).expect("disks fit u32");
            let flights = std::mem::take(&mut disk.in_flight);
            let landings = flights
                .values()
                .filter(|flight| matches!(flight.work, Work::Write { .. }))
                .map(|flight| {
                    let core = self.core(flight.core).expect("the process is torn down after its disks");
                    let data = Rc::from(write_bytes(&core, flight));
                    Landing { offset: flight.offset, data, forced: false }
                })
                .collect();
            let torn = disk.config.faults.torn;
            let lost_sectors = disk.media.crash(landings, torn, &mut disk.random);
            self.fault(node, Some(index), 0, disk.config.bytes, FaultKind::PowerCut { lost_sectors });
            disk.held.clear();
            disk.free_at = 0;
            disk.ended = false;
            // What recorded this disk recorded one history; a crash begins another.
            disk.recording = None;
        }
    }

    pub(crate) fn disk_release_stall(&self, index: u32) {
        let mut disks = self.disks.borrow_mut();
        let disk = &mut disks[index as usize];
        disk.stalled_until = 0;
        for operation in std::mem::take(&mut disk.held) {
            let delay = disk.random.below(10_000);
            self.push(delay, Event::Disk { disk: index, operation });
        }
    }
}
