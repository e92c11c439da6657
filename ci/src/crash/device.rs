//! A real block device whose writes and flushes are recorded. Owns the chain file → recording → FUSE file → loop
//! device, and takes it down again, also when the harness fails; must never touch a loop device it did not make.
//!
//! Invariant: the loop device ends before the mark area, so the program under test cannot write a mark.
//!
//! Needs: root, /dev/fuse, loop devices, qemu-storage-daemon with FUSE exports.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::log::{Entry, MarkArea, read};
use super::{CrashError, SECTOR_BYTES};

/// O_DIRECT of Linux on x86-64 and arm64 differ; libc knows.
const O_DIRECT: i32 = libc::O_DIRECT;
/// Marks go round in this many bytes behind the device, so that neighbouring marks do not meet in one sector.
const MARK_AREA_BYTES: u64 = 1 << 20;

/// A recorded device; dropped, it is taken down.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    device_bytes: u64,
    /// The loop device, for example /dev/loop3; empty once detached.
    loop_path: String,
    /// Process id of the storage daemon, 0 once ended.
    daemon: u32,
    /// The FUSE file, past the end of the loop device, for marks.
    marks: Option<File>,
    mark_count: u64,
}

/// A sector in memory at an address that direct I/O takes.
#[repr(align(4096))]
struct Aligned([u8; SECTOR_BYTES]);

impl Recorder {
    /// Makes a device of `device_bytes` zeros (a multiple of 4096), with its files in `folder`, and begins to record.
    /// Errors: a program is missing, or this machine gives no loop devices or no FUSE.
    pub fn start(folder: &Path, device_bytes: u64) -> Result<Recorder, CrashError> {
        assert!(device_bytes.is_multiple_of(4096), "a device is whole pages");
        let image = folder.join("device.img");
        let log = folder.join("device.log");
        let export = folder.join("device.fuse");
        for (path, bytes) in [(&image, device_bytes + MARK_AREA_BYTES), (&log, 0), (&export, 0)] {
            let what = || format!("{}", path.display());
            let file = OpenOptions::new().create(true).truncate(true).write(true).open(path);
            file.and_then(|file| file.set_len(bytes)).map_err(CrashError::io(what()))?;
        }
        let pid_file = folder.join("daemon.pid");
        // Nothing here must survive: the recording counts, so the daemon's own files are never flushed. The flushes
        // of the device are recorded all the same, and cost 50 µs in place of a disk's.
        tool(Command::new("qemu-storage-daemon").args([
            "--daemonize",
            "--blockdev",
            &format!("driver=file,node-name=image,filename={},cache.no-flush=on", image.display()),
            "--blockdev",
            &format!("driver=file,node-name=log,filename={},cache.no-flush=on", log.display()),
            "--blockdev",
            "driver=blklogwrites,node-name=recorded,file=image,log=log,log-sector-size=512",
            "--export",
            &format!("type=fuse,id=export,node-name=recorded,mountpoint={},writable=on", export.display()),
            "--pidfile",
            &pid_file.display().to_string(),
        ]))?;
        let daemon = std::fs::read_to_string(&pid_file)
            .map_err(CrashError::io(format!("{}", pid_file.display())))?
            .trim()
            .parse()
            .map_err(|_| tool_error("qemu-storage-daemon", "wrote no process id"))?;
        let mut recorder = Recorder {
            folder: folder.to_owned(),
            device_bytes,
            loop_path: String::new(),
            daemon,
            marks: None,
            mark_count: 0,
        };
        recorder.loop_path = tool(
            Command::new("losetup")
                .args(["--find", "--show", "--direct-io=on", "--sizelimit", &device_bytes.to_string()])
                .arg(&export),
        )?
        .trim()
        .to_owned();
        let marks = OpenOptions::new().write(true).custom_flags(O_DIRECT).open(&export);
        recorder.marks = Some(marks.map_err(CrashError::io(format!("{}", export.display())))?);
        Ok(recorder)
    }

    /// The block device for the program under test.
    pub fn path(&self) -> &Path {
        Path::new(&self.loop_path)
    }

    /// Puts a mark into the recording: behind everything answered before this call, before everything issued after.
    /// Errors: the device is gone.
    pub fn mark(&mut self, number: u64) -> Result<(), CrashError> {
        let mut sector = Aligned([0; SECTOR_BYTES]);
        sector.0[..8].copy_from_slice(&number.to_le_bytes());
        let at = self.device_bytes + self.mark_count * SECTOR_BYTES as u64 % MARK_AREA_BYTES;
        self.mark_count += 1;
        let file = self.marks.as_ref().expect("open from start to finish");
        file.write_all_at(&sector.0, at).map_err(CrashError::io("mark"))
    }

    /// Ends the recording and reads it. The program under test must have closed the device. Errors: it has not, or
    /// the recording is damaged.
    pub fn finish(mut self) -> Result<Vec<Entry>, CrashError> {
        // blklogwrites counts its entries in its superblock at a flush only.
        let marks = self.marks.take().expect("open from start to finish");
        marks.sync_all().map_err(CrashError::io("flush of the recorded device"))?;
        drop(marks);
        self.take_down()?;
        read(&self.folder.join("device.log"), MarkArea(self.device_bytes))
    }

    /// Detaches the loop device, ends the daemon and waits for both.
    fn take_down(&mut self) -> Result<(), CrashError> {
        self.marks = None;
        if !self.loop_path.is_empty() {
            let loop_path = std::mem::take(&mut self.loop_path);
            tool(Command::new("losetup").args(["--detach", &loop_path]))?;
        }
        if self.daemon != 0 {
            let daemon = std::mem::take(&mut self.daemon);
            tool(Command::new("kill").args(["-TERM", &daemon.to_string()]))?;
            // It is no child of ours, and it unmounts its export on the way out.
            let wait =
                format!("for i in $(seq 500); do [ -e /proc/{daemon} ] || exit 0; sleep 0.01; done; exit 1");
            tool(Command::new("sh").args(["-c", &wait]))?;
        }
        Ok(())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("recorded device was not taken down: {error}");
        }
    }
}

/// Runs a program to its end; what it printed on standard output, or the error it reported.
pub fn tool(command: &mut Command) -> Result<String, CrashError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| tool_error(&name, &e.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(tool_error(
            &name,
            &format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        ))
    }
}

fn tool_error(command: &str, message: &str) -> CrashError {
    CrashError::Tool { command: command.to_owned(), message: message.to_owned() }
}
