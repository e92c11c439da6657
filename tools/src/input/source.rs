//! Bytes of the input: a file or standard input, unpacked when they are zstd.
//!
//! Must never trust a name: what is packed is told by its first bytes. Invariant: an end is reported only where the
//! last zstd frame is complete, so a cut file is an error and not a short one.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use crate::failure::Failure;
use crate::file;

const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// A skippable zstd frame begins with one of 16 magics; some packers write one first.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Bytes read from the file at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// How far the reading has come, shared with whoever shows it.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// Bytes of the file read.
    pub(crate) read_bytes: Rc<Cell<u64>>,
    /// Bytes of the file; none for a pipe.
    pub(crate) file_bytes: Option<u64>,
}

/// The unpacked bytes of a file or of standard input.
pub(crate) struct Source {
    path: PathBuf,
    from: Box<dyn Read>,
    progress: Progress,
    /// Bytes read and not yet handed on.
    chunk: Vec<u8>,
    at: usize,
    zstd: Option<Zstd>,
    ended: bool,
    /// A pipe or terminal, whose reads may take their time.
    slow: Option<OwnedFd>,
    before_wait: Box<dyn Fn()>,
}

struct Zstd {
    context: DCtx<'static>,
    /// In the middle of a frame.
    inside: bool,
    /// The last step filled all the room it had: more may come out without more going in.
    full: bool,
}

/// True when nothing stands ready to be read.
fn would_wait(from: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    // Where it cannot be told, a read is taken to wait.
    !matches!(poll(&mut asked, PollTimeout::ZERO), Ok(1..))
}

impl Source {
    /// Opens `path`, `-` for standard input, and looks at its first bytes.
    ///
    /// # Errors
    /// It cannot be read, or is packed with something else than zstd.
    pub(crate) fn open(path: &Path) -> Result<Source, Failure> {
        let (file, file_bytes) = if path == Path::new("-") {
            let standard = std::io::stdin().as_fd().try_clone_to_owned();
            (standard.map(File::from).map_err(|error| file::failure("read", path, &error))?, None)
        } else {
            file::open(path)?
        };
        let slow = match file_bytes {
            Some(_) => None,
            None => Some(file.try_clone().map_err(|error| file::failure("read", path, &error))?.into()),
        };
        Ok(Source { slow, ..Source::new(path, Box::new(file), file_bytes)? })
    }

    /// Calls `hook` before each read that may have to wait for whoever writes the pipe.
    pub(crate) fn before_wait(&mut self, hook: impl Fn() + 'static) {
        self.before_wait = Box::new(hook);
    }

    /// As [`Source::open`], of anything that can be read; `path` is its name in messages.
    pub(crate) fn new(path: &Path, from: Box<dyn Read>, file_bytes: Option<u64>) -> Result<Source, Failure> {
        let progress = Progress { read_bytes: Rc::default(), file_bytes };
        let mut source = Source {
            path: path.to_owned(),
            from,
            progress,
            chunk: Vec::new(),
            at: 0,
            zstd: None,
            ended: false,
            slow: None,
            before_wait: Box::new(|| ()),
        };
        source.refill(ZSTD_MAGIC.len())?;
        let first = &source.chunk;
        if first.starts_with(&GZIP_MAGIC) {
            return Err(source
                .failure("is packed with gzip", "unpack it first: gzip -dc FILE | thermocline import -"));
        }
        let skippable = first.len() >= 4 && first[1..4] == ZSTD_SKIPPABLE && first[0] & 0xf0 == 0x50;
        if first.starts_with(&ZSTD_MAGIC) || skippable {
            let context = DCtx::try_create().ok_or_else(|| {
                source.failure("cannot be unpacked: no memory", "free memory and try again")
            })?;
            source.zstd = Some(Zstd { context, inside: false, full: false });
        }
        Ok(source)
    }

    /// How far the reading has come.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Its name in messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn failure(&self, what: impl std::fmt::Display, mend: &str) -> Failure {
        let name = if self.path == Path::new("-") { "standard input" } else { &self.path.to_string_lossy() };
        Failure::failed(format!("{name} {what}"), mend)
    }

    /// Reads until `bytes` are in the chunk or the file ends. Called with the chunk used up, or at the very start.
    fn refill(&mut self, bytes: usize) -> Result<(), Failure> {
        assert!(self.at == self.chunk.len(), "nothing read is dropped");
        self.chunk.resize(CHUNK_BYTES, 0);
        let mut filled = 0;
        while filled < bytes && !self.ended {
            if self.slow.as_ref().is_some_and(would_wait) {
                (self.before_wait)();
            }
            match self.from.read(&mut self.chunk[filled..]) {
                Ok(0) => self.ended = true,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    // Not an end: what was read so far may stop in the middle of a row.
                    if crate::interrupt::happened() {
                        return Err(self.failure("was not read on: interrupted", ""));
                    }
                }
                Err(error) => return Err(file::failure("read", &self.path, &error)),
            }
        }
        self.chunk.truncate(filled);
        self.at = 0;
        self.progress.read_bytes.set(self.progress.read_bytes.get() + filled as u64);
        Ok(())
    }

    /// Appends unpacked bytes to `out`; false at the end.
    ///
    /// # Errors
    /// The file cannot be read on, or its zstd is damaged, cut, or needs more memory than is given.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        loop {
            let full = self.zstd.as_ref().is_some_and(|zstd| zstd.full);
            if self.at == self.chunk.len() && !full {
                if !self.ended {
                    self.refill(1)?;
                }
                if self.at == self.chunk.len() {
                    return match &self.zstd {
                        Some(zstd) if zstd.inside => Err(self.failure(
                            "ends in the middle of a zstd frame",
                            "the file was cut: get it again; every row before was read",
                        )),
                        _ => Ok(false),
                    };
                }
            }
            if self.zstd.is_none() {
                out.extend_from_slice(&self.chunk[self.at..]);
                self.at = self.chunk.len();
                return Ok(true);
            }
            if self.unpack(out)? > 0 {
                return Ok(true);
            }
        }
    }

    /// One step of unpacking; how many bytes came out.
    fn unpack(&mut self, out: &mut Vec<u8>) -> Result<usize, Failure> {
        let zstd = self.zstd.as_mut().expect("called for zstd only");
        let before = out.len();
        out.resize(before + CHUNK_BYTES, 0);
        let mut input = InBuffer::around(&self.chunk[self.at..]);
        let mut output = OutBuffer::around(&mut out[before..]);
        let result = zstd.context.decompress_stream(&mut output, &mut input);
        let (consumed, written) = (input.pos(), output.pos());
        out.truncate(before + written);
        match result {
            Ok(hint) => {
                zstd.inside = hint != 0;
                zstd.full = written == CHUNK_BYTES;
                self.at += consumed;
                Ok(written)
            }
            Err(code) => {
                let why = zstd_safe::get_error_name(code);
                let at = self.progress.read_bytes.get() - (self.chunk.len() - self.at) as u64;
                Err(self.failure(
                    format_args!("cannot be unpacked near its byte {at}: {why}"),
                    "the zstd is damaged or its window is over 128 MiB: pack it again; every row before was read",
                ))
            }
        }
    }
}
