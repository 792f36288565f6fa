//! Whether chained lines of an audit log are those that were written: `proxy audit verify`.
//!
//! Each line has the SHA-256 of the one before, so one that was changed, taken out or put in is
//! noticed at the next. The last line has nothing after it: keep its hash elsewhere to notice that
//! lines were cut off at the end. Whoever can write the file can also write all of it anew; the
//! chain proves something only against a hash that was kept elsewhere.

use data_encoding::HEXLOWER;
use serde::Deserialize;

use super::writer::hash;

/// What was found in a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Lines that are in the chain.
    pub lines: u64,
    /// Lines that were written by half, in a crash or on a full disk.
    pub torn: u64,
    /// Lines that say how many others are missing, and the sum of those.
    pub gaps: (u64, u64),
    /// Of the last line.
    pub last: Option<[u8; 32]>,
    /// A hash that was kept, and whether a line with it was found.
    pub kept: Option<(String, bool)>,
}

/// Where the chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenChain {
    /// A line does not follow the one before.
    #[error("line {0} does not follow the line before it: one of them was changed, put in or taken out")]
    Link(u64),
    /// A line has no hash.
    #[error("line {0} is not chained: it was written without `chain = true`, or was changed")]
    Unchained(u64),
}

#[derive(Deserialize)]
struct Chained {
    prev: Option<String>,
    event: String,
    #[serde(default)]
    lost: u64,
}

/// Whether these bytes are a whole line.
pub(super) fn is_line(line: &[u8]) -> bool {
    serde_json::from_slice::<Chained>(line).is_ok()
}

impl Verified {
    /// Checks the text of one more file, which comes after those before.
    ///
    /// # Errors
    /// Where the chain is broken, by the line of this file, from 1. The first line of the first
    /// file may follow a file that is gone.
    pub fn add(&mut self, text: &[u8]) -> Result<(), BrokenChain> {
        for (line, number) in text.split(|byte| *byte == b'\n').zip(1..) {
            if line.is_empty() {
                continue;
            }
            let Ok(found) = serde_json::from_slice::<Chained>(line) else {
                self.torn += 1;
                continue;
            };
            let Some(prev) = found.prev else { return Err(BrokenChain::Unchained(number)) };
            let expected = self.last.map(|last| HEXLOWER.encode(&last));
            if self.lines > 0 && expected != Some(prev) {
                return Err(BrokenChain::Link(number));
            }
            if found.event == "gap" {
                self.gaps = (self.gaps.0 + 1, self.gaps.1 + found.lost);
            }
            self.lines += 1;
            let hash = hash(line);
            if let Some((kept, found)) = &mut self.kept {
                *found |= *kept == HEXLOWER.encode(&hash);
            }
            self.last = Some(hash);
        }
        Ok(())
    }
}
