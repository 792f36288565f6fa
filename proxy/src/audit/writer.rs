//! Writes the audit log, on the control thread.
//!
//! Lines are written in batches. A file that has grown enough gives way to a new one: `audit.log`
//! becomes `audit.log.1`, that `audit.log.2`, and the oldest is removed. After a write that failed
//! nobody knows how much of it is there, so the file is read again before anything else is written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::record::Gap;
use super::{AuditQueue, Item};
use crate::backoff::Backoff;
use crate::config::defaults::{AUDIT_BACKOFF, LOG_BATCH, LOG_PAUSE};
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
    let AuditQueue { mut items, lost, trouble, config } = queue;
    let mut rng = world.rng.child("audit", 0).rng();
    let mut file = AuditFile { disk: world.disk, config, state: None };
    let (mut backoff, failures) = (Backoff::new(AUDIT_BACKOFF), Throttle::default());
    let (mut batch, mut lines, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    let mut missing = 0;
    loop {
        if lines.is_empty() && items.recv_many(&mut batch, LOG_BATCH).await == 0 {
            return;
        }
        for item in batch.drain(..) {
            match item {
                Item::Record(pending) => lines.push(line(&pending.record)),
                Item::Flush(done) => waiting.push(done),
            }
        }
        let noticed = lost.swap(0, Ordering::Relaxed);
        metrics.lost.inc_by(noticed);
        missing += noticed;
        match write(&mut file, &mut lines, &mut missing, world.wall.now()).await {
            Ok(written) => {
                metrics.written.inc_by(written);
                backoff.reset();
                trouble.store(None);
                for done in waiting.drain(..) {
                    let _ = done.send(());
                }
                // Meanwhile workers put records in without waking anybody.
                sleep(LOG_PAUSE).await;
            }
            Err(error) => {
                metrics.failures.inc();
                trouble.store(Some(Arc::new(error.to_string())));
                let left = lines.len() as u64;
                if let Some(withheld) = failures.admit(Instant::now()) {
                    tracing::error!(%error, left, withheld, "the audit log cannot be written");
                }
                if file.config.when_full == WhenFull::Drop {
                    metrics.lost.inc_by(left);
                    missing += left;
                    lines.clear();
                    waiting.clear();
                }
                sleep(backoff.next(&mut rng)).await;
            }
        }
    }
}

/// Writes how many lines are `missing`, and then `lines`. What is written is taken out of them, and
/// counted.
async fn write(
    file: &mut AuditFile,
    lines: &mut Vec<Vec<u8>>,
    missing: &mut u64,
    now: SystemTime,
) -> io::Result<u64> {
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
    /// Of the last whole line, without its end.
    last: Option<[u8; 32]>,
    /// Whether it does not end with the end of a line.
    torn: bool,
}

impl AuditFile {
    /// Writes `lines`, and takes those out that are written for sure. How many that were.
    async fn write(&mut self, lines: &mut Vec<Vec<u8>>) -> io::Result<u64> {
        if lines.is_empty() {
            return Ok(0);
        }
        let state = match self.state {
            Some(state) => state,
            None => self.look().await?,
        };
        let (text, last) = self.text(lines, state);
        let next = FileState { size: state.size + text.len() as u64, last, torn: false };
        self.state = None;
        if let Err(error) = self.append(text).await {
            let now = self.look().await?;
            // Of a batch that was cut, those lines are there up to the last whole one.
            let (text, _) = self.text(lines, state);
            let mut each = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let there = each.position(|line| Some(hash(line)) == now.last).map_or(0, |at| at + 1);
            lines.drain(..there);
            self.state = Some(now);
            return if lines.is_empty() { Ok(there as u64) } else { Err(error) };
        }
        self.state = Some(next);
        let written = std::mem::take(lines).len() as u64;
        if next.size >= self.config.rotate {
            self.rotate(next).await?;
        }
        Ok(written)
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

    /// Reads where the file ends.
    async fn look(&self) -> io::Result<FileState> {
        let text = self.read(FILE).await?;
        let last = match last_line(&text) {
            // The first line of a file is chained to the last of the one before.
            None => last_line(&self.read(&format!("{FILE}.1")).await?),
            last => last,
        };
        let torn = text.last().is_some_and(|byte| *byte != b'\n');
        Ok(FileState { size: text.len() as u64, last, torn })
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

/// The hash of the last whole line.
fn last_line(text: &[u8]) -> Option<[u8; 32]> {
    text.split(|byte| *byte == b'\n').rev().find(|line| super::verify::is_line(line)).map(hash)
}

/// Adds the hash of the line before to a line.
fn chain(line: &mut Vec<u8>, last: Option<[u8; 32]>) {
    line.pop();
    line.extend_from_slice(b",\"prev\":\"");
    line.extend(last.map(|last| HEXLOWER.encode(&last)).unwrap_or_default().into_bytes());
    line.extend_from_slice(b"\"}");
}

/// SHA-256 of a line.
pub(super) fn hash(line: &[u8]) -> [u8; 32] {
    digest(&SHA256, line).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
