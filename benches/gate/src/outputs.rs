//! The files that a comparison is written to.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::caller::{self, Caller};
use crate::failure::Failure;
use crate::report::{self, Comparison};

/// Where to write what.
pub struct Outputs<'a> {
    /// Everything.
    pub json: Option<&'a Path>,
    /// A comment for a pull request.
    pub markdown: Option<&'a Path>,
    /// The trend.
    pub html: Option<&'a Path>,
    /// A folder with all comparisons.
    pub history: PathBuf,
    /// Whose these files are, if not this user's.
    pub caller: Option<Caller>,
}

impl Outputs<'_> {
    /// Finds out whether all of them can be written, before there is something to lose.
    ///
    /// # Errors
    /// Names each that cannot.
    pub fn check(&self) -> Result<(), Failure> {
        let files = [self.json, self.markdown, self.html].into_iter().flatten();
        let failures: Vec<String> = files
            .map(|path| (path, writable(path)))
            .chain([(self.history.as_path(), self.history_is_writable())])
            .filter_map(|(path, tried)| tried.err().map(|error| cannot_write(path, &error)))
            .collect();
        if failures.is_empty() { Ok(()) } else { Err(Failure::cannot(failures.join("\n"))) }
    }

    fn history_is_writable(&self) -> io::Result<()> {
        caller::make(&self.history, self.caller.as_ref())?;
        tempfile::tempfile_in(&self.history).map(drop)
    }

    /// Writes all of them, whatever becomes of the others. A comparison without findings is nothing
    /// that a trend is made of, so the history does not get it.
    ///
    /// # Errors
    /// Names each that could not be written.
    pub fn write(&self, comparison: &Comparison, tell: impl Fn(&str)) -> Result<(), Vec<String>> {
        let mut failures = Vec::new();
        let mut write = |path: Option<&Path>, text: &dyn Fn() -> io::Result<Vec<u8>>| {
            let Some(path) = path else { return };
            let written = text().and_then(|text| fs::write(path, text));
            let owned = written.and_then(|()| self.caller.as_ref().map_or(Ok(()), |c| c.own(path)));
            failures.extend(owned.err().map(|error| cannot_write(path, &error)));
        };
        write(self.json, &|| Ok(serde_json::to_vec_pretty(comparison)?));
        write(self.markdown, &|| Ok(report::markdown::text(comparison).into_bytes()));
        let kept = if comparison.findings.is_empty() { Ok(()) } else { comparison.keep(&self.history) };
        let owned = kept.and_then(|()| self.caller.as_ref().map_or(Ok(()), |c| c.own(&self.history)));
        write(self.html, &|| Ok(report::html::page(&Comparison::kept(&self.history, &tell)?).into_bytes()));
        failures.extend(owned.err().map(|error| cannot_write(&self.history, &error)));
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }
}

/// Leaves no trace of having tried.
fn writable(path: &Path) -> io::Result<()> {
    let existed = fs::symlink_metadata(path).is_ok();
    File::options().append(true).create(true).open(path)?;
    if existed { Ok(()) } else { fs::remove_file(path) }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples::comparison;

    #[test]
    fn what_cannot_be_written_is_named_before_and_after_and_the_rest_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let [json, nowhere] = ["out.json", "no/such/folder.html"].map(|name| folder.path().join(name));
        let history = folder.path().join("a/history");
        let outputs =
            Outputs { json: Some(&json), markdown: None, html: Some(&nowhere), history, caller: None };
        let failure = outputs.check().unwrap_err();
        assert!(failure.code == 3 && failure.words.contains("no/such/folder.html: "), "{failure:?}");
        assert!(!json.exists(), "it was only tried");
        let failures = outputs.write(&comparison(), |_| {}).unwrap_err();
        assert!(failures.len() == 1 && failures[0].contains("no/such/folder.html: "), "{failures:?}");
        assert!(json.exists());
        assert_eq!(Comparison::kept(&outputs.history, |_| {}).unwrap().len(), 1);
    }
}
