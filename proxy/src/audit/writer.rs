//! Writes the audit log, on the control thread.
//!
//! Lines are written in batches. A file without room for the next line gives way to a new one:
//! `audit.log` becomes `audit.log.1`, that `audit.log.2`, and the oldest is removed. After a write
//! that failed nobody knows how much of it is there, so the file is read again before anything else
//! is written. What the next line is chained to is never taken from that, but only what was written
//! (`written_of`): somebody may have changed the file, and made the write fail. A write that does
//! not come back cannot be given up, since it may be done at any time; but it is told of as one
//! that failed.
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

/// Writes what is in the queue to the disk of `world`, until nothing can come any more.
pub async fn run<N>(world: World<N>, queue: AuditQueue, metrics: AuditMetrics) {
    let AuditQueue { mut items, shared, config } = queue;
    let state = WriterState { shared, metrics, failures: Throttle::default() };
    let mut rng = world.rng.child("audit", 0).rng();
    let mut file = AuditFile::new(world.disk, config);
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
                if let Some(withheld) = state.failures.admit("write", Instant::now()) {
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
        // Those that are there already must not be written again behind it.
        file.settle(lines).await?;
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
    /// How it was left; `None`: it is not read yet.
    state: Option<FileState>,
    /// What was appended since, in a write that failed: any part of it may be there.
    attempt: Vec<u8>,
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

/// What is appended at once.
struct Chunk {
    text: Vec<u8>,
    /// How many lines are in it.
    lines: usize,
    /// What the next line is chained to then. Only if lines are chained: nobody needs it otherwise.
    last: Option<[u8; 32]>,
}

impl AuditFile {
    fn new(disk: Arc<dyn Disk>, config: Audit) -> Self {
        AuditFile { disk, config, state: None, attempt: Vec::new() }
    }

    /// Writes `lines`, and takes those out that are written for sure.
    async fn write(&mut self, lines: &mut Vec<Vec<u8>>) -> io::Result<()> {
        while !lines.is_empty() {
            let state = self.settle(lines).await?;
            if lines.is_empty() {
                break;
            }
            let Chunk { text, lines: count, last } = self.chunk(lines, state, self.config.rotate);
            if count == 0 {
                self.rotate(state).await?;
                continue;
            }
            let size = state.size + text.len() as u64;
            if let Err(error) = self.append(text).await {
                self.attempt = self.chunk(lines, state, self.config.rotate).text;
                self.settle(lines).await?;
                return if lines.is_empty() { Ok(()) } else { Err(error) };
            }
            self.state = Some(FileState { size, last, torn: false });
            lines.drain(..count);
        }
        Ok(())
    }

    /// Finds out where the file ends. If a write has failed, what was written before it is known
    /// nevertheless: whoever changes the file meanwhile must not be able to have that forgotten. So
    /// only the part of the write that is there is looked for. Its whole lines are taken out of
    /// `lines`.
    async fn settle(&mut self, lines: &mut Vec<Vec<u8>>) -> io::Result<FileState> {
        let Some(before) = self.state else { return Ok(*self.state.insert(self.look().await?)) };
        if self.attempt.is_empty() {
            return Ok(before);
        }
        let text = self.read(Audit::FILE).await?;
        let attempt = std::mem::take(&mut self.attempt);
        let there = written_of(&attempt, &text, before.size);
        let (whole, cut) = ending(there);
        let state = FileState {
            size: text.len() as u64,
            last: chained_to(whole.or(before.last), &cut),
            torn: is_torn(&text),
        };
        // They may be others by now, if those of the write were given up.
        let wanted = self.chunk(lines, before, u64::MAX).text;
        let same = split(&wanted).zip(split(there)).take_while(|(wanted, there)| wanted == there);
        lines.drain(..same.count());
        self.state = Some(state);
        Ok(state)
    }

    /// What of `lines` fits into a file in `state` that may have so many bytes. An empty one takes
    /// a line however long it is.
    fn chunk(&self, lines: &[Vec<u8>], state: FileState, most: u64) -> Chunk {
        let size = lines.iter().map(|line| line.len() + CHAINED).sum();
        let mut chunk = Chunk { text: Vec::with_capacity(size), lines: 0, last: state.last };
        let room = most.saturating_sub(state.size);
        if state.torn {
            chunk.text.push(b'\n');
        }
        for line in lines {
            let begins = chunk.text.len();
            chunk.text.extend_from_slice(line);
            if self.config.chain {
                chain(&mut chunk.text, chunk.last);
            }
            let hash = self.config.chain.then(|| hash(&chunk.text[begins..]));
            chunk.text.push(b'\n');
            if chunk.text.len() as u64 > room && state.size + begins as u64 > 0 {
                chunk.text.truncate(begins);
                break;
            }
            chunk.last = hash.or(chunk.last);
            chunk.lines += 1;
        }
        chunk
    }

    async fn append(&self, text: Vec<u8>) -> io::Result<()> {
        self.disk.append(Audit::FILE, text).await?;
        match self.config.sync {
            true => self.disk.sync(Audit::FILE).await,
            false => Ok(()),
        }
    }

    /// Reads where the file ends.
    async fn look(&self) -> io::Result<FileState> {
        let text = self.read(Audit::FILE).await?;
        let (whole, cut) = ending(&text);
        let before = match whole {
            // The first line of a file is chained to the last of the one before.
            None => {
                let older = self.read(&Audit::name_of(1)).await?;
                let (whole, cut) = ending(&older);
                chained_to(whole, &cut)
            }
            whole => whole,
        };
        Ok(FileState { size: text.len() as u64, last: chained_to(before, &cut), torn: is_torn(&text) })
    }

    async fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        match self.disk.read(file).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    /// Begins a new file. There is nothing to rename if somebody has removed the old one.
    async fn rotate(&mut self, state: FileState) -> io::Result<()> {
        let names = match self.disk.list().await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let mut ages: Vec<usize> = names.iter().filter_map(|name| Audit::age(name)).collect();
        ages.sort_unstable();
        if ages.first() == Some(&0) {
            let keep = self.config.keep;
            self.disk.remove(&Audit::name_of(keep)).await?;
            self.disk.sync(Audit::FILE).await?;
            for age in ages.into_iter().rev().filter(|age| *age < keep) {
                self.disk.rename(&Audit::name_of(age), &Audit::name_of(age + 1)).await?;
            }
        }
        self.state = Some(FileState { size: 0, last: state.last, torn: false });
        Ok(())
    }
}

/// The lines of a text.
fn split(text: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn is_torn(text: &[u8]) -> bool {
    text.last().is_some_and(|byte| *byte != b'\n')
}

/// The part of an `attempt` to write behind `size` bytes that is in the `text` of the file: all
/// that is behind them, or, if somebody has changed the file, what it ends with.
fn written_of<'a>(attempt: &[u8], text: &'a [u8], size: u64) -> &'a [u8] {
    match text.get(size as usize..) {
        Some(there) if attempt.starts_with(there) => there,
        _ => {
            let mut parts = (0..=attempt.len().min(text.len())).rev();
            let part = parts.find(|part| text.ends_with(&attempt[..*part]));
            &text[text.len() - part.unwrap_or(0)..]
        }
    }
}

/// The hash of the last whole line, and what is left of the lines after it that were cut off.
fn ending(text: &[u8]) -> (Option<[u8; 32]>, Vec<&[u8]>) {
    let (mut whole, mut cut) = (None, Vec::new());
    for line in split(text).rev() {
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
