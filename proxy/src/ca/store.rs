//! What the authority keeps on its disk, so that it can be killed at any moment: its roots with
//! their keys, the key of its tokens and what was revoked in `state.json`, and every certificate
//! that it gave out in `issued.log`.
//!
//! The state is small and is replaced as a whole. A certificate is in the log, and the log on the
//! disk, before anybody gets it. A record begins with the end of a line, so that one that was
//! written by half damages no other. After a failed write nobody knows what the file has, so it is
//! written anew before the next record.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::issue::{self, has_ended};
use super::roots::Roots;
use crate::spiffe_id::SpiffeId;
use crate::world::Disk;

const STATE: &str = "state.json";
const STATE_NEW: &str = "state.json.new";
const LOG: &str = "issued.log";
const LOG_NEW: &str = "issued.log.new";
const PROBE: &str = "probe";

/// The files with secrets, or with what decides.
pub(crate) const FILES: [&str; 4] = [STATE, STATE_NEW, LOG, LOG_NEW];

/// The state of an authority.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) trust_domain: String,
    /// Grows with every change of roots and of what was revoked.
    pub(super) version: u64,
    /// What tokens are signed with.
    #[serde(with = "base64_text")]
    pub(super) token_key: Vec<u8>,
    /// The longest life that a certificate was ever given; roots are kept for that long.
    pub(super) longest: Duration,
    pub(super) roots: Roots,
    /// By serial number, hexadecimal.
    pub(super) revoked: BTreeMap<String, RevokedRecord>,
    /// Workloads whose certificates and tokens from before a revocation do not count: its number,
    /// which is milliseconds of Unix time, and greater than that of the one before.
    pub(super) barred: BTreeMap<SpiffeId, u64>,
}

/// A certificate that was revoked. Seconds of Unix time.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct RevokedRecord {
    /// When.
    pub(super) at: u64,
    /// When it would have ended by itself.
    pub(super) expires: u64,
}

mod base64_text {
    use super::{BASE64, Deserialize};
    use base64::Engine as _;

    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text).map_err(serde::de::Error::custom)
    }
}

/// A certificate that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedRecord {
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// Whose it is.
    pub id: SpiffeId,
    /// Until when it is valid, seconds of Unix time.
    pub expires: u64,
}

/// The files.
pub(super) struct Store {
    disk: Arc<dyn Disk>,
    /// What is in the log.
    pub(super) issued: Vec<IssuedRecord>,
    /// Whether the log may have less, or other things.
    is_in_doubt: bool,
}

impl Store {
    /// What is on the disk. No state: the disk has none yet.
    ///
    /// # Errors
    /// If it cannot be read. A state that does not make sense is never replaced.
    pub(super) async fn open(disk: Arc<dyn Disk>) -> io::Result<(Self, Option<State>)> {
        let state = read(&*disk).await?;
        let log = file(&*disk, LOG).await?;
        if state.is_some() && log.is_none() {
            tracing::warn!(
                "{LOG} is missing beside {STATE}: what was issued before is only revoked by its serial"
            );
        }
        let is_new = log.is_none();
        let (issued, half) = records(&log.unwrap_or_default())?;
        if let Some(line) = half {
            tracing::warn!(
                "{LOG}:{line}: this line is only half written, so it was never given out: it is left out"
            );
        }
        if state.is_none() && !issued.is_empty() {
            let message = format!("{STATE} is missing beside {LOG}, which says what was issued: restore it");
            return Err(io::Error::other(message));
        }
        let mut store = Store { disk, issued, is_in_doubt: is_new || half.is_some() };
        // A log that is whole stays, so that a start takes no place on a disk that has none.
        if store.is_in_doubt {
            store.write_anew(0).await?;
        }
        Ok((store, state))
    }

    /// Replaces the state. On an error the old one is there, or the new one: the caller keeps the
    /// old one and tries again.
    pub(super) async fn save(&self, state: &State) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(state).map_err(io::Error::other)?;
        self.replace(STATE_NEW, STATE, text).await
    }

    /// Notes a certificate. Once it returns, a crash does not lose it. What had ended at `ended`
    /// may be forgotten.
    pub(super) async fn note(&mut self, record: IssuedRecord, ended: u64) -> io::Result<()> {
        let expired = self.issued.iter().filter(|old| has_ended(old.expires, ended)).count();
        if self.is_in_doubt || expired > self.issued.len() / 2 + 1000 {
            self.write_anew(ended).await?;
        }
        let mut line = vec![b'\n'];
        serde_json::to_writer(&mut line, &record).map_err(io::Error::other)?;
        self.is_in_doubt = true;
        let written = self.disk.append(LOG, line).await;
        let synced = match written {
            Ok(()) => self.disk.sync(LOG).await,
            error => error,
        };
        synced.map_err(|error| in_words("write", LOG, &error))?;
        self.is_in_doubt = false;
        self.issued.push(record);
        Ok(())
    }

    /// Whether the disk takes anything.
    pub(super) async fn probe(&self) -> io::Result<()> {
        let written = self.disk.append(PROBE, b"probe\n".to_vec()).await;
        let synced = match written {
            Ok(()) => self.disk.sync(PROBE).await,
            error => error,
        };
        self.disk.remove(PROBE).await.and(synced)
    }

    /// Writes a log without what had ended at `ended`.
    async fn write_anew(&mut self, ended: u64) -> io::Result<()> {
        self.issued.retain(|record| !has_ended(record.expires, ended));
        let mut text = Vec::new();
        for record in &self.issued {
            text.push(b'\n');
            serde_json::to_writer(&mut text, record).map_err(io::Error::other)?;
        }
        self.replace(LOG_NEW, LOG, text).await?;
        self.is_in_doubt = false;
        Ok(())
    }

    async fn replace(&self, new: &str, file: &str, text: Vec<u8>) -> io::Result<()> {
        let writing = async {
            self.disk.remove(new).await?;
            self.disk.append(new, text).await?;
            self.disk.sync(new).await?;
            self.disk.rename(new, file).await
        };
        let written = writing.await;
        if written.is_err() {
            // It takes the place that there may be too little of.
            let _ = self.disk.remove(new).await;
        }
        written.map_err(|error| in_words("write", file, &error))
    }
}

/// The state on a disk, if there is one.
///
/// # Errors
/// If it cannot be read: which line, and why.
pub(super) async fn read(disk: &dyn Disk) -> io::Result<Option<State>> {
    let Some(bytes) = file(disk, STATE).await? else { return Ok(None) };
    let words = |error: serde_json::Error| io::Error::other(format!("{STATE}:{}: {error}", error.line()));
    let state: State = serde_json::from_slice(&bytes).map_err(words)?;
    if state.token_key.is_empty() || state.roots.iter().next().is_none() {
        return Err(io::Error::other(format!("{STATE}: the key of tokens or the roots are missing")));
    }
    for (position, root) in state.roots.iter().enumerate() {
        if let Err(why) = issue::check(root) {
            let line = line_of(&bytes, "\"certificate\":", position);
            let message = format!("{STATE}:{line}: a root is damaged: {why}; restore the file from a copy");
            return Err(io::Error::other(message));
        }
    }
    Ok(Some(state))
}

/// The number of the line in which `words` are for the time `position`, from 0 on.
fn line_of(text: &[u8], words: &str, position: usize) -> usize {
    let text = String::from_utf8_lossy(text);
    let found = text.match_indices(words).nth(position);
    found.map_or(1, |(at, _)| text[..at].matches('\n').count() + 1)
}

/// The records of a log, and the number of its last line if that was written by half.
fn records(log: &[u8]) -> io::Result<(Vec<IssuedRecord>, Option<usize>)> {
    let lines: Vec<_> =
        log.split(|byte| *byte == b'\n').zip(1..).filter(|(line, _)| !line.is_empty()).collect();
    let (mut records, mut half) = (Vec::new(), None);
    for (at, (line, number)) in lines.iter().enumerate() {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(_) if at + 1 == lines.len() => half = Some(*number),
            Err(error) => return Err(io::Error::other(format!("{LOG}:{number}: {error}"))),
        }
    }
    Ok((records, half))
}

async fn file(disk: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    match disk.read(name).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(in_words("read", name, &error)),
    }
}

fn in_words(what: &str, name: &str, error: &io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => "; the authority must be run by the owner of its files",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot {what} {name}: {error}{advice}"))
}
