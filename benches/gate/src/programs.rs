//! The programs of the revisions.
//!
//! Both are built in one tree, one after the other: a checkout touches only the files that differ,
//! so the second build compiles only what they concern, and code that is the same becomes the same
//! program to the last byte. (In two folders it would not: their paths are in the program.) Git is
//! told of the tree by an index of its own, so `git worktree list` stays as it is.
//!
//! The kernels of the head are built against the proxy of both, so that both are measured by the
//! same yardstick. If the base's proxy has another interface, its own kernels are taken.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::failure::Failure;
use crate::git::{cannot_start, run};
use crate::revision::{Repository, Revision};

/// Where the kernels are, from the root of the repository.
const KERNELS: &str = "benches/kernels";
/// Of what cargo says if it fails, as many of the last lines are passed on.
const LAST_LINES: usize = 30;

/// The programs of a revision.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The sidecar.
    pub proxy: PathBuf,
    /// The kernels, if they can be built.
    pub kernels: Option<PathBuf>,
}

/// How programs are optimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Optimisation {
    /// As people get them. Only of these the time is measured.
    Released,
    /// As tests are built, of whose build they take the dependencies: only the sidecar and the
    /// kernels are compiled, optimised but without link-time optimisation. They take more
    /// instructions than what is released, those of both revisions alike.
    Counted,
}

impl Optimisation {
    /// What cargo is told; no revision need know of it. All of the workspace is selected where
    /// dependencies are shared, since their features follow from what is selected.
    fn arguments(self) -> Vec<String> {
        if self == Optimisation::Released {
            return vec!["--release".into()];
        }
        // The package `tests` asks for the places where a mutant can be turned on.
        let mut arguments = vec!["--workspace".into(), "--exclude=tests".into()];
        for package in ["proxy", "kernels"] {
            // More units than there are modules, so that each module is one. If fewer are asked
            // for, the compiler joins the smallest, and a change of one moves others into other
            // units. What is inlined there changes with them: up to 5 % of a kernel's instructions
            // and 2 % of a request's, in code that nobody touched. One unit for all knows of no
            // such chance either, but takes twice as long.
            let settings =
                ["opt-level=3", "codegen-units=4096", "debug-assertions=false", "overflow-checks=false"];
            arguments.extend(settings.map(|set| format!("--config=profile.dev.package.{package}.{set}")));
        }
        arguments
    }

    /// How one of the programs is selected.
    fn selects(self) -> &'static str {
        match self {
            Optimisation::Released => "--package",
            Optimisation::Counted => "--bin",
        }
    }

    /// The folder that cargo puts its programs into.
    fn folder(self) -> &'static str {
        match self {
            Optimisation::Released => "release",
            Optimisation::Counted => "debug",
        }
    }
}

/// The tree in which programs are built, and nobody else's as long as this lives.
pub struct Builder<'r> {
    repository: &'r Repository,
    optimisation: Optimisation,
    locked: Flock<File>,
}

impl<'r> Builder<'r> {
    /// Waits until no other comparison uses the tree, and says so.
    ///
    /// # Errors
    /// If the tree cannot be made.
    pub fn lock(
        repository: &'r Repository,
        optimisation: Optimisation,
        tell: impl Fn(&str),
    ) -> io::Result<Builder<'r>> {
        let work = repository.work();
        let path = work.join("lock");
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).or_else(|(mut file, error)| {
            if error != Errno::EWOULDBLOCK {
                return Err(error);
            }
            let mut process = String::new();
            let _ = file.read_to_string(&mut process);
            tell(&format!("waiting: another comparison runs in this clone (process {})", process.trim()));
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)
        });
        let mut locked = locked.map_err(io::Error::from)?;
        locked.set_len(0)?;
        locked.rewind()?;
        writeln!(locked, "{}", std::process::id())?;
        // What a run left that was killed.
        let _ = fs::remove_file(work.join("index.lock"));
        for entry in fs::read_dir(work)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".tmp") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        if let Some(caller) = repository.caller() {
            caller.own(work)?;
        }
        Ok(Builder { repository, optimisation, locked })
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
    ) -> Result<Programs, Failure> {
        let work = self.repository.work();
        let key = key(self.repository, self.optimisation, revision, yardstick)?;
        let dir = work.join("programs").join(key);
        let programs = |dir: &Path| {
            let kernels = Some(dir.join("kernels")).filter(|path| path.exists());
            Programs { proxy: dir.join("proxy"), kernels }
        };
        if dir.join("proxy").exists() {
            return Ok(programs(&dir));
        }
        tell(&format!("building {} {}", revision.short(), revision.title));
        let has_kernels = self.compile(revision, yardstick, tell)?;
        let fresh = tempfile::tempdir_in(work)?;
        for name in ["kernels", "proxy"] {
            if name == "proxy" || has_kernels {
                let built = work.join("target").join(self.optimisation.folder()).join(name);
                fs::copy(built, fresh.path().join(name))?;
            }
        }
        fs::create_dir_all(work.join("programs"))?;
        let fresh = fresh.keep();
        // Others must be able to run it: sidecars have users of their own.
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        fs::rename(fresh, &dir)?;
        if let Some(caller) = self.repository.caller() {
            caller.own(&work.join("programs"))?;
        }
        Ok(programs(&dir))
    }

    /// Compiles the sidecar, and the kernels if that can be done; whether it could.
    fn compile(
        &self,
        revision: &Revision,
        yardstick: &Revision,
        tell: impl Fn(&str),
    ) -> Result<bool, Failure> {
        let tree = self.tree();
        let check_out = || self.git_of_tree(&["read-tree", "--reset", "-u", &revision.id]);
        check_out()?;
        let own = tree.join(KERNELS).exists();
        let fails = |said: String| {
            Failure::invalid(format!("{} does not compile. cargo says:\n{said}", revision.called()))
        };
        if revision == yardstick {
            let packages: &[&str] = if own { &["kernels", "proxy"] } else { &["proxy"] };
            return self.cargo(&tree, packages)?.map_or(Ok(own), |said| Err(fails(said)));
        }
        if self.lay(yardstick, &tree)? && self.cargo(&tree, &["kernels", "proxy"])?.is_none() {
            return Ok(true);
        }
        check_out()?;
        if own && self.cargo(&tree, &["kernels", "proxy"])?.is_none() {
            tell("its proxy has another interface than the head's kernels need: its own are taken");
            return Ok(true);
        }
        if let Some(said) = self.cargo(&tree, &["proxy"])? {
            return Err(fails(said));
        }
        tell("kernels are left out: with its proxy neither the head's can be built nor any of its own");
        Ok(false)
    }

    /// Lays the kernels of `yardstick` over the tree. False if it has none.
    fn lay(&self, yardstick: &Revision, tree: &Path) -> io::Result<bool> {
        let git = self.repository.git();
        if git.run(&["cat-file", "-e", &format!("{}:{KERNELS}", yardstick.id)]).is_err() {
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

    /// The last lines that cargo says if it fails; `None` if it builds `packages`.
    fn cargo(&self, tree: &Path, packages: &[&str]) -> io::Result<Option<String>> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let mut build = self.repository.git().compiler(&cargo);
        build.args(["build", "--quiet"]).args(self.optimisation.arguments());
        // The tree lies in the clone, whose settings are none of the tree's: cargo takes them from
        // where it is started and above. Flags that are given twice are others to it.
        build.current_dir("/").arg("--manifest-path").arg(tree.join("Cargo.toml"));
        let settings = tree.join(".cargo/config.toml");
        if settings.exists() {
            build.arg("--config").arg(settings);
        }
        for package in packages {
            build.args([self.optimisation.selects(), package]);
        }
        build.env("CARGO_TARGET_DIR", self.repository.work().join("target"));
        // A unit of code that a revision does not change is not compiled again, which would give
        // the same code: what is built second takes a sixth of the time if it changes little.
        let counted = self.optimisation == Optimisation::Counted;
        build.env("CARGO_INCREMENTAL", if counted { "1" } else { "0" });
        if counted {
            build.env("CARGO_BUILD_BUILD_DIR", self.repository.target());
        }
        // It reads nothing, but it so holds the lock too: nobody else gets the tree before it has
        // ended, even if this process is killed.
        build.stdin(Stdio::from(self.locked.try_clone()?));
        let done = build.output().map_err(|error| cannot_start(&cargo, &error))?;
        if let Some(caller) = self.repository.caller() {
            caller.own(self.repository.work())?;
        }
        if done.status.success() {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let lines: Vec<&str> = said.trim_end().lines().collect();
        Ok(Some(lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")))
    }

    fn tree(&self) -> PathBuf {
        self.repository.work().join("tree")
    }

    fn git_of_tree(&self, arguments: &[&str]) -> io::Result<String> {
        let mut git = self.repository.git().start();
        git.arg("--work-tree").arg(self.tree()).env("GIT_INDEX_FILE", self.repository.work().join("index"));
        run(git.args(arguments))
    }
}

/// Of all that the programs of `revision` follow from: equal keys are equal programs.
///
/// # Errors
/// If git or the compiler is missing.
pub fn key(
    repository: &Repository,
    optimisation: Optimisation,
    revision: &Revision,
    yardstick: &Revision,
) -> io::Result<String> {
    let git = repository.git();
    let mut parts = vec![run(git.compiler("rustc").arg("-V"))?];
    parts.extend(optimisation.arguments());
    // Variables of others need not be text.
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let mut variables: Vec<_> = variables
        .filter(|(name, _)| name.starts_with("CARGO_PROFILE_") || name == "RUSTFLAGS")
        .map(|(name, value)| format!("{name}={}", value.display()))
        .collect();
    variables.sort();
    parts.extend(variables);
    let mut paths = vec!["proxy/src", "proxy/Cargo.toml", "Cargo.toml", "Cargo.lock", ".cargo"];
    if optimisation == Optimisation::Counted {
        paths.extend(["lab/Cargo.toml", "benches/Cargo.toml", "benches/gate/Cargo.toml"]);
    }
    for path in paths {
        parts.push(git.run(&["rev-parse", &format!("{}:{path}", revision.id)]).unwrap_or_default());
    }
    parts.push(git.run(&["rev-parse", &format!("{}:{KERNELS}", yardstick.id)]).unwrap_or_default());
    Ok(git.hash(&parts.join("\n"))?[..16].to_owned())
}

/// The names of the kernels of `revision`, as its sources have them: what is asked for is checked
/// before anything is built. Empty if they are written in another way; then building tells.
pub fn kernels_in_sources(repository: &Repository, revision: &Revision) -> Vec<String> {
    let pattern = "Kernel { name: \"[^\"]*\"";
    let found = repository.git().run(&["grep", "-h", "-o", "-e", pattern, &revision.id, "--", KERNELS]);
    let found = found.unwrap_or_default();
    found.lines().filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
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
}
