use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::audit::verify::{Break, BrokenChain, Verified};
use crate::config::defaults::AUDIT_HANGS;
use crate::telemetry::AuditMetrics;
use crate::world::disk::Done;
use crate::world::fake::{FakeNet, run as run_test};
use crate::world::{Disk, KernelDisk, RngTree, SystemWall, Wall, World};

/// Files by name.
type Files = BTreeMap<String, Vec<u8>>;

/// Files in memory, on a disk with so much room. Writes wait while somebody holds the other lock.
/// While the last is set, nothing can be read.
#[derive(Clone, Default)]
struct SmallDisk(Arc<Mutex<(Files, usize)>>, Arc<tokio::sync::Mutex<()>>, Arc<AtomicBool>);

impl SmallDisk {
    fn with_room(room: usize) -> Self {
        let disk = SmallDisk::default();
        disk.set_room(room);
        disk
    }

    fn set_room(&self, room: usize) {
        self.0.lock().unwrap().1 = room;
    }

    fn files(&self) -> Files {
        self.0.lock().unwrap().0.clone()
    }

    fn text(&self, file: &str) -> String {
        String::from_utf8(self.files().remove(file).unwrap_or_default()).unwrap()
    }

    fn done<T: Send + 'static>(result: io::Result<T>) -> Done<T> {
        Box::pin(std::future::ready(result))
    }
}

impl Disk for SmallDisk {
    fn list(&self) -> Done<Vec<String>> {
        Self::done(Ok(self.files().into_keys().collect()))
    }

    fn read(&self, file: &str) -> Done<Vec<u8>> {
        if self.2.load(Ordering::Relaxed) {
            return Self::done(Err(io::ErrorKind::Other.into()));
        }
        Self::done(self.files().remove(file).ok_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn append(&self, file: &str, bytes: Vec<u8>) -> Done<()> {
        let (files, room) = &mut *self.0.lock().unwrap();
        let taken = bytes.len().min(*room);
        *room -= taken;
        files.entry(file.into()).or_default().extend_from_slice(&bytes[..taken]);
        let gate = self.1.clone();
        Box::pin(async move {
            let _open = gate.lock().await;
            if taken == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        })
    }

    fn sync(&self, _: &str) -> Done<()> {
        Self::done(Ok(()))
    }

    fn rename(&self, from: &str, to: &str) -> Done<()> {
        let files = &mut self.0.lock().unwrap().0;
        let text = files.remove(from).unwrap();
        files.insert(to.into(), text);
        Self::done(Ok(()))
    }

    fn remove(&self, file: &str) -> Done<()> {
        self.0.lock().unwrap().0.remove(file);
        Self::done(Ok(()))
    }
}

fn config(when_full: WhenFull) -> Audit {
    let (queue, rotate) = (4, u64::MAX);
    Audit { directory: "".into(), when_full, queue, rotate, keep: 2, chain: true, sync: true }
}

/// A log that is written to `disk` for as long as the story goes.
async fn with_log<T>(
    config: Audit,
    disk: &(impl Disk + Clone),
    story: impl AsyncFnOnce(&Arc<AuditLog>, &AuditMetrics) -> T,
) -> T {
    let (log, queue) = channel(config);
    let world = World::new(FakeNet::default(), SystemWall, RngTree::new(1)).with_disk(disk.clone());
    let metrics = AuditMetrics::default();
    let writing = writer::run(world, queue, metrics.clone());
    tokio::select! {
        biased;
        told = story(&log, &metrics) => told,
        () = writing => unreachable!("the log is open"),
    }
}

const ENDS: (SocketAddr, SocketAddr) = (
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 4000),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 8080),
);

/// Begins a line.
async fn begin(log: &Arc<AuditLog>, path: &str) -> AuditEntry {
    let mut entry = log.begin(AuditEvent::Request, ENDS, SystemWall.now()).await;
    entry.record().path = Some(path.into());
    entry
}

/// Puts a line in.
async fn note(log: &Arc<AuditLog>, path: &str) {
    drop(begin(log, path).await);
}

fn paths(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.map(|line| line["path"].as_str().unwrap_or("gap").to_owned()).collect()
}

/// What is found in these files, or how the chain is broken, and in which line of which file.
fn verified(texts: &[String]) -> Result<Verified, (usize, u64, Break)> {
    let wrong = |broken: BrokenChain| (broken.file.parse().unwrap(), broken.line, broken.how);
    let mut verified = Verified::default();
    for (n, text) in texts.iter().enumerate() {
        verified.add(&n.to_string(), text.as_bytes()).map_err(wrong)?;
    }
    verified.finish().map_err(wrong)
}

#[tokio::test(start_paused = true)]
async fn lines_are_written_in_order_and_chained_also_across_a_restart_in_the_midst_of_a_line() {
    run_test(async {
        let disk = SmallDisk::with_room(1 << 20);
        for (first, cut) in [("/1", ""), ("/3", "{\"time\":\"20"), ("/5", "")] {
            with_log(config(WhenFull::Block), &disk, async |log, _| {
                note(log, first).await;
                note(log, "/next").await;
                log.flush().await;
            })
            .await;
            disk.append(Audit::FILE, cut.into()).await.unwrap();
        }
        let text = disk.text(Audit::FILE);
        assert_eq!(paths(&text), ["/1", "/next", "/3", "/next", "/5", "/next"]);
        let found = verified(&[text]).unwrap();
        assert_eq!((found.lines, found.torn, found.gaps), (6, 1, (0, 0)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_pass_unseen_waits_while_the_disk_is_full() {
    run_test(async {
        let disk = SmallDisk::with_room(500);
        with_log(config(WhenFull::Block), &disk, async |log, metrics| {
            let all = async {
                for n in 0..20 {
                    note(log, &format!("/{n}")).await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(60), all).await;
            assert!(waited.is_err(), "there is no room");
            assert!(metrics.failures.get() > 5 && metrics.failures.get() < 60, "{}", metrics.failures.get());
            let why = log.unready().expect("nothing can be written");
            assert!(why.starts_with("the audit log cannot be written: ") && why.contains("storage"), "{why}");
            disk.set_room(1 << 20);
            log.flush().await;
            assert!(log.unready().is_none());
            assert_eq!(metrics.lost.get(), 0);
        })
        .await;
        let text = disk.text(Audit::FILE);
        let found = verified(std::slice::from_ref(&text)).unwrap();
        let written: Vec<_> = (0..found.lines).map(|n| format!("/{n}")).collect();
        assert_eq!(paths(&text), written, "each once, and none is missing");
        assert!(found.lines > 4 && found.torn == 1, "{found:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_passes_while_the_disk_is_full_is_counted_and_the_log_says_so() {
    run_test(async {
        let disk = SmallDisk::with_room(700);
        with_log(config(WhenFull::Drop), &disk, async |log, metrics| {
            for n in 0..40 {
                note(log, &format!("/{n}")).await;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            disk.set_room(1 << 20);
            tokio::time::sleep(Duration::from_secs(30)).await;
            note(log, "/last").await;
            log.flush().await;
            assert!(metrics.lost.get() > 20, "{}", metrics.lost.get());
            assert_eq!(metrics.written.get() + metrics.lost.get(), 41, "each is one or the other");
        })
        .await;
        let text = disk.text(Audit::FILE);
        let found = verified(std::slice::from_ref(&text)).unwrap();
        assert_eq!(found.lines - found.gaps.0 + found.gaps.1, 41, "{text}");
        assert!(paths(&text).ends_with(&["/last".into()]) && found.gaps.0 > 0, "{text}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_has_grown_gives_way_and_the_oldest_goes() {
    run_test(async {
        let disk = SmallDisk::with_room(1 << 20);
        with_log(Audit { rotate: 500, ..config(WhenFull::Block) }, &disk, async |log, _| {
            for n in 0..12 {
                note(log, &format!("/{n}")).await;
                log.flush().await;
            }
        })
        .await;
        let names: Vec<_> = disk.files().into_keys().collect();
        assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2"]);
        let texts = ["audit.log.2", "audit.log.1", "audit.log"].map(|name| disk.text(name));
        let found = verified(&texts).unwrap();
        assert!(paths(&texts.concat()).ends_with(&["/10".into(), "/11".into()]));
        assert!(found.lines < 12, "the oldest are gone");
        let missing = [texts[0].clone(), texts[2].clone() + &texts[1][texts[1].len() / 2..]];
        assert!(verified(&missing).is_err(), "a file that is left out is noticed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_file_grows_beyond_its_size_but_for_a_line_that_is_longer() {
    run_test(async {
        let disk = SmallDisk::with_room(1 << 20);
        let config = Audit { rotate: 1000, keep: usize::MAX, queue: 100, ..config(WhenFull::Block) };
        with_log(config.clone(), &disk, async |log, _| {
            for n in 0..40 {
                let path = if n == 20 { "/".repeat(1000) } else { format!("/{n}") };
                note(log, &path).await;
            }
            log.flush().await;
        })
        .await;
        let files = disk.files();
        let (long, others): (Vec<_>, Vec<_>) = files.values().partition(|text| text.len() > 1000);
        assert_eq!(
            (long.len(), long[0].split(|byte| *byte == b'\n').count()),
            (1, 2),
            "one line and its end"
        );
        assert!(others.iter().filter(|text| text.len() < 500).count() < 3, "the others are filled");
        let mut names: Vec<_> = files.keys().collect();
        names.sort_by_key(|name| std::cmp::Reverse(Audit::age(name)));
        let texts: Vec<_> = names.into_iter().map(|name| disk.text(name)).collect();
        assert_eq!(verified(&texts).unwrap().lines, 40);
    })
    .await;
}

#[test]
fn a_name_says_whether_a_file_is_one_of_the_log_and_how_old_it_is() {
    for (name, age) in [("audit.log", Some(0)), ("audit.log.1", Some(1)), ("audit.log.1000", Some(1000))] {
        assert_eq!(Audit::age(name), age);
    }
    for other in ["access.log", "audit.log.", "audit.log.0", "audit.log.01", "audit.log.+1", "audit.log.gz"] {
        assert_eq!(Audit::age(other), None, "{other}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_file_that_is_gone_gives_way_to_a_new_one() {
    run_test(async {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("audit");
        let disk = KernelDisk::open(&directory).unwrap().made_again();
        with_log(Audit { rotate: 500, ..config(WhenFull::Block) }, &disk, async |log, _| {
            note(log, "/1").await;
            log.flush().await;
            std::fs::remove_dir_all(&directory).unwrap();
            note(log, "/2").await;
            log.flush().await;
        })
        .await;
        let text = std::fs::read_to_string(directory.join(Audit::FILE)).unwrap();
        assert_eq!(paths(&text), ["/2"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_does_not_have_it_forgotten_what_was_written() {
    type Change = fn(&str) -> String;
    let changes: [Change; 5] = [
        |text| text.to_owned(),
        |text| text.lines().take(2).map(|line| format!("{line}\n")).collect(),
        |text| text.replace("/3", "/X"),
        |text| format!("{text}{{\"time\":\"2026-12-01T00:00:00.000000Z\",\"event\":\"req"),
        |text| text.lines().next().unwrap().replace("/1", "/X") + "\n",
    ];
    for (n, change) in changes.into_iter().enumerate() {
        run_test(async move {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(Audit::FILE);
            let disk = KernelDisk::open(folder.path()).unwrap();
            with_log(config(WhenFull::Block), &disk, async |log, metrics| {
                for path in ["/1", "/2", "/3"] {
                    note(log, path).await;
                }
                log.flush().await;
                let changed = change(&std::fs::read_to_string(&path).unwrap());
                std::fs::remove_file(&path).unwrap();
                std::fs::create_dir(&path).unwrap();
                note(log, "/4").await;
                while metrics.failures.get() < 3 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                std::fs::remove_dir(&path).unwrap();
                std::fs::write(&path, changed).unwrap();
                log.flush().await;
            })
            .await;
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains("\"/4\""), "{text}");
            assert_eq!(verified(std::slice::from_ref(&text)).is_ok(), n == 0, "{n}: {text}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_write_is_known_later_if_it_cannot_be_read_at_once() {
    for when_full in [WhenFull::Block, WhenFull::Drop] {
        run_test(async move {
            let disk = SmallDisk::with_room(1 << 20);
            with_log(config(when_full), &disk, async |log, metrics| {
                note(log, "/first").await;
                log.flush().await;
                disk.set_room(700);
                disk.2.store(true, Ordering::Relaxed);
                for n in 0..8 {
                    note(log, &format!("/{n}")).await;
                    while metrics.failures.get() == 0 && n == 3 {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                assert!(log.begin_refused(AuditEvent::Request, ENDS, SystemWall.now()).is_none());
                disk.set_room(1 << 20);
                disk.2.store(false, Ordering::Relaxed);
                log.flush().await;
                note(log, "/last").await;
                log.flush().await;
            })
            .await;
            let text = disk.text(Audit::FILE);
            assert_eq!(verified(std::slice::from_ref(&text)).unwrap().torn, 1, "{text}");
            let mut all = paths(&text);
            if when_full == WhenFull::Block {
                all.retain(|path| path != "gap");
                let each = ["/first", "/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/last"];
                assert_eq!(all, each, "each is written once");
            }
            assert!(all.ends_with(&["/7".into(), "/last".into()]), "{text}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_removed_before_the_disk_was_full_is_as_good_as_one_that_was_not() {
    run_test(async {
        let disk = SmallDisk::with_room(1 << 20);
        with_log(config(WhenFull::Block), &disk, async |log, metrics| {
            note(log, "/1").await;
            log.flush().await;
            disk.remove(Audit::FILE).await.unwrap();
            note(log, "/2").await;
            log.flush().await;
            disk.set_room(100);
            note(log, "/3").await;
            while metrics.failures.get() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            disk.set_room(1 << 20);
            log.flush().await;
        })
        .await;
        let found = verified(&[disk.text(Audit::FILE)]).unwrap();
        assert_eq!((found.lines, found.torn), (2, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_open_holds_no_place_and_is_written_although_there_is_no_room() {
    run_test(async {
        let disk = SmallDisk::with_room(1 << 20);
        with_log(config(WhenFull::Block), &disk, async |log, metrics| {
            let mut open = Vec::new();
            for n in 0..50 {
                open.push(begin(log, &format!("/open/{n}")).await);
            }
            note(log, "/first").await;
            log.flush().await;
            assert_eq!(paths(&disk.text(Audit::FILE)), ["/first"]);
            open.clear();
            let waits = tokio::time::timeout(Duration::ZERO, begin(log, "/waits")).await;
            assert!(waits.is_err(), "now the queue is full");
            assert!(log.begin_refused(AuditEvent::Request, ENDS, SystemWall.now()).is_none());
            let (entry, ()) = tokio::join!(begin(log, "/last"), log.flush());
            drop(entry);
            log.flush().await;
            assert_eq!((metrics.written.get(), metrics.lost.get()), (52, 1));
        })
        .await;
        let text = disk.text(Audit::FILE);
        let found = verified(std::slice::from_ref(&text)).unwrap();
        assert_eq!((found.lines, found.gaps), (53, (1, 1)), "{text}");
        assert!(paths(&text).ends_with(&["/last".into()]), "{text}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_ends_while_there_is_room_has_a_line_whatever_was_open() {
    run_test(async {
        let disk = SmallDisk::with_room(1 << 20);
        with_log(config(WhenFull::Drop), &disk, async |log, metrics| {
            let mut open = Vec::new();
            for n in 0..10 {
                open.push(begin(log, &format!("/open/{n}")).await);
            }
            note(log, "/first").await;
            log.flush().await;
            assert_eq!(paths(&disk.text(Audit::FILE)), ["/first"]);
            open.clear();
            log.flush().await;
            assert_eq!((metrics.written.get(), metrics.lost.get()), (5, 6));
        })
        .await;
        let text = disk.text(Audit::FILE);
        assert_eq!(paths(&text), ["/first", "gap", "/open/0", "/open/1", "/open/2", "/open/3"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_does_not_come_back_counts_as_one_that_failed() {
    run_test(async {
        let disk = SmallDisk::with_room(1 << 20);
        with_log(config(WhenFull::Block), &disk, async |log, metrics| {
            let stuck = disk.1.lock().await;
            note(log, "/1").await;
            tokio::time::sleep(AUDIT_HANGS - Duration::from_millis(1)).await;
            assert_eq!((metrics.failures.get(), log.unready()), (0, None));
            tokio::time::sleep(AUDIT_HANGS).await;
            let why = "the audit log cannot be written: a write has not come back for 5 s";
            assert_eq!((metrics.failures.get(), log.unready().as_deref()), (1, Some(why)));
            drop(stuck);
            log.flush().await;
            assert_eq!((metrics.written.get(), metrics.lost.get(), log.unready()), (1, 0, None));
        })
        .await;
        assert_eq!(paths(&disk.text(Audit::FILE)), ["/1"], "it is not written again");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lines_of_a_batch_that_was_cut_count_as_soon_as_they_are_there() {
    run_test(async {
        let disk = SmallDisk::with_room(600);
        with_log(config(WhenFull::Block), &disk, async |log, metrics| {
            for n in 0..4 {
                note(log, &format!("/{n}")).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let whole = paths(&disk.text(Audit::FILE)).len() as u64;
            assert!((1..4).contains(&whole));
            assert_eq!(metrics.written.get(), whole);
            disk.set_room(1 << 20);
            log.flush().await;
            assert_eq!(metrics.written.get(), 4);
        })
        .await;
    })
    .await;
}

/// Lines that are chained to one that is not there, or to none.
fn chained(count: usize, mut last: Option<[u8; 32]>) -> Vec<String> {
    let line = |n| {
        let line = format!("{{\"event\":\"request\",\"path\":\"/{n}\",\"prev\":\"{}\"}}", writer::hex(last));
        last = Some(writer::hash(line.as_bytes()));
        line
    };
    (0..count).map(line).collect()
}

fn check(lines: &[String]) -> Result<Verified, (u64, Break)> {
    verified(&[lines.join("\n") + "\n"]).map_err(|(_, line, how)| (line, how))
}

#[test]
fn a_line_that_was_changed_taken_out_or_put_in_is_noticed() {
    let lines = chained(5, None);
    let last = writer::hash(lines[4].as_bytes());
    assert_eq!(check(&lines).unwrap().last, Some(last));
    let changed = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        check(&lines).map(|_| ())
    };
    let link = |line| Err((line, Break::Link));
    assert_eq!(changed(&|lines| lines[2] = lines[2].replace("/2", "/9")), link(4));
    assert_eq!(changed(&|lines| lines[2] = "not JSON".into()), link(4), "garbage does not stand for a line");
    assert_eq!(changed(&|lines| drop(lines.remove(1))), link(2));
    assert_eq!(changed(&|lines| lines.insert(3, lines[2].clone())), link(4));
    let plain = changed(&|lines| lines[1] = "{\"event\":\"request\"}".into());
    assert_eq!(plain, Err((2, Break::Unchained)));
    assert_eq!(changed(&|lines| lines.insert(2, String::new())), Err((3, Break::Blank)));
    let half = &lines[4][..lines[4].len() - 1];
    for junk in ["junk", "{\"time\":\"20", "", &(lines[1].clone() + "x"), half] {
        for at in 0..5 {
            let found = changed(&|lines| lines.insert(at, junk.into()));
            let how = if junk.is_empty() { Break::Blank } else { Break::Loose };
            assert_eq!(found, Err((at as u64 + 1, how)), "{junk}");
        }
    }
    let many = changed(&|lines| drop(lines.splice(2..2, std::iter::repeat_n("junk".into(), 50))));
    assert_eq!(many, Err((3, Break::Loose)));
}

#[test]
fn only_the_end_of_all_may_be_cut_off_and_only_as_a_crash_cuts_it() {
    let (lines, next) = (chained(2, None), &chained(3, None)[2]);
    let whole = lines.join("\n") + "\n";
    for cut in 1..next.len() {
        let found = verified(&[whole.clone() + &next[..cut]]).unwrap();
        assert_eq!((found.lines, found.torn), (2, 1), "{cut}");
    }
    for (junk, line) in
        [("x", 3), ("{\"time\":\"20\n", 3), ("{\n{\"", 3), ("[\"", 3), ("{\"event\":\"gap\"}x", 3)]
    {
        assert_eq!(verified(&[whole.clone() + junk]), Err((0, line, Break::Loose)), "{junk}");
    }
    let last = writer::hash(lines[1].as_bytes());
    let second = chained(1, Some(last)).remove(0) + "\n";
    assert_eq!(verified(&[whole.clone() + "{\"", second.clone()]), Err((0, 3, Break::Loose)), "not there");
    assert_eq!(verified(&[whole, second]).unwrap().lines, 3);
}

#[test]
fn what_begins_after_a_line_that_is_not_here_says_after_which() {
    let lines = chained(6, None);
    let hash = |line: usize| writer::hex(Some(writer::hash(lines[line].as_bytes())));
    let found = check(&lines[3..]).unwrap();
    assert_eq!((found.lines, found.follows), (3, hash(2)));
    assert_eq!(check(&lines).unwrap().follows, "");
    for (kept, is_found) in [(1, false), (2, true), (3, true), (5, true)] {
        let mut verified = Verified::after(Some(hash(kept)));
        verified.add("audit.log", lines[3..].join("\n").as_bytes()).unwrap();
        assert_eq!(verified.finish().unwrap().kept, Some((hash(kept), is_found)), "{kept}");
    }
}
