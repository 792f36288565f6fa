//! A stream under TLS that keeps no buffers while nothing moves.
//!
//! rustls's own connections keep 4 KiB of what has arrived for as long as they live, and read no
//! more than that at once, which is four system calls for a whole record. Its unbuffered ones leave
//! the bytes to whoever drives them: here they stand in two buffers that the connections of a
//! thread share. A connection has one of its own only while a part of a record is in it: of one
//! that has not come whole, or has not left yet. A reader of bulk gets four records at once.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, CommonState, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of the largest record: RFC 8446 section 5.2, and the header.
const RECORD: usize = 16_384 + 256 + 5;

/// Bytes of plaintext in a record at most.
const FRAGMENT: usize = 16_384;

/// Bytes of handshake messages that do not fit into one record, at most: what rustls allows.
const HANDSHAKE: usize = 0xffff + RECORD;

/// Records that are encrypted at once, at most, or read for a reader of bulk.
const RECORDS: usize = 4;

/// What is encrypted at once, at most, bytes of plaintext.
const WRITE: usize = RECORDS * FRAGMENT;

/// By how much a record is longer than its plaintext at most: the header, the type, the tag.
const OVERHEAD: usize = 5 + 1 + 16;

/// The largest buffer that is shared. One that had to be larger was an exception.
const SHARED: usize = RECORDS * (FRAGMENT + OVERHEAD);

thread_local! {
    /// For what arrives, for whoever reads.
    static INCOMING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// For what leaves, for whoever writes.
    static OUTGOING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// Where pieces of plaintext are put together to one record.
    static GATHERED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer that the connections of a thread share.
type Spare = &'static std::thread::LocalKey<Cell<Vec<u8>>>;

/// A stream under TLS.
pub struct Session<I> {
    io: I,
    connection: Connection,
    /// What has arrived and was not taken in yet: what begins with a part of a record.
    incoming: Buffer,
    /// Plaintext that did not fit into a reader's buffer.
    plaintext: BytesMut,
    /// What is to be sent.
    outgoing: Buffer,
    /// The peer has said that nothing more comes.
    ended: bool,
    /// So have we.
    has_closed: bool,
    failed: Option<rustls::Error>,
}

/// Bytes, of which those before `start` are done with.
#[derive(Debug, Default)]
struct Buffer {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn filled(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    fn advance(&mut self, n: usize) {
        self.start += n;
    }

    /// Takes a thread's buffer, unless the own one is large enough, so that there is room for `room`
    /// bytes behind what is in it.
    fn reserve(&mut self, spare: Spare, room: usize) {
        let held = self.end - self.start;
        if self.buffer.len() < held + room {
            let mut larger = spare.take();
            if larger.len() < held + room {
                larger.resize(held + room, 0);
            }
            larger[..held].copy_from_slice(self.filled());
            (self.buffer, self.start, self.end) = (larger, 0, held);
        } else if self.buffer.len() < self.end + room {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, held);
        }
    }

    /// Gives the buffer back once nothing is in it.
    fn settle(&mut self, spare: Spare) {
        if self.is_empty() && !self.buffer.is_empty() {
            (self.start, self.end) = (0, 0);
            give_back(std::mem::take(&mut self.buffer), spare);
        }
    }

    /// Keeps what is in it in no more than it takes, since it may be long until more comes.
    fn shrink(&mut self, spare: Spare) {
        if self.buffer.len() > self.end - self.start {
            let held = self.filled().to_vec();
            (self.start, self.end) = (0, held.len());
            give_back(std::mem::replace(&mut self.buffer, held), spare);
        }
    }
}

/// Lets the connections of a thread share a buffer again.
fn give_back(buffer: Vec<u8>, spare: Spare) {
    if buffer.len() <= SHARED {
        spare.set(buffer);
    }
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What a connection has come to.
enum Progress {
    /// It goes on at once.
    More,
    /// Plaintext has arrived.
    Plaintext,
    /// The handshake needs more bytes.
    Handshake,
    /// It is done with what has arrived, and takes what is to be written.
    Open,
}

impl<I: fmt::Debug> fmt::Debug for Session<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("io", &self.io).finish_non_exhaustive()
    }
}

impl<I> Session<I> {
    /// What was agreed on in the handshake.
    pub fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Client(connection) => connection,
            Connection::Server(connection) => connection,
        }
    }

    /// The stream under it.
    pub fn get_ref(&self) -> &I {
        &self.io
    }

    /// The stream under it: neither to read from nor to write to.
    pub fn get_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// Whether a reader need not wait for the stream under it.
    pub fn has_plaintext(&self) -> bool {
        !self.plaintext.is_empty()
    }

    fn new(io: I, connection: Connection) -> Self {
        let (incoming, plaintext, outgoing) = (Buffer::default(), BytesMut::new(), Buffer::default());
        Session {
            io,
            connection,
            incoming,
            plaintext,
            outgoing,
            ended: false,
            has_closed: false,
            failed: None,
        }
    }

    /// Lets the connection go on. `take` gets plaintext; `write` what is to be written, if it may
    /// be.
    fn step(
        &mut self,
        take: &mut dyn FnMut(&[u8]),
        write: Option<Write<'_>>,
    ) -> Result<Progress, rustls::Error> {
        let (incoming, outgoing) = (&mut self.incoming, &mut self.outgoing);
        let (discard, progress) = match &mut self.connection {
            Connection::Client(connection) => {
                handle(connection.process_tls_records(incoming.filled()), outgoing, take, write)
            }
            Connection::Server(connection) => {
                handle(connection.process_tls_records(incoming.filled()), outgoing, take, write)
            }
        };
        self.incoming.advance(discard);
        self.incoming.settle(&INCOMING);
        progress.map(|(progress, ended)| {
            self.ended |= ended;
            progress
        })
    }

    /// The error of everything from now on. An alert is left to be sent.
    fn fail(&mut self, error: rustls::Error) -> io::Error {
        // The alert. What has arrived is not looked at again.
        while self.state().wants_write() && self.step(&mut |_| {}, None).is_ok() {}
        self.failed = Some(error.clone());
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    fn has_failed(&self) -> io::Result<()> {
        match &self.failed {
            Some(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error.clone())),
            None => Ok(()),
        }
    }
}

/// What is done with a connection that can write.
enum Write<'a> {
    /// Encrypts a fragment.
    Plaintext(&'a [u8]),
    /// Says that nothing more comes.
    Close,
}

/// Does what a connection asks for; says how much of what has arrived is done with, and whether the
/// peer has closed.
fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Buffer,
    take: &mut dyn FnMut(&[u8]),
    write: Option<Write<'_>>,
) -> (usize, Result<(Progress, bool), rustls::Error>) {
    let UnbufferedStatus { mut discard, state, .. } = status;
    let progress = (|| {
        let progress = match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    take(record.payload);
                }
                Progress::Plaintext
            }
            ConnectionState::EncodeTlsData(mut data) => {
                put(outgoing, RECORD, |room| match data.encode(room) {
                    Err(EncodeError::InsufficientSize(size)) => Err(Some(size)),
                    Err(EncodeError::AlreadyEncoded) => Err(None),
                    Ok(n) => Ok(n),
                })?;
                Progress::More
            }
            // It is flushed, and nobody waits for that here.
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Progress::More
            }
            ConnectionState::BlockedHandshake => Progress::Handshake,
            ConnectionState::WriteTraffic(traffic) => {
                if let Some(write) = write {
                    write.to(traffic, outgoing)?;
                }
                Progress::Open
            }
            ConnectionState::PeerClosed => return Ok((Progress::More, true)),
            ConnectionState::Closed => return Ok((Progress::Open, true)),
            state => return Err(rustls::Error::General(format!("not expected: {state:?}"))),
        };
        Ok((progress, false))
    })();
    (discard, progress)
}

impl Write<'_> {
    fn to<Data>(
        self,
        mut traffic: WriteTraffic<'_, Data>,
        outgoing: &mut Buffer,
    ) -> Result<(), rustls::Error> {
        let of = |written| match written {
            Err(EncryptError::InsufficientSize(size)) => Err(Some(size)),
            Err(EncryptError::EncryptExhausted) => Err(None),
            Ok(n) => Ok(n),
        };
        match self {
            Write::Plaintext(plaintext) => {
                put(outgoing, plaintext.len() + OVERHEAD, |room| of(traffic.encrypt(plaintext, room)))
            }
            Write::Close => put(outgoing, 2 + OVERHEAD, |room| of(traffic.queue_close_notify(room))),
        }
    }
}

/// Lets `encode` write behind what is in `outgoing`, into `room` bytes, or as many as it says.
fn put(
    outgoing: &mut Buffer,
    mut room: usize,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), rustls::Error> {
    loop {
        outgoing.reserve(&OUTGOING, room);
        match encode(&mut outgoing.buffer[outgoing.end..]) {
            Ok(n) => {
                outgoing.end += n;
                return Ok(());
            }
            Err(Some(InsufficientSizeError { required_size })) if required_size > room => {
                room = required_size
            }
            Err(_) => return Err(rustls::Error::EncryptError),
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Session<I> {
    /// Has the server at the other end of `io` prove that it is `name`.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn connect(io: I, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        Session::new(io, Connection::Client(connection)).shake_hands().await
    }

    /// Answers the handshake of the client at the other end of `io`.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn accept(io: I, config: Arc<ServerConfig>) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        Session::new(io, Connection::Server(connection)).shake_hands().await
    }

    async fn shake_hands(mut self) -> io::Result<Self> {
        loop {
            match self.step_and_keep(None) {
                Ok(Progress::More | Progress::Plaintext) => {}
                // A server may write before the client has proved who it is.
                Ok(Progress::Open) if !self.state().is_handshaking() => {
                    poll_fn(|cx| self.poll_send(cx)).await?;
                    return Ok(self);
                }
                Ok(Progress::Open | Progress::Handshake) => {
                    // At once: the peer may not read before it has written.
                    let received = poll_fn(|cx| match self.poll_send(cx) {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        _ => self.poll_receive(cx, 0),
                    });
                    if !received.await? {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof"));
                    }
                }
                Err(error) => {
                    let error = self.fail(error);
                    let _ = poll_fn(|cx| self.poll_send(cx)).await;
                    return Err(error);
                }
            }
        }
    }

    /// Lets the connection go on, and keeps plaintext for the next reader: no more than has
    /// arrived, since nothing is read.
    fn step_and_keep(&mut self, write: Option<Write<'_>>) -> Result<Progress, rustls::Error> {
        let mut kept = std::mem::take(&mut self.plaintext);
        let progress = self.step(&mut |plaintext| kept.extend_from_slice(plaintext), write);
        self.plaintext = kept;
        progress
    }

    /// Writes all that is to be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, self.outgoing.filled()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.outgoing.advance(sent),
            }
        }
        self.outgoing.settle(&OUTGOING);
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Reads what has arrived: for whoever has room for so many bytes of plaintext, as many records
    /// as fit, within limits. `false`: it was the end.
    fn poll_receive(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<bool>> {
        let incoming = &mut self.incoming;
        // What is there is no whole record, or no whole message of a handshake.
        let held = incoming.end - incoming.start;
        if held >= HANDSHAKE {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "message buffer full")));
        }
        let records = (wanted / FRAGMENT).clamp(1, RECORDS);
        let enough = RECORD.max(records * (FRAGMENT + OVERHEAD));
        incoming.reserve(&INCOMING, if held < enough { enough - held } else { RECORD });
        let mut room = ReadBuf::new(&mut incoming.buffer[incoming.end..]);
        let read = Pin::new(&mut self.io).poll_read(cx, &mut room);
        let received = room.filled().len();
        incoming.end += received;
        incoming.settle(&INCOMING);
        if read.is_pending() {
            incoming.shrink(&INCOMING);
        }
        ready!(read)?;
        Poll::Ready(Ok(received > 0))
    }

    /// Gives what was kept to a reader.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        if !self.plaintext.is_empty() {
            let n = buf.remaining().min(self.plaintext.len());
            buf.put_slice(&self.plaintext[..n]);
            self.plaintext.advance(n);
            if self.plaintext.is_empty() {
                self.plaintext = BytesMut::new();
            }
        }
    }

    /// Takes in what has arrived. What does not fit into `buf` is kept.
    fn take_in(&mut self, buf: &mut ReadBuf<'_>) -> Result<(), rustls::Error> {
        let mut kept = BytesMut::new();
        let mut take = |plaintext: &[u8]| {
            let n = plaintext.len().min(buf.remaining());
            buf.put_slice(&plaintext[..n]);
            kept.extend_from_slice(&plaintext[n..]);
        };
        let taken = loop {
            match self.step(&mut take, None) {
                Ok(Progress::More) => {}
                Ok(Progress::Plaintext) if !self.incoming.is_empty() => {}
                progress => break progress.map(|_| ()),
            }
        };
        self.plaintext = kept;
        taken
    }

    /// Encrypts as much of `slices` as is encrypted at once.
    fn encrypt(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut fragments = Fragments { slices, offset: 0 };
        let mut written = 0;
        let mut gathered = GATHERED.take();
        while written < WRITE {
            let fragment = fragments.next(&mut gathered);
            if fragment.is_empty() {
                break;
            }
            self.let_write(|| Write::Plaintext(fragment))?;
            written += fragment.len();
        }
        GATHERED.set(gathered);
        Ok(written)
    }

    /// Has the connection write. What has arrived, it may take in before.
    fn let_write<'a>(&mut self, write: impl Fn() -> Write<'a>) -> io::Result<()> {
        self.has_failed()?;
        loop {
            match self.step_and_keep(Some(write())) {
                Ok(Progress::Open) => return Ok(()),
                Ok(Progress::More | Progress::Plaintext) => {}
                Ok(Progress::Handshake) => return Err(io::ErrorKind::NotConnected.into()),
                Err(error) => return Err(self.fail(error)),
            }
        }
    }
}

/// What is to be written, in pieces of which each fills a record if there is enough.
struct Fragments<'a, 's> {
    slices: &'a [IoSlice<'s>],
    /// How much of the first is done.
    offset: usize,
}

impl<'a> Fragments<'a, '_> {
    /// The next one; empty at the end. It is put together in `gathered` if it is in more than one
    /// slice.
    fn next<'g>(&mut self, gathered: &'g mut Vec<u8>) -> &'g [u8]
    where
        'a: 'g,
    {
        while let [first, rest @ ..] = self.slices
            && self.offset == first.len()
        {
            (self.slices, self.offset) = (rest, 0);
        }
        let [first, rest @ ..] = self.slices else { return &[] };
        let first = &first[self.offset..];
        if first.len() >= FRAGMENT || rest.iter().all(|slice| slice.is_empty()) {
            let fragment = &first[..first.len().min(FRAGMENT)];
            self.offset += fragment.len();
            return fragment;
        }
        gathered.clear();
        while let [first, rest @ ..] = self.slices
            && gathered.len() < FRAGMENT
        {
            let left = &first[self.offset..];
            let taken = left.len().min(FRAGMENT - gathered.len());
            gathered.extend_from_slice(&left[..taken]);
            match taken == left.len() {
                true => (self.slices, self.offset) = (rest, 0),
                false => self.offset += taken,
            }
        }
        gathered
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Session<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            this.give(buf);
            if buf.filled().len() > before || buf.remaining() == 0 || this.ended {
                return Poll::Ready(Ok(()));
            }
            this.has_failed()?;
            match this.take_in(buf) {
                Ok(()) if buf.filled().len() > before || this.ended => {}
                // What there is, if anything, is a part of a record.
                Ok(()) => {
                    if !this.outgoing.is_empty() {
                        // An answer to the peer's change of keys. Whoever writes next goes on.
                        let _ = this.poll_send(cx);
                    }
                    if !ready!(this.poll_receive(cx, buf.remaining()))? {
                        let cut = "peer closed connection without sending TLS close_notify";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut)));
                    }
                }
                Err(error) => {
                    let error = this.fail(error);
                    let _ = this.poll_send(cx);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Session<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.has_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // What was taken before goes first, and is not joined by more until then.
        if !self.outgoing.is_empty() {
            ready!(self.poll_send(cx))?;
        }
        let written = self.encrypt(slices)?;
        // If it does not all leave now, flushing waits for the rest.
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(written)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_closed {
            self.has_closed = true;
            self.let_write(|| Write::Close)?;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
