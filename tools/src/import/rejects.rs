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
    /// Where they are listed, best place first.
    places: Vec<PathBuf>,
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

/// The place by default: beside the input, and in the working folder when that cannot be written.
fn default_places(input: &Path) -> Vec<PathBuf> {
    if input == Path::new("-") {
        return vec![PathBuf::from("stdin.rejects.ndjson")];
    }
    let mut name = input.file_name().unwrap_or_default().to_owned();
    name.push(".rejects.ndjson");
    let beside = input.with_file_name(&name);
    let here = PathBuf::from(name);
    if beside == here { vec![here] } else { vec![beside, here] }
}

impl Rejects {
    /// Takes away what an earlier run left.
    ///
    /// # Errors
    /// An old file cannot be removed from the place that was asked for.
    pub(super) fn new(input: &Path, asked: Option<&Path>) -> Result<Rejects, Failure> {
        let places = match asked {
            Some(path) => {
                file::remove(path)?;
                vec![path.to_owned()]
            }
            None => {
                let places = default_places(input);
                // One that cannot be removed cannot be written either: the other place is taken then.
                places.into_iter().filter(|place| file::remove(place).is_ok()).collect()
            }
        };
        Ok(Rejects { places, open: None, counts: BTreeMap::new() })
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
        let mut failed = None;
        for place in &self.places {
            match file::create(place) {
                Ok(file) => return Ok((place.clone(), BufWriter::new(file))),
                Err(failure) => failed = Some(failure),
            }
        }
        let failed = failed.map_or_else(String::new, |failure| format!(": {}", failure.what));
        Err(Failure::failed(
            format!("rows were refused and there is no place to list them{failed}"),
            "name a file that can be written with --rejects",
        ))
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
        let beside = folder.path().join("in.csv.rejects.ndjson");
        drop(file::create(&beside).unwrap());
        let rejects = Rejects::new(&input, None).unwrap();
        assert!(!beside.exists());
        assert_eq!(rejects.finish().unwrap(), None);
        let mut rejects = Rejects::new(&input, None).unwrap();
        let refusal = Refusal::column(7, Reason::TimeWrong, "when", "\"x\" is no time", "write one");
        rejects.add(&refusal).unwrap();
        rejects.add(&refusal).unwrap();
        let counts = BTreeMap::from([(Reason::TimeWrong, 2)]);
        assert_eq!(rejects.finish().unwrap(), Some(Listed { path: beside.clone(), counts }));
        let line = r#"{"line":7,"reason":"time_wrong","column":"when","what":"\"x\" is no time","mend":"write one"}"#;
        assert_eq!(file::text(&beside).unwrap(), format!("{line}\n{line}\n"));
    }

    #[test]
    fn without_a_place_the_import_ends() {
        let input = Path::new("/no such folder/in.csv");
        let mut rejects = Rejects::new(input, Some(Path::new("/no such folder/out"))).unwrap();
        let refusal = Refusal::row(1, Reason::Json, "no", "yes");
        assert!(rejects.add(&refusal).unwrap_err().mend.contains("--rejects"));
    }
}
