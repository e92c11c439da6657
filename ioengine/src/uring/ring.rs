//! One io_uring, private to its thread: queue entries, enter the kernel, hand out completions. Owns the ring and
//! what is registered with it; knows nothing of operations. Invariant: an entry that was pushed is submitted by
//! the next `enter`, in the order of pushing, also when the queue was full for a moment.

use super::refusal::Refusal;
use io_uring::{IoUring, opcode, squeue, types};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Largest piece of memory the kernel takes as one registered buffer.
const REGISTERED_PIECE_BYTES: usize = 1 << 30;
/// Places for registered files: more disks than a core ever has. Those beyond go unregistered.
pub(super) const REGISTERED_FILE_COUNT: u32 = 64;
/// Completions taken from the ring at a time.
const BATCH_COUNT: usize = 64;
/// Bounds of the submission queue. The lower one leaves room for cancels and bells beside few operations.
const ENTRY_COUNT_MIN: usize = 64;
const ENTRY_COUNT_MAX: usize = 4096;

/// Whether to wait in the kernel for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Come back at once.
    No,
    /// Until something completes.
    Forever,
    /// Until something completes, at most this many nanoseconds.
    AtMost(u64),
}

/// What is plainer than it could be, each piece with its reason.
#[derive(Clone, Debug, Default)]
pub(super) struct Plainer {
    /// The arena is not registered: the kernel maps the pages for every operation.
    pub(super) arena: Option<String>,
    /// Files are not registered.
    pub(super) files: Option<String>,
    /// A sleeping core is woken through an event descriptor.
    pub(super) bell: Option<String>,
}

pub(super) struct Ring {
    ring: RefCell<IoUring>,
    /// Entries that found the submission queue full.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    /// Address the registered arena begins at.
    arena: Cell<Option<usize>>,
    files: Cell<bool>,
}

impl Ring {
    /// A ring for `operation_count` operations in flight. Must be called on the thread that uses it.
    pub(super) fn open(operation_count: usize) -> Result<Ring, Refusal> {
        let entries = operation_count.next_power_of_two().clamp(ENTRY_COUNT_MIN, ENTRY_COUNT_MAX);
        // Each operation and as many cancels and bells may complete before anybody looks.
        let completions = 2 * operation_count.next_power_of_two().max(entries);
        let fits = "bounded by the kernel's limit below";
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(u32::try_from(completions).expect(fits))
            .setup_clamp()
            .dontfork()
            .build(u32::try_from(entries).expect(fits))
            .map_err(|error| refusal_of_setup(&error))?;
        for (has, name) in [
            (ring.params().is_feature_nodrop(), "NODROP"),
            (ring.params().is_feature_ext_arg(), "EXT_ARG"),
            (ring.params().is_feature_fast_poll(), "FAST_POLL"),
            (ring.params().is_feature_skip_cqe_on_success(), "CQE_SKIP"),
        ] {
            if !has {
                return Err(Refusal::new(
                    format!("the kernel's io_uring lacks {name}"),
                    "run Linux 6.1 or later",
                ));
            }
        }
        Ok(Ring {
            ring: RefCell::new(ring),
            backlog: RefCell::new(VecDeque::with_capacity(operation_count)),
            arena: Cell::new(None),
            files: Cell::new(false),
        })
    }

    /// Another descriptor of this ring, for those who send messages to it.
    pub(super) fn duplicate(&self) -> Result<OwnedFd, Refusal> {
        let ring = self.ring.borrow();
        // SAFETY: the ring has its descriptor open.
        let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        fd.try_clone_to_owned().map_err(|error| {
            Refusal::new(
                format!("no descriptor for a bell: {error}"),
                "raise the limit of open files (ulimit -n)",
            )
        })
    }

    /// Nothing queued waits for the next `enter`.
    pub(super) fn is_flushed(&self) -> bool {
        self.backlog.borrow().is_empty() && self.ring.borrow_mut().submission().is_empty()
    }

    /// Whether the kernel knows operation `code`.
    pub(super) fn supports(&self, code: u8) -> bool {
        let mut probe = io_uring::Probe::new();
        self.ring.borrow().submitter().register_probe(&mut probe).is_ok() && probe.is_supported(code)
    }

    /// Register the arena, so that the kernel pins its pages once.
    ///
    /// # Safety
    /// The memory outlives every operation on it.
    pub(super) unsafe fn register_arena(&self, start: *mut u8, bytes: usize) -> Result<(), String> {
        let pieces: Vec<libc::iovec> = (0..bytes)
            .step_by(REGISTERED_PIECE_BYTES)
            .map(|at| libc::iovec {
                iov_base: start.wrapping_add(at).cast(),
                iov_len: REGISTERED_PIECE_BYTES.min(bytes - at),
            })
            .collect();
        // SAFETY: by the contract of this function.
        match unsafe { self.ring.borrow().submitter().register_buffers(&pieces) } {
            Ok(()) => {
                self.arena.set(Some(start as usize));
                Ok(())
            }
            Err(error) => Err(format!("registering {} MiB of buffers: {error}", bytes >> 20)),
        }
    }

    pub(super) fn register_file_table(&self) -> Result<(), String> {
        let registered = self.ring.borrow().submitter().register_files_sparse(REGISTERED_FILE_COUNT);
        self.files.set(registered.is_ok());
        registered.map_err(|error| format!("registering files: {error}"))
    }

    /// Put `fd` (or nothing, with -1) at `index` of the registered files. False: use the descriptor itself.
    pub(super) fn register_file(&self, index: u32, fd: RawFd) -> bool {
        self.files.get()
            && index < REGISTERED_FILE_COUNT
            && self.ring.borrow().submitter().register_files_update(index, &[fd]).is_ok()
    }

    /// Give back everything registered, so that files close and pages unpin now and not some time later.
    pub(super) fn unregister_all(&self) {
        let ring = self.ring.borrow();
        // Errors mean that nothing was registered.
        if self.files.replace(false) {
            let _ = ring.submitter().unregister_files();
        }
        if self.arena.take().is_some() {
            let _ = ring.submitter().unregister_buffers();
        }
    }

    /// The index of the registered buffer that `address` lies in.
    fn piece(&self, address: *const u8) -> Option<u16> {
        let start = self.arena.get()?;
        let index = (address as usize - start) / REGISTERED_PIECE_BYTES;
        Some(u16::try_from(index).expect("an arena is far below 65,536 GiB"))
    }

    /// An entry that reads a file into arena memory.
    pub(super) fn read(&self, fd: types::Fd, to: *mut u8, bytes: u32, offset: u64) -> squeue::Entry {
        match self.piece(to) {
            Some(piece) => opcode::ReadFixed::new(fd, to, bytes, piece).offset(offset).build(),
            None => opcode::Read::new(fd, to, bytes).offset(offset).build(),
        }
    }

    /// An entry that writes arena memory to a file.
    pub(super) fn write(
        &self,
        fd: types::Fd,
        from: *const u8,
        bytes: u32,
        offset: u64,
        flags: i32,
    ) -> squeue::Entry {
        match self.piece(from) {
            Some(piece) => {
                opcode::WriteFixed::new(fd, from, bytes, piece).offset(offset).rw_flags(flags).build()
            }
            None => opcode::Write::new(fd, from, bytes).offset(offset).rw_flags(flags).build(),
        }
    }

    /// Queue an entry for the next `enter`.
    ///
    /// # Safety
    /// What the entry points to stays valid, and is left alone, until its completion was seen.
    pub(super) unsafe fn push(&self, entry: &squeue::Entry) {
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() {
            let mut ring = self.ring.borrow_mut();
            // SAFETY: by the contract of this function.
            if unsafe { ring.submission().push(entry) }.is_ok() {
                return;
            }
            // Full: let the kernel take the entries, without waiting.
            check_enter(ring.submit());
            // SAFETY: by the contract of this function.
            if unsafe { ring.submission().push(entry) }.is_ok() {
                return;
            }
        }
        backlog.push_back(entry.clone());
    }

    /// Submit everything queued, run what the kernel has deferred to this thread, and wait if asked to, in one
    /// system call; in none when there is nothing to do.
    pub(super) fn enter(&self, wait: Wait) {
        let mut ring = self.ring.borrow_mut();
        let mut backlog = self.backlog.borrow_mut();
        while let Some(entry) = backlog.front() {
            // SAFETY: `push` was promised that what the entry points to stays valid.
            if unsafe { ring.submission().push(entry) }.is_err() {
                break;
            }
            backlog.pop_front();
        }
        let wait = if backlog.is_empty() && ring.completion().is_empty() { wait } else { Wait::No };
        let entered = match wait {
            Wait::No => {
                let queue = ring.submission();
                if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                    return;
                }
                drop(queue);
                ring.submit()
            }
            Wait::Forever => ring.submit_and_wait(1),
            Wait::AtMost(ns) => {
                let time = types::Timespec::new()
                    .sec(ns / 1_000_000_000)
                    .nsec(u32::try_from(ns % 1_000_000_000).expect("a remainder of a second"));
                ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&time))
            }
        };
        check_enter(entered);
    }

    /// Something has completed, or the kernel has work for this thread: worth an `enter` and a look.
    pub(super) fn has_news(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        ring.submission().taskrun() || !ring.completion().is_empty()
    }

    /// Hand every completion (user data, result, flags) to `each`, which may push. Returns their count.
    pub(super) fn reap(&self, mut each: impl FnMut(u64, i32, u32)) -> usize {
        let mut batch = [(0, 0, 0); BATCH_COUNT];
        let mut total = 0;
        loop {
            let mut count = 0;
            // Copied out first: `each` pushes to the same ring.
            for (place, entry) in batch.iter_mut().zip(self.ring.borrow_mut().completion()) {
                *place = (entry.user_data(), entry.result(), entry.flags());
                count += 1;
            }
            for &(data, result, flags) in &batch[..count] {
                each(data, result, flags);
            }
            total += count;
            if count < BATCH_COUNT {
                return total;
            }
        }
    }
}

/// What `io_uring_enter` may answer on a healthy ring: done, interrupted, timed out, or short of room or memory
/// for the moment; the entries stay queued then and the next turn brings them again.
fn check_enter(entered: std::io::Result<usize>) {
    if let Err(error) = entered {
        let errno = error.raw_os_error().unwrap_or(0);
        assert!(
            matches!(errno, libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN),
            "io_uring_enter: {error}"
        );
    }
}

fn refusal_of_setup(error: &std::io::Error) -> Refusal {
    let (what, mend) = match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            ("this kernel has no io_uring", "run Linux 6.1 or later with CONFIG_IO_URING=y")
        }
        Some(libc::EPERM) => (
            "io_uring is forbidden here",
            "set sysctl kernel.io_uring_disabled=0, and allow io_uring_setup, io_uring_enter and io_uring_register \
             in the container's seccomp profile",
        ),
        Some(libc::EINVAL) => {
            ("this kernel's io_uring is too old (SINGLE_ISSUER, DEFER_TASKRUN)", "run Linux 6.1 or later")
        }
        Some(libc::ENOMEM) => (
            "no memory for an io_uring",
            "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=infinity)",
        ),
        Some(libc::EMFILE | libc::ENFILE) => {
            ("no descriptor left for an io_uring", "raise the limit of open files (ulimit -n, LimitNOFILE=)")
        }
        _ => ("io_uring cannot be set up", "see the error; thermocline doctor tests each feature"),
    };
    Refusal::new(format!("{what}: {error}"), mend)
}
