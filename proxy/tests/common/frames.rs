//! A server of HTTP/2 that is written frame by frame, for what no library says: a GOAWAY that
//! leaves calls out, a reset in the middle of an answer. It reads no header: it answers the streams
//! in the order in which their requests end.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use proxy::world::{KernelNet, Listener, Net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// Of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame as it came, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

/// What the server has got so far, all connections together, and how many these are.
#[derive(Clone, Default)]
pub struct Record {
    pub frames: Rc<RefCell<Vec<Seen>>>,
    pub connections: Rc<Cell<usize>>,
}

impl Record {
    /// Frames of a kind, acknowledgements left out.
    pub fn count(&self, kind: u8) -> usize {
        let frames = self.frames.borrow();
        frames.iter().filter(|f| f.kind == kind && !(kind == PING && f.flags == ACK)).count()
    }
}

/// One request that has come to its end.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Its stream.
    pub stream: u32,
    /// Which request of the server it is, and of its connection; counted from 1.
    pub nth: usize,
    pub of_connection: usize,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A head that is 200 and nothing else.
pub fn head(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &[0x88])
}

/// The same, without a body.
pub fn answer(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])
}

/// A part of a body; the last one with [`END_STREAM`].
pub fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, bytes)
}

/// A reset of a stream.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// That no stream after `last` was looked at, nor will be.
pub fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// That so many streams may be open.
pub fn max_concurrent_streams(most: u32) -> Vec<u8> {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let setting = [&MAX_CONCURRENT_STREAMS.to_be_bytes()[..], &most.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &setting)
}

/// Starts a server that says `script`'s bytes once a request has ended. Where these are none, it
/// closes the connection.
pub async fn app(script: impl Fn(Turn) -> Vec<u8> + Clone + 'static) -> (SocketAddr, Record) {
    let mut listener = KernelNet::default().bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let at = listener.local_addr().unwrap();
    let record = Record::default();
    let (kept, all) = (record.clone(), Rc::new(Cell::new(0)));
    super::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            kept.connections.set(kept.connections.get() + 1);
            let (script, record, all) = (script.clone(), kept.clone(), all.clone());
            super::spawn(async move {
                // It ends when the peer does.
                let _ = connection(io, script, record, all).await;
            });
        }
    });
    (at, record)
}

async fn connection<I: AsyncReadExt + AsyncWriteExt + Unpin>(
    mut io: I,
    script: impl Fn(Turn) -> Vec<u8>,
    record: Record,
    all: Rc<Cell<usize>>,
) -> std::io::Result<()> {
    io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    io.read_exact(&mut [0; 24]).await?;
    let mut of_connection = 0;
    loop {
        let mut header = [0; 9];
        io.read_exact(&mut header).await?;
        let [l, e, n, kind, flags, a, b, c, d] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, l, e, n]) as usize];
        io.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([a, b, c, d]);
        record.frames.borrow_mut().push(Seen { kind, flags, stream });
        match kind {
            SETTINGS | PING if flags & ACK == 0 => {
                let echoed = if kind == PING { &payload[..] } else { &[] };
                io.write_all(&frame(kind, ACK, 0, echoed)).await?;
            }
            HEADERS | DATA if flags & END_STREAM != 0 => {
                of_connection += 1;
                all.set(all.get() + 1);
                let said = script(Turn { stream, nth: all.get(), of_connection });
                if said.is_empty() {
                    return Ok(());
                }
                io.write_all(&said).await?;
            }
            _ => {}
        }
    }
}
