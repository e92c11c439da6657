//! A real block device whose writes and flushes are recorded. Owns the chain file → recording → NBD → FUSE file → loop
//! device, and takes it down again, also when the harness fails; must never touch a loop device it did not make.
//!
//! Invariant: the loop device ends before the mark area, so the program under test cannot write a mark.
//!
//! Why NBD stands between: the storage daemon's own FUSE export (7.2 to 10.0) reads the next request into the buffer of
//! a write that is still on its way, so that of two writes at once one arrives with the other's bytes.
//!
//! Needs: root, /dev/fuse, loop devices, qemu-storage-daemon, nbdfuse.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::image::Image;
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
    /// Shows the daemon's device as a file.
    bridge: Option<Child>,
    /// The FUSE file, past the end of the loop device, for marks.
    marks: Option<File>,
    mark_count: u64,
}

/// A sector in memory at an address that direct I/O takes.
#[repr(align(4096))]
struct Aligned([u8; SECTOR_BYTES]);

impl Recorder {
    /// Makes a device of `device_bytes` (a multiple of 4096) that reads as `content`, with its files in `folder`, and
    /// begins to record. Errors: a program is missing, or this machine gives no loop devices or no FUSE.
    pub fn start(folder: &Path, device_bytes: u64, content: &Image) -> Result<Recorder, CrashError> {
        assert!(device_bytes.is_multiple_of(4096), "a device is whole pages");
        let image = folder.join("device.img");
        let log = folder.join("device.log");
        let export = folder.join("device.fuse");
        content.write_to(&image, device_bytes + MARK_AREA_BYTES, &BTreeMap::new())?;
        for path in [&log, &export] {
            let file = OpenOptions::new().create(true).truncate(true).write(true).open(path);
            file.map_err(CrashError::io(format!("{}", path.display())))?;
        }
        let (pid_file, socket) = (folder.join("daemon.pid"), folder.join("daemon.socket"));
        // Nothing here must survive: the recording counts, so the daemon's own files are never flushed. The flushes
        // of the device are recorded all the same, and cost 50 µs in place of a disk's.
        let uncached = |name: &str, path: &Path| {
            format!("driver=file,node-name={name},filename={},cache.no-flush=on", path.display())
        };
        tool(Command::new("qemu-storage-daemon").args([
            "--daemonize",
            "--blockdev",
            &uncached("image", &image),
            "--blockdev",
            &uncached("log", &log),
            "--blockdev",
            "driver=blklogwrites,node-name=recorded,file=image,log=log,log-sector-size=512",
            "--nbd-server",
            &format!("addr.type=unix,addr.path={}", socket.display()),
            "--export",
            "type=nbd,id=export,node-name=recorded,name=device,writable=on",
            "--pidfile",
            &pid_file.display().to_string(),
        ]))?;
        let mut recorder = Recorder {
            folder: folder.to_owned(),
            device_bytes,
            loop_path: String::new(),
            daemon: process_id(&pid_file)?,
            bridge: None,
            marks: None,
            mark_count: 0,
        };
        let ready = folder.join("bridge.pid");
        let _ = std::fs::remove_file(&ready);
        let bridge = Command::new("nbdfuse")
            .arg("--pidfile")
            .args([&ready, &export])
            .arg(format!("nbd+unix:///device?socket={}", socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .map_err(CrashError::io("nbdfuse (package libnbd-bin)"))?;
        recorder.bridge = Some(bridge);
        wait_until("nbdfuse", || ready.exists())?;
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

    /// Detaches the loop device, ends bridge and daemon and waits for each.
    fn take_down(&mut self) -> Result<(), CrashError> {
        self.marks = None;
        if !self.loop_path.is_empty() {
            let loop_path = std::mem::take(&mut self.loop_path);
            tool(Command::new("losetup").args(["--detach", &loop_path]))?;
        }
        if let Some(mut bridge) = self.bridge.take() {
            let export = self.folder.join("device.fuse");
            // The kernel lets go of a detached loop device when it likes; the file is busy until then.
            let gone = || {
                tool(Command::new("umount").arg(&export)).is_ok() || matches!(bridge.try_wait(), Ok(Some(_)))
            };
            wait_until("umount", gone)?;
            bridge.wait().map_err(CrashError::io("nbdfuse"))?;
        }
        if self.daemon != 0 {
            let daemon = std::mem::take(&mut self.daemon).to_string();
            tool(Command::new("kill").args(["-TERM", &daemon]))?;
            // It is no child of ours.
            let process = Path::new("/proc").join(daemon);
            wait_until("qemu-storage-daemon", || !process.exists())?;
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

fn process_id(path: &Path) -> Result<u32, CrashError> {
    let text = std::fs::read_to_string(path).map_err(CrashError::io(format!("{}", path.display())))?;
    text.trim().parse().map_err(|_| tool_error("qemu-storage-daemon", "wrote no process id"))
}

/// Asks again until `holds`, for ten seconds.
#[expect(clippy::disallowed_methods, reason = "waits for another program, outside the system under test")]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), CrashError> {
    for _ in 0..2000 {
        if holds() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Err(tool_error(what, "was waited for in vain"))
}

fn tool_error(command: &str, message: &str) -> CrashError {
    CrashError::Tool { command: command.to_owned(), message: message.to_owned() }
}
