//! One node as a process: started, stopped for a while, killed, drained. Owns the child.
//!
//! Must never signal a process that it did not start, or one that was already waited for: the number may be somebody else's.
//! Invariant: the child dies with the harness, also when that is killed.

use super::RealError;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A child that runs, or ran.
pub(super) struct Process {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a command; what it prints goes to the end of `log`.
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Process, RealError> {
        let name = format!("{}", log.display());
        let file = OpenOptions::new().create(true).append(true).open(log).map_err(RealError::io(&name))?;
        let out = file.try_clone().map_err(RealError::io(&name))?;
        command.stdin(Stdio::null()).stdout(out).stderr(file);
        // SAFETY: between fork and exec only a system call is made, which takes no memory and no lock.
        unsafe {
            command.pre_exec(|| {
                let result = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
        let child = command.spawn().map_err(RealError::io(format!("start {command:?}")))?;
        Ok(Process { child, ended: None })
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended
    }

    fn signal(&mut self, number: libc::c_int) {
        if self.ended().is_some() {
            return;
        }
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process number fits its type");
        // SAFETY: a system call without memory of ours; the child was not waited for, so the number is still its own.
        let result = unsafe { libc::kill(pid, number) };
        assert_eq!(result, 0, "a child can be sent a signal");
    }

    /// Kill -9, and wait until it is gone.
    pub(super) fn kill(&mut self) {
        if self.ended().is_none() {
            self.child.kill().expect("a child can be killed");
            self.ended = Some(self.child.wait().expect("a child can be waited for"));
        }
    }

    /// Ask it to drain.
    pub(super) fn drain(&mut self) {
        self.signal(libc::SIGTERM);
    }

    /// Stand still.
    pub(super) fn pause(&mut self) {
        self.signal(libc::SIGSTOP);
    }

    /// Go on.
    pub(super) fn resume(&mut self) {
        self.signal(libc::SIGCONT);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
