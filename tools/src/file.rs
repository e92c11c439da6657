//! The files that people name on the command line: input, output, config. Not the disks; those are ioengine's.
//!
//! Owns every opening of such a file, so that each error says which file, what happened and what to do. Must never
//! leave half an output under its final name: what is written whole is written beside it and renamed.

#![expect(
    clippy::disallowed_methods,
    reason = "the one door of the binary to the user's own files; no part of a node"
)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// What to do about an error of a file.
fn mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check who may read and write it (ls -l), or choose another place",
        io::ErrorKind::IsADirectory => "name a file, not a folder",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space there, or choose another place"
        }
        io::ErrorKind::ReadOnlyFilesystem => "choose a place that can be written",
        _ => "check the path and the device under it (dmesg)",
    }
}

/// A failure of `doing` with a file.
pub(crate) fn failure(doing: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {doing} {}: {error}", path.display()), mend(error))
}

/// Opens a file to read it; its size in bytes when it is a plain file.
///
/// # Errors
/// The file is not there, is a folder, or may not be read.
pub(crate) fn open(path: &Path) -> Result<(File, Option<u64>), Failure> {
    let failed = |error| failure("read", path, &error);
    let file = File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    if facts.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    Ok((file, facts.is_file().then_some(facts.len())))
}

/// The text of a small file.
///
/// # Errors
/// As [`open`], or it is not UTF-8.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| failure("read", path, &error))
}

/// The bytes of a file of at most `bytes_max` bytes.
///
/// # Errors
/// As [`open`], or it is longer.
pub(crate) fn bytes(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let (file, _) = open(path)?;
    up_to(file, bytes_max).map_err(|error| failure("read", path, &error))
}

/// Bytes of a part of a file, from `offset` on: fewer where it ends before.
///
/// # Errors
/// Reading failed.
pub(crate) fn part(file: &File, path: &Path, offset: u64, bytes: u64) -> Result<Vec<u8>, Failure> {
    let failed = |error| failure("read", path, &error);
    let mut from = file;
    io::Seek::seek(&mut from, io::SeekFrom::Start(offset)).map_err(failed)?;
    let mut part = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(from, bytes), &mut part).map_err(failed)?;
    Ok(part)
}

/// Everything that `from` gives, at most `bytes_max` bytes.
///
/// # Errors
/// Reading failed, or there is more.
pub(crate) fn up_to(from: impl io::Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = bytes_max as u64 + 1;
    io::Read::read_to_end(&mut from.take(limit), &mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Creates a file, or empties the one that is there.
///
/// # Errors
/// The folder is not there or may not be written.
pub(crate) fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| failure("write", path, &error))
}

/// Removes a file; that it is not there is fine.
///
/// # Errors
/// It is there and cannot be removed.
pub(crate) fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failure("remove", path, &error)),
        _ => Ok(()),
    }
}

/// True when something stands there.
pub(crate) fn exists(path: &Path) -> bool {
    path.exists()
}

/// Length of a file; 0 where there is none.
pub(crate) fn bytes_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |facts| facts.len())
}

/// Makes a folder and those above it, unless they are there.
///
/// # Errors
/// It cannot be made.
pub(crate) fn create_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| failure("make the folder", path, &error))
}

/// Gives a file its name, durably.
///
/// # Errors
/// The name could not be written.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).and_then(|()| sync_folder(to)).map_err(|error| failure("write", to, &error))
}

/// The links of a folder, in the order of their names, and what each leads to; none where there is no such folder.
pub(crate) fn links(path: &Path) -> Vec<(PathBuf, PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut links: Vec<(PathBuf, PathBuf)> =
        entries.filter_map(|name| fs::canonicalize(&name).ok().map(|target| (name, target))).collect();
    links.sort();
    links
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// A file that appears under its name only when it is whole.
pub(crate) struct Whole {
    path: PathBuf,
    beside: PathBuf,
    file: io::BufWriter<File>,
    done: bool,
}

impl Whole {
    /// Begins to write beside `path`.
    ///
    /// # Errors
    /// The folder is not there or may not be written.
    pub(crate) fn create(path: &Path) -> Result<Whole, Failure> {
        let mut name = path.file_name().map(|name| name.to_owned()).unwrap_or_default();
        name.push(format!(".{}.part", std::process::id()));
        let beside = path.with_file_name(name);
        let file = io::BufWriter::with_capacity(1 << 20, create(&beside)?);
        Ok(Whole { path: path.to_owned(), beside, file, done: false })
    }

    /// Makes the bytes durable, then gives them their name.
    ///
    /// # Errors
    /// The bytes or the name could not be written; nothing stands under the name then that did not before.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let sync = |whole: &mut Whole| {
            whole.file.flush()?;
            whole.file.get_ref().sync_all()?;
            fs::rename(&whole.beside, &whole.path)?;
            whole.done = true;
            sync_folder(&whole.path)
        };
        sync(&mut self).map_err(|error| failure("write", &self.path, &error))
    }
}

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.done {
            // Half an output is of no use; that it cannot be removed changes nothing for whoever asked.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_appears_at_the_end_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let count = || fs::read_dir(folder.path()).unwrap().count();
        let mut given_up = Whole::create(&path).unwrap();
        given_up.write_all(b"half").unwrap();
        assert_eq!((count(), path.exists()), (1, false));
        drop(given_up);
        assert_eq!(count(), 0);
        let mut whole = Whole::create(&path).unwrap();
        whole.write_all(b"whole").unwrap();
        whole.finish().unwrap();
        assert_eq!((count(), fs::read(&path).unwrap()), (1, b"whole".to_vec()));
    }

    #[test]
    fn errors_name_the_file_and_what_to_do() {
        let failure = open(Path::new("/no such file")).unwrap_err();
        assert!(failure.to_string().contains("/no such file") && !failure.mend.is_empty());
        assert!(open(Path::new("/")).unwrap_err().mend.contains("not a folder"));
        assert!(up_to(&b"123"[..], 2).is_err());
        assert_eq!(up_to(&b"123"[..], 3).unwrap(), b"123");
    }
}
