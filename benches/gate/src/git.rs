//! Git, in one clone.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::caller::Caller;
use crate::failure::Failure;

/// Runs git in a clone.
#[derive(Debug, Clone)]
pub struct Git {
    root: PathBuf,
    caller: Option<Caller>,
}

impl Git {
    /// Git in the clone at `root`, as `caller`.
    ///
    /// # Errors
    /// If there is no git, no clone, one of somebody else, or one without its history.
    pub fn open(root: &Path, caller: Option<Caller>) -> Result<Git, Failure> {
        let git = Git { root: root.to_owned(), caller };
        let shallow = git.run(&["rev-parse", "--is-shallow-repository"]).map_err(|error| {
            let words = error.to_string();
            Failure::cannot(if words.contains("dubious ownership") {
                format!(
                    "{} belongs to another user, so git does not read it: run this as its owner, or allow it \
                     with `git config --global --add safe.directory {}`",
                    root.display(),
                    root.display()
                )
            } else if words.contains("not a git repository") {
                format!("{} is no clone of the project: there is nothing to compare", root.display())
            } else {
                words
            })
        })?;
        if shallow == "true" {
            return Err(Failure::cannot("this clone is shallow: fetch its history (fetch-depth: 0)"));
        }
        Ok(git)
    }

    /// Git in the clone at `root`, which is known to be one.
    #[cfg(test)]
    pub fn known(root: &Path) -> Git {
        Git { root: root.to_owned(), caller: None }
    }

    /// A program of the compiler, as whoever owns the clone. If they have no right to run it, which
    /// is so if only root has a compiler, it is run as root.
    pub fn compiler(&self, program: &str) -> Command {
        let version = |command: &mut Command| run(command.arg("--version")).is_ok();
        let mut command = Command::new(program);
        if let Some(caller) = &self.caller
            && version(caller.becomes(&mut Command::new("rustc")))
        {
            caller.becomes(&mut command);
        }
        command
    }

    /// Git, as whoever owns the clone and without arguments yet.
    pub fn start(&self) -> Command {
        let mut git = Command::new("git");
        if let Some(caller) = &self.caller {
            caller.becomes(&mut git);
        }
        git.arg("-C").arg(&self.root);
        git
    }

    /// What git says to `arguments`.
    ///
    /// # Errors
    /// What it says if it fails.
    pub fn run(&self, arguments: &[&str]) -> io::Result<String> {
        run(self.start().args(arguments))
    }

    /// The same, with an index of its own.
    ///
    /// # Errors
    /// What it says if it fails.
    pub fn run_with(&self, index: &Path, arguments: &[&str]) -> io::Result<String> {
        run(self.start().args(arguments).env("GIT_INDEX_FILE", index))
    }

    /// The digits of the hash of `text`.
    ///
    /// # Errors
    /// If git cannot be run.
    pub fn hash(&self, text: &str) -> io::Result<String> {
        let mut hash = self.start();
        hash.args(["hash-object", "--stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut hash = hash.spawn()?;
        hash.stdin.take().expect("it is piped").write_all(text.as_bytes())?;
        let said = hash.wait_with_output()?;
        Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }
}

/// What `command` says.
///
/// # Errors
/// If it is missing; what it says if it fails.
pub fn run(command: &mut Command) -> io::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|error| cannot_start(&program, &error))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let arguments: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    Err(io::Error::other(format!("{program} {}: {}", arguments.join(" "), said.trim())))
}

/// Says why `program` could not be started.
pub fn cannot_start(program: &str, error: &io::Error) -> io::Error {
    let words = if error.kind() == io::ErrorKind::NotFound {
        format!("{program} is not installed, or not in PATH")
    } else {
        format!("{program} cannot be started: {error}")
    };
    io::Error::new(error.kind(), words)
}
