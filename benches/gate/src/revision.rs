//! Which two revisions are compared, and their programs.
//!
//! Both are built in one tree, one after the other: a checkout touches only the files that differ,
//! so the second build compiles only what they concern, and code that is the same becomes the same
//! program to the last byte. (In two folders it would not: their paths are in the program.) Git is
//! told of the tree by an index of its own, so `git worktree list` stays as it is.
//!
//! The kernels of the head are built against the proxy of both, so that both are measured by the
//! same yardstick. If the base's proxy has another interface, its own kernels are taken.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the kernels are, from the root of the repository.
const KERNELS: &str = "benches/kernels";
/// The settings of the gate.
pub const SETTINGS: &str = "ci/regression.toml";
/// On the main branch itself, the base is the newest commit that is this much older than the head:
/// what was pushed together is judged together.
const PUSHED_WITHIN_S: i64 = 12 * 3600;

/// A clone of the project.
pub struct Repository {
    root: PathBuf,
    work: PathBuf,
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
}

/// The programs of a revision.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The sidecar.
    pub proxy: PathBuf,
    /// The kernels, if they can be built.
    pub kernels: Option<PathBuf>,
    /// What all of it was built from: equal keys are equal programs.
    pub key: String,
}

impl Repository {
    /// The clone at `root`. Everything that the gate builds goes below `target/regression`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(root: &Path) -> io::Result<Repository> {
        let work = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let work = root.join(work).join("regression");
        fs::create_dir_all(work.join("tree"))?;
        Ok(Repository { root: root.to_owned(), work })
    }

    /// Where builds, results and the history are.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The commit that `name` names.
    ///
    /// # Errors
    /// If there is none.
    pub fn revision(&self, name: &str) -> io::Result<Revision> {
        let id = self.git(&["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]);
        let id = id.map_err(|_| io::Error::other(format!("git knows no commit `{name}`")))?;
        let title = self.git(&["log", "-1", "--format=%s", &id])?;
        Ok(Revision { id, title })
    }

    /// What is compared if nobody says: the commit at hand, with changes that are not committed.
    ///
    /// # Errors
    /// If this is no clone.
    pub fn head(&self) -> io::Result<Revision> {
        let stash = self.git(&["stash", "create"]).unwrap_or_default();
        if stash.is_empty() {
            return self.revision("HEAD");
        }
        Ok(Revision {
            title: "the working tree, with changes that are not committed".into(),
            ..self.revision(&stash)?
        })
    }

    /// Where the branch of `head` left the main branch; on the main branch itself, the newest
    /// commit that is half a day older; if there is none, the one before. But none from before the
    /// gate: what came before had no way to say that it is meant to cost. `None` if there is
    /// nothing before `head`.
    ///
    /// # Errors
    /// If this is no clone.
    pub fn base_of(&self, head: &Revision) -> io::Result<Option<(Revision, &'static str)>> {
        let Some((base, why)) = self.left_main(head)? else { return Ok(None) };
        if self.file(&base, SETTINGS).is_some() {
            return Ok(Some((base, why)));
        }
        let range = format!("{}..{}", base.id, head.id);
        let since =
            self.git(&["log", "--format=%H", "--reverse", "--diff-filter=A", &range, "--", SETTINGS])?;
        match since.lines().next() {
            Some(first) if first != head.id => Ok(Some((self.revision(first)?, "the first with a gate"))),
            Some(_) => Ok(None),
            // Neither has it: a history that knows nothing of the gate.
            None => Ok(Some((base, why))),
        }
    }

    fn left_main(&self, head: &Revision) -> io::Result<Option<(Revision, &'static str)>> {
        for main in ["origin/main", "main"] {
            let Ok(base) = self.git(&["merge-base", &head.id, main]) else { continue };
            if base != head.id {
                return Ok(Some((self.revision(&base)?, "where the branch left main")));
            }
            break;
        }
        let at: i64 =
            self.git(&["log", "-1", "--format=%ct", &head.id])?.parse().map_err(io::Error::other)?;
        let before = format!("--before={}", at - PUSHED_WITHIN_S);
        let older = self.git(&["rev-list", "-1", "--first-parent", &before, &head.id])?;
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
    pub fn settings(&self) -> io::Result<String> {
        let path = self.root.join(SETTINGS);
        fs::read_to_string(&path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    }

    /// A file as it was in a revision; `None` if it had none.
    pub fn file(&self, revision: &Revision, path: &str) -> Option<String> {
        self.git(&["show", &format!("{}:{path}", revision.id)]).ok()
    }

    /// Builds the programs of `revision` with the kernels of `yardstick`, or takes those that were
    /// built before.
    ///
    /// # Errors
    /// If the sidecar cannot be built.
    pub fn build(
        &self,
        revision: &Revision,
        yardstick: &Revision,
        tell: impl Fn(&str),
    ) -> io::Result<Programs> {
        let key = self.key(revision, yardstick)?;
        let dir = self.work.join("built").join(&key);
        let programs = |dir: &Path| {
            let kernels = Some(dir.join("kernels")).filter(|path| path.exists());
            Programs { proxy: dir.join("proxy"), kernels, key: key.clone() }
        };
        if dir.join("proxy").exists() {
            return Ok(programs(&dir));
        }
        tell(&format!("building {} {}", revision.short(), revision.title));
        let has_kernels = self.compile(revision, yardstick, tell)?;
        let fresh = tempfile::tempdir_in(&self.work)?;
        for name in ["kernels", "proxy"] {
            if name == "proxy" || has_kernels {
                fs::copy(self.work.join("target/release").join(name), fresh.path().join(name))?;
            }
        }
        fs::create_dir_all(self.work.join("built"))?;
        let fresh = fresh.keep();
        // Others must be able to run it: sidecars have users of their own.
        fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        fs::rename(fresh, &dir)?;
        Ok(programs(&dir))
    }

    /// Compiles the sidecar, and the kernels if that can be done; whether it could.
    fn compile(&self, revision: &Revision, yardstick: &Revision, tell: impl Fn(&str)) -> io::Result<bool> {
        let tree = self.work.join("tree");
        let check_out = || self.git_of_tree(&["read-tree", "--reset", "-u", &revision.id]);
        check_out()?;
        let own = tree.join(KERNELS).exists();
        if revision == yardstick {
            self.cargo(&tree, if own { &["kernels", "proxy"] } else { &["proxy"] }, false)?;
            return Ok(own);
        }
        if self.lay(yardstick, &tree)? && self.cargo(&tree, &["kernels", "proxy"], true).is_ok() {
            return Ok(true);
        }
        check_out()?;
        if own && self.cargo(&tree, &["kernels", "proxy"], true).is_ok() {
            tell("its proxy has another interface than the head's kernels need: its own are taken");
            return Ok(true);
        }
        tell("it has no kernels, and those of the head need another interface than its proxy has");
        self.cargo(&tree, &["proxy"], false).map(|()| false)
    }

    /// Lays the kernels of `yardstick` over the tree. False if it has none.
    fn lay(&self, yardstick: &Revision, tree: &Path) -> io::Result<bool> {
        if self.git(&["cat-file", "-e", &format!("{}:{KERNELS}", yardstick.id)]).is_err() {
            return Ok(false);
        }
        let _ = self.git_of_tree(&["rm", "-r", "--quiet", "--ignore-unmatch", "--force", KERNELS]);
        self.git_of_tree(&["checkout", &yardstick.id, "--", KERNELS])?;
        let manifest = tree.join("Cargo.toml");
        let text = fs::read_to_string(&manifest)?;
        if let Some(with) = with_member(&text, KERNELS) {
            fs::write(&manifest, with)?;
        }
        Ok(true)
    }

    fn cargo(&self, tree: &Path, packages: &[&str], quiet: bool) -> io::Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--release", "--quiet"]).current_dir(tree);
        build.env("CARGO_TARGET_DIR", self.work.join("target")).env("CARGO_INCREMENTAL", "0");
        for package in packages {
            build.args(["--package", package]);
        }
        if quiet {
            build.stderr(Stdio::null());
        }
        let done = build.stdout(Stdio::null()).status()?;
        if done.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("{} cannot be built", packages.join(" and "))))
        }
    }

    /// Of all that the programs follow from.
    fn key(&self, revision: &Revision, yardstick: &Revision) -> io::Result<String> {
        let mut parts = vec![run(Command::new("rustc").arg("-V"))?];
        for path in ["proxy/src", "proxy/Cargo.toml", "Cargo.toml", "Cargo.lock", ".cargo"] {
            parts.push(self.git(&["rev-parse", &format!("{}:{path}", revision.id)]).unwrap_or_default());
        }
        parts.push(self.git(&["rev-parse", &format!("{}:{KERNELS}", yardstick.id)]).unwrap_or_default());
        let mut hash = self.command();
        hash.args(["hash-object", "--stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut hash = hash.spawn()?;
        io::Write::write_all(&mut hash.stdin.take().expect("it is piped"), parts.join("\n").as_bytes())?;
        let said = hash.wait_with_output()?;
        Ok(String::from_utf8_lossy(&said.stdout).trim()[..16].to_owned())
    }

    fn command(&self) -> Command {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.root);
        git
    }

    fn git(&self, arguments: &[&str]) -> io::Result<String> {
        run(self.command().args(arguments))
    }

    fn git_of_tree(&self, arguments: &[&str]) -> io::Result<String> {
        let tree = self.work.join("tree");
        let mut git = self.command();
        git.arg("--work-tree").arg(tree).env("GIT_INDEX_FILE", self.work.join("index"));
        run(git.args(arguments))
    }
}

fn run(command: &mut Command) -> io::Result<String> {
    let done = command.output()?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("{command:?}: {}", said.trim())))
}

/// The manifest of a workspace with one more member; `None` if it has it, or lists none.
fn with_member(manifest: &str, member: &str) -> Option<String> {
    let begins = manifest.find("\nmembers = [")? + "\nmembers = [".len();
    let listed = &manifest[begins..begins + manifest[begins..].find(']')?];
    let quoted = format!("\"{member}\"");
    (!listed.contains(&quoted)).then(|| format!("{}{quoted}, {}", &manifest[..begins], &manifest[begins..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_added_once() {
        let manifest = "[workspace]\nresolver = \"3\"\nmembers = [\"proxy\", \"benches\"]\n";
        let with = with_member(manifest, "benches/kernels").unwrap();
        assert!(with.contains("members = [\"benches/kernels\", \"proxy\", \"benches\"]"), "{with}");
        assert_eq!(with_member(&with, "benches/kernels"), None);
        assert_eq!(with_member("[package]\n", "benches/kernels"), None);
    }

    /// A repository with three commits, a day apart, and its folder.
    fn repository() -> (tempfile::TempDir, Repository) {
        let dir = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str], day: u32| {
            let date = format!("2026-01-0{day}T12:00:00Z");
            let mut git = Command::new("git");
            git.arg("-C").arg(dir.path()).args(["-c", "user.name=a", "-c", "user.email=a@b.example"]);
            git.env("GIT_COMMITTER_DATE", &date).env("GIT_AUTHOR_DATE", &date);
            run(git.args(arguments)).unwrap()
        };
        git(&["init", "--quiet", "--initial-branch=main"], 1);
        for day in 1..4 {
            fs::write(dir.path().join("file"), day.to_string()).unwrap();
            git(&["add", "file"], day);
            git(&["commit", "--quiet", "-m", &format!("day {day}")], day);
        }
        git(&["checkout", "--quiet", "-b", "branch"], 3);
        git(&["commit", "--quiet", "--allow-empty", "-m", "on a branch"], 3);
        let work = dir.path().join("target");
        fs::create_dir_all(work.join("tree")).unwrap();
        let repository = Repository { root: dir.path().to_owned(), work };
        (dir, repository)
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
        let commit = |title: &str| {
            let mut git = Command::new("git");
            git.arg("-C").arg(dir.path()).args(["-c", "user.name=a", "-c", "user.email=a@b.example"]);
            run(git.args(["commit", "--quiet", "--allow-empty", "-m", title])).unwrap();
        };
        fs::create_dir(dir.path().join("ci")).unwrap();
        fs::write(dir.path().join(SETTINGS), "").unwrap();
        repository.git(&["add", SETTINGS]).unwrap();
        commit("begin a gate");
        assert_eq!(base(&repository, "branch"), None);
        commit("more");
        assert_eq!(base(&repository, "branch").as_deref(), Some("begin a gate"));
    }

    #[test]
    fn the_head_has_what_is_not_committed() {
        let (dir, repository) = repository();
        assert_eq!(repository.head().unwrap().title, "on a branch");
        fs::write(dir.path().join("file"), "changed").unwrap();
        let head = repository.head().unwrap();
        assert!(head.title.contains("not committed"), "{head:?}");
        assert_eq!(repository.file(&head, "file").as_deref(), Some("changed"));
        assert_eq!(repository.file(&head, "no such file"), None);
        assert!(repository.revision("nowhere").unwrap_err().to_string().contains("`nowhere`"));
    }
}
