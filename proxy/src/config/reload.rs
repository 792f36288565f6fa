//! Follows the configuration file: a new one that is valid comes into force, a wrong one is
//! reported and changes nothing.
//!
//! A look at it is due whenever it may be another one ([`watch`](super::watch)); then the content
//! decides. SIGHUP asks for the same look, at once, and is always answered. If nothing can be
//! watched (no inotify instances left), the caller is told, and the rest still works.
//!
//! Invariants: what was in force stays in force until a valid file replaces it; a file that is
//! missing or half-written for a moment is never reported if it is whole again within
//! [`RELOAD_QUIET`](super::defaults::RELOAD_QUIET); values that are only read at start keep the
//! value they started with, so a snapshot never claims what is not so. It reads the file system, so
//! it belongs on the control thread.

use std::io;
use std::path::PathBuf;
use std::slice;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::watch::{FileWatch, Watch, changed};
use super::{LoadError, Snapshot, parse, read};

/// What a look at the file led to.
#[derive(Debug)]
pub enum ReloadOutcome {
    /// A new configuration.
    Applied {
        /// From now on in force.
        snapshot: Arc<Snapshot>,
        /// Keys whose new values take a restart, because they are only read at start.
        ignored: Vec<&'static str>,
    },
    /// The file says what is in force already. Only told if somebody may be waiting for it: after a
    /// SIGHUP, or once a wrong file is right again.
    Unchanged,
    /// The file is missing or wrong: what was in force stays so.
    Refused(LoadError),
    /// The system tells of no changes; they are noticed by SIGHUP, and some seconds later.
    Blind(io::Error),
}

/// Follows the file at `path` for as long as it is polled; `current` is what was read from it at
/// start. `apply` is called with what each change led to. The first look is at once: the file may
/// have changed since it was read.
///
/// Runs on a tokio runtime with I/O and time enabled. Dropping the future ends it.
pub async fn follow(path: PathBuf, current: Arc<Snapshot>, apply: impl FnMut(ReloadOutcome)) {
    let look = Arc::new(Notify::new());
    let mut watch = FileWatch::new(look.clone());
    let mut follower = Follower::new(path, current, apply);
    let mut hangups = signal(SignalKind::hangup()).ok();
    let mut asked = false;
    loop {
        // A link may lead elsewhere now.
        if let Err(error) = watch.cover(slice::from_ref(&follower.path)) {
            (follower.apply)(ReloadOutcome::Blind(error));
        }
        follower.look(asked);
        asked = tokio::select! {
            () = changed(&watch, &look) => false,
            () = hangup(&mut hangups) => true,
        };
    }
}

async fn hangup(hangups: &mut Option<tokio::signal::unix::Signal>) {
    let heard = match hangups {
        Some(hangups) => hangups.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending().await
    }
}

/// The part that knows nothing of events: what a look at the file means.
struct Follower<F> {
    path: PathBuf,
    name: String,
    /// What the process was started with.
    start: Arc<Snapshot>,
    in_force: Arc<Snapshot>,
    /// The text of the last look, so that an event that changed nothing costs nothing.
    text: Option<String>,
    /// Keys already reported as ignored.
    ignored: Vec<&'static str>,
    /// Whether the last thing that `apply` was told is that the file is wrong.
    refused: bool,
    apply: F,
}

impl<F: FnMut(ReloadOutcome)> Follower<F> {
    fn new(path: PathBuf, current: Arc<Snapshot>, apply: F) -> Self {
        let name = path.display().to_string();
        let (start, in_force) = (current.clone(), current);
        Follower { path, name, start, in_force, text: None, ignored: Vec::new(), refused: false, apply }
    }

    /// Reads the file and tells `apply` what it means, if it means anything new or somebody
    /// `asked`.
    fn look(&mut self, asked: bool) {
        let text = match read(&self.path) {
            Ok(text) => text,
            Err(error) => {
                // Each further event would repeat that the file is gone.
                let known = self.refused && self.text.is_none();
                self.text = None;
                if !known || asked {
                    self.refuse(error);
                }
                return;
            }
        };
        if self.text.as_ref() == Some(&text) && !asked {
            return;
        }
        let parsed = parse(&self.name, &text);
        self.text = Some(text);
        match parsed {
            Ok(new) => self.accept(new, asked),
            Err(errors) => self.refuse(errors.into()),
        }
    }

    fn accept(&mut self, mut new: Snapshot, asked: bool) {
        let ignored = keep_from_start(&mut new, &self.start);
        let update = new != *self.in_force || ignored != self.ignored;
        let was_refused = std::mem::replace(&mut self.refused, false);
        if update {
            self.in_force = Arc::new(new);
            self.ignored.clone_from(&ignored);
            (self.apply)(ReloadOutcome::Applied { snapshot: self.in_force.clone(), ignored });
        } else if asked || was_refused {
            (self.apply)(ReloadOutcome::Unchanged);
        }
    }

    fn refuse(&mut self, error: LoadError) {
        self.refused = true;
        (self.apply)(ReloadOutcome::Refused(error));
    }
}

/// Gives `new` the values of `start` wherever they are only read at start, and returns the keys
/// where that changed it.
fn keep_from_start(new: &mut Snapshot, start: &Snapshot) -> Vec<&'static str> {
    fn keep<T: PartialEq + Clone>(
        key: &'static str,
        new: &mut T,
        start: &T,
        ignored: &mut Vec<&'static str>,
    ) {
        if new != start {
            new.clone_from(start);
            ignored.push(key);
        }
    }
    let mut ignored = Vec::new();
    // The app stands in its registry under this name.
    keep("instance", &mut new.instance, &start.instance, &mut ignored);
    keep("workers", &mut new.workers, &start.workers, &mut ignored);
    keep("seed", &mut new.seed, &start.seed, &mut ignored);
    keep("mark", &mut new.mark, &start.mark, &mut ignored);
    keep("listen.outbound", &mut new.listen.outbound, &start.listen.outbound, &mut ignored);
    keep("listen.inbound", &mut new.listen.inbound, &start.listen.inbound, &mut ignored);
    keep("listen.admin", &mut new.listen.admin, &start.listen.admin, &mut ignored);
    keep("listen.metrics", &mut new.listen.metrics, &start.listen.metrics, &mut ignored);
    keep("listen.health", &mut new.listen.health, &start.listen.health, &mut ignored);
    keep("identity", &mut new.identity, &start.identity, &mut ignored);
    keep("admin", &mut new.admin_token, &start.admin_token, &mut ignored);
    keep("access_log", &mut new.access_log, &start.access_log, &mut ignored);
    keep("audit", &mut new.audit, &start.audit, &mut ignored);
    keep("register", &mut new.register, &start.register, &mut ignored);
    ignored
}

#[cfg(test)]
mod keys;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use tokio::time::timeout;

    use std::time::Duration;

    use super::*;
    use crate::config::defaults::CONFIG_BYTES;

    const START: &str = "service = 'web'";
    const OTHER: &str = "service = 'web'\npassthrough = false";
    const BROKEN: &str = "service = 'web";

    fn snapshot(text: &str) -> Arc<Snapshot> {
        Arc::new(parse("start", text).unwrap())
    }

    /// Follows `path` while `story` makes changes and reads what came of them.
    async fn while_following(path: &Path, story: impl AsyncFnOnce(&mut UnboundedReceiver<ReloadOutcome>)) {
        let (tell, mut told) = unbounded_channel();
        let follow = follow(path.to_owned(), snapshot(START), move |outcome| {
            let _ = tell.send(outcome);
        });
        tokio::select! {
            () = follow => unreachable!("it follows for as long as it is polled"),
            done = timeout(Duration::from_secs(30), story(&mut told)) => done.expect("every change is noticed"),
        }
        assert!(told.try_recv().is_err(), "nothing else is told");
    }

    async fn applied(told: &mut UnboundedReceiver<ReloadOutcome>) -> Arc<Snapshot> {
        match told.recv().await {
            Some(ReloadOutcome::Applied { snapshot, ignored }) if ignored.is_empty() => snapshot,
            other => panic!("expected a new configuration, got {other:?}"),
        }
    }

    async fn refused(told: &mut UnboundedReceiver<ReloadOutcome>) -> String {
        match told.recv().await {
            Some(ReloadOutcome::Refused(error)) => error.to_string(),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_file_renamed_over_the_old_one_comes_into_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sidecar.toml");
        fs::write(&path, START).unwrap();
        while_following(&path, async |told| {
            let new = directory.path().join(".sidecar.toml.new");
            fs::write(&new, OTHER).unwrap();
            fs::rename(&new, &path).unwrap();
            assert_eq!(applied(told).await, snapshot(OTHER));
            fs::write(&new, START).unwrap();
            fs::rename(&new, &path).unwrap();
            assert_eq!(applied(told).await, snapshot(START));
        })
        .await;
    }

    #[tokio::test]
    async fn a_broken_file_is_reported_and_a_mended_one_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sidecar.toml");
        fs::write(&path, START).unwrap();
        while_following(&path, async |told| {
            fs::write(&path, BROKEN).unwrap();
            assert_eq!(refused(told).await, "this text does not end");
            fs::write(&path, START).unwrap();
            assert!(matches!(told.recv().await, Some(ReloadOutcome::Unchanged)));
            fs::write(&path, BROKEN).unwrap();
            refused(told).await;
            fs::write(&path, OTHER).unwrap();
            assert_eq!(applied(told).await, snapshot(OTHER));
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_that_never_ends_or_that_nobody_writes_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let [path, pipe, large] = ["sidecar.toml", "pipe", "large"].map(|name| directory.path().join(name));
        fs::write(&path, START).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::File::create(&large).unwrap().set_len(CONFIG_BYTES + 1).unwrap();
        while_following(&path, async |told| {
            for (instead, why) in [
                (pipe.as_path(), "not a regular file"),
                (Path::new("/dev/zero"), "not a regular file"),
                (&large, "64 MiB"),
            ] {
                let link = directory.path().join("link");
                symlink(instead, &link).unwrap();
                fs::rename(&link, &path).unwrap();
                let said = refused(told).await;
                assert!(said.contains(why), "{said}");
                let new = directory.path().join("new");
                fs::write(&new, OTHER).unwrap();
                fs::rename(&new, &path).unwrap();
                assert_eq!(applied(told).await, snapshot(OTHER));
                fs::write(&path, START).unwrap();
                assert_eq!(applied(told).await, snapshot(START));
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_that_goes_away_is_reported_once_and_noticed_when_it_is_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sidecar.toml");
        fs::write(&path, START).unwrap();
        while_following(&path, async |told| {
            fs::remove_file(&path).unwrap();
            assert!(refused(told).await.starts_with("cannot read "));
            fs::write(&path, OTHER).unwrap();
            assert_eq!(applied(told).await, snapshot(OTHER));
        })
        .await;
    }

    /// Kubernetes mounts a ConfigMap as `sidecar.toml -> ..data/sidecar.toml`, `..data ->
    /// ..TIMESTAMP`, and renames a new `..data` over the old one.
    #[tokio::test]
    async fn a_swapped_symbolic_link_comes_into_force_again_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let publish = |version: &str, text: &str| {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("sidecar.toml"), text).unwrap();
            symlink(version, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        publish("..1", START);
        symlink("..data/sidecar.toml", at("sidecar.toml")).unwrap();
        while_following(&at("sidecar.toml"), async |told| {
            publish("..2", OTHER);
            assert_eq!(applied(told).await, snapshot(OTHER));
            fs::remove_dir_all(at("..1")).unwrap();
            publish("..3", START);
            assert_eq!(applied(told).await, snapshot(START));
        })
        .await;
    }

    #[tokio::test]
    async fn the_file_behind_a_link_is_followed_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let (path, real) = (directory.path().join("sidecar.toml"), elsewhere.path().join("web.conf"));
        fs::write(&real, START).unwrap();
        symlink(&real, &path).unwrap();
        while_following(&path, async |told| {
            fs::write(&real, OTHER).unwrap();
            assert_eq!(applied(told).await, snapshot(OTHER));
        })
        .await;
    }

    /// The same for endpoint files, key sets and certificates, which are watched by the same code.
    #[tokio::test]
    async fn a_file_is_followed_although_its_directory_is_another_one() {
        let around = tempfile::tempdir().unwrap();
        let at = |name: &str| around.path().join(name);
        let publish = |directory: &str, text: &str| {
            fs::create_dir_all(at(directory)).unwrap();
            fs::write(at(directory).join("sidecar.toml"), text).unwrap();
        };
        publish("v1", START);
        symlink("v1", at("current")).unwrap();
        while_following(&at("current/sidecar.toml"), async |told| {
            publish("v2", OTHER);
            symlink("v2", at("link")).unwrap();
            fs::rename(at("link"), at("current")).unwrap();
            assert_eq!(applied(told).await, snapshot(OTHER), "a link among the directories");
            publish("v3", START);
            fs::rename(at("v2"), at("old")).unwrap();
            fs::rename(at("v3"), at("v2")).unwrap();
            assert_eq!(applied(told).await, snapshot(START), "a directory that was replaced");
            publish("v2", OTHER);
            assert_eq!(applied(told).await, snapshot(OTHER), "and the file in that one");
            fs::remove_dir_all(at("v2")).unwrap();
            assert!(refused(told).await.starts_with("cannot read "));
            publish("v2", START);
            assert_eq!(applied(told).await, snapshot(START), "a directory that was made again");
        })
        .await;
    }

    /// What looking at `texts` one after the other leads to, in words.
    fn looks(start: &str, texts: &[(&str, bool)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sidecar.toml");
        let mut told = Vec::new();
        let mut follower = Follower::new(path.clone(), snapshot(start), |outcome| {
            told.push(match outcome {
                ReloadOutcome::Applied { snapshot, ignored } => {
                    assert_eq!(snapshot.workers, Some(2), "what is only read at start stays");
                    format!("applied, passthrough {}, ignored {ignored:?}", snapshot.passthrough)
                }
                ReloadOutcome::Unchanged => "unchanged".into(),
                ReloadOutcome::Refused(_) => "refused".into(),
                ReloadOutcome::Blind(_) => "blind".into(),
            });
        });
        for (text, asked) in texts {
            fs::write(&path, text).unwrap();
            follower.look(*asked);
        }
        drop(follower);
        told
    }

    #[test]
    fn keys_that_take_a_restart_are_named_and_keep_their_value() {
        let start = "service = 'web'\nworkers = 2";
        let changed = "service = 'web'\nworkers = 3\nseed = 1\nmark = 7\nlisten = { admin = 16000 }";
        let both = format!("{changed}\n[timeouts]\nconnect = '2s'");
        assert_eq!(
            looks(start, &[(start, false), (changed, false), (&both, false), (start, false)]),
            [
                r#"applied, passthrough true, ignored ["workers", "seed", "mark", "listen.admin"]"#,
                r#"applied, passthrough true, ignored ["workers", "seed", "mark", "listen.admin"]"#,
                "applied, passthrough true, ignored []",
            ]
        );
    }

    #[test]
    fn what_means_the_same_is_told_only_to_who_asked() {
        let start = "service = 'web'\nworkers = 2";
        let comment = format!("# two workers\n{start}");
        assert_eq!(looks(start, &[(start, false), (&comment, false), (&comment, true)]), ["unchanged"]);
        assert_eq!(looks(start, &[("", false), ("", false), ("", true)]), ["refused", "refused"]);
    }
}
