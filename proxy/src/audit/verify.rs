//! Whether chained lines of an audit log are those that were written: `proxy audit verify`.
//!
//! Each line has the SHA-256 of the one before, so one that was changed, taken out or put in is
//! noticed at the next, if that was left as it was. So is the rest of a line that a crash or a full
//! disk has cut off: the line that was written next is chained to it too. Only at the end of all
//! may there be one that nothing is chained to yet, if it can be the beginning of a line.
//!
//! Whoever can write the file can also cut it off, or write it anew from any line on. A hash that
//! was kept elsewhere proves that nothing up to its line was changed.

use serde::Deserialize;

use super::writer::{chained_to, hash, hex};

/// What was found in a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Lines that are in the chain.
    pub lines: u64,
    /// Lines that were written by half, in a crash or on a full disk.
    pub torn: u64,
    /// Lines that say how many others are missing, and the sum of those.
    pub gaps: (u64, u64),
    /// The hash of the line that the first one follows, in hexadecimal; empty if it was the first
    /// ever.
    pub follows: String,
    /// Of the last line.
    pub last: Option<[u8; 32]>,
    /// A hash that was kept, in hexadecimal, and whether a line with it was found.
    pub kept: Option<(String, bool)>,
    /// What is no line, since the last one that is.
    loose: Option<Loose>,
}

/// What is no line, and is part of the chain only if the next line says so.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Loose {
    /// Where it begins.
    file: String,
    line: u64,
    count: u64,
    /// What the next line must be chained to.
    link: Option<[u8; 32]>,
    /// Whether it can be a line of which the end is not written yet.
    is_beginning: bool,
}

/// Where the chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: line {line} {how}")]
pub struct BrokenChain {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// How it is broken there.
    pub how: Break,
}

/// How a chain is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// A line does not follow the one before.
    #[error("does not follow the line before it: one of them was changed, put in or taken out")]
    Link,
    /// A line has no hash.
    #[error("is not chained: it was written without `chain = true`, or was changed")]
    Unchained,
    /// Something else than a line, which the next line knows nothing of.
    #[error("is no line of the log: it was changed or put in")]
    Loose,
    /// A line without anything in it, as the sidecar writes none.
    #[error("is blank: it was changed or put in")]
    Blank,
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
    /// Nothing yet, and a hash that must be found.
    pub fn after(kept: Option<String>) -> Self {
        Verified { kept: kept.map(|hash| (hash, false)), ..Verified::default() }
    }

    /// Checks the text of one more file, which comes after those before.
    ///
    /// # Errors
    /// Where the chain is broken. The first line of the first file may follow a file that is gone.
    pub fn add(&mut self, file: &str, text: &[u8]) -> Result<(), BrokenChain> {
        let mut lines = text.split(|byte| *byte == b'\n').zip(1..).peekable();
        while let Some((line, number)) = lines.next() {
            let is_last = lines.peek().is_none();
            let broken = |how| BrokenChain { file: file.to_owned(), line: number, how };
            if line.is_empty() {
                match is_last {
                    true => break,
                    false => return Err(broken(Break::Blank)),
                }
            }
            match serde_json::from_slice::<Chained>(line) {
                Ok(found) => self.follow(line, found, broken)?,
                Err(wrong) => {
                    let is_beginning = is_last && wrong.is_eof() && line.starts_with(b"{");
                    self.put_aside((file, number), line, is_beginning);
                }
            }
        }
        Ok(())
    }

    /// A line must follow the one before, and all that is no line in between.
    fn follow(
        &mut self,
        line: &[u8],
        found: Chained,
        broken: impl Fn(Break) -> BrokenChain,
    ) -> Result<(), BrokenChain> {
        let Some(prev) = found.prev else { return Err(broken(Break::Unchained)) };
        match self.loose.take() {
            Some(loose) if prev == hex(loose.link) => self.torn += loose.count,
            Some(loose) if self.lines == 0 || prev == hex(self.last) => return Err(loose.broken()),
            None if self.lines == 0 => self.begin_after(prev),
            None if prev == hex(self.last) => {}
            _ => return Err(broken(Break::Link)),
        }
        if found.event == "gap" {
            self.gaps = (self.gaps.0 + 1, self.gaps.1.saturating_add(found.lost));
        }
        self.lines += 1;
        let hash = hash(line);
        self.find(&hex(Some(hash)));
        self.last = Some(hash);
        Ok(())
    }

    fn begin_after(&mut self, prev: String) {
        self.find(&prev);
        self.follows = prev;
    }

    fn find(&mut self, hash: &str) {
        if let Some((kept, is_found)) = &mut self.kept {
            *is_found |= kept == hash;
        }
    }

    fn put_aside(&mut self, (file, line): (&str, u64), text: &[u8], is_beginning: bool) {
        let begins = || Loose { file: file.to_owned(), line, count: 0, link: self.last, is_beginning };
        let loose = self.loose.get_or_insert_with(begins);
        loose.link = chained_to(loose.link, &[text]);
        loose.count += 1;
        loose.is_beginning &= loose.count == 1;
    }

    /// What was found, once there is no further file.
    ///
    /// # Errors
    /// If the end is no line, and no beginning of one.
    pub fn finish(mut self) -> Result<Self, BrokenChain> {
        match self.loose.take() {
            Some(loose) if !loose.is_beginning => return Err(loose.broken()),
            Some(_) => self.torn += 1,
            None => {}
        }
        Ok(self)
    }
}

impl Loose {
    fn broken(self) -> BrokenChain {
        BrokenChain { file: self.file, line: self.line, how: Break::Loose }
    }
}
