//! The log: lines on standard error, written by a thread of its own.
//!
//! The reader of the log may be slow or have stopped reading. A full pipe blocks its writer, and
//! that must not be a worker, nor the thread that answers probes and signals. So lines wait in a
//! queue. Lines beyond its end are lost; the log says how many as soon as it is read again.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;

use crate::config::defaults::LOG_FIELD;
use crate::config::defaults::LOG_FLUSH;
use crate::config::defaults::LOG_QUEUE;

/// A line, or somebody who waits until all lines before have been written.
enum Entry {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Where lines go: to standard error at once, until [`Log::detach`] has begun the thread.
#[derive(Debug, Default)]
pub(super) struct Log {
    queue: OnceLock<SyncSender<Entry>>,
    lost: AtomicU64,
}

/// The log of this process.
pub(super) static LOG: Log = Log { queue: OnceLock::new(), lost: AtomicU64::new(0) };

/// How a field is written: what others say (the URI of a certificate, a server's message) is one
/// line of bounded length, whatever is in it.
pub(super) fn fields() -> impl for<'w> FormatFields<'w> + 'static {
    debug_fn(|to, field, value| {
        if field.name() != "message" {
            write!(to, "{}=", field.name())?;
        }
        write!(Escaped { to, room: LOG_FIELD }, "{value:?}")
    })
    .delimited(" ")
}

/// Writes control characters as Rust does in texts, and no more than so many bytes.
struct Escaped<'a, W> {
    to: &'a mut W,
    room: usize,
}

impl<W: fmt::Write> fmt::Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.room == 0 {
                return Ok(());
            }
            self.room = self.room.saturating_sub(c.len_utf8());
            match c {
                _ if self.room == 0 => self.to.write_char('…')?,
                c if c.is_control() => write!(self.to, "{}", c.escape_default())?,
                c => self.to.write_char(c)?,
            }
        }
        Ok(())
    }
}

impl Log {
    /// Begins the thread that writes to `out`. Not before the process has the identity that it
    /// keeps. Once only.
    ///
    /// # Errors
    /// If there cannot be another thread.
    pub(super) fn detach(&'static self, out: impl Write + Send + 'static) -> io::Result<()> {
        let (queue, lines) = sync_channel(LOG_QUEUE);
        if self.queue.set(queue).is_ok() {
            std::thread::Builder::new().name("log".into()).spawn(move || self.copy(&lines, out))?;
        }
        Ok(())
    }

    fn copy(&self, lines: &Receiver<Entry>, mut out: impl Write) {
        for entry in lines {
            match entry {
                // What cannot be written is lost: there is nowhere to say so.
                Entry::Line(line) => drop(out.write_all(&line)),
                Entry::Flush(done) => drop(done.send(())),
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let _ = writeln!(out, "{lost} lines of the log are lost: nobody read them in time");
            }
        }
    }

    /// Says `what` on a line of its own.
    pub(super) fn say(&self, what: impl std::fmt::Display) {
        // It never fails but where there is nowhere to say so.
        let _ = { self }.write_all(format!("{what}\n").as_bytes());
    }

    /// Says what panicked. Waits for it to be written, since the process may end of it.
    pub(super) fn say_panic(&self, panic: &std::panic::PanicHookInfo<'_>) {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let backtrace = Backtrace::capture();
        match backtrace.status() {
            BacktraceStatus::Captured => self.say(format_args!("thread '{name}' {panic}\n{backtrace}")),
            _ => self.say(format_args!("thread '{name}' {panic}")),
        }
        self.flush();
    }

    /// Waits until what has been said so far is written, but not for long.
    pub(super) fn flush(&self) {
        let Some(queue) = self.queue.get() else { return };
        let (done, written) = sync_channel(1);
        if queue.try_send(Entry::Flush(done)).is_ok() {
            let _ = written.recv_timeout(LOG_FLUSH);
        }
    }
}

/// Each write is a line: the subscriber puts it together first.
impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.queue.get() {
            None => return io::stderr().write(line),
            Some(queue) => {
                if let Err(TrySendError::Full(_)) = queue.try_send(Entry::Line(line.to_vec())) {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_reader_that_does_not_read_blocks_nobody_and_hears_how_much_it_missed() {
        let log: &'static Log = Box::leak(Box::default());
        let (mut reader, writer) = io::pipe().unwrap();
        log.detach(writer).unwrap();
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        // Far more than a pipe of 64 KiB and the queue hold.
        let written = 10_000;
        for _ in 0..written {
            (&*log).write_all(&line).unwrap();
        }
        let mut text = String::new();
        let mut said = [0; 4096];
        while !text.contains("are lost") {
            let read = reader.read(&mut said).unwrap();
            text += std::str::from_utf8(&said[..read]).unwrap();
        }
        let lost = text.lines().find(|line| line.contains("are lost")).unwrap();
        let lost: usize = lost.split(' ').next().unwrap().parse().unwrap();
        assert!((1..written).contains(&lost), "{lost}");

        std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
        log.flush();
        (&*log).write_all(b"again\n").unwrap();
    }

    #[test]
    fn what_others_say_is_one_line_of_bounded_length() {
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = std::sync::Mutex::new(writer);
        let subscriber = tracing_subscriber::fmt().fmt_fields(fields()).without_time().with_writer(writer);
        tracing::subscriber::with_default(subscriber.with_ansi(false).finish(), || {
            let said = "spiffe://a\nWARN forged\u{1b}[31m größe";
            tracing::warn!(cause = %said, text = "a\nb", n = 7, "refused: {said}");
            tracing::warn!(cause = %"é".repeat(LOG_FIELD), "long");
        });
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let [first, second] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        let said = "spiffe://a\\nWARN forged\\u{1b}[31m größe";
        assert_eq!(
            first.trim_start(),
            format!("WARN proxy::app::log::tests: refused: {said} cause={said} text=\"a\\nb\" n=7")
        );
        assert!(second.len() < LOG_FIELD + 100 && second.ends_with("é…"), "{} bytes", second.len());
    }

    #[test]
    fn all_that_was_said_is_written_at_the_end() {
        let log: &'static Log = Box::leak(Box::default());
        let (mut reader, writer) = io::pipe().unwrap();
        log.detach(writer).unwrap();
        for n in 0..100 {
            (&*log).write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        log.flush();
        let mut said = [0; 290];
        reader.read_exact(&mut said).unwrap();
        assert!(said.ends_with(b"\n99\n"));
    }
}
