use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use data_encoding::HEXLOWER;

use super::*;
use crate::audit::verify::{BrokenChain, Verified};
use crate::telemetry::AuditMetrics;
use crate::world::disk::Done;
use crate::world::fake::{FakeNet, run as run_test};
use crate::world::{Disk, RngTree, SystemWall, Wall, World};

/// Files by name.
type Files = BTreeMap<String, Vec<u8>>;

/// Files in memory, on a disk with so much room.
#[derive(Clone, Default)]
struct SmallDisk(Arc<Mutex<(Files, usize)>>);

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
        Self::done(self.files().remove(file).ok_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn append(&self, file: &str, bytes: Vec<u8>) -> Done<()> {
        let (files, room) = &mut *self.0.lock().unwrap();
        let taken = bytes.len().min(*room);
        *room -= taken;
        files.entry(file.into()).or_default().extend_from_slice(&bytes[..taken]);
        Self::done(if taken == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) })
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
    disk: &SmallDisk,
    story: impl AsyncFnOnce(&AuditLog, &AuditMetrics) -> T,
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

/// Puts a line in.
async fn note(log: &AuditLog, path: &str) -> bool {
    let ends = (([10, 0, 0, 1], 4000).into(), ([10, 0, 0, 2], 8080).into());
    let Some(mut entry) = log.begin(AuditEvent::Request, ends, SystemWall.now()).await else { return false };
    entry.record().path = Some(path.into());
    true
}

fn paths(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.map(|line| line["path"].as_str().unwrap_or("gap").to_owned()).collect()
}

fn verified(texts: &[String]) -> Result<Verified, BrokenChain> {
    let mut verified = Verified::default();
    texts.iter().try_for_each(|text| verified.add(text.as_bytes())).map(|()| verified)
}

#[tokio::test(start_paused = true)]
async fn lines_are_written_in_order_and_chained_also_across_a_restart_in_the_midst_of_a_line() {
    run_test(async {
        let disk = SmallDisk::with_room(1 << 20);
        for (first, cut) in [("/1", ""), ("/3", "{\"time\":\"20"), ("/5", "")] {
            with_log(config(WhenFull::Block), &disk, async |log, _| {
                assert!(note(log, first).await && note(log, "/next").await);
                log.flush().await;
            })
            .await;
            disk.append(writer::FILE, cut.into()).await.unwrap();
        }
        let text = disk.text(writer::FILE);
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
                    assert!(note(log, &format!("/{n}")).await);
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
        let text = disk.text(writer::FILE);
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
        let seen = with_log(config(WhenFull::Drop), &disk, async |log, metrics| {
            let mut seen = 0;
            for n in 0..40 {
                seen += u64::from(note(log, &format!("/{n}")).await);
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            disk.set_room(1 << 20);
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert!(note(log, "/last").await);
            log.flush().await;
            assert!(metrics.lost.get() > 20, "{}", metrics.lost.get());
            assert_eq!(metrics.written.get() + metrics.lost.get(), 41, "each is one or the other");
            seen
        })
        .await;
        assert!(seen <= 40);
        let text = disk.text(writer::FILE);
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
                assert!(note(log, &format!("/{n}")).await);
                log.flush().await;
            }
        })
        .await;
        let names: Vec<_> = disk.files().into_keys().collect();
        let expected: &[&str] = if names.len() == 3 {
            &["audit.log", "audit.log.1", "audit.log.2"]
        } else {
            &["audit.log.1", "audit.log.2"]
        };
        assert_eq!(names, expected);
        let texts = ["audit.log.2", "audit.log.1", "audit.log"].map(|name| disk.text(name));
        let found = verified(&texts).unwrap();
        assert!(paths(&texts.concat()).ends_with(&["/10".into(), "/11".into()]));
        assert!(found.lines < 12, "the oldest are gone");
        let missing = [texts[0].clone(), texts[2].clone() + &texts[1][texts[1].len() / 2..]];
        assert!(verified(&missing).is_err(), "a file that is left out is noticed");
    })
    .await;
}

#[test]
fn a_line_that_was_changed_taken_out_or_put_in_is_noticed() {
    let mut lines = Vec::new();
    let mut last: Option<[u8; 32]> = None;
    for n in 0..5 {
        let prev = last.map(|last| HEXLOWER.encode(&last)).unwrap_or_default();
        let line = format!("{{\"event\":\"request\",\"path\":\"/{n}\",\"prev\":\"{prev}\"}}");
        last = Some(writer::hash(line.as_bytes()));
        lines.push(line);
    }
    let check = |lines: &[String]| verified(&[lines.join("\n") + "\n"]);
    assert_eq!(check(&lines).unwrap().last, last);
    let mut changed = lines.clone();
    changed[2] = changed[2].replace("/2", "/9");
    assert_eq!(check(&changed), Err(BrokenChain::Link(4)));
    let mut garbage = lines.clone();
    garbage[2] = "not JSON".into();
    assert_eq!(check(&garbage), Err(BrokenChain::Link(4)), "garbage does not stand for a line");
    let mut without = lines.clone();
    without.remove(1);
    assert_eq!(check(&without), Err(BrokenChain::Link(2)));
    let mut twice = lines.clone();
    twice.insert(3, lines[2].clone());
    assert_eq!(check(&twice), Err(BrokenChain::Link(4)));
    let mut plain = lines.clone();
    plain[1] = "{\"event\":\"request\"}".into();
    assert_eq!(check(&plain), Err(BrokenChain::Unchained(2)));
}
