//! What processes said, as much of it as a page has room for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;

/// Bytes of one process at most: its last.
const MOST: usize = 16 << 10;

/// Bytes of all of them at most.
const MOST_OF_ALL: usize = 384 << 10;

/// The end of what a process said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Log {
    /// Lines.
    pub text: String,
    /// Whether there was more before them.
    pub is_cut: bool,
}

impl Log {
    /// The ends of the logs in a folder, by the names of their files without `.log`. Logs of nothing
    /// are left out, and so are files that cannot be read.
    pub fn read_all(folder: &Path) -> BTreeMap<String, Log> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        let room = room(paths.len());
        let read = paths.iter().filter_map(|path| {
            let log = Log::read(path, room).ok().filter(|log| !log.text.is_empty())?;
            Some((path.file_stem()?.to_string_lossy().into_owned(), log))
        });
        read.collect()
    }

    /// The ends of what several processes said, a line at a time.
    pub(crate) fn of(lines: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, Log> {
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        for (process, line) in lines {
            let text = texts.entry(process).or_default();
            text.push_str(&line);
            text.push('\n');
        }
        let room = room(texts.len());
        texts.into_iter().map(|(process, text)| (process, Log::end(text.as_bytes(), room, false))).collect()
    }

    fn read(path: &Path, room: usize) -> io::Result<Log> {
        let mut file = File::open(path)?;
        let skipped = file.metadata()?.len().saturating_sub(room as u64);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::with_capacity(room);
        file.take(room as u64).read_to_end(&mut bytes)?;
        Ok(Log::end(&bytes, room, skipped > 0))
    }

    /// The last whole lines of `bytes`.
    fn end(bytes: &[u8], room: usize, is_cut: bool) -> Log {
        let kept = &bytes[bytes.len().saturating_sub(room)..];
        let is_cut = is_cut || kept.len() < bytes.len();
        let start = match is_cut {
            true => kept.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1),
            false => 0,
        };
        Log { text: String::from_utf8_lossy(&kept[start..]).into_owned(), is_cut }
    }
}

/// Bytes for each of so many.
fn room(logs: usize) -> usize {
    MOST.min(MOST_OF_ALL / logs.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_told_from_a_line_near_its_end_on() {
        let line = |n: usize| ("web/sidecar".to_owned(), format!("line {n} {}", "x".repeat(100)));
        let logs = Log::of((0..1_000).map(line).chain([("web/app".into(), "ready".into())]));
        let long = &logs["web/sidecar"];
        assert!(long.is_cut && long.text.starts_with("line ") && long.text.len() <= MOST, "{long:?}");
        assert!(long.text.lines().last().is_some_and(|line| line.starts_with("line 999 ")));
        assert_eq!(logs["web/app"], Log { text: "ready\n".into(), is_cut: false });
    }

    #[test]
    fn logs_are_read_by_the_names_of_their_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).expect("a file");
        write("web.app.log", b"ready\nbad \xff byte\n");
        write("web.sidecar.log", &b"0123456 89\n".repeat(10_000));
        write("quiet.app.log", b"");
        write("notes.txt", b"no log");
        let logs = Log::read_all(folder.path());
        assert_eq!(logs.keys().collect::<Vec<_>>(), ["web.app", "web.sidecar"]);
        assert_eq!(logs["web.app"], Log { text: "ready\nbad \u{fffd} byte\n".into(), is_cut: false });
        let cut = &logs["web.sidecar"];
        assert!(cut.is_cut && cut.text.len() <= MOST && cut.text.starts_with("0123456 89\n"));
        assert!(Log::read_all(&folder.path().join("none")).is_empty());
    }
}
