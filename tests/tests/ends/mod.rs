//! How connections end, as a table: the one of `docs/sidecar.md`. Each row says what each side
//! does, and what it hears of the other. It is played over loopback without any rules
//! (`proxy/tests/traffic/ends.rs`), in the simulator and on the kernel.

#![allow(dead_code, unused_imports, reason = "each test uses its part")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proxy::world::Transport as Resets;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Barrier, oneshot};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}
pub use End::{Fin, Reset};

/// What one side does.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Say(&'static str),
    /// Sends so many bytes.
    Bulk(usize),
    /// Reads so many bytes.
    Swallow(usize),
    /// Reads up to and including this.
    Hear(&'static str),
    /// Waits until the other side is as far.
    Meet,
    /// Ends its half.
    Finish,
    /// Reads to the end, and notes it.
    Rest,
    /// Writes until that fails, and notes it as a reset.
    Push,
    Transport,
}
pub use Step::*;

/// What one side heard since it last looked for something, and how the stream then ended; or what
/// it did not expect.
pub type Heard = Result<Option<(String, End)>, String>;

/// Reads to the end, and says which it was.
pub async fn hear(io: &mut (impl AsyncRead + Unpin)) -> (String, End) {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    let end = loop {
        match io.read(&mut piece).await {
            Ok(0) => break Fin,
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(_) => break Reset,
        }
    };
    (String::from_utf8_lossy(&bytes).into_owned(), end)
}

async fn part<I>(mut io: I, steps: Vec<Step>, meeting: Arc<Barrier>) -> Heard
where
    I: AsyncRead + AsyncWrite + Resets + Unpin,
{
    let mut heard = None;
    for step in steps {
        let failed = |e: std::io::Error| format!("{step:?}: {e}");
        match step {
            Say(text) => io.write_all(text.as_bytes()).await.map_err(failed)?,
            Bulk(n) => io.write_all(&vec![b'b'; n]).await.map_err(failed)?,
            Swallow(n) => drop(io.read_exact(&mut vec![0; n]).await.map_err(failed)?),
            Hear(text) => {
                let mut bytes = Vec::new();
                while !bytes.ends_with(text.as_bytes()) {
                    bytes.push(io.read_u8().await.map_err(failed)?);
                }
            }
            Meet => {
                meeting.wait().await;
            }
            Finish => io.shutdown().await.map_err(failed)?,
            Rest => heard = Some(hear(&mut io).await),
            Push => {
                while io.write_all(b"more").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                heard = Some((String::new(), Reset));
            }
            Transport => io.abort(),
        }
    }
    Ok(heard)
}

/// For one row; no test waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server does on its next connection, and who is told what it heard.
type Script = (Vec<Step>, Arc<Barrier>, oneshot::Sender<Heard>);

/// What a server and its client tell each other beside the connection. Cheap to clone.
#[derive(Clone, Default)]
pub struct Stage(Arc<Mutex<Option<Script>>>);

impl Stage {
    /// Does the server's part on a connection, if it has one.
    pub async fn serve<I>(&self, io: I)
    where
        I: AsyncRead + AsyncWrite + Resets + Unpin,
    {
        let script = self.0.lock().unwrap().take();
        let Some((steps, meeting, told)) = script else { return };
        let heard = tokio::time::timeout(PATIENCE, part(io, steps, meeting)).await;
        // Nobody waits for it if the client's part has failed.
        let _ = told.send(heard.unwrap_or_else(|_| Err("the server waits for ever".into())));
    }

    /// Client and server each do their part, over a connection that the client opens.
    pub async fn play<I, F>(&self, connect: F, client: &[Step], server: &[Step]) -> [Heard; 2]
    where
        I: AsyncRead + AsyncWrite + Resets + Unpin,
        F: Future<Output = std::io::Result<I>>,
    {
        let meeting = Arc::new(Barrier::new(2));
        let (told, heard) = oneshot::channel();
        *self.0.lock().unwrap() = Some((server.to_vec(), meeting.clone(), told));
        let client =
            async { part(connect.await.map_err(|e| e.to_string())?, client.to_vec(), meeting).await };
        let client = tokio::time::timeout(PATIENCE, client).await;
        let client = client.unwrap_or_else(|_| Err("the client waits for ever".into()));
        let server = tokio::time::timeout(2 * PATIENCE, heard).await;
        [client, server.map_or_else(|_| Err("no server".into()), |heard| heard.expect("the server's part"))]
    }
}

/// A part of each side, and what one heard and the other.
pub type Row = (&'static str, &'static [Step], &'static [Step], [Option<(&'static str, End)>; 2]);

/// What holds for opaque bytes, whichever side begins: one side, the other, and what they hear.
pub const OPAQUE: &[Row] = &[
    ("FIN before a byte", &[Finish, Rest], &[Rest], [Some(("", Fin)), Some(("", Fin))]),
    ("RST before a byte", &[Meet, Transport], &[Meet, Rest], [None, Some(("", Reset))]),
    ("close after a part", &[Say("half"), Meet], &[Hear("half"), Meet, Rest], [None, Some(("", Fin))]),
    (
        "RST after a part",
        &[Say("half"), Meet, Transport],
        &[Hear("half"), Meet, Rest],
        [None, Some(("", Reset))],
    ),
    (
        "half-close, and the answer comes later",
        &[Say("question"), Finish, Rest],
        &[Rest, Say("answer")],
        [Some(("answer", Fin)), Some(("question", Fin))],
    ),
    (
        "half-close, and the answer is reset",
        &[Say("question"), Finish, Hear("part"), Meet, Rest],
        &[Rest, Say("part"), Meet, Transport],
        [Some(("", Reset)), Some(("question", Fin))],
    ),
    ("RST after half-close", &[Finish, Meet, Transport], &[Rest, Meet, Push], [None, Some(("", Reset))]),
];

/// Whether each side heard what it should.
pub fn same(heard: &[Heard; 2], expected: [Option<(&str, End)>; 2]) -> bool {
    heard.iter().zip(expected).all(|(heard, expected)| match (heard, expected) {
        (Ok(_), None) => true,
        (Ok(Some((text, end))), Some((part, as_expected))) => *end == as_expected && text.contains(part),
        _ => false,
    })
}

/// All rows of opaque bytes behind a beginning of each side, by the client and by the server: what
/// went wrong.
pub async fn opaque_rows<I, F>(
    stage: &Stage,
    connect: impl Fn() -> F,
    client: &[Step],
    server: &[Step],
) -> Vec<String>
where
    I: AsyncRead + AsyncWrite + Resets + Unpin,
    F: Future<Output = std::io::Result<I>>,
{
    let mut wrong = Vec::new();
    for (name, one, other, [first, second]) in OPAQUE {
        for by_server in [false, true] {
            let (mine, yours) = if by_server { (other, one) } else { (one, other) };
            let expected = if by_server { [*second, *first] } else { [*first, *second] };
            let (mine, yours) = ([client, mine].concat(), [server, yours].concat());
            let heard = stage.play(connect(), &mine, &yours).await;
            if !same(&heard, expected) {
                let by = if by_server { "server" } else { "client" };
                wrong.push(format!("{name}, by the {by}: {heard:?}"));
            }
        }
    }
    wrong
}

/// All rows of HTTP, directly or through sidecars: what went wrong.
pub async fn http_rows<I, F>(stage: &Stage, connect: impl Fn() -> F, direct: bool) -> Vec<String>
where
    I: AsyncRead + AsyncWrite + Resets + Unpin,
    F: Future<Output = std::io::Result<I>>,
{
    let mut wrong = Vec::new();
    for ask in REQUESTS {
        for (name, client, server, directly, through) in HTTP {
            let client = [&[Say(ask)], *client].concat();
            let heard = stage.play(connect(), &client, server).await;
            let expected = if direct { *directly } else { through.unwrap_or(*directly) };
            if !same(&heard, expected) {
                wrong.push(format!("{ask:?}, {name}: {heard:?}"));
            }
        }
    }
    wrong
}

/// All rows of tunnels: what went wrong.
pub async fn tunnel_rows<I, F>(stage: &Stage, connect: impl Fn() -> F) -> Vec<String>
where
    I: AsyncRead + AsyncWrite + Resets + Unpin,
    F: Future<Output = std::io::Result<I>>,
{
    let mut wrong = Vec::new();
    for (ask, agree) in [(UPGRADE, SWITCHING), (CONNECT, CONNECTED)] {
        let (client, server) = ([Say(ask), HEAD], [HEAD, Say(agree)]);
        let of_this = opaque_rows(stage, &connect, &client, &server).await;
        wrong.extend(of_this.into_iter().map(|row| format!("{ask:?}, {row}")));
    }
    wrong
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const CONNECT: &str = "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n";
const CONNECTED: &str = "HTTP/1.1 200 OK\r\n\r\n";

/// Requests of both versions of HTTP/1, whose connections end with the answer.
pub const REQUESTS: [&str; 2] =
    ["GET / HTTP/1.0\r\nhost: a\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"];

/// Reads a head.
pub const HEAD: Step = Hear("\r\n\r\n");
pub const LENGTH: Step = Say("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf");
pub const WHOLE: Step = Say("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalfhalf");
/// Its end is that of the connection.
pub const OPEN: Step = Say("HTTP/1.0 200 OK\r\n\r\nhalf");

/// A client's part after its request and the server's after that; what they hear directly, and
/// through sidecars if that is something else.
pub type HttpRow = (
    &'static str,
    &'static [Step],
    &'static [Step],
    [Option<(&'static str, End)>; 2],
    Option<[Option<(&'static str, End)>; 2]>,
);

pub const HTTP: &[HttpRow] = &[
    (
        "half-close, and the answer comes later",
        &[Finish, Rest],
        &[HEAD, Rest, WHOLE],
        [Some(("halfhalf", Fin)), Some(("", Fin))],
        None,
    ),
    (
        "half-close in an answer",
        &[Hear("half"), Finish, Rest],
        &[HEAD, LENGTH, Rest, Say("half")],
        [Some(("half", Fin)), Some(("", Fin))],
        None,
    ),
    (
        "half-close, which the server takes for leaving",
        &[Finish, Rest],
        &[HEAD, Rest],
        [Some(("", Fin)), Some(("", Fin))],
        None,
    ),
    (
        "close before the answer",
        &[Meet],
        &[HEAD, Meet, Rest],
        [None, Some(("", Fin))],
        Some([None, Some(("", Reset))]),
    ),
    (
        "half-close, and later the close",
        &[Finish, Meet],
        &[HEAD, Rest, Meet, Push],
        [None, Some(("", Reset))],
        None,
    ),
    ("RST before the answer", &[Meet, Transport], &[HEAD, Meet, Rest], [None, Some(("", Reset))], None),
    (
        "close behind a surplus CRLF",
        &[Say("\r\n"), Meet],
        &[HEAD, Meet, Rest],
        [None, Some(("", Fin))],
        Some([None, Some(("", Reset))]),
    ),
    (
        "RST behind another request",
        &[Say("GET / HTTP/1.1\r\nhost: a\r\n\r\n"), Meet, Transport],
        &[HEAD, Meet, Rest],
        [None, Some(("", Reset))],
        None,
    ),
    ("RST in the answer", &[Hear("half"), Transport], &[HEAD, LENGTH, Rest], [None, Some(("", Reset))], None),
    ("FIN without an answer", &[Rest], &[HEAD], [Some(("", Fin)), None], Some([Some((" 502 ", Fin)), None])),
    (
        "RST without an answer",
        &[Rest],
        &[HEAD, Transport],
        [Some(("", Reset)), None],
        Some([Some((" 502 ", Fin)), None]),
    ),
    (
        "FIN in an answer of known length",
        &[Hear("half"), Meet, Rest],
        &[HEAD, LENGTH, Meet],
        [Some(("", Fin)), None],
        Some([Some(("", Reset)), None]),
    ),
    (
        "RST in an answer of known length",
        &[Hear("half"), Meet, Rest],
        &[HEAD, LENGTH, Meet, Transport],
        [Some(("", Reset)), None],
        None,
    ),
    (
        "FIN at the end of an answer of unknown length",
        &[Hear("half"), Meet, Rest],
        &[HEAD, OPEN, Meet],
        [Some(("", Fin)), None],
        None,
    ),
    (
        "RST in an answer of unknown length",
        &[Hear("half"), Meet, Rest],
        &[HEAD, OPEN, Meet, Transport],
        [Some(("", Reset)), None],
        None,
    ),
];
