//! Whether a stream of bytes is TLS: a sequence of records (RFC 8446, section 5.1) and nothing
//! else.
//!
//! Segments may come late, twice or overlapping. What is in order is read at once; what is ahead is
//! kept until the gap before it closes. A gap that does not close, and a stream whose beginning was
//! not seen, are told as such: nothing is claimed of bytes that were not read.

use std::collections::BTreeMap;

/// Most bytes that are kept ahead of a gap: more than a peer's window holds in the lab.
const MOST_AHEAD: usize = 8 << 20;
/// Bytes of a record's header.
const HEADER: usize = 5;
/// Longest record: 2^14 bytes and what encryption may add.
const LONGEST: usize = (1 << 14) + 256;

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Stream {
    /// The sequence number of the next byte to read; `None` until the beginning was seen.
    next: Option<u32>,
    /// The number of its SYN.
    first: Option<u32>,
    /// Segments ahead of a gap, by their distance from the beginning of the stream.
    ahead: BTreeMap<u64, Vec<u8>>,
    ahead_bytes: usize,
    /// Bytes read so far.
    read: u64,
    reader: Reader,
    /// The last bytes that were read, in which a marker may begin.
    tail: Vec<u8>,
    counts: StreamCounts,
}

/// What was found in a stream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct StreamCounts {
    /// Segments with a payload.
    pub segments: i64,
    /// TLS records that were read to their end.
    pub records: i64,
    /// Segments with bytes of no TLS record.
    pub plaintext: i64,
    /// How often one of the markers was there to read.
    pub marked: i64,
    /// Segments of which nothing can be said.
    pub unread: i64,
}

impl StreamCounts {
    /// Adds others.
    pub fn add(&mut self, other: StreamCounts) {
        self.add_change(StreamCounts::default(), other);
    }

    /// Adds what others have grown by. The unread may have become fewer, when a gap has closed.
    pub fn add_change(&mut self, before: StreamCounts, now: StreamCounts) {
        let change = |sum: &mut i64, before: i64, now: i64| *sum += now - before;
        change(&mut self.segments, before.segments, now.segments);
        change(&mut self.records, before.records, now.records);
        change(&mut self.plaintext, before.plaintext, now.plaintext);
        change(&mut self.marked, before.marked, now.marked);
        change(&mut self.unread, before.unread, now.unread);
    }
}

/// Reads record after record.
#[derive(Debug, Default)]
struct Reader {
    header: Vec<u8>,
    /// Bytes of the present record that are still to come.
    left: usize,
    /// The stream is not TLS, for good.
    is_lost: bool,
}

impl Reader {
    /// Reads on. Returns how many records ended, and whether all of it belongs to records.
    fn read(&mut self, mut bytes: &[u8]) -> (i64, bool) {
        let mut ended = 0;
        while !bytes.is_empty() && !self.is_lost {
            if self.left > 0 {
                let part = self.left.min(bytes.len());
                (self.left, bytes) = (self.left - part, &bytes[part..]);
                ended += i64::from(self.left == 0);
                continue;
            }
            let part = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            // Whatever is there of it must fit: a stream may stay short.
            match begins(&self.header) {
                None => self.is_lost = true,
                Some(Some(length)) => (self.left, self.header) = (length, Vec::new()),
                Some(None) => {}
            }
        }
        (ended, !self.is_lost)
    }
}

/// Whether these are the first bytes of a record's header and, if they are all of it, how long the
/// record is.
fn begins(header: &[u8]) -> Option<Option<usize>> {
    // Change cipher spec, alert, handshake, application data.
    let fits =
        |at: usize, allowed: std::ops::RangeInclusive<u8>| header.get(at).is_none_or(|b| allowed.contains(b));
    if !(fits(0, 20..=23) && fits(1, 3..=3) && fits(2, 1..=4)) {
        return None;
    }
    let &[_, _, _, high, low] = header else { return Some(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    (1..=LONGEST).contains(&length).then_some(Some(length))
}

impl Stream {
    /// The connection was opened: its first byte has the number after `sequence`.
    pub fn open(&mut self, sequence: u32) {
        // A SYN that is sent again opens nothing anew.
        if self.next.is_none() {
            self.next = Some(sequence.wrapping_add(1));
            self.first = Some(sequence);
        }
    }

    /// The number with which it was opened.
    pub fn first(&self) -> Option<u32> {
        self.first
    }

    /// Takes a segment that begins at `sequence`, and looks for `markers` in what can be read now.
    pub fn segment(&mut self, sequence: u32, payload: &[u8], markers: &[Vec<u8>]) {
        if payload.is_empty() {
            return;
        }
        self.counts.segments += 1;
        let Some(next) = self.next else {
            self.counts.unread += 1;
            return;
        };
        // Distances are signed: half of the numbers are behind, half ahead.
        let distance = i64::from(sequence.wrapping_sub(next) as i32);
        let behind = usize::try_from(-distance).unwrap_or_default();
        if distance > 0 {
            self.keep(self.read + distance.unsigned_abs(), payload);
            return;
        }
        let Some(new) = payload.get(behind..).filter(|new| !new.is_empty()) else { return };
        self.take(new, markers);
        while let Some(first) = self.ahead.first_entry() {
            if *first.key() > self.read {
                break;
            }
            let (at, bytes) = first.remove_entry();
            self.ahead_bytes -= bytes.len();
            let behind = (self.read - at) as usize;
            if let Some(new) = bytes.get(behind..).filter(|new| !new.is_empty()) {
                self.take(new, markers);
            }
        }
    }

    fn keep(&mut self, at: u64, payload: &[u8]) {
        if self.ahead_bytes + payload.len() > MOST_AHEAD {
            self.counts.unread += 1;
            return;
        }
        let known = self.ahead.get(&at).map_or(0, Vec::len);
        if payload.len() > known {
            self.ahead_bytes += payload.len() - known;
            self.ahead.insert(at, payload.to_vec());
        }
    }

    /// Reads the next bytes of the stream.
    fn take(&mut self, bytes: &[u8], markers: &[Vec<u8>]) {
        let (ended, is_tls) = self.reader.read(bytes);
        self.counts.records += ended;
        self.counts.plaintext += i64::from(!is_tls);
        let before = self.tail.len();
        self.tail.extend_from_slice(bytes);
        for marker in markers {
            let found = self.tail.windows(marker.len()).enumerate().filter(|(_, window)| window == marker);
            // One that ended in what was read before was counted then.
            self.counts.marked += found.filter(|(at, _)| at + marker.len() > before).count() as i64;
        }
        let kept = markers.iter().map(Vec::len).max().unwrap_or(1).saturating_sub(1);
        self.tail.drain(..self.tail.len().saturating_sub(kept));
        self.read += bytes.len() as u64;
        self.next = self.next.map(|next| next.wrapping_add(bytes.len() as u32));
    }

    /// What was found. Segments behind a gap that is still open count as unread.
    pub fn counts(&self) -> StreamCounts {
        StreamCounts { unread: self.counts.unread + self.ahead.len() as i64, ..self.counts }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record of application data.
    fn record(length: usize) -> Vec<u8> {
        let mut bytes = vec![23, 3, 3];
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend(std::iter::repeat_n(0x5a, length));
        bytes
    }

    fn read(segments: &[(u32, &[u8])]) -> StreamCounts {
        let mut stream = Stream::default();
        stream.open(99);
        segments.iter().for_each(|(at, bytes)| stream.segment(100 + at, bytes, &[b"secret-word".to_vec()]));
        stream.counts()
    }

    #[test]
    fn records_are_read_wherever_they_are_cut() {
        let bytes = [record(3), record(700)].concat();
        for cut in 1..bytes.len() {
            let counts = read(&[(0, &bytes[..cut]), (cut as u32, &bytes[cut..])]);
            assert_eq!((counts.records, counts.plaintext, counts.unread), (2, 0, 0), "cut at {cut}");
        }
    }

    #[test]
    fn plaintext_is_told_from_its_first_byte_and_behind_records() {
        assert_eq!(read(&[(0, b"G")]).plaintext, 1);
        assert_eq!(read(&[(0, b"GET / HTTP/1.1\r\n\r\n")]).plaintext, 1);
        assert_eq!(read(&[(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]).plaintext, 1);
        let mixed = [record(20), b"GET /".to_vec()].concat();
        assert_eq!(read(&[(0, &mixed), (mixed.len() as u32, b"more")]).plaintext, 2, "it never is TLS again");
        assert_eq!(read(&[(0, &[23, 3, 3, 0, 0])]).plaintext, 1, "no record is empty");
        assert_eq!(read(&[(0, &[23, 3, 3, 0xff, 0xff])]).plaintext, 1, "or as long");
    }

    #[test]
    fn a_marker_is_found_once_wherever_it_is_cut_and_inside_what_looks_like_records() {
        let mut bytes = record(64);
        bytes[20..31].copy_from_slice(b"secret-word");
        assert_eq!(read(&[(0, &bytes)]).marked, 1);
        for cut in 1..bytes.len() {
            let counts = read(&[(0, &bytes[..cut]), (cut as u32, &bytes[cut..])]);
            assert_eq!(counts.marked, 1, "cut at {cut}");
        }
    }

    #[test]
    fn nothing_is_claimed_of_what_was_not_read() {
        let mut unseen = Stream::default();
        unseen.segment(5, b"GET /", &[]);
        assert_eq!((unseen.counts().plaintext, unseen.counts().unread), (0, 1), "its beginning is missing");
        let bytes = record(100);
        assert_eq!(read(&[(50, &bytes[50..])]).unread, 1, "the gap is open");
        assert_eq!(read(&[]).segments, 0);
    }

    #[test]
    fn sequence_numbers_wrap_around() {
        let bytes = record(300);
        let mut stream = Stream::default();
        stream.open(u32::MAX - 9);
        stream.segment(u32::MAX - 8, &bytes[..200], &[]);
        stream.segment((u32::MAX - 8).wrapping_add(200), &bytes[200..], &[]);
        assert_eq!(stream.counts().records, 1);
    }

    proptest! {
        #[test]
        fn order_and_repetition_change_nothing(
            lengths in proptest::collection::vec(1usize..300, 1..6),
            cuts in proptest::collection::vec((0usize..1500, 1usize..400), 0..20),
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| record(*length)).collect();
            let mut stream = Stream::default();
            stream.open(u32::MAX - 200);
            let base = u32::MAX - 199;
            let mut send = |at: usize, length: usize| {
                let end = bytes.len().min(at + length);
                if at < end {
                    stream.segment(base.wrapping_add(at as u32), &bytes[at..end], &[]);
                }
            };
            cuts.iter().for_each(|(at, length)| send(*at, *length));
            (0..bytes.len()).step_by(97).rev().for_each(|at| send(at, 97));
            let counts = stream.counts();
            prop_assert_eq!((counts.records, counts.plaintext, counts.unread), (lengths.len() as i64, 0, 0));
        }
    }
}
