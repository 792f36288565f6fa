//! Which two revisions are compared.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::caller::{self, Caller};
use crate::failure::{Failure, printable};
use crate::git::Git;

/// The settings of the gate.
pub const SETTINGS: &str = "ci/regression.toml";
/// On the main branch itself, the base is the newest commit that is this much older than the head:
/// what was pushed together is judged together.
const PUSHED_WITHIN_S: i64 = 12 * 3600;
/// Files in these count although git does not know them yet: the programs and the settings follow
/// from them.
const SOURCES: [&str; 4] = ["proxy", "benches", ".cargo", "ci"];
/// The title of a commit that is made of what is not committed.
const WORKING_TREE: &str = "the working tree, with changes that are not committed";

/// Why another base was taken than the one that was asked for.
const FIRST: &str = "the first with a gate";

/// A clone of the project.
pub struct Repository {
    root: PathBuf,
    work: PathBuf,
    git: Git,
    caller: Option<Caller>,
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// All 40 digits.
    pub id: String,
    /// How it was found, or its title.
    pub title: String,
}

impl Revision {
    /// Enough digits to be found again.
    pub fn short(&self) -> &str {
        &self.id[..10]
    }

    /// What a person would call it: the commit of the working tree is known to nobody.
    pub fn called(&self) -> &str {
        if self.title == WORKING_TREE { "the working tree" } else { self.short() }
    }
}

impl Repository {
    /// The clone at `root`. Everything that the gate builds goes below `target/regression`.
    ///
    /// # Errors
    /// If it is none, or the folder cannot be made.
    pub fn open(root: &Path) -> Result<Repository, Failure> {
        // Cargo is started elsewhere.
        let root = &std::path::absolute(root)?;
        let caller = Caller::of(root);
        let git = Git::open(root, caller.clone())?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let work = root.join(target).join("regression");
        caller::make(&work.join("tree"), caller.as_ref())?;
        Ok(Repository { root: root.to_owned(), work, git, caller })
    }

    /// Where cargo builds this clone.
    pub fn target(&self) -> &Path {
        self.work.parent().expect("a folder in it")
    }

    /// Where builds, results and the history are.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Git in this clone.
    pub fn git(&self) -> &Git {
        &self.git
    }

    /// Whose files these are, if not this user's.
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// The commit that `name` names.
    ///
    /// # Errors
    /// If there is none.
    pub fn revision(&self, name: &str) -> Result<Revision, Failure> {
        let found = self.ask(&["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]);
        let id = found.map_err(|_| Failure::invalid(format!("git knows no commit `{name}`")))?;
        let title = self.ask(&["log", "-1", "--format=%s", &id])?;
        Ok(Revision { id, title: printable(&title) })
    }

    /// What is compared if nobody says: the commit at hand, with changes that are not committed.
    /// New files count if they are in a folder of sources and are not ignored.
    ///
    /// # Errors
    /// If a merge has conflicts that are not resolved, or git fails.
    pub fn head(&self) -> Result<Revision, Failure> {
        let head = self.revision("HEAD")?;
        let unmerged = self.ask(&["diff", "--name-only", "--diff-filter=U"])?;
        if !unmerged.is_empty() {
            return Err(Failure::invalid(format!(
                "the working tree has conflicts that are not resolved, in {}",
                unmerged.lines().collect::<Vec<_>>().join(", ")
            )));
        }
        let folder = tempfile::tempdir()?;
        if let Some(caller) = &self.caller {
            caller.own(folder.path())?;
        }
        // An index of its own: neither is the clone's changed, nor does it matter who locks it.
        let index = folder.path().join("index");
        let git = |arguments: &[&str]| self.git.run_with(&index, arguments);
        git(&["read-tree", "HEAD"])?;
        git(&["add", "--update", "--", ":/"])?;
        for folder in SOURCES.into_iter().filter(|folder| self.root.join(folder).exists()) {
            git(&["add", "--all", "--", folder])?;
        }
        let tree = git(&["write-tree"])?;
        if tree == self.ask(&["rev-parse", "HEAD^{tree}"])? {
            return Ok(head);
        }
        let author = ["-c", "user.name=ci/regression", "-c", "user.email=ci@regression.invalid"];
        let commit = ["commit-tree", &tree, "-p", "HEAD", "-m", WORKING_TREE];
        let id = self.ask(&[&author[..], &commit].concat())?;
        Ok(Revision { title: WORKING_TREE.into(), ..self.revision(&id)? })
    }

    /// Where the branch of `head` left the main branch; on the main branch itself, the newest
    /// commit that is half a day older; if there is none, the one before. But none from before the
    /// gate: what came before had no way to say that it is meant to cost. `None` if there is
    /// nothing before `head`.
    ///
    /// # Errors
    /// If git fails.
    pub fn base_of(&self, head: &Revision) -> Result<Option<(Revision, &'static str)>, Failure> {
        let Some((base, why)) = self.left_main(head)? else { return Ok(None) };
        let with_gate = self.with_gate(&base, head)?;
        Ok(with_gate.map(|with_gate| (with_gate.clone(), if with_gate == base { why } else { FIRST })))
    }

    /// The commit that somebody named, or the first with a gate after it, and why.
    ///
    /// # Errors
    /// If there is no such commit, or none with a gate between it and `head`.
    pub fn named_base(
        &self,
        name: &str,
        head: &Revision,
    ) -> Result<(Revision, Option<&'static str>), Failure> {
        let base = self.revision(name)?;
        match self.with_gate(&base, head)? {
            Some(with_gate) if with_gate == base => Ok((base, None)),
            Some(first) => Ok((first, Some(FIRST))),
            None => Err(Failure::invalid(format!(
                "`{name}` is from before the gate, and no commit between it and {} has {SETTINGS}",
                head.called()
            ))),
        }
    }

    /// `base` if it has the gate, else the first after it that has; `None` if that is `head`.
    fn with_gate(&self, base: &Revision, head: &Revision) -> Result<Option<Revision>, Failure> {
        if self.file(base, SETTINGS).is_some() {
            return Ok(Some(base.clone()));
        }
        let range = format!("{}..{}", base.id, head.id);
        let since =
            self.ask(&["log", "--format=%H", "--reverse", "--diff-filter=A", &range, "--", SETTINGS])?;
        match since.lines().next() {
            Some(first) if first != head.id => Ok(Some(self.revision(first)?)),
            Some(_) => Ok(None),
            // Neither has it: a history that knows nothing of the gate.
            None => Ok(Some(base.clone())),
        }
    }

    fn left_main(&self, head: &Revision) -> Result<Option<(Revision, &'static str)>, Failure> {
        for main in ["origin/main", "main"] {
            let Ok(base) = self.ask(&["merge-base", &head.id, main]) else { continue };
            if base != head.id {
                return Ok(Some((self.revision(&base)?, "where the branch left main")));
            }
            break;
        }
        let at: i64 =
            self.ask(&["log", "-1", "--format=%ct", &head.id])?.parse().map_err(io::Error::other)?;
        let before = format!("--before={}", at - PUSHED_WITHIN_S);
        let older = self.ask(&["rev-list", "-1", "--first-parent", &before, &head.id])?;
        if !older.is_empty() {
            return Ok(Some((self.revision(&older)?, "main as it was half a day before")));
        }
        let parent = self.revision(&format!("{}~1", head.id));
        Ok(parent.ok().map(|parent| (parent, "the commit before")))
    }

    /// The settings as they are in the folder of the clone.
    ///
    /// # Errors
    /// If there are none.
    pub fn settings(&self) -> Result<String, Failure> {
        fs::read_to_string(self.root.join(SETTINGS)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::invalid(format!(
                "{SETTINGS} is missing: neither the head has it nor the folder of the clone"
            )),
            _ => Failure::invalid(format!("{SETTINGS}: {error}")),
        })
    }

    /// A file as it was in a revision; `None` if it had none.
    pub fn file(&self, revision: &Revision, path: &str) -> Option<String> {
        self.ask(&["show", &format!("{}:{path}", revision.id)]).ok()
    }

    fn ask(&self, arguments: &[&str]) -> io::Result<String> {
        self.git.run(arguments)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::git::run;

    /// A repository with three commits, a day apart, and its folder.
    fn repository() -> (tempfile::TempDir, Repository) {
        let dir = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str], day: u32| {
            let date = format!("2026-01-0{day}T12:00:00Z");
            let mut git = Command::new("git");
            git.arg("-C").arg(dir.path());
            git.env("GIT_COMMITTER_DATE", &date).env("GIT_AUTHOR_DATE", &date);
            run(git.args(arguments)).unwrap()
        };
        git(&["init", "--quiet", "--initial-branch=main"], 1);
        for (key, value) in [("user.name", "a"), ("user.email", "a@b.example")] {
            git(&["config", key, value], 1);
        }
        for day in 1..4 {
            fs::write(dir.path().join("file"), day.to_string()).unwrap();
            git(&["add", "file"], day);
            git(&["commit", "--quiet", "-m", &format!("day {day}")], day);
        }
        git(&["checkout", "--quiet", "-b", "branch"], 3);
        git(&["commit", "--quiet", "--allow-empty", "-m", "on a branch"], 3);
        let work = dir.path().join("target");
        fs::create_dir_all(work.join("tree")).unwrap();
        let repository =
            Repository { root: dir.path().to_owned(), work, git: Git::known(dir.path()), caller: None };
        (dir, repository)
    }

    fn commit(repository: &Repository, title: &str) {
        repository.ask(&["add", "--all"]).unwrap();
        let mut git = repository.git.start();
        run(git.args(["commit", "--quiet", "--allow-empty", "-m", title])).unwrap();
    }

    fn base(repository: &Repository, head: &str) -> Option<String> {
        let head = repository.revision(head).unwrap();
        repository.base_of(&head).unwrap().map(|(base, _)| base.title)
    }

    #[test]
    fn a_branch_is_compared_with_where_it_left_main_and_main_with_itself_half_a_day_before() {
        let (_dir, repository) = repository();
        assert_eq!(base(&repository, "branch").as_deref(), Some("day 3"));
        assert_eq!(base(&repository, "main").as_deref(), Some("day 2"));
        assert_eq!(base(&repository, "main~2"), None);
    }

    #[test]
    fn nothing_from_before_the_gate_is_compared_with() {
        let (dir, repository) = repository();
        fs::create_dir(dir.path().join("ci")).unwrap();
        fs::write(dir.path().join(SETTINGS), "").unwrap();
        commit(&repository, "begin a gate");
        assert_eq!(base(&repository, "branch"), None);
        commit(&repository, "more");
        assert_eq!(base(&repository, "branch").as_deref(), Some("begin a gate"));
    }

    #[test]
    fn a_named_base_from_before_the_gate_is_the_first_with_one() {
        let (dir, repository) = repository();
        let named = |name: &str| {
            let head = repository.revision("HEAD").unwrap();
            repository.named_base(name, &head).map(|(base, why)| (base.title, why)).map_err(|e| e.code)
        };
        assert_eq!(named("main~1"), Ok(("day 2".into(), None)), "a history that knows nothing of a gate");
        fs::create_dir(dir.path().join("ci")).unwrap();
        fs::write(dir.path().join(SETTINGS), "").unwrap();
        commit(&repository, "begin a gate");
        assert_eq!(named("main~1"), Err(2));
        commit(&repository, "more");
        assert_eq!(named("main~1"), Ok(("begin a gate".into(), Some(FIRST))));
        assert_eq!(named("HEAD~1"), Ok(("begin a gate".into(), None)));
        assert_eq!(named(""), Err(2));
    }

    #[test]
    fn the_head_has_what_is_not_committed() {
        let (dir, repository) = repository();
        assert_eq!(repository.head().unwrap().title, "on a branch");
        fs::write(dir.path().join("notes"), "of no importance").unwrap();
        assert_eq!(repository.head().unwrap().title, "on a branch");
        fs::write(dir.path().join("file"), "changed").unwrap();
        // Whoever else works with the clone does not matter.
        fs::write(dir.path().join(".git/index.lock"), "").unwrap();
        let head = repository.head().unwrap();
        assert_eq!((head.title.as_str(), head.called()), (WORKING_TREE, "the working tree"));
        assert_eq!(repository.file(&head, "file").as_deref(), Some("changed"));
        assert_eq!(repository.file(&head, "no such file"), None);
        assert!(repository.revision("nowhere").unwrap_err().words.contains("`nowhere`"));
    }

    #[test]
    fn new_sources_count_and_ignored_ones_do_not() {
        let (dir, repository) = repository();
        fs::create_dir(dir.path().join("proxy")).unwrap();
        fs::write(dir.path().join("proxy/.gitignore"), "*.orig\n").unwrap();
        for name in ["new.rs", "new.rs.orig"] {
            fs::write(dir.path().join("proxy").join(name), "new").unwrap();
        }
        let head = repository.head().unwrap();
        assert_eq!(repository.file(&head, "proxy/new.rs").as_deref(), Some("new"));
        assert_eq!(repository.file(&head, "proxy/new.rs.orig"), None);
        // What is deleted is deleted, and the index of the clone is as it was.
        fs::remove_file(dir.path().join("file")).unwrap();
        assert_eq!(repository.file(&repository.head().unwrap(), "file"), None);
        assert_eq!(repository.ask(&["diff", "--cached", "--name-only"]).unwrap(), "");
    }

    #[test]
    fn conflicts_that_are_not_resolved_are_an_error_that_names_the_file() {
        let (dir, repository) = repository();
        fs::write(dir.path().join("file"), "ours").unwrap();
        commit(&repository, "ours");
        repository.ask(&["checkout", "--quiet", "-b", "other", "main"]).unwrap();
        fs::write(dir.path().join("file"), "theirs").unwrap();
        commit(&repository, "theirs");
        assert!(repository.ask(&["merge", "branch"]).is_err());
        let failure = repository.head().unwrap_err();
        assert_eq!((failure.code, failure.words.ends_with("in file")), (2, true), "{failure:?}");
    }

    #[test]
    fn a_title_cannot_speak_to_a_terminal() {
        let (_dir, repository) = repository();
        commit(&repository, "red \u{1b}[31m");
        assert_eq!(repository.revision("HEAD").unwrap().title, "red \u{fffd}[31m");
    }
}
