//! The rejects file: one JSON line per row that is not in the store as it stands in the file.
//!
//! Invariant: an old file of the same name never passes for the rejects of this run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::file;
use crate::input::{Reason, Refusal};

/// Rows that were refused or met another value, counted and listed.
pub(super) struct Rejects {
    /// Where they are listed.
    place: PathBuf,
    open: Option<(PathBuf, BufWriter<File>)>,
    counts: BTreeMap<Reason, u64>,
}

/// A list that has something in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Rows by reason.
    pub(super) counts: BTreeMap<Reason, u64>,
}

/// The place by default: in the working folder, never beside the input: that may be somebody else's folder.
fn default_place(input: &Path) -> PathBuf {
    if input == Path::new("-") {
        return PathBuf::from("stdin.rejects.ndjson");
    }
    let mut name = input.file_name().unwrap_or_default().to_owned();
    name.push(".rejects.ndjson");
    PathBuf::from(name)
}

impl Rejects {
    /// Takes away what an earlier run left.
    ///
    /// # Errors
    /// An old file cannot be removed from the place that was asked for.
    pub(super) fn new(input: &Path, asked: Option<&Path>) -> Result<Rejects, Failure> {
        let place = asked.map_or_else(|| default_place(input), Path::to_owned);
        file::remove(&place)?;
        Ok(Rejects { place, open: None, counts: BTreeMap::new() })
    }

    /// Lists a row.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn add(&mut self, refusal: &Refusal) -> Result<(), Failure> {
        *self.counts.entry(refusal.reason).or_default() += 1;
        if self.open.is_none() {
            self.open = Some(self.create()?);
        }
        let (path, file) = self.open.as_mut().expect("just opened");
        serde_json::to_writer(&mut *file, refusal)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .map_err(|error| file::failure("write", path, &error))
    }

    fn create(&self) -> Result<(PathBuf, BufWriter<File>), Failure> {
        let file = file::create(&self.place).map_err(|failure| {
            Failure::failed(
                format!("rows were refused and there is no place to list them: {}", failure.what),
                "name a file that can be written with --rejects",
            )
        })?;
        Ok((self.place.clone(), BufWriter::new(file)))
    }

    /// Hands everything on; the file and what it holds by reason, when it holds anything.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn finish(self) -> Result<Option<Listed>, Failure> {
        let Some((path, mut file)) = self.open else { return Ok(None) };
        file.flush().map_err(|error| file::failure("write", &path, &error))?;
        Ok(Some(Listed { path, counts: self.counts }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_list_goes_and_a_new_one_comes_with_the_first_row() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.csv");
        let place = folder.path().join("list");
        drop(file::create(&place).unwrap());
        let rejects = Rejects::new(&input, Some(&place)).unwrap();
        assert!(!place.exists());
        assert_eq!(rejects.finish().unwrap(), None);
        let mut rejects = Rejects::new(&input, Some(&place)).unwrap();
        let refusal = Refusal::column(7, Reason::TimeWrong, "when", "\"x\" is no time", "write one");
        rejects.add(&refusal).unwrap();
        rejects.add(&refusal).unwrap();
        let counts = BTreeMap::from([(Reason::TimeWrong, 2)]);
        assert_eq!(rejects.finish().unwrap(), Some(Listed { path: place.clone(), counts }));
        let line = r#"{"line":7,"reason":"time_wrong","column":"when","what":"\"x\" is no time","mend":"write one"}"#;
        assert_eq!(file::text(&place).unwrap(), format!("{line}\n{line}\n"));
    }

    #[test]
    fn the_folder_of_the_input_is_left_alone() {
        assert_eq!(default_place(Path::new("/far/away/in.csv.zst")), Path::new("in.csv.zst.rejects.ndjson"));
        assert_eq!(default_place(Path::new("-")), Path::new("stdin.rejects.ndjson"));
    }

    #[test]
    fn without_a_place_the_import_ends() {
        let input = Path::new("/no such folder/in.csv");
        let mut rejects = Rejects::new(input, Some(Path::new("/no such folder/out"))).unwrap();
        let refusal = Refusal::row(1, Reason::Json, "no", "yes");
        assert!(rejects.add(&refusal).unwrap_err().mend.contains("--rejects"));
    }
}
