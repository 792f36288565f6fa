//! Identity on the kernel: what authorities keep, and the files of sidecars.
//!
//! A sidecar sees a folder of its own and no other's: the folders of all lie below one that only
//! root may enter, and each is mounted into the namespace of its instance. Its user may read what
//! is in it and change nothing. An authority runs as a user of its own, who alone may read its
//! state.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use proxy::world::{KernelDisk, RngTree, SystemWall, World};

use super::KernelWorld;
use super::bring_up::{data, failed};
use super::node::Bind;
use crate::authority;
use crate::plan::{Authority, CA_UID, IDENTITY_DIR, Identity, Instance, SIDECAR_UID};
use crate::readable;
use crate::world::Error;

/// The folders of all sidecars.
const IDENTITIES: &str = "identities";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The longest time that the command line takes in seconds.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The folder of one sidecar, as the lab sees it.
fn folder(run: &Path, instance: &str) -> PathBuf {
    run.join(IDENTITIES).join(instance)
}

/// How an authority is started. `exe` is the lab's own executable.
pub(super) fn authority_command(exe: &Path, state: &Path, authority: &Authority) -> Vec<OsString> {
    let Authority { trust_domain, certificate_lifetime, root_lifetime, .. } = authority;
    let (certificate, root) = (lifetime(*certificate_lifetime), lifetime(*root_lifetime));
    let mut argv: Vec<OsString> = vec![exe.into(), "__proxy".into(), "ca".into(), "run".into()];
    argv.extend(["--state".into(), state.into()]);
    let options = [
        ("--trust-domain", trust_domain),
        ("--certificate-lifetime", &certificate),
        ("--root-lifetime", &root),
    ];
    argv.extend(options.iter().flat_map(|(option, value)| [option.into(), OsString::from(value)]));
    argv
}

/// A time as the command line takes it: a long one in whole days.
fn lifetime(time: Duration) -> String {
    match time > LONGEST {
        true => format!("{}d", time.as_secs().div_ceil(DAY.as_secs())),
        false => readable::text(time),
    }
}

impl KernelWorld {
    /// What the lab needs of each authority of the plan: its state.
    fn authorities(&self) -> Result<Vec<World<()>>, Error> {
        let run = self.run_path()?;
        let world = |authority: &Authority| {
            let disk = KernelDisk::open(data(&run, &authority.name))?;
            Ok(World::new((), SystemWall, RngTree::from_os()).with_disk(disk))
        };
        let all: io::Result<Vec<_>> = self.plan.authorities.iter().map(world).collect();
        all.map_err(failed("the state of an authority"))
    }

    /// Gives each authority its first root, before it runs.
    pub(super) async fn found_authorities(&self) -> Result<(), Error> {
        let run = self.run_path()?;
        for (authority, world) in self.plan.authorities.iter().zip(self.authorities()?) {
            let cannot = || failed(format!("the state of authority {}", authority.name));
            let state = data(&run, &authority.name);
            fs::set_permissions(&state, Permissions::from_mode(0o700)).map_err(cannot())?;
            authority::found(&world, authority).await.map_err(|error| Error::Failed(error.to_string()))?;
            give(&state, CA_UID).map_err(cannot())?;
        }
        Ok(())
    }

    /// The roots of an authority that are to be trusted now, PEM.
    pub(super) async fn roots(&self, authority: usize) -> Result<Vec<String>, Error> {
        let (worlds, of) = (self.authorities()?, &self.plan.authorities[authority]);
        let roots = authority::roots(&worlds[authority], of).await;
        roots.map_err(|error| Error::Failed(error.to_string()))
    }

    /// Lets an authority do what these words of its command line say, as its operator would, and
    /// gives what that prints.
    pub(super) async fn operate(&self, authority: usize, words: &[&str]) -> Result<String, Error> {
        let authority = &self.plan.authorities[authority];
        let (run, node) = (self.run_path()?, self.node(authority.instance));
        let node = node.ok_or_else(|| Error::Failed("the world is not up".into()))?;
        let mut command = Command::new(run.join("exe"));
        command.args(["__proxy", "ca"]).args(words).arg("--state").arg(data(&run, &authority.name));
        let said = node.probe(move || command.stdin(Stdio::null()).output()).await.and_then(|r| r);
        let said = said.map_err(failed(format!("cannot ask {}", node.name())))?;
        match said.status.success() {
            true => Ok(String::from_utf8_lossy(&said.stdout).into_owned()),
            false => {
                let (words, why) = (words.join(" "), String::from_utf8_lossy(&said.stderr));
                Err(Error::Failed(format!("{} does not {words}: {}", node.name(), why.trim())))
            }
        }
    }

    /// Makes the folders of the sidecars' files.
    pub(super) fn prepare_identities(&self, run: &Path) -> io::Result<()> {
        if self.plan.authorities.is_empty() {
            return Ok(());
        }
        fs::create_dir(run.join(IDENTITY_DIR))?;
        fs::create_dir(run.join(IDENTITIES))?;
        fs::set_permissions(run.join(IDENTITIES), Permissions::from_mode(0o700))?;
        for instance in self.plan.instances.iter().filter(|instance| instance.sidecar.is_some()) {
            let folder = folder(run, &instance.name);
            fs::create_dir(&folder)?;
            readable_by_sidecar(&folder, 0o750)?;
        }
        Ok(())
    }

    /// Where an instance finds its sidecar's files.
    pub(super) fn identity_mount(&self, run: &Path, instance: &Instance) -> Option<Bind> {
        let has_one = !self.plan.authorities.is_empty() && instance.sidecar.is_some();
        let bind = || Bind { source: folder(run, &instance.name), target: run.join(IDENTITY_DIR) };
        has_one.then(bind)
    }

    /// Gives every sidecar the files with which it begins.
    pub(super) async fn deliver_identities(&self) -> Result<(), Error> {
        for (position, instance) in self.plan.instances.iter().enumerate() {
            if let (Some(identity), Some(_)) = (&instance.identity, &instance.sidecar) {
                self.deliver_identity(position, identity).await?;
            }
        }
        Ok(())
    }

    /// Gives a sidecar the files for an identity.
    pub(super) async fn deliver_identity(&self, instance: usize, identity: &Identity) -> Result<(), Error> {
        let files = authority::files(&self.authorities()?, &self.plan, identity).await;
        let files = files.map_err(|error| Error::Failed(error.to_string()))?;
        let name = &self.plan.instances[instance].name;
        let folder = folder(&self.run_path()?, name);
        let write = |(file, text): &(&str, String)| {
            let (path, new) = (folder.join(file), folder.join(format!("{file}.new")));
            fs::write(&new, "")?;
            readable_by_sidecar(&new, 0o640)?;
            fs::write(&new, text)?;
            // In one step: what is half written would be told as a mistake.
            fs::rename(new, path)
        };
        files.iter().try_for_each(write).map_err(failed(format!("the certificates of {name}")))
    }
}

/// Lets sidecars read a file or folder, and nobody else but root.
fn readable_by_sidecar(path: &Path, mode: u32) -> io::Result<()> {
    chown(path, None, Some(SIDECAR_UID))?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Gives a folder and the files in it to a user.
fn give(folder: &Path, user: u32) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        chown(file?.path(), Some(user), Some(user))?;
    }
    chown(folder, Some(user), Some(user))
}
