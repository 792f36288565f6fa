//! Follows the configuration file: a new one that is valid comes into force, a wrong one is
//! reported and changes nothing.
//!
//! What is watched is the directory and not the file, because editors and Kubernetes replace files
//! and symbolic links instead of writing into them; if the file is a link, so is the directory that
//! it leads to. Events only say *look again*: they are gathered until the directory has been quiet
//! for [`RELOAD_QUIET`], and then the content decides. SIGHUP asks for the same look, at once, and
//! is always answered. If nothing can be watched (no inotify instances left), SIGHUP still works
//! and the caller is told.
//!
//! Invariants: what was in force stays in force until a valid file replaces it; a file that is
//! missing or half-written for a moment is never reported if it is whole again within
//! [`RELOAD_QUIET`]; values that are only read at start keep the value they started with, so a
//! snapshot never claims what is not so. With `discovery::file`, which watches in the same way,
//! this is the only part of the proxy that reads the file system while it runs; it belongs on the
//! control thread.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{LoadError, Snapshot, parse, read};

use crate::config::defaults::RELOAD_QUIET;
use crate::config::defaults::RELOAD_WAIT;

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
    /// Changes cannot be noticed; from now on only SIGHUP reloads.
    Blind(notify::Error),
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
    if let Err(error) = watch.cover(&follower.path) {
        (follower.apply)(ReloadOutcome::Blind(error));
    }
    let mut hangups = signal(SignalKind::hangup()).ok();
    follower.look(false);
    loop {
        let asked = tokio::select! {
            () = look.notified() => tokio::select! {
                () = quiet(&look) => false,
                () = hangup(&mut hangups) => true,
            },
            () = hangup(&mut hangups) => true,
        };
        // A link may lead elsewhere now. What cannot be watched any more was reported when it could
        // not at first.
        let _ = watch.cover(&follower.path);
        follower.look(asked);
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

/// Returns once there was no event for [`RELOAD_QUIET`], or after [`RELOAD_WAIT`].
pub(crate) async fn quiet(look: &Notify) {
    let deadline = Instant::now() + RELOAD_WAIT;
    loop {
        let until = (Instant::now() + RELOAD_QUIET).min(deadline);
        tokio::select! {
            biased;
            () = sleep_until(until) => return,
            () = look.notified() => {}
        }
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

/// The directories that are watched: the file's, and if it is a link, that of what it leads to.
pub(crate) struct FileWatch {
    /// Or why the system gave none; the reason is told by the first [`FileWatch::cover`].
    watcher: Result<RecommendedWatcher, Option<notify::Error>>,
    covered: BTreeSet<PathBuf>,
    /// What the file is called in them. Shared with the watcher's thread.
    names: Names,
}

type Names = Arc<Mutex<BTreeSet<OsString>>>;

impl FileWatch {
    /// Watches nothing yet; `look` is notified of every event that matters.
    pub(crate) fn new(look: Arc<Notify>) -> Self {
        let names = Names::default();
        let known = names.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error may have swallowed events: look then too.
            let names = known.lock().unwrap_or_else(PoisonError::into_inner);
            if event.map_or(true, |event| matters(&event, &names)) {
                look.notify_one();
            }
        });
        FileWatch { watcher: watcher.map_err(Some), covered: BTreeSet::new(), names }
    }

    /// Watches what has to be watched for `path` now, and nothing else.
    pub(crate) fn cover(&mut self, path: &Path) -> notify::Result<()> {
        let watcher = match &mut self.watcher {
            Ok(watcher) => watcher,
            Err(reason) => return reason.take().map_or(Ok(()), Err),
        };
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let wanted = [path, &real].map(parent).map(|parent| parent.canonicalize().unwrap_or(parent));
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) =
            [path, &real].into_iter().filter_map(|path| path.file_name().map(OsString::from)).collect();
        self.covered.retain(|directory| {
            let keep = wanted.contains(directory);
            if !keep {
                // A directory that was removed has no watch left to end, which is just as well.
                let _ = watcher.unwatch(directory);
            }
            keep
        });
        for directory in wanted {
            if !self.covered.contains(&directory) {
                watcher.watch(&directory, RecursiveMode::NonRecursive)?;
                self.covered.insert(directory);
            }
        }
        Ok(())
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whether the file may be another one after `event`. Reading does not count, or looking would
/// cause the next look; writing into files of other names does not either, since they may be logs.
fn matters(event: &Event, names: &BTreeSet<OsString>) -> bool {
    let ours = || event.paths.iter().filter_map(|path| path.file_name()).any(|name| names.contains(name));
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => ours(),
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => ours(),
        _ => true,
    }
}

#[cfg(test)]
mod keys;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

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

    #[test]
    fn reading_the_file_or_writing_a_log_beside_it_causes_no_look() {
        use notify::event::{CreateKind, DataChange};
        let names = BTreeSet::from([OsString::from("sidecar.toml")]);
        let event = |kind, name: &str| Event::new(kind).add_path(Path::new("/etc").join(name));
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let open = EventKind::Access(AccessKind::Open(AccessMode::Read));
        let create = EventKind::Create(CreateKind::File);
        assert!(matters(&event(data, "sidecar.toml"), &names));
        assert!(!matters(&event(data, "web.log"), &names));
        assert!(!matters(&event(open, "sidecar.toml"), &names));
        assert!(matters(&event(create, "..data"), &names));
    }
}
