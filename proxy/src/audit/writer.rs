//! Writes the audit log, on the control thread.
//!
//! Lines are written in batches. A file that has grown enough gives way to a new one: `audit.log`
//! becomes `audit.log.1`, that `audit.log.2`, and the oldest is removed. After a write that failed
//! nobody knows how much of it is there, so the file is read again before anything else is written.
//! One that does not come back cannot be given up, since it may be done at any time; but it is
//! told of as one that failed.
//!
//! Where a line was cut off, the next is chained to what is left of it too (`chained_to`), so
//! nothing can be put in later that looks as if it were cut off.

use std::fmt::Display;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::record::Gap;
use super::{AuditQueue, Item, Shared};
use crate::backoff::Backoff;
use crate::config::defaults::{AUDIT_BACKOFF, AUDIT_HANGS, LOG_BATCH, LOG_PAUSE};
use crate::config::{Audit, WhenFull};
use crate::telemetry::{AuditMetrics, Throttle};
use crate::world::{Disk, World};

/// Bytes of most lines, at most.
const USUAL_LINE: usize = 768;
/// Bytes that chaining adds to a line, and its end.
const CHAINED: usize = 80;

/// The file that is written now.
pub const FILE: &str = "audit.log";

/// Writes what is in the queue to the disk of `world`, until nothing can come any more.
pub async fn run<N>(world: World<N>, queue: AuditQueue, metrics: AuditMetrics) {
    let AuditQueue { mut items, shared, config } = queue;
    let state = WriterState { shared, metrics, failures: Throttle::default() };
    let mut rng = world.rng.child("audit", 0).rng();
    let mut file = AuditFile { disk: world.disk, config, state: None };
    let mut backoff = Backoff::new(AUDIT_BACKOFF);
    let (mut batch, mut lines, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    let mut missing = 0;
    loop {
        if lines.is_empty() && items.recv_many(&mut batch, LOG_BATCH).await == 0 {
            return;
        }
        let before = lines.len();
        for item in batch.drain(..) {
            match item {
                Item::Record(pending) => lines.push(line(&pending.record)),
                Item::Flush(done) => waiting.push(done),
            }
        }
        let all = lines.len();
        state.taken(all - before);
        missing += state.lost();
        let mut lost_meanwhile = 0;
        let writing = write(&mut file, &mut lines, &mut missing, world.wall.now());
        let written = state.watch(writing, &mut lost_meanwhile).await;
        missing += lost_meanwhile;
        state.metrics.written.inc_by((all - lines.len()) as u64);
        match written {
            Ok(()) => {
                backoff.reset();
                state.shared.trouble.store(None);
                for done in waiting.drain(..) {
                    let _ = done.send(());
                }
                // Meanwhile workers put records in without waking anybody.
                sleep(LOG_PAUSE).await;
            }
            Err(error) => {
                let left = lines.len() as u64;
                state.failed(&error);
                if let Some(withheld) = state.failures.admit(Instant::now()) {
                    tracing::error!(%error, left, withheld, "the audit log cannot be written");
                }
                if file.config.when_full == WhenFull::Drop {
                    state.metrics.lost.inc_by(left);
                    missing += left;
                    lines.clear();
                    waiting.clear();
                }
                sleep(backoff.next(&mut rng)).await;
            }
        }
    }
}

/// What the writer tells others.
struct WriterState {
    shared: Arc<Shared>,
    metrics: AuditMetrics,
    failures: Throttle,
}

impl WriterState {
    /// Makes room in the queue for as many records as were taken out.
    fn taken(&self, records: usize) {
        self.shared.waiting.fetch_sub(records, Ordering::Relaxed);
        self.shared.taken.notify_waiters();
    }

    /// How many records were lost since this was asked last.
    fn lost(&self) -> u64 {
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        self.metrics.lost.inc_by(lost);
        lost
    }

    /// Notes why nothing can be written.
    fn failed(&self, why: &impl Display) {
        self.metrics.failures.inc();
        self.shared.trouble.store(Some(Arc::new(why.to_string())));
    }

    /// Waits for a write, and tells of one that does not come back. `lost` is how many records were
    /// lost meanwhile.
    async fn watch<T>(&self, writing: impl Future<Output = T>, lost: &mut u64) -> T {
        let (mut writing, mut is_told) = (pin!(writing), false);
        loop {
            if let Ok(written) = timeout(AUDIT_HANGS, &mut writing).await {
                return written;
            }
            let why = format!("a write has not come back for {} s", AUDIT_HANGS.as_secs());
            self.failed(&why);
            *lost += self.lost();
            if !std::mem::replace(&mut is_told, true) {
                tracing::error!(error = why, "the audit log cannot be written");
            }
        }
    }
}

/// Writes how many lines are `missing`, and then `lines`. What is written is taken out of them.
async fn write(
    file: &mut AuditFile,
    lines: &mut Vec<Vec<u8>>,
    missing: &mut u64,
    now: SystemTime,
) -> io::Result<()> {
    if *missing > 0 {
        file.write(&mut vec![line(&Gap::new(*missing, now))]).await?;
        *missing = 0;
    }
    file.write(lines).await
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::with_capacity(USUAL_LINE);
    serde_json::to_writer(&mut line, value).expect("texts and numbers are JSON");
    line
}

/// The file, and where it ends.
struct AuditFile {
    disk: Arc<dyn Disk>,
    config: Audit,
    /// What is known of it; `None`: it must be read.
    state: Option<FileState>,
}

#[derive(Debug, Clone, Copy, Default)]
struct FileState {
    /// Bytes.
    size: u64,
    /// What the next line is chained to.
    last: Option<[u8; 32]>,
    /// Whether it does not end with the end of a line.
    torn: bool,
}

impl AuditFile {
    /// Writes `lines`, and takes those out that are written for sure.
    async fn write(&mut self, lines: &mut Vec<Vec<u8>>) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let state = match self.state {
            Some(state) => state,
            None => self.look().await?.0,
        };
        let (text, last) = self.text(lines, state);
        let next = FileState { size: state.size + text.len() as u64, last, torn: false };
        self.state = None;
        if let Err(error) = self.append(text).await {
            let (now, whole) = self.look().await?;
            // Of a batch that was cut, those lines are there up to the last whole one.
            let (text, _) = self.text(lines, state);
            let mut each = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let there = each.position(|line| Some(hash(line)) == whole).map_or(0, |at| at + 1);
            lines.drain(..there);
            self.state = Some(now);
            return if lines.is_empty() { Ok(()) } else { Err(error) };
        }
        self.state = Some(next);
        lines.clear();
        if next.size >= self.config.rotate {
            self.rotate(next).await?;
        }
        Ok(())
    }

    /// What is appended to a file in `state`, and the hash of its last line if lines are chained:
    /// nobody needs it otherwise.
    fn text(&self, lines: &[Vec<u8>], state: FileState) -> (Vec<u8>, Option<[u8; 32]>) {
        let mut last = state.last;
        let mut text = Vec::with_capacity(lines.iter().map(|line| line.len() + CHAINED).sum());
        if state.torn {
            text.push(b'\n');
        }
        for line in lines {
            let begins = text.len();
            text.extend_from_slice(line);
            if self.config.chain {
                chain(&mut text, last);
                last = Some(hash(&text[begins..]));
            }
            text.push(b'\n');
        }
        (text, last)
    }

    async fn append(&self, text: Vec<u8>) -> io::Result<()> {
        self.disk.append(FILE, text).await?;
        match self.config.sync {
            true => self.disk.sync(FILE).await,
            false => Ok(()),
        }
    }

    /// Reads where the file ends, and the hash of its last whole line.
    async fn look(&self) -> io::Result<(FileState, Option<[u8; 32]>)> {
        let text = self.read(FILE).await?;
        let (whole, cut) = ending(&text);
        let before = match whole {
            // The first line of a file is chained to the last of the one before.
            None => {
                let older = self.read(&format!("{FILE}.1")).await?;
                let (whole, cut) = ending(&older);
                chained_to(whole, &cut)
            }
            whole => whole,
        };
        let torn = text.last().is_some_and(|byte| *byte != b'\n');
        let last = chained_to(before, &cut);
        Ok((FileState { size: text.len() as u64, last, torn }, whole))
    }

    async fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        match self.disk.read(file).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    /// Begins a new file.
    async fn rotate(&mut self, state: FileState) -> io::Result<()> {
        let names = self.disk.list().await?;
        let old = |n: usize| format!("{FILE}.{n}");
        self.disk.remove(&old(self.config.keep)).await?;
        for n in (1..self.config.keep).rev() {
            if names.contains(&old(n)) {
                self.disk.rename(&old(n), &old(n + 1)).await?;
            }
        }
        self.disk.sync(FILE).await?;
        match self.config.keep {
            0 => self.disk.remove(FILE).await?,
            _ => self.disk.rename(FILE, &old(1)).await?,
        }
        self.state = Some(FileState { size: 0, last: state.last, torn: false });
        Ok(())
    }
}

/// The hash of the last whole line, and what is left of the lines after it that were cut off.
fn ending(text: &[u8]) -> (Option<[u8; 32]>, Vec<&[u8]>) {
    let (mut whole, mut cut) = (None, Vec::new());
    for line in text.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        if super::verify::is_line(line) {
            whole = Some(hash(line));
            break;
        }
        cut.push(line);
    }
    cut.reverse();
    (whole, cut)
}

/// What a line is chained to that comes after a line with the hash `whole`, and after what is left
/// of lines that were `cut` off. Each of those counts as if it ended with the hash before it.
pub(super) fn chained_to(whole: Option<[u8; 32]>, cut: &[&[u8]]) -> Option<[u8; 32]> {
    cut.iter().fold(whole, |last, line| Some(hash(&[line, hex(last).as_bytes()].concat())))
}

/// A hash as it stands in a line.
pub(super) fn hex(hash: Option<[u8; 32]>) -> String {
    hash.map(|hash| HEXLOWER.encode(&hash)).unwrap_or_default()
}

/// Adds the hash of the line before to a line.
fn chain(line: &mut Vec<u8>, last: Option<[u8; 32]>) {
    line.pop();
    line.extend_from_slice(b",\"prev\":\"");
    line.extend_from_slice(hex(last).as_bytes());
    line.extend_from_slice(b"\"}");
}

/// SHA-256 of a line.
pub(super) fn hash(line: &[u8]) -> [u8; 32] {
    digest(&SHA256, line).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
